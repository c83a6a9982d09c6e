//! What stays the same of a packet on its way, as a capture and as a record know it. NAT changes addresses and one port;
//! routers change the TTL; devices cut TCP data and merge it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tracer::trajectory::model::Packet;
use tracer_integration::{Seen, Transport};

const TCP: u8 = 6;
/// The kind of TCP's timestamp option, and its length.
const TIMESTAMPS: [u8; 2] = [8, 10];

/// Everything of a packet that is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) kind: Kind,
    /// Of TCP with data; the kind leaves it out.
    pub(crate) bytes: Option<Bytes>,
    /// IPv4's identification, or that of IPv6's fragment header. Pieces of cut TCP data count it up.
    pub(crate) identification: Option<u32>,
}

/// Packets of different kinds are never the same, whole or in part.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Kind {
    protocol: u8,
    is_ipv6: bool,
    /// The larger port, which is the client's: NAT of a Service leaves it alone.
    port: Option<u16>,
    acknowledgment: u32,
    timestamps: Option<(u32, u32)>,
    /// The rest, for packets that nobody cuts or merges.
    whole: Option<Whole>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Whole {
    sequence: u32,
    identification: u32,
    fragment: Option<u32>,
    icmp: Option<(u8, u8)>,
    flags: u8,
    window: u16,
    length: usize,
}

/// Bytes of a TCP stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bytes {
    pub(crate) start: u32,
    pub(crate) length: u32,
}

impl Bytes {
    /// Where another range begins, seen from this one's beginning.
    fn offset(self, other: Self) -> i64 {
        i64::from(other.start.wrapping_sub(self.start).cast_signed())
    }

    /// How many bytes both have.
    pub(crate) fn common(self, other: Self) -> u32 {
        let start = self.offset(other).max(0);
        let end = (self.offset(other) + i64::from(other.length)).min(i64::from(self.length));
        u32::try_from(end - start).unwrap_or(0)
    }

    pub(crate) fn contains(self, other: Self) -> bool {
        self.common(other) == other.length
    }

    /// Whether others together have all of these bytes.
    pub(crate) fn is_covered_by(self, others: &[Self]) -> bool {
        let mut ranges: Vec<_> = others.iter().filter(|other| self.common(**other) > 0).collect();
        ranges.sort_by_key(|other| self.offset(**other));
        let mut covered = 0;
        for other in ranges {
            let start = self.offset(*other);
            if start > covered {
                return false;
            }
            covered = covered.max(start + i64::from(other.length));
        }
        covered >= i64::from(self.length)
    }
}

impl Content {
    /// Of a captured packet.
    pub(crate) fn captured(seen: &Seen) -> Self {
        let (sequence, acknowledgment, flags, window, timestamps, icmp) = match &seen.transport {
            Transport::Tcp { seq, ack, flags, window, options } => {
                (*seq, *ack, flag_bits(flags), *window, tcp_timestamps(options), None)
            }
            Transport::Icmp { r#type, code, seq } => (u32::from(*seq), 0, 0, 0, None, Some((*r#type, *code))),
            Transport::Udp | Transport::Other => (0, 0, 0, 0, None, None),
        };
        Self::new(Parts {
            protocol: seen.protocol,
            source: seen.src.ip,
            ports: seen.src.port.zip(seen.dst.port),
            sequence,
            acknowledgment,
            flags,
            window,
            timestamps,
            icmp,
            identification: seen.identification,
            fragment: seen.fragment_offset,
            length: seen.payload.len(),
        })
    }

    /// Of a record.
    pub(crate) fn recorded(packet: &Packet) -> Self {
        let is_echo = |kind: u8| [0, 8, 128, 129].contains(&kind);
        let has_sequence = packet.protocol == TCP || packet.icmp.is_some_and(|icmp| is_echo(icmp.kind));
        Self::new(Parts {
            protocol: packet.protocol,
            source: packet.source,
            ports: packet.ports,
            sequence: if has_sequence { packet.sequence } else { 0 },
            acknowledgment: packet.acknowledgment,
            flags: packet.tcp_flags,
            window: if packet.protocol == TCP { packet.window } else { 0 },
            timestamps: packet.tcp_timestamps,
            icmp: packet.icmp.map(|icmp| (icmp.kind, icmp.code)),
            identification: (packet.source.is_ipv4() || packet.fragment.is_some())
                .then_some(packet.identification),
            fragment: packet.fragment.map(|(offset, _)| offset.into()),
            length: packet.payload_length as usize,
        })
    }

    fn new(parts: Parts) -> Self {
        let is_data = parts.protocol == TCP && parts.length > 0 && parts.fragment.is_none();
        let whole = Whole {
            sequence: parts.sequence,
            identification: parts.identification.unwrap_or(0),
            fragment: parts.fragment,
            icmp: parts.icmp,
            flags: parts.flags,
            window: parts.window,
            // A record has the length behind the transport's header, a capture of a later fragment that behind IP's.
            length: if parts.fragment.is_some() { 0 } else { parts.length },
        };
        Self {
            kind: Kind {
                protocol: parts.protocol,
                is_ipv6: parts.source.is_ipv6(),
                port: parts
                    .ports
                    .filter(|_| parts.fragment.is_none())
                    .map(|(source, destination)| source.max(destination)),
                acknowledgment: parts.acknowledgment,
                timestamps: parts.timestamps,
                whole: (!is_data).then_some(whole),
            },
            bytes: is_data.then_some(Bytes { start: parts.sequence, length: parts.length as u32 }),
            identification: parts.identification,
        }
    }
}

/// What both kinds of packets are taken apart into.
struct Parts {
    protocol: u8,
    source: IpAddr,
    ports: Option<(u16, u16)>,
    sequence: u32,
    acknowledgment: u32,
    flags: u8,
    window: u16,
    timestamps: Option<(u32, u32)>,
    icmp: Option<(u8, u8)>,
    identification: Option<u32>,
    fragment: Option<u32>,
    length: usize,
}

fn flag_bits(names: &[&str]) -> u8 {
    const NAMES: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
    names.iter().filter_map(|name| NAMES.iter().position(|known| known == name)).map(|bit| 1 << bit).sum()
}

/// TSval and TSecr among a TCP header's options.
fn tcp_timestamps(mut options: &[u8]) -> Option<(u32, u32)> {
    loop {
        match options {
            [1, rest @ ..] => options = rest,
            [kind, length, rest @ ..] if [*kind, *length] == TIMESTAMPS => {
                let number = |at: usize| Some(u32::from_be_bytes(rest.get(at..at + 4)?.try_into().ok()?));
                return number(0).zip(number(4));
            }
            [0, ..] | [] | [_] => return None,
            [_, length, ..] => options = options.get(usize::from(*length).max(2)..)?,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn parts(protocol: u8, identification: Option<u32>, sequence: u32, length: usize) -> Parts {
        let source = if identification.is_some() { [10, 0, 0, 1].into() } else { [0; 16].into() };
        Parts {
            protocol,
            source,
            ports: Some((40_000, 80)),
            sequence,
            acknowledgment: 1,
            flags: 0x10,
            window: 500,
            timestamps: (protocol == TCP).then_some((1, 2)),
            icmp: None,
            identification,
            fragment: None,
            length,
        }
    }

    /// A datagram; IPv6 without an identification.
    pub(crate) fn datagram(identification: Option<u32>) -> Content {
        Content::new(parts(17, identification, 0, 12))
    }

    /// Bytes of one TCP stream; over IPv6 without an identification.
    pub(crate) fn data(identification: Option<u32>, start: u32, length: usize) -> Content {
        Content::new(parts(TCP, identification, start, length))
    }

    #[test]
    fn nat_of_a_service_leaves_the_content_alone() {
        let before = parts(TCP, Some(7), 1000, 0);
        let after = Parts {
            source: [10, 96, 0, 1].into(),
            ports: Some((40_000, 8080)),
            ..parts(TCP, Some(7), 1000, 0)
        };
        assert_eq!(Content::new(before), Content::new(after));
    }

    #[test]
    fn a_fin_is_not_the_acknowledgment_before_it() {
        let fin = Parts { flags: 0x11, ..parts(TCP, None, 1000, 0) };
        assert_ne!(Content::new(parts(TCP, None, 1000, 0)).kind, Content::new(fin).kind);
    }

    fn bytes(start: u32, length: u32) -> Bytes {
        Bytes { start, length }
    }

    #[test]
    fn ranges_of_bytes_wrap_around() {
        let range = bytes(u32::MAX - 9, 20);
        assert_eq!(range.common(bytes(5, 10)), 5);
        assert!(range.contains(bytes(0, 10)) && !range.contains(bytes(0, 11)));
        assert_eq!(range.common(bytes(10, 5)), 0);
    }

    #[test]
    fn a_range_is_covered_by_pieces_without_a_gap_only() {
        let range = bytes(100, 30);
        assert!(range.is_covered_by(&[bytes(120, 20), bytes(90, 20), bytes(110, 10)]));
        assert!(!range.is_covered_by(&[bytes(120, 20), bytes(90, 20)]));
        assert!(!range.is_covered_by(&[]));
    }

    #[test]
    fn timestamps_are_found_behind_padding_and_other_options() {
        let options = [1, 1, 2, 4, 5, 180, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9];
        assert_eq!(tcp_timestamps(&options), Some((7, 9)));
        assert_eq!(tcp_timestamps(&[8, 10, 0]), None);
        assert_eq!(tcp_timestamps(&[3, 0, 3, 0]), None);
    }
}
