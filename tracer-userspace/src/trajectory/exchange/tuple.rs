//! What leads a packet to its conversation.

use crate::trajectory::model::{Packet, Trajectory, Verdict};
use crate::trajectory::rewrite::Endpoint;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
const DNS_PORT: u16 = 53;
/// Linux, IANA and most others take ports of clients from here on.
const FIRST_EPHEMERAL_PORT: u16 = 32_768;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Marks of what [`Tuple::number`] is.
const DNS_ID: u64 = 1 << 32;
const ECHO: u64 = 2 << 32;
const FRAGMENT: u64 = 3 << 32;

/// Addresses and ports of a packet at one hop, and the number that tells messages between them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tuple {
    protocol: u8,
    source: Endpoint,
    destination: Endpoint,
    number: u64,
}

/// A tuple, and which way the packet goes where it says so itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) tuple: Tuple,
    /// Echo requests and replies: whether it is the request. Their tuple is that of the request.
    pub(super) asks: Option<bool>,
}

impl Tuple {
    /// The tuple of a packet the other way.
    pub(super) fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source, ..self }
    }
}

/// All keys of a trajectory: what it is at each hop, without repetition of neighbours. Empty if it belongs to no
/// conversation (ICMP errors, neighbour discovery).
pub(super) fn keys(trajectory: &Trajectory) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::with_capacity(2);
    let dropped = match &trajectory.verdict {
        Verdict::Dropped(dropped) => Some(&dropped.sighting.packet),
        _ => None,
    };
    for packet in trajectory.hops.iter().map(|hop| &hop.packet).chain(dropped) {
        for key in [of_conversation(packet), of_datagram(packet)].into_iter().flatten() {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

fn of_conversation(packet: &Packet) -> Option<Key> {
    let (source, destination) = (Endpoint::source(packet), Endpoint::destination(packet));
    let tuple = Tuple { protocol: packet.protocol, source, destination, number: 0 };
    if packet.fragment.is_some_and(|(offset, _)| offset > 0) {
        return None;
    }
    match packet.protocol {
        ICMP | ICMPV6 => {
            let asks = asks_for_echo(packet)?;
            let identifier = packet.icmp.map_or(0, |icmp| icmp.identifier);
            let number = ECHO | u64::from(identifier) << 16 | u64::from(packet.sequence & 0xffff);
            let tuple = if asks { tuple } else { tuple.reversed() };
            Some(Key { tuple: Tuple { number, ..tuple }, asks: Some(asks) })
        }
        UDP if is_dns(packet) => {
            Some(Key { tuple: Tuple { number: DNS_ID | u64::from(packet.sequence), ..tuple }, asks: None })
        }
        _ => Some(Key { tuple, asks: None }),
    }
}

/// What the fragments of one packet have in common.
fn of_datagram(packet: &Packet) -> Option<Key> {
    packet.fragment?;
    let end = |address| Endpoint { address, port: None };
    let tuple = Tuple {
        protocol: packet.protocol,
        source: end(packet.source),
        destination: end(packet.destination),
        number: FRAGMENT | u64::from(packet.identification),
    };
    Some(Key { tuple, asks: None })
}

impl Key {
    /// Whether it stands for the fragments of one packet, which all go the same way.
    pub(super) fn is_of_fragments(&self) -> bool {
        self.tuple.number >> 32 == FRAGMENT >> 32
    }
}

/// Whether the port of DNS is one of a datagram's.
pub(super) fn is_dns(packet: &Packet) -> bool {
    packet.protocol == UDP
        && packet.ports.is_some_and(|(source, destination)| source == DNS_PORT || destination == DNS_PORT)
}

/// Whether an ICMP packet is an echo request; `None` if it is no reply either.
fn asks_for_echo(packet: &Packet) -> Option<bool> {
    match (packet.protocol, packet.icmp?.kind) {
        (ICMP, 8) | (ICMPV6, 128) => Some(true),
        (ICMP, 0) | (ICMPV6, 129) => Some(false),
        _ => None,
    }
}

/// Whether the sender of the first packet seen of a conversation is its requester. What the packet says comes first,
/// then the ports: clients' are from the ephemeral range. Without either, who speaks first asks.
pub(super) fn is_from_requester(packet: &Packet) -> bool {
    if let Some(asks) = asks_for_echo(packet) {
        return asks;
    }
    if packet.protocol == TCP && packet.tcp_flags & SYN != 0 {
        return packet.tcp_flags & ACK == 0;
    }
    let Some((source, destination)) = packet.ports else { return true };
    if packet.protocol == UDP && (source == DNS_PORT) != (destination == DNS_PORT) {
        return destination == DNS_PORT;
    }
    source >= FIRST_EPHEMERAL_PORT || destination < FIRST_EPHEMERAL_PORT
}
