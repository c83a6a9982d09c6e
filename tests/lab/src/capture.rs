//! What really passed every device: AF_PACKET in each namespace. Shares no code with tracer and parses nothing.
//!
//! Where the taps are matters when captures are compared with tc hooks: at egress a tap sits behind the tc hook and
//! behind segmentation, at ingress it sits before the tc hook. So a GSO packet is one at the NIC's tc egress and
//! several in the capture; a packet that a tc ingress program redirects is in the capture of that device, and one that
//! a tc egress program redirects is not (see [`crate::Lab::redirections`]).
//! What `bpf_redirect_peer` delivers is in the capture of the pod's eth0.
//!
//! The sockets write into rings. Without one a socket's queue holds on to every packet, and the kernel does not merge
//! (GRO) packets that somebody else holds: the capture would change what it captures.

mod ring;

use std::collections::HashMap;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use self::ring::{Frame, Ring};
use crate::foreign::Direction;
use crate::netns::Netns;

/// No packet for this long after [`Capture::stop`] means that all have arrived.
const QUIET: Duration = Duration::from_millis(50);

/// How long [`Capture::stop`] waits for quiet.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

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
        let ring = netns
            .run(Ring::open)?
            .with_context(|| format!("cannot capture in {}; the lab must run as root", netns.name()))?;
        let place: Arc<str> = place.into();
        let stop = Arc::clone(&self.stop);
        let reader = Reader { ring, place, names: HashMap::new(), captured: Captured::default() };
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

/// One namespace's ring and what came from it.
struct Reader {
    ring: Ring,
    place: Arc<str>,
    names: HashMap<u32, Arc<str>>,
    captured: Captured,
}

impl Reader {
    fn run(mut self, stop: &AtomicBool) -> Result<Captured> {
        let mut stopping: Option<Instant> = None;
        loop {
            if stopping.is_none() && stop.load(Ordering::Acquire) {
                stopping = Some(Instant::now());
            }
            let got_some = self.read_all().context("cannot read from a packet socket")?;
            let more = got_some || self.ring.wait(QUIET).context("cannot wait for packets")?;
            match stopping {
                Some(_) if !more => break,
                Some(since) if since.elapsed() > STOP_DEADLINE => {
                    return Err(anyhow!("{} is still busy {STOP_DEADLINE:?} after the stop", self.place));
                }
                _ => {}
            }
        }
        self.captured.dropped = self.ring.dropped().context("cannot read the drop counter")?;
        Ok(self.captured)
    }

    /// Reads what is there; whether there was something.
    fn read_all(&mut self) -> io::Result<bool> {
        let Self { ring, place, names, captured } = self;
        ring.read_all(|socket, frame: Frame<'_>| {
            if frame.address.sll_hatype == libc::ARPHRD_LOOPBACK {
                return;
            }
            let ifindex = u32::try_from(frame.address.sll_ifindex).unwrap_or(0);
            let device = names.entry(ifindex).or_insert_with(|| {
                // A device that has gone already keeps its index as its name.
                let name = rustix::net::netdevice::index_to_name(socket, ifindex);
                name.unwrap_or_else(|_| format!("if{ifindex}")).into()
            });
            captured.packets.push(CapturedPacket {
                place: Arc::clone(place),
                device: Arc::clone(device),
                ifindex,
                direction: if frame.address.sll_pkttype == libc::PACKET_OUTGOING {
                    Direction::Egress
                } else {
                    Direction::Ingress
                },
                time_ns: frame.time_ns,
                hardware: frame.address.sll_hatype,
                bytes: frame.bytes.to_vec(),
            });
        })
    }
}
