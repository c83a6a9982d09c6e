//! What really passed every device: AF_PACKET in each namespace. Shares no code with tracer and parses nothing.
//!
//! Where the taps are matters when captures are compared with tc hooks: at egress a tap sits behind the tc hook and
//! behind segmentation, at ingress it sits before the tc hook. So a GSO packet is one at the NIC's tc egress and
//! several in the capture, and a packet that a tc ingress program redirects is in the capture of that device.
//! What `bpf_redirect_peer` delivers is in the capture of the pod's eth0, with the time that it got on the
//! device where the redirect happened.

use std::collections::HashMap;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::foreign::Direction;
use crate::netns::Netns;

/// Receive buffer of each namespace's socket, in bytes; the kernel doubles it.
const BUFFER: libc::c_int = 64 << 20;

/// No packet for this long after [`Capture::stop`] means that all have arrived.
const QUIET: Duration = Duration::from_millis(50);

/// How long [`Capture::stop`] waits for quiet.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The largest packet that a device hands over: a GSO packet with its headers, with room to spare.
const LARGEST_PACKET: usize = 256 << 10;

/// One packet on one device.
#[derive(Clone, Debug)]
pub struct CapturedPacket {
    /// A node's name, or a pod's `namespace/name`.
    pub place: Arc<str>,
    /// The device's name when its first packet was read.
    pub device: Arc<str>,
    /// The device's index in its namespace.
    pub ifindex: u32,
    pub direction: Direction,
    /// Nanoseconds since the epoch, by the kernel's CLOCK_REALTIME.
    pub time_ns: u64,
    /// The device's hardware type (`ARPHRD_*`): 1 where `bytes` begin with an Ethernet header.
    pub hardware: u16,
    /// The packet as it was on the device, whole; a VLAN tag that the kernel keeps beside the packet is not in it.
    pub bytes: Vec<u8>,
}

/// What a capture has seen.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    /// In order of time; packets of the same time in the order of their socket.
    pub packets: Vec<CapturedPacket>,
    /// Packets that the kernel could not queue. A test must see 0 here before it trusts `packets`.
    pub dropped: u64,
}

/// A running capture; see [`crate::Lab::capture_everywhere`].
pub struct Capture {
    stop: Arc<AtomicBool>,
    readers: Vec<JoinHandle<Result<Captured>>>,
}

impl Capture {
    pub(crate) fn new() -> Self {
        Self { stop: Arc::new(AtomicBool::new(false)), readers: Vec::new() }
    }

    /// Captures in one more namespace as well, such as that of a pod that was added later. It has begun when
    /// this returns.
    ///
    /// # Errors
    /// When the packet socket cannot be made.
    pub fn add(&mut self, place: &str, netns: &Netns) -> Result<()> {
        let socket = netns
            .run(open_socket)?
            .with_context(|| format!("cannot capture in {}; the lab must run as root", netns.name()))?;
        let place: Arc<str> = place.into();
        let stop = Arc::clone(&self.stop);
        let reader = Reader { socket, place, names: HashMap::new(), captured: Captured::default() };
        self.readers.push(thread::spawn(move || reader.run(&stop)));
        Ok(())
    }

    /// Stops when all that was sent before has been read.
    ///
    /// # Errors
    /// When reading failed, or the devices did not become quiet.
    pub fn stop(mut self) -> Result<Captured> {
        self.stop.store(true, Ordering::Release);
        let mut all = Captured::default();
        for reader in mem::take(&mut self.readers) {
            let captured = reader.join().map_err(|_| anyhow!("a capturing thread panicked"))??;
            all.packets.extend(captured.packets);
            all.dropped += captured.dropped;
        }
        all.packets.sort_by_key(|packet| packet.time_ns);
        Ok(all)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for reader in mem::take(&mut self.readers) {
            // Nobody wants the packets any more.
            let _ = reader.join();
        }
    }
}

/// One namespace's socket and what came from it.
struct Reader {
    socket: OwnedFd,
    place: Arc<str>,
    names: HashMap<u32, Arc<str>>,
    captured: Captured,
}

impl Reader {
    fn run(mut self, stop: &AtomicBool) -> Result<Captured> {
        let mut buffer = vec![0; LARGEST_PACKET];
        let mut stopping: Option<Instant> = None;
        loop {
            if stopping.is_none() && stop.load(Ordering::Acquire) {
                stopping = Some(Instant::now());
            }
            let mut quiet = true;
            while self.read(&mut buffer).context("cannot read from a packet socket")? {
                quiet = false;
            }
            if let Some(since) = stopping {
                if quiet && !self.wait(QUIET)? {
                    break;
                }
                if since.elapsed() > STOP_DEADLINE {
                    return Err(anyhow!("{} is still busy {STOP_DEADLINE:?} after the stop", self.place));
                }
            } else if quiet {
                self.wait(QUIET)?;
            }
        }
        self.captured.dropped = dropped(&self.socket).context("cannot read the drop counter")?;
        Ok(self.captured)
    }

    /// Whether there is something to read within `timeout`.
    fn wait(&self, timeout: Duration) -> Result<bool> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).context("timeout out of range")?;
        Ok(poll(&mut fds, Some(&timeout)).context("cannot wait for packets")? > 0)
    }

    /// Reads one packet; false when there is none.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let Some(Received { length, address, time_ns }) = receive(&self.socket, buffer)? else {
            return Ok(false);
        };
        if address.sll_hatype == libc::ARPHRD_LOOPBACK {
            return Ok(true);
        }
        let ifindex = u32::try_from(address.sll_ifindex).unwrap_or(0);
        let socket = &self.socket;
        let device = self.names.entry(ifindex).or_insert_with(|| {
            // A device that has gone already keeps its index as its name.
            let name = rustix::net::netdevice::index_to_name(socket.as_fd(), ifindex);
            name.unwrap_or_else(|_| format!("if{ifindex}")).into()
        });
        self.captured.packets.push(CapturedPacket {
            place: Arc::clone(&self.place),
            device: Arc::clone(device),
            ifindex,
            direction: if address.sll_pkttype == libc::PACKET_OUTGOING {
                Direction::Egress
            } else {
                Direction::Ingress
            },
            time_ns,
            hardware: address.sll_hatype,
            bytes: buffer[..length].to_vec(),
        });
        Ok(true)
    }
}

/// A socket that sees every packet of the calling thread's namespace.
fn open_socket() -> Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // Protocol 0 first: the buffer and the timestamps must be there before the first packet is.
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    check(fd).context("cannot open a packet socket")?;
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(&socket, libc::SO_RCVBUFFORCE, BUFFER).context("cannot set the receive buffer")?;
    set_option(&socket, libc::SO_TIMESTAMPNS, 1).context("cannot switch timestamps on")?;
    // SAFETY: all zeroes is a value of this structure of integers.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = protocol;
    // SAFETY: the address is initialised and its length is that of its type.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    check(result).context("cannot bind the packet socket")?;
    Ok(socket)
}

fn set_option(socket: &OwnedFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value lives during the call and its length is that of its type.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
}

struct Received {
    length: usize,
    address: libc::sockaddr_ll,
    time_ns: u64,
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    // u64 because control messages must be aligned.
    let mut control = [0u64; 16];
    let mut address = MaybeUninit::<libc::sockaddr_ll>::zeroed();
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeroes is a value of this structure.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = address.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message points to buffers that live during the call, with their lengths.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            // A device went down or away; its packets have been read.
            Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Ok(None),
            _ => Err(error),
        };
    };
    if message.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(io::Error::other(format!("a packet is larger than {} bytes", buffer.len())));
    }
    // SAFETY: zeroed before, and the kernel has written the address of a packet socket.
    let address = unsafe { address.assume_init() };
    Ok(Some(Received { length, address, time_ns: timestamp(&message)? }))
}

/// The SCM_TIMESTAMPNS of a message.
fn timestamp(message: &libc::msghdr) -> io::Result<u64> {
    // SAFETY: the message was filled by recvmsg, and its control buffer lives.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, and inside the control buffer, as CMSG_FIRSTHDR and CMSG_NXTHDR guarantee.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_TIMESTAMPNS {
            // SAFETY: the kernel has put a timespec behind this header; alignment is not relied upon.
            let time: libc::timespec = unsafe { libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned() };
            return Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64);
        }
        // SAFETY: both belong to the same message.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    Err(io::Error::other("a packet came without its time"))
}

fn dropped(socket: &OwnedFd) -> io::Result<u64> {
    // SAFETY: all zeroes is a value of this structure of integers.
    let mut statistics: libc::tpacket_stats = unsafe { mem::zeroed() };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the buffer lives during the call and is as long as said.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    })?;
    Ok(statistics.tp_drops.into())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
