//! From the joined sightings of one packet to its trajectory: hops in path order, legs, missing hops, verdict.

use crate::trajectory::correlate::dropped::{self, DroppedSegment};
use crate::trajectory::correlate::open::{Open, Segment};
use crate::trajectory::correlate::range::Range;
use crate::trajectory::drops;
use crate::trajectory::expect::topology::{Learnt, Topology};
use crate::trajectory::expect::{self, End, Expectation, Facts, Seen, Step};
use crate::trajectory::model::{
    Directory, DropSighting, Dropped, Frame, Hop, Latency, Leg, MissingHop, NoEstimate, Owner, Packet,
    PointId, Trajectory, Verdict,
};
use crate::trajectory::order::{self, Ends, Place};
use crate::trajectory::rewrite::{self, Endpoint, Judgement};

/// What judging a packet needs beside its sightings.
pub(super) struct Context<'a, D: ?Sized> {
    pub(super) directory: &'a D,
    pub(super) topology: &'a Topology,
    pub(super) learnt: &'a Learnt,
    pub(super) lost_on: &'a dyn Fn(&str) -> u64,
    pub(super) sees_snat: bool,
    pub(super) cut_short: Option<&'static str>,
}

/// All sightings of one packet at one point.
#[derive(Clone, Copy)]
struct Gathered {
    /// Index of the earliest of them.
    first: usize,
    segments: u32,
    bytes: u64,
}

/// One packet's hops in path order and what is to be said about them.
pub(super) struct Judged {
    gathered: Vec<Gathered>,
    range: Range,
    pub(super) expectation: Expectation,
    /// All hops show all bytes.
    pub(super) is_whole: bool,
}

/// Judges the packets that an open one turns out to be. Mostly one; several if the sightings of a merged packet
/// came before those of the packets that were merged into it.
pub(super) fn judge<D: Directory + ?Sized>(open: &Open, context: &Context<'_, D>) -> Vec<Judged> {
    let all = gather(open, open.range, context.directory);
    let units = units(open, &all);
    if units.len() == 1 {
        return vec![judge_unit(open, all, open.range, context)];
    }
    units
        .into_iter()
        .map(|range| judge_unit(open, gather(open, range, context.directory), range, context))
        .collect()
}

fn judge_unit<D: Directory + ?Sized>(
    open: &Open,
    gathered: Vec<Gathered>,
    range: Range,
    context: &Context<'_, D>,
) -> Judged {
    let is_whole = |hop: &Gathered| !open.by_range || hop.bytes >= u64::from(range.length);
    let seen: Vec<Seen<'_>> = gathered
        .iter()
        .map(|hop| {
            let sighting = &open.segments[hop.first].sighting;
            Seen {
                point: &sighting.point,
                packet: &sighting.packet,
                time_ns: sighting.time_ns,
                whole: is_whole(hop),
            }
        })
        .collect();
    let (source, destination) = owners(&seen, context);
    let facts = Facts {
        topology: context.topology,
        learnt: context.learnt,
        source: &source,
        destination: &destination,
        lost_on: context.lost_on,
        sees_snat: context.sees_snat,
        cut_short: context.cut_short,
    };
    let expectation = expect::judge(&seen, &facts);
    let is_whole = gathered.iter().all(is_whole);
    Judged { gathered, range, expectation, is_whole }
}

fn owners<D: Directory + ?Sized>(seen: &[Seen<'_>], context: &Context<'_, D>) -> (Owner, Owner) {
    let (Some(first), Some(last)) = (seen.first(), seen.last()) else {
        return (Owner::Unknown, Owner::Unknown);
    };
    let to = context
        .learnt
        .destination(last.packet.protocol, Endpoint::source(last.packet), Endpoint::destination(last.packet))
        .map_or(last.packet.destination, |endpoint| endpoint.address);
    (context.directory.owner(first.packet.source, first.time_ns), context.directory.owner(to, last.time_ns))
}

/// The hops of the bytes in `range`, in path order.
fn gather<D: Directory + ?Sized>(open: &Open, range: Range, directory: &D) -> Vec<Gathered> {
    let mut hops: Vec<Gathered> = Vec::with_capacity(open.segments.len().min(16));
    for (i, segment) in open.segments.iter().enumerate() {
        let common = if open.by_range { range.common(segment.range) } else { 1 };
        if common == 0 {
            continue;
        }
        let sighting = &segment.sighting;
        let hop = hops.iter_mut().find(|hop| open.segments[hop.first].sighting.point.id == sighting.point.id);
        match hop {
            None => hops.push(Gathered { first: i, segments: 1, bytes: common.into() }),
            Some(hop) => {
                hop.segments += 1;
                hop.bytes += u64::from(common);
                if sighting.time_ns < open.segments[hop.first].sighting.time_ns {
                    hop.first = i;
                }
            }
        }
    }
    let one_clock =
        open.segments.windows(2).all(|pair| pair[0].sighting.point.clock == pair[1].sighting.point.clock);
    let nodes = if one_clock { (None, None) } else { end_nodes(open, directory) };
    let ends = Ends { source: nodes.0.as_deref(), destination: nodes.1.as_deref() };
    order::sort(&mut hops, ends, |hop| {
        let sighting = &open.segments[hop.first].sighting;
        Place { point: &sighting.point, time_ns: sighting.time_ns, ttl: sighting.packet.ttl }
    });
    hops
}

type Node = Option<std::sync::Arc<str>>;

/// The nodes of the two ends. Of two addresses that an end had, the pod's is its own; a node's or a Service's
/// stands for it.
pub(super) fn end_nodes<D: Directory + ?Sized>(open: &Open, directory: &D) -> (Node, Node) {
    let at_ns = open.segments.first().map_or(0, |segment| segment.sighting.time_ns);
    let node = |values: [Option<Endpoint>; 2]| {
        let mut found = None;
        for value in values.into_iter().flatten() {
            match directory.owner(value.address, at_ns) {
                Owner::Pod { node, .. } => return Some(node),
                Owner::Node(node) => found = Some(node),
                Owner::Service(_) | Owner::Unknown => {}
            }
        }
        found
    };
    (
        node([Some(open.sources.first), open.sources.second]),
        node([Some(open.destinations.first), open.destinations.second]),
    )
}

/// The packets as first seen on their way: each is a trajectory of its own, whatever later hops merged.
fn units(open: &Open, hops: &[Gathered]) -> Vec<Range> {
    if !open.by_range {
        return vec![open.range];
    }
    let mut units: Vec<Range> = Vec::new();
    for hop in hops {
        let point = open.segments[hop.first].sighting.point.id;
        for segment in open.segments.iter().filter(|segment| segment.sighting.point.id == point) {
            let mut taken = units.clone();
            taken.sort_by_key(|range| range.offset_from(open.range.start));
            let clipped = clip(segment.range, open.range);
            units.extend(clipped.into_iter().flat_map(|range| range.gaps(&taken)));
        }
        let covered: u64 = units.iter().map(|range| u64::from(range.length)).sum();
        if covered >= u64::from(open.range.length) {
            break;
        }
    }
    if units.is_empty() { vec![open.range] } else { units }
}

fn clip(range: Range, bounds: Range) -> Option<Range> {
    let length = bounds.common(range);
    let start = if range.offset_from(bounds.start) < 0 { bounds.start } else { range.start };
    (length > 0).then_some(Range { start, length })
}

impl Judged {
    /// Whether the packet arrived and nothing is missing that is not explained.
    pub(super) fn is_complete(&self) -> bool {
        self.is_whole && self.expectation.is_complete()
    }

    /// Whether the packet was thrown away, and all hops before that are known.
    pub(super) fn is_dropped<D: Directory + ?Sized>(&self, open: &Open, directory: &D) -> bool {
        let mut before_end =
            self.expectation.steps.iter().rev().skip_while(|step| matches!(step, Step::Missing(_)));
        self.deciding_drop(open, directory).is_some()
            && before_end.all(|step| match step {
                Step::Seen(_) => true,
                Step::Missing(absent) => absent.why.is_explained(),
            })
    }

    /// The drop that is its end.
    fn deciding_drop<'a, D: Directory + ?Sized>(
        &'a self,
        open: &'a Open,
        directory: &D,
    ) -> Option<&'a DropSighting> {
        let last = self.gathered.last().map(|hop| &open.segments[hop.first].sighting);
        let arrived = last.filter(|_| self.expectation.end == End::Delivered);
        dropped::deciding(self.dropped(open), arrived, directory)
    }

    /// What the kernel threw away of it.
    fn dropped<'a>(&'a self, open: &'a Open) -> impl Iterator<Item = &'a DropSighting> {
        let of_it = |dropped: &&DroppedSegment| !open.by_range || self.range.overlaps(dropped.range);
        open.drops.iter().filter(of_it).map(|dropped| &dropped.sighting)
    }

    /// The points passed, in order.
    pub(super) fn points<'a>(
        &'a self,
        open: &'a Open,
    ) -> impl Iterator<Item = &'a crate::trajectory::model::ObservationPoint> {
        self.gathered.iter().map(|hop| &*open.segments[hop.first].sighting.point)
    }

    /// The packet at each point passed, in order.
    fn packets<'a>(&'a self, open: &'a Open) -> impl Iterator<Item = (&'a Packet, u64)> {
        self.gathered.iter().map(|hop| {
            let sighting = &open.segments[hop.first].sighting;
            (&sighting.packet, sighting.time_ns)
        })
    }

    /// Remembers what this packet shows about paths and NAT.
    pub(super) fn teach(&self, open: &Open, learnt: &mut Learnt) {
        if self.is_complete() && !open.doubtful {
            let seen: Vec<Seen<'_>> = self
                .gathered
                .iter()
                .map(|hop| {
                    let sighting = &open.segments[hop.first].sighting;
                    Seen {
                        point: &sighting.point,
                        packet: &sighting.packet,
                        time_ns: sighting.time_ns,
                        whole: true,
                    }
                })
                .collect();
            expect::learn(learnt, &seen, &self.expectation);
        }
        if open.sources.second.is_none() && open.destinations.second.is_none() || open.doubtful {
            return;
        }
        let mut before: Option<&Packet> = None;
        for (packet, _) in self.packets(open) {
            if let Some(before) = before {
                teach_rewrite(learnt, before, packet);
            }
            before = Some(packet);
        }
    }

    /// What was captured of it at a point, in order of time.
    fn frames(&self, open: &Open, point: PointId) -> Vec<Frame> {
        let of_it = |segment: &&Segment| {
            segment.sighting.point.id == point && (!open.by_range || self.range.overlaps(segment.range))
        };
        let mut frames: Vec<_> = open
            .segments
            .iter()
            .filter(of_it)
            .filter_map(|segment| Some((segment.sighting.time_ns, segment.sighting.frame.clone()?)))
            .collect();
        frames.sort_by_key(|(time_ns, _)| *time_ns);
        frames.into_iter().map(|(_, frame)| frame).collect()
    }

    /// What a reader should know to judge the joining.
    fn notes<D: Directory + ?Sized>(&self, open: &Open, directory: &D) -> Vec<String> {
        let mut notes = Vec::new();
        if open.sources.second.is_some() || open.destinations.second.is_some() {
            let mut before: Option<&Packet> = None;
            for (packet, at_ns) in self.packets(open) {
                if let Some(before) = before {
                    note_rewrites(&mut notes, before, packet, directory, at_ns);
                }
                before = Some(packet);
            }
        }
        if open.by_range {
            for hop in &self.gathered {
                let segment = &open.segments[hop.first];
                if !self.range.contains(segment.range) {
                    notes.push(format!(
                        "merged with other packets at {}",
                        expect::describe(&segment.sighting.point)
                    ));
                    break;
                }
            }
        }
        if let Some((packet, _)) = self.packets(open).next()
            && packet.protocol == 17
            && packet.gso_segments > 1
            && !open.by_range
        {
            notes.push(format!(
                "stands for {} datagrams; only the first can be told apart after they are cut (no IPv4 id)",
                packet.gso_segments
            ));
        }
        notes
    }

    /// The trajectory, without id; `follows` of 0 means that nobody asked for it.
    pub(super) fn into_trajectory<D: Directory + ?Sized>(
        self,
        open: &Open,
        directory: &D,
        follows: u64,
    ) -> Trajectory {
        let complete = self.is_complete();
        let mut notes = self.notes(open, directory);
        let mut hops: Vec<Hop> = Vec::with_capacity(self.gathered.len());
        for hop in &self.gathered {
            let sighting = &open.segments[hop.first].sighting;
            hops.push(Hop {
                point: sighting.point.clone(),
                time_ns: sighting.time_ns,
                segments: hop.segments,
                packet: sighting.packet.clone(),
                frames: self.frames(open, sighting.point.id),
            });
        }
        let legs =
            hops.windows(2).enumerate().map(|(from, pair)| Leg { from, latency: latency(pair) }).collect();
        let verdict = self.verdict(open, &hops, directory, &mut notes);
        let is_dropped = matches!(verdict, Verdict::Dropped(_));
        let mut missing = Vec::new();
        let mut before: Option<usize> = None;
        for step in &self.expectation.steps {
            match step {
                Step::Seen(hop) => before = Some(*hop),
                Step::Missing(absent) => missing.push(MissingHop {
                    after: before.unwrap_or(0),
                    before_first: before.is_none(),
                    point: absent.describe(),
                    reason: if is_dropped && absent.why.is_open_end() {
                        "not reached".to_owned()
                    } else {
                        absent.reason()
                    },
                    explained: absent.why.is_explained(),
                }),
            }
        }
        let expected_hops = hops.len() + missing.iter().filter(|hop| !hop.explained).count();
        let mixed_up = open.doubtful || (!open.rivals.is_empty() && !complete);
        let by_order = open.undecided && !open.rivals.is_empty();
        let unnumbered = self.expectation.lost_records > 0 && !open.is_numbered();
        let ambiguous = (mixed_up || by_order || unnumbered).then(|| {
            let count = open.rivals.len() + 1;
            if !mixed_up && !by_order {
                "records were lost and nothing numbers this packet: a record of another one with the same content may \
                 have been taken for one of its own"
                    .to_owned()
            } else if mixed_up {
                format!(
                    "{count} packets with the same content were under way at the same time and records of some are \
                     missing: which record is whose is not certain"
                )
            } else {
                format!(
                    "{count} packets with the same content were between the same two nodes at the same time: only their \
                     order tells which is which, and a network may change it"
                )
            }
        });
        Trajectory {
            id: 0,
            follows,
            hops,
            legs,
            missing,
            expected_hops,
            lost_records: self.expectation.lost_records,
            verdict,
            retransmission_of: None,
            retransmission_after_ns: None,
            duplicate_of: None,
            quotes: None,
            ambiguous,
            notes,
        }
    }
}

impl Judged {
    fn verdict<D: Directory + ?Sized>(
        &self,
        open: &Open,
        hops: &[Hop],
        directory: &D,
        notes: &mut Vec<String>,
    ) -> Verdict {
        if let Some(drop) = self.deciding_drop(open, directory) {
            let before = |hop: &Hop| hop.point.clock == drop.clock && hop.time_ns <= drop.time_ns;
            let after = hops.iter().rposition(before).or_else(|| hops.len().checked_sub(1));
            let advice = drops::advice(drop, after.map(|hop| &*hops[hop].point), directory);
            return Verdict::Dropped(Box::new(Dropped { after, sighting: drop.clone(), advice }));
        }
        if let Some(drop) = self.dropped(open).find(|drop| drop.reason.starts_with("TCP_")) {
            notes.push(format!("the receiver's TCP discarded it: {}", drop.reason));
        }
        match &self.expectation.end {
            End::Delivered => Verdict::Delivered,
            End::Lost { after, expected } => {
                Verdict::Lost { after: hops[*after].point.id, expected: expected.clone() }
            }
            End::Unknown(reason) => Verdict::Unknown { reason: reason.clone() },
        }
    }
}

/// Between two clocks it is found out when the packet is told.
fn latency(pair: &[Hop]) -> Latency {
    if pair[0].point.clock != pair[1].point.clock {
        return Latency::Unknown(NoEstimate::OneDirectionOnly);
    }
    match pair[1].time_ns.checked_sub(pair[0].time_ns) {
        Some(ns) => Latency::Exact { ns },
        // Each hop has the time of the first piece that was recorded there.
        None => Latency::Unknown(NoEstimate::RecordsMissing),
    }
}

fn teach_rewrite(learnt: &mut Learnt, before: &Packet, after: &Packet) {
    let protocol = before.protocol;
    let (from, to) = (Endpoint::destination(before), Endpoint::destination(after));
    if !from.may_be(to)
        && let Some(port) = from.port
    {
        learnt.learn_translation(protocol, from.address, port);
        learnt.learn_destination(protocol, Endpoint::source(before), from, to);
    }
    let (original, alias) = (Endpoint::source(before), Endpoint::source(after));
    if !original.may_be(alias)
        && let Some(port) = alias.port
    {
        learnt.learn_translation(protocol, alias.address, port);
        learnt.learn_destination(protocol, to, alias, original);
    }
}

fn note_rewrites<D: Directory + ?Sized>(
    notes: &mut Vec<String>,
    before: &Packet,
    after: &Packet,
    directory: &D,
    at_ns: u64,
) {
    let protocol = before.protocol;
    let (from, to) = (Endpoint::source(before), Endpoint::source(after));
    if !from.may_be(to)
        && let Judgement::Unknown(kind) = rewrite::judge_source(directory, protocol, from, to, at_ns)
    {
        notes.push(unknown_rewrite(kind, from, to));
    }
    let (from, to) = (Endpoint::destination(before), Endpoint::destination(after));
    if !from.may_be(to)
        && let Judgement::Unknown(kind) = rewrite::judge_destination(directory, protocol, from, to, at_ns)
    {
        notes.push(unknown_rewrite(kind, from, to));
    }
}

fn unknown_rewrite(kind: rewrite::Rewrite, from: Endpoint, to: Endpoint) -> String {
    format!("the inventory does not know the {} {from} -> {to}", kind.name())
}
