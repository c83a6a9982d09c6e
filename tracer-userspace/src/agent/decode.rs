//! From a hop record to a sighting. Pure.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use tracer_common::record::{
    FLAG_FRAGMENT, FLAG_MORE_FRAGMENTS, FLAG_PORTS, FLAG_TCP_TIMESTAMP, HopRecord, MAX_TUNNELS, Tunnel,
};

use crate::trajectory::model::{Encapsulation, IcmpHeader, ObservationPoint, Packet, Sighting};

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;

/// The sighting that `record` reports from `point`.
#[must_use]
pub fn sighting(record: &HopRecord, point: Arc<ObservationPoint>) -> Sighting {
    Sighting { point, time_ns: record.time_ns, follows: record.follows, packet: packet(record) }
}

/// The packet's own part of a record: nothing that holds on one machine only.
#[must_use]
pub fn packet(record: &HopRecord) -> Packet {
    let flag = |bit: u8| record.flags & bit != 0;
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
        sequence: record.sequence,
        acknowledgment: record.acknowledgment,
        tcp_timestamps: flag(FLAG_TCP_TIMESTAMP).then_some((record.timestamp_value, record.timestamp_echo)),
        tcp_flags: record.tcp_flags,
        window: record.window,
        identification: record.identification,
        fragment: flag(FLAG_FRAGMENT).then(|| (record.fragment_offset, flag(FLAG_MORE_FRAGMENTS))),
        icmp: matches!(record.protocol, PROTOCOL_ICMP | PROTOCOL_ICMPV6).then_some(IcmpHeader {
            kind: record.icmp_type,
            code: record.icmp_code,
            identifier: record.icmp_identifier,
        }),
        encapsulation: record
            .tunnels
            .iter()
            .take(usize::from(record.tunnel_count).min(MAX_TUNNELS))
            .map(encapsulation)
            .collect(),
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
    fn a_record_that_claims_more_tunnels_than_it_has_room_for_is_decoded_without_them() {
        let record = HopRecord { tunnel_count: 255, ..HopRecord::default() };
        assert_eq!(packet(&record).encapsulation.len(), MAX_TUNNELS);
    }
}
