//! The contract between kernel and user side: the record's bytes, the filter's masks, the outcomes' indices.

use std::collections::HashSet;
use std::mem::{align_of, offset_of, size_of};

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use tracer_common::filter::{
    Ends, FilterConfig, bytes_wanted, is_possible, mapped, match_ends, narrow, wants_bytes,
};
use tracer_common::kernel::KernelLayout;
use tracer_common::outcome::{DROP_OUTCOME_COUNT, DropOutcome, OUTCOME_COUNT, Outcome};
use tracer_common::packet::{Headers, ParseError};
use tracer_common::record::{
    DIRECTION_EGRESS, DIRECTION_INGRESS, DIRECTION_NONE, DROP_RECORD_SIZE, DropRecord, HOP_RECORD_SIZE,
    HopRecord, MAX_TUNNELS, Record, Tunnel, size_in_ring,
};

/// A record's bytes as they are in the ring buffer.
fn bytes_of(record: &HopRecord) -> &[u8] {
    // SAFETY: repr(C) without padding, so every byte is initialized; the reference outlives the slice.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast(), HOP_RECORD_SIZE) }
}

#[test]
fn every_field_of_the_record_is_where_it_was() {
    let fields = [
        (offset_of!(HopRecord, time_ns), 8, "time_ns"),
        (offset_of!(HopRecord, follows), 8, "follows"),
        (offset_of!(HopRecord, space), 4, "space"),
        (offset_of!(HopRecord, ifindex), 4, "ifindex"),
        (offset_of!(HopRecord, length), 4, "length"),
        (offset_of!(HopRecord, direction), 1, "direction"),
        (offset_of!(HopRecord, tunnel_count), 1, "tunnel_count"),
        (offset_of!(HopRecord, gso_segments), 2, "gso_segments"),
        (offset_of!(HopRecord, fingerprint), 8, "fingerprint"),
        (offset_of!(HopRecord, source), 16, "source"),
        (offset_of!(HopRecord, destination), 16, "destination"),
        (offset_of!(HopRecord, source_port), 2, "source_port"),
        (offset_of!(HopRecord, destination_port), 2, "destination_port"),
        (offset_of!(HopRecord, sequence), 4, "sequence"),
        (offset_of!(HopRecord, acknowledgment), 4, "acknowledgment"),
        (offset_of!(HopRecord, timestamp_value), 4, "timestamp_value"),
        (offset_of!(HopRecord, timestamp_echo), 4, "timestamp_echo"),
        (offset_of!(HopRecord, identification), 4, "identification"),
        (offset_of!(HopRecord, payload_length), 4, "payload_length"),
        (offset_of!(HopRecord, gso_size), 2, "gso_size"),
        (offset_of!(HopRecord, window), 2, "window"),
        (offset_of!(HopRecord, fragment_offset), 2, "fragment_offset"),
        (offset_of!(HopRecord, icmp_identifier), 2, "icmp_identifier"),
        (offset_of!(HopRecord, version), 1, "version"),
        (offset_of!(HopRecord, protocol), 1, "protocol"),
        (offset_of!(HopRecord, ttl), 1, "ttl"),
        (offset_of!(HopRecord, traffic_class), 1, "traffic_class"),
        (offset_of!(HopRecord, tcp_flags), 1, "tcp_flags"),
        (offset_of!(HopRecord, icmp_type), 1, "icmp_type"),
        (offset_of!(HopRecord, icmp_code), 1, "icmp_code"),
        (offset_of!(HopRecord, flags), 1, "flags"),
        (offset_of!(HopRecord, reserved), 4, "reserved"),
        (offset_of!(HopRecord, tunnels), MAX_TUNNELS * size_of::<Tunnel>(), "tunnels"),
    ];
    assert_eq!(without_padding(&fields), HOP_RECORD_SIZE);
    assert_eq!((HOP_RECORD_SIZE, align_of::<HopRecord>()), (200, 8));
    let landmarks = [
        (offset_of!(HopRecord, fingerprint), 32),
        (offset_of!(HopRecord, source_port), 72),
        (offset_of!(HopRecord, gso_size), 100),
        (offset_of!(HopRecord, version), 108),
        (offset_of!(HopRecord, tunnels), 120),
    ];
    for (offset, expected) in landmarks {
        assert_eq!(offset, expected);
    }
}

/// A drop record's bytes as they are in the ring buffer.
fn bytes_of_drop(record: &DropRecord) -> &[u8] {
    // SAFETY: repr(C) without padding, so every byte is initialized; the reference outlives the slice.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast(), DROP_RECORD_SIZE) }
}

#[test]
fn every_field_of_a_drop_record_is_where_it_was() {
    let fields = [
        (offset_of!(DropRecord, packet), HOP_RECORD_SIZE, "packet"),
        (offset_of!(DropRecord, location), 8, "location"),
        (offset_of!(DropRecord, reason), 4, "reason"),
        (offset_of!(DropRecord, netns), 4, "netns"),
    ];
    assert_eq!(without_padding(&fields), DROP_RECORD_SIZE);
    assert_eq!((DROP_RECORD_SIZE, align_of::<DropRecord>()), (216, 8));
    assert_eq!((size_of::<KernelLayout>(), align_of::<KernelLayout>()), (19 * 4, 4), "words only");
}

#[test]
fn a_sample_is_the_kind_that_its_size_and_its_direction_both_say() {
    for direction in [DIRECTION_INGRESS, DIRECTION_EGRESS] {
        let hop = HopRecord { direction, time_ns: 1, tunnel_count: 2, ..HopRecord::default() };
        assert_eq!(Record::from_bytes(bytes_of(&hop)), Some(Record::Hop(hop)));
        let drop = DropRecord { packet: hop, reason: 9, ..DropRecord::default() };
        assert_eq!(Record::from_bytes(bytes_of_drop(&drop)), None, "a drop is at no hook");
    }
    let packet = HopRecord { direction: DIRECTION_NONE, time_ns: 1, tunnel_count: 2, ..HopRecord::default() };
    assert_eq!(Record::from_bytes(bytes_of(&packet)), None, "the end is missing");
    let drop = DropRecord { packet, location: 2, reason: 3, netns: 4 };
    assert_eq!(Record::from_bytes(bytes_of_drop(&drop)), Some(Record::Drop(drop)));
}

#[test]
fn a_record_in_the_ring_has_no_tunnels_that_its_packet_has_not() {
    let sizes = [120, 160, HOP_RECORD_SIZE];
    for (tunnel_count, size) in (0_u8..).zip(sizes) {
        let mut hop = HopRecord { time_ns: 1, tunnel_count, ..HopRecord::default() };
        for (tunnel, kind) in hop.tunnels.iter_mut().zip(1..).take(usize::from(tunnel_count)) {
            tunnel.kind = kind;
        }
        assert_eq!(size_in_ring(tunnel_count), size);
        assert_eq!(Record::from_bytes(&bytes_of(&hop)[..size]), Some(Record::Hop(hop)));
        for other in sizes.into_iter().filter(|other| *other != size) {
            assert_eq!(Record::from_bytes(&bytes_of(&hop)[..other]), None, "{tunnel_count}, {other}");
        }
    }
}

#[test]
fn a_sample_of_any_other_size_is_no_record() {
    let bytes = [DIRECTION_NONE; DROP_RECORD_SIZE + 8];
    let sizes = (0..bytes.len()).filter(|size| ![HOP_RECORD_SIZE, DROP_RECORD_SIZE].contains(size));
    for size in sizes {
        assert_eq!(Record::from_bytes(&bytes[..size]), None, "{size}");
    }
}

#[test]
fn every_field_of_a_tunnel_and_of_the_filter_is_where_it_was() {
    let tunnel = [
        (offset_of!(Tunnel, source), 16, "source"),
        (offset_of!(Tunnel, destination), 16, "destination"),
        (offset_of!(Tunnel, identifier), 4, "identifier"),
        (offset_of!(Tunnel, port), 2, "port"),
        (offset_of!(Tunnel, kind), 1, "kind"),
        (offset_of!(Tunnel, ttl), 1, "ttl"),
    ];
    assert_eq!(without_padding(&tunnel), size_of::<Tunnel>());

    let ends = [(offset_of!(Ends, a), 8, "a"), (offset_of!(Ends, b), 8, "b")];
    assert_eq!(without_padding(&ends), size_of::<Ends>());

    let config = [
        (offset_of!(FilterConfig, any_peer), 8, "any_peer"),
        (offset_of!(FilterConfig, any_port), 8, "any_port"),
        (offset_of!(FilterConfig, any_protocol), 8, "any_protocol"),
        (offset_of!(FilterConfig, with_headers), 8, "with_headers"),
        (offset_of!(FilterConfig, with_bytes), 8, "with_bytes"),
        (offset_of!(FilterConfig, vxlan_ports), 8, "vxlan_ports"),
        (offset_of!(FilterConfig, snaplen), 4, "snaplen"),
        (offset_of!(FilterConfig, armed), 4, "armed"),
        (offset_of!(FilterConfig, known), 8 * tracer_common::filter::KNOWN_WORDS, "known"),
    ];
    assert_eq!(without_padding(&config), size_of::<FilterConfig>());
}

/// Offset of the end of the last of `fields`, each of which must begin where the one before ends.
fn without_padding(fields: &[(usize, usize, &str)]) -> usize {
    fields.iter().fold(0, |end, (offset, size, name)| {
        assert_eq!(*offset, end, "{name}");
        end + size
    })
}

#[test]
fn the_walks_memory_is_words_only() {
    // It lives in a map and is read back as unknown numbers; anything else would have invalid values.
    assert_eq!((size_of::<Headers>() % 4, align_of::<Headers>()), (0, 4));
}

proptest! {
    #[test]
    fn a_records_bytes_are_the_record(bytes in any::<[[u8; 8]; HOP_RECORD_SIZE / 8]>()) {
        let bytes = bytes.concat();
        let record = HopRecord::from_bytes(&bytes).unwrap();

        prop_assert_eq!(bytes_of(&record), &bytes);
        let sequence = offset_of!(HopRecord, sequence);
        prop_assert_eq!(&record.sequence.to_ne_bytes()[..], &bytes[sequence..sequence + 4]);
        let port = offset_of!(HopRecord, source_port);
        prop_assert_eq!(&record.source_port[..], &bytes[port..port + 2]);
    }

    #[test]
    fn a_record_is_decoded_from_any_address(shift in 0..8_usize, first in any::<[u8; 8]>()) {
        let mut buffer = vec![0; HOP_RECORD_SIZE + shift];
        buffer[shift..shift + 8].copy_from_slice(&first);
        let record = HopRecord::from_bytes(&buffer[shift..]).unwrap();
        prop_assert_eq!(record.time_ns, u64::from_ne_bytes(first));
    }

    #[test]
    fn follows_do_not_disturb_each_other(
        source in any::<(u64, u64)>(),
        destination in any::<(u64, u64)>(),
        (any_peer, any_port, any_protocol) in any::<(u64, u64, u64)>(),
        (protocol, source_port, destination_port) in any::<(u64, u64, u64)>(),
        follow in 0..64_u32,
    ) {
        let only = |mask: u64| mask & 1 << follow;
        let ends = |(a, b)| Ends { a, b };
        let config = FilterConfig { any_peer, any_port, any_protocol, ..FilterConfig::default() };
        let all = narrow(
            match_ends(ends(source), ends(destination), any_peer),
            &config, protocol, source_port, destination_port,
        );
        let alone = narrow(
            match_ends(
                ends((only(source.0), only(source.1))),
                ends((only(destination.0), only(destination.1))),
                only(any_peer),
            ),
            &FilterConfig {
                any_peer: only(any_peer), any_port: only(any_port), any_protocol: only(any_protocol),
                ..FilterConfig::default()
            },
            only(protocol), only(source_port), only(destination_port),
        );
        prop_assert_eq!(only(all), alone);
        prop_assert!(match_ends(ends(destination), ends(source), any_peer)
            == match_ends(ends(source), ends(destination), any_peer), "both directions alike");
    }
}

#[test]
fn of_a_packets_bytes_as_many_are_wanted_as_the_follow_that_wants_most() {
    let config =
        FilterConfig { with_headers: 0b001, with_bytes: 0b010, snaplen: 100, ..FilterConfig::default() };
    for (follows, headers, wanted) in
        [(0b100, 54, 0), (0b001, 54, 54), (0b010, 54, 100), (0b011, 54, 100), (0b011, 120, 120)]
    {
        assert_eq!(bytes_wanted(follows, &config, headers), wanted, "{follows:b} of {headers}");
        assert_eq!(wants_bytes(follows, &config), wanted > 0, "{follows:b}");
    }
}

#[test]
fn bytes_of_another_size_are_no_record() {
    for size in (0..2 * HOP_RECORD_SIZE + 8).filter(|size| *size != HOP_RECORD_SIZE) {
        assert_eq!(HopRecord::from_bytes(&vec![0; size]), None, "{size} bytes");
    }
    assert_eq!(HopRecord::from_bytes(&[0; HOP_RECORD_SIZE]), Some(HopRecord::default()));
}

const BIT: u64 = 1 << 63;
const NEITHER: Ends = Ends { a: 0, b: 0 };
const A: Ends = Ends { a: BIT, b: 0 };
const B: Ends = Ends { a: 0, b: BIT };
const BOTH: Ends = Ends { a: BIT, b: BIT };

#[test]
fn a_follow_wants_packets_between_its_ends_in_both_directions() {
    let wanted = [(A, B), (B, A), (BOTH, A), (A, BOTH), (BOTH, B), (B, BOTH), (BOTH, BOTH)];
    let unwanted = [
        (NEITHER, NEITHER),
        (A, NEITHER),
        (NEITHER, A),
        (B, NEITHER),
        (NEITHER, B),
        (BOTH, NEITHER),
        (NEITHER, BOTH),
        (A, A),
        (B, B),
    ];
    for (source, destination) in wanted {
        assert_eq!(match_ends(source, destination, 0), BIT, "{source:?} to {destination:?}");
    }
    for (source, destination) in unwanted {
        assert_eq!(match_ends(source, destination, 0), 0, "{source:?} to {destination:?}");
    }
}

#[test]
fn a_follow_of_any_peer_wants_every_packet_of_its_end_a() {
    let ends = [NEITHER, A, B, BOTH];
    for source in ends {
        for destination in ends {
            let expected = if source.a | destination.a == 0 { 0 } else { BIT };
            assert_eq!(match_ends(source, destination, BIT), expected, "{source:?} to {destination:?}");
            assert_eq!(match_ends(source, destination, BIT - 1) & !BIT, 0, "of another follow");
        }
    }
}

#[test]
fn a_packet_is_impossible_only_if_no_follow_could_want_it() {
    let all = [None, Some(NEITHER), Some(A), Some(B), Some(BOTH)];
    for any_peer in [0, BIT] {
        for (source, destination) in all.into_iter().flat_map(|source| all.map(|other| (source, other))) {
            let wants =
                match_ends(source.unwrap_or_default(), destination.unwrap_or_default(), any_peer) != 0;
            let known = (source.is_some(), destination.is_some());
            assert!(is_possible(known, any_peer) || !wants, "{source:?}, {destination:?}, {any_peer}");
        }
        assert!(!is_possible((false, false), any_peer), "a packet of strangers costs no look-up");
    }
    assert!(
        !is_possible((false, true), 0) && !is_possible((true, false), 0),
        "nor does one of half strangers"
    );
}

#[test]
fn a_follow_that_asks_for_protocol_or_port_wants_only_these() {
    for bits in 0..32_u64 {
        let bit = |n: u32| if bits >> n & 1 == 1 { BIT } else { 0 };
        let config = FilterConfig { any_protocol: bit(0), any_port: bit(1), ..FilterConfig::default() };
        let narrowed = narrow(BIT, &config, bit(2), bit(3), bit(4));

        let protocol = bit(0) | bit(2) != 0;
        let port = bit(1) | bit(3) | bit(4) != 0;
        assert_eq!(narrowed == BIT, protocol && port, "{bits:05b}");
        assert_eq!(narrow(0, &config, bit(2), bit(3), bit(4)), 0, "what is not wanted stays so");
    }
}

#[test]
fn an_ipv4_address_has_the_key_of_its_mapped_address() {
    let key = mapped([192, 0, 2, 33]);
    assert_eq!(key, "::ffff:192.0.2.33".parse::<std::net::Ipv6Addr>().unwrap().octets());
}

#[test]
fn outcomes_have_dense_indices_and_names_of_their_own() {
    for (index, outcome) in Outcome::ALL.iter().enumerate() {
        assert_eq!(*outcome as usize, index, "{}", outcome.name());
        assert!(outcome.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", outcome.name());
        assert!(!outcome.meaning().is_empty());
    }
    let names: HashSet<_> = Outcome::ALL.iter().map(|outcome| outcome.name()).collect();
    assert_eq!((names.len(), OUTCOME_COUNT), (Outcome::ALL.len(), Outcome::ALL.len()));
}

#[test]
fn outcomes_of_drops_have_dense_indices_and_names_of_their_own() {
    for (index, outcome) in DropOutcome::ALL.iter().enumerate() {
        assert_eq!(*outcome as usize, index, "{}", outcome.name());
        assert!(!outcome.meaning().is_empty());
    }
    let names: HashSet<_> = DropOutcome::ALL.iter().map(|outcome| outcome.name()).collect();
    assert_eq!(names.len(), DROP_OUTCOME_COUNT);
}

#[test]
fn every_parse_error_has_an_outcome_of_its_own() {
    let errors = [ParseError::NotIp, ParseError::Truncated, ParseError::Malformed, ParseError::TooDeep];
    let outcomes: Vec<_> = errors.map(Outcome::from).to_vec();
    assert_eq!(outcomes, [Outcome::NotIp, Outcome::Truncated, Outcome::Malformed, Outcome::TooDeep]);
    let names = |outcomes: &[Outcome]| outcomes.iter().map(|outcome| outcome.name()).collect::<Vec<_>>();
    let of_drops = errors.map(|error| DropOutcome::from(error).name());
    assert_eq!(names(&outcomes), of_drops, "and the same one for drops");
}
