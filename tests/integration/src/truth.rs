//! The truth: what an independent capture on every device saw, and how it is compared with what tracer told.
//!
//! The capture (AF_PACKET, parsed with etherparse) shares nothing with tracer: neither hooks nor maps nor parser nor
//! clock. Two things differ by the place of the taps, and are handled by name:
//!
//! - A tap sits behind the tc egress hook, and behind a netkit pair's hook. What a program there redirects (Cilium's at
//!   `cilium_host` and at netkit pods) is in no capture; the program's own count of its runs stands in for it, and the
//!   next device's capture for the content.
//! - A tap sits behind segmentation. A packet that is cut at a device's egress is one at the tc hook and several in the
//!   capture there; see [`Watched::compare_segments`].

mod compare;
mod packet;
mod path;
mod segments;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use tracer_lab::{Capture, Captured, CapturedPacket, Lab, Node, Redirection};

pub use self::packet::{Seen, Transport};
pub use self::path::{ECHO_WEB_AND_DNS, Way};
use crate::follow::{Follow, Report};
use crate::told::{Summary, Trajectory};
use crate::tracer::Tracer;

/// A capture and a follow of the same packets, under way.
pub struct Watch<'a> {
    lab: &'a Lab,
    /// The addresses of both ends; for a Service its own and those of its pods.
    ends: [Vec<IpAddr>; 2],
    capture: Capture,
    follow: Follow,
    _tracer: Tracer,
    runs: Runs,
}

/// What both saw.
pub struct Watched<'a> {
    lab: &'a Lab,
    pub trajectories: Vec<Trajectory>,
    /// The captured packets between the ends, in order of time.
    pub captured: Vec<Seen>,
    /// The captured packets between the nodes' own addresses that carry nothing that can be read, in order of time.
    pub opaque: Vec<Seen>,
    pub summary: Summary,
    /// What programs redirected meanwhile where taps see nothing of it.
    redirected: Redirected,
}

/// How often the programs that redirect had run at a time, by node and program; empty where there are none.
struct Runs {
    time_ns: u64,
    by_program: BTreeMap<(String, &'static str), u64>,
}

/// What they took away between two times, by node and program.
struct Redirected {
    from_ns: u64,
    to_ns: u64,
    by_program: BTreeMap<(String, &'static str), u64>,
}

impl<'a> Watch<'a> {
    /// Captures everywhere and follows `pod` to `to`: a pod, `svc/NAME`, or `NAME.NAMESPACE` of a Service.
    ///
    /// # Errors
    /// When one of the two cannot be started.
    ///
    /// # Panics
    /// When the lab has no such pod or Service.
    pub fn start(lab: &'a Lab, pod: &str, to: &str) -> Result<Self> {
        Self::start_among(lab, pod, to, &[])
    }

    /// As [`Watch::start`], where `to` may also be an address, and its end has `others` besides: those that NAT uses.
    ///
    /// # Errors
    /// When one of the two cannot be started.
    ///
    /// # Panics
    /// When the lab has no such pod or Service.
    pub fn start_among(lab: &'a Lab, pod: &str, to: &str, others: &[IpAddr]) -> Result<Self> {
        let target = to.parse::<IpAddr>().map_or_else(|_| addresses(lab, to), |address| vec![address]);
        let ends = [lab.pod(pod).ips().to_vec(), [target, others.to_vec()].concat()];
        let tracer = Tracer::new(lab)?;
        let capture = lab.capture_everywhere()?;
        let runs = Runs::now(lab)?;
        let follow = tracer.follow(&["--pod", pod, "--to", to])?;
        Ok(Self { lab, ends, capture, follow, _tracer: tracer, runs })
    }

    /// Ends both.
    ///
    /// # Errors
    /// When one of the two failed or lost anything: nothing can be compared then.
    pub fn stop(self) -> Result<Watched<'a>> {
        // While the capture still runs, because it tells which runs were of packets that went on.
        let runs = Runs::now(self.lab)?;
        let all = self.capture.stop()?;
        ensure!(all.dropped == 0, "the capture lost {} packets: it is no truth", all.dropped);
        let Report { trajectories, summary, exit, stderr, .. } = self.follow.stop()?;
        ensure!(exit.success(), "tracer follow ended with {exit}: {stderr:?}");
        let summary = summary.context("tracer follow gave no summary")?;
        ensure!(!summary.losses.is_any(), "tracer follow lost something: {summary:?}");
        let parsed = all.packets.iter().filter_map(|packet| Seen::parse(packet).transpose());
        let mut captured = parsed.collect::<Result<Vec<_>>>()?;
        let nodes: Vec<_> =
            self.lab.nodes().iter().flat_map(|node| [node.ipv4().into(), node.ipv6().into()]).collect();
        let is_node = |seen: &&Seen| nodes.contains(&seen.src.ip) && nodes.contains(&seen.dst.ip);
        let opaque = captured.iter().filter(is_node).cloned().collect();
        captured.retain(|seen| is_between(&self.ends, seen));
        let redirected = self.runs.redirected(&runs, self.lab, &all);
        Ok(Watched { lab: self.lab, trajectories, captured, opaque, summary, redirected })
    }
}

fn is_between([a, b]: &[Vec<IpAddr>; 2], seen: &Seen) -> bool {
    let (from, to) = (&seen.src.ip, &seen.dst.ip);
    a.contains(from) && b.contains(to) || b.contains(from) && a.contains(to)
}

fn addresses(lab: &Lab, target: &str) -> Vec<IpAddr> {
    let name = target.strip_prefix("svc/").unwrap_or(target);
    let name = name.split('.').next().unwrap_or(name);
    if name == target {
        return lab.pod(target).ips().to_vec();
    }
    let service = lab.service(name);
    let pods = service.endpoints.iter().flat_map(|(_, pod)| lab.pod(pod).ips());
    service.cluster_ips().into_iter().chain(pods).collect()
}

impl Runs {
    /// The counts and a time at which they held: none of them changes around it.
    fn now(lab: &Lab) -> Result<Self> {
        let programs: BTreeSet<_> = lab.redirections().into_iter().map(|hook| hook.program).collect();
        let count = || {
            let nodes = lab.nodes().iter();
            let of_node = |node: &Node| {
                let name = node.name().to_owned();
                programs
                    .iter()
                    .map(move |program| ((name.clone(), *program), lab.program_runs(&name, program)))
            };
            let counts = nodes.flat_map(of_node).map(|(key, runs)| Ok((key, runs?)));
            counts.collect::<Result<BTreeMap<_, _>>>()
        };
        let mut by_program = count()?;
        loop {
            let time_ns = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
            let again = count()?;
            if again == by_program {
                return Ok(Self { time_ns, by_program });
            }
            by_program = again;
        }
    }

    /// What ran and is not in the capture of the device was taken away there. The rest is what went on: to a Service, or
    /// the node's own, which looks for routers and multicast groups on every device.
    fn redirected(&self, later: &Self, lab: &Lab, all: &Captured) -> Redirected {
        let (from_ns, to_ns) = (self.time_ns, later.time_ns);
        let hooks = lab.redirections();
        let went_on = |node: &str, program: &str| {
            let at_hook = |packet: &&CapturedPacket| {
                let is_there = |hook: &Redirection| {
                    hook.program == program
                        && hook.device == *packet.device
                        && hook.direction == packet.direction
                };
                *packet.place == *node
                    && (from_ns..to_ns).contains(&packet.time_ns)
                    && hooks.iter().any(is_there)
            };
            all.packets.iter().filter(at_hook).count() as u64
        };
        let by_program = later.by_program.iter().map(|((node, program), runs)| {
            let key = (node.clone(), *program);
            let before = self.by_program[&key];
            (key, runs - before - went_on(node, program))
        });
        Redirected { from_ns, to_ns, by_program: by_program.collect() }
    }
}
