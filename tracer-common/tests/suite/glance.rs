//! The short way for plain packets. That it tells what the whole walk tells is asserted for every packet of the suite,
//! in `observe`; here are those that are likely to go it.

use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assume, proptest};
use proptest::sample::Index;
use tracer_common::packet::glance::{Glance, Identify};
use tracer_common::packet::{DEFAULT_VXLAN_PORTS, Link, SliceReader};

use crate::bytes::{
    ETHER_ARP, ETHER_IPV4, ETHER_IPV6, ETHER_VLAN, FRAGMENT, ICMP, IPV4, TCP, Tcp, UDP, V4, V6, echo,
    ethernet, fragment, geneve, udp, vlan, vxlan,
};
use crate::observe;
use crate::random::{self, Packet, Timestamps, Transport};

fn glance(bytes: &[u8]) -> Option<Glance> {
    Glance::of(&SliceReader::new(bytes), &DEFAULT_VXLAN_PORTS, Identify { is_asked_for: true, gso_size: 0 })
}

/// Whether a datagram goes to a port of tunnels: it takes a longer look.
fn may_be_tunnel(packet: &Packet) -> bool {
    const GENEVE: u16 = 6081;
    let tunnels = [GENEVE, 4789, 8472, 0];
    matches!(packet.transport, Transport::Udp { destination_port, .. } if tunnels.contains(&destination_port))
}

/// Whether a glance at its headers is enough for the fingerprint as well.
fn is_soon_identified(packet: &Packet) -> bool {
    match &packet.transport {
        Transport::Tcp { timestamps: Timestamps::Usual(..), .. } => true,
        Transport::Tcp { header, timestamps: Timestamps::None } => header.options.is_empty(),
        Transport::Udp { .. } => packet.payload.len() >= 32,
        _ => false,
    }
}

proptest! {
    #[test]
    fn a_glance_is_enough_for_plain_packets((packet, dress) in random::plain()) {
        prop_assume!(!may_be_tunnel(&packet));
        let (bytes, _) = dress.around(&packet);

        let glance = glance(&bytes);

        prop_assert!(glance.is_some());
        let is_identified = glance.is_some_and(|glance| glance.fingerprint().is_some());
        prop_assert!(is_identified || !is_soon_identified(&packet), "{glance:?}");
    }

    #[test]
    fn of_damaged_packets_a_glance_tells_what_the_whole_walk_tells(
        (packet, dress) in random::plain(),
        damage in vec((any::<Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<Index>()),
        gso_size in proptest::option::of(any::<u16>()),
    ) {
        let (mut bytes, link) = dress.around(&packet);
        // The headers lie in front.
        for (place, byte) in damage {
            let place = place.index(bytes.len().min(140));
            bytes[place] ^= byte;
        }
        let length = bytes.len() as u32;
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let reader = SliceReader::with_length(&bytes, length);

        // Asserted there.
        let _ = observe::observe_with(&reader, link, &DEFAULT_VXLAN_PORTS, gso_size.unwrap_or(0));
    }
}

#[test]
fn what_has_another_shape_takes_a_longer_look() {
    let segment = Tcp::default().around(b"GET / HTTP/1.1");
    let plain = V4::default().around(TCP, &segment);
    let in_vxlan =
        |frame: &[u8]| ethernet(ETHER_IPV4, &V4::default().around(UDP, &udp(1, 4789, 0, &vxlan(1, frame))));
    let odd_vxlan = [&[0x0c, 0, 0, 0, 0, 0, 1, 0][..], &ethernet(ETHER_IPV4, &plain)].concat();
    let shapes: [(&str, Vec<u8>); 11] = [
        ("ARP", ethernet(ETHER_ARP, &[0; 28])),
        ("VLAN", ethernet(ETHER_VLAN, &vlan(7, ETHER_IPV4, &plain))),
        ("options", ethernet(ETHER_IPV4, &V4 { options: vec![1; 4], ..V4::default() }.around(TCP, &segment))),
        (
            "first fragment",
            ethernet(ETHER_IPV4, &V4 { fragment: 0x2000, ..V4::default() }.around(TCP, &segment)),
        ),
        ("later fragment", ethernet(ETHER_IPV4, &V4 { fragment: 1, ..V4::default() }.around(TCP, &segment))),
        (
            "IPv6 fragment",
            ethernet(ETHER_IPV6, &V6::default().around(FRAGMENT, &fragment(TCP, 0, true, 1, &segment))),
        ),
        ("ping", ethernet(ETHER_IPV4, &V4::default().around(ICMP, &echo(8, 0, 1, 1, &[0; 56])))),
        ("IPIP", ethernet(ETHER_IPV4, &V4::default().around(IPV4, &plain))),
        (
            "Geneve",
            ethernet(
                ETHER_IPV4,
                &V4::default().around(UDP, &udp(1, 6081, 0, &geneve(1, &[], ETHER_IPV4, &plain))),
            ),
        ),
        (
            "a VXLAN with unknown flags",
            ethernet(ETHER_IPV4, &V4::default().around(UDP, &udp(1, 4789, 0, &odd_vxlan))),
        ),
        ("VXLAN in VXLAN", in_vxlan(&in_vxlan(&ethernet(ETHER_IPV4, &plain)))),
    ];
    for (name, bytes) in shapes {
        assert_eq!(glance(&bytes), None, "{name}");
    }
    assert!(glance(&in_vxlan(&ethernet(ETHER_IPV4, &plain))).is_some());
    assert_eq!(
        observe::observe(&in_vxlan(&ethernet(ETHER_IPV4, &plain)), Link::Ethernet, 0).unwrap().tunnel_count,
        1
    );
}
