//! One packet under way: the sightings joined so far, and the rules by which another one may join.

use crate::trajectory::correlate::dropped::DroppedSegment;
use crate::trajectory::correlate::fragments::same_datagram;
use crate::trajectory::correlate::history::Kin;
use crate::trajectory::correlate::range::Range;
use crate::trajectory::model::{Directory, Packet, Sighting};
use crate::trajectory::order::Stage;
use crate::trajectory::rewrite::{self, Endpoint, Judgement};

const TCP: u8 = 6;

/// Most sightings of one packet; a 64 KiB packet cut into 45 segments at a dozen hooks stays below.
const MAX_SIGHTINGS: usize = 4096;

/// A sighting and the bytes that it stands for.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) sighting: Sighting,
    pub(super) range: Range,
}

/// Where to find an open packet again; the serial tells whether the slot was reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) slot: u32,
    pub(super) serial: u64,
}

/// The two values that one end of a packet may have on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values {
    pub(super) first: Endpoint,
    pub(super) second: Option<Endpoint>,
}

impl Values {
    fn contains(&self, value: Endpoint) -> bool {
        self.first.may_be(value) || self.second.is_some_and(|second| second.may_be(value))
    }

    fn add(&mut self, value: Endpoint) {
        if !self.first.may_be(value) && self.second.is_none() {
            self.second = Some(value);
        }
    }
}

/// How far an open packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    UnderWay,
    /// Delivered with nothing missing: takes no more sightings, and waits for its rivals.
    Complete,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) serial: u64,
    /// Key in the index that holds it.
    pub(super) key: u64,
    /// All bytes of the packet.
    pub(super) range: Range,
    /// Bytes tell segments apart (TCP payload, UDP GSO with IPv4 id); else each sighting is the whole packet.
    pub(super) by_range: bool,
    /// The index finds it by its bytes, not by its fingerprint.
    pub(super) in_stream: bool,
    /// A datagram whose fragments are told apart by their place in it.
    pub(super) is_fragmented: bool,
    pub(super) segments: Vec<Segment>,
    pub(super) sources: Values,
    pub(super) destinations: Values,
    /// Observer's clock.
    pub(super) opened_ns: u64,
    /// Observer's clock at the end of the batch that brought the latest sighting.
    pub(super) touched_ns: u64,
    pub(super) dirty: bool,
    /// To be looked at again after the settle time.
    pub(super) settling: bool,
    pub(super) progress: Progress,
    /// Was given a second grace time.
    pub(super) waited: bool,
    /// Other packets with some of the same bytes.
    pub(super) kin: Vec<Kin>,
    /// Packets with equal content that were under way at the same time.
    pub(super) rivals: Vec<Handle>,
    /// A rival was not complete: the two may have been mixed up.
    pub(super) doubtful: bool,
    /// Only the order in which they were sent told it from a rival, where that order may not hold.
    pub(super) undecided: bool,
    /// It was one of more packets of equal content than are kept apart: what is missing of it another may have.
    pub(super) crowded: bool,
    /// What the kernel threw away of it.
    pub(super) drops: Vec<DroppedSegment>,
}

impl Open {
    /// Adds a sighting that fits.
    pub(super) fn add(&mut self, sighting: Sighting, range: Range) {
        self.sources.add(Endpoint::source(&sighting.packet));
        self.destinations.add(Endpoint::destination(&sighting.packet));
        self.segments.push(Segment { sighting, range });
    }

    /// Whether a sighting can belong to this packet, and how good the evidence is: 0 for the same addresses,
    /// more for each rewrite, most for rewrites that the inventory does not know.
    pub(super) fn fit(
        &self,
        sighting: &Sighting,
        range: Range,
        directory: &(impl Directory + ?Sized),
    ) -> Option<u8> {
        if self.progress == Progress::Complete || self.segments.len() >= MAX_SIGHTINGS {
            return None;
        }
        let stage = Stage::of(&sighting.point);
        for segment in &self.segments {
            if !segment.goes_with(sighting, stage, range) {
                return None;
            }
        }
        let source =
            self.fit_end(sighting, range, self.sources, Endpoint::source, directory, rewrite::judge_source)?;
        let destination = self.fit_end(
            sighting,
            range,
            self.destinations,
            Endpoint::destination,
            directory,
            rewrite::judge_destination,
        )?;
        Some(source + destination)
    }

    /// Tuple continuity of one end: at most one rewrite, never back, and one that NAT could make.
    fn fit_end<D: Directory + ?Sized>(
        &self,
        sighting: &Sighting,
        range: Range,
        values: Values,
        end: fn(&Packet) -> Endpoint,
        directory: &D,
        judge: fn(&D, u8, Endpoint, Endpoint, u64) -> Judgement,
    ) -> Option<u8> {
        let value = end(&sighting.packet);
        if values.contains(value) {
            if values.second.is_some() && !self.keeps_one_change(sighting, range, value, end) {
                return None;
            }
            return Some(0);
        }
        if values.second.is_some() {
            return None;
        }
        // Which of the two values came first is known on one clock only.
        let on_clock = || self.ordered_with(sighting, range);
        let known_before = on_clock().any(|s| s.sighting.time_ns < sighting.time_ns);
        let known_after = on_clock().any(|s| s.sighting.time_ns > sighting.time_ns);
        if known_before && known_after {
            return None;
        }
        let protocol = sighting.packet.protocol;
        let mut best: Option<u8> = None;
        for (possible, from, to) in
            [(!known_after, values.first, value), (!known_before, value, values.first)]
        {
            if !possible {
                continue;
            }
            let cost = match judge(directory, protocol, from, to, sighting.time_ns) {
                Judgement::Known(_) => 1,
                Judgement::Unknown(_) => 4,
                Judgement::Impossible => continue,
            };
            best = Some(best.map_or(cost, |best| best.min(cost)));
        }
        best
    }

    /// Sightings of the same bytes on the same clock: between them and this one, before and after mean something. A
    /// later piece of a packet may set out when the first has arrived already.
    fn ordered_with(&self, sighting: &Sighting, range: Range) -> impl Iterator<Item = &Segment> {
        let clock = sighting.point.clock;
        let is_ordered = move |s: &&Segment| s.sighting.point.clock == clock && s.range.overlaps(range);
        self.segments.iter().filter(is_ordered)
    }

    /// Sightings on one clock show each value in one unbroken stretch of time.
    fn keeps_one_change(
        &self,
        sighting: &Sighting,
        range: Range,
        value: Endpoint,
        end: fn(&Packet) -> Endpoint,
    ) -> bool {
        let (mut first, mut last) = (sighting.time_ns, sighting.time_ns);
        let on_clock = || self.ordered_with(sighting, range);
        for segment in on_clock().filter(|s| end(&s.sighting.packet).may_be(value)) {
            first = first.min(segment.sighting.time_ns);
            last = last.max(segment.sighting.time_ns);
        }
        !on_clock().any(|s| {
            !end(&s.sighting.packet).may_be(value) && s.sighting.time_ns > first && s.sighting.time_ns < last
        })
    }

    /// Whether the addresses alone would let a sighting join.
    pub(super) fn has_ends_of(&self, sighting: &Sighting, directory: &(impl Directory + ?Sized)) -> bool {
        let fits =
            |values, end, judge| self.fit_end(sighting, self.range, values, end, directory, judge).is_some();
        fits(self.sources, Endpoint::source, rewrite::judge_source)
            && fits(self.destinations, Endpoint::destination, rewrite::judge_destination)
    }

    /// Whether the sender put something into the packet that it does not put into others: an IPv4 id, or a place in a
    /// stream of bytes or of echoes.
    pub(super) fn is_numbered(&self) -> bool {
        self.segments.first().is_some_and(|segment| {
            let packet = &segment.sighting.packet;
            has_id(packet)
                || (packet.protocol == TCP && self.in_stream)
                || packet.icmp.is_some_and(|header| is_echo(packet.protocol, header.kind))
        })
    }

    /// Whether another packet with the same content could have taken its place at a hop: nothing numbers it, and its
    /// hops are on several nodes, whose records have no order between them.
    pub(super) fn is_mistakable(&self) -> bool {
        let Some(first) = self.segments.first().map(|segment| &segment.sighting) else { return false };
        !has_id(&first.packet)
            && self.segments.iter().any(|segment| segment.sighting.point.node != first.point.node)
    }

    /// Whether it was seen on the node of a sighting.
    pub(super) fn is_on_node_of(&self, sighting: &Sighting) -> bool {
        self.segments.iter().any(|segment| segment.sighting.point.node == sighting.point.node)
    }

    /// The latest time on the clock of a sighting that is not after it.
    pub(super) fn latest_before(&self, sighting: &Sighting) -> Option<u64> {
        self.segments
            .iter()
            .filter(|s| s.sighting.point.clock == sighting.point.clock)
            .map(|s| s.sighting.time_ns)
            .filter(|time| *time <= sighting.time_ns)
            .max()
    }
}

impl Segment {
    /// A merged packet is a hop of several packets; when these turn out to be one, it counts once.
    pub(super) fn is_copy_in(&self, open: &Open) -> bool {
        open.segments.iter().any(|other| {
            other.range == self.range
                && other.sighting.point.id == self.sighting.point.id
                && other.sighting.time_ns == self.sighting.time_ns
        })
    }

    /// The rules between two sightings of one packet.
    fn goes_with(&self, other: &Sighting, stage: Stage, range: Range) -> bool {
        let mine = &self.sighting;
        let overlap = self.range.overlaps(range);
        let same_point = mine.point.id == other.point.id;
        if same_point && overlap {
            return false;
        }
        let my_stage = Stage::of(&mine.point);
        if !same_point && my_stage == stage && stage.is_single() {
            return false;
        }
        // Segments of one packet may overtake each other; only sightings of the same bytes have an order.
        if overlap && mine.point.clock == other.point.clock && mine.time_ns != other.time_ns {
            let (earlier, later, early_stage, late_stage) = if mine.time_ns < other.time_ns {
                (&mine.packet, &other.packet, my_stage, stage)
            } else {
                (&other.packet, &mine.packet, stage, my_stage)
            };
            if later.ttl > earlier.ttl || late_stage.rank() < early_stage.rank() {
                return false;
            }
        }
        same_content(&mine.packet, self.range, &other.packet, range, overlap)
    }
}

/// Whether an IPv4 id tells the packet from others of the same content.
pub(super) fn has_id(packet: &Packet) -> bool {
    packet.source.is_ipv4() && packet.identification != 0
}

const fn is_echo(protocol: u8, kind: u8) -> bool {
    matches!((protocol, kind), (1, 0 | 8) | (58, 128 | 129))
}

/// Content rules: nothing here may look at what only one machine knows.
pub(super) fn same_content(a: &Packet, a_range: Range, b: &Packet, b_range: Range, overlap: bool) -> bool {
    if a.protocol != b.protocol || a.source.is_ipv4() != b.source.is_ipv4() {
        return false;
    }
    if a.fragment.is_some() || b.fragment.is_some() {
        return same_datagram(a, b);
    }
    if a.icmp.map(|icmp| (icmp.kind, icmp.code)) != b.icmp.map(|icmp| (icmp.kind, icmp.code)) {
        return false;
    }
    if a_range.start == b_range.start {
        if a.fingerprint != b.fingerprint {
            return false;
        }
        let plain = a.gso_segments <= 1 && b.gso_segments <= 1;
        if plain && a.protocol != TCP && a.payload_length != b.payload_length {
            return false;
        }
    }
    if a.protocol == TCP && (a.acknowledgment != b.acknowledgment || a.tcp_timestamps != b.tcp_timestamps) {
        return false;
    }
    // Window updates differ in nothing else.
    if a.protocol == TCP && a.payload_length == 0 && b.payload_length == 0 && a.window != b.window {
        return false;
    }
    !overlap || identifications_meet(a, b)
}

/// IPv4 ids of a packet and of its segments: `[id, id + segments)` of both must meet. Devices that keep one id
/// for all segments satisfy this too.
fn identifications_meet(a: &Packet, b: &Packet) -> bool {
    if !a.source.is_ipv4() || (a.identification == 0 && b.identification == 0) {
        return true;
    }
    let forward = (b.identification as u16).wrapping_sub(a.identification as u16);
    let backward = (a.identification as u16).wrapping_sub(b.identification as u16);
    forward < a.gso_segments.max(1) || backward < b.gso_segments.max(1)
}
