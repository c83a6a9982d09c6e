//! Access to a packet's bytes.

use super::MAX_OFFSET;

/// Reads a packet. All multi-byte reads but [`Reader::word`] are big-endian, as on the wire; nothing needs to be
/// aligned. A read that is not wholly inside the packet, or begins behind [`MAX_OFFSET`], gives `None`: the latter
/// so that every reader says the same of the same packet.
pub trait Reader {
    fn u8(&self, offset: u32) -> Option<u8>;
    fn u16(&self, offset: u32) -> Option<u16>;
    fn u32(&self, offset: u32) -> Option<u32>;
    /// Eight bytes as they lie, the first one lowest, on any machine: for hashing and copying.
    fn word(&self, offset: u32) -> Option<u64>;
    /// The two words at `offset`. What a header says is read in as few reads as can be: each costs a check, and the
    /// verifier goes on from each in two ways.
    fn words(&self, offset: u32) -> Option<[u64; 2]>;
    /// Bytes of the packet; may be more than can be read (a capture cut at its snap length).
    fn length(&self) -> u32;

    /// Called between the steps of a walk. The eBPF reader makes the compiler put its state into memory here.
    #[inline(always)]
    fn step(&self) {}

    /// The value, read from memory where the eBPF reader says so: to the verifier it then is any number.
    #[inline(always)]
    fn again(&self, value: &u32) -> u32 {
        *value
    }
}

/// A packet in memory.
#[derive(Clone, Copy, Debug)]
pub struct SliceReader<'a> {
    bytes: &'a [u8],
    length: u32,
}

impl<'a> SliceReader<'a> {
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, length: bytes.len() as u32 }
    }

    /// A packet of `length` bytes of which only the first ones are there.
    #[must_use]
    pub const fn with_length(bytes: &'a [u8], length: u32) -> Self {
        Self { bytes, length }
    }

    fn array<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        let start = offset as usize;
        self.bytes.get(start..start.checked_add(N)?)?.try_into().ok()
    }
}

impl Reader for SliceReader<'_> {
    fn u8(&self, offset: u32) -> Option<u8> {
        self.array(offset).map(u8::from_be_bytes)
    }

    fn u16(&self, offset: u32) -> Option<u16> {
        self.array(offset).map(u16::from_be_bytes)
    }

    fn u32(&self, offset: u32) -> Option<u32> {
        self.array(offset).map(u32::from_be_bytes)
    }

    fn word(&self, offset: u32) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }

    fn words(&self, offset: u32) -> Option<[u64; 2]> {
        let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let bytes = self.array::<16>(offset)?;
        let (low, high) = bytes.split_first_chunk()?;
        Some([word(low), word(high.first_chunk()?)])
    }

    fn length(&self) -> u32 {
        self.length
    }
}
