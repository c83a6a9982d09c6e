//! A wire through a program: each node's NIC is one end of a veth pair whose other end is in a namespace of the wire's
//! own, and a thread there takes every frame from one and sends it by the other, late, twice, out of order, or not at all.
//!
//! The NICs have no offloads, so that what comes through is what a cable would carry: whole checksums, no frame that is
//! larger than the MTU. The thread keeps a log of all that it did.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::time::{ClockId, clock_gettime};

use super::MTU;
use super::impairment::{Chance, Decision, Impairment, decide};
use super::port::{ETHERNET_HEADER, Port};
use crate::lab::Node;
use crate::netlink::{self, End};
use crate::netns::Netns;
use crate::plan::Mac;

/// How long [`Relay::settle`] waits.
const SETTLE_DEADLINE: Duration = Duration::from_secs(10);

/// How a relay begins. Directions are numbered by the sending node, as in [`crate::Lab::nodes`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RelayOptions {
    /// Of all decisions by chance.
    pub seed: u64,
    pub impairments: [Impairment; 2],
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self { seed: 1, impairments: [Impairment::NONE; 2] }
    }
}

/// One frame that a node sent.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The sending node's place in [`crate::Lab::nodes`].
    pub from: usize,
    /// When the relay had it, CLOCK_MONOTONIC in nanoseconds.
    pub time_ns: u64,
    /// From the Ethernet header on.
    pub frame: Arc<[u8]>,
    pub fate: Fate,
}

/// What the relay did to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Lost by chance.
    Lost,
    /// Longer than [`Impairment::mtu`].
    TooLong,
    /// To be handed on so many times.
    Relayed { copies: u8 },
}

/// One frame that the relay handed to the other node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// Which of [`RelayLog::arrivals`] it is.
    pub arrival: usize,
    /// When, CLOCK_MONOTONIC in nanoseconds.
    pub time_ns: u64,
}

/// All that a relay did.
#[derive(Clone, Debug, Default)]
pub struct RelayLog {
    /// In the order in which they came, of both directions.
    pub arrivals: Vec<Arrival>,
    /// In the order in which they went.
    pub departures: Vec<Departure>,
    /// Frames that came faster than they were read, or that the kernel did not take back: lost without being decided
    /// about. A test must see 0 here before it trusts the rest.
    pub failed: u64,
}

/// A running relay. Dropping it cuts the wire.
pub struct Relay {
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<Result<()>>>,
    _netns: Netns,
}

struct Shared {
    impairments: Mutex<[Impairment; 2]>,
    log: Mutex<Logged>,
}

#[derive(Default)]
struct Logged {
    log: RelayLog,
    /// Frames that wait for their time.
    waiting: usize,
    /// Why the thread has ended.
    failure: Option<String>,
}

impl Relay {
    /// Gives both nodes an `eth0` and puts the relay between them.
    pub(super) fn connect(nodes: [&Node; 2], options: RelayOptions, netns: Netns) -> Result<Self> {
        // What the wire's ends would say by themselves (neighbour and router discovery) is no frame of a node's.
        netns.set_sysctls(&[
            ("net/ipv6/conf/all/disable_ipv6", "1"),
            ("net/ipv6/conf/default/disable_ipv6", "1"),
        ])?;
        let ports = [add_port(&netns, nodes[0], 0)?, add_port(&netns, nodes[1], 1)?];
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).context("cannot make an eventfd")?);
        let shared = Arc::new(Shared {
            impairments: Mutex::new(options.impairments),
            log: Mutex::new(Logged::default()),
        });
        let running = Running {
            ports,
            chances: [Chance::new(options.seed), Chance::new(!options.seed)],
            order_ns: [0; 2],
            waiting: BinaryHeap::new(),
            shared: Arc::clone(&shared),
        };
        let thread = thread::Builder::new()
            .name("wire".to_owned())
            .spawn({
                let (stop, shared) = (Arc::clone(&stop), Arc::clone(&shared));
                move || {
                    let result = running.run(&stop);
                    lock(&shared.log).failure = result.as_ref().err().map(|error| format!("{error:#}"));
                    result
                }
            })
            .context("cannot start the relay's thread")?;
        Ok(Self { shared, stop, thread: Some(thread), _netns: netns })
    }

    /// Changes what happens to the frames that come from now on; what waits already is sent as decided.
    pub fn set(&self, impairments: [Impairment; 2]) {
        *lock(&self.shared.impairments) = impairments;
    }

    /// Waits until no frame is under way.
    ///
    /// # Errors
    /// When some still are after ten seconds, or the relay has failed.
    pub fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + SETTLE_DEADLINE;
        loop {
            let logged = lock(&self.shared.log);
            if let Some(failure) = &logged.failure {
                bail!("the relay has failed: {failure}");
            }
            if logged.waiting == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} frames are still on the wire after {SETTLE_DEADLINE:?}", logged.waiting);
            }
            drop(logged);
            thread::yield_now();
        }
    }

    /// What was done since the beginning, or since the last [`Relay::forget`].
    #[must_use]
    pub fn log(&self) -> RelayLog {
        lock(&self.shared.log).log.clone()
    }

    /// Forgets what was done.
    ///
    /// # Errors
    /// As [`Relay::settle`]: a frame under way would be in half a log.
    pub fn forget(&self) -> Result<()> {
        loop {
            self.settle()?;
            let mut logged = lock(&self.shared.log);
            if logged.waiting == 0 {
                logged.log = RelayLog::default();
                return Ok(());
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The counter has room for one.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // Who cares for its failure has asked.
            let _ = thread.join();
        }
    }
}

/// Joins a node's new `eth0` with the wire's namespace, and opens the end there.
fn add_port(netns: &Netns, node: &Node, number: u8) -> Result<Port> {
    let name = format!("port{number}");
    let nic = End {
        netns: node.netns(),
        name: "eth0",
        ifindex: super::NIC,
        mac: node.plan.mac,
        mtu: MTU,
        gso_max_segs: Some(1),
    };
    let port = End {
        netns,
        name: &name,
        ifindex: super::NIC + u32::from(number),
        mac: Mac([0x02, 0, 0, 0, 0, number]),
        mtu: MTU,
        gso_max_segs: Some(1),
    };
    netlink::in_netns(node.netns(), async |link| link.add_veth(&nic, &port).await)?;
    node.netns().run(|| super::port::switch_offloads_off("eth0"))??;
    netlink::in_netns(netns, async |link| link.set_up(port.ifindex).await)?;
    netns.run(|| Port::open(port.ifindex))?
}

/// The thread's own.
struct Running {
    ports: [Port; 2],
    chances: [Chance; 2],
    /// No frame that keeps the order may go before this time, by direction.
    order_ns: [u64; 2],
    /// By time, then by order of decision.
    waiting: BinaryHeap<Reverse<(u64, usize, usize)>>,
    shared: Arc<Shared>,
}

impl Running {
    fn run(mut self, stop: &OwnedFd) -> Result<()> {
        let mut decided = 0;
        loop {
            if self.wait(stop)? {
                return Ok(());
            }
            for from in 0..2 {
                while let Some(frame) = self.ports[from].receive().context("cannot read from the wire")? {
                    self.take(from, frame, &mut decided);
                    self.send_due()?;
                }
            }
            self.send_due()?;
            let lost = self.ports.iter().map(Port::overrun).sum::<io::Result<u64>>();
            lock(&self.shared.log).log.failed += lost.context("cannot read a drop counter")?;
        }
    }

    /// Waits for a frame, for one's time, or for the end; whether it is the end.
    fn wait(&self, stop: &OwnedFd) -> Result<bool> {
        let timeout = match self.waiting.peek() {
            None => None,
            Some(Reverse((due_ns, ..))) => {
                let left = Duration::from_nanos(due_ns.saturating_sub(monotonic_ns()));
                Some(Timespec::try_from(left).context("a wait of unreasonable length")?)
            }
        };
        let [near, far] = &self.ports;
        let mut fds = [
            PollFd::from_borrowed_fd(near.socket(), PollFlags::IN),
            PollFd::from_borrowed_fd(far.socket(), PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        poll(&mut fds, timeout.as_ref()).context("cannot wait for frames")?;
        Ok(!fds[2].revents().is_empty())
    }

    fn take(&mut self, from: usize, frame: Arc<[u8]>, decided: &mut usize) {
        let time_ns = monotonic_ns();
        let impairment = lock(&self.shared.impairments)[from];
        let length = frame.len().saturating_sub(ETHERNET_HEADER);
        let decision = decide(&impairment, &mut self.chances[from], length);
        let mut logged = lock(&self.shared.log);
        let arrival = logged.log.arrivals.len();
        let fate = match decision {
            Decision::Lose => Fate::Lost,
            Decision::TooLong => Fate::TooLong,
            Decision::Send { after, copies, overtaken } => {
                let mut due_ns = time_ns + after.as_nanos() as u64;
                if !overtaken {
                    due_ns = due_ns.max(self.order_ns[from]);
                    self.order_ns[from] = due_ns;
                }
                for _ in 0..copies {
                    self.waiting.push(Reverse((due_ns, *decided, arrival)));
                    *decided += 1;
                }
                logged.waiting += usize::from(copies);
                Fate::Relayed { copies }
            }
        };
        logged.log.arrivals.push(Arrival { from, time_ns, frame, fate });
    }

    fn send_due(&mut self) -> Result<()> {
        while let Some(Reverse((due_ns, _, arrival))) = self.waiting.peek().copied() {
            if due_ns > monotonic_ns() {
                break;
            }
            self.waiting.pop();
            let mut logged = lock(&self.shared.log);
            let Arrival { from, frame, .. } = &logged.log.arrivals[arrival];
            let (to, frame) = (1 - *from, Arc::clone(frame));
            // In the log first: whoever sees the frame at the other node finds it there.
            logged.log.departures.push(Departure { arrival, time_ns: monotonic_ns() });
            drop(logged);
            let sent = self.ports[to].send(&frame).context("cannot write to the wire")?;
            let mut logged = lock(&self.shared.log);
            logged.waiting -= 1;
            logged.log.failed += u64::from(!sent);
        }
        Ok(())
    }
}

fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
