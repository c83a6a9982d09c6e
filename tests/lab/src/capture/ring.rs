//! A packet socket that writes into memory shared with it (packet_mmap, TPACKET_V3): blocks of packets, each
//! handed over when it is full or some milliseconds old, and handed back when it has been read.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Bytes in a block. The largest GSO packet must fit into one.
const BLOCK: usize = 1 << 18;

/// How many blocks a ring has. Blocks grow old before they are full, so it is this many times their age that the reader
/// may get no processor: on an emulated one, which forwards the packets itself, hundreds of milliseconds.
const BLOCKS: usize = 128;

/// A block that is not full is handed over after this many milliseconds.
const BLOCK_AGE_MS: libc::c_uint = 20;

/// One packet in the ring.
pub(super) struct Frame<'a> {
    pub(super) address: libc::sockaddr_ll,
    pub(super) time_ns: u64,
    pub(super) bytes: &'a [u8],
}

/// The socket and the memory that it shares.
pub(super) struct Ring {
    socket: OwnedFd,
    memory: NonNull<u8>,
    next: usize,
}

// SAFETY: the memory belongs to the ring alone; the kernel does not care which thread reads it.
unsafe impl Send for Ring {}

impl Ring {
    /// A ring that gets every packet of the calling thread's network namespace.
    pub(super) fn open() -> Result<Self> {
        // Protocol 0, which is no packet at all, until the ring is there.
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(fd).context("cannot open a packet socket")?;
        // SAFETY: a new descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let version = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
        set_option(&socket, libc::PACKET_VERSION, &version).context("the kernel has no TPACKET_V3")?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as libc::c_uint,
            tp_block_nr: BLOCKS as libc::c_uint,
            // Only checked for plausibility: a block holds packets of any length.
            tp_frame_size: BLOCK as libc::c_uint,
            tp_frame_nr: BLOCKS as libc::c_uint,
            tp_retire_blk_tov: BLOCK_AGE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set_option(&socket, libc::PACKET_RX_RING, &request)
            .with_context(|| format!("no memory for a ring of {} MiB", (BLOCK * BLOCKS) >> 20))?;
        // SAFETY: a new mapping at an address that the kernel chooses; the result is checked.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                BLOCK * BLOCKS,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("cannot map the ring");
        }
        let memory = NonNull::new(memory.cast()).context("the ring was mapped at address 0")?;
        let ring = Self { socket, memory, next: 0 };
        ring.bind().context("cannot bind the packet socket")?;
        Ok(ring)
    }

    fn bind(&self) -> io::Result<()> {
        // SAFETY: all zeroes is a value of this structure of integers.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address lives during the call, and its length is that of its type.
        check(unsafe { libc::bind(self.socket.as_raw_fd(), (&raw const address).cast(), length) })
    }

    /// Whether there is something to read within `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        Ok(poll(&mut fds, Some(&timeout))? > 0)
    }

    /// Gives every packet of the blocks that have been handed over to `each`, with the socket; whether there was a
    /// block.
    pub(super) fn read_all(&mut self, mut each: impl FnMut(&OwnedFd, Frame<'_>)) -> io::Result<bool> {
        let mut any = false;
        loop {
            // SAFETY: `next` is below BLOCKS, so this is inside the mapping, which is aligned to pages.
            let block = unsafe { self.memory.add(self.next * BLOCK) };
            let header = block.cast::<libc::tpacket_block_desc>().as_ptr();
            // SAFETY: the mapping holds a block descriptor here, for as long as the ring lives; the status is a u32
            // that kernel and reader both access atomically.
            let status = unsafe { AtomicU32::from_ptr(&raw mut (*header).hdr.bh1.block_status) };
            if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                return Ok(any);
            }
            any = true;
            // SAFETY: the block is ours until its status is changed below.
            unsafe { read_block(block, |frame| each(&self.socket, frame))? };
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = (self.next + 1) % BLOCKS;
        }
    }

    /// Packets that found no room, since the last call.
    pub(super) fn dropped(&self) -> io::Result<u64> {
        // SAFETY: all zeroes is a value of this structure of integers.
        let mut statistics: libc::tpacket_stats_v3 = unsafe { mem::zeroed() };
        let mut length = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        // SAFETY: the buffer lives during the call and is as long as said.
        check(unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        })?;
        Ok(statistics.tp_drops.into())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping that `open` made; nothing refers to it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), BLOCK * BLOCKS) };
    }
}

/// # Safety
/// `block` must be a block of the ring that the kernel has handed over.
unsafe fn read_block(block: NonNull<u8>, mut each: impl FnMut(Frame<'_>)) -> io::Result<()> {
    // SAFETY: a handed-over block begins with its descriptor.
    let header = unsafe { block.cast::<libc::tpacket_block_desc>().as_ref().hdr.bh1 };
    let mut at = header.offset_to_first_pkt as usize;
    for _ in 0..header.num_pkts {
        // SAFETY: the kernel's offsets lead to packet headers inside the block, aligned to 16 bytes.
        let packet = unsafe { block.add(at).cast::<libc::tpacket3_hdr>().as_ref() };
        if packet.tp_snaplen < packet.tp_len {
            return Err(io::Error::other(format!(
                "a packet of {} bytes does not fit the ring",
                packet.tp_len
            )));
        }
        let address_at = at + size_of::<libc::tpacket3_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);
        // SAFETY: the address follows the header, and the packet lies inside the block, as long as the header says.
        let frame = unsafe {
            Frame {
                address: block.add(address_at).cast::<libc::sockaddr_ll>().read(),
                time_ns: u64::from(packet.tp_sec) * 1_000_000_000 + u64::from(packet.tp_nsec),
                bytes: slice::from_raw_parts(
                    block.add(at + usize::from(packet.tp_mac)).as_ptr(),
                    packet.tp_snaplen as usize,
                ),
            }
        };
        each(frame);
        at += packet.tp_next_offset as usize;
    }
    Ok(())
}

fn set_option<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value lives during the call and its length is that of its type.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
