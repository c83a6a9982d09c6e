//! What a record says of the packet that an ICMP error quotes, and which ports the filter goes by.

use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
use tracer_common::packet::{DEFAULT_VXLAN_PORTS, Headers, Link, SliceReader};
use tracer_common::record::{FLAG_QUOTE, QuoteRecord};

use crate::bytes::{FRAGMENT, ICMP, ICMPV6, TCP, Tcp, UDP, V4, V6, echo, fragment, icmp, join, mapped, udp};
use crate::observe;
use crate::random;

const FRAGMENTATION_NEEDED: (u8, u8) = (3, 4);
const TIME_EXCEEDED: (u8, u8) = (11, 0);

/// An ICMP error of a router, with `rest` of its header, that quotes the first `length` bytes of a packet.
fn error((kind, code): (u8, u8), rest: [u8; 4], quoted: &[u8], length: usize) -> Vec<u8> {
    let router = V4 { source: [192, 0, 2, 1], destination: [10, 244, 1, 7], ..V4::default() };
    router.around(ICMP, &icmp(kind, code, 0, rest, &quoted[..length]))
}

fn headers_of(packet: &[u8]) -> Headers {
    let mut headers = Headers::default();
    headers
        .parse(&SliceReader::new(packet), Link::None, &DEFAULT_VXLAN_PORTS)
        .expect("a packet that is whole");
    headers
}

#[test]
fn an_error_tells_the_destination_ports_sequence_and_id_of_the_packet_that_caused_it() {
    let segment = Tcp { source_port: 40_000, destination_port: 80, sequence: 0xdead_beef, ..Tcp::default() };
    let packet = V4 { options: vec![1; 8], ..V4::default() }.around(TCP, &segment.around(b""));
    let packet = error(FRAGMENTATION_NEEDED, [0, 0, 5, 0x78], &packet, 36);

    let quote = observe::ip(&packet).unwrap().quote().unwrap();

    let expected = QuoteRecord {
        destination: mapped([10, 244, 2, 9]),
        identification: 0x1234,
        protocol: TCP,
        transport: Some((40_000 << 16 | 80, 0xdead_beef)),
        mtu: 1400,
    };
    assert_eq!(quote, expected);
}

#[test]
fn an_error_of_ipv6_tells_the_same_but_for_an_id() {
    let packet = V6::default().around(UDP, &udp(5353, 53, 0, b"who?"));
    let too_big = V6::default().around(ICMPV6, &icmp(2, 0, 0, 70_000_u32.to_be_bytes(), &packet));

    let quote = observe::ip(&too_big).unwrap().quote().unwrap();

    let expected = QuoteRecord {
        destination: V6::default().destination,
        identification: 0,
        protocol: UDP,
        transport: Some((5353 << 16 | 53, 12 << 16)),
        mtu: u16::MAX,
    };
    assert_eq!(quote, expected);
}

#[test]
fn only_an_error_that_asks_for_smaller_packets_has_an_mtu() {
    let packet = V4::default().around(UDP, &udp(5353, 53, 0, b"who?"));
    let exceeded = error(TIME_EXCEEDED, [0, 0, 5, 0x78], &packet, packet.len());
    assert_eq!(observe::ip(&exceeded).unwrap().quote().map(|quote| quote.mtu), Some(0));
}

#[test]
fn what_is_quoted_in_part_is_told_in_part() {
    let packet = V4::default().around(UDP, &udp(5353, 53, 0, b"who?"));
    for length in 0..packet.len() {
        let record = observe::ip(&error(TIME_EXCEEDED, [0; 4], &packet, length)).unwrap();
        let quote = record.quote();
        assert_eq!(quote.is_some(), length >= 20, "{length} bytes");
        assert_eq!(quote.is_some_and(|quote| quote.transport.is_some()), length >= 28, "{length} bytes");
    }
}

#[test]
fn what_a_later_fragment_holds_is_not_taken_for_ports() {
    let packet = V4 { fragment: 100, ..V4::default() }.around(UDP, b"payload as if it were a header");
    let error = error(TIME_EXCEEDED, [0; 4], &packet, packet.len());

    assert_eq!(observe::ip(&error).unwrap().quote().and_then(|quote| quote.transport), None);
    assert_eq!(headers_of(&error).ports(&SliceReader::new(&error)), Ok((0, 0)));
}

#[test]
fn the_filter_sees_addresses_and_ports_of_the_quoted_packet() {
    let packet = V4::default().around(UDP, &udp(5353, 53, 0, b"who?"));
    let error = error(TIME_EXCEEDED, [0; 4], &packet, packet.len());
    let (headers, reader) = (headers_of(&error), SliceReader::new(&error));

    assert_eq!(headers.addresses(&reader), Ok((mapped([192, 0, 2, 1]), mapped([10, 244, 1, 7]))));
    assert_eq!(headers.quoted_addresses(&reader), Ok((mapped([10, 244, 1, 7]), mapped([10, 244, 2, 9]))));
    assert_eq!(headers.quote_protocol, u32::from(UDP));
    assert_eq!(headers.ports(&reader), Ok((5353, 53)));
}

#[test]
fn no_other_packet_has_a_quote() {
    let inner = V4::default().around(UDP, &udp(5353, 53, 0, b"who?"));
    let nonsense = V4::default().around(ICMP, &icmp(11, 0, 0, [0; 4], &[0x55; 64]));
    let short_header = V4::default().around(ICMP, &icmp(11, 0, 0, [0; 4], &join(&[&[0x44], &inner[1..]])));
    let ping = V4::default().around(ICMP, &echo(8, 0, 1, 2, &inner));
    let other_family = V6::default().around(ICMPV6, &icmp(11, 0, 0, [0; 4], &inner));
    let later =
        V6::default().around(FRAGMENT, &fragment(ICMPV6, 800, false, 7, &icmp(3, 0, 0, [0; 4], &inner)));
    for packet in [nonsense, short_header, ping, other_family, later] {
        let record = observe::ip(&packet).unwrap();
        assert_eq!((record.quote(), record.flags & FLAG_QUOTE), (None, 0));
    }
}

proptest! {
    #[test]
    fn any_packet_quoted_whole_is_quoted_with_its_own_fields(quoted in random::packet_of(random::datagram())) {
        let bytes = quoted.bytes();
        let (protocol, kind) = if bytes[0] >> 4 == 4 { (ICMP, 3) } else { (ICMPV6, 1) };
        let body = icmp(kind, 1, 0, [0; 4], &bytes);
        let error = match protocol {
            ICMP => V4::default().around(ICMP, &body),
            _ => V6::default().around(ICMPV6, &body),
        };
        let alone = observe::ip(&bytes).unwrap();

        let quote = observe::ip(&error).unwrap().quote().unwrap();

        prop_assert_eq!(quote.destination, alone.destination);
        prop_assert_eq!(u32::from(quote.identification), if alone.version == 4 { alone.identification } else { 0 });
        if quote.protocol == alone.protocol {
            let (ports, second) = quote.transport.unwrap();
            let [a, b] = alone.source_port;
            let [c, d] = alone.destination_port;
            prop_assert_eq!(ports.to_be_bytes(), [a, b, c, d]);
            prop_assert_eq!(second >> 16, alone.payload_length + 8);
        } else {
            prop_assert!(alone.version == 6, "only IPv6 has headers in between");
        }
    }
}
