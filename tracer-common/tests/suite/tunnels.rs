//! Encapsulations from hand-made bytes.

use tracer_common::packet::{Link, ParseError, SliceReader};
use tracer_common::record::{
    FLAG_FRAGMENT, FLAG_MORE_FRAGMENTS, FLAG_PORTS, FLAG_TUNNEL_DEPTH, HopRecord, TUNNEL_GENEVE, TUNNEL_GRE,
    TUNNEL_IP4_IN_IP6, TUNNEL_IP6_IN_IP6, TUNNEL_IPIP, TUNNEL_SIT, TUNNEL_VXLAN, Tunnel,
};

use crate::bytes::{
    ETHER_ARP, ETHER_BRIDGING, ETHER_IPV4, ETHER_IPV6, ETHER_VLAN, GRE, IPV4, IPV6, OPTIONS, TCP, Tcp, UDP,
    V4, V6, ethernet, extension, geneve, gre, mapped, udp, vlan, vxlan,
};
use crate::observe;

fn outer4() -> V4 {
    V4 { source: [172, 18, 0, 2], destination: [172, 18, 0, 3], ttl: 61, identification: 0, ..V4::default() }
}

fn outer6() -> V6 {
    V6 { source: [0xfc; 16], destination: [0xfb; 16], hop_limit: 62, ..V6::default() }
}

fn inner4() -> Vec<u8> {
    V4::default().around(TCP, &Tcp::default().around(b"GET / HTTP/1.1"))
}

fn inner6() -> Vec<u8> {
    V6::default().around(TCP, &Tcp::default().around(b"GET / HTTP/1.1"))
}

/// An entry with the outer addresses of [`outer4`].
fn over4(kind: u8, identifier: u32, port: u16) -> Tunnel {
    Tunnel {
        source: mapped([172, 18, 0, 2]),
        destination: mapped([172, 18, 0, 3]),
        identifier,
        port: port.to_be_bytes(),
        kind,
        ttl: 61,
    }
}

/// An entry with the outer addresses of [`outer6`].
fn over6(kind: u8, identifier: u32, port: u16) -> Tunnel {
    Tunnel { source: [0xfc; 16], destination: [0xfb; 16], ttl: 62, ..over4(kind, identifier, port) }
}

/// The record of the packet inside, with these tunnels around it.
fn inside(inner: &[u8], tunnels: &[Tunnel]) -> Result<HopRecord, ParseError> {
    let mut record = observe::ip(inner)?;
    record.tunnel_count = tunnels.len() as u8;
    record.tunnels[..tunnels.len()].copy_from_slice(tunnels);
    Ok(record)
}

#[test]
fn vxlan_is_entered_on_ianas_and_on_linux_port() {
    let inner = inner4();
    for port in [4789, 8472] {
        let frame = vxlan(0x00ab_cdef, &ethernet(ETHER_IPV4, &inner));
        let over_v4 = outer4().around(UDP, &udp(50_000, port, 0, &frame));
        let over_v6 = outer6().around(UDP, &udp(50_000, port, 0, &frame));

        assert_eq!(observe::ip(&over_v4), inside(&inner, &[over4(TUNNEL_VXLAN, 0x00ab_cdef, port)]));
        assert_eq!(observe::ip(&over_v6), inside(&inner, &[over6(TUNNEL_VXLAN, 0x00ab_cdef, port)]));
        let framed = ethernet(ETHER_VLAN, &vlan(9, ETHER_IPV4, &over_v4));
        assert_eq!(observe::ethernet(&framed), observe::ip(&over_v4));
    }
}

#[test]
fn vxlan_is_entered_on_the_configured_ports_only() {
    let inner = inner6();
    let frame = vxlan(7, &ethernet(ETHER_VLAN, &vlan(3, ETHER_IPV6, &inner)));
    let observed = |port, ports: [u16; 4]| {
        let packet = outer4().around(UDP, &udp(50_000, port, 0, &frame));
        observe::observe_with(&SliceReader::new(&packet), Link::None, &ports, 0)
    };

    for ports in [[5555, 0, 0, 0], [0, 5555, 0, 0], [0, 0, 5555, 0], [1, 2, 3, 5555]] {
        assert_eq!(observed(5555, ports), inside(&inner, &[over4(TUNNEL_VXLAN, 7, 5555)]));
    }
    assert_eq!(observed(4789, [5555, 0, 0, 0]).map(|r| r.tunnel_count), Ok(0));
    assert_eq!(observed(0, [5555, 0, 0, 0]).map(|r| r.tunnel_count), Ok(0), "an unused entry is no port");
}

#[test]
fn vxlan_with_a_group_policy_is_entered() {
    let mut frame = vxlan(7, &ethernet(ETHER_IPV4, &inner4()));
    frame[..4].copy_from_slice(&[0x88, 0x48, 0x12, 0x34]);

    let record = observe::ip(&outer4().around(UDP, &udp(50_000, 4789, 0, &frame)));

    assert_eq!(record, inside(&inner4(), &[over4(TUNNEL_VXLAN, 7, 4789)]));
}

#[test]
fn a_datagram_on_a_tunnels_port_that_is_no_tunnels_is_itself() {
    let frame = ethernet(ETHER_IPV4, &inner4());
    let changed = |original: Vec<u8>, at: usize, byte: u8| {
        let mut payload = original;
        payload[at] = byte;
        payload
    };
    let vxlan = || vxlan(7, &frame);
    let geneve = || geneve(7, &[], ETHER_BRIDGING, &frame);
    let datagrams = [
        (8472, b"".to_vec(), "nothing"),
        (8472, vec![8, 0, 0, 0, 0, 0, 7], "shorter than the header"),
        (8472, vec![8, 0, 0, 0, 0, 0, 7, 0], "a header and nothing inside"),
        (4789, b"a text on this port, long enough for a header".to_vec(), "text"),
        (4789, changed(vxlan(), 0, 0), "no I flag"),
        (4789, changed(vxlan(), 0, 0x0c), "reserved flag"),
        (4789, changed(vxlan(), 1, 0x08), "policy without G flag"),
        (4789, changed(vxlan(), 3, 1), "group without G flag"),
        (4789, changed(vxlan(), 7, 1), "reserved octet"),
        (6081, b"".to_vec(), "nothing"),
        (6081, changed(geneve(), 0, 0x40), "version 1"),
        (6081, changed(geneve(), 1, 1), "reserved bits"),
        (6081, changed(geneve(), 2, 0x12), "unknown payload"),
        (6081, changed(geneve(), 7, 1), "reserved octet"),
    ];

    for (port, payload, what) in datagrams {
        let record = observe::ip(&outer4().around(UDP, &udp(50_000, port, 0, &payload))).unwrap();
        assert_eq!((record.tunnel_count, record.tunnels), (0, [Tunnel::default(); 2]), "{port}: {what}");
        assert_eq!(record.destination_port, port.to_be_bytes(), "{port}: {what}");
        assert_eq!(record.payload_length, payload.len() as u32, "{port}: {what}");
    }
}

#[test]
fn a_tunnels_port_as_source_is_no_tunnel() {
    let frame = vxlan(7, &ethernet(ETHER_IPV4, &inner4()));
    let record = observe::ip(&outer4().around(UDP, &udp(4789, 50_000, 0, &frame))).unwrap();
    assert_eq!((record.tunnel_count, record.protocol), (0, UDP));
}

#[test]
fn geneve_is_entered_for_all_payloads_and_past_all_options() {
    let frame = ethernet(ETHER_IPV6, &inner6());
    let payloads = [
        (ETHER_IPV4, inner4(), inner4()),
        (ETHER_IPV6, inner6(), inner6()),
        (ETHER_BRIDGING, frame, inner6()),
    ];
    for (protocol, payload, inner) in payloads {
        for words in [0, 1, 2, 17, 63] {
            let header = geneve(0x12_3456, &vec![0x21; 4 * words], protocol, &payload);
            let over_v4 = outer4().around(UDP, &udp(50_000, 6081, 0, &header));
            let over_v6 = outer6().around(UDP, &udp(50_000, 6081, 0, &header));

            assert_eq!(observe::ip(&over_v4), inside(&inner, &[over4(TUNNEL_GENEVE, 0x12_3456, 6081)]));
            assert_eq!(observe::ip(&over_v6), inside(&inner, &[over6(TUNNEL_GENEVE, 0x12_3456, 6081)]));
        }
    }
}

#[test]
fn ip_in_ip_is_entered_in_all_four_combinations() {
    let options = V4 { options: vec![1; 12], ..outer4() };
    let cases = [
        (outer4().around(IPV4, &inner4()), inner4(), over4(TUNNEL_IPIP, 0, 0)),
        (options.around(IPV4, &inner4()), inner4(), over4(TUNNEL_IPIP, 0, 0)),
        (outer4().around(IPV6, &inner6()), inner6(), over4(TUNNEL_SIT, 0, 0)),
        (outer6().around(IPV4, &inner4()), inner4(), over6(TUNNEL_IP4_IN_IP6, 0, 0)),
        (outer6().around(IPV6, &inner6()), inner6(), over6(TUNNEL_IP6_IN_IP6, 0, 0)),
        // ip6tnl writes an encapsulation limit in front.
        (outer6().around(OPTIONS, &extension(IPV6, 0, &inner6())), inner6(), over6(TUNNEL_IP6_IN_IP6, 0, 0)),
    ];
    for (packet, inner, tunnel) in cases {
        assert_eq!(observe::ip(&packet), inside(&inner, &[tunnel]));
    }
}

#[test]
fn gre_is_entered_with_any_of_its_optional_fields() {
    let frame = ethernet(ETHER_IPV4, &inner4());
    let payloads = [
        (ETHER_IPV4, inner4(), inner4()),
        (ETHER_IPV6, inner6(), inner6()),
        (ETHER_BRIDGING, frame, inner4()),
    ];
    for (protocol, payload, inner) in payloads {
        for (checksum, sequence) in [(false, false), (false, true), (true, false), (true, true)] {
            for key in [None, Some(0xdead_beef)] {
                let packet = gre(checksum, key, sequence, protocol, &payload);
                let tunnel = over4(TUNNEL_GRE, key.unwrap_or(0), 0);
                assert_eq!(observe::ip(&outer4().around(GRE, &packet)), inside(&inner, &[tunnel]));
            }
        }
    }
    let over_v6 = outer6().around(GRE, &gre(false, Some(5), false, ETHER_IPV6, &inner6()));
    assert_eq!(observe::ip(&over_v6), inside(&inner6(), &[over6(TUNNEL_GRE, 5, 0)]));
}

#[test]
fn gre_of_another_version_with_routing_or_with_something_else_inside_is_itself() {
    let mut version_1 = gre(false, Some(5), true, 0x880b, b"ppp in pptp");
    version_1[1] |= 1;
    let mut version_1_with_ip = gre(false, None, false, ETHER_IPV4, &inner4());
    version_1_with_ip[1] |= 1;
    let mut routing = gre(false, None, false, ETHER_IPV4, &inner4());
    routing[0] |= 0x40;
    let erspan = gre(false, None, true, 0x88be, &[0; 60]);
    let keepalive = gre(false, None, false, 0, b"");

    for packet in [version_1, version_1_with_ip, routing, erspan, keepalive] {
        let record = observe::ip(&outer4().around(GRE, &packet)).unwrap();
        assert_eq!((record.tunnel_count, record.protocol), (0, GRE));
        assert_eq!(record.payload_length, packet.len() as u32);
    }
}

#[test]
fn a_tunnel_in_a_tunnel_gives_both_outermost_first() {
    let inner = inner4();
    let ipip = V4 { ttl: 50, ..V4::default() }.around(IPV4, &inner);
    let frame = vxlan(42, &ethernet(ETHER_IPV4, &ipip));
    let packet = outer6().around(UDP, &udp(50_000, 8472, 0, &frame));

    let middle = Tunnel {
        source: mapped([10, 244, 1, 7]),
        destination: mapped([10, 244, 2, 9]),
        ttl: 50,
        kind: TUNNEL_IPIP,
        ..Tunnel::default()
    };
    assert_eq!(observe::ip(&packet), inside(&inner, &[over6(TUNNEL_VXLAN, 42, 8472), middle]));
}

#[test]
fn of_three_tunnels_the_innermost_is_the_packet_and_the_record_says_so() {
    let third = V4 { ttl: 7, ..V4::default() }.around(IPV6, &inner6());
    let packet =
        outer4().around(IPV4, &outer4().around(GRE, &gre(false, Some(3), false, ETHER_IPV4, &third)));

    let record = observe::ip(&packet).unwrap();

    assert_eq!(record.tunnels, [over4(TUNNEL_IPIP, 0, 0), over4(TUNNEL_GRE, 3, 0)]);
    assert_eq!((record.tunnel_count, record.flags), (2, FLAG_TUNNEL_DEPTH));
    assert_eq!((record.protocol, record.ttl, record.source), (IPV6, 7, mapped([10, 244, 1, 7])));
}

#[test]
fn nothing_of_the_outer_packet_shines_through() {
    // Outer: atomic fragment header, identification, traffic class. Inner: none of them.
    let inner = V6::default().around(UDP, &udp(1, 2, 0, b"x"));
    let outer = V4 { identification: 0xffff, traffic_class: 0xff, ..outer4() };

    let record = observe::ip(&outer.around(IPV6, &inner)).unwrap();

    assert_eq!((record.identification, record.traffic_class, record.flags), (0, 0, FLAG_PORTS));
}

#[test]
fn a_fragment_of_an_outer_packet_is_not_looked_into() {
    let frame = vxlan(7, &ethernet(ETHER_IPV4, &inner4()));
    let first = V4 { fragment: 0x2000, ..outer4() }.around(UDP, &udp(50_000, 4789, 0, &frame));
    let last = V4 { fragment: 9, ..outer4() }.around(IPV4, &inner4());

    let first = observe::ip(&first).unwrap();
    let last = observe::ip(&last).unwrap();

    assert_eq!((first.tunnel_count, first.destination_port), (0, 4789_u16.to_be_bytes()));
    assert_eq!(first.flags, FLAG_FRAGMENT | FLAG_MORE_FRAGMENTS | FLAG_PORTS);
    assert_eq!((last.tunnel_count, last.protocol, last.flags), (0, IPV4, FLAG_FRAGMENT));
}

#[test]
fn a_fragment_inside_a_tunnel_is_described_with_its_tunnel() {
    let inner = V4 { fragment: 0x2000 | 10, ..V4::default() }.around(UDP, &[1; 64]);
    let record = observe::ip(&outer4().around(IPV4, &inner));
    assert_eq!(record, inside(&inner, &[over4(TUNNEL_IPIP, 0, 0)]));
    assert_eq!(record.map(|r| r.fragment_offset), Ok(80));
}

#[test]
fn a_tunnel_without_an_ip_packet_inside_is_not_ip() {
    let arp = vxlan(7, &ethernet(ETHER_ARP, &[0; 28]));
    let packet = outer4().around(UDP, &udp(50_000, 4789, 0, &arp));
    assert_eq!(observe::ip(&packet), Err(ParseError::NotIp));
}

#[test]
fn a_tunnel_cut_before_its_payload_is_truncated() {
    let packet = outer4().around(UDP, &udp(50_000, 4789, 0, &vxlan(7, &ethernet(ETHER_IPV4, &inner4()))));
    let tcp_without_checksum = packet.len() - b"GET / HTTP/1.1".len() - 4;
    for length in 0..tcp_without_checksum {
        assert_eq!(observe::ip(&packet[..length]), Err(ParseError::Truncated), "{length} bytes");
    }
    assert!(observe::ip(&packet).is_ok());
}
