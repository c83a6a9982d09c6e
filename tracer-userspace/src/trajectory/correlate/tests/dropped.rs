//! Packets that the kernel says it threw away.

use std::sync::Arc;

use crate::trajectory::correlate::{Correlator, CorrelatorConfig};
use crate::trajectory::model::{DropSighting, Dropped, Sighting, Trajectory, Verdict};
use crate::trajectory::testing::{
    ACK, Book, CURL, HTTPBIN, MS, PSH, ROUTED, SECOND, SYN, World, cut, drop_at, gso, ping, tcp, two_nodes,
    two_nodes_with_one_clock, udp,
};

/// A correlator that knows that both kernels tell drops.
fn watching(world: &World) -> Correlator<Book> {
    let mut correlator = world.correlator(CorrelatorConfig::default());
    correlator.watch_drops(&Arc::from("n1"));
    correlator.watch_drops(&Arc::from("n2"));
    correlator.advance(SECOND, &mut |_| ());
    correlator
}

fn told(correlator: &mut Correlator<Book>, until_ns: u64) -> Vec<Trajectory> {
    let mut out = Vec::new();
    correlator.advance(SECOND + MS, &mut |t| out.push(t));
    correlator.advance(until_ns, &mut |t| out.push(t));
    out
}

fn push(correlator: &mut Correlator<Book>, sightings: &[Sighting], drops: &[DropSighting]) {
    sightings.iter().for_each(|sighting| correlator.push(sighting.clone()));
    drops.iter().for_each(|drop| correlator.push_drop(drop.clone()));
}

#[track_caller]
fn dropped(trajectory: &Trajectory) -> &Dropped {
    match &trajectory.verdict {
        Verdict::Dropped(dropped) => dropped,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_dropped_packet_is_told_after_the_settle_time_with_reason_place_and_advice() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = watching(&world);
    let packet = tcp((CURL, 40_000), (HTTPBIN, 80), 1, 0, SYN);
    let seen = world.walk(SECOND, &packet, &ROUTED[..2]);
    let drop = drop_at(&world, "n1", "NETFILTER_DROP", SECOND + 3_000, &packet);

    push(&mut correlator, &seen, &[drop]);
    let out = told(&mut correlator, SECOND + 30 * MS);

    let told = dropped(&out[0]);
    assert_eq!((out.len(), told.after, &*told.sighting.reason), (1, Some(1), "NETFILTER_DROP"));
    assert!(told.advice.contains("hook forward") && told.advice.contains("on n1"), "{}", told.advice);
    assert!(out[0].missing.iter().all(|hop| hop.reason == "not reached"), "{:?}", out[0].missing);
}

#[test]
fn a_drop_may_come_before_any_record_of_its_packet() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = watching(&world);
    let packet = ping(CURL, HTTPBIN, 1);
    let seen = world.walk(SECOND, &packet, &ROUTED[..6]);
    let drop = drop_at(&world, "n2", "IP_RPFILTER", SECOND + 7_000, &packet);

    push(&mut correlator, &[], &[drop]);
    correlator.advance(SECOND + 50 * MS, &mut |_| ());
    push(&mut correlator, &seen, &[]);
    let out = told(&mut correlator, SECOND + 500 * MS);

    assert_eq!((out.len(), dropped(&out[0]).after, out[0].hops.len()), (1, Some(5), 6));
}

#[test]
fn a_packet_that_has_entered_the_pod_and_finds_no_socket_is_dropped() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = watching(&world);
    let packet = tcp((CURL, 40_000), (HTTPBIN, 81), 1, 0, SYN);
    let seen = world.walk(SECOND, &packet, ROUTED);
    let drop = drop_at(&world, "n2/httpbin", "NO_SOCKET", SECOND + 9_000, &packet);

    push(&mut correlator, &seen, &[drop]);
    let out = told(&mut correlator, SECOND + 30 * MS);

    let told = dropped(&out[0]);
    assert_eq!(told.after, Some(ROUTED.len() - 1));
    assert!(told.advice.contains("nothing listens on TCP port 81 in pod default/httpbin"), "{}", told.advice);
}

#[test]
fn what_a_receiver_frees_after_use_does_not_make_its_packet_dropped() {
    let world = two_nodes_with_one_clock("vxlan");
    let data = tcp((CURL, 40_000), (HTTPBIN, 80), 1, 100, ACK | PSH);
    let mut reply = ping(CURL, HTTPBIN, 1);
    reply.icmp.as_mut().unwrap().kind = 0;
    for (packet, reason) in
        [(&data, "TCP_OLD_DATA"), (&data, "NOT_SPECIFIED"), (&data, "QUEUE_PURGE"), (&reply, "NO_SOCKET")]
    {
        let mut correlator = watching(&world);
        let drop = drop_at(&world, "n2/httpbin", reason, SECOND + 9_000, packet);

        push(&mut correlator, &world.walk(SECOND, packet, ROUTED), &[drop]);
        let out = told(&mut correlator, SECOND + 30 * MS);

        assert_eq!((out.len(), &out[0].verdict), (1, &Verdict::Delivered), "{reason}");
        let is_noted = out[0].notes.iter().any(|note| note.contains("TCP discarded"));
        assert_eq!(is_noted, reason.starts_with("TCP_"), "{:?}", out[0].notes);
    }
}

#[test]
fn a_drop_in_another_namespace_does_not_end_a_packet_that_arrived() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut correlator = watching(&world);
    let packet = ping(CURL, HTTPBIN, 1);
    let copy = drop_at(&world, "n2", "OTHERHOST", SECOND + 20_000, &packet);

    push(&mut correlator, &world.walk(SECOND, &packet, ROUTED), &[copy]);
    let out = told(&mut correlator, SECOND + 30 * MS);

    assert_eq!(out[0].verdict, Verdict::Delivered);
}

#[test]
fn of_two_packets_with_equal_content_the_one_that_went_on_is_not_dropped() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut correlator = watching(&world);
    let packet = udp((CURL, 5000), (HTTPBIN, 9000), 20, 0, 7);
    let mut seen = world.walk(SECOND, &packet, ROUTED);
    seen.extend(world.walk(SECOND + 100_000, &packet, &ROUTED[..2]));
    let drop = drop_at(&world, "n1", "NETFILTER_DROP", SECOND + 103_000, &packet);

    push(&mut correlator, &seen, &[drop]);
    let out = told(&mut correlator, SECOND + 400 * MS);

    assert_eq!(out.len(), 2);
    assert_eq!(out[0].verdict, Verdict::Delivered);
    assert_eq!(dropped(&out[1]).after, Some(1));
    assert!(out[1].ambiguous.is_none(), "{:?}", out[1].ambiguous);
}

#[test]
fn equal_packets_that_stand_at_the_same_point_are_ambiguous_if_one_is_dropped() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut correlator = watching(&world);
    let packet = udp((CURL, 5000), (HTTPBIN, 9000), 20, 0, 7);
    let mut seen = world.walk(SECOND, &packet, &ROUTED[..2]);
    seen.extend(world.walk(SECOND + 500, &packet, &ROUTED[..2]));
    let drop = drop_at(&world, "n1", "NETFILTER_DROP", SECOND + 9_000, &packet);

    push(&mut correlator, &seen, &[drop]);
    let out = told(&mut correlator, SECOND + 700 * MS);

    assert_eq!(out.iter().filter(|t| matches!(t.verdict, Verdict::Dropped(_))).count(), 1);
    assert!(out.iter().any(|t| t.ambiguous.is_some()), "{out:#?}");
}

#[test]
fn segments_that_are_dropped_behind_the_cut_drop_their_packet() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = watching(&world);
    let packet = gso(tcp((CURL, 40_000), (HTTPBIN, 80), 1, 3_000, ACK | PSH), 1_000);
    let mut seen = world.walk(SECOND, &packet, &ROUTED[..4]);
    let segments = cut(&packet, 1_000);
    seen.extend(
        segments.iter().take(2).flat_map(|segment| world.walk(SECOND + 4_000, segment, &ROUTED[4..])),
    );
    let drop = drop_at(&world, "n2", "CPU_BACKLOG", SECOND + 9_000, &segments[2]);

    push(&mut correlator, &seen, &[drop]);
    let out = told(&mut correlator, SECOND + 700 * MS);

    assert_eq!((out.len(), &*dropped(&out[0]).sighting.reason), (1, "CPU_BACKLOG"));
}

#[test]
fn a_packet_that_dies_before_the_first_hook_is_told_by_its_drop_alone() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = watching(&world);
    let packet = ping(CURL, HTTPBIN, 1);
    let here = drop_at(&world, "n1/curl", "NETFILTER_DROP", SECOND, &packet);

    push(&mut correlator, &[], &[here]);
    let out = told(&mut correlator, SECOND + 400 * MS);

    let told = dropped(&out[0]);
    assert_eq!((told.after, out[0].hops.len()), (None, 0));
    assert!(told.advice.contains("hook output"), "{}", told.advice);
    assert_eq!(out[0].beginning().unwrap().0.destination, packet.destination);
}

#[test]
fn a_drop_elsewhere_that_meets_no_packet_is_counted_and_not_told() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = watching(&world);
    let late = drop_at(&world, "n2/httpbin", "QUEUE_PURGE", SECOND, &ping(CURL, HTTPBIN, 1));

    push(&mut correlator, &[], &[late]);
    let out = told(&mut correlator, SECOND + 400 * MS);

    let counters = correlator.counters();
    assert_eq!((out.len(), counters.drops, counters.unmatched_drops), (0, 1, 1));
}

#[test]
fn drops_that_wait_are_bounded_and_counted() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = watching(&world);
    let drops = 20_000;

    for sequence in 0..drops {
        let packet = ping(CURL, HTTPBIN, sequence);
        correlator.push_drop(drop_at(&world, "n2", "NETFILTER_DROP", SECOND, &packet));
    }

    let counters = correlator.counters();
    assert_eq!((counters.drops, counters.unmatched_drops), (u64::from(drops), u64::from(drops) - 16_384));
}

#[test]
fn a_dropped_packet_waits_for_records_of_its_earlier_hops() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = watching(&world);
    let packet = ping(CURL, HTTPBIN, 1);
    let seen = world.walk(SECOND, &packet, &ROUTED[..6]);
    let drop = drop_at(&world, "n2", "NETFILTER_DROP", SECOND + 7_000, &packet);

    push(&mut correlator, &seen[4..], &[drop]);
    correlator.advance(SECOND + 100 * MS, &mut |t| panic!("told too early: {t:?}"));
    push(&mut correlator, &seen[..4], &[]);
    let out = told(&mut correlator, SECOND + 500 * MS);

    assert_eq!((out.len(), out[0].hops.len(), dropped(&out[0]).after), (1, 6, Some(5)));
}

#[test]
fn what_is_tidied_up_at_the_destination_ends_no_packet_whose_last_record_is_missing() {
    let world = two_nodes_with_one_clock("vxlan");
    let data = tcp((CURL, 40_000), (HTTPBIN, 80), 1, 100, ACK | PSH);
    for reason in ["QUEUE_PURGE", "NOT_SPECIFIED", "TCP_OLD_DATA"] {
        let mut correlator = watching(&world);
        let drop = drop_at(&world, "n2/httpbin", reason, SECOND + 9_000, &data);

        push(&mut correlator, &world.walk(SECOND, &data, &ROUTED[..6]), &[drop]);
        correlator.report_loss(&Arc::from("n2"), 1, SECOND);
        let out = told(&mut correlator, SECOND + 700 * MS);

        assert_eq!(out.len(), 1);
        assert!(matches!(out[0].verdict, Verdict::Unknown { .. }), "{reason}: {:?}", out[0].verdict);
    }
}

#[test]
fn a_copy_that_is_dropped_does_not_end_the_packet_that_went_on() {
    let world = two_nodes_with_one_clock("vxlan");
    let packet = ping(CURL, HTTPBIN, 1);
    for (place, reason) in [("n1", "PACKET_SOCK_ERROR"), ("n1/dns", "OTHERHOST")] {
        let mut correlator = watching(&world);
        let copy = drop_at(&world, place, reason, SECOND + 9_000, &packet);

        push(&mut correlator, &world.walk(SECOND, &packet, &ROUTED[..4]), &[copy]);
        let out = told(&mut correlator, SECOND + 700 * MS);

        assert_eq!(out.len(), 1);
        assert!(matches!(out[0].verdict, Verdict::Lost { .. }), "{reason}: {:?}", out[0].verdict);
    }
}

#[test]
fn two_drops_of_equal_packets_end_both() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut correlator = watching(&world);
    let packet = udp((CURL, 5000), (HTTPBIN, 9000), 20, 0, 7);
    let mut seen = world.walk(SECOND, &packet, ROUTED);
    seen.extend(world.walk(SECOND + 100, &packet, ROUTED));
    let drops = [50_000, 60_000]
        .map(|after| drop_at(&world, "n2/httpbin", "SOCKET_RCVBUFF", SECOND + after, &packet));

    push(&mut correlator, &seen, &drops);
    let out = told(&mut correlator, SECOND + 700 * MS);

    assert_eq!(out.len(), 2);
    for trajectory in &out {
        dropped(trajectory);
    }
}

#[test]
fn what_its_own_pod_drops_is_not_an_equal_packet_that_has_left() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut correlator = watching(&world);
    let packet = udp((CURL, 5000), (HTTPBIN, 9000), 20, 0, 7);
    let again = drop_at(&world, "n1/curl", "NETFILTER_DROP", SECOND + MS, &packet);

    push(&mut correlator, &world.walk(SECOND, &packet, &ROUTED[..4]), &[again]);
    let out = told(&mut correlator, SECOND + 700 * MS);

    let ends: Vec<_> = out.iter().map(|t| (t.hops.len(), matches!(t.verdict, Verdict::Dropped(_)))).collect();
    assert!(ends.contains(&(4, false)) && ends.contains(&(0, true)), "{ends:?}");
}

#[test]
fn a_pod_that_talks_to_itself_drops_nothing_by_tidying_up() {
    let world = two_nodes(false, "vxlan");
    let mut correlator = watching(&world);
    let packet = tcp((CURL, 40_000), (CURL, 80), 1, 100, ACK | PSH);

    push(&mut correlator, &[], &[drop_at(&world, "n1/curl", "TCP_OLD_DATA", SECOND, &packet)]);
    let out = told(&mut correlator, SECOND + 700 * MS);

    assert_eq!((out.len(), correlator.counters().unmatched_drops), (0, 1));
}
