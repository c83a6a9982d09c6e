//! Packet by packet: what the capture saw against what tracer told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use tracer_lab::{Direction, Redirection};

use super::{Redirected, Seen, Transport, Watched};
use crate::told::{Address, Encapsulation, End, Hop, Trajectory};
use crate::tracer::patient;

/// How far the capture's and tracer's time of the same packet at the same device may be apart: the way from the tap to
/// the hook, with an interruption in between; an emulated processor may stand still for longer.
const APART: Duration = Duration::from_millis(100);

/// A packet at a device, as both sides know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Observation {
    place: String,
    device: String,
    ifindex: u32,
    direction: String,
    protocol: String,
    src: Address,
    dst: Address,
    ttl: u8,
    length: u32,
    encapsulation: Vec<Encapsulation>,
    content: Content,
    payload_length: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    Tcp { seq: u32, ack: u32, flags: Vec<String>, window: u16 },
    Icmp { r#type: u8, code: u8, seq: u16 },
    Other,
}

impl Watched<'_> {
    /// Compares everything, where no packet was cut (GSO) on its way.
    ///
    /// # Panics
    /// When anything differs; with all that does.
    #[track_caller]
    pub fn assert_told_is_true(&self) {
        self.assert_told_was_seen();
        self.trajectories.iter().for_each(|trajectory| self.assert_consistent(trajectory));
    }

    /// Compares hops and how they are joined, whatever the verdicts are.
    ///
    /// # Panics
    /// When anything differs; with all that does.
    #[track_caller]
    pub fn assert_told_was_seen(&self) {
        self.assert_nothing_is_missing_or_invented(|_| true);
        self.assert_joined_hops_are_one_packet();
        self.assert_redirected_hops_are_true();
    }

    /// For each device and direction, the captured packets are the told hops: as many of each, none else. Only of
    /// packets with a payload of some length.
    #[track_caller]
    pub(super) fn assert_nothing_is_missing_or_invented(&self, of: impl Fn(u64) -> bool) {
        let mut balance: BTreeMap<Observation, i64> = BTreeMap::new();
        for seen in &self.captured {
            *balance.entry(Observation::captured(seen)).or_default() += 1;
        }
        for (trajectory, hop) in self.tapped_hops() {
            *balance.entry(Observation::told(trajectory, hop)).or_default() -= i64::from(hop.segments);
        }
        balance.retain(|observation, balance| *balance != 0 && of(observation.payload_length));
        assert!(
            balance.is_empty(),
            "{} captured packets, {} told hops; they differ in\n{}\n{}",
            self.captured.len(),
            self.tapped_hops().count(),
            balance
                .iter()
                .map(|(observation, balance)| {
                    let what = if *balance > 0 { "captured, not told" } else { "told, not captured" };
                    format!("{what} ({}): {observation}\n", balance.abs())
                })
                .collect::<String>(),
            self.in_words()
        );
    }

    /// The hops of a trajectory, looked up in the capture, are one packet by all that NAT leaves alone.
    #[track_caller]
    fn assert_joined_hops_are_one_packet(&self) {
        // Equal observations are paired in the order of time, which is the order at one device.
        let mut in_capture: BTreeMap<Observation, Vec<&Seen>> = BTreeMap::new();
        for seen in &self.captured {
            in_capture.entry(Observation::captured(seen)).or_default().push(seen);
        }
        let mut hops: Vec<_> = self.tapped_hops().collect();
        hops.sort_by_key(|(_, hop)| std::cmp::Reverse(hop.time_ns));
        in_capture.values_mut().for_each(|seen| seen.sort_by_key(|seen| seen.time_ns));
        let mut of_trajectory: BTreeMap<u64, Vec<&Seen>> = BTreeMap::new();
        for (trajectory, hop) in hops {
            let observation = Observation::told(trajectory, hop);
            let Some(seen) = in_capture.get_mut(&observation).and_then(Vec::pop) else {
                panic!("not captured: {observation}");
            };
            assert!(
                Duration::from_nanos(seen.time_ns.abs_diff(hop.time_ns)) < patient(APART),
                "captured at {} ns, told at {} ns: {observation}",
                seen.time_ns,
                hop.time_ns
            );
            of_trajectory.entry(trajectory.id).or_default().push(seen);
        }
        for (id, packets) in of_trajectory {
            let mut essences: Vec<_> = packets.iter().map(|seen| seen.essence()).collect();
            essences.dedup();
            assert_eq!(essences.len(), 1, "trajectory {id} joins different packets: {essences:#?}");
        }
    }

    /// Where taps see nothing: the program there took away one packet for every told hop, and the packet is as the next
    /// device's capture shows it.
    #[track_caller]
    fn assert_redirected_hops_are_true(&self) {
        let Redirected { from_ns, to_ns, by_program } = &self.redirected;
        let mut told: BTreeMap<_, u64> = by_program.keys().map(|key| (key.clone(), 0)).collect();
        let captured = self.observed();
        for trajectory in &self.trajectories {
            for (hop, next) in trajectory.hops.iter().zip(trajectory.hops.iter().skip(1)) {
                let Some(program) = self.redirected_by(trajectory, hop, &captured) else { continue };
                if (*from_ns..*to_ns).contains(&hop.time_ns) {
                    *told.entry((hop.node.clone(), program)).or_default() += 1;
                }
                let as_seen = |hop: &Hop| (hop.src, hop.dst, hop.length, hop.encapsulation.clone());
                let is_seen = self.redirected_by(trajectory, next, &captured).is_none();
                assert!(is_seen, "two hops in a row that nobody saw: {trajectory}");
                assert_eq!(as_seen(hop), as_seen(next), "{trajectory}");
                // Delivery on the node takes one; into the tunnel, and behind the stack, the packet goes as it is.
                let is_delivered = program == "cil_from_container" && next.role == "pod-peer";
                assert_eq!(hop.ttl - u8::from(is_delivered), next.ttl, "{trajectory}");
            }
        }
        assert_eq!(told, *by_program, "hops at {:?} and packets taken away there", self.lab.redirections());
    }

    /// What one trajectory says of itself, by what the lab knows.
    #[track_caller]
    fn assert_consistent(&self, trajectory: &Trajectory) {
        assert!(trajectory.is_complete(), "{trajectory}");
        assert!(trajectory.ambiguous.is_none(), "{trajectory}");
        // Who follows a Service and asks its pod directly is told so, and what TCP discards on its own account.
        let is_no_doubt = |note: &String| {
            note.starts_with("sent to the endpoint itself")
                || note.starts_with("the receiver's TCP discarded it")
        };
        assert!(trajectory.notes.iter().all(is_no_doubt), "{trajectory}");
        // A busy machine may send again what was not late; then it must be so.
        if let Some(id) = trajectory.retransmission_of {
            let is_the_same = |earlier: &&Trajectory| {
                earlier.id == id && (&earlier.src, &earlier.dst) == (&trajectory.src, &trajectory.dst)
            };
            let earlier = self.trajectories.iter().find(is_the_same);
            assert!(
                earlier.is_some_and(|earlier| earlier.hops[0].time_ns < trajectory.hops[0].time_ns),
                "{trajectory}"
            );
        }
        let hops = &trajectory.hops;
        assert!(hops.iter().map(|hop| hop.time_ns).is_sorted(), "{trajectory}");
        let legs: Vec<_> = trajectory.legs.iter().map(|leg| (leg.from, leg.to, leg.latency_ns)).collect();
        // One machine, one clock: every leg is known.
        let between = hops.windows(2).enumerate();
        let expected: Vec<_> =
            between.map(|(from, pair)| (from, from + 1, Some(pair[1].time_ns - pair[0].time_ns))).collect();
        assert_eq!(legs, expected, "{trajectory}");
        let first = &hops[0];
        for (end, address) in [(&trajectory.src, first.src), (&trajectory.dst, first.dst)] {
            assert_eq!(*end, self.end(address), "{trajectory}");
        }
        hops.iter().for_each(|hop| self.assert_hop_is_named(hop));
    }

    /// Whose device it is.
    #[track_caller]
    fn assert_hop_is_named(&self, hop: &Hop) {
        let owner = self.lab.pods().iter().find(|pod| {
            let node = self.lab.node_of(pod);
            hop.node == node.name()
                && (hop.device == pod.host_device() && hop.ifindex == pod.host_ifindex()
                    || hop.role == "pod-interface" && hop.pod.as_deref() == Some(pod.name()))
        });
        let expected = owner.map(|pod| (pod.namespace(), pod.name()));
        assert_eq!(hop.namespace.as_deref().zip(hop.pod.as_deref()), expected, "{hop:?}");
        assert_eq!(owner.is_some(), hop.role.starts_with("pod-"), "{hop:?}");
    }

    /// How an address must be named.
    fn end(&self, address: Address) -> End {
        let Address { ip, port } = address;
        let nobody = End { ip, port, pod: None, namespace: None, node: None, service: None };
        if let Some(pod) = self.lab.pods().iter().find(|pod| pod.ips().contains(&ip)) {
            let node = self.lab.node_of(pod).name().to_owned();
            let (name, namespace) = (pod.name().to_owned(), pod.namespace().to_owned());
            return End { pod: Some(name), namespace: Some(namespace), node: Some(node), ..nobody };
        }
        match self.lab.services().iter().find(|service| service.cluster_ips().contains(&ip)) {
            Some(service) => End {
                service: Some(service.name.clone()),
                namespace: Some(service.namespace.clone()),
                ..nobody
            },
            None => {
                let owns = |node: &&tracer_lab::Node| ip == node.ipv4() || ip == node.ipv6();
                End { node: self.lab.nodes().iter().find(owns).map(|node| node.name().to_owned()), ..nobody }
            }
        }
    }

    fn tapped_hops(&self) -> impl Iterator<Item = (&Trajectory, &Hop)> {
        let captured = self.observed();
        let hops = self.trajectories.iter().flat_map(|told| told.hops.iter().map(move |hop| (told, hop)));
        hops.filter(move |(told, hop)| self.redirected_by(told, hop, &captured).is_none())
    }

    /// The program that took the packet away at this hop before a tap could see it.
    fn redirected_by(
        &self,
        trajectory: &Trajectory,
        hop: &Hop,
        captured: &BTreeSet<Observation>,
    ) -> Option<&'static str> {
        let program = self.redirecting(hop)?;
        (!captured.contains(&Observation::told(trajectory, hop))).then_some(program)
    }

    /// The program that may take packets away at this hop.
    fn redirecting(&self, hop: &Hop) -> Option<&'static str> {
        let is_there = |hook: &Redirection| {
            let direction = match hook.direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            };
            hook.device == hop.device && direction == hop.direction
        };
        self.lab.redirections().into_iter().find(is_there).map(|hook| hook.program)
    }

    /// Whether a capture sees every packet of the hop.
    pub(super) fn is_tapped(&self, hop: &Hop) -> bool {
        self.redirecting(hop).is_none()
    }

    /// What was captured where programs may take packets away.
    fn observed(&self) -> BTreeSet<Observation> {
        let devices: BTreeSet<_> = self.lab.redirections().into_iter().map(|hook| hook.device).collect();
        let there = self.captured.iter().filter(|seen| devices.contains(&seen.device));
        there.map(Observation::captured).collect()
    }

    pub(super) fn in_words(&self) -> String {
        self.trajectories.iter().map(Trajectory::to_string).collect()
    }
}

impl Observation {
    fn captured(seen: &Seen) -> Self {
        Self {
            place: seen.place.clone(),
            device: seen.device.clone(),
            ifindex: seen.ifindex,
            direction: seen.direction.to_owned(),
            protocol: match seen.protocol {
                1 => "icmp".to_owned(),
                6 => "tcp".to_owned(),
                17 => "udp".to_owned(),
                58 => "icmpv6".to_owned(),
                other => format!("ip-{other}"),
            },
            src: seen.src,
            dst: seen.dst,
            ttl: seen.ttl,
            length: seen.length,
            encapsulation: seen.encapsulation.clone(),
            content: match &seen.transport {
                Transport::Tcp { seq, ack, flags, window, .. } => Content::Tcp {
                    seq: *seq,
                    ack: *ack,
                    flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
                    window: *window,
                },
                Transport::Icmp { r#type, code, seq } => {
                    Content::Icmp { r#type: *r#type, code: *code, seq: *seq }
                }
                Transport::Udp | Transport::Other => Content::Other,
            },
            payload_length: seen.payload.len() as u64,
        }
    }

    fn told(trajectory: &Trajectory, hop: &Hop) -> Self {
        let content = match (&trajectory.tcp, &trajectory.icmp) {
            (Some(tcp), _) => {
                Content::Tcp { seq: tcp.seq, ack: tcp.ack, flags: tcp.flags.clone(), window: tcp.window }
            }
            (None, Some(icmp)) => Content::Icmp { r#type: icmp.r#type, code: icmp.code, seq: icmp.seq },
            (None, None) => Content::Other,
        };
        Self {
            place: hop.place(),
            device: hop.device.clone(),
            ifindex: hop.ifindex,
            direction: hop.direction.clone(),
            protocol: trajectory.protocol.clone(),
            src: hop.src,
            dst: hop.dst,
            ttl: hop.ttl,
            length: hop.length,
            encapsulation: hop.encapsulation.clone(),
            content,
            payload_length: trajectory.payload_length,
        }
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, device, ifindex, direction, protocol, src, dst, ttl, length, .. } = self;
        write!(
            f,
            "{place} {device} ({ifindex}) {direction} {protocol} {src} -> {dst} ttl {ttl} length {length} "
        )?;
        write!(f, "{:?} payload {} in {:?}", self.content, self.payload_length, self.encapsulation)
    }
}
