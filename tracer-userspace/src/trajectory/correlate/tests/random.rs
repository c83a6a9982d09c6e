//! Random traffic through random networks, with the truth beside it. Whatever is lost, cut, merged, copied, shuffled or
//! withheld: nothing that is told may be wrong, it may only be incomplete or called ambiguous.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use proptest::prelude::{ProptestConfig, any, proptest};
use proptest::{prop_assert, prop_assert_eq};

use crate::trajectory::correlate::{Correlator, CorrelatorConfig};
use crate::trajectory::model::{
    ClockId, Latency, Leg, ObservationPoint, Packet, PointId, Sighting, Trajectory, Verdict,
};
use crate::trajectory::testing::{
    ACK, CLUSTER_IP, CURL, Change, HTTPBIN, MS, NODE_1, NODE_2, ROUTED, ROUTED_SERVICE, SECOND, SYN, Step,
    World, cut, gso, hooks, icmp_error, run, stamp, tcp, two_nodes, two_nodes_with_one_clock, udp,
};

const SEGMENT: u32 = 1398;

/// A way through a network, and the index of its first hop on the second node; hops there come from the other stream.
struct Way {
    steps: &'static [Step<'static>],
    far: usize,
}

const ANSWER: &[Step<'static>] = &[
    ("n2/httpbin:eth0>", &[]),
    ("n2/vethhttp<", &[]),
    ("n2/vxlan>", &[Change::Ttl]),
    ("n2/eth0>", &[Change::Encap(2735, NODE_2, NODE_1)]),
    ("n1/eth0<", &[]),
    ("n1/vxlan<", &[Change::Decap]),
    ("n1/vethcurl>", &[Change::Ttl]),
    ("n1/curl:eth0<", &[]),
];
const SERVICE_ANSWER: &[Step<'static>] = &[
    ("n2/httpbin:eth0>", &[]),
    ("n2/vethhttp<", &[]),
    ("n2/vxlan>", &[Change::Ttl]),
    ("n2/eth0>", &[Change::Encap(2735, NODE_2, NODE_1)]),
    ("n1/eth0<", &[]),
    ("n1/vxlan<", &[Change::Decap]),
    ("n1/vethcurl>", &[Change::Ttl, Change::From(CLUSTER_IP, 80)]),
    ("n1/curl:eth0<", &[]),
];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// What a simulated network does.
#[derive(Clone, Copy, Debug)]
struct Weather {
    /// Packets lost on the wire, percent.
    lost: u64,
    /// Packets copied on the wire, percent.
    copied: u64,
    /// Longest that a packet is held up on the wire, nanoseconds.
    held_up_ns: u64,
    /// Share of datagrams that nothing tells from each other, percent.
    equal: u64,
}

#[derive(Debug, Default)]
struct Fate {
    delivered: bool,
    retransmission_of: Option<usize>,
    copy_of: Option<usize>,
    quotes: Option<usize>,
}

/// Everything that happened.
struct Run {
    sightings: Vec<Sighting>,
    /// Whose bytes were seen at a point at a time.
    truth: HashMap<(PointId, u64), BTreeSet<usize>>,
    fates: Vec<Fate>,
}

impl Run {
    /// Takes in what was seen of some packets; no two records of a point have the same time.
    fn see(&mut self, mut sighting: Sighting, labels: impl IntoIterator<Item = usize>) {
        while self.truth.contains_key(&(sighting.point.id, sighting.time_ns)) {
            sighting.time_ns += 1;
        }
        self.truth.insert((sighting.point.id, sighting.time_ns), labels.into_iter().collect());
        self.sightings.push(sighting);
    }

    /// A packet goes its way, cut on the wire where it stands for several. Gives what was seen first behind the wire.
    fn send(
        &mut self,
        (world, random, weather): (&World, &mut Random, Weather),
        start_ns: u64,
        packet: &Packet,
        way: &Way,
        fate: Fate,
    ) -> Option<Packet> {
        let label = self.fates.len();
        let is_lost = random.percent(weather.lost);
        let is_copied = !is_lost && random.percent(weather.copied);
        let held_up = if weather.held_up_ns == 0 { 0 } else { random.below(weather.held_up_ns) };
        let walk = world.walk(start_ns, packet, way.steps);
        self.fates.push(Fate { delivered: !is_lost, ..fate });
        let mut arrived = None;
        for (index, sighting) in walk.iter().enumerate() {
            let is_far = index >= way.far;
            if is_far && is_lost {
                break;
            }
            let on_wire = index == way.far || index == way.far + 1;
            let pieces = if packet.gso_segments > 1 && on_wire {
                cut(&sighting.packet, SEGMENT)
            } else {
                vec![sighting.packet.clone()]
            };
            for (number, piece) in pieces.into_iter().enumerate() {
                let mut sighting = Sighting { packet: piece, ..sighting.clone() };
                sighting.time_ns += number as u64 + if is_far { held_up } else { 0 };
                if index == way.far {
                    arrived.get_or_insert_with(|| sighting.packet.clone());
                }
                self.see(sighting, [label]);
            }
        }
        if is_copied {
            let copy = self.fates.len();
            self.fates.push(Fate { delivered: true, copy_of: Some(label), ..Fate::default() });
            for sighting in &walk[way.far..] {
                for (number, piece) in pieces_behind_wire(packet, &sighting.packet).into_iter().enumerate() {
                    let mut sighting = Sighting { packet: piece, ..sighting.clone() };
                    sighting.time_ns += held_up + 40_000 + number as u64;
                    self.see(sighting, [copy]);
                }
            }
        }
        arrived
    }
}

impl Run {
    fn take_copies_for_originals(&mut self) {
        for labels in self.truth.values_mut() {
            *labels = labels.iter().map(|label| self.fates[*label].copy_of.unwrap_or(*label)).collect();
        }
        for label in 0..self.fates.len() {
            if let Some(original) = self.fates[label].copy_of {
                self.fates[original].delivered = true;
                self.fates[original].copy_of = Some(original);
            }
        }
    }
}

impl Run {
    /// Two segments in a row, which the receiver merges behind its NIC and tunnel.
    fn send_to_be_merged(&mut self, world: &World, start_ns: u64, first: &Packet, way: &Way) {
        let mut second = first.clone();
        second.sequence = first.sequence.wrapping_add(SEGMENT);
        second.identification += 1;
        let mut merged = first.clone();
        merged.payload_length = 2 * SEGMENT;
        let label = self.fates.len();
        let walks =
            [world.walk(start_ns, first, way.steps), world.walk(start_ns + 300, &stamp(second), way.steps)];
        for (label, walk) in (label..).zip(&walks) {
            self.fates.push(Fate { delivered: true, ..Fate::default() });
            walk[..way.far + 2].iter().for_each(|sighting| self.see(sighting.clone(), [label]));
        }
        let merged = world.walk(start_ns + 300, &gso(merged, SEGMENT as u16), way.steps);
        for sighting in &merged[way.far + 2..] {
            self.see(sighting.clone(), [label, label + 1]);
        }
    }
}

/// A copy of a packet that was cut is a copy of its pieces, which nothing merges again.
fn pieces_behind_wire(packet: &Packet, seen: &Packet) -> Vec<Packet> {
    if packet.gso_segments > 1 { cut(seen, SEGMENT) } else { vec![seen.clone()] }
}

fn simulate(world: &World, seed: u64, weather: Weather) -> Run {
    let mut random = Random(seed | 1);
    let mut run = Run { sightings: Vec::new(), truth: HashMap::new(), fates: Vec::new() };
    let mut sequence = 1000 * SEGMENT;
    let mut now = SECOND;
    let there = [Way { steps: ROUTED, far: 4 }, Way { steps: ROUTED_SERVICE, far: 4 }];
    let back = [Way { steps: ANSWER, far: 4 }, Way { steps: SERVICE_ANSWER, far: 4 }];
    let timestamps = random.percent(50);
    while run.fates.len() < 60 {
        now += 1_700 + random.below(9_000);
        let service = usize::from(random.percent(40));
        let port = 40_000 + random.below(3) as u16;
        let to = [(HTTPBIN, 80), (CLUSTER_IP, 80)][service];
        sequence = sequence.wrapping_add(4 * SEGMENT);
        let stamped = |mut packet: Packet| {
            if !timestamps {
                packet.tcp_timestamps = None;
            }
            if packet.gso_segments > 1 { gso(packet, SEGMENT as u16) } else { stamp(packet) }
        };
        let context = (world, &mut random, weather);
        match context.1.below(9) {
            0 => {
                let syn = stamped(tcp((CURL, port), to, sequence, 0, SYN));
                run.send(context, now, &syn, &there[service], Fate::default());
            }
            1 => {
                let ack = stamped(tcp((CURL, port), to, sequence, 0, ACK));
                run.send(context, now, &ack, &there[service], Fate::default());
            }
            2 => {
                let whole = stamped(gso(tcp((CURL, port), to, sequence, 3 * SEGMENT, ACK), SEGMENT as u16));
                run.send(context, now, &whole, &there[service], Fate::default());
            }
            3 => {
                // Sent, and after a while sent again.
                let first = stamped(tcp((CURL, port), to, sequence, SEGMENT, ACK));
                let mut again = first.clone();
                again.tcp_timestamps = again.tcp_timestamps.map(|(value, echo)| (value + 30, echo));
                again.identification = (again.identification + 20_000) & 0xffff;
                let label = run.fates.len();
                run.send((world, context.1, weather), now, &first, &there[service], Fate::default());
                let fate = Fate { retransmission_of: Some(label), ..Fate::default() };
                run.send(context, now + 30 * MS, &stamp(again), &there[service], fate);
            }
            4 => {
                let from = [(HTTPBIN, 80), (HTTPBIN, 8080)][service];
                let answer = stamped(tcp(from, (CURL, port), sequence, SEGMENT, ACK));
                run.send(context, now, &answer, &back[service], Fate::default());
            }
            8 => {
                let first = stamped(tcp((CURL, port), to, sequence, SEGMENT, ACK));
                run.send_to_be_merged(world, now, &first, &there[service]);
            }
            5 => {
                // A datagram that nobody listens for.
                let id = 100 + run.fates.len() as u32;
                let datagram = udp((CURL, port), (HTTPBIN, 9), 40, id, id);
                let label = run.fates.len();
                let arrived =
                    run.send((world, context.1, weather), now, &datagram, &there[0], Fate::default());
                if let Some(arrived) = arrived {
                    let error = icmp_error(HTTPBIN, &arrived, 3, 3);
                    let fate = Fate { quotes: Some(label), ..Fate::default() };
                    run.send(context, now + MS, &error, &back[0], fate);
                }
            }
            _ => {
                let content =
                    if context.1.percent(weather.equal) { 1 } else { 1000 + run.fates.len() as u32 };
                let datagram = udp((CURL, 5000), (HTTPBIN, 53), 40, 0, content);
                run.send(context, now, &datagram, &there[0], Fate::default());
            }
        }
    }
    run
}

/// The order in which records come: of each clock in time order, the streams interleaved at random.
fn interleave(random: &mut Random, mut sightings: Vec<Sighting>) -> Vec<Sighting> {
    sightings.sort_by_key(|sighting| sighting.time_ns);
    let (mut near, mut far): (Vec<_>, Vec<_>) =
        sightings.into_iter().partition(|sighting| &*sighting.point.node == "n1");
    near.reverse();
    far.reverse();
    let mut out = Vec::with_capacity(near.len() + far.len());
    let mut run = 0;
    let mut from_near = true;
    while !near.is_empty() || !far.is_empty() {
        if run == 0 {
            run = 1 + random.below(40);
            from_near = random.percent(50);
        }
        run -= 1;
        let (first, second) = if from_near { (&mut near, &mut far) } else { (&mut far, &mut near) };
        out.extend(first.pop().or_else(|| second.pop()));
    }
    out
}

/// The packet that a trajectory is about, if all its hops agree.
fn label_of(run: &Run, trajectory: &Trajectory) -> BTreeSet<usize> {
    let mut hops = trajectory.hops.iter().map(|hop| &run.truth[&(hop.point.id, hop.time_ns)]);
    let first = hops.next().cloned().unwrap_or_default();
    hops.fold(first, |common, here| common.intersection(here).copied().collect())
}

fn weather(lost: u64, copied: u64, held_up_us: u64, equal: u64) -> Weather {
    Weather { lost, copied, held_up_ns: held_up_us * 1000, equal }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn nothing_that_is_told_is_wrong_whatever_is_lost_and_withheld(
        seed in any::<u64>(),
        one_clock in any::<bool>(),
        withheld in proptest::sample::select(vec![0u64, 0, 1, 10, 50]),
        lost in 0u64..20,
        copied in proptest::sample::select(vec![0u64, 0, 10]),
        held_up_us in proptest::sample::select(vec![0u64, 0, 30]),
        equal in proptest::sample::select(vec![0u64, 0, 60]),
        shuffled in any::<bool>(),
    ) {
        let world = if one_clock { two_nodes_with_one_clock("vxlan") } else { two_nodes(false, "vxlan") };
        // The copy of a datagram that nothing numbers is as good as an equal one sent later, which may have been lost:
        // docs/joining.md says so.
        let copied = if equal > 0 { 0 } else { copied };
        let mut run_of = simulate(&world, seed, weather(lost, copied, held_up_us, equal));
        let mut random = Random(seed.rotate_left(17) | 1);
        let mut sightings = std::mem::take(&mut run_of.sightings);
        sightings.retain(|_| !random.percent(withheld));
        let mut sightings = interleave(&mut random, sightings);
        // A stream keeps its order, which is all that packets of equal content have.
        if shuffled && equal == 0 && copied == 0 {
            random.shuffle(&mut sightings);
        }
        let mut correlator = world.correlator(CorrelatorConfig::default());
        if withheld > 0 {
            correlator.report_loss(&"n1".into(), 1, SECOND);
            correlator.report_loss(&"n2".into(), 1, SECOND);
        }

        let out = run(&mut correlator, sightings.clone());

        let by_id: HashMap<u64, &Trajectory> = out.iter().map(|told| (told.id, told)).collect();
        if withheld > 0 {
            // Where one record of two is missing, nobody can tell a packet from the copy that the network made of it.
            run_of.take_copies_for_originals();
        }
        let labels: HashMap<u64, BTreeSet<usize>> =
            out.iter().map(|told| (told.id, label_of(&run_of, told))).collect();
        let mut shown = BTreeSet::new();
        for told in &out {
            let about = &labels[&told.id];
            shown.extend(told.hops.iter().map(|hop| (hop.point.id, hop.time_ns)));
            if told.ambiguous.is_some() {
                continue;
            }
            let fates = || about.iter().map(|label| &run_of.fates[*label]);
            prop_assert!(!about.is_empty(), "different packets in one trajectory: {:?} of {:?}, all: {:?}", hooks(told),
                told.hops.iter().map(|hop| (hop.time_ns, &run_of.truth[&(hop.point.id, hop.time_ns)])).collect::<Vec<_>>(),
                out.iter().filter(|other| other.hops[0].packet.fingerprint == told.hops[0].packet.fingerprint).map(|other| (other.id, other.ambiguous.is_some(), other.hops.iter().map(|hop| (hop.time_ns, &run_of.truth[&(hop.point.id, hop.time_ns)])).collect::<Vec<_>>())).collect::<Vec<_>>());
            match &told.verdict {
                Verdict::Delivered => prop_assert!(fates().any(|fate| fate.delivered), "{:?}", hooks(told)),
                Verdict::Lost { .. } => {
                    let sure = withheld == 0 && fates().any(|fate| !fate.delivered);
                    let others = || out.iter().filter(|other| labels[&other.id] == *about);
                    prop_assert!(sure, "{:?} {:?} {:?}", told.verdict, told.hops[0].packet,
                        others().map(|other| (hooks(other), &other.verdict)).collect::<Vec<_>>());
                }
                _ => {}
            }
            let is_sure = |id: u64| by_id[&id].ambiguous.is_none();
            let names = |id: u64, of: fn(&Fate) -> Option<usize>| {
                fates().any(|fate| of(fate).is_some_and(|label| labels[&id].contains(&label)))
            };
            if let Some(id) = told.retransmission_of.filter(|id| is_sure(*id)) {
                // A copy of a retransmission is one as well.
                let of_copy = about.iter().any(|label| run_of.fates[*label].copy_of.is_some());
                prop_assert!(of_copy || names(id, |fate| fate.retransmission_of)
                    || labels[&id].iter().any(|label| run_of.fates[*label].copy_of.is_some()));
                prop_assert!(told.retransmission_after_ns.is_some_and(|ns| ns > 29 * MS));
            }
            if let Some(id) = told.duplicate_of.filter(|id| is_sure(*id)) {
                prop_assert!(names(id, |fate| fate.copy_of), "{about:?} is no copy of {:?}", labels[&id]);
            }
            if let Some(id) = told.quotes.filter(|id| is_sure(*id)) {
                prop_assert!(names(id, |fate| fate.quotes) || fates().any(|fate| fate.copy_of.is_some())
                    || labels[&id].iter().any(|label| run_of.fates[*label].copy_of.is_some()));
            }
        }
        prop_assert!(sightings.len() >= shown.len());
        prop_assert_eq!(correlator.counters().open, 0);
        if withheld == 0 && copied == 0 && equal == 0 && held_up_us == 0 && !shuffled {
            prop_assert_eq!(out.len(), run_of.fates.len());
            for told in &out {
                prop_assert!(told.ambiguous.is_none() && !matches!(told.verdict, Verdict::Unknown { .. }),
                    "{:?} {:?}", told.ambiguous, told.verdict);
                let fate = labels[&told.id].iter().map(|label| &run_of.fates[*label]).next().unwrap();
                prop_assert_eq!(told.quotes.is_some(), fate.quotes.is_some());
            }
        }
    }

    /// Numbers of points, devices and clocks, marks of follows and what the clocks show are a machine's own.
    #[test]
    fn what_holds_on_one_machine_only_does_not_change_what_is_told(
        seed in any::<u64>(),
        shifts in (0u64..1 << 40, 0u64..1 << 40),
        withheld in proptest::sample::select(vec![0u64, 10]),
    ) {
        let world = two_nodes(false, "vxlan");
        let mut random = Random(seed | 1);
        let mut sightings = simulate(&world, seed, weather(10, 5, 20, 30)).sightings;
        sightings.retain(|_| !random.percent(withheld));
        let sightings = interleave(&mut random, sightings);

        let mut numbers: Vec<u32> = (0..world.points.len() as u32).collect();
        random.shuffle(&mut numbers);
        let scrambled: HashMap<PointId, Arc<ObservationPoint>> = world
            .points
            .iter()
            .map(|point| {
                let mut other = ObservationPoint::clone(point);
                other.id = PointId(numbers[point.id.0 as usize]);
                other.ifindex = 7 + 3 * numbers[point.id.0 as usize];
                other.clock = ClockId(1 - point.clock.0);
                (point.id, Arc::new(other))
            })
            .collect();
        let elsewhere: Vec<Sighting> = sightings
            .iter()
            .map(|sighting| Sighting {
                point: scrambled[&sighting.point.id].clone(),
                time_ns: sighting.time_ns + if sighting.point.clock.0 == 0 { shifts.0 } else { shifts.1 },
                follows: sighting.follows << (seed % 60),
                packet: sighting.packet.clone(),
                frame: None,
            })
            .collect();

        let here = world.correlate(sightings);
        let mut correlator = Correlator::new(CorrelatorConfig::default(), world.book.clone());
        scrambled.values().for_each(|point| correlator.add_point(point.clone(), 0));
        let there = run(&mut correlator, elsewhere);

        // The order in which they are told is no part of what is told.
        let in_order = |mut told: Vec<Trajectory>| {
            told.sort_by_cached_key(|told| {
                let packet = &told.hops[0].packet;
                (packet.fingerprint, packet.sequence, packet.payload_length, hooks(told))
            });
            told
        };
        let (here, there) = (in_order(here), in_order(there));
        prop_assert_eq!(here.len(), there.len());
        for (here, there) in here.iter().zip(&there) {
            prop_assert_eq!(hooks(here), hooks(there));
            prop_assert_eq!(
                here.hops.iter().map(|hop| (hop.segments, &hop.packet)).collect::<Vec<_>>(),
                there.hops.iter().map(|hop| (hop.segments, &hop.packet)).collect::<Vec<_>>()
            );
            // Estimates are rounded where the clocks stand.
            let exact = |t: &Trajectory| {
                let exact = |leg: &&Leg| matches!(leg.latency, Latency::Exact { .. });
                t.legs.iter().filter(exact).copied().collect::<Vec<_>>()
            };
            prop_assert_eq!(exact(here), exact(there));
            prop_assert_eq!(&here.missing, &there.missing);
            prop_assert_eq!(
                std::mem::discriminant(&here.verdict), std::mem::discriminant(&there.verdict)
            );
            prop_assert_eq!((&here.ambiguous, here.notes.len()), (&there.ambiguous, there.notes.len()));
            let relations = |told: &Trajectory| {
                let named = [told.retransmission_of, told.duplicate_of, told.quotes].map(|id| id.is_some());
                (named, told.retransmission_after_ns)
            };
            prop_assert_eq!(relations(here), relations(there));
        }
    }
}
