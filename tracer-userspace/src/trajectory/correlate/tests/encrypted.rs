//! WireGuard between the nodes: their NICs show nothing of the packet.

use crate::trajectory::model::{Trajectory, Verdict};
use crate::trajectory::testing::{
    ACK, CURL, Change, HTTPBIN, SECOND, Step, World, hooks, ping, tcp, two_nodes, udp,
};

const OVER_WIREGUARD: &[Step<'_>] = &[
    ("n1/curl:eth0>", &[]),
    ("n1/vethcurl<", &[]),
    ("n1/wg0>", &[Change::Ttl]),
    ("n2/wg0<", &[]),
    ("n2/vethhttp>", &[Change::Ttl]),
    ("n2/httpbin:eth0<", &[]),
];

const AT_SENDER: &str =
    "eth0 egress on n1: encrypted, not visible: wg0 on n1 (WireGuard) sends it as UDP from n1 to n2";
const AT_RECEIVER: &str =
    "eth0 ingress on n2: encrypted, not visible: wg0 on n2 (WireGuard) gets it as UDP from n1 to n2";

fn world() -> World {
    let mut world = two_nodes(false, "");
    for node in ["n1", "n2"] {
        world.tunnel(node, "wg0", "wireguard");
    }
    world
}

/// As [`world`], but nothing on a node is observed.
fn without(node: &str) -> World {
    let mut world = world();
    world.points.retain(|point| *point.node != *node);
    world
}

fn missing(trajectory: &Trajectory) -> Vec<String> {
    trajectory.missing.iter().map(|hop| format!("{}: {}", hop.point, hop.reason)).collect()
}

#[test]
fn both_sides_are_joined_and_both_nics_are_explained() {
    let world = world();
    for packet in [
        tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK),
        udp((CURL, 5353), (HTTPBIN, 53), 40, 9, 1),
        ping(CURL, HTTPBIN, 3),
    ] {
        let out = world.correlate(world.walk(SECOND, &packet, OVER_WIREGUARD));

        assert_eq!(out.len(), 1);
        assert_eq!(hooks(&out[0]), OVER_WIREGUARD.iter().map(|step| step.0).collect::<Vec<_>>());
        assert_eq!((&out[0].verdict, out[0].expected_hops), (&Verdict::Delivered, 6));
        assert_eq!(missing(&out[0]), [AT_SENDER, AT_RECEIVER]);
        assert!(out[0].missing.iter().all(|hop| hop.explained && hop.after == 2));
    }
}

#[test]
fn what_is_lost_on_the_encrypted_wire_is_lost_between_the_tunnel_devices() {
    let world = world();
    let out = world.correlate(world.walk(SECOND, &ping(CURL, HTTPBIN, 3), &OVER_WIREGUARD[..3]));

    let expected = "wg0 ingress on n2 (between them it is encrypted: eth0 egress on n1 and eth0 ingress on n2 \
                    cannot show it)";
    let lost = Verdict::Lost { after: world.at("n1/wg0>").id, expected: expected.to_owned() };
    assert_eq!(out[0].verdict, lost);
    let explained: Vec<_> = out[0].missing.iter().map(|hop| hop.explained).collect();
    assert_eq!(explained, [true, true, false, false, false]);
    assert_eq!(out[0].missing[2].point, "wg0 ingress on n2");
}

#[test]
fn what_is_lost_behind_the_encrypted_wire_is_lost_there() {
    let world = world();
    let out = world.correlate(world.walk(SECOND, &ping(CURL, HTTPBIN, 3), &OVER_WIREGUARD[..4]));

    let expected = "vethhttp egress on n2".to_owned();
    assert_eq!(out[0].verdict, Verdict::Lost { after: world.at("n2/wg0<").id, expected });
}

#[test]
fn a_receiver_that_is_not_observed_leaves_the_end_open() {
    let world = without("n2");
    let out = world.correlate(world.walk(SECOND, &ping(CURL, HTTPBIN, 3), &OVER_WIREGUARD[..3]));

    let reason = "nothing is observed on node n2; last seen at wg0 egress on n1".to_owned();
    assert_eq!(out[0].verdict, Verdict::Unknown { reason });
    assert_eq!(missing(&out[0]), [AT_SENDER, "node n2: nothing is observed on that node"]);
}

#[test]
fn a_sender_that_is_not_observed_does_not_hinder_delivery() {
    let world = without("n1");
    let mut steps = OVER_WIREGUARD[3..].to_vec();
    steps[0].1 = &[Change::Ttl];
    let out = world.correlate(world.walk(SECOND, &ping(CURL, HTTPBIN, 3), &steps));

    assert_eq!((&out[0].verdict, out[0].expected_hops), (&Verdict::Delivered, 3));
    assert_eq!(missing(&out[0]), ["node n1: nothing is observed on that node", AT_RECEIVER]);
}

#[test]
fn a_tunnel_hop_whose_record_is_missing_does_not_hinder_the_explanation() {
    let world = world();
    let mut sightings = world.walk(SECOND, &ping(CURL, HTTPBIN, 3), OVER_WIREGUARD);
    sightings.remove(3);

    let out = world.correlate(sightings);

    assert_eq!((&out[0].verdict, out[0].expected_hops), (&Verdict::Delivered, 6));
    let explained: Vec<_> = out[0].missing.iter().map(|hop| hop.explained).collect();
    assert_eq!(explained, [true, true, false]);
    assert_eq!(out[0].missing[2].point, "wg0 ingress on n2");
}
