//! Each datapath of the lab, hop by hop.

use crate::trajectory::correlate::{CorrelatorConfig, FollowScope};
use crate::trajectory::model::{Latency, NoEstimate, Verdict};
use crate::trajectory::testing::{
    ACK, CLUSTER_IP, CURL, Change, HTTPBIN, NODE_1, NODE_2, PSH, ROUTED, ROUTED_SERVICE, SECOND, SYN, Step,
    hooks, ping, run, tcp, two_nodes, two_nodes_with_one_clock, udp,
};

fn names(steps: &[Step<'_>]) -> Vec<String> {
    steps.iter().map(|(hook, _)| (*hook).to_owned()).collect()
}

#[test]
fn routed_vxlan_shows_every_hop_in_order_with_clocks_37_seconds_apart() {
    let world = two_nodes(false, "vxlan");
    let packet = tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK | PSH);

    let out = world.correlate(world.walk(SECOND, &packet, ROUTED));

    assert_eq!(out.len(), 1);
    assert_eq!(hooks(&out[0]), names(ROUTED));
    assert_eq!(out[0].verdict, Verdict::Delivered);
    assert_eq!((out[0].expected_hops, out[0].missing.len()), (8, 0));
    let unknown = Latency::Unknown(NoEstimate::OneDirectionOnly);
    assert_eq!(out[0].legs[3].latency, unknown, "two clocks are never compared");
    assert_eq!(out[0].legs[4].latency, Latency::Exact { ns: 1000 });
}

#[test]
fn the_order_of_nodes_does_not_come_from_their_clocks_or_from_arrival() {
    let world = two_nodes(false, "vxlan");
    for packet in [
        tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK),
        ping(CURL, HTTPBIN, 1),
        udp((CURL, 5353), (HTTPBIN, 53), 40, 9, 1),
    ] {
        let mut sightings = world.walk(SECOND, &packet, ROUTED);
        sightings.rotate_left(4);
        sightings.swap(0, 2);

        let out = world.correlate(sightings);

        assert_eq!(out.len(), 1);
        assert_eq!(hooks(&out[0]), names(ROUTED));
        assert_eq!(out[0].verdict, Verdict::Delivered);
    }
}

#[test]
fn bridge_vxlan_expects_the_bridge_between_port_and_tunnel() {
    let world = two_nodes(true, "flannel.1");
    let steps: &[Step<'_>] = &[
        ("n1/curl:eth0>", &[]),
        ("n1/vethcurl<", &[]),
        ("n1/cni0<", &[]),
        ("n1/flannel.1>", &[Change::Ttl]),
        ("n1/eth0>", &[Change::Encap(1, NODE_1, NODE_2)]),
        ("n2/eth0<", &[]),
        ("n2/flannel.1<", &[Change::Decap]),
        ("n2/cni0>", &[Change::Ttl]),
        ("n2/vethhttp>", &[]),
        ("n2/httpbin:eth0<", &[]),
    ];
    let packet = tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK);

    let out = world.correlate(world.walk(SECOND, &packet, steps));

    assert_eq!(hooks(&out[0]), names(steps));
    assert_eq!((out[0].expected_hops, out[0].missing.len()), (10, 0));

    let mut sightings = world.walk(SECOND, &packet, steps);
    sightings.remove(7);
    sightings.remove(2);
    let out = world.correlate(sightings);
    let missing: Vec<_> = out[0].missing.iter().map(|hop| hop.point.as_str()).collect();
    assert_eq!(missing, ["cni0 ingress on n1", "cni0 egress on n2"]);
    assert_eq!(out[0].expected_hops, 10);
}

#[test]
fn two_ports_of_one_bridge_need_no_bridge_hook_unless_the_packet_was_routed() {
    let world = two_nodes(true, "flannel.1");
    let bridged: &[Step<'_>] =
        &[("n1/curl:eth0>", &[]), ("n1/vethcurl<", &[]), ("n1/vethdns>", &[]), ("n1/dns:eth0<", &[])];
    let out = world.correlate(world.walk(SECOND, &udp((CURL, 1), ("10.244.0.20", 53), 30, 5, 1), bridged));
    assert_eq!((out[0].expected_hops, out[0].missing.len()), (4, 0));
    assert_eq!(out[0].verdict, Verdict::Delivered);

    let routed: &[Step<'_>] = &[
        ("n1/curl:eth0>", &[]),
        ("n1/vethcurl<", &[]),
        ("n1/cni0<", &[]),
        ("n1/cni0>", &[Change::Ttl, Change::To("10.244.0.20", 8080)]),
        ("n1/vethdns>", &[]),
        ("n1/dns:eth0<", &[]),
    ];
    let out = world.correlate(world.walk(SECOND, &tcp((CURL, 1), (CLUSTER_IP, 80), 5, 0, SYN), routed));
    assert_eq!(hooks(&out[0]), names(routed));
    assert_eq!((out[0].expected_hops, out[0].missing.len()), (6, 0));
    assert!(out[0].notes.is_empty());
}

#[test]
fn a_bridged_packet_of_a_service_may_leave_by_the_bridge_without_entering_it() {
    let world = two_nodes(true, "flannel.1");
    let steps: &[Step<'_>] = &[
        ("n1/curl:eth0>", &[]),
        ("n1/vethcurl<", &[]),
        ("n1/cni0>", &[Change::To("10.244.0.20", 8080)]),
        ("n1/vethdns>", &[]),
        ("n1/dns:eth0<", &[]),
    ];
    let out = world.correlate(world.walk(SECOND, &tcp((CURL, 1), (CLUSTER_IP, 80), 5, 0, SYN), steps));
    assert_eq!(hooks(&out[0]), names(steps));
    assert_eq!((out[0].expected_hops, out[0].missing.len()), (5, 0));
}

#[test]
fn cilium_legacy_routing_passes_both_peers_and_other_devices_do_no_harm() {
    let mut world = two_nodes(false, "cilium_vxlan");
    world.other("n2", "cilium_host");
    world.foreign("n1/vethcurl<", "cil_from_container");
    world.foreign("n2/cilium_vxlan<", "cil_from_overlay");
    let steps: &[Step<'_>] = &[
        ("n1/curl:eth0>", &[]),
        ("n1/vethcurl<", &[]),
        ("n1/cilium_vxlan>", &[Change::To(HTTPBIN, 8080)]),
        ("n1/eth0>", &[Change::Encap(2735, NODE_1, NODE_2)]),
        ("n2/eth0<", &[]),
        ("n2/cilium_vxlan<", &[Change::Decap]),
        ("n2/cilium_host>", &[]),
        ("n2/vethhttp>", &[Change::Ttl]),
        ("n2/httpbin:eth0<", &[]),
    ];

    let out = world.correlate(world.walk(SECOND, &tcp((CURL, 1), (CLUSTER_IP, 80), 5, 0, SYN), steps));

    assert_eq!(hooks(&out[0]), names(steps));
    assert_eq!((out[0].expected_hops, out[0].missing.len()), (9, 0));
}

#[test]
fn redirect_peer_explains_the_peer_that_is_passed_by() {
    let mut world = two_nodes(false, "cilium_vxlan");
    world.foreign("n1/vethcurl<", "cil_from_container");
    world.foreign("n2/cilium_vxlan<", "cil_from_overlay");
    let steps: &[Step<'_>] = &[
        ("n1/curl:eth0>", &[]),
        ("n1/vethcurl<", &[]),
        ("n1/cilium_vxlan>", &[]),
        ("n1/eth0>", &[Change::Encap(2735, NODE_1, NODE_2)]),
        ("n2/eth0<", &[]),
        ("n2/cilium_vxlan<", &[Change::Decap]),
        ("n2/httpbin:eth0<", &[Change::Ttl]),
    ];
    let out = world.correlate(world.walk(SECOND, &ping(CURL, HTTPBIN, 1), steps));
    assert_eq!(hooks(&out[0]), names(steps));
    assert_eq!(out[0].verdict, Verdict::Delivered);
    assert_eq!(out[0].expected_hops, 7);
    assert!(out[0].missing[0].explained);
    assert_eq!(out[0].missing[0].after, 5);
    assert_eq!(
        out[0].missing[0].reason,
        "passed by with bpf_redirect_peer (cil_from_overlay on cilium_vxlan)"
    );

    let same_node: &[Step<'_>] =
        &[("n1/curl:eth0>", &[]), ("n1/vethcurl<", &[]), ("n1/dns:eth0<", &[Change::Ttl])];
    let out = world.correlate(world.walk(SECOND, &ping(CURL, "10.244.0.20", 1), same_node));
    assert_eq!((out[0].expected_hops, out[0].missing.len()), (3, 1));
    assert!(out[0].missing[0].explained);
}

#[test]
fn hooks_hidden_behind_a_tcx_program_are_explained_and_not_expected() {
    let mut world = two_nodes(false, "cilium_vxlan");
    world.hide("n1/vethcurl<", "cil_from_container");
    world.hide("n2/cilium_vxlan<", "cil_from_overlay");
    let steps: &[Step<'_>] = &[
        ("n1/curl:eth0>", &[]),
        ("n1/cilium_vxlan>", &[]),
        ("n1/eth0>", &[Change::Encap(2735, NODE_1, NODE_2)]),
        ("n2/eth0<", &[]),
        ("n2/httpbin:eth0<", &[Change::Decap, Change::Ttl]),
    ];

    let out = world.correlate(world.walk(SECOND, &ping(CURL, HTTPBIN, 1), steps));

    assert_eq!((&out[0].verdict, out[0].expected_hops), (&Verdict::Delivered, 5));
    let reasons: Vec<_> = out[0].missing.iter().map(|missing| missing.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "hidden by cil_from_container, which runs before our program here and ends the chain",
            "hidden by cil_from_overlay, which runs before our program here and ends the chain",
            "passed by with bpf_redirect_peer (cil_from_overlay on cilium_vxlan)",
        ]
    );
    assert!(out[0].missing.iter().all(|missing| missing.explained));
}

#[test]
fn a_missing_peer_without_a_foreign_program_is_not_explained() {
    let world = two_nodes(false, "vxlan");
    let mut sightings = world.walk(SECOND, &ping(CURL, HTTPBIN, 1), ROUTED);
    sightings.remove(6);

    let out = world.correlate(sightings);

    assert_eq!(out[0].verdict, Verdict::Delivered);
    assert_eq!(out[0].expected_hops, 8);
    assert!(!out[0].missing[0].explained);
    assert_eq!(out[0].missing[0].point, "vethhttp egress on n2");
}

#[test]
fn a_service_is_joined_both_ways() {
    let world = two_nodes(false, "vxlan");
    let mut sightings = world.walk(SECOND, &tcp((CURL, 40000), (CLUSTER_IP, 80), 9, 0, SYN), ROUTED_SERVICE);
    let mut answer = tcp((HTTPBIN, 8080), (CURL, 40000), 500, 0, SYN | ACK);
    answer.identification = 0;
    let answer = crate::trajectory::testing::stamp(answer);
    let back: &[Step<'_>] = &[
        ("n2/httpbin:eth0>", &[]),
        ("n2/vethhttp<", &[]),
        ("n2/vxlan>", &[Change::Ttl]),
        ("n2/eth0>", &[Change::Encap(2735, NODE_2, NODE_1)]),
        ("n1/eth0<", &[]),
        ("n1/vxlan<", &[Change::Decap]),
        ("n1/vethcurl>", &[Change::Ttl, Change::From(CLUSTER_IP, 80)]),
        ("n1/curl:eth0<", &[]),
    ];
    sightings.extend(world.walk(SECOND + 50_000, &answer, back));

    let out = world.correlate(sightings);

    assert_eq!(out.len(), 2);
    assert_eq!(hooks(&out[0]), names(ROUTED_SERVICE));
    assert_eq!(hooks(&out[1]), names(back));
    for trajectory in &out {
        assert_eq!(trajectory.verdict, Verdict::Delivered);
        assert_eq!((trajectory.expected_hops, trajectory.missing.len()), (8, 0));
        assert!(trajectory.notes.is_empty() && trajectory.ambiguous.is_none());
    }
}

#[test]
fn a_translation_that_the_inventory_does_not_know_is_joined_and_noted() {
    let mut world = two_nodes(false, "vxlan");
    world.service("other", ("10.96.0.99", 80), &[]);
    let out =
        world.correlate(world.walk(SECOND, &tcp((CURL, 1), ("10.96.0.99", 80), 9, 0, SYN), ROUTED_SERVICE));
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].notes, ["the inventory does not know the DNAT 10.96.0.99:80 -> 10.244.1.246:8080"]);
}

#[test]
fn snat_to_the_node_is_joined_and_the_reply_finds_its_way_back() {
    let world = two_nodes(false, "");
    let there: &[Step<'_>] = &[
        ("n1/curl:eth0>", &[]),
        ("n1/vethcurl<", &[]),
        ("n1/eth0>", &[Change::Ttl, Change::From(NODE_1, 33000)]),
        ("n2/eth0<", &[]),
        ("n2/vethhttp>", &[Change::Ttl]),
        ("n2/httpbin:eth0<", &[]),
    ];
    let back: &[Step<'_>] = &[
        ("n2/httpbin:eth0>", &[]),
        ("n2/vethhttp<", &[]),
        ("n2/eth0>", &[Change::Ttl]),
        ("n1/eth0<", &[]),
        ("n1/vethcurl>", &[Change::Ttl, Change::To(CURL, 1)]),
        ("n1/curl:eth0<", &[]),
    ];
    let mut sightings = world.walk(SECOND, &udp((CURL, 1), (HTTPBIN, 53), 40, 9, 1), there);
    sightings.extend(world.walk(SECOND + 90_000, &udp((HTTPBIN, 53), (NODE_1, 33000), 90, 4, 2), back));

    let out = world.correlate(sightings);

    assert_eq!(out.len(), 2);
    assert_eq!(hooks(&out[0]), names(there));
    assert_eq!(hooks(&out[1]), names(back));
    assert!(
        out.iter().all(|t| t.verdict == Verdict::Delivered && t.missing.is_empty() && t.notes.is_empty())
    );
}

#[test]
fn without_a_target_a_packet_that_snat_may_have_hidden_is_not_called_lost() {
    let world = two_nodes(false, "");
    let to_other_node: &[Step<'_>] = &[("n1/curl:eth0>", &[]), ("n1/vethcurl<", &[])];
    let sightings = || world.walk(SECOND, &tcp((CURL, 1), (NODE_2, 10250), 9, 0, SYN), to_other_node);
    let scope = |b: Option<&str>| FollowScope {
        a: [CURL.parse().unwrap()].into(),
        b: b.map(|address| [address.parse().unwrap()].into()),
        ..FollowScope::default()
    };
    let told = |scope| {
        let config = CorrelatorConfig { scopes: vec![scope], ..CorrelatorConfig::default() };
        run(&mut world.correlator(config), sightings()).remove(0).verdict
    };

    assert!(matches!(told(scope(Some(NODE_2))), Verdict::Lost { .. }));
    let Verdict::Unknown { reason } = told(scope(None)) else { panic!("called lost") };
    assert!(reason.contains("SNAT") && reason.contains("--to"), "{reason}");
}

#[test]
fn addresses_outside_and_nodes_are_reached_at_their_last_device() {
    let world = two_nodes(false, "");
    let out = world.correlate(world.walk(
        SECOND,
        &udp((CURL, 1), ("192.0.2.1", 53), 40, 9, 1),
        &[("n1/curl:eth0>", &[]), ("n1/vethcurl<", &[]), ("n1/eth0>", &[Change::Ttl])],
    ));
    assert_eq!((&out[0].verdict, out[0].expected_hops), (&Verdict::Delivered, 3));

    let to_own_node: &[Step<'_>] = &[("n1/curl:eth0>", &[]), ("n1/vethcurl<", &[])];
    let out = world.correlate(world.walk(SECOND, &udp((CURL, 1), (NODE_1, 53), 40, 9, 1), to_own_node));
    assert_eq!((&out[0].verdict, out[0].expected_hops), (&Verdict::Delivered, 2));

    let to_other_node: &[Step<'_>] =
        &[("n1/curl:eth0>", &[]), ("n1/vethcurl<", &[]), ("n1/eth0>", &[Change::Ttl]), ("n2/eth0<", &[])];
    let out = world.correlate(world.walk(SECOND, &udp((CURL, 1), (NODE_2, 53), 40, 9, 1), to_other_node));
    assert_eq!((&out[0].verdict, out[0].expected_hops), (&Verdict::Delivered, 4));
}

#[test]
fn nodes_of_one_machine_share_a_clock_and_all_legs_are_exact() {
    let world = two_nodes_with_one_clock("vxlan");
    let packet = tcp((CURL, 40000), (CLUSTER_IP, 80), 9, 0, SYN);
    let out = world.correlate(world.walk(SECOND, &packet, ROUTED_SERVICE));
    assert_eq!(hooks(&out[0]), names(ROUTED_SERVICE));
    assert_eq!((out[0].expected_hops, out[0].missing.len()), (8, 0));
    assert!(out[0].legs.iter().all(|leg| leg.latency == Latency::Exact { ns: 1000 }));
}

#[test]
fn a_node_port_is_no_end_and_what_nat_makes_of_it_is_joined() {
    let world = two_nodes(false, "vxlan");
    let steps: &[Step<'_>] = &[
        ("n1/curl:eth0>", &[]),
        ("n1/vethcurl<", &[]),
        ("n1/vxlan>", &[Change::Ttl, Change::To(HTTPBIN, 8080), Change::From(NODE_1, 1024)]),
        ("n1/eth0>", &[Change::Encap(1, NODE_1, NODE_2)]),
        ("n2/eth0<", &[]),
        ("n2/vxlan<", &[Change::Decap]),
        ("n2/vethhttp>", &[Change::Ttl]),
        ("n2/httpbin:eth0<", &[]),
    ];
    let out = world.correlate(world.walk(SECOND, &tcp((CURL, 1), (NODE_1, 30080), 9, 0, SYN), steps));
    assert_eq!(out.len(), 1);
    assert_eq!(hooks(&out[0]), names(steps));
    assert_eq!((&out[0].verdict, out[0].missing.len()), (&Verdict::Delivered, 0));
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() {
    let mut world = two_nodes(false, "vxlan");
    world.service("self", ("10.96.0.20", 80), &[(CURL, 8080)]);
    let steps: &[Step<'_>] = &[
        ("n1/curl:eth0>", &[]),
        ("n1/vethcurl<", &[]),
        ("n1/vethcurl>", &[Change::Ttl, Change::To(CURL, 8080), Change::From(NODE_1, 1024)]),
        ("n1/curl:eth0<", &[]),
    ];
    let out = world.correlate(world.walk(SECOND, &tcp((CURL, 1), ("10.96.0.20", 80), 9, 0, SYN), steps));
    assert_eq!(hooks(&out[0]), names(steps));
    assert_eq!((&out[0].verdict, out[0].expected_hops), (&Verdict::Delivered, 4));
    assert!(out[0].notes.is_empty());
}

#[test]
fn a_node_behind_a_bridge_is_reached_at_the_bridge() {
    let world = two_nodes(true, "flannel.1");
    let steps: &[Step<'_>] = &[("n1/curl:eth0>", &[]), ("n1/vethcurl<", &[]), ("n1/cni0<", &[])];
    let out = world.correlate(world.walk(SECOND, &udp((CURL, 1), (NODE_1, 53), 40, 9, 1), steps));
    assert_eq!((&out[0].verdict, out[0].expected_hops), (&Verdict::Delivered, 3));
    let out = world.correlate(world.walk(SECOND, &udp((CURL, 1), (NODE_1, 53), 40, 9, 1), &steps[..2]));
    assert!(matches!(out[0].verdict, Verdict::Lost { .. }));
}
