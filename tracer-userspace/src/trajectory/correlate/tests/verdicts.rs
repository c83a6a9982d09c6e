//! What is said about packets that do not show every hop.

use std::sync::Arc;

use crate::trajectory::correlate::{CorrelatorConfig, FollowScope};
use crate::trajectory::expect::topology::{PlannedHook, PlannedWay};
use crate::trajectory::model::{ServiceRef, Trajectory, Verdict};
use crate::trajectory::testing::{
    ACK, CLUSTER_IP, CURL, HTTPBIN, MS, ROUTED, ROUTED_SERVICE, SECOND, SYN, hooks, ip, ping, run, tcp,
    two_nodes, two_nodes_with_one_clock, udp,
};

#[test]
fn a_packet_that_is_not_seen_again_is_lost_after_its_last_hop() {
    let world = two_nodes(false, "vxlan");
    let mut sightings = world.walk(SECOND, &ping(CURL, HTTPBIN, 1), ROUTED);
    sightings.extend(world.walk(SECOND + MS, &ping(CURL, HTTPBIN, 2), &ROUTED[..4]));

    let out = world.correlate(sightings);

    let lost = &out[1];
    let expected = "eth0 ingress on n2".to_owned();
    assert_eq!(lost.verdict, Verdict::Lost { after: world.at("n1/eth0>").id, expected });
    assert_eq!((lost.hops.len(), lost.expected_hops), (4, 8), "the tunnel on n2 was learnt from the first");
    assert_eq!(lost.missing[0].reason, "suspected loss: seen neither here nor later, 0 records lost");
    assert_eq!(lost.missing[1].reason, "not reached");
}

#[test]
fn a_packet_is_expected_where_the_nodes_would_send_it_until_one_has_shown_another_way() {
    let world = two_nodes(false, "vxlan");
    let way = ["n1/vxlan>", "n1/eth0>", "n2/eth0<", "n2/vxlan<"].map(|hook| {
        let point = world.at(hook);
        PlannedHook { node: point.node.clone(), ifindex: point.ifindex, direction: point.direction }
    });
    let planned = || {
        let mut correlator = world.correlator(CorrelatorConfig::default());
        correlator.plan_way(PlannedWay { from: "n1".into(), to: "n2".into(), hooks: way.to_vec() });
        correlator
    };
    let first = world.walk(SECOND, &ping(CURL, HTTPBIN, 1), &ROUTED[..2]);
    let (routed, unpacked) =
        ([ROUTED[0], ROUTED[1], ("n1/eth0>", &[][..])], [ROUTED[4], ROUTED[6], ROUTED[7]]);
    let beside_the_tunnel = world.walk(SECOND, &ping(CURL, HTTPBIN, 2), &[routed, unpacked].concat());
    let second = world.walk(SECOND + MS, &ping(CURL, HTTPBIN, 3), &ROUTED[..2]);

    let alone = run(&mut planned(), first);
    let after_another_way = run(&mut planned(), [beside_the_tunnel, second].concat());

    let expected = "vxlan egress on n1".to_owned();
    assert_eq!(alone[0].verdict, Verdict::Lost { after: world.at("n1/vethcurl<").id, expected });
    assert_eq!((alone[0].hops.len(), alone[0].expected_hops), (2, 8));
    assert_eq!(after_another_way[0].verdict, Verdict::Delivered);
    assert_eq!((after_another_way[1].hops.len(), after_another_way[1].expected_hops), (2, 6));
}

#[test]
fn with_records_lost_no_packet_is_called_lost() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = world.correlator(CorrelatorConfig::default());
    let mut out = Vec::new();
    correlator.advance(SECOND, &mut |t| out.push(t));
    for sighting in world.walk(SECOND, &ping(CURL, HTTPBIN, 2), &ROUTED[..4]) {
        correlator.push(sighting);
    }
    correlator.report_loss(&Arc::from("n2"), 17, SECOND + 50 * MS);
    correlator.advance(SECOND + 100 * MS, &mut |t| out.push(t));
    correlator.advance(2 * SECOND, &mut |t| out.push(t));

    assert_eq!(out[0].lost_records, 17);
    let Verdict::Unknown { reason } = &out[0].verdict else { panic!("{:?}", out[0].verdict) };
    assert_eq!(reason, "17 records were lost on its nodes meanwhile; last seen at eth0 egress on n1");
    assert_eq!(out[0].missing[0].reason, "record lost? 17 records were lost on n2 meanwhile");
}

#[test]
fn a_packet_is_not_called_lost_while_its_other_node_tells_of_earlier_times() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = world.correlator(CorrelatorConfig::default());
    let mut out = Vec::new();
    let sightings = world.walk(SECOND, &ping(CURL, HTTPBIN, 1), ROUTED);
    let (near, far) = sightings.split_at(4);

    // The other node's records are held up since the first second, and then come bit by bit.
    correlator.advance(SECOND, &mut |t| out.push(t));
    near.iter().for_each(|sighting| correlator.push(sighting.clone()));
    correlator.advance_and_judge(3 * SECOND, SECOND, &mut |t| out.push(t));
    correlator.advance_and_judge(3 * SECOND + 20 * MS, 2 * SECOND, &mut |t| out.push(t));
    assert!(out.is_empty(), "{out:?}");
    far.iter().for_each(|sighting| correlator.push(sighting.clone()));
    correlator.advance_and_judge(3 * SECOND + 40 * MS, 3 * SECOND, &mut |t| out.push(t));
    correlator.finish(&mut |t| out.push(t));

    assert_eq!((out.len(), &out[0].verdict), (1, &Verdict::Delivered));
}

#[test]
fn losses_on_other_nodes_and_long_ago_do_not_matter() {
    let mut world = two_nodes(false, "vxlan");
    world.node("n3", "10.135.0.13", 0);
    let mut correlator = world.correlator(CorrelatorConfig::default());
    let mut out = Vec::new();
    correlator.report_loss(&Arc::from("n1"), 5, SECOND);
    correlator.advance(2 * SECOND, &mut |t| out.push(t));
    for sighting in world.walk(SECOND, &ping(CURL, HTTPBIN, 2), &ROUTED[..4]) {
        correlator.push(sighting);
    }
    correlator.report_loss(&Arc::from("n3"), 17, 2 * SECOND);
    correlator.advance(3 * SECOND, &mut |t| out.push(t));
    correlator.advance(4 * SECOND, &mut |t| out.push(t));
    assert_eq!(out[0].lost_records, 0);
    assert!(matches!(out[0].verdict, Verdict::Lost { .. }));
}

#[test]
fn a_pod_whose_device_is_not_observed_gives_no_verdict() {
    let mut world = two_nodes(false, "vxlan");
    let hidden = [world.blind("n2/httpbin:eth0<"), world.blind("n2/httpbin:eth0>")];
    let mut correlator = world.correlator(CorrelatorConfig::default());
    for id in hidden {
        correlator.remove_point(id);
    }
    let out = run(&mut correlator, world.walk(SECOND, &ping(CURL, HTTPBIN, 1), &ROUTED[..7]));
    let Verdict::Unknown { reason } = &out[0].verdict else { panic!("{:?}", out[0].verdict) };
    assert_eq!(
        reason,
        "the device inside pod default/httpbin is not observed; last seen at vethhttp egress on n2"
    );
    assert_eq!(out[0].expected_hops, 7);
}

#[test]
fn a_node_without_observation_gives_no_verdict() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = world.correlator(CorrelatorConfig::default());
    for point in world.points.iter().filter(|point| &*point.node == "n2") {
        correlator.remove_point(point.id);
    }
    let out = run(&mut correlator, world.walk(SECOND, &ping(CURL, HTTPBIN, 1), &ROUTED[..4]));
    assert!(matches!(out[0].verdict, Verdict::Unknown { .. }), "{:?}", out[0].verdict);
    assert_eq!(out[0].expected_hops, 4);
}

#[test]
fn a_late_record_of_a_device_that_is_gone_does_not_bring_it_back() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = world.correlator(CorrelatorConfig::default());
    correlator.remove_point(world.at("n2/vethhttp>").id);
    run(&mut correlator, world.walk(SECOND, &ping(CURL, HTTPBIN, 1), ROUTED));
    let mut without = world.walk(SECOND, &ping(CURL, HTTPBIN, 2), ROUTED);
    without.remove(6);

    let out = run(&mut correlator, without);

    assert_eq!((&out[0].verdict, out[0].expected_hops), (&Verdict::Delivered, 7));
    assert_eq!(out[0].missing, []);
}

#[test]
fn a_packet_first_seen_on_its_way_is_not_called_lost() {
    let world = two_nodes(false, "vxlan");
    let out = world.correlate(world.walk(SECOND, &ping(CURL, HTTPBIN, 1), ROUTED)[4..6].to_vec());
    assert!(
        matches!(&out[0].verdict, Verdict::Unknown { reason } if reason.contains("only from eth0 ingress"))
    );
    assert!(out[0].missing.iter().take(4).all(|hop| hop.before_first));
}

#[test]
fn a_hook_attached_after_the_packet_passed_is_not_expected() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = world.correlator(CorrelatorConfig::default());
    let late = world.at("n1/curl:eth0>");
    correlator.add_point(late, 1_000 * SECOND + 2 * SECOND);
    let out = run(&mut correlator, world.walk(SECOND, &ping(CURL, HTTPBIN, 1), ROUTED)[1..].to_vec());
    assert_eq!(out[0].verdict, Verdict::Delivered);
    assert_eq!((out[0].expected_hops, out[0].missing.len()), (7, 1));
    assert_eq!(out[0].missing[0].reason, "not observed yet when the packet passed");
}

#[test]
fn a_service_packet_of_a_flow_whose_endpoint_is_known_is_lost_and_of_another_unknown() {
    let world = two_nodes(false, "vxlan");
    let mut sightings = world.walk(SECOND, &tcp((CURL, 40000), (CLUSTER_IP, 80), 9, 0, SYN), ROUTED_SERVICE);
    sightings.extend(world.walk(2 * SECOND, &tcp((CURL, 40000), (CLUSTER_IP, 80), 10, 0, ACK), &ROUTED[..2]));
    sightings.extend(world.walk(3 * SECOND, &tcp((CURL, 40001), (CLUSTER_IP, 80), 10, 0, SYN), &ROUTED[..2]));

    let out = world.correlate(sightings);

    let expected = "vxlan egress on n1".to_owned();
    assert_eq!(out[1].verdict, Verdict::Lost { after: world.at("n1/vethcurl<").id, expected });
    assert!(
        matches!(&out[2].verdict, Verdict::Unknown { reason } if reason.contains("Service default/web")),
        "{:?}",
        out[2].verdict
    );
}

#[test]
fn the_end_of_the_run_is_no_loss() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = world.correlator(CorrelatorConfig::default());
    let mut out = Vec::new();
    for sighting in world.walk(SECOND, &ping(CURL, HTTPBIN, 1), &ROUTED[..4]) {
        correlator.push(sighting);
    }
    correlator.finish(&mut |t| out.push(t));
    assert!(matches!(&out[0].verdict, Verdict::Unknown { reason } if reason.contains("run ended")));
}

#[test]
fn complete_packets_are_reported_at_once_and_others_after_the_grace_time() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut correlator = world.correlator(CorrelatorConfig::default());
    let mut out = Vec::new();
    correlator.advance(SECOND, &mut |t| out.push(t));
    let mut sightings = world.walk(SECOND, &ping(CURL, HTTPBIN, 1), &ROUTED[..4]);
    sightings.extend(world.walk(SECOND, &ping(CURL, HTTPBIN, 2), ROUTED));
    for sighting in sightings {
        correlator.push(sighting);
    }
    correlator.advance(SECOND + MS, &mut |t| out.push(t));
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].verdict, Verdict::Delivered);
    correlator.advance(SECOND + 300 * MS, &mut |t| out.push(t));
    assert_eq!(out.len(), 1);
    correlator.advance(SECOND + 302 * MS, &mut |t| out.push(t));
    assert_eq!(out.len(), 2);
    assert_eq!(correlator.counters().open, 0);
}

#[test]
fn packets_of_others_that_share_an_address_are_counted_and_not_reported() {
    let world = two_nodes(false, "vxlan");
    let scope = FollowScope { a: [ip("10.244.0.20")].into(), ..FollowScope::default() };
    let mut correlator =
        world.correlator(CorrelatorConfig { scopes: vec![scope], ..CorrelatorConfig::default() });
    let out = run(&mut correlator, world.walk(SECOND, &ping(CURL, HTTPBIN, 1), ROUTED));
    assert!(out.is_empty());
    assert_eq!(correlator.counters().unrelated, 1);
}

#[test]
fn memory_is_bounded_and_evictions_are_counted() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = world.correlator(CorrelatorConfig { max_open: 100, ..CorrelatorConfig::default() });
    for i in 0..10_000 {
        for sighting in world.walk(SECOND, &udp((CURL, 1), (HTTPBIN, 53), 40, 9, i), &ROUTED[..2]) {
            correlator.push(sighting);
        }
        assert!(correlator.counters().open <= 100);
    }
    let mut reported = 0;
    correlator.finish(&mut |_| reported += 1);
    assert_eq!(reported + correlator.counters().evicted, 10_000);
}

#[test]
fn hops_come_in_order_for_every_reported_trajectory() {
    let world = two_nodes(false, "vxlan");
    let out = world.correlate(world.walk(SECOND, &ping(CURL, HTTPBIN, 1), ROUTED));
    assert_eq!(hooks(&out[0]).len(), out[0].legs.len() + 1);
    assert_eq!(out[0].id, 1);
}

#[test]
fn a_packet_that_goes_to_an_endpoint_of_the_followed_service_by_itself_is_noted() {
    let world = two_nodes(false, "vxlan");
    let service = ServiceRef { namespace: "default".to_owned(), name: "web".to_owned() };
    let scope = FollowScope {
        a: [ip(CURL)].into(),
        b: Some([ip(CLUSTER_IP), ip(HTTPBIN)].into()),
        service: Some(service),
        ..FollowScope::default()
    };
    let config = CorrelatorConfig { scopes: vec![scope], ..CorrelatorConfig::default() };
    let request = tcp((CURL, 40_000), (CLUSTER_IP, 80), 1, 0, SYN);
    let direct = tcp((CURL, 40_001), (HTTPBIN, 8080), 1, 0, SYN);
    let mut sightings = world.walk(SECOND, &request, ROUTED_SERVICE);
    sightings.extend(world.walk(SECOND + MS, &direct, ROUTED));

    let out = run(&mut world.correlator(config), sightings);

    let noted = |t: &Trajectory| t.notes.iter().any(|note| note.contains("socket load balancing"));
    assert_eq!((noted(&out[0]), noted(&out[1])), (false, true), "{out:#?}");
}
