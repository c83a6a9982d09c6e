//! What was sent lately: to know a retransmission, a copy that the network made, and the packet that an ICMP error
//! quotes.
//!
//! The packets opened last stand in one ring, so that memory has one bound however many flows there are. Those of one
//! flow (protocol and both ends, as seen at some hop) are chained from the youngest back.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

use crate::trajectory::correlate::open::{Handle, Segment};
use crate::trajectory::correlate::range::Range;
use crate::trajectory::hash::FastState;
use crate::trajectory::model::{Packet, PointId, Quote, Sighting};
use crate::trajectory::order::Stage;
use crate::trajectory::rewrite::Endpoint;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
/// Packets remembered, once for each pair of ends that they had.
const MAX_SENT: usize = 1 << 16;
/// How far back a flow is searched for the same bytes; a retransmission is rarely further behind.
const MAX_STEPS: usize = 256;
/// How far back a flow is searched for the same datagram or acknowledgment: copies come soon.
const MAX_COPY_STEPS: usize = 16;
/// How far back a flow is searched for what an ICMP error quotes.
const MAX_QUOTE_STEPS: usize = 4096;
/// Finished packets remembered.
const MAX_FINISHED: usize = 1 << 16;
/// Hops remembered of finished packets.
const MAX_PASSAGES: usize = 1 << 18;

/// Another packet with the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kin {
    pub(super) handle: Handle,
    pub(super) relation: Relation,
}

/// What the same bytes make of two packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// The sender sent the bytes again: it stamped them anew, or they left the pod twice.
    Retransmission,
    /// Nothing tells the two apart.
    Copy {
        /// No sender makes two such packets: its IPv4 id is the same.
        proven: bool,
    },
    /// The same packet, at a point where it was before.
    Loop,
}

/// What is remembered that an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quoted {
    One(Handle),
    /// Several packets fit.
    Several,
}

#[derive(Debug)]
pub(super) struct History {
    ring: VecDeque<Sent>,
    /// Number of the ring's first entry; numbers begin with 1.
    first: u64,
    flows: HashMap<u64, Flow, FastState>,
    hash: FastState,
    finished: Finished,
}

#[derive(Debug)]
struct Flow {
    /// Number of the youngest entry.
    youngest: u64,
    /// TCP: end of the bytes furthest ahead.
    ahead: u32,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    flow: u64,
    /// Number of the flow's entry before this one, 0 for none.
    before: u64,
    handle: Handle,
    fingerprint: u64,
    /// TCP: sequence space. UDP: payload from 0. Others: sequence number, empty.
    range: Range,
    timestamp: Option<u32>,
    identification: u32,
    segments: u16,
    is_fragment: bool,
    is_ipv4: bool,
}

impl Sent {
    fn new(flow: u64, before: u64, sighting: &Sighting, handle: Handle) -> Self {
        let packet = &sighting.packet;
        Self {
            flow,
            before,
            handle,
            fingerprint: packet.fingerprint,
            range: occupied(packet),
            timestamp: packet.tcp_timestamps.map(|(value, _)| value),
            identification: packet.identification,
            segments: packet.gso_segments,
            is_fragment: packet.fragment.is_some(),
            is_ipv4: packet.source.is_ipv4(),
        }
    }

    fn kin(&self, relation: Relation) -> Kin {
        Kin { handle: self.handle, relation }
    }
}

impl History {
    pub(super) fn new() -> Self {
        Self {
            ring: VecDeque::new(),
            first: 1,
            flows: HashMap::default(),
            hash: FastState::default(),
            finished: Finished::default(),
        }
    }

    /// Notes that a packet went out under this sighting's addresses. Gives the packet remembered last that has some
    /// of the same bytes; which of the two was earlier is for the caller to find out.
    pub(super) fn note(&mut self, sighting: &Sighting, handle: Handle) -> Option<Kin> {
        let packet = &sighting.packet;
        let flow = self.key(packet.protocol, Endpoint::source(packet), Endpoint::destination(packet));
        let (before, ahead) =
            self.flows.get(&flow).map_or((0, occupied(packet).start), |flow| (flow.youngest, flow.ahead));
        let sent = Sent::new(flow, before, sighting, handle);
        let takes_bytes = takes_bytes(packet);
        let kin = if !takes_bytes {
            self.chain(before)
                .take(MAX_COPY_STEPS)
                .find(|other| is_copy(other, &sent))
                .map(|other| other.kin(Relation::Copy { proven: sent.is_ipv4 && sent.identification != 0 }))
        } else if sent.range.offset_from(ahead) < 0 {
            self.same_bytes(before, &sent, Stage::of(&sighting.point).rank() < 2)
        } else {
            None
        };
        let gains = i64::from(sent.range.end().wrapping_sub(ahead) as i32) > 0;
        let ahead = if takes_bytes && gains { sent.range.end() } else { ahead };
        if self.chain(before).next().is_none_or(|last| last.handle != handle) {
            let youngest = self.push(sent);
            self.flows.insert(flow, Flow { youngest, ahead });
        }
        kin
    }

    /// The packet that an error quotes, by its content and by the ends that it had at one of its hops.
    pub(super) fn quoted(&self, error: &Packet) -> Option<Quoted> {
        let quote = error.quote.as_deref()?;
        let source = Endpoint { address: error.destination, port: quote.ports.map(|ports| ports.0) };
        let destination = Endpoint { address: quote.destination, port: quote.ports.map(|ports| ports.1) };
        let youngest = self.flows.get(&self.key(quote.protocol, source, destination))?.youngest;
        let mut found: Option<Handle> = None;
        for sent in self.chain(youngest).take(MAX_QUOTE_STEPS).filter(|sent| is_quoted(sent, quote)) {
            match found {
                Some(other) if other != sent.handle => return Some(Quoted::Several),
                _ => found = Some(sent.handle),
            }
        }
        found.map(Quoted::One)
    }

    /// Remembers under which id a packet was reported.
    pub(super) fn reported(&mut self, serial: u64, id: u64) {
        if let Some(packet) = self.finished.of_mut(serial) {
            packet.id = id;
        }
    }

    /// The id under which a packet was reported.
    pub(super) fn id_of(&self, serial: u64) -> Option<u64> {
        self.finished.of(serial).map(|packet| packet.id).filter(|id| *id != 0)
    }

    /// Remembers where a finished packet passed.
    pub(super) fn finished(&mut self, serial: u64, passages: impl Iterator<Item = Passage>) {
        self.finished.add_passages(serial, passages);
    }

    /// Where a finished packet passed.
    pub(super) fn passages_of(&self, serial: u64) -> impl Iterator<Item = Passage> {
        let packet = self.finished.of(serial).copied().unwrap_or_default();
        let from = packet.passages_from.checked_sub(self.finished.first_passage);
        let (from, count) = match from.and_then(|from| usize::try_from(from).ok()) {
            Some(from) => (from, packet.passages as usize),
            None => (0, 0),
        };
        self.finished.passages.iter().skip(from).take(count).copied()
    }

    fn key(&self, protocol: u8, source: Endpoint, destination: Endpoint) -> u64 {
        self.hash.hash_one((protocol, source, destination))
    }

    /// The flow's entries from number `youngest` back.
    fn chain(&self, youngest: u64) -> impl Iterator<Item = &Sent> {
        let mut next = youngest;
        std::iter::from_fn(move || {
            let index = usize::try_from(next.checked_sub(self.first)?).ok()?;
            let sent = self.ring.get(index)?;
            next = sent.before;
            Some(sent)
        })
    }

    fn push(&mut self, sent: Sent) -> u64 {
        if self.ring.len() >= MAX_SENT
            && let Some(oldest) = self.ring.pop_front()
        {
            if self.flows.get(&oldest.flow).is_some_and(|flow| flow.youngest == self.first) {
                self.flows.remove(&oldest.flow);
            }
            self.first += 1;
        }
        self.ring.push_back(sent);
        self.first + self.ring.len() as u64 - 1
    }

    /// A retransmission proves itself; what is no retransmission of any of them is a copy of the youngest.
    fn same_bytes(&self, youngest: u64, sent: &Sent, at_source: bool) -> Option<Kin> {
        let others = || {
            self.chain(youngest)
                .take(MAX_STEPS)
                .filter(|other| other.handle != sent.handle && other.range.overlaps(sent.range))
        };
        if (!at_source || is_marked(sent))
            && let Some(other) = others().find(|other| is_piece_of_copy(other, sent))
        {
            return Some(other.kin(Relation::Copy { proven: sent.is_ipv4 && sent.identification != 0 }));
        }
        others()
            .find(|other| is_other_packet(other, sent, at_source))
            .map(|other| other.kin(Relation::Retransmission))
    }
}

/// The sender put something into the packet that differs when it sends the same bytes again.
const fn is_marked(sent: &Sent) -> bool {
    sent.timestamp.is_some() || sent.identification != 0
}

/// Equal bytes, but not the same packet: the sender stamped it anew, or it left the pod a second time.
fn is_other_packet(other: &Sent, sent: &Sent, at_source: bool) -> bool {
    (at_source && !is_marked(sent))
        || other.timestamp != sent.timestamp
        || (other.range.start == sent.range.start && other.identification != sent.identification)
}

/// Nothing tells the two apart but where and when they were seen.
fn is_copy(other: &Sent, sent: &Sent) -> bool {
    other.handle != sent.handle
        && other.fingerprint == sent.fingerprint
        && other.range == sent.range
        && other.timestamp == sent.timestamp
        && other.identification == sent.identification
        && other.is_fragment == sent.is_fragment
}

/// As [`is_copy`], where one may be cut from the other: the id of a piece counts up from the whole packet's.
fn is_piece_of_copy(other: &Sent, sent: &Sent) -> bool {
    let same_timestamp = other.timestamp == sent.timestamp;
    let (one, two) = (other.identification as u16, sent.identification as u16);
    same_timestamp
        && (two.wrapping_sub(one) < other.segments.max(1) || one.wrapping_sub(two) < sent.segments.max(1))
}

/// What a packet takes of its flow, as far as it has numbers for that: for TCP payload, SYN and FIN.
fn occupied(packet: &Packet) -> Range {
    match packet.protocol {
        TCP => {
            let marks = u32::from(packet.tcp_flags & SYN != 0) + u32::from(packet.tcp_flags & FIN != 0);
            Range { start: packet.sequence, length: packet.payload_length.saturating_add(marks) }
        }
        UDP => Range { start: 0, length: packet.payload_length },
        _ => Range { start: packet.sequence, length: 0 },
    }
}

/// Whether a packet is sent again if it does not arrive: TCP with payload, SYN or FIN.
pub(super) fn takes_bytes(packet: &Packet) -> bool {
    packet.protocol == TCP && occupied(packet).length > 0
}

fn is_quoted(sent: &Sent, quote: &Quote) -> bool {
    if sent.is_ipv4 {
        let number = quote.identification.wrapping_sub(sent.identification as u16);
        if number >= sent.segments.max(1) {
            return false;
        }
    }
    let Some(sequence) = quote.sequence else {
        // By its id alone, which not every packet has.
        return sent.is_ipv4 && quote.identification != 0;
    };
    match quote.protocol {
        TCP => sequence == sent.range.start || sequence.wrapping_sub(sent.range.start) < sent.range.length,
        // The first fragment has the length of the whole datagram in its header.
        UDP if sent.is_fragment => sequence >= sent.range.length,
        UDP if sent.segments > 1 => sequence <= sent.range.length,
        UDP => sequence == sent.range.length,
        ICMP | ICMPV6 => sequence == sent.range.start,
        _ => sent.is_ipv4 && quote.identification != 0,
    }
}

/// What is remembered of finished packets, by serial, for the serials finished last.
#[derive(Debug, Default)]
struct Finished {
    first: u64,
    packets: VecDeque<FinishedPacket>,
    /// Where and when they passed, one packet's hops together.
    passages: VecDeque<Passage>,
    /// Number of the first of `passages`.
    first_passage: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct FinishedPacket {
    /// 0 while it is not reported.
    id: u64,
    passages_from: u64,
    passages: u32,
}

/// Bytes of a packet at a point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage {
    pub(super) point: PointId,
    /// In the point's clock, nanoseconds.
    pub(super) time_ns: u64,
    pub(super) range: Range,
    pub(super) ttl: u8,
}

impl Passage {
    pub(super) fn of(segment: &Segment) -> Self {
        let sighting = &segment.sighting;
        Self {
            point: sighting.point.id,
            time_ns: sighting.time_ns,
            range: segment.range,
            ttl: sighting.packet.ttl,
        }
    }

    /// Whether both show some of the same bytes at the same point.
    pub(super) fn meets(&self, other: &Self) -> bool {
        self.point == other.point && self.range.overlaps(other.range)
    }
}

impl Finished {
    fn of_mut(&mut self, serial: u64) -> Option<&mut FinishedPacket> {
        let mut index = serial.checked_sub(self.first)?;
        if index >= MAX_FINISHED as u64 {
            let forget = (index - MAX_FINISHED as u64 + 1).min(self.packets.len() as u64);
            self.packets.drain(..forget as usize);
            self.first += forget;
            index = serial - self.first;
            if index >= MAX_FINISHED as u64 {
                self.first = serial;
                index = 0;
            }
        }
        let index = index as usize;
        if self.packets.len() <= index {
            self.packets.resize(index + 1, FinishedPacket::default());
        }
        self.packets.get_mut(index)
    }

    fn of(&self, serial: u64) -> Option<&FinishedPacket> {
        self.packets.get(usize::try_from(serial.checked_sub(self.first)?).ok()?)
    }

    fn add_passages(&mut self, serial: u64, passages: impl Iterator<Item = Passage>) {
        let from = self.first_passage + self.passages.len() as u64;
        let mut added = 0;
        for passage in passages {
            // Before the next is added: one more than the most would let the memory double.
            if self.passages.len() == MAX_PASSAGES {
                self.passages.pop_front();
                self.first_passage += 1;
            }
            self.passages.push_back(passage);
            added += 1_u32;
        }
        let Some(packet) = self.of_mut(serial) else { return };
        if packet.passages == 0 {
            packet.passages_from = from;
        }
        packet.passages += added;
    }
}
