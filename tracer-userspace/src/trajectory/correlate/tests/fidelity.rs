//! What `cargo xtask fidelity` has found, as small as it can be told.

use crate::trajectory::model::{Packet, Sighting, Verdict};
use crate::trajectory::testing::{
    ACK, CLUSTER_IP, CURL, HTTPBIN, ROUTED, SECOND, World, cut, gso, hooks, ip, stamp, tcp, two_nodes,
};

const FIN: u8 = 0x01;

/// The last acknowledgment of a connection and the FIN behind it. IPv6 gives them no identification, and within one
/// millisecond they have the same timestamps.
fn acknowledgment_and_fin() -> [Packet; 2] {
    [ACK, ACK | FIN].map(|flags| {
        let mut packet = tcp((CURL, 40000), (HTTPBIN, 80), 1000, 0, flags);
        packet.identification = 0;
        stamp(packet)
    })
}

fn walks(world: &World) -> [Vec<Sighting>; 2] {
    let [acknowledgment, fin] = acknowledgment_and_fin();
    [world.walk(SECOND, &acknowledgment, ROUTED), world.walk(SECOND + 100_000, &fin, ROUTED)]
}

// Found by curl over IPv6 with half of the records withheld: seed 1.
#[test]
fn a_fin_is_not_the_acknowledgment_before_it_whatever_is_missing() {
    let world = two_nodes(false, "vxlan");
    let [acknowledgment, fin] = walks(&world);
    let sightings = acknowledgment.into_iter().take(3).chain(fin.into_iter().skip(3)).collect();
    let told = world.correlate(sightings);
    assert_eq!(told.len(), 2, "{:?}", told.iter().map(hooks).collect::<Vec<_>>());
}

// Found by curl over IPv6 with records out of order: seed 1.
#[test]
fn a_fin_and_the_acknowledgment_before_it_are_told_apart_in_any_order() {
    let world = two_nodes(false, "vxlan");
    let mut sightings: Vec<_> = walks(&world).concat();
    sightings.reverse();
    let told = world.correlate(sightings);
    assert_eq!(told.len(), 2);
    for trajectory in told {
        assert_eq!(trajectory.verdict, Verdict::Delivered);
        assert_eq!(trajectory.ambiguous, None);
        let flags: Vec<_> = trajectory.hops.iter().map(|hop| hop.packet.tcp_flags).collect();
        assert!(flags.windows(2).all(|pair| pair[0] == pair[1]), "{flags:?}");
    }
}

// Found by many connections to a Service: seed 1. The client's node tells first, and there each piece of the answer is
// given the Service's address before the next one has come.
#[test]
fn pieces_that_are_rewritten_one_after_the_other_are_one_packet() {
    let world = two_nodes(false, "");
    let whole = gso(tcp((HTTPBIN, 8080), (CURL, 40000), 5000, 3100, ACK), 1398);
    let mut sightings = Vec::new();
    for (number, piece) in (0_u64..).zip(cut(&whole, 1398)) {
        let at = SECOND + number * 10_000;
        let mut rewritten = piece.clone();
        (rewritten.source, rewritten.ports) = (ip(CLUSTER_IP), Some((80, 40000)));
        sightings.push(world.see("n1/eth0<", at, &piece));
        sightings.push(world.see("n1/vethcurl>", at + 2_000, &rewritten));
        sightings.push(world.see("n1/curl:eth0<", at + 3_000, &rewritten));
    }
    for (number, hook) in (0_u64..).zip(["n2/httpbin:eth0>", "n2/vethhttp<", "n2/eth0>"]) {
        sightings.push(world.see(hook, SECOND - 50_000 + number * 1_000, &whole));
    }
    let told = world.correlate(sightings);
    assert_eq!(told.len(), 1, "{:?}", told.iter().map(hooks).collect::<Vec<_>>());
    assert_eq!(told[0].verdict, Verdict::Delivered);
    assert_eq!(told[0].hops.iter().map(|hop| hop.segments).collect::<Vec<_>>(), [1, 1, 1, 3, 3, 3]);
}

// Found by a bulk transfer over IPv6 with loss: seed 11. The receiver's node tells first: what arrives there can only be
// the piece, until the sender's node tells that it was sent again.
#[test]
fn a_lost_piece_that_is_sent_again_at_once_arrived_the_second_time() {
    let world = two_nodes(false, "");
    let unnumbered = |mut packet: Packet| {
        packet.identification = 0;
        stamp(packet)
    };
    let whole = unnumbered(gso(tcp((CURL, 40000), (HTTPBIN, 80), 1000, 4194, ACK), 1398));
    let pieces: Vec<_> = cut(&whole, 1398).into_iter().map(unnumbered).collect();
    let there = |packet: &Packet, at: u64| {
        let hooks = (0_u64..).zip(["n1/curl:eth0>", "n1/vethcurl<", "n1/eth0>"]);
        hooks.map(|(number, hook)| world.see(hook, at + number * 1_000, packet)).collect::<Vec<_>>()
    };
    let arrives = |packet: &Packet, at: u64| {
        let hooks = (0_u64..).zip(["n2/eth0<", "n2/vethhttp>", "n2/httpbin:eth0<"]);
        hooks.map(|(number, hook)| world.see(hook, at + number * 1_000, packet)).collect::<Vec<_>>()
    };
    let sightings = [
        there(&whole, SECOND),
        arrives(&pieces[0], SECOND + 50_000),
        arrives(&pieces[2], SECOND + 60_000),
        arrives(&pieces[1], SECOND + 400_000),
        there(&pieces[1], SECOND + 340_000),
    ];

    let told = world.correlate(sightings.concat());

    let [first, again] = &told[..] else { panic!("{:?}", told.iter().map(hooks).collect::<Vec<_>>()) };
    assert!(matches!(first.verdict, Verdict::Lost { .. }), "{:?}", first.verdict);
    assert_eq!(again.verdict, Verdict::Delivered);
    assert_eq!(again.retransmission_of, Some(first.id));
    assert!(first.ambiguous.is_some() && again.ambiguous.is_some(), "only their order tells which is which");
}
