//! Transport headers from hand-made bytes.

use tracer_common::packet::ParseError;
use tracer_common::record::{FLAG_PORTS, FLAG_TCP_TIMESTAMP, HopRecord};

use crate::bytes::{
    ESP, ICMP, ICMPV6, SCTP, TCP, Tcp, UDP, V4, V6, echo, icmp, join, sctp, sctp_data, sctp_init,
    syn_options, udp, usual_timestamps,
};
use crate::observe;

fn tcp_with(options: &[u8]) -> HopRecord {
    let segment = Tcp { options: options.to_vec(), ..Tcp::default() }.around(b"GET /");
    observe::ip(&V4::default().around(TCP, &segment)).expect("a valid packet")
}

fn timestamps(record: &HopRecord) -> Option<(u32, u32)> {
    let present = record.flags & FLAG_TCP_TIMESTAMP != 0;
    if !present {
        assert_eq!((record.timestamp_value, record.timestamp_echo), (0, 0));
    }
    present.then_some((record.timestamp_value, record.timestamp_echo))
}

#[test]
fn tcp_gives_every_field_of_the_header() {
    let record = tcp_with(&[]);

    let expected = HopRecord {
        source_port: 40_000_u16.to_be_bytes(),
        destination_port: 443_u16.to_be_bytes(),
        sequence: 0x1122_3344,
        acknowledgment: 0x5566_7788,
        tcp_flags: 0x18,
        window: 501,
        payload_length: 5,
        protocol: TCP,
        flags: FLAG_PORTS,
        ..record
    };
    assert_eq!(record, expected);
}

#[test]
fn tcp_timestamps_are_found_where_every_stack_writes_them_and_elsewhere() {
    let value_and_echo = [0, 0, 0, 7, 0, 0, 0, 9];
    let layouts = [
        ("usual", usual_timestamps(7, 9)),
        ("usual with SACK behind", join(&[&usual_timestamps(7, 9), &[1, 1, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8]])),
        ("SYN", syn_options(7, 9)),
        ("at the very end", join(&[&[3, 3, 7, 1, 1, 1, 8, 10], &value_and_echo])),
        ("first", join(&[&[8, 10], &value_and_echo, &[0, 0]])),
        ("behind an unknown option", join(&[&[253, 6, 1, 2, 3, 4, 8, 10], &value_and_echo])),
        ("behind MPTCP and SACK", join(&[&[30, 4, 0, 0, 5, 2, 8, 10], &value_and_echo, &[1, 1, 1, 1]])),
    ];

    for (layout, options) in layouts {
        assert_eq!(timestamps(&tcp_with(&options)), Some((7, 9)), "{layout}");
    }
}

#[test]
fn tcp_options_that_make_no_sense_give_no_timestamp() {
    let value_and_echo = [0, 0, 0, 7, 0, 0, 0, 9];
    let layouts = [
        ("none at all", vec![]),
        ("other options only", vec![2, 4, 5, 0xb4, 1, 3, 3, 7]),
        ("behind the end of the list", join(&[&[0, 0, 8, 10], &value_and_echo, &[1, 1, 1, 1]])),
        ("behind an option of length 0", join(&[&[3, 0, 8, 10], &value_and_echo])),
        ("behind an option of length 1", join(&[&[3, 1, 8, 10], &value_and_echo])),
        ("of a wrong length", join(&[&[8, 9], &value_and_echo, &[1, 1]])),
        ("over the end of the header", join(&[&[3, 3, 7, 1, 1, 1, 8, 10], &value_and_echo[..4]])),
        ("in its usual place over the end of the header", vec![1, 1, 8, 10, 0, 0, 0, 7]),
        ("only its kind", vec![1, 1, 1, 8]),
        ("behind an option longer than the header", vec![3, 200, 1, 1]),
        ("behind more options than anyone writes", join(&[&[1; 14], &[8, 10], &value_and_echo])),
    ];

    for (layout, options) in layouts {
        let record = tcp_with(&options);
        assert_eq!(timestamps(&record), None, "{layout}");
        assert_eq!(record.payload_length, 5, "{layout}");
    }
}

#[test]
fn a_tcp_header_shorter_than_any_is_malformed() {
    let mut segment = Tcp::default().around(&[0; 40]);
    for words in 0..5 {
        segment[12] = words << 4;
        assert_eq!(observe::ip(&V4::default().around(TCP, &segment)), Err(ParseError::Malformed));
    }
}

#[test]
fn udp_has_ports_and_the_payload_that_ip_says() {
    // The datagram's own length may be wrong or, for a segmented one, that of the whole.
    let mut datagram = udp(68, 67, 0, b"discover");
    datagram[4..6].copy_from_slice(&[0xff, 0xff]);

    let record = observe::ip(&V4::default().around(UDP, &datagram)).unwrap();

    assert_eq!((record.source_port, record.destination_port), ([0, 68], [0, 67]));
    assert_eq!((record.payload_length, record.flags), (8, FLAG_PORTS));
}

#[test]
fn a_datagram_to_or_from_port_53_has_the_id_of_its_dns_message_and_no_other_has() {
    let sequence = |source, destination, payload: &[u8]| {
        let datagram = udp(source, destination, 0, payload);
        observe::ip(&V4::default().around(UDP, &datagram)).unwrap().sequence
    };
    let message = [0xbe, 0xef, 1, 0, 0, 1, 0, 0];

    assert_eq!(sequence(40_000, 53, &message), 0xbeef);
    assert_eq!(sequence(53, 40_000, &message), 0xbeef);
    assert_eq!(sequence(40_000, 5353, &message), 0);
    assert_eq!(sequence(40_000, 53, &message[..1]), 0, "no payload has no ID");
}

#[test]
fn echo_requests_and_replies_have_identifier_and_sequence() {
    let v4 = |kind| V4::default().around(ICMP, &echo(kind, 1, 0x4242, 7, b"0123456789"));
    let v6 = |kind| V6::default().around(ICMPV6, &echo(kind, 1, 0x4242, 7, b"0123456789"));

    for (packet, kind) in [(v4(8), 8), (v4(0), 0), (v6(128), 128), (v6(129), 129)] {
        let record = observe::ip(&packet).unwrap();
        assert_eq!((record.icmp_type, record.icmp_code), (kind, 0));
        assert_eq!((record.icmp_identifier, record.sequence, record.payload_length), (0x4242, 7, 10));
        assert_eq!(record.flags, 0);
    }
}

#[test]
fn only_echo_has_identifier_and_sequence() {
    let timestamp = V4::default().around(ICMP, &icmp(13, 0, 0, [1, 2, 5, 220], &[0; 12]));
    // Neighbour solicitation; an ICMPv4 type in IPv6 is no echo either.
    let solicitation = V6::default().around(ICMPV6, &icmp(135, 0, 0, [1, 2, 3, 4], &[0xfd; 16]));
    let other_family = V6::default().around(ICMPV6, &icmp(8, 0, 0, [1, 2, 3, 4], &[0; 16]));

    for (packet, kind, code, payload) in
        [(timestamp, 13, 0, 12), (solicitation, 135, 0, 16), (other_family, 8, 0, 16)]
    {
        let record = observe::ip(&packet).unwrap();
        assert_eq!((record.icmp_type, record.icmp_code, record.payload_length), (kind, code, payload));
        assert_eq!((record.icmp_identifier, record.sequence), (0, 0));
    }
}

#[test]
fn sctp_data_has_its_tsn_and_other_chunks_have_none() {
    let data = sctp(2905, 2906, 1, &sctp_data(0xfeed_f00d, b"hello"));
    let init = sctp(2905, 2906, 1, &sctp_init(0x0102_0304));
    let header_only = join(&[&sctp(2905, 2906, 1, b""), &[0, 3, 0, 20, 9, 9, 9, 9]]);

    let data = observe::ip(&V4::default().around(SCTP, &data)).unwrap();
    let init = observe::ip(&V4::default().around(SCTP, &init)).unwrap();
    let header_only = observe::ip(&V4::default().with_length(32, SCTP, &header_only)).unwrap();

    assert_eq!((data.sequence, data.payload_length, data.flags), (0xfeed_f00d, 21, FLAG_PORTS));
    assert_eq!((data.source_port, data.destination_port), (2905_u16.to_be_bytes(), 2906_u16.to_be_bytes()));
    assert_eq!((init.sequence, init.payload_length), (0, 20));
    assert_eq!((header_only.sequence, header_only.payload_length), (0, 0), "padding is no chunk");
}

#[test]
fn esp_and_unknown_protocols_are_payload_without_ports() {
    for protocol in [ESP, 89, 253] {
        let v4 = observe::ip(&V4::default().around(protocol, &[0x51; 44])).unwrap();
        let v6 = observe::ip(&V6::default().around(protocol, &[0x51; 44])).unwrap();

        for record in [v4, v6] {
            assert_eq!((record.protocol, record.payload_length, record.flags), (protocol, 44, 0));
            assert_eq!((record.source_port, record.destination_port), ([0; 2], [0; 2]));
        }
    }
}

#[test]
fn a_transport_header_that_is_not_whole_is_truncated() {
    for (protocol, header) in [(UDP, 8), (ICMP, 8), (SCTP, 12), (TCP, 20)] {
        for length in 0..header {
            let packet = V4::default().around(protocol, &vec![0x50; length]);
            assert_eq!(
                observe::ip(&packet),
                Err(ParseError::Truncated),
                "protocol {protocol}, {length} bytes"
            );
        }
    }
}
