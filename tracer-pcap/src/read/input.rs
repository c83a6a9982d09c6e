//! Bytes, and where in the file they are.

use std::io::{self, Read};

use super::ReadError;

/// In which order numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

impl Order {
    pub(super) fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    pub(super) fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    /// The number at `at`; `None` if `bytes` end before its end.
    pub(super) fn u16_at(self, bytes: &[u8], at: usize) -> Option<u16> {
        Some(self.u16(bytes.get(at..)?.first_chunk().copied()?))
    }

    pub(super) fn u32_at(self, bytes: &[u8], at: usize) -> Option<u32> {
        Some(self.u32(bytes.get(at..)?.first_chunk().copied()?))
    }

    pub(super) fn u64_at(self, bytes: &[u8], at: usize) -> Option<u64> {
        let chunk = bytes.get(at..)?.first_chunk().copied()?;
        Some(match self {
            Self::Little => u64::from_le_bytes(chunk),
            Self::Big => u64::from_be_bytes(chunk),
        })
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Input<R> {
    reader: R,
    at: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Fills `buffer`, which is part of `inside`.
    pub(super) fn fill(&mut self, buffer: &mut [u8], inside: &'static str) -> Result<(), ReadError> {
        let got = self.fill_some(buffer)?;
        if got == buffer.len() { Ok(()) } else { Err(ReadError::Truncated { inside, at: self.at }) }
    }

    /// As [`Input::fill`], where the file may end instead: false then.
    pub(super) fn fill_or_end(&mut self, buffer: &mut [u8], inside: &'static str) -> Result<bool, ReadError> {
        match self.fill_some(buffer)? {
            0 => Ok(false),
            got if got == buffer.len() => Ok(true),
            _ => Err(ReadError::Truncated { inside, at: self.at }),
        }
    }

    /// Takes `length` bytes into `buffer`, whose memory grows with what really comes.
    pub(super) fn take(
        &mut self,
        buffer: &mut Vec<u8>,
        length: u32,
        inside: &'static str,
    ) -> Result<(), ReadError> {
        buffer.clear();
        let got = self.reader.by_ref().take(length.into()).read_to_end(buffer).map_err(ReadError::Io)?;
        self.at += got as u64;
        if got == length as usize { Ok(()) } else { Err(ReadError::Truncated { inside, at: self.at }) }
    }

    /// Passes over `length` bytes.
    pub(super) fn skip(&mut self, length: u32, inside: &'static str) -> Result<(), ReadError> {
        let mut rest = self.reader.by_ref().take(length.into());
        let got = io::copy(&mut rest, &mut io::sink()).map_err(ReadError::Io)?;
        self.at += got;
        if got == u64::from(length) { Ok(()) } else { Err(ReadError::Truncated { inside, at: self.at }) }
    }

    fn fill_some(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let mut got = 0;
        while got < buffer.len() {
            match self.reader.read(&mut buffer[got..]) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Io(error)),
            }
        }
        self.at += got as u64;
        Ok(got)
    }
}
