//! One end of the relay's wire: a packet socket on a device, that gives and takes whole frames.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;
use std::sync::Arc;

use anyhow::{Context as _, Result};

/// Bytes.
pub(super) const ETHERNET_HEADER: usize = 14;

/// Frames that may wait to be read, bytes.
const RECEIVE_BUFFER: libc::c_int = 64 << 20;

/// A frame is never larger: the NICs cut what is.
const LONGEST: usize = 65536;

/// What a NIC must not do for the kernel, so that frames are as on a cable (`ETHTOOL_STXCSUM` and so on).
const OFFLOADS: [u32; 5] = [0x17, 0x19, 0x1f, 0x24, 0x2c];

pub(super) struct Port {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Port {
    /// Opens a device of this thread's namespace.
    pub(super) fn open(ifindex: u32) -> Result<Self> {
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0, which is no packet at all, until it is bound to its device.
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_PACKET, flags, 0) };
        check(fd).context("cannot open a packet socket")?;
        // SAFETY: a new descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER)
            .context("cannot make room for frames")?;
        // SAFETY: all zeroes is a value of this structure of integers.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ifindex.cast_signed();
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address lives during the call, and its length is that of its type.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })
            .context("cannot bind a packet socket to its device")?;
        Ok(Self { socket, buffer: vec![0; LONGEST] })
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next frame that came in by the device, if one is there.
    pub(super) fn receive(&mut self) -> io::Result<Option<Arc<[u8]>>> {
        loop {
            // SAFETY: all zeroes is a value of this structure of integers.
            let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
            let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: buffer and address live during the call and are as long as said.
            let read = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    self.buffer.as_mut_ptr().cast(),
                    self.buffer.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            let Ok(read) = usize::try_from(read) else {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                }
            };
            // Nobody but the relay sends by the device; the kernel might all the same.
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                return Ok(Some(self.buffer[..read].into()));
            }
        }
    }

    /// Sends a frame; false if the kernel had no room for it.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<bool> {
        loop {
            // SAFETY: the frame lives during the call and is as long as said.
            let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            if sent >= 0 {
                return Ok(true);
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::ENOBUFS | libc::EAGAIN) => return Ok(false),
                _ => return Err(error),
            }
        }
    }

    /// Frames that found no room, since the last call.
    pub(super) fn overrun(&self) -> io::Result<u64> {
        // SAFETY: all zeroes is a value of this structure of integers.
        let mut statistics: libc::tpacket_stats = unsafe { mem::zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
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

/// Makes a device of this thread's namespace leave checksums and segments to the kernel.
pub(super) fn switch_offloads_off(device: &str) -> Result<()> {
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd).context("cannot open a socket")?;
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for command in OFFLOADS {
        // struct ethtool_value: the command and its value.
        let mut value = [command, 0];
        // SAFETY: all zeroes is a value of this structure of integers and pointers.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
        // SAFETY: request and value live during the call and are what this ioctl takes.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) })
            .with_context(|| format!("cannot switch offload {command:#x} of {device} off"))?;
    }
    Ok(())
}

fn set_option<T>(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value lives during the call and its length is that of its type.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
