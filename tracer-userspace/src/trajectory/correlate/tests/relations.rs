//! What packets have to do with each other: retransmissions, copies made by the network, ICMP errors.

use crate::trajectory::correlate::{CorrelatorConfig, FollowScope};
use crate::trajectory::model::{Packet, Sighting, Trajectory, Verdict};
use crate::trajectory::testing::{
    ACK, CLUSTER_IP, CURL, Change, HTTPBIN, MS, NODE_1, NODE_2, ROUTED, ROUTED_SERVICE, SECOND, Step, World,
    cut, gso, hooks, icmp_error, ip, ping, run, stamp, tcp, two_nodes, udp,
};

/// The way of an error from the second node's stack back to curl.
const BACK_FROM_NODE_2: &[Step<'static>] = &[
    ("n2/vxlan>", &[]),
    ("n2/eth0>", &[Change::Encap(2735, NODE_2, NODE_1)]),
    ("n1/eth0<", &[]),
    ("n1/vxlan<", &[Change::Decap]),
    ("n1/vethcurl>", &[Change::Ttl]),
    ("n1/curl:eth0<", &[]),
];

fn by_kind(out: &[Trajectory]) -> (Vec<&Trajectory>, Vec<&Trajectory>) {
    out.iter().partition(|trajectory| trajectory.hops[0].packet.quote.is_none())
}

/// Original and retransmission, which the sender stamps anew.
fn sent_twice(original: &Packet) -> (Packet, Packet) {
    let mut again = original.clone();
    again.tcp_timestamps = again.tcp_timestamps.map(|(value, echo)| (value + 204, echo));
    again.identification += 1;
    (original.clone(), stamp(again))
}

#[test]
fn a_retransmission_says_how_much_later_it_was_sent() {
    let world = two_nodes(false, "vxlan");
    let (original, again) = sent_twice(&tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK));
    let mut sightings = world.walk(SECOND, &original, &ROUTED[..4]);
    sightings.extend(world.walk(SECOND + 204 * MS, &again, ROUTED));

    let out = world.correlate(sightings);

    assert_eq!((out[1].retransmission_of, out[1].retransmission_after_ns), (Some(1), Some(204 * MS)));
    assert_eq!((out[0].retransmission_of, out[0].duplicate_of), (None, None));
}

#[test]
fn the_order_of_records_does_not_make_the_first_a_retransmission_of_the_second() {
    let world = two_nodes(false, "vxlan");
    let (original, again) = sent_twice(&tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK));
    let first = world.walk(SECOND, &original, &ROUTED[..4]);
    let second = world.walk(SECOND + 204 * MS, &again, ROUTED);
    // The second node's stream is ahead of the first one's.
    let sightings = second[4..].iter().chain(&first).chain(&second[..4]).cloned().collect();

    let out = world.correlate(sightings);

    let (lost, delivered): (Vec<_>, Vec<_>) =
        out.iter().partition(|t| matches!(t.verdict, Verdict::Lost { .. }));
    assert_eq!(lost[0].retransmission_of, None);
    assert_eq!(delivered[0].retransmission_of, Some(lost[0].id));
    assert_eq!(delivered[0].retransmission_after_ns, Some(204 * MS));
}

#[test]
fn without_a_point_that_both_passed_nothing_is_said_of_a_retransmission() {
    let world = two_nodes(false, "vxlan");
    let (original, again) = sent_twice(&tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK));
    let mut sightings = world.walk(SECOND, &original, &ROUTED[..4]);
    sightings.extend(world.walk(SECOND + 204 * MS, &again, ROUTED).drain(4..));

    let out = world.correlate(sightings);

    assert_eq!(out.len(), 2);
    assert!(out.iter().all(|trajectory| trajectory.retransmission_of.is_none()));
}

#[test]
fn a_copy_that_the_network_made_is_a_duplicate_and_no_retransmission() {
    let world = two_nodes(false, "vxlan");
    for packet in [
        tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK),
        tcp((CURL, 40000), (HTTPBIN, 80), 1000, 0, ACK),
        udp((CURL, 5000), (HTTPBIN, 53), 40, 77, 1),
        ping(CURL, HTTPBIN, 3),
    ] {
        for distance in [700, 30_000] {
            let mut sightings = world.walk(SECOND, &packet, ROUTED);
            sightings.extend(world.walk(SECOND + distance, &packet, ROUTED).drain(4..));

            let out = world.correlate(sightings);

            assert_eq!(out.iter().map(|t| t.hops.len()).collect::<Vec<_>>(), [8, 4]);
            assert_eq!((out[0].duplicate_of, out[1].duplicate_of), (None, Some(1)), "{packet:?}");
            assert!(out.iter().all(|t| t.retransmission_of.is_none() && t.verdict == Verdict::Delivered));
        }
    }
}

#[test]
fn bytes_that_leave_a_pod_twice_are_a_retransmission_however_alike_they_are() {
    let world = two_nodes(false, "vxlan");
    let mut packet = tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK);
    // As with IPv6.
    packet.identification = 0;
    let mut sightings = world.walk(SECOND, &packet, ROUTED);
    sightings.extend(world.walk(SECOND + 30_000, &packet, ROUTED));

    let out = world.correlate(sightings);

    assert_eq!((out[1].retransmission_of, out[1].retransmission_after_ns), (Some(1), Some(30_000)));
    assert_eq!((out[0].retransmission_of, out[1].duplicate_of), (None, None));
}

#[test]
fn a_copy_of_one_piece_is_a_duplicate_of_the_whole_packet() {
    let world = two_nodes(false, "");
    let whole = gso(tcp((CURL, 40000), (HTTPBIN, 80), 1000, 2796, ACK), 1398);
    let pieces = cut(&whole, 1398);
    let mut sightings = Vec::new();
    for (i, hook) in ["n1/curl:eth0>", "n1/vethcurl<", "n1/eth0>"].into_iter().enumerate() {
        sightings.push(world.see(hook, SECOND + 1000 * i as u64, &whole));
    }
    for (i, hook) in ["n2/eth0<", "n2/vethhttp>", "n2/httpbin:eth0<"].into_iter().enumerate() {
        let at = SECOND + 10_000 + 1000 * i as u64;
        sightings.push(world.see(hook, at, &pieces[0]));
        sightings.push(world.see(hook, at + 100, &pieces[1]));
    }
    for (i, hook) in ["n2/eth0<", "n2/vethhttp>", "n2/httpbin:eth0<"].into_iter().enumerate() {
        sightings.push(world.see(hook, SECOND + 20_000 + 1000 * i as u64, &pieces[0]));
    }

    let out = world.correlate(sightings);

    assert_eq!(out.iter().map(|t| t.duplicate_of).collect::<Vec<_>>(), [None, Some(1)]);
}

#[test]
fn what_an_application_sends_twice_is_no_duplicate() {
    let world = two_nodes(false, "vxlan");
    let datagram = udp((CURL, 5000), (HTTPBIN, 53), 40, 0, 1);
    let mut sightings = world.walk(SECOND, &datagram, ROUTED);
    sightings.extend(world.walk(SECOND + 30_000, &datagram, ROUTED));

    let out = world.correlate(sightings);

    assert_eq!(
        out.iter().map(|t| (t.hops.len(), t.duplicate_of)).collect::<Vec<_>>(),
        [(8, None), (8, None)]
    );
}

#[test]
fn a_datagram_without_id_that_begins_on_the_way_is_a_duplicate_unless_records_were_lost() {
    let world = two_nodes(false, "vxlan");
    let datagram = udp((CURL, 5000), (HTTPBIN, 53), 40, 0, 1);
    let mut sightings = world.walk(SECOND, &datagram, ROUTED);
    sightings.extend(world.walk(SECOND + 30_000, &datagram, ROUTED).drain(4..));

    let out = world.correlate(sightings.clone());
    assert_eq!(out.iter().map(|t| t.duplicate_of).collect::<Vec<_>>(), [None, Some(1)]);

    let mut correlator = world.correlator(CorrelatorConfig::default());
    for node in ["n1", "n2"] {
        correlator.report_loss(&node.into(), 1, SECOND);
    }
    let out = run(&mut correlator, sightings);
    assert!(out.iter().all(|t| t.duplicate_of.is_none()));
}

#[test]
fn a_packet_that_comes_round_again_is_no_duplicate_but_in_a_loop_of_routes() {
    let world = two_nodes(false, "");
    let steps: &[Step<'_>] = &[
        ("n1/curl:eth0>", &[]),
        ("n1/vethcurl<", &[]),
        ("n1/eth0>", &[Change::Ttl]),
        ("n2/eth0<", &[]),
        ("n2/eth0>", &[Change::Ttl]),
        ("n1/eth0<", &[]),
        ("n1/eth0>", &[Change::Ttl]),
        ("n2/eth0<", &[]),
    ];
    let out = world.correlate(world.walk(SECOND, &udp((CURL, 5000), (HTTPBIN, 53), 40, 77, 1), steps));
    assert_eq!(
        out.iter().map(|t| (t.hops.len(), t.duplicate_of)).collect::<Vec<_>>(),
        [(6, None), (2, None)]
    );
    let note = "the packet of #1, here once more with a lower TTL: its way is a loop of routes";
    assert!(out[1].notes.iter().any(|told| told == note), "{:?}", out[1].notes);
}

/// A packet that dies on the second node, and the error about it.
fn exceeded(world: &World, packet: &Packet, way: &[Step<'_>]) -> (Vec<Sighting>, Vec<Sighting>) {
    let sent = world.walk(SECOND, packet, &way[..6]);
    let error = icmp_error("10.244.1.1", &sent[5].packet, 11, 0);
    (sent, world.walk(SECOND + 10_000, &error, BACK_FROM_NODE_2))
}

#[test]
fn an_icmp_error_and_the_packet_that_it_quotes_name_each_other() {
    let world = two_nodes(false, "vxlan");
    let gso_segment = {
        let whole = gso(tcp((CURL, 40000), (HTTPBIN, 80), 0, 2796, ACK), 1398);
        cut(&whole, 1398).remove(1)
    };
    for packet in [
        tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK),
        tcp((CURL, 40000), (HTTPBIN, 80), 1000, 0, ACK),
        gso_segment,
        udp((CURL, 5000), (HTTPBIN, 53), 40, 0, 1),
        ping(CURL, HTTPBIN, 3),
    ] {
        let (sent, back) = exceeded(&world, &packet, ROUTED);

        let out = world.correlate(sent.into_iter().chain(back).collect());

        assert_eq!(out.len(), 2, "{packet:?}");
        assert!(matches!(out[0].verdict, Verdict::Lost { .. }), "{:?}", out[0].verdict);
        assert_eq!(out[0].notes, ["10.244.1.1 answered: ICMP time exceeded, #2"]);
        assert_eq!((out[1].quotes, &out[1].verdict), (Some(1), &Verdict::Delivered));
        assert_eq!(hooks(&out[1]).len(), 6);
    }
}

#[test]
fn the_quoted_packet_is_found_under_the_address_that_nat_gave_it() {
    let world = two_nodes(false, "vxlan");
    let packet = tcp((CURL, 40000), (CLUSTER_IP, 80), 1000, 78, ACK);
    let (sent, back) = exceeded(&world, &packet, ROUTED_SERVICE);
    let out = world.correlate(sent.into_iter().chain(back).collect());
    assert_eq!(out.iter().map(|t| t.quotes).collect::<Vec<_>>(), [None, Some(1)]);
}

#[test]
fn an_error_may_be_recorded_before_the_packet_that_caused_it() {
    let world = two_nodes(false, "vxlan");
    let (sent, back) = exceeded(&world, &tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK), ROUTED);
    let sightings = back[..2].iter().chain(&sent).chain(&back[2..]).cloned().collect();
    let out = world.correlate(sightings);
    let (packets, errors) = by_kind(&out);
    assert_eq!(errors[0].quotes, Some(packets[0].id));
    assert_eq!(packets[0].notes, [format!("10.244.1.1 answered: ICMP time exceeded, #{}", errors[0].id)]);
}

#[test]
fn a_packet_that_was_reported_is_named_by_the_error_alone() {
    let world = two_nodes(false, "vxlan");
    let datagram = udp((CURL, 5000), (HTTPBIN, 9), 40, 77, 1);
    let mut sightings = world.walk(SECOND, &datagram, ROUTED);
    let refusal = icmp_error(HTTPBIN, &datagram, 3, 3);
    let mut back = vec![("n2/httpbin:eth0>", &[] as &[_]), ("n2/vethhttp<", &[])];
    back.extend_from_slice(BACK_FROM_NODE_2);
    sightings.extend(world.walk(SECOND + MS, &refusal, &back));

    let out = world.correlate(sightings);

    assert_eq!(out.iter().map(|t| t.verdict.clone()).collect::<Vec<_>>(), [const { Verdict::Delivered }; 2]);
    assert_eq!((out[1].quotes, out[0].notes.len()), (Some(1), 0));
}

#[test]
fn an_error_that_asks_for_smaller_packets_says_how_small() {
    let world = two_nodes(false, "vxlan");
    let packet = tcp((CURL, 40000), (HTTPBIN, 80), 1000, 1448, ACK);
    let mut sightings = world.walk(SECOND, &packet, &ROUTED[..2]);
    let error = icmp_error(NODE_1, &packet, 3, 4);
    sightings.extend(world.walk(SECOND + 9000, &error, &[("n1/vethcurl>", &[]), ("n1/curl:eth0<", &[])]));

    let out = world.correlate(sightings);

    let (packets, errors) = by_kind(&out);
    assert_eq!(errors[0].quotes, Some(packets[0].id));
    let expected =
        format!("node n1 answered: ICMP fragmentation needed (at most 1400 bytes), #{}", errors[0].id);
    assert_eq!(packets[0].notes, [expected]);
}

#[test]
fn an_error_about_one_of_several_packets_that_look_alike_names_none() {
    let world = two_nodes(false, "vxlan");
    let datagram = udp((CURL, 5000), (HTTPBIN, 9), 40, 0, 1);
    let mut sightings = world.walk(SECOND, &datagram, ROUTED);
    sightings.extend(world.walk(SECOND + 100_000, &datagram, ROUTED));
    let refusal = icmp_error(HTTPBIN, &datagram, 3, 3);
    sightings.extend(world.walk(SECOND + MS, &refusal, BACK_FROM_NODE_2));

    let out = world.correlate(sightings);

    let (_, errors) = by_kind(&out);
    assert_eq!(errors[0].quotes, None);
    assert!(errors[0].notes.iter().any(|note| note.contains("not certain")), "{:?}", errors[0].notes);
}

#[test]
fn an_error_about_a_packet_of_others_quotes_nothing_here() {
    let world = two_nodes(false, "vxlan");
    let sent = tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK);
    let other_port = tcp((CURL, 40001), (HTTPBIN, 80), 1000, 78, ACK);
    let other_bytes = tcp((CURL, 40000), (HTTPBIN, 80), 5000, 78, ACK);
    let mut other_id = sent.clone();
    other_id.identification += 1;
    for about in [other_port, other_bytes, stamp(other_id)] {
        let mut sightings = world.walk(SECOND, &sent, ROUTED);
        sightings.extend(world.walk(SECOND + MS, &icmp_error("10.244.1.1", &about, 11, 0), BACK_FROM_NODE_2));
        let out = world.correlate(sightings);
        assert_eq!(out.iter().map(|t| t.quotes).collect::<Vec<_>>(), [None, None]);
    }
}

#[test]
fn a_router_outside_is_followed_where_it_answers_about_a_followed_packet() {
    let world = two_nodes(false, "vxlan");
    let scope = FollowScope { a: [ip(CURL)].into(), b: Some([ip(HTTPBIN)].into()), ..FollowScope::default() };
    let config = CorrelatorConfig { scopes: vec![scope], ..CorrelatorConfig::default() };
    let (sent, back) = exceeded(&world, &udp((CURL, 5000), (HTTPBIN, 9), 40, 7, 1), ROUTED);
    let stranger = icmp_error("10.244.1.1", &udp((CURL, 5000), ("192.0.2.7", 9), 40, 7, 1), 11, 0);
    let foreign = world.walk(SECOND + MS, &stranger, BACK_FROM_NODE_2);
    let mut correlator = world.correlator(config);

    let out = run(&mut correlator, sent.into_iter().chain(back).chain(foreign).collect());

    assert_eq!(out.len(), 2);
    assert_eq!(correlator.counters().unrelated, 1);
}
