//! From a hop record to a sighting. Pure.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use tracer_common::record::{
    FLAG_FRAGMENT, FLAG_MORE_FRAGMENTS, FLAG_PORTS, FLAG_QUOTE, FLAG_TCP_TIMESTAMP, HopRecord, MAX_TUNNELS,
    QuoteRecord, Tunnel,
};

use crate::trajectory::model::{Encapsulation, Frame, IcmpHeader, ObservationPoint, Packet, Quote, Sighting};

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ICMPV6: u8 = 58;
const PROTOCOL_SCTP: u8 = 132;

/// The sighting that `record` reports from `point`.
#[must_use]
pub fn sighting(record: &HopRecord, frame: Option<Frame>, point: Arc<ObservationPoint>) -> Sighting {
    Sighting { point, time_ns: record.time_ns, follows: record.follows, packet: packet(record), frame }
}

/// The packet's own part of a record: nothing that holds on one machine only.
#[must_use]
pub fn packet(record: &HopRecord) -> Packet {
    let flag = |bit: u8| record.flags & bit != 0;
    // Such a record has the quote in fields that an error does not use.
    let is_error = flag(FLAG_QUOTE);
    let unless_quoted = |value: u32| if is_error { 0 } else { value };
    Packet {
        fingerprint: record.fingerprint,
        source: address(record.source),
        destination: address(record.destination),
        ports: flag(FLAG_PORTS)
            .then(|| (u16::from_be_bytes(record.source_port), u16::from_be_bytes(record.destination_port))),
        protocol: record.protocol,
        ttl: record.ttl,
        length: record.length,
        payload_length: record.payload_length,
        gso_segments: record.gso_segments,
        gso_size: record.gso_size,
        sequence: unless_quoted(record.sequence),
        acknowledgment: unless_quoted(record.acknowledgment),
        tcp_timestamps: flag(FLAG_TCP_TIMESTAMP).then_some((record.timestamp_value, record.timestamp_echo)),
        tcp_flags: if is_error { 0 } else { record.tcp_flags },
        window: if is_error { 0 } else { record.window },
        identification: record.identification,
        fragment: flag(FLAG_FRAGMENT).then(|| (record.fragment_offset, flag(FLAG_MORE_FRAGMENTS))),
        icmp: matches!(record.protocol, PROTOCOL_ICMP | PROTOCOL_ICMPV6).then_some(IcmpHeader {
            kind: record.icmp_type,
            code: record.icmp_code,
            identifier: if is_error { 0 } else { record.icmp_identifier },
        }),
        quote: record.quote().as_ref().map(|quoted| Box::new(quote(quoted))),
        encapsulation: record
            .tunnels
            .iter()
            .take(usize::from(record.tunnel_count).min(MAX_TUNNELS))
            .map(encapsulation)
            .collect(),
    }
}

fn quote(quote: &QuoteRecord) -> Quote {
    let (ports, sequence) = match (quote.protocol, quote.transport) {
        (PROTOCOL_TCP, Some((ports, sequence))) => (Some(ports), Some(sequence)),
        // A length that counts its own header of eight bytes, and a checksum.
        (PROTOCOL_UDP, Some((ports, length))) => (Some(ports), Some((length >> 16).saturating_sub(8))),
        (PROTOCOL_SCTP, Some((ports, _))) => (Some(ports), None),
        // Identifier and sequence number of an echo.
        (PROTOCOL_ICMP | PROTOCOL_ICMPV6, Some((_, echo))) => (None, Some(echo & 0xffff)),
        _ => (None, None),
    };
    Quote {
        destination: address(quote.destination),
        protocol: quote.protocol,
        identification: quote.identification,
        ports: ports.map(|both| ((both >> 16) as u16, both as u16)),
        sequence,
        mtu: (quote.mtu != 0).then_some(quote.mtu),
    }
}

fn encapsulation(tunnel: &Tunnel) -> Encapsulation {
    Encapsulation {
        kind: tunnel.kind,
        source: address(tunnel.source),
        destination: address(tunnel.destination),
        port: u16::from_be_bytes(tunnel.port),
        identifier: tunnel.identifier,
        ttl: tunnel.ttl,
    }
}

/// An address as records hold it: IPv4 as IPv4-mapped IPv6.
#[must_use]
pub fn address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

/// The key of the filter's address map.
#[must_use]
pub fn address_key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => tracer_common::filter::mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_into_a_record_and_back() {
        for text in ["10.244.0.153", "fd00:10:244::99", "0.0.0.0", "::1"] {
            let original: IpAddr = text.parse().unwrap();
            assert_eq!(address(address_key(original)), original);
        }
    }

    #[test]
    fn what_an_error_quotes_is_read_by_the_protocol_of_the_quoted_packet() {
        let ports = (40_000 << 16) | 53;
        let quoted = |protocol, transport| {
            let mut record = HopRecord { protocol: PROTOCOL_ICMP, icmp_type: 3, ..HopRecord::default() };
            let destination = address_key("10.0.0.2".parse().unwrap());
            record.set_quote(&QuoteRecord { destination, identification: 7, protocol, transport, mtu: 1400 });
            let packet = packet(&record);
            assert_eq!(
                (packet.sequence, packet.acknowledgment, packet.window, packet.tcp_flags),
                (0, 0, 0, 0)
            );
            assert_eq!((packet.ports, packet.tcp_timestamps), (None, None));
            packet.quote.unwrap()
        };
        let tcp = quoted(PROTOCOL_TCP, Some((ports, 0xffff_0000)));
        assert_eq!((tcp.ports, tcp.sequence), (Some((40_000, 53)), Some(0xffff_0000)));
        assert_eq!((tcp.identification, tcp.mtu), (7, Some(1400)));
        assert_eq!(tcp.destination, "10.0.0.2".parse::<IpAddr>().unwrap());
        assert_eq!(quoted(PROTOCOL_UDP, Some((ports, 48 << 16 | 0xbeef))).sequence, Some(40));
        let echo = quoted(PROTOCOL_ICMP, Some((0x0800_0000, 77 << 16 | 9)));
        assert_eq!((echo.ports, echo.sequence), (None, Some(9)));
        let header_only = quoted(PROTOCOL_TCP, None);
        assert_eq!((header_only.ports, header_only.sequence), (None, None));
    }

    #[test]
    fn a_record_that_claims_more_tunnels_than_it_has_room_for_is_decoded_without_them() {
        let record = HopRecord { tunnel_count: 255, ..HopRecord::default() };
        assert_eq!(packet(&record).encapsulation.len(), MAX_TUNNELS);
    }
}
