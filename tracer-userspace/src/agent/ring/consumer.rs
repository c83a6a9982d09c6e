//! The reader's end of a BPF ring buffer (kernel/bpf/ringbuf.c). aya's own tells the kernel after each sample how far it
//! has read; the kernel looks there before each record, so that the line of memory goes to and fro between two processors
//! for every one. This one tells it when a good deal has been read.

use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::maps::{Map, MapData, MapError};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::param::page_size;

/// In front of each sample: its length with two flags, and where its page is.
const HEADER: usize = 8;
/// The sample is being written.
const BUSY: u32 = 1 << 31;
/// The program thought better of it.
const DISCARDED: u32 = 1 << 30;

/// The kernel gets the room of what was read back in portions of so many bytes, or an eighth of the ring.
const PORTION: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error("the map of records is no ring buffer (a defect of the build)")]
    NoRing,
    #[error("cannot tell the ring buffer's size: {0}")]
    Size(#[source] MapError),
    #[error("cannot map the ring buffer: {0}")]
    Map(#[source] rustix::io::Errno),
}

/// The only reader of a ring buffer.
#[derive(Debug)]
pub struct Consumer {
    /// Samples up to here are read.
    position: u64,
    /// Up to here the kernel knows it.
    told: u64,
    portion: u64,
    /// Bytes of samples, a power of two. (They could be mapped twice, one behind the other, and a sample that goes over the
    /// end would lie in one piece: but the process would seem to have twice the memory.)
    size: usize,
    /// A sample that goes over the end.
    whole: Vec<u8>,
    consumer: Mapping,
    producer: Mapping,
    map: MapData,
}

/// Memory that is shared with the kernel.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to no thread, and is only reached through atomics and by the one who holds the mapping.
unsafe impl Send for Mapping {}

impl Consumer {
    /// # Errors
    /// [`RingError`]: it is another map, or its memory cannot be had.
    pub fn new(map: Map) -> Result<Self, RingError> {
        let Map::RingBuf(map) = map else { return Err(RingError::NoRing) };
        let size = map.info().map_err(RingError::Size)?.max_entries() as usize;
        let page = page_size();
        let consumer = Mapping::new(map.fd().as_fd(), 0, page, ProtFlags::READ | ProtFlags::WRITE)?;
        // A page with the producer's position, then the samples.
        let producer = Mapping::new(map.fd().as_fd(), page, page + size, ProtFlags::READ)?;
        let position = consumer.position().load(Ordering::Acquire);
        let portion = PORTION.min(size as u64 / 8);
        Ok(Self { position, told: position, portion, size, whole: Vec::new(), consumer, producer, map })
    }

    /// The next sample, by copy; `None` if there is none, or if it is still being written. Copied because a sample may only
    /// be looked at until the kernel has its room back.
    pub fn next<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        loop {
            // The kernel has written the header of all samples before this position.
            if self.position == self.producer.position().load(Ordering::Acquire) {
                return None;
            }
            let offset = self.position as usize & (self.size - 1);
            // The kernel clears the flag when the sample is whole. A header has eight bytes at a multiple of eight.
            let header = self.producer.word(page_size() + offset)?.load(Ordering::Acquire);
            if header & BUSY != 0 {
                return None;
            }
            let length = (header & !(BUSY | DISCARDED)) as usize;
            if header & DISCARDED == 0 {
                let value = read(self.sample(offset + HEADER, length)?);
                self.pass(length);
                return Some(value);
            }
            self.pass(length);
        }
    }

    /// A sample that is whole; `None` if the kernel told of one that cannot be.
    fn sample(&mut self, begin: usize, length: usize) -> Option<&[u8]> {
        let begin = begin & (self.size - 1);
        let page = page_size();
        let here = length.min(self.size - begin);
        let first = self.producer.bytes(page + begin, here)?;
        if here == length {
            return Some(first);
        }
        self.whole.clear();
        self.whole.extend_from_slice(first);
        self.whole.extend_from_slice(self.producer.bytes(page, length - here)?);
        Some(&self.whole)
    }

    /// Goes on behind a sample.
    fn pass(&mut self, length: usize) {
        self.position += (HEADER + length).next_multiple_of(8) as u64;
        if self.position - self.told >= self.portion {
            self.tell();
        }
    }

    /// Gives the kernel back the room of all that was read.
    pub fn tell(&mut self) {
        self.told = self.position;
        // What was read has been read before the kernel sees this.
        self.consumer.position().store(self.position, Ordering::Release);
    }
}

impl AsFd for Consumer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }
}

impl Mapping {
    fn new(map: BorrowedFd<'_>, offset: usize, length: usize, access: ProtFlags) -> Result<Self, RingError> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, map, offset as u64)
        };
        let start = NonNull::new(start.map_err(RingError::Map)?.cast());
        Ok(Self { start: start.ok_or(RingError::Map(rustix::io::Errno::NOMEM))?, length })
    }

    /// The position that the mapping begins with: of the reader or of the writer, in bytes since the beginning.
    fn position(&self) -> &AtomicU64 {
        // SAFETY: a mapping begins with a page, so the word is there, aligned, and lives as long as the mapping. Both
        // sides reach it by atomic operations only. (The kernel's `unsigned long` has 64 bits on all that we run on.)
        unsafe { self.start.cast::<AtomicU64>().as_ref() }
    }

    /// The word at an offset that is a multiple of 8; `None` outside.
    fn word(&self, offset: usize) -> Option<&AtomicU32> {
        if offset + size_of::<AtomicU32>() > self.length {
            return None;
        }
        // SAFETY: inside the mapping, aligned, and reached by atomic operations only, on both sides.
        Some(unsafe { self.start.add(offset).cast::<AtomicU32>().as_ref() })
    }

    /// Bytes of a sample that is whole; `None` if they are not all inside.
    fn bytes(&self, offset: usize, length: usize) -> Option<&[u8]> {
        if offset + length > self.length {
            return None;
        }
        // SAFETY: inside the mapping. The kernel writes there again only when it was told that the sample is read, which
        // takes the mutable reference that this one excludes.
        Some(unsafe { NonNull::slice_from_raw_parts(self.start.add(offset), length).as_ref() })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length, and no reference into it outlives it.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
