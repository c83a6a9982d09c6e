//! The laws of the fingerprint: what happens to a packet on its way keeps it, another packet has another one.

use proptest::prelude::{Strategy, any, prop_assert_eq, prop_assert_ne, prop_assume, proptest};
use proptest::sample::Index;
use tracer_common::fingerprint::PAYLOAD_PREFIX;
use tracer_common::packet::Link;

use crate::bytes::{Tcp, V4, V6, extension, join};
use crate::observe;
use crate::random::{self, Dress, Ip, Nat, Packet, Timestamps, Transport};

fn fingerprint(packet: &Packet) -> u64 {
    observe::ip(&packet.bytes()).expect("a valid packet").fingerprint
}

fn fingerprint_in(dress: &Dress, packet: &Packet) -> u64 {
    let (bytes, link) = dress.around(packet);
    observe::observe(&bytes, link, 0).expect("a valid packet").fingerprint
}

fn fingerprint_gso(packet: &Packet, gso_size: u16) -> u64 {
    observe::observe(&packet.bytes(), Link::None, gso_size).expect("a valid packet").fingerprint
}

/// The packet with one thing changed.
fn with(packet: &Packet, change: impl FnOnce(&mut Packet)) -> Packet {
    let mut changed = packet.clone();
    change(&mut changed);
    changed
}

fn tcp_header(packet: &mut Packet) -> &mut Tcp {
    match &mut packet.transport {
        Transport::Tcp { header, .. } => header,
        other => panic!("not TCP: {other:?}"),
    }
}

fn udp_or_ping() -> impl Strategy<Value = Packet> {
    random::packet_of(proptest::prop_oneof![random::datagram(), random::ping()])
}

// What keeps a fingerprint.
proptest! {
    #[test]
    fn nat_keeps_the_fingerprint(packet in random::packet(), nat in random::nat()) {
        let translated = with(&packet, |p| nat.rewrite(p));
        prop_assert_eq!(fingerprint(&translated), fingerprint(&packet));
    }

    #[test]
    fn a_router_keeps_the_fingerprint(
        packet in random::packet(),
        (ttl, checksum, flow_label) in (any::<u8>(), any::<u16>(), 0..1_u32 << 20),
    ) {
        let routed = with(&packet, |p| match &mut p.ip {
            Ip::V4(ip) => (ip.ttl, ip.checksum) = (ttl, checksum),
            Ip::V6(ip) => (ip.hop_limit, ip.flow_label) = (ttl, flow_label),
        });
        prop_assert_eq!(fingerprint(&routed), fingerprint(&packet));
    }

    #[test]
    fn dscp_and_ecn_keep_the_fingerprint(packet in random::packet(), class in any::<u8>()) {
        let marked = with(&packet, |p| match &mut p.ip {
            Ip::V4(ip) => ip.traffic_class = class,
            Ip::V6(ip) => ip.traffic_class = class,
        });
        prop_assert_eq!(fingerprint(&marked), fingerprint(&packet));
    }

    #[test]
    fn ip_options_and_extension_headers_keep_the_fingerprint(
        packet in random::packet(),
        words in 0..=10_usize,
    ) {
        let longer = match &packet.ip {
            Ip::V4(_) => with(&packet, |p| {
                if let Ip::V4(ip) = &mut p.ip { ip.options = vec![1; 4 * words] }
            }).bytes(),
            Ip::V6(ip) => {
                let plain = packet.bytes();
                ip.around(0, &extension(plain[6], words as u8, &plain[40..]))
            }
        };
        prop_assert_eq!(observe::ip(&longer).unwrap().fingerprint, fingerprint(&packet));
    }

    #[test]
    fn vlan_tags_and_the_ethernet_header_keep_the_fingerprint(
        packet in random::packet(),
        tags in random::tags(),
    ) {
        let dress = Dress { tunnels: Vec::new(), tags };
        prop_assert_eq!(fingerprint_in(&dress, &packet), fingerprint(&packet));
    }

    #[test]
    fn any_encapsulations_keep_the_fingerprint(packet in random::packet(), dress in random::dress()) {
        prop_assert_eq!(fingerprint_in(&dress, &packet), fingerprint(&packet));
    }

    #[test]
    fn an_encapsulation_changes_nothing_of_the_record_but_its_tunnels(
        packet in random::packet(),
        dress in random::dress(),
    ) {
        let (bytes, link) = dress.around(&packet);
        let mut record = observe::observe(&bytes, link, 0).unwrap();
        prop_assert_eq!(usize::from(record.tunnel_count), dress.tunnels.len());
        record.tunnel_count = 0;
        record.tunnels = Default::default();
        prop_assert_eq!(Ok(record), observe::ip(&packet.bytes()));
    }

    #[test]
    fn bytes_behind_the_packet_change_nothing(packet in random::packet(), padding in random::payload()) {
        let padded = join(&[&packet.bytes(), &padding]);
        prop_assert_eq!(observe::ip(&padded), observe::ip(&packet.bytes()));
    }

    #[test]
    fn the_first_tcp_segment_of_a_gso_packet_has_its_fingerprint(
        packet in random::packet_of(random::tcp()),
        size in 1..400_u16,
        flags in any::<u8>(),
    ) {
        // The kernel clears FIN and PSH in all segments but the last, CWR in all but the first.
        let first = with(&packet, |p| {
            p.payload.truncate(usize::from(size));
            let header = tcp_header(p);
            header.flags = header.flags & 0b0000_0110 | flags & 0b1111_1001;
            header.checksum = !header.checksum;
        });
        prop_assert_eq!(fingerprint(&first), fingerprint_gso(&packet, size));
    }

    #[test]
    fn the_first_datagram_of_a_udp_gso_packet_has_its_fingerprint(
        packet in random::packet_of(random::datagram()),
        size in 1..400_u16,
    ) {
        let first = with(&packet, |p| p.payload.truncate(usize::from(size)));
        prop_assert_eq!(fingerprint(&first), fingerprint_gso(&packet, size));
    }

    #[test]
    fn an_icmp_error_keeps_its_fingerprint_when_its_quote_is_translated(
        (outer, quote) in (random::ip(), random::packet()),
        (outer_nat, quote_nat) in (random::nat(), random::nat()),
        (quoted, kind) in (0..200_usize, 0..4_usize),
    ) {
        // Errors quote packets of their own family.
        let outer = match (&outer, &quote.ip) {
            (Ip::V4(_), Ip::V6(_)) => Ip::V6(V6::default()),
            (Ip::V6(_), Ip::V4(_)) => Ip::V4(Default::default()),
            _ => outer,
        };
        let kind = if matches!(outer, Ip::V4(_)) { [3, 5, 11, 12][kind] } else { [1, 2, 3, 4][kind] };
        let error = |outer: &Ip, quote: &Packet, checksum| {
            observe::ip(&random::icmp_error(outer, quote, quoted, kind, checksum)).unwrap().fingerprint
        };
        let translated = with(&quote, |p| quote_nat.rewrite(p));

        prop_assert_eq!(
            error(&translated_ip(&outer, &outer_nat), &translated, 1),
            error(&outer, &quote, 2)
        );
    }
}

#[test]
fn exactly_the_first_bytes_of_a_payload_are_hashed_whatever_its_length() {
    for length in 0..=40 {
        let of = |payload: Vec<u8>| {
            let transport = Transport::Udp { source_port: 1, destination_port: 2, checksum: 0 };
            fingerprint(&Packet { ip: Ip::V6(V6::default()), transport, payload })
        };
        let original = of(vec![0x5a; length]);
        for at in 0..length {
            let mut payload = vec![0x5a; length];
            payload[at] ^= 0x80;
            let hashed = at < PAYLOAD_PREFIX as usize;
            assert_eq!(of(payload) != original, hashed, "byte {at} of {length}");
        }
    }
}

fn translated_ip(ip: &Ip, nat: &Nat) -> Ip {
    let transport = Transport::Udp { source_port: 0, destination_port: 0, checksum: 0 };
    let mut packet = Packet { ip: ip.clone(), transport, payload: Vec::new() };
    nat.rewrite(&mut packet);
    packet.ip
}

// What makes another packet.
proptest! {
    #[test]
    fn another_tcp_sequence_number_is_another_packet(
        packet in random::packet_of(random::tcp()),
        difference in 1..=u32::MAX,
    ) {
        let other = with(&packet, |p| tcp_header(p).sequence ^= difference);
        prop_assert_ne!(fingerprint(&other), fingerprint(&packet));
    }

    #[test]
    fn another_tcp_acknowledgment_is_another_packet(
        packet in random::packet_of(random::tcp()),
        difference in 1..=u32::MAX,
    ) {
        let other = with(&packet, |p| tcp_header(p).acknowledgment ^= difference);
        prop_assert_ne!(fingerprint(&other), fingerprint(&packet));
    }

    #[test]
    fn another_tsval_is_another_packet_and_another_tsecr_is_not(
        packet in random::packet_of(random::tcp()),
        difference in 1..=u32::MAX,
        syn in any::<bool>(),
        (value, echo) in any::<(u32, u32)>(),
    ) {
        let stamped = |value, echo| with(&packet, |p| {
            if let Transport::Tcp { timestamps, .. } = &mut p.transport {
                *timestamps = if syn { Timestamps::Syn(value, echo) } else { Timestamps::Usual(value, echo) };
            }
        });
        let original = fingerprint(&stamped(value, echo));
        prop_assert_ne!(fingerprint(&stamped(value ^ difference, echo)), original);
        prop_assert_eq!(fingerprint(&stamped(value, echo ^ difference)), original);
    }

    #[test]
    fn syn_and_rst_make_another_packet(packet in random::packet_of(random::tcp()), flag in 1..=2_u8) {
        let other = with(&packet, |p| tcp_header(p).flags ^= 1 << flag);
        prop_assert_ne!(fingerprint(&other), fingerprint(&packet));
    }

    #[test]
    fn another_byte_within_the_hashed_payload_is_another_packet(
        packet in udp_or_ping(),
        at in any::<Index>(),
        difference in 1..=u8::MAX,
    ) {
        let packet = with(&packet, |p| p.payload.push(0));
        let at = at.index(packet.payload.len().min(PAYLOAD_PREFIX as usize));
        let other = with(&packet, |p| p.payload[at] ^= difference);
        prop_assert_ne!(fingerprint(&other), fingerprint(&packet));
    }

    #[test]
    fn another_payload_length_is_another_packet(packet in udp_or_ping(), more in 1..100_usize) {
        let other = with(&packet, |p| p.payload.extend(vec![0xff; more]));
        prop_assert_ne!(fingerprint(&other), fingerprint(&packet));
    }

    #[test]
    fn another_echo_sequence_number_or_direction_is_another_packet(
        packet in random::packet_of(random::ping()),
        difference in 1..=u16::MAX,
    ) {
        let later = with(&packet, |p| {
            if let Transport::Echo { sequence, .. } = &mut p.transport { *sequence ^= difference }
        });
        let answer = with(&packet, |p| {
            if let Transport::Echo { reply, .. } = &mut p.transport { *reply = !*reply }
        });
        prop_assert_ne!(fingerprint(&later), fingerprint(&packet));
        prop_assert_ne!(fingerprint(&answer), fingerprint(&packet));
    }

    #[test]
    fn another_tsn_is_another_packet(
        packet in random::packet_of(random::sctp_chunk()),
        difference in 1..=u32::MAX,
    ) {
        let other = with(&packet, |p| match &mut p.transport {
            Transport::SctpData { tsn: number, .. } | Transport::SctpInit { tag: number, .. } => {
                *number ^= difference;
            }
            _ => {}
        });
        prop_assert_ne!(fingerprint(&other), fingerprint(&packet));
    }

    #[test]
    fn another_ipv4_identification_is_another_packet(
        (packet, header) in (random::packet(), random::v4()),
        difference in 1..=u16::MAX,
    ) {
        let identification = header.identification ^ difference;
        let packet = with(&packet, |p| p.ip = Ip::V4(header.clone()));
        let other = with(&packet, |p| p.ip = Ip::V4(V4 { identification, ..header }));
        prop_assert_ne!(fingerprint(&other), fingerprint(&packet));
    }

    #[test]
    fn another_protocol_is_another_packet(
        (ip, payload) in (random::ip(), random::payload()),
        (one, other) in (141..=255_u8, 141..=255_u8),
    ) {
        prop_assume!(one != other);
        let of = |protocol| {
            observe::ip(&ip.around(protocol, &payload)).map(|r| r.fingerprint)
        };
        prop_assert_ne!(of(one), of(other));
    }

    #[test]
    fn another_fragment_is_another_packet(
        header in random::v4(),
        (one, other) in (0..0x2000_u16, 0..0x2000_u16),
        id in 1..=u16::MAX,
    ) {
        prop_assume!(one != other);
        let of = |offset, difference| {
            let mut ip = header.clone();
            ip.identification ^= difference;
            ip.fragment = 0x2000 | offset;
            observe::ip(&ip.around(17, &[0x42; 64])).unwrap().fingerprint
        };
        prop_assert_ne!(of(one, 0), of(other, 0));
        prop_assert_ne!(of(one, 0), of(one, id));
    }

    #[test]
    fn an_icmp_error_for_another_packet_is_another_error(
        (outer, quote) in (random::v6(), random::packet_of(random::datagram())),
        at in 0..8_usize,
        difference in 1..=u8::MAX,
    ) {
        let outer = Ip::V6(outer);
        let quote = with(&quote, |p| {
            p.ip = Ip::V6(V6::default());
            p.payload.extend([0; 8]);
        });
        let other = with(&quote, |p| p.payload[at] ^= difference);
        let error = |quote| {
            observe::ip(&random::icmp_error(&outer, quote, 1232, 1, 0)).unwrap().fingerprint
        };
        prop_assert_ne!(error(&other), error(&quote));
    }
}
