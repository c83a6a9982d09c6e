//! Finds open packets by content. Packets whose sightings all stand for the whole packet are chained by
//! fingerprint, first come first; TCP payload is kept by byte range within a stream of equal acknowledgment and
//! timestamps (all segments that GSO cuts or GRO merges have these in common).

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

use crate::trajectory::correlate::fragments::fragment_of;
use crate::trajectory::correlate::range::Range;
use crate::trajectory::hash::FastState;
use crate::trajectory::model::Packet;

const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_SYN_RST: u8 = 0x06;

/// What kind of content a packet is matched by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The whole packet, by fingerprint.
    Whole { key: u64 },
    /// Bytes of a TCP stream.
    Bytes { key: u64, range: Range },
    /// Bytes of a datagram.
    Fragment { key: u64, range: Range },
}

impl Content {
    pub(super) fn of(packet: &Packet, state: FastState) -> Self {
        if packet.protocol == TCP && packet.payload_length > 0 && packet.fragment.is_none() {
            let key = state.hash_one((
                packet.source.is_ipv4(),
                packet.acknowledgment,
                packet.tcp_timestamps,
                packet.tcp_flags & TCP_SYN_RST,
            ));
            return Self::Bytes {
                key,
                range: Range { start: packet.sequence, length: packet.payload_length },
            };
        }
        if let Some((key, range)) = fragment_of(packet, state) {
            return Self::Fragment { key, range };
        }
        Self::Whole {
            key: packet.fingerprint
                ^ u64::from(packet.protocol) << 56
                ^ u64::from(packet.fragment.map_or(0, |(offset, _)| offset)) << 32
                ^ bare_tcp(packet),
        }
    }
}

/// What the fingerprint leaves out because cutting changes it, and what tells TCP packets without data apart, which nobody
/// cuts: a FIN and the acknowledgment before it are equal in all else where there is no IPv4 id.
fn bare_tcp(packet: &Packet) -> u64 {
    if packet.protocol != TCP || packet.fragment.is_some() {
        return 0;
    }
    u64::from(packet.tcp_flags) << 16 | u64::from(packet.window)
}

/// Whether this is a UDP packet that stands for several datagrams which IPv4 ids tell apart.
pub(super) fn udp_gso_segments(packet: &Packet) -> Option<u16> {
    let cut_by_id = packet.protocol == UDP
        && packet.gso_segments > 1
        && packet.gso_size > 0
        && packet.source.is_ipv4()
        && packet.fragment.is_none();
    cut_by_id.then_some(packet.gso_segments)
}

#[derive(Debug, Default)]
pub(super) struct Index {
    chains: HashMap<u64, Chain, FastState>,
    streams: HashMap<u64, Stream, FastState>,
    /// UDP GSO packets under way, by the IPv4 ids of all their datagrams.
    udp_ids: HashMap<u16, Vec<u32>, FastState>,
    /// Whole datagrams under way that may be cut, by what their fragments would be found by.
    datagrams: HashMap<u64, Vec<u32>, FastState>,
    spare: Vec<VecDeque<Entry>>,
}

/// Most packets need no allocation here.
#[derive(Debug)]
enum Chain {
    One(u32),
    Many(VecDeque<u32>),
}

#[derive(Debug, Default)]
struct Stream {
    /// Sorted by offset from `origin`.
    entries: VecDeque<Entry>,
    origin: u32,
    longest: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: i64,
    length: u32,
    slot: u32,
}

impl Index {
    /// Open packets with this fingerprint, oldest first.
    pub(super) fn whole(&self, key: u64, found: &mut Vec<u32>) {
        match self.chains.get(&key) {
            None => {}
            Some(Chain::One(slot)) => found.push(*slot),
            Some(Chain::Many(slots)) => found.extend(slots),
        }
    }

    pub(super) fn insert_whole(&mut self, key: u64, slot: u32) {
        self.chains
            .entry(key)
            .and_modify(|chain| match chain {
                Chain::One(first) => *chain = Chain::Many(VecDeque::from([*first, slot])),
                Chain::Many(slots) => slots.push_back(slot),
            })
            .or_insert(Chain::One(slot));
    }

    pub(super) fn remove_whole(&mut self, key: u64, slot: u32) {
        let empty = match self.chains.get_mut(&key) {
            None => false,
            Some(Chain::One(only)) => *only == slot,
            Some(Chain::Many(slots)) => {
                if slots.front() == Some(&slot) {
                    slots.pop_front();
                } else {
                    slots.retain(|other| *other != slot);
                }
                slots.is_empty()
            }
        };
        if empty {
            self.chains.remove(&key);
        }
    }

    /// Open packets of the stream that have bytes of `range`, by position in the stream.
    pub(super) fn bytes(&self, key: u64, range: Range, found: &mut Vec<u32>) {
        let Some(stream) = self.streams.get(&key) else { return };
        let offset = range.offset_from(stream.origin);
        let end = offset + i64::from(range.length);
        let from = stream.entries.partition_point(|entry| entry.offset + i64::from(stream.longest) <= offset);
        for entry in stream.entries.range(from..) {
            if entry.offset >= end {
                break;
            }
            if entry.offset + i64::from(entry.length) > offset {
                found.push(entry.slot);
            }
        }
    }

    /// Whether any packet of a stream is under way.
    pub(super) fn has_bytes(&self, key: u64) -> bool {
        self.streams.contains_key(&key)
    }

    pub(super) fn insert_bytes(&mut self, key: u64, range: Range, slot: u32) {
        let spare = &mut self.spare;
        let stream = self.streams.entry(key).or_insert_with(|| Stream {
            entries: spare.pop().unwrap_or_default(),
            origin: range.start,
            longest: 0,
        });
        stream.longest = stream.longest.max(range.length);
        let entry = Entry { offset: range.offset_from(stream.origin), length: range.length, slot };
        let at = match stream.entries.back() {
            Some(last) if last.offset > entry.offset => {
                stream.entries.partition_point(|other| other.offset <= entry.offset)
            }
            _ => stream.entries.len(),
        };
        stream.entries.insert(at, entry);
    }

    pub(super) fn remove_bytes(&mut self, key: u64, range: Range, slot: u32) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let offset = range.offset_from(stream.origin);
        let from = stream.entries.partition_point(|entry| entry.offset < offset);
        let at = stream.entries.range(from..).position(|entry| entry.slot == slot);
        if let Some(at) = at {
            stream.entries.remove(from + at);
        }
        if stream.entries.is_empty()
            && let Some(stream) = self.streams.remove(&key)
            && self.spare.len() < 1024
        {
            self.spare.push(stream.entries);
        }
    }

    /// Whole datagrams that a fragment may have been cut from.
    pub(super) fn datagrams(&self, key: u64) -> &[u32] {
        self.datagrams.get(&key).map_or(&[], Vec::as_slice)
    }

    pub(super) fn insert_datagram(&mut self, key: u64, slot: u32) {
        self.datagrams.entry(key).or_default().push(slot);
    }

    pub(super) fn remove_datagram(&mut self, key: u64, slot: u32) {
        let Some(slots) = self.datagrams.get_mut(&key) else { return };
        slots.retain(|other| *other != slot);
        if slots.is_empty() {
            self.datagrams.remove(&key);
        }
    }

    /// UDP GSO packets that may have cut off a datagram with this IPv4 id.
    pub(super) fn udp(&self, identification: u32, found: &mut Vec<u32>) {
        if let Some(slots) = self.udp_ids.get(&(identification as u16)) {
            found.extend(slots);
        }
    }

    pub(super) fn has_udp(&self) -> bool {
        !self.udp_ids.is_empty()
    }

    pub(super) fn insert_udp(&mut self, first: u32, segments: u16, slot: u32) {
        for i in 0..segments {
            self.udp_ids.entry((first as u16).wrapping_add(i)).or_default().push(slot);
        }
    }

    pub(super) fn remove_udp(&mut self, first: u32, segments: u16, slot: u32) {
        for i in 0..segments {
            let id = (first as u16).wrapping_add(i);
            let Some(slots) = self.udp_ids.get_mut(&id) else { continue };
            slots.retain(|other| *other != slot);
            if slots.is_empty() {
                self.udp_ids.remove(&id);
            }
        }
    }
}
