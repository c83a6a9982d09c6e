//! Packets that the kernel says it threw away, and the packets under way that they are.
//!
//! A drop is joined by content, as a sighting is. It may come before the sightings of its packet (from another node, or
//! from another CPU's share of the ring), so it waits for them as long as a packet waits for its hops. One that meets
//! no packet was either seen at no hook, because it died before the first, or its packet was told before.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use crate::trajectory::correlate::fragments::datagram_of;
use crate::trajectory::correlate::index::Content;
use crate::trajectory::correlate::open::{Handle, Open, same_content};
use crate::trajectory::correlate::range::Range;
use crate::trajectory::correlate::{Correlator, Done};
use crate::trajectory::drops;
use crate::trajectory::model::{
    Directory, DropSighting, Dropped, Owner, Packet, PodRef, Sighting, Trajectory, Verdict,
};
use crate::trajectory::order::Stage;
use crate::trajectory::rewrite::{self, Endpoint, Judgement};

/// Most drops that wait for their packets.
const MAX_WAITING: usize = 16_384;

/// A drop of an open packet and the bytes that it stands for.
#[derive(Debug)]
pub(super) struct DroppedSegment {
    pub(super) sighting: DropSighting,
    pub(super) range: Range,
}

/// What is known about drops beside the open packets' own.
#[derive(Debug, Default)]
pub(super) struct Drops {
    /// Nodes whose kernels tell drops.
    watched: HashSet<Arc<str>>,
    /// With no packet yet, and since when in the observer's clock.
    waiting: VecDeque<(u64, DropSighting)>,
    /// Packets with a drop since the last `advance`.
    fresh: Vec<Handle>,
}

impl Drops {
    /// Whether the kernel of a node tells drops.
    pub(super) fn tells(&self, node: &str) -> bool {
        self.watched.contains(node)
    }
}

impl<D: Directory> Correlator<D> {
    /// Tells that the kernel of `node` tells what it drops. A packet that has arrived there is held back for the settle
    /// time, in case it is dropped behind its last hop.
    pub fn watch_drops(&mut self, node: &Arc<str>) {
        self.drops.watched.insert(node.clone());
    }

    /// Takes in that the kernel threw a packet away, in any order.
    pub fn push_drop(&mut self, drop: DropSighting) {
        self.counters.drops += 1;
        if drops::frees_a_copy(&drop) {
            self.counters.unmatched_drops += 1;
            return;
        }
        if self.attach(&drop) {
            return;
        }
        if self.drops.waiting.len() == MAX_WAITING {
            self.drops.waiting.pop_front();
            self.counters.unmatched_drops += 1;
        }
        self.drops.waiting.push_back((self.now_ns, drop));
    }

    /// Joins drops that came before their packets; the packets with drops are due after the settle time.
    pub(super) fn advance_drops(&mut self, judged_ns: u64) {
        for (since, drop) in std::mem::take(&mut self.drops.waiting) {
            if self.attach(&drop) {
                continue;
            }
            if since + self.config.grace_ns > judged_ns {
                self.drops.waiting.push_back((since, drop));
            } else {
                self.conclude_unseen(drop);
            }
        }
        let fresh = std::mem::take(&mut self.drops.fresh);
        self.settled.extend(fresh);
    }

    /// Gives up on packets for the drops that still wait.
    pub(super) fn finish_drops(&mut self) {
        for (_, drop) in std::mem::take(&mut self.drops.waiting) {
            if !self.attach(&drop) {
                self.conclude_unseen(drop);
            }
        }
    }

    /// Finds the packets that were thrown away; false if there is none.
    fn attach(&mut self, drop: &DropSighting) -> bool {
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        let range = match Content::of(&drop.packet, self.hash) {
            Content::Whole { key } => {
                self.index.whole(key, &mut found);
                match datagram_of(&drop.packet, self.hash).filter(|_| found.is_empty()) {
                    // Put together of fragments that are under way.
                    Some((key, range)) => {
                        self.index.bytes(key, range, &mut found);
                        range
                    }
                    None => Range::WHOLE,
                }
            }
            Content::Fragment { key, range } => {
                self.index.bytes(key, range, &mut found);
                found.extend(self.index.datagrams(key));
                range
            }
            Content::Bytes { key, range } => {
                self.index.bytes(key, range, &mut found);
                range
            }
        };
        let chosen = self.choose_dropped(&found, drop, range);
        self.found = found;
        for &slot in &chosen {
            let Some(open) = self.slots[slot as usize].as_mut() else { continue };
            open.drops.push(DroppedSegment { sighting: drop.clone(), range });
            self.drops.fresh.push(Handle { slot, serial: open.serial });
        }
        !chosen.is_empty()
    }

    /// The packets that had come furthest before they were dropped; for each byte at most one.
    fn choose_dropped(&mut self, found: &[u32], drop: &DropSighting, range: Range) -> Vec<u32> {
        let mut fits: Vec<(Option<u64>, u64, u32)> = Vec::with_capacity(found.len());
        for &slot in found {
            let Some(open) = self.slots[slot as usize].as_ref() else { continue };
            let range = if open.by_range { range } else { Range::WHOLE };
            let is_dropped = open.drops.iter().any(|dropped| dropped.range.overlaps(range));
            if !is_dropped && fits_drop(open, drop, range, &self.directory) {
                fits.push((latest_on_clock(open, drop), open.serial, slot));
            }
        }
        // Latest first; of packets that stand at the same place the one that came first.
        fits.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut chosen: Vec<u32> = Vec::with_capacity(fits.len().min(1));
        for (_, _, slot) in fits {
            let clash = chosen.iter().copied().find(|&other| self.have_common_bytes(other, slot));
            match clash {
                None => chosen.push(slot),
                Some(other) if self.stand_at_the_same_point(other, slot, drop) => {
                    self.remember_rivals(other, slot);
                    self.mark_undecided([other, slot]);
                }
                Some(_) => {}
            }
        }
        chosen
    }

    fn have_common_bytes(&self, a: u32, b: u32) -> bool {
        match (&self.slots[a as usize], &self.slots[b as usize]) {
            (Some(a), Some(b)) => !a.by_range || a.range.overlaps(b.range),
            _ => false,
        }
    }

    fn stand_at_the_same_point(&self, a: u32, b: u32, drop: &DropSighting) -> bool {
        let point = |slot: u32| {
            let open = self.slots[slot as usize].as_ref()?;
            let before = open.segments.iter().map(|segment| &segment.sighting);
            let on_clock = before.filter(|s| s.point.clock == drop.clock && s.time_ns <= drop.time_ns);
            on_clock.max_by_key(|sighting| sighting.time_ns).map(|sighting| sighting.point.id)
        };
        point(a) == point(b)
    }

    /// A drop without any hop is told where the packet began: no hook comes before. Elsewhere its packet was told
    /// already, or its hops were not observed.
    fn conclude_unseen(&mut self, drop: DropSighting) {
        let begins_here = is_at_source(&drop, &self.directory);
        // A pod that talks to itself: nothing of that passes a hook.
        let is_tidied_up =
            is_at_destination(&drop, &self.directory) && !drops::ends_delivered(&drop.reason, &drop.packet);
        let wanted = self.wants(&drop.packet);
        let (true, Some(follows)) = (begins_here && !is_tidied_up, wanted) else {
            self.counters.unmatched_drops += 1;
            return;
        };
        let serial = self.next_serial;
        self.next_serial += 1;
        let advice = drops::advice(&drop, None, &self.directory);
        let trajectory = Trajectory {
            id: 0,
            follows: if follows == 0 { drop.follows } else { follows },
            hops: Vec::new(),
            legs: Vec::new(),
            missing: Vec::new(),
            expected_hops: 0,
            lost_records: 0,
            verdict: Verdict::Dropped(Box::new(Dropped { after: None, sighting: drop, advice })),
            retransmission_of: None,
            retransmission_after_ns: None,
            duplicate_of: None,
            quotes: None,
            ambiguous: None,
            notes: vec!["dropped before the first hook".to_owned()],
        };
        self.done.push(Done { serial, earlier: None, quotes: None, waits_since_ns: None, trajectory });
    }

    /// The follows that ask for these addresses; 0 where nothing in particular is followed.
    fn wants(&self, packet: &Packet) -> Option<u64> {
        if self.config.scopes.is_empty() {
            return Some(0);
        }
        let scopes = self.config.scopes.iter().enumerate().take(64);
        let follows = scopes
            .filter(|(_, scope)| scope.wants_packet(packet))
            .fold(0, |follows, (bit, _)| follows | 1 << bit);
        (follows != 0).then_some(follows)
    }
}

/// Of the drops of a packet the last that says what became of it: any on its way; where it was going, one that is no
/// tidying up behind the last hop. `arrived` is that hop, if it was seen: what is freed elsewhere then is a copy.
pub(super) fn deciding<'a>(
    dropped: impl Iterator<Item = &'a DropSighting>,
    arrived: Option<&Sighting>,
    directory: &(impl Directory + ?Sized),
) -> Option<&'a DropSighting> {
    let decides = |drop: &&DropSighting| match arrived {
        Some(last) => {
            drop.clock == last.point.clock
                && drop.time_ns >= last.time_ns
                && same_space(drop.place.pod.as_deref(), last.point.pod.as_deref())
                && drops::ends_delivered(&drop.reason, &drop.packet)
        }
        // Its last record may be missing.
        None if is_at_destination(drop, directory) => drops::ends_delivered(&drop.reason, &drop.packet),
        // What another pod throws away is its copy, from a bridge that floods.
        None => drop.place.pod.is_none() || is_at_source(drop, directory),
    };
    dropped.filter(decides).max_by_key(|drop| drop.time_ns)
}

fn is_at_destination(drop: &DropSighting, directory: &(impl Directory + ?Sized)) -> bool {
    is_at(drop, &directory.owner(drop.packet.destination, drop.time_ns))
}

fn is_at_source(drop: &DropSighting, directory: &(impl Directory + ?Sized)) -> bool {
    is_at(drop, &directory.owner(drop.packet.source, drop.time_ns))
}

/// Whether it was in the owner's own network namespace.
fn is_at(drop: &DropSighting, owner: &Owner) -> bool {
    match (owner, drop.place.pod.as_deref()) {
        (Owner::Pod { pod, .. }, Some(here)) => pod.is_same(here),
        (Owner::Node(node), None) => *node == drop.place.node,
        _ => false,
    }
}

fn same_space(a: Option<&PodRef>, b: Option<&PodRef>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.is_same(b),
        (None, None) => true,
        _ => false,
    }
}

/// Whether the packet that was thrown away can be this one.
fn fits_drop(open: &Open, drop: &DropSighting, range: Range, directory: &(impl Directory + ?Sized)) -> bool {
    let goes_on = |sighting: &Sighting| sighting.point.clock == drop.clock && sighting.time_ns > drop.time_ns;
    // What its own pod throws away has not left it.
    let in_its_pod =
        drop.place.pod.is_some() && is_at_source(drop, directory) && !is_at_destination(drop, directory);
    let has_left = |sighting: &Sighting| {
        in_its_pod && sighting.point.clock == drop.clock && Stage::of(&sighting.point).rank() > 0
    };
    let content = open.segments.iter().all(|segment| {
        let overlap = segment.range.overlaps(range);
        let packet = &segment.sighting.packet;
        same_content(packet, segment.range, &drop.packet, range, overlap)
            && !(overlap && (goes_on(&segment.sighting) || has_left(&segment.sighting)))
    });
    content
        && is_explicable(
            [Some(open.sources.first), open.sources.second],
            Endpoint::source(&drop.packet),
            |from, to| rewrite::judge_source(directory, drop.packet.protocol, from, to, drop.time_ns),
        )
        && is_explicable(
            [Some(open.destinations.first), open.destinations.second],
            Endpoint::destination(&drop.packet),
            |from, to| rewrite::judge_destination(directory, drop.packet.protocol, from, to, drop.time_ns),
        )
}

/// At most one rewrite of an end, and one that NAT could make.
fn is_explicable(
    values: [Option<Endpoint>; 2],
    value: Endpoint,
    judge: impl Fn(Endpoint, Endpoint) -> Judgement,
) -> bool {
    match values {
        [Some(first), second] if first == value || second == Some(value) => true,
        [Some(first), None] => {
            judge(first, value) != Judgement::Impossible || judge(value, first) != Judgement::Impossible
        }
        _ => false,
    }
}

/// When the packet was last seen before it was dropped, on that clock.
fn latest_on_clock(open: &Open, drop: &DropSighting) -> Option<u64> {
    let on_clock = open.segments.iter().map(|segment| &segment.sighting);
    on_clock
        .filter(|sighting| sighting.point.clock == drop.clock && sighting.time_ns <= drop.time_ns)
        .map(|sighting| sighting.time_ns)
        .max()
}
