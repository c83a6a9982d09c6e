//! IP fragments: pieces of a datagram, matched by their place in it.
//!
//! A bridge with br_netfilter, and any router with connection tracking, puts the fragments of a datagram together and
//! cuts it again, with the same identification. So a hook may show a datagram whole where the hooks before and behind it
//! show its fragments.

use std::hash::BuildHasher;

use crate::trajectory::correlate::Correlator;
use crate::trajectory::correlate::range::Range;
use crate::trajectory::hash::FastState;
use crate::trajectory::model::{Directory, Packet, Sighting};

const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// UDP's header, and that of an ICMP echo.
const HEADER: u32 = 8;
/// No link cuts a shorter payload: IPv4 asks for an MTU of 68 bytes, but none in use is below 576 (RFC 791).
const SHORTEST_CUT: u32 = 512;

/// The key by which the pieces of one datagram are found, and the bytes of it that a fragment has, counted from the end
/// of the IP header. `None` for what is no fragment, and where the length of the transport header is not known.
pub(super) fn fragment_of(packet: &Packet, state: FastState) -> Option<(u64, Range)> {
    let (offset, _) = packet.fragment?;
    has_short_header(packet).then(|| (key(packet, state), range(packet, offset.into())))
}

/// The same for a datagram that is whole, if it can have been cut or put together.
pub(super) fn datagram_of(packet: &Packet, state: FastState) -> Option<(u64, Range)> {
    let is_candidate = packet.fragment.is_none()
        && packet.gso_segments <= 1
        && packet.payload_length >= SHORTEST_CUT
        && has_short_header(packet)
        && (packet.identification != 0 || !packet.source.is_ipv4());
    is_candidate.then(|| (key(packet, state), range(packet, 0)))
}

fn has_short_header(packet: &Packet) -> bool {
    matches!(packet.protocol, ICMP | UDP | ICMPV6)
}

/// IPv6 has an identification in fragments only, so whole datagrams go without.
fn key(packet: &Packet, state: FastState) -> u64 {
    let identification = if packet.source.is_ipv4() { packet.identification } else { 0 };
    state.hash_one((packet.source.is_ipv4(), packet.protocol, identification, FRAGMENTS))
}

/// Keeps these keys apart from those of TCP streams.
const FRAGMENTS: u64 = 0x6672_6167_6d65_6e74;

fn range(packet: &Packet, offset: u32) -> Range {
    let header = if offset == 0 { HEADER } else { 0 };
    Range { start: offset, length: packet.payload_length.saturating_add(header) }
}

/// Content rules where one of two sightings, or both, is a fragment. Of IPv6 two fragments have an identification in
/// common, a fragment and the whole datagram only their addresses, so these say nothing against each other here.
pub(super) fn same_datagram(a: &Packet, b: &Packet) -> bool {
    let both = a.fragment.is_some() && b.fragment.is_some();
    if (a.source.is_ipv4() || both) && a.identification != b.identification {
        return false;
    }
    a.fragment != b.fragment || (a.fingerprint == b.fingerprint && a.payload_length == b.payload_length)
}

impl<D: Directory> Correlator<D> {
    /// A whole datagram under way that this fragment was cut from.
    pub(super) fn find_datagram(&mut self, sighting: &Sighting, key: u64, range: Range) -> Option<u32> {
        let mut best: Option<(u8, u32)> = None;
        for &slot in self.index.datagrams(key) {
            let Some(open) = self.slots[slot as usize].as_ref() else { continue };
            let whole = open
                .segments
                .iter()
                .find_map(|segment| datagram_of(&segment.sighting.packet, self.hash).map(|(_, whole)| whole));
            if !whole.is_some_and(|whole| whole.contains(range)) {
                continue;
            }
            if let Some(cost) = open.fit(sighting, range, &self.directory)
                && best.is_none_or(|(lowest, _)| cost < lowest)
            {
                best = Some((cost, slot));
            }
        }
        let (_, slot) = best?;
        self.cut_into_fragments(slot);
        Some(slot)
    }

    /// From now on bytes tell the datagram's sightings apart.
    fn cut_into_fragments(&mut self, slot: u32) {
        let Some(open) = self.slots[slot as usize].as_mut() else { return };
        if open.by_range {
            return;
        }
        let mut whole = open.range;
        for segment in &mut open.segments {
            if let Some((_, range)) = datagram_of(&segment.sighting.packet, self.hash) {
                segment.range = range;
                whole = range;
            }
        }
        open.range = whole;
        open.by_range = true;
        open.is_fragmented = true;
    }
}
