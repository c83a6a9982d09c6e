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
//! point takes the sighting, since devices keep order. What lies between two nodes may not: if several were there
//! together, or one of them ends incomplete, all say ambiguous.
//!
//! **Unit.** A packet as first seen on its way is one trajectory. Its hops may be cut into segments; a hop where
//! it was merged with others stands in the trajectory of each.
//!
//! **Time.** Sightings may come late and out of order, from several nodes; two of equal content at one point are the
//! packets' in the order of their times ([`displace`]). Times of different clocks are compared only by what the packets
//! themselves tell of these clocks ([`crate::trajectory::clock`]), and join nothing, but for a retransmission that is equal
//! to what was sent before ([`late`]). How long to wait is measured in the observer's time, which [`Correlator::advance`]
//! is told.
//!
//! **Memory** is bounded by [`CorrelatorConfig::max_open`]; what is evicted is counted.

mod assemble;
mod clocks;
mod displace;
mod dropped;
mod finish;
mod fragments;
mod history;
mod index;
mod join;
mod late;
mod open;
mod range;
mod relate;

#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use crate::trajectory::clock::Clocks;
use crate::trajectory::correlate::dropped::Drops;
use crate::trajectory::correlate::fragments::datagram_of;
use crate::trajectory::correlate::history::History;
use crate::trajectory::correlate::index::{Content, Index};
use crate::trajectory::correlate::open::{Handle, Open, Progress, Segment};
use crate::trajectory::correlate::relate::Earlier;
use crate::trajectory::expect::topology::{Learnt, PlannedWay, Topology};
use crate::trajectory::hash::FastState;
use crate::trajectory::model::{
    Directory, ObservationPoint, Packet, PointId, Quote, ServiceRef, Sighting, Trajectory,
};

/// Most packets of equal content that are kept apart at the same time.
const MAX_EQUAL: usize = 256;
/// Why nothing is known of the packets in a crowd of equal ones.
const CROWDED: &str = "too many packets with the same content were under way";
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

/// What one follow asked for. A packet is reported if at some hop its addresses are one of `a` and one of `b`, and one of
/// its ports one of `ports`.
#[derive(Clone, Debug, Default)]
pub struct FollowScope {
    /// Addresses of the followed pods.
    pub a: HashSet<IpAddr>,
    /// Addresses of the target; `None` for any. Packets under an address that SNAT gave them are then not recorded.
    pub b: Option<HashSet<IpAddr>>,
    /// At either end; empty for any. A packet without ports may be a part of one that has them.
    pub ports: HashSet<u16>,
    /// The Service that end B is, if it is one: its addresses are in `b` beside those of its endpoints.
    pub service: Option<ServiceRef>,
}

impl FollowScope {
    /// An ICMP error is wanted if the packet that it quotes is.
    fn wants_packet(&self, packet: &Packet) -> bool {
        let quoted = |quote: &Quote| {
            self.wants(packet.destination, quote.destination) && self.wants_ports(quote.ports)
        };
        self.wants(packet.source, packet.destination) && self.wants_ports(packet.ports)
            || packet.quote.as_deref().is_some_and(quoted)
    }

    fn wants_ports(&self, ports: Option<(u16, u16)>) -> bool {
        self.ports.is_empty()
            || ports.is_none_or(|(from, to)| self.ports.contains(&from) || self.ports.contains(&to))
    }

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
    /// Drops told by kernels.
    pub drops: u64,
    /// Of these, how many met no packet: it was told before, or its hops were not observed.
    pub unmatched_drops: u64,
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
    clocks: Clocks,
    slots: Vec<Option<Open>>,
    free: Vec<u32>,
    spare: Vec<Vec<Segment>>,
    hash: FastState,
    /// Observer's clock.
    now_ns: u64,
    /// Until when all that was observed has been pushed, observer's clock.
    judged_ns: u64,
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
    drops: Drops,
}

/// Finished, to be numbered and reported.
struct Done {
    serial: u64,
    /// The earlier packet with the same bytes.
    earlier: Option<Earlier>,
    /// The packet that this ICMP error quotes.
    quotes: Option<Handle>,
    /// When it was seen last and began to wait for what is needed to tell it, observer's clock; `None` if it was now.
    waits_since_ns: Option<u64>,
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
            clocks: Clocks::default(),
            slots: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            hash: FastState::default(),
            now_ns: 0,
            judged_ns: 0,
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
            drops: Drops::default(),
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

    /// Tells which devices packets from one node to another should pass: what is expected of them until one of them has
    /// shown its way.
    pub fn plan_way(&mut self, way: PlannedWay) {
        self.learnt.plan(way);
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
        self.place(sighting);
    }

    fn place(&mut self, sighting: Sighting) {
        match Content::of(&sighting.packet, self.hash) {
            Content::Whole { key } => self.push_whole(sighting, key),
            Content::Bytes { key, range } => self.push_bytes(sighting, key, range),
            Content::Fragment { key, range } => self.push_fragment(sighting, key, range),
        }
    }

    /// Lets the observer's time pass to `now_ns` and reports the packets that are finished, where everything that was
    /// observed until now has been pushed.
    pub fn advance(&mut self, now_ns: u64, emit: &mut impl FnMut(Trajectory)) {
        self.advance_and_judge(now_ns, now_ns, emit);
    }

    /// As [`Correlator::advance`], where only what was observed until `judged_until_ns` is known to have been pushed: a
    /// packet is not called lost before that time has come as long behind its last sighting.
    pub fn advance_and_judge(
        &mut self,
        now_ns: u64,
        judged_until_ns: u64,
        emit: &mut impl FnMut(Trajectory),
    ) {
        self.now_ns = self.now_ns.max(now_ns);
        let now = self.now_ns;
        let judged = judged_until_ns.min(now);
        self.judged_ns = self.judged_ns.max(judged);
        for handle in std::mem::take(&mut self.dirty) {
            if let Some(open) = self.get_mut(handle) {
                open.touched_ns = now;
                open.dirty = false;
                self.expiry.push_back((now, handle));
            }
        }
        self.advance_drops(judged);
        let due = now + self.config.settle_ns;
        let settled = std::mem::take(&mut self.settled);
        self.settling.extend(settled.into_iter().map(|handle| (due, handle)));
        while self.settling.front().is_some_and(|(due, _)| *due <= judged) {
            if let Some((_, handle)) = self.settling.pop_front() {
                self.close_if_complete(handle);
            }
        }
        for handle in std::mem::take(&mut self.overdue) {
            self.close(handle, Some(CROWDED));
        }
        while self.expiry.front().is_some_and(|(touched, _)| touched + self.config.grace_ns <= judged) {
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
        let horizon = judged.saturating_sub(64 * self.config.grace_ns);
        while self.losses.events.front().is_some_and(|event| event.0 < horizon) {
            self.losses.events.pop_front();
        }
        self.report(emit, false);
    }

    /// Reports all that is left; packets under way say that the run ended.
    pub fn finish(&mut self, emit: &mut impl FnMut(Trajectory)) {
        self.dirty.clear();
        self.finish_drops();
        let mut left: Vec<Handle> = (0u32..)
            .zip(&self.slots)
            .filter_map(|(slot, open)| open.as_ref().map(|open| Handle { slot, serial: open.serial }))
            .collect();
        left.sort_by_key(|handle| handle.serial);
        left.iter().for_each(|handle| self.claim_late_pieces(*handle));
        for handle in left {
            let ended = self.get(handle).is_some_and(|open| {
                open.touched_ns == 0 || open.touched_ns + self.config.grace_ns > self.now_ns
            });
            self.close(handle, ended.then_some("the run ended while the packet was under way"));
        }
        self.waiting.clear();
        self.report(emit, true);
    }

    fn unlink(&mut self, slot: u32) {
        let Some(open) = self.slots[slot as usize].as_ref() else { return };
        let Some(first) = open.segments.first() else { return };
        if open.in_stream {
            self.index.remove_bytes(open.key, open.range, slot);
            return;
        }
        self.index.remove_whole(open.key, slot);
        if let Some((datagram, _)) = datagram_of(&first.sighting.packet, self.hash) {
            self.index.remove_datagram(datagram, slot);
        }
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
