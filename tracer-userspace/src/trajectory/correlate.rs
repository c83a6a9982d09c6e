//! Joins sightings of one packet, at many points, into its trajectory.
//!
//! **Identity is content.** A sighting joins a packet under way if its content says that it is the same packet:
//! the fingerprint, or for TCP payload the byte range among packets of equal acknowledgment and timestamps,
//! because GSO cuts a packet and GRO merges several. What only one machine knows (socket buffer, hash, mark) is
//! not in the input. Addresses do not identify; they must be explicable: at most one rewrite of the source and
//! one of the destination, which NAT could have made (see [`crate::trajectory::rewrite`]).
//!
//! **A packet passes a point once.** Seen there again it is another packet: a retransmission if sender's
//! timestamp or IPv4 id differ, else a packet with the same content. Among several such the oldest that lacks the
//! point takes the sighting, since devices keep order; if one of them ends incomplete, all say ambiguous.
//!
//! **Unit.** A packet as first seen on its way is one trajectory. Its hops may be cut into segments; a hop where
//! it was merged with others stands in the trajectory of each.
//!
//! **Time.** Sightings may come late and out of order, from several nodes. Times of different clocks are never
//! compared. How long to wait is measured in the observer's time, which [`Correlator::advance`] is told.
//!
//! **Memory** is bounded by [`CorrelatorConfig::max_open`]; what is evicted is counted.

mod assemble;
mod history;
mod index;
mod open;
mod range;

#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use crate::trajectory::correlate::assemble::{Context, Judged};
use crate::trajectory::correlate::history::History;
use crate::trajectory::correlate::index::{Content, Index, udp_gso_segments};
use crate::trajectory::correlate::open::{Handle, Open, Progress, Segment, Values};
use crate::trajectory::correlate::range::Range;
use crate::trajectory::expect::topology::{Learnt, Topology};
use crate::trajectory::hash::FastState;
use crate::trajectory::model::{Directory, ObservationPoint, Owner, PointId, Sighting, Trajectory};
use crate::trajectory::order::{
    BRIDGE_UP, Ends, NIC_IN, NIC_OUT, PEER_OUT, POD_IN, Place, Stage, TUNNEL_IN, is_upstream,
};
use crate::trajectory::rewrite::Endpoint;

/// Most packets of equal content that are kept apart at the same time.
const MAX_EQUAL: usize = 64;
/// An older packet of equal content that has waited this long at its last point while a younger one has not is
/// taken for lost, nanoseconds.
const STALLED_NS: u64 = 20_000_000;

/// Times in nanoseconds of the observer's clock.
#[derive(Clone, Debug)]
pub struct CorrelatorConfig {
    /// A packet with a missing hop is reported after this time without a new sighting.
    pub grace_ns: u64,
    /// A packet whose missing hops are all explained is reported after this time: a late record may still come.
    pub settle_ns: u64,
    /// Most packets under way; the oldest is evicted for the next.
    pub max_open: usize,
    /// What is followed: element n is bit n of [`Sighting::follows`]. Empty: everything is reported.
    pub scopes: Vec<FollowScope>,
}

impl Default for CorrelatorConfig {
    fn default() -> Self {
        Self { grace_ns: 300_000_000, settle_ns: 20_000_000, max_open: 262_144, scopes: Vec::new() }
    }
}

/// What one follow asked for. A packet is reported if at some hop its addresses are one of `a` and one of `b`.
#[derive(Clone, Debug, Default)]
pub struct FollowScope {
    /// Addresses of the followed pods.
    pub a: HashSet<IpAddr>,
    /// Addresses of the target; `None` for any.
    pub b: Option<HashSet<IpAddr>>,
}

impl FollowScope {
    fn wants(&self, source: IpAddr, destination: IpAddr) -> bool {
        let b = |address| self.b.as_ref().is_none_or(|set| set.contains(address));
        (self.a.contains(&source) && b(&destination)) || (self.a.contains(&destination) && b(&source))
    }
}

/// What became of the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sightings taken in.
    pub sightings: u64,
    /// Trajectories reported.
    pub reported: u64,
    /// Of these, how many are ambiguous.
    pub ambiguous: u64,
    /// Packets dropped from memory unreported because too many were under way.
    pub evicted: u64,
    /// Packets that no follow asked for (they share an address that NAT uses with a followed one).
    pub unrelated: u64,
    /// Packets under way or not yet reported.
    pub open: usize,
}

/// See the module's documentation.
pub struct Correlator<D> {
    config: CorrelatorConfig,
    directory: D,
    topology: Topology,
    learnt: Learnt,
    losses: Losses,
    index: Index,
    history: History,
    slots: Vec<Option<Open>>,
    free: Vec<u32>,
    spare: Vec<Vec<Segment>>,
    hash: FastState,
    /// Observer's clock.
    now_ns: u64,
    next_serial: u64,
    next_id: u64,
    /// In order of creation, for eviction.
    by_age: VecDeque<Handle>,
    /// Touched since the last `advance`.
    dirty: Vec<Handle>,
    /// In order of time: when it was touched.
    expiry: VecDeque<(u64, Handle)>,
    /// Complete with explained gaps, not yet stamped with a time.
    settled: Vec<Handle>,
    settling: VecDeque<(u64, Handle)>,
    /// Complete, waiting for packets of equal content.
    waiting: Vec<Handle>,
    /// To be closed at the next `advance`.
    overdue: Vec<Handle>,
    done: Vec<Done>,
    found: Vec<u32>,
    counters: Counters,
}

/// Finished, to be numbered and reported.
struct Done {
    serial: u64,
    repeats: Option<Handle>,
    trajectory: Trajectory,
}

/// Losses reported by nodes, in the observer's time.
#[derive(Default)]
struct Losses {
    events: VecDeque<(u64, Arc<str>, u64)>,
}

impl Losses {
    fn since(&self, node: &str, from_ns: u64) -> u64 {
        self.events
            .iter()
            .rev()
            .take_while(|(at_ns, _, _)| *at_ns >= from_ns)
            .filter(|(_, lossy, _)| &**lossy == node)
            .map(|(_, _, records)| records)
            .sum()
    }
}

impl<D: Directory> Correlator<D> {
    /// `directory` says whom addresses belong to.
    #[must_use]
    pub fn new(config: CorrelatorConfig, directory: D) -> Self {
        Self {
            config,
            directory,
            topology: Topology::default(),
            learnt: Learnt::default(),
            losses: Losses::default(),
            index: Index::default(),
            history: History::new(),
            slots: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            hash: FastState::default(),
            now_ns: 0,
            next_serial: 1,
            next_id: 1,
            by_age: VecDeque::new(),
            dirty: Vec::new(),
            expiry: VecDeque::new(),
            settled: Vec::new(),
            settling: VecDeque::new(),
            waiting: Vec::new(),
            overdue: Vec::new(),
            done: Vec::new(),
            found: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Tells of an observation point; `since_ns` is when it was attached, in its own clock. Hops are expected at
    /// these points only, so tell of all of them, before their sightings.
    pub fn add_point(&mut self, point: Arc<ObservationPoint>, since_ns: u64) {
        self.topology.add(point, since_ns);
    }

    /// Tells that a point is gone with its device.
    pub fn remove_point(&mut self, id: PointId) {
        self.topology.remove(id);
    }

    /// Replaces what is followed, as pods come and go.
    pub fn set_scopes(&mut self, scopes: Vec<FollowScope>) {
        self.config.scopes = scopes;
    }

    /// Tells that `node` lost `records` records; `at_ns` is the observer's time at which that was found out.
    pub fn report_loss(&mut self, node: &Arc<str>, records: u64, at_ns: u64) {
        if records == 0 {
            return;
        }
        let at_ns = at_ns.max(self.losses.events.back().map_or(0, |event| event.0));
        self.losses.events.push_back((at_ns, node.clone(), records));
        if self.losses.events.len() > 4096 {
            // Merge the two oldest rather than forget one.
            if let Some((_, node, records)) = self.losses.events.pop_front()
                && let Some(next) = self.losses.events.iter_mut().find(|event| event.1 == node)
            {
                next.2 += records;
            }
        }
    }

    /// What became of the input so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters { open: self.live() + self.done.len(), ..self.counters }
    }

    /// Takes in a sighting, in any order.
    pub fn push(&mut self, sighting: Sighting) {
        self.counters.sightings += 1;
        if !self.topology.contains(sighting.point.id) {
            self.topology.add(sighting.point.clone(), 0);
        }
        match Content::of(&sighting.packet, self.hash) {
            Content::Whole { key } => self.push_whole(sighting, key),
            Content::Bytes { key, range } => self.push_bytes(sighting, key, range),
        }
    }

    /// Lets the observer's time pass to `now_ns` and reports the packets that are finished.
    pub fn advance(&mut self, now_ns: u64, emit: &mut impl FnMut(Trajectory)) {
        self.now_ns = self.now_ns.max(now_ns);
        let now = self.now_ns;
        for handle in std::mem::take(&mut self.dirty) {
            if let Some(open) = self.get_mut(handle) {
                open.touched_ns = now;
                open.dirty = false;
                self.expiry.push_back((now, handle));
            }
        }
        let due = now + self.config.settle_ns;
        let settled = std::mem::take(&mut self.settled);
        self.settling.extend(settled.into_iter().map(|handle| (due, handle)));
        while self.settling.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, handle)) = self.settling.pop_front() {
                self.close_if_complete(handle);
            }
        }
        for handle in std::mem::take(&mut self.overdue) {
            self.close(handle, None);
        }
        while self.expiry.front().is_some_and(|(touched, _)| touched + self.config.grace_ns <= now) {
            let Some((touched, handle)) = self.expiry.pop_front() else { break };
            let is_due = |open: &Open| {
                open.touched_ns == touched && !open.dirty && open.progress == Progress::UnderWay
            };
            if self.get(handle).is_some_and(is_due) {
                self.expire(handle);
            }
        }
        for handle in std::mem::take(&mut self.waiting) {
            if self.has_unresolved_rivals(handle) {
                self.waiting.push(handle);
            } else {
                self.close(handle, None);
            }
        }
        let horizon = now.saturating_sub(64 * self.config.grace_ns);
        while self.losses.events.front().is_some_and(|event| event.0 < horizon) {
            self.losses.events.pop_front();
        }
        self.report(emit, false);
    }

    /// Reports all that is left; packets under way say that the run ended.
    pub fn finish(&mut self, emit: &mut impl FnMut(Trajectory)) {
        self.dirty.clear();
        let mut left: Vec<Handle> = (0u32..)
            .zip(&self.slots)
            .filter_map(|(slot, open)| open.as_ref().map(|open| Handle { slot, serial: open.serial }))
            .collect();
        left.sort_by_key(|handle| handle.serial);
        for handle in left {
            let ended = self.get(handle).is_some_and(|open| {
                open.touched_ns == 0 || open.touched_ns + self.config.grace_ns > self.now_ns
            });
            self.close(handle, ended.then_some("the run ended while the packet was under way"));
        }
        self.waiting.clear();
        self.report(emit, true);
    }

    fn push_whole(&mut self, sighting: Sighting, key: u64) {
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        self.index.whole(key, &mut found);
        let chosen = self.choose(&found, &sighting);
        let crowded = found.len() >= MAX_EQUAL;
        if chosen.is_none() && crowded {
            let oldest = found[0];
            if let Some(handle) = self.handle_of(oldest) {
                self.index.remove_whole(key, oldest);
                self.overdue.push(handle);
            }
        }
        self.found = found;
        if let Some(slot) = chosen {
            let range = self.range_in(slot, &sighting);
            self.join(slot, sighting, range);
            return;
        }
        if let Some((slot, range)) = self.find_udp(&sighting) {
            self.join(slot, sighting, range);
            return;
        }
        self.open_whole(sighting, key);
    }

    fn open_whole(&mut self, sighting: Sighting, key: u64) {
        let packet = &sighting.packet;
        let gso = udp_gso_segments(packet);
        let (by_range, range) = match gso {
            Some(_) => (true, Range { start: 0, length: packet.payload_length }),
            None => (false, Range::WHOLE),
        };
        let identification = packet.identification;
        let slot = self.open(sighting, key, range, by_range);
        self.index.insert_whole(key, slot);
        if let Some(segments) = gso {
            self.index.insert_udp(identification, segments, slot);
        }
        self.after_join(slot);
    }

    /// The best of several packets of equal content; ties are remembered as rivals.
    fn choose(&mut self, found: &[u32], sighting: &Sighting) -> Option<u32> {
        let mut best: Option<(u8, u32)> = None;
        let mut ties: Vec<u32> = Vec::new();
        for &slot in found {
            let Some(open) = self.slots[slot as usize].as_ref() else { continue };
            let Some(cost) = open.fit(sighting, self.range_in(slot, sighting), &self.directory) else {
                continue;
            };
            match best {
                Some((lowest, _)) if cost > lowest => {}
                Some((lowest, chosen)) if cost == lowest => {
                    let pass_over = self.slots[chosen as usize]
                        .as_ref()
                        .is_some_and(|older| has_stalled(older, open, sighting));
                    ties.push(if pass_over { chosen } else { slot });
                    if pass_over {
                        best = Some((cost, slot));
                    }
                }
                _ => {
                    best = Some((cost, slot));
                    ties.clear();
                }
            }
        }
        let (_, chosen) = best?;
        for other in ties {
            self.remember_rivals(chosen, other);
        }
        Some(chosen)
    }

    /// The bytes that a sighting stands for in a packet that it is matched to by fingerprint.
    fn range_in(&self, slot: u32, sighting: &Sighting) -> Range {
        match self.slots[slot as usize].as_ref() {
            Some(open) if open.by_range => {
                Range { start: 0, length: sighting.packet.payload_length.min(open.range.length) }
            }
            _ => Range::WHOLE,
        }
    }

    /// A UDP GSO packet that this datagram was cut from, and its bytes there.
    fn find_udp(&mut self, sighting: &Sighting) -> Option<(u32, Range)> {
        let packet = &sighting.packet;
        if packet.protocol != 17
            || !self.index.has_udp()
            || packet.gso_segments > 1
            || packet.fragment.is_some()
        {
            return None;
        }
        let mut found = Vec::new();
        self.index.udp(packet.identification, &mut found);
        let mut best: Option<(u8, u32, Range)> = None;
        for slot in found {
            let Some(open) = self.slots[slot as usize].as_ref() else { continue };
            let Some(whole) = open.segments.iter().map(|s| &s.sighting.packet).find(|p| p.gso_segments > 1)
            else {
                continue;
            };
            let number = (packet.identification as u16).wrapping_sub(whole.identification as u16);
            let start = u32::from(number) * u32::from(whole.gso_size);
            let length = whole.payload_length.saturating_sub(start).min(whole.gso_size.into());
            if number == 0 || length == 0 || packet.payload_length != length {
                continue;
            }
            let range = Range { start, length };
            if let Some(cost) = open.fit(sighting, range, &self.directory)
                && best.is_none_or(|(lowest, _, _)| cost < lowest)
            {
                best = Some((cost, slot, range));
            }
        }
        best.map(|(_, slot, range)| (slot, range))
    }

    fn push_bytes(&mut self, sighting: Sighting, key: u64, range: Range) {
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        self.index.bytes(key, range, &mut found);
        let chosen = self.choose_bytes(&found, &sighting, range);
        self.found = found;

        match chosen.as_slice() {
            [] => {
                let slot = self.open(sighting, key, range, true);
                self.index.insert_bytes(key, range, slot);
                self.after_join(slot);
            }
            [only] if self.contains(*only, range) => self.join(*only, sighting, range),
            _ if self.is_first_on_the_way(&chosen, &sighting, range) => {
                self.absorb(&chosen, sighting, key, range)
            }
            _ => self.share(&chosen, &sighting, key, range),
        }
    }

    /// Of the packets that have some of these bytes: for each byte at most one.
    fn choose_bytes(&mut self, found: &[u32], sighting: &Sighting, range: Range) -> Vec<u32> {
        let mut fits: Vec<(u8, u64, u32)> = Vec::with_capacity(found.len());
        for &slot in found {
            let Some(open) = self.slots[slot as usize].as_ref() else { continue };
            if let Some(cost) = open.fit(sighting, range, &self.directory) {
                fits.push((cost, open.serial, slot));
            }
        }
        if fits.len() > 1 {
            fits.sort_unstable();
        }
        let mut chosen: Vec<(u8, u32)> = Vec::with_capacity(fits.len());
        for (cost, _, slot) in fits {
            let Some(open) = self.slots[slot as usize].as_ref() else { continue };
            let clash = chosen.iter().position(|(_, other)| {
                self.slots[*other as usize].as_ref().is_some_and(|other| other.range.overlaps(open.range))
            });
            let Some(clash) = clash else {
                chosen.push((cost, slot));
                continue;
            };
            let (other_cost, other) = chosen[clash];
            if other_cost != cost {
                continue;
            }
            let pass_over =
                self.slots[other as usize].as_ref().is_some_and(|older| has_stalled(older, open, sighting));
            if pass_over {
                chosen[clash] = (cost, slot);
            }
            self.remember_rivals(other, slot);
        }
        chosen.into_iter().map(|(_, slot)| slot).collect()
    }

    fn contains(&self, slot: u32, range: Range) -> bool {
        self.slots[slot as usize].as_ref().is_some_and(|open| open.range.contains(range))
    }

    /// No sighting of the same bytes is known to be before this one: then it is the packet, and what was seen
    /// so far are its pieces.
    fn is_first_on_the_way(&self, chosen: &[u32], sighting: &Sighting, range: Range) -> bool {
        let here = Place { point: &sighting.point, time_ns: sighting.time_ns, ttl: sighting.packet.ttl };
        let node = |address: IpAddr| match self.directory.owner(address, sighting.time_ns) {
            Owner::Pod { node, .. } | Owner::Node(node) => Some(node),
            Owner::Service(_) | Owner::Unknown => None,
        };
        let (source, destination) = (node(sighting.packet.source), node(sighting.packet.destination));
        let ends = Ends { source: source.as_deref(), destination: destination.as_deref() };
        chosen.iter().filter_map(|slot| self.slots[*slot as usize].as_ref()).all(|open| {
            open.segments.iter().filter(|segment| segment.range.overlaps(range)).all(|segment| {
                let other = &segment.sighting;
                let there = Place { point: &other.point, time_ns: other.time_ns, ttl: other.packet.ttl };
                !is_upstream(there, here, ends)
            })
        })
    }

    /// Makes one packet of several, with the sighting that shows that they are one.
    fn absorb(&mut self, chosen: &[u32], sighting: Sighting, key: u64, range: Range) {
        let Some((&keep, others)) = chosen.split_first() else { return };
        let mut union = range;
        for &slot in others {
            if !self.is_part_of(slot, keep) {
                continue;
            }
            self.unlink(slot);
            let Some(mut other) = self.take(slot) else { continue };
            union = union.union(other.range);
            if let Some(open) = self.slots[keep as usize].as_mut() {
                for segment in other.segments.drain(..) {
                    if !segment.is_copy_in(open) {
                        open.add(segment.sighting, segment.range);
                    }
                }
            }
            self.recycle(other.segments);
        }
        if let Some(open) = self.slots[keep as usize].as_mut() {
            self.index.remove_bytes(key, open.range, keep);
            open.range = union.union(open.range);
            self.index.insert_bytes(key, open.range, keep);
        }
        self.join(keep, sighting, range);
    }

    /// Whether all sightings of one open packet can belong to another.
    fn is_part_of(&self, slot: u32, keep: u32) -> bool {
        let (Some(part), Some(open)) = (&self.slots[slot as usize], &self.slots[keep as usize]) else {
            return false;
        };
        part.segments.iter().all(|segment| {
            segment.is_copy_in(open) || open.fit(&segment.sighting, segment.range, &self.directory).is_some()
        })
    }

    /// A merged packet stands for several: it is a hop of each, and of the bytes nobody has shown yet.
    fn share(&mut self, chosen: &[u32], sighting: &Sighting, key: u64, range: Range) {
        let mut taken: Vec<Range> = chosen
            .iter()
            .filter_map(|slot| self.slots[*slot as usize].as_ref())
            .map(|open| open.range)
            .collect();
        taken.sort_by_key(|taken| taken.offset_from(range.start));
        for &slot in chosen {
            self.join(slot, sighting.clone(), range);
        }
        for gap in range.gaps(&taken) {
            let slot = self.open(sighting.clone(), key, gap, true);
            if let Some(segment) =
                self.slots[slot as usize].as_mut().and_then(|open| open.segments.first_mut())
            {
                segment.range = range;
            }
            self.index.insert_bytes(key, gap, slot);
            self.after_join(slot);
        }
    }

    /// Starts a packet with its first sighting; the caller puts it into the index.
    fn open(&mut self, sighting: Sighting, key: u64, range: Range, by_range: bool) -> u32 {
        while self.live() + self.done.len() >= self.config.max_open.max(1) && self.evict() {}
        let serial = self.next_serial;
        self.next_serial += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        let handle = Handle { slot, serial };
        let repeats = self.history.note(&sighting, handle);
        let mut segments = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(12));
        let sources = Values { first: Endpoint::source(&sighting.packet), second: None };
        let destinations = Values { first: Endpoint::destination(&sighting.packet), second: None };
        segments.push(Segment { sighting, range });
        self.slots[slot as usize] = Some(Open {
            serial,
            key,
            range,
            by_range,
            segments,
            sources,
            destinations,
            opened_ns: self.now_ns,
            touched_ns: 0,
            dirty: true,
            progress: Progress::UnderWay,
            waited: false,
            repeats,
            rivals: Vec::new(),
            doubtful: false,
        });
        self.by_age.push_back(handle);
        if self.by_age.len() > 2 * self.live() + 1024 {
            let mut by_age = std::mem::take(&mut self.by_age);
            by_age.retain(|handle| self.get(*handle).is_some());
            self.by_age = by_age;
        }
        self.dirty.push(handle);
        slot
    }

    fn join(&mut self, slot: u32, sighting: Sighting, range: Range) {
        let Some(open) = self.slots[slot as usize].as_mut() else { return };
        let handle = Handle { slot, serial: open.serial };
        let values = (open.sources.second, open.destinations.second);
        let gso = if open.by_range { None } else { udp_gso_segments(&sighting.packet) };
        if let Some(segments) = gso {
            // The datagrams so far are the first ones cut from this packet.
            for segment in &mut open.segments {
                segment.range = Range { start: 0, length: segment.sighting.packet.payload_length };
            }
            open.by_range = true;
            open.range = Range { start: 0, length: sighting.packet.payload_length };
            self.index.insert_udp(sighting.packet.identification, segments, slot);
        }
        let range = if gso.is_some() { open.range } else { range };
        open.add(sighting, range);
        if (open.sources.second, open.destinations.second) != values
            && let Some(segment) = open.segments.last()
        {
            let repeats = self.history.note(&segment.sighting, handle);
            open.repeats = open.repeats.or(repeats);
        }
        if !open.dirty {
            open.dirty = true;
            self.dirty.push(handle);
        }
        self.after_join(slot);
    }

    /// Closes the packet at once if its last hop was seen and nothing is missing.
    fn after_join(&mut self, slot: u32) {
        if !self.may_be_last(slot) {
            return;
        }
        let Some((judged, handle)) = self.judge_complete(slot) else { return };
        let Some(open) = self.slots[slot as usize].as_mut() else { return };
        let nothing_missing = judged.expectation.missing().next().is_none();
        if !nothing_missing || judged.points(open).any(|point| self.topology.has_other(&point.node)) {
            self.settled.push(handle);
            return;
        }
        open.progress = Progress::Complete;
        self.unlink(slot);
        if self.has_unresolved_rivals(handle) {
            self.waiting.push(handle);
        } else if let Some(open) = self.take(slot) {
            self.conclude(open, vec![judged]);
        }
    }

    /// Cheap test that spares most sightings the judgement.
    fn may_be_last(&self, slot: u32) -> bool {
        let Some(open) = self.slots[slot as usize].as_ref() else { return false };
        let latest = |segment: &Segment| match Stage::of(&segment.sighting.point) {
            POD_IN => true,
            NIC_OUT | NIC_IN | TUNNEL_IN | PEER_OUT | BRIDGE_UP => {
                let packet = &segment.sighting.packet;
                !matches!(
                    self.directory.owner(packet.destination, segment.sighting.time_ns),
                    Owner::Pod { .. } | Owner::Service(_)
                )
            }
            _ => false,
        };
        let Some(last) = open.segments.last() else { return false };
        if latest(last) {
            return true;
        }
        // The last hop may have come before this one.
        open.segments.iter().any(|segment| Stage::of(&segment.sighting.point) == POD_IN)
    }

    fn judge_complete(&self, slot: u32) -> Option<(Judged, Handle)> {
        let open = self.slots[slot as usize].as_ref()?;
        if open.progress == Progress::Complete {
            return None;
        }
        let mut judged = self.judge(open, None);
        let only = if judged.len() == 1 { judged.pop()? } else { return None };
        only.is_complete().then_some((only, Handle { slot, serial: open.serial }))
    }

    fn judge(&self, open: &Open, cut_short: Option<&'static str>) -> Vec<Judged> {
        let from_ns = open.opened_ns.saturating_sub(self.config.grace_ns);
        let lost_on = |node: &str| self.losses.since(node, from_ns);
        assemble::judge(
            open,
            &Context {
                directory: &self.directory,
                topology: &self.topology,
                learnt: &self.learnt,
                lost_on: &lost_on,
                cut_short,
            },
        )
    }

    fn close_if_complete(&mut self, handle: Handle) {
        if self.get(handle).is_none() {
            return;
        }
        let Some((judged, _)) = self.judge_complete(handle.slot) else { return };
        if self.has_unresolved_rivals(handle) {
            self.unlink(handle.slot);
            if let Some(open) = self.slots[handle.slot as usize].as_mut() {
                open.progress = Progress::Complete;
            }
            self.waiting.push(handle);
            return;
        }
        self.unlink(handle.slot);
        if let Some(open) = self.take(handle.slot) {
            self.conclude(open, vec![judged]);
        }
    }

    /// No sighting came for the grace time. A datagram without a beginning may be one that was cut from a UDP
    /// GSO packet which came later.
    fn expire(&mut self, handle: Handle) {
        if self.index.has_udp()
            && let Some(open) = self.get(handle)
            && !open.by_range
            && let Some(first) = open.segments.first()
        {
            let sighting = first.sighting.clone();
            if let Some((slot, range)) = self.find_udp(&sighting)
                && slot != handle.slot
                && self.all_fit(handle.slot, slot, range)
            {
                self.unlink(handle.slot);
                if let Some(mut open) = self.take(handle.slot) {
                    for segment in open.segments.drain(..) {
                        self.join(slot, segment.sighting, range);
                    }
                    self.recycle(open.segments);
                }
                return;
            }
        }
        // Its datagrams may have come before it; they expire first if it waits once more.
        let now = self.now_ns;
        if self.index.has_udp()
            && let Some(open) = self.get_mut(handle)
            && open.by_range
            && !open.waited
        {
            open.waited = true;
            open.touched_ns = now;
            self.expiry.push_back((now, handle));
            return;
        }
        self.close(handle, None);
    }

    fn all_fit(&self, slot: u32, into: u32, range: Range) -> bool {
        let (Some(open), Some(into)) = (&self.slots[slot as usize], &self.slots[into as usize]) else {
            return false;
        };
        open.segments.iter().all(|segment| into.fit(&segment.sighting, range, &self.directory).is_some())
    }

    fn close(&mut self, handle: Handle, cut_short: Option<&'static str>) {
        let Some(open) = self.get(handle) else { return };
        let judged = self.judge(open, cut_short);
        if open.progress == Progress::UnderWay {
            self.unlink(handle.slot);
        }
        if let Some(open) = self.take(handle.slot) {
            self.conclude(open, judged);
        }
    }

    fn conclude(&mut self, mut open: Open, judged: Vec<Judged>) {
        let complete = judged.iter().all(Judged::is_complete);
        if !complete {
            for &rival in &open.rivals {
                if let Some(other) = self.get_mut(rival) {
                    other.doubtful = true;
                }
            }
        }
        for unit in judged {
            unit.teach(&open, &mut self.learnt);
            let Some(follows) = self.wanted(&open) else {
                self.counters.unrelated += 1;
                continue;
            };
            let trajectory = unit.into_trajectory(&mut open, &self.directory, follows);
            self.done.push(Done { serial: open.serial, repeats: open.repeats, trajectory });
        }
        self.recycle(open.segments);
    }

    /// The follows that asked for the packet.
    fn wanted(&self, open: &Open) -> Option<u64> {
        let marked = open.segments.iter().fold(0, |follows, segment| follows | segment.sighting.follows);
        if self.config.scopes.is_empty() {
            return Some(marked);
        }
        let mut follows = 0;
        for (bit, scope) in self.config.scopes.iter().enumerate().take(64) {
            let wanted = open.segments.iter().any(|segment| {
                scope.wants(segment.sighting.packet.source, segment.sighting.packet.destination)
            });
            follows |= u64::from(wanted) << bit;
        }
        (follows != 0).then_some(follows)
    }

    fn report(&mut self, emit: &mut impl FnMut(Trajectory), all: bool) {
        if self.done.is_empty() {
            return;
        }
        let mut done = std::mem::take(&mut self.done);
        done.sort_by_key(|done| done.serial);
        let mut held = Vec::new();
        for mut finished in done {
            if let Some(earlier) = finished.repeats {
                let id = self.history.id_of(earlier.serial);
                let pending = self.get(earlier).is_some()
                    || held.iter().any(|held: &Done| held.serial == earlier.serial);
                if id.is_none() && pending && !all {
                    held.push(finished);
                    continue;
                }
                finished.trajectory.retransmission_of = id;
            }
            finished.trajectory.id = self.next_id;
            self.history.reported(finished.serial, self.next_id);
            self.next_id += 1;
            self.counters.reported += 1;
            self.counters.ambiguous += u64::from(finished.trajectory.ambiguous.is_some());
            emit(finished.trajectory);
        }
        self.done = held;
    }

    /// Drops the oldest packet; false if there is none.
    fn evict(&mut self) -> bool {
        while let Some(handle) = self.by_age.pop_front() {
            if let Some(open) = self.get(handle) {
                if open.progress == Progress::UnderWay {
                    self.unlink(handle.slot);
                }
                if let Some(open) = self.take(handle.slot) {
                    self.recycle(open.segments);
                }
                self.counters.evicted += 1;
                return true;
            }
        }
        if self.done.is_empty() {
            return false;
        }
        self.done.swap_remove(0);
        self.counters.evicted += 1;
        true
    }

    fn remember_rivals(&mut self, a: u32, b: u32) {
        let (Some(first), Some(second)) = (self.handle_of(a), self.handle_of(b)) else { return };
        for (one, other) in [(first, second), (second, first)] {
            if let Some(open) = self.get_mut(one)
                && !open.rivals.contains(&other)
                && open.rivals.len() < MAX_EQUAL
            {
                open.rivals.push(other);
            }
        }
    }

    fn has_unresolved_rivals(&self, handle: Handle) -> bool {
        self.get(handle).is_some_and(|open| {
            open.rivals
                .iter()
                .any(|rival| self.get(*rival).is_some_and(|rival| rival.progress == Progress::UnderWay))
        })
    }

    fn unlink(&mut self, slot: u32) {
        let Some(open) = self.slots[slot as usize].as_ref() else { return };
        let Some(first) = open.segments.first() else { return };
        if first.sighting.packet.protocol == 6 && open.by_range {
            self.index.remove_bytes(open.key, open.range, slot);
            return;
        }
        self.index.remove_whole(open.key, slot);
        if open.by_range
            && let Some(packet) =
                open.segments.iter().map(|segment| &segment.sighting.packet).find(|p| p.gso_segments > 1)
        {
            self.index.remove_udp(packet.identification, packet.gso_segments, slot);
        }
    }

    fn live(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn handle_of(&self, slot: u32) -> Option<Handle> {
        self.slots[slot as usize].as_ref().map(|open| Handle { slot, serial: open.serial })
    }

    fn get(&self, handle: Handle) -> Option<&Open> {
        self.slots.get(handle.slot as usize)?.as_ref().filter(|open| open.serial == handle.serial)
    }

    fn get_mut(&mut self, handle: Handle) -> Option<&mut Open> {
        self.slots.get_mut(handle.slot as usize)?.as_mut().filter(|open| open.serial == handle.serial)
    }

    /// Takes a packet out; it must have been unlinked from the index.
    fn take(&mut self, slot: u32) -> Option<Open> {
        let open = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        while self.by_age.front().is_some_and(|handle| self.get(*handle).is_none()) {
            self.by_age.pop_front();
        }
        Some(open)
    }

    fn recycle(&mut self, mut segments: Vec<Segment>) {
        segments.clear();
        if self.spare.len() < 4096 && segments.capacity() <= 64 {
            self.spare.push(segments);
        }
    }
}

/// Whether the younger of two equal packets should take a sighting because the older one was left behind.
fn has_stalled(older: &Open, younger: &Open, sighting: &Sighting) -> bool {
    match (older.latest_before(sighting), younger.latest_before(sighting)) {
        (Some(old), Some(young)) => {
            let waited = sighting.time_ns - old;
            waited > STALLED_NS && (sighting.time_ns - young).saturating_mul(16) < waited
        }
        _ => false,
    }
}
