//! Link and IP headers from hand-made bytes.

use tracer_common::packet::{Link, ParseError, SliceReader};
use tracer_common::record::{FLAG_FRAGMENT, FLAG_MORE_FRAGMENTS, FLAG_PORTS, HopRecord};

use crate::bytes::{
    AUTHENTICATION, ETHER_ARP, ETHER_IPV4, ETHER_IPV6, ETHER_QINQ, ETHER_QINQ_OLD, ETHER_VLAN, FRAGMENT,
    HOP_BY_HOP, NO_NEXT, OPTIONS, ROUTING, TCP, Tcp, UDP, V4, V6, authentication, ethernet, extension,
    fragment, join, mapped, udp, vlan,
};
use crate::observe;

fn datagram() -> Vec<u8> {
    udp(5353, 53, 0, b"where is my packet?")
}

#[test]
fn ethernet_with_ipv4_gives_every_field_of_the_header() {
    let ip = V4 { traffic_class: 0xb9, ttl: 63, ..V4::default() };

    let record = observe::ethernet(&ethernet(ETHER_IPV4, &ip.around(UDP, &datagram()))).unwrap();

    let expected = HopRecord {
        fingerprint: record.fingerprint,
        source: mapped([10, 244, 1, 7]),
        destination: mapped([10, 244, 2, 9]),
        source_port: 5353_u16.to_be_bytes(),
        destination_port: 53_u16.to_be_bytes(),
        // "wh", where a DNS message has its ID.
        sequence: 0x7768,
        identification: 0x1234,
        payload_length: 19,
        version: 4,
        protocol: 17,
        ttl: 63,
        traffic_class: 0xb9,
        flags: FLAG_PORTS,
        ..HopRecord::default()
    };
    assert_eq!(record, expected);
}

#[test]
fn ethernet_with_ipv6_gives_every_field_of_the_header() {
    let ip = V6 { traffic_class: 0xb9, hop_limit: 63, ..V6::default() };

    let record = observe::ethernet(&ethernet(ETHER_IPV6, &ip.around(UDP, &datagram()))).unwrap();

    let expected = HopRecord {
        fingerprint: record.fingerprint,
        source: ip.source,
        destination: ip.destination,
        source_port: 5353_u16.to_be_bytes(),
        destination_port: 53_u16.to_be_bytes(),
        // "wh", where a DNS message has its ID.
        sequence: 0x7768,
        payload_length: 19,
        version: 6,
        protocol: 17,
        ttl: 63,
        traffic_class: 0xb9,
        flags: FLAG_PORTS,
        ..HopRecord::default()
    };
    assert_eq!(record, expected);
}

#[test]
fn vlan_tags_of_all_kinds_and_no_ethernet_header_give_the_same_record() {
    let ip = V4::default().around(UDP, &datagram());
    let plain = observe::ethernet(&ethernet(ETHER_IPV4, &ip)).unwrap();
    let tag = |outer| ethernet(outer, &vlan(100, ETHER_IPV4, &ip));
    let tags = |outer| ethernet(outer, &vlan(100, ETHER_VLAN, &vlan(200, ETHER_IPV4, &ip)));

    for tagged in [tag(ETHER_VLAN), tag(ETHER_QINQ), tags(ETHER_VLAN), tags(ETHER_QINQ), tags(ETHER_QINQ_OLD)]
    {
        assert_eq!(observe::ethernet(&tagged), Ok(plain));
    }
    assert_eq!(observe::ip(&ip), Ok(plain));
}

#[test]
fn what_is_not_ip_is_said_to_be_so() {
    let arp = [0; 28];
    assert_eq!(observe::ethernet(&ethernet(ETHER_ARP, &arp)), Err(ParseError::NotIp));
    assert_eq!(observe::ethernet(&ethernet(ETHER_VLAN, &vlan(1, ETHER_ARP, &arp))), Err(ParseError::NotIp));
    // IEEE 802.3: a length, not a type.
    assert_eq!(observe::ethernet(&ethernet(46, &[0; 46])), Err(ParseError::NotIp));
    assert_eq!(observe::ip(&[0x50; 40]), Err(ParseError::NotIp));
}

#[test]
fn a_version_other_than_the_ethertype_says_is_malformed() {
    let v4 = V4::default().around(UDP, &datagram());
    let v6 = V6::default().around(UDP, &datagram());
    assert_eq!(observe::ethernet(&ethernet(ETHER_IPV6, &v4)), Err(ParseError::Malformed));
    assert_eq!(observe::ethernet(&ethernet(ETHER_IPV4, &v6)), Err(ParseError::Malformed));
}

#[test]
fn ipv4_options_are_passed() {
    let bare = observe::ip(&V4::default().around(UDP, &datagram())).unwrap();

    for words in 1..=10 {
        let ip = V4 { options: vec![1; 4 * words], ..V4::default() };
        assert_eq!(observe::ip(&ip.around(UDP, &datagram())), Ok(bare), "{words} words of options");
    }
}

#[test]
fn the_authentication_header_is_passed_in_ipv4_too() {
    let bare = observe::ip(&V4::default().around(UDP, &datagram())).unwrap();
    let twice = authentication(AUTHENTICATION, &authentication(UDP, &datagram()));

    for chain in [authentication(UDP, &datagram()), twice] {
        assert_eq!(observe::ip(&V4::default().around(AUTHENTICATION, &chain)), Ok(bare));
    }
}

#[test]
fn impossible_ipv4_lengths_are_malformed() {
    let mut short_header = V4::default().around(UDP, &datagram());
    short_header[0] = 0x44;
    assert_eq!(observe::ip(&short_header), Err(ParseError::Malformed));

    let total_below_header = V4::default().with_length(19, UDP, &datagram());
    assert_eq!(observe::ip(&total_below_header), Err(ParseError::Malformed));
}

#[test]
fn ipv6_extension_headers_are_passed_in_any_order() {
    let inner = datagram();
    let bare = observe::ip(&V6::default().around(UDP, &inner)).unwrap();
    let chains = [
        (HOP_BY_HOP, extension(UDP, 0, &inner)),
        (HOP_BY_HOP, extension(UDP, 3, &inner)),
        (ROUTING, extension(UDP, 2, &inner)),
        (OPTIONS, extension(UDP, 1, &inner)),
        (AUTHENTICATION, authentication(UDP, &inner)),
        (
            HOP_BY_HOP,
            extension(OPTIONS, 0, &extension(ROUTING, 1, &extension(OPTIONS, 2, &extension(UDP, 0, &inner)))),
        ),
        (OPTIONS, extension(AUTHENTICATION, 0, &authentication(OPTIONS, &extension(UDP, 0, &inner)))),
    ];

    for (first, chain) in chains {
        assert_eq!(observe::ip(&V6::default().around(first, &chain)), Ok(bare), "{chain:x?}");
    }
}

#[test]
fn an_atomic_fragment_is_no_fragment_but_has_an_identification() {
    let inner = datagram();
    let bare = observe::ip(&V6::default().around(UDP, &inner)).unwrap();
    let atomic = fragment(UDP, 0, false, 0xdead_beef, &inner);

    let alone = observe::ip(&V6::default().around(FRAGMENT, &atomic)).unwrap();
    let behind_options =
        observe::ip(&V6::default().around(OPTIONS, &extension(FRAGMENT, 0, &atomic))).unwrap();

    let expected = HopRecord { identification: 0xdead_beef, fingerprint: alone.fingerprint, ..bare };
    assert_eq!(alone, expected);
    assert_eq!(behind_options, expected);
}

#[test]
fn fragments_of_ipv4_have_offset_flags_and_only_the_first_has_ports() {
    let of = |field, payload: &[u8]| {
        observe::ip(&V4 { fragment: field, ..V4::default() }.around(UDP, payload)).unwrap()
    };

    let first = of(0x2000, &udp(1, 2, 0, &[7; 16]));
    let middle = of(0x2000 | 3, &[7; 24]);
    let last = of(1234, &[7; 5]);

    let state =
        |r: &HopRecord| (r.flags, r.fragment_offset, r.payload_length, r.source_port, r.identification);
    assert_eq!(state(&first), (FLAG_FRAGMENT | FLAG_MORE_FRAGMENTS | FLAG_PORTS, 0, 16, [0, 1], 0x1234));
    assert_eq!(state(&middle), (FLAG_FRAGMENT | FLAG_MORE_FRAGMENTS, 24, 24, [0, 0], 0x1234));
    assert_eq!(state(&last), (FLAG_FRAGMENT, 9872, 5, [0, 0], 0x1234));
    assert_eq!((first.protocol, middle.protocol, last.protocol), (17, 17, 17));
}

#[test]
fn fragments_of_ipv6_have_offset_flags_and_only_the_first_has_ports() {
    let of = |offset, more, payload: &[u8]| {
        let packet = fragment(UDP, offset, more, 0xabcd_ef01, payload);
        observe::ip(&V6::default().around(HOP_BY_HOP, &extension(FRAGMENT, 0, &packet))).unwrap()
    };

    let first = of(0, true, &udp(1, 2, 0, &[7; 16]));
    let middle = of(24, true, &[7; 24]);
    let last = of(65_528, false, &[7; 5]);

    let state =
        |r: &HopRecord| (r.flags, r.fragment_offset, r.payload_length, r.source_port, r.identification);
    assert_eq!(state(&first), (FLAG_FRAGMENT | FLAG_MORE_FRAGMENTS | FLAG_PORTS, 0, 16, [0, 1], 0xabcd_ef01));
    assert_eq!(state(&middle), (FLAG_FRAGMENT | FLAG_MORE_FRAGMENTS, 24, 24, [0, 0], 0xabcd_ef01));
    assert_eq!(state(&last), (FLAG_FRAGMENT, 65_528, 5, [0, 0], 0xabcd_ef01));
    assert_eq!((first.protocol, middle.protocol, last.protocol), (17, 17, 17));
}

#[test]
fn behind_the_fragment_header_the_walk_ends_alike_in_all_fragments() {
    let rest = extension(UDP, 0, &datagram());
    let of = |offset, more| {
        let packet = fragment(OPTIONS, offset, more, 1, &rest);
        observe::ip(&V6::default().around(FRAGMENT, &packet)).unwrap()
    };

    assert_eq!((of(0, true).protocol, of(0, true).flags & FLAG_PORTS), (OPTIONS, 0));
    assert_eq!(of(8, false).protocol, OPTIONS);
}

#[test]
fn ethernet_padding_is_no_payload() {
    let packets = [
        (ETHER_IPV4, V4::default().around(UDP, &udp(1, 2, 0, b""))),
        (ETHER_IPV4, V4::default().around(UDP, &udp(1, 8472, 0, b""))),
        (ETHER_IPV4, V4::default().around(TCP, &Tcp::default().around(b"x"))),
        (ETHER_IPV6, V6::default().around(NO_NEXT, b"")),
    ];
    for (ether_type, ip) in packets {
        let unpadded = observe::ip(&ip).unwrap();
        for padding in [&[0; 46][..], &[0xff; 46], &[8, 0, 0, 0, 0, 0, 1, 0], &[8; 64]] {
            let frame = ethernet(ether_type, &join(&[&ip, padding]));
            assert_eq!(observe::ethernet(&frame), Ok(unpadded), "{padding:x?} behind {ip:x?}");
        }
    }
}

#[test]
fn a_packet_whose_own_length_cuts_its_header_is_truncated_padding_or_not() {
    let header = Tcp { options: vec![1; 8], ..Tcp::default() }.around(b"");
    for length in 0..28 {
        let padded = V4::default().with_length(20 + length, TCP, &join(&[&header, &[0; 20]]));
        assert_eq!(observe::ip(&padded), Err(ParseError::Truncated), "{length} bytes");
    }
    assert!(observe::ip(&V4::default().with_length(48, TCP, &header)).is_ok());
}

#[test]
fn a_zero_length_means_all_that_is_there_as_in_big_tcp() {
    let segment = Tcp::default().around(&[b'x'; 300]);
    let v4 = V4::default().with_length(0, TCP, &segment);
    let v6 = V6::default().with_length(0, TCP, &segment);
    let jumbo = V6::default().with_length(0, HOP_BY_HOP, &extension(TCP, 0, &segment));

    for packet in [&v4, &v6, &jumbo] {
        assert_eq!(observe::ip(packet).unwrap().payload_length, 300);
    }
    let cut = SliceReader::with_length(&v6[..60], 180_060);
    let record = observe::observe_with(&cut, Link::None, &[0; 4], 1400).unwrap();
    assert_eq!(record.payload_length, 180_000);
}

#[test]
fn every_cut_inside_the_headers_is_truncated() {
    let v4 = V4 { options: vec![1; 8], ..V4::default() }.around(TCP, &Tcp::default().around(b""));
    let v6 = V6::default().around(OPTIONS, &extension(TCP, 1, &Tcp::default().around(b"")));
    for frame in [ethernet(ETHER_IPV4, &v4), ethernet(ETHER_VLAN, &vlan(5, ETHER_IPV6, &v6))] {
        // Checksum and urgent pointer, the last four bytes of a TCP header, are not asked for.
        for length in 0..frame.len() - 4 {
            assert_eq!(observe::ethernet(&frame[..length]), Err(ParseError::Truncated), "{length} bytes");
        }
        assert!(observe::ethernet(&frame).is_ok());
    }
}
