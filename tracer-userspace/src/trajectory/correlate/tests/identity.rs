//! Which sightings are one packet.

use std::collections::HashMap;

use proptest::prelude::{ProptestConfig, any, proptest};
use proptest::{prop_assert, prop_assert_eq};

use crate::trajectory::correlate::{CROWDED, MAX_EQUAL};
use crate::trajectory::model::{Latency, NoEstimate, Packet, Sighting, Trajectory, Verdict};
use crate::trajectory::testing::{
    ACK, CLUSTER_IP, CURL, HTTPBIN, MS, NODE_1, ROUTED, ROUTED_SERVICE, SECOND, SYN, World, cut, gso, hooks,
    stamp, tcp, two_nodes, two_nodes_with_one_clock, udp,
};

/// The way of packets that stand for several at some hooks: per hook the packets seen there.
fn walk_cut(world: &World, start: u64, way: &[(&str, Vec<Packet>)]) -> Vec<Sighting> {
    let mut now = start;
    let mut out = Vec::new();
    for (hook, packets) in way {
        for packet in packets {
            now += 500;
            out.push(world.see(hook, now, packet));
        }
    }
    out
}

fn big() -> Packet {
    gso(tcp((CURL, 40000), (HTTPBIN, 80), 4_294_966_000, 5000, ACK), 1398)
}

fn cut_and_merged(world: &World) -> Vec<Sighting> {
    let whole = big();
    let pieces = cut(&whole, 1398);
    walk_cut(
        world,
        SECOND,
        &[
            ("n1/curl:eth0>", vec![whole.clone()]),
            ("n1/vethcurl<", vec![whole.clone()]),
            ("n1/eth0>", vec![whole.clone()]),
            ("n2/eth0<", pieces),
            ("n2/vethhttp>", vec![whole.clone()]),
            ("n2/httpbin:eth0<", vec![whole]),
        ],
    )
}

#[test]
fn a_packet_cut_on_the_wire_and_merged_again_is_one_trajectory() {
    let world = two_nodes(false, "");
    let out = world.correlate(cut_and_merged(&world));
    assert_eq!(out.len(), 1);
    let segments: Vec<u32> = out[0].hops.iter().map(|hop| hop.segments).collect();
    assert_eq!(segments, [1, 1, 1, 4, 1, 1]);
    assert_eq!(out[0].verdict, Verdict::Delivered);
    assert_eq!(out[0].retransmission_of, None);
}

#[test]
fn the_pieces_may_come_before_the_packet_they_were_cut_from() {
    let world = two_nodes(false, "");
    for rotation in [3, 4, 5, 7, 8] {
        let mut sightings = cut_and_merged(&world);
        sightings.rotate_left(rotation);
        let out = world.correlate(sightings);
        assert_eq!(out.len(), 1, "rotated by {rotation}");
        assert_eq!(out[0].hops.len(), 6);
        assert_eq!(out[0].hops[3].segments, 4);
        assert_eq!(out[0].verdict, Verdict::Delivered);
    }
    let mut sightings = cut_and_merged(&world);
    sightings.reverse();
    let out = world.correlate(sightings);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].verdict, Verdict::Delivered);
}

#[test]
fn a_piece_that_never_arrives_is_a_loss_of_that_packet() {
    let world = two_nodes(false, "");
    let mut sightings = cut_and_merged(&world);
    sightings.truncate(3);
    let pieces = cut(&big(), 1398);
    sightings.extend(walk_cut(
        &world,
        SECOND + 9000,
        &[
            ("n2/eth0<", pieces[..3].to_vec()),
            ("n2/vethhttp>", pieces[..3].to_vec()),
            ("n2/httpbin:eth0<", pieces[..3].to_vec()),
        ],
    ));
    let out = world.correlate(sightings);
    assert_eq!(out.len(), 1);
    assert_eq!(
        out[0].verdict,
        Verdict::Lost {
            after: world.at("n1/eth0>").id,
            expected: "all of its bytes at httpbin:eth0 ingress in pod default/httpbin".to_owned()
        }
    );
}

/// Two packets of the sender, which the receiver's NIC merged into one.
fn two_merged() -> (Packet, Packet, Packet) {
    let first = tcp((CURL, 40000), (HTTPBIN, 80), 1398, 1398, ACK);
    let second = tcp((CURL, 40000), (HTTPBIN, 80), 2796, 1398, ACK);
    let mut merged = first.clone();
    merged.payload_length = 2796;
    (first, second, gso(merged, 1398))
}

#[test]
fn a_merged_packet_is_a_hop_of_each_packet_in_it() {
    let world = two_nodes(false, "");
    let (first, second, merged) = two_merged();
    let way = |packet: &Packet| {
        ["n1/curl:eth0>", "n1/vethcurl<", "n1/eth0>"].map(|hook| (hook, vec![packet.clone()])).to_vec()
    };
    let sent_first = walk_cut(&world, SECOND, &way(&first));
    let sent_second = walk_cut(&world, SECOND + 700, &way(&second));
    let received = walk_cut(
        &world,
        SECOND + 9000,
        &["n2/eth0<", "n2/vethhttp>", "n2/httpbin:eth0<"].map(|hook| (hook, vec![merged.clone()])),
    );
    let orders = [
        [&sent_first, &sent_second, &received],
        [&received, &sent_first, &sent_second],
        [&received, &sent_second, &sent_first],
        [&sent_first, &received, &sent_second],
    ];
    for order in orders {
        let out = world.correlate(order.into_iter().flatten().cloned().collect());
        assert_eq!(out.len(), 2);
        let mut starts: Vec<u32> = out.iter().map(|t| t.hops[0].packet.sequence).collect();
        starts.sort_unstable();
        assert_eq!(starts, [1398, 2796]);
        for trajectory in &out {
            assert_eq!(hooks(trajectory).len(), 6);
            assert_eq!(trajectory.verdict, Verdict::Delivered);
            assert_eq!(trajectory.notes, ["merged with other packets at eth0 ingress on n2"]);
        }
    }
}

#[test]
fn the_end_of_a_merge_in_the_middle_of_a_packet_belongs_to_that_packet() {
    let world = two_nodes(false, "");
    let first = gso(tcp((CURL, 40000), (HTTPBIN, 80), 0, 2796, ACK), 1398);
    let second = gso(tcp((CURL, 40000), (HTTPBIN, 80), 2796, 2796, ACK), 1398);
    let pieces: Vec<Packet> = cut(&first, 1398).into_iter().chain(cut(&second, 1398)).collect();
    let mut merged = pieces[0].clone();
    merged.payload_length = 3 * 1398;
    let merged = gso(merged, 1398);
    let mut sightings = Vec::new();
    for (i, hook) in ["n1/curl:eth0>", "n1/vethcurl<", "n1/eth0>"].into_iter().enumerate() {
        let at = SECOND + 10_000 * i as u64;
        sightings.extend(walk_cut(&world, at, &[(hook, vec![first.clone(), second.clone()])]));
    }
    let tail = pieces[3].clone();
    for (i, hook) in ["n2/eth0<", "n2/vethhttp>", "n2/httpbin:eth0<"].into_iter().enumerate() {
        let at = SECOND + 100_000 + 10_000 * i as u64;
        sightings.extend(walk_cut(&world, at, &[(hook, vec![merged.clone(), tail.clone()])]));
    }
    let out = world.correlate(sightings);
    assert_eq!(out.len(), 2);
    assert_eq!(out[0].hops.iter().map(|hop| hop.segments).collect::<Vec<_>>(), [1, 1, 1, 1, 1, 1]);
    assert_eq!(out[1].hops.iter().map(|hop| hop.segments).collect::<Vec<_>>(), [1, 1, 1, 2, 2, 2]);
    assert!(out.iter().all(|t| t.verdict == Verdict::Delivered));
}

#[test]
fn a_retransmission_is_a_trajectory_of_its_own_and_names_the_first() {
    let world = two_nodes(false, "vxlan");
    let original = tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK);
    let mut again = original.clone();
    again.tcp_timestamps = Some((100_204, 200_000));
    again.identification += 1;
    let again = stamp(again);
    let mut sightings = world.walk(SECOND, &original, &ROUTED[..4]);
    sightings.extend(world.walk(SECOND + 204 * MS, &again, ROUTED));

    let out = world.correlate(sightings);

    assert_eq!(out.len(), 2);
    assert!(matches!(out[0].verdict, Verdict::Lost { .. }));
    assert_eq!(out[1].retransmission_of, Some(1));
    assert_eq!(out[1].verdict, Verdict::Delivered);
}

#[test]
fn ipv4_ids_tell_a_retransmission_without_timestamps() {
    let world = two_nodes(false, "vxlan");
    let mut original = tcp((CURL, 40000), (HTTPBIN, 80), 1000, 2000, ACK);
    original.tcp_timestamps = None;
    let original = gso(original, 1398);
    let mut again = original.clone();
    again.identification += 2;
    let again = stamp(again);
    let mut sightings = world.walk(SECOND, &original, &ROUTED[..2]);
    sightings.extend(world.walk(SECOND + 20, &again, ROUTED));

    let out = world.correlate(sightings);

    assert_eq!(out.iter().map(|t| t.hops.len()).collect::<Vec<_>>(), [2, 8]);
    assert_eq!(out[1].retransmission_of, Some(1));
}

#[test]
fn a_repeated_syn_is_a_retransmission() {
    let world = two_nodes(false, "vxlan");
    let original = tcp((CURL, 40000), (CLUSTER_IP, 80), 1000, 0, SYN);
    let mut again = original.clone();
    again.tcp_timestamps = Some((101_000, 0));
    let again = stamp(again);
    let mut sightings = world.walk(SECOND, &original, ROUTED_SERVICE);
    sightings.extend(world.walk(2 * SECOND, &again, ROUTED_SERVICE));
    let out = world.correlate(sightings);
    assert_eq!((out[0].retransmission_of, out[1].retransmission_of), (None, Some(1)));
}

#[test]
fn equal_datagrams_pair_first_come_first_served() {
    let world = two_nodes(false, "vxlan");
    let datagram = udp((CURL, 5000), (HTTPBIN, 53), 40, 0, 1);
    let mut walks: Vec<Vec<Sighting>> =
        (0..5).map(|i| world.walk(SECOND + i * 300, &datagram, ROUTED)).collect();
    let mut sightings: Vec<Sighting> = walks.iter().flatten().cloned().collect();
    sightings.sort_by_key(|s| (s.point.clock.0, s.time_ns));

    let out = world.correlate(sightings);

    assert_eq!(out.len(), 5);
    for trajectory in out {
        // They were on the wire together, which may change their order.
        assert!(trajectory.ambiguous.as_ref().is_some_and(|why| why.contains("only their order tells")));
        assert_eq!(trajectory.verdict, Verdict::Delivered);
        let start = trajectory.hops[0].time_ns;
        let walk = walks.iter().position(|walk| walk[0].time_ns == start).unwrap();
        let times: Vec<u64> = walks.swap_remove(walk).iter().map(|s| s.time_ns).collect();
        assert_eq!(trajectory.hops.iter().map(|hop| hop.time_ns).collect::<Vec<_>>(), times);
    }
}

#[test]
fn equal_datagrams_that_are_never_between_nodes_together_are_certain() {
    let world = two_nodes_with_one_clock("vxlan");
    let datagram = udp((CURL, 5000), (HTTPBIN, 53), 40, 0, 1);
    let sightings = (0..5).flat_map(|i| world.walk(SECOND + i * 100_000, &datagram, ROUTED)).collect();
    let out = world.correlate(sightings);
    assert_eq!(out.iter().map(|t| (t.hops.len(), t.ambiguous.is_none())).collect::<Vec<_>>(), [(8, true); 5]);
}

#[test]
fn a_datagram_whose_stream_is_behind_is_not_taken_for_an_equal_one_that_was_lost() {
    let world = two_nodes(false, "vxlan");
    let datagram = udp((CURL, 5000), (HTTPBIN, 53), 40, 0, 1);
    // The first is lost on the wire. The second node tells of the other before the first node does.
    let lost = world.walk(SECOND, &datagram, &ROUTED[..4]);
    let arrived = world.walk(SECOND + 50_000, &datagram, ROUTED);
    let sightings = lost.iter().chain(&arrived[4..]).chain(&arrived[..4]).cloned().collect();

    let out = world.correlate(sightings);

    assert_eq!(out.len(), 2);
    assert!(out.iter().all(|trajectory| trajectory.ambiguous.is_some()));
}

#[test]
fn equal_datagrams_with_a_missing_record_are_called_ambiguous() {
    let world = two_nodes(false, "vxlan");
    let datagram = udp((CURL, 5000), (HTTPBIN, 53), 40, 0, 1);
    let mut sightings: Vec<Sighting> =
        (0..2).flat_map(|i| world.walk(SECOND + i * 300, &datagram, ROUTED)).collect();
    sightings.sort_by_key(|s| (s.point.clock.0, s.time_ns));
    let lost = sightings.iter().position(|s| s.point == world.at("n2/vxlan<")).unwrap();
    sightings.remove(lost);

    let out = world.correlate(sightings);

    assert_eq!(out.len(), 2);
    for trajectory in out {
        assert!(trajectory.ambiguous.is_some(), "{:?} {:?}", hooks(&trajectory), trajectory.missing);
    }
}

#[test]
fn a_piece_whose_record_is_missing_at_one_hop_changes_neither_order_nor_time() {
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
        sightings.push(world.see(hook, at + 50_000, &pieces[1]));
    }
    // At the second of these hops the first piece's record is missing.
    sightings.remove(5);

    let out = world.correlate(sightings);

    let hooks = hooks(&out[0]);
    assert_eq!(hooks[3..], ["n2/eth0<", "n2/vethhttp>", "n2/httpbin:eth0<"]);
    assert_eq!(out[0].legs[4].latency, Latency::Unknown(NoEstimate::RecordsMissing));
}

#[test]
fn of_more_equal_datagrams_than_are_kept_apart_none_is_called_lost() {
    let world = two_nodes(false, "vxlan");
    let datagram = udp((CURL, 5000), (HTTPBIN, 53), 40, 0, 1);
    let surplus = 20;
    let count = MAX_EQUAL as u64 + surplus;
    let walks: Vec<Vec<Sighting>> =
        (0..count).map(|i| world.walk(SECOND + i * 300, &datagram, ROUTED)).collect();
    // The first node tells of all before the second tells of one.
    let halves = [0..4, 4..8].map(|hops| walks.iter().flat_map(move |walk| walk[hops.clone()].to_vec()));
    let sightings = halves.into_iter().flatten().collect();

    let out = world.correlate(sightings);

    assert!(out.iter().all(|told| !matches!(told.verdict, Verdict::Lost { .. })));
    let delivered = out.iter().filter(|told| told.verdict == Verdict::Delivered).count() as u64;
    assert!((count - surplus..=count).contains(&delivered), "{delivered} of {count}");
    let crowded = |told: &&Trajectory| matches!(&told.verdict, Verdict::Unknown { reason } if reason.starts_with(CROWDED));
    assert!(out.iter().filter(crowded).count() as u64 >= surplus);
}

#[test]
fn equal_datagrams_of_two_pods_are_never_mixed_up() {
    let world = two_nodes(false, "vxlan");
    let mut sightings = Vec::new();
    let one = udp((CURL, 5000), (HTTPBIN, 53), 40, 0, 1);
    let two = udp(("10.244.0.20", 5000), (HTTPBIN, 53), 40, 0, 1);
    let mut way = ROUTED.to_vec();
    way[0].0 = "n1/dns:eth0>";
    way[1].0 = "n1/vethdns<";
    sightings.extend(world.walk(SECOND, &one, &ROUTED[..2]));
    sightings.extend(world.walk(SECOND + 100, &two, &way));
    let out = world.correlate(sightings);
    let mut hops: Vec<usize> = out.iter().map(|t| t.hops.len()).collect();
    hops.sort_unstable();
    assert_eq!(hops, [2, 8]);
    assert!(out.iter().all(|t| t.ambiguous.is_none()));
}

#[test]
fn a_packet_seen_twice_at_one_point_is_two_packets() {
    let world = two_nodes(false, "vxlan");
    let packet = tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK);
    let mut sightings = world.walk(SECOND, &packet, ROUTED);
    sightings.extend(world.walk(SECOND + 30_000, &packet, &ROUTED[4..]));
    let out = world.correlate(sightings);
    assert_eq!(out.iter().map(|t| t.hops.len()).collect::<Vec<_>>(), [8, 4]);
}

#[test]
fn datagrams_cut_from_one_udp_packet_are_one_trajectory_in_any_order() {
    let world = two_nodes(false, "");
    let whole = gso(udp((CURL, 443), (HTTPBIN, 443), 3000, 40, 1), 1200);
    let pieces = cut(&whole, 1200);
    let sightings = walk_cut(
        &world,
        SECOND,
        &[
            ("n1/curl:eth0>", vec![whole.clone()]),
            ("n1/vethcurl<", vec![whole.clone()]),
            ("n1/eth0>", vec![whole]),
            ("n2/eth0<", pieces.clone()),
            ("n2/vethhttp>", pieces.clone()),
            ("n2/httpbin:eth0<", pieces),
        ],
    );
    for rotation in [0, 3] {
        let mut sightings = sightings.clone();
        sightings.rotate_left(rotation);
        let out = world.correlate(sightings);
        assert_eq!(out.len(), 1, "rotated by {rotation}: {:?}", out.iter().map(hooks).collect::<Vec<_>>());
        assert_eq!(out[0].hops.iter().map(|hop| hop.segments).collect::<Vec<_>>(), [1, 1, 1, 3, 3, 3]);
        assert_eq!(out[0].verdict, Verdict::Delivered);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is withheld and however it is shuffled, sightings of different packets never meet in one
    /// trajectory, nothing is invented, and no packet is called delivered that was not.
    #[test]
    fn records_withheld_at_random_never_cause_a_wrong_join(
        seed in any::<u64>(),
        withheld in 0u64..60,
        lost_wire in 0u64..30,
        late in any::<bool>(),
        timestamps in any::<bool>(),
    ) {
        let world = two_nodes(false, "vxlan");
        let mut random = seed | 1;
        let mut next = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) % below
        };
        // Every packet has its own content; the label is what tells the truth.
        let mut sightings = Vec::new();
        let mut truth: HashMap<(u32, u64), Vec<u32>> = HashMap::new();
        let mut delivered = HashMap::new();
        let mut merged = HashMap::new();
        let mut sequence = 1000u32;
        for label in 0..60u32 {
            let kind = next(5);
            let mut packet = match kind {
                0 => udp((CURL, 5000), (HTTPBIN, 53), 40, 0, label),
                1 => tcp((CURL, 40000 + (label % 3) as u16), (CLUSTER_IP, 80), sequence, 0, ACK),
                _ => tcp((CURL, 40000), (HTTPBIN, 80), sequence, 1398, ACK),
            };
            if !timestamps {
                packet.tcp_timestamps = None;
                packet = stamp(packet);
            }
            sequence = sequence.wrapping_add(1398);
            let whole = kind == 4;
            if whole {
                packet.payload_length = 3 * 1398;
                packet = gso(packet, 1398);
                sequence = sequence.wrapping_add(2 * 1398);
            }
            let way = if packet.destination.to_string() == CLUSTER_IP { ROUTED_SERVICE } else { ROUTED };
            let start = SECOND + u64::from(label) * 1_700 + next(900);
            let stop = if next(100) < lost_wire { 4 } else { 8 };
            delivered.insert(label, stop == 8);
            merged.insert(label, whole);
            for (i, sighting) in world.walk(start, &packet, way).into_iter().take(stop).enumerate() {
                let pieces = if whole && (4..6).contains(&i) { cut(&sighting.packet, 1398) } else { vec![sighting.packet.clone()] };
                for (n, piece) in pieces.into_iter().enumerate() {
                    let mut sighting = sighting.clone();
                    sighting.packet = piece;
                    sighting.time_ns += n as u64;
                    if next(100) >= withheld {
                        truth.entry((sighting.point.id.0, sighting.time_ns)).or_default().push(label);
                        sightings.push(sighting);
                    }
                }
            }
        }
        if late {
            for i in (1..sightings.len()).rev() {
                sightings.swap(i, next(i as u64 + 1) as usize);
            }
        } else {
            sightings.sort_by_key(|s| (s.point.clock.0, s.time_ns));
        }
        let total = sightings.len() as u64;

        let mut correlator = world.correlator(Default::default());
        if withheld > 0 {
            correlator.report_loss(&"n1".into(), 1, SECOND);
            correlator.report_loss(&"n2".into(), 1, SECOND);
        }
        let out = crate::trajectory::testing::run(&mut correlator, sightings);

        let mut shown = 0;
        let mut once = std::collections::HashSet::new();
        for trajectory in &out {
            let mut labels: Option<Vec<u32>> = None;
            for hop in &trajectory.hops {
                shown += u64::from(hop.segments);
                let here = &truth[&(hop.point.id.0, hop.time_ns)];
                let first = once.insert((hop.point.id.0, hop.time_ns));
                prop_assert!(first || here.iter().any(|label| merged[label]), "in two trajectories");
                labels = Some(match labels {
                    None => here.clone(),
                    Some(labels) => labels.into_iter().filter(|label| here.contains(label)).collect(),
                });
            }
            let labels = labels.unwrap_or_default();
            prop_assert!(!labels.is_empty(), "different packets in one trajectory: {:?}", hooks(trajectory));
            if matches!(trajectory.verdict, Verdict::Lost { .. }) {
                prop_assert!(withheld == 0 && labels.iter().all(|label| !delivered[label]));
            }
            if trajectory.verdict == Verdict::Delivered {
                prop_assert!(labels.iter().any(|label| delivered[label]));
            }
        }
        prop_assert!(shown >= total, "each record stands in a trajectory");
        prop_assert_eq!(correlator.counters().open, 0);
        if withheld == 0 {
            prop_assert_eq!(out.len(), 60);
            for trajectory in &out {
                let certain = !matches!(trajectory.verdict, Verdict::Unknown { .. });
                prop_assert!(certain, "{:?}", trajectory.verdict);
            }
        }
    }
}

#[test]
fn node_addresses_do_not_hide_a_second_rewrite() {
    let world = two_nodes(false, "vxlan");
    let datagram = udp((CURL, 5000), (HTTPBIN, 53), 40, 0, 1);
    let mut other = datagram.clone();
    other.source = NODE_1.parse().unwrap();
    let mut third = datagram.clone();
    third.source = "10.135.0.12".parse().unwrap();
    let out = world.correlate(vec![
        world.see("n1/vethcurl<", SECOND, &datagram),
        world.see("n1/eth0>", SECOND + 1000, &other),
        world.see("n2/eth0<", SECOND + 2000, &third),
    ]);
    assert_eq!(out.iter().map(|t| t.hops.len()).collect::<Vec<_>>(), [2, 1]);
}
