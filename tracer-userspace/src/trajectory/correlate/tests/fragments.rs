//! Fragments, and the datagrams that they are put together to.

use crate::trajectory::model::{Packet, Sighting, Verdict};
use crate::trajectory::testing::{
    CURL, HTTPBIN, SECOND, World, fragments, hooks, ping, stamp, two_nodes, udp,
};

fn datagram() -> Packet {
    udp((CURL, 5000), (HTTPBIN, 53), 3000, 77, 1)
}

/// What is seen at each of the hooks, in the order in which packets pass them.
fn seen(world: &World, start_ns: u64, way: &[(&str, &[Packet])]) -> Vec<Sighting> {
    let packets = way.iter().flat_map(|(hook, packets)| packets.iter().map(move |packet| (hook, packet)));
    packets.zip(0u64..).map(|((hook, packet), n)| world.see(hook, start_ns + 1000 * n, packet)).collect()
}

/// A pod sends fragments; the bridges put them together for as long as they have them.
fn over_bridges(world: &World, pieces: &[Packet], whole: &Packet) -> Vec<Sighting> {
    let whole = std::slice::from_ref(whole);
    seen(
        world,
        SECOND,
        &[
            ("n1/curl:eth0>", pieces),
            ("n1/vethcurl<", pieces),
            ("n1/cni0<", whole),
            ("n1/eth0>", pieces),
            ("n2/eth0<", pieces),
            ("n2/cni0>", whole),
            ("n2/vethhttp>", pieces),
            ("n2/httpbin:eth0<", pieces),
        ],
    )
}

#[test]
fn a_datagram_put_together_at_a_bridge_is_a_hop_of_each_of_its_fragments() {
    let world = two_nodes(true, "");
    let mut echo = ping(CURL, HTTPBIN, 3);
    echo.payload_length = 3000;
    for whole in [datagram(), stamp(echo)] {
        let out = world.correlate(over_bridges(&world, &fragments(&whole, 1480), &whole));

        assert_eq!(out.len(), 3);
        for (trajectory, offset) in out.iter().zip([0, 1480, 2960]) {
            assert_eq!(trajectory.hops[0].packet.fragment.map(|fragment| fragment.0), Some(offset));
            assert_eq!(hooks(trajectory).len(), 8, "{:?}", hooks(trajectory));
            assert_eq!(trajectory.verdict, Verdict::Delivered);
            assert_eq!(trajectory.notes, ["merged with other packets at cni0 ingress on n1"]);
        }
    }
}

#[test]
fn a_datagram_cut_on_its_way_is_one_trajectory() {
    let world = two_nodes(false, "");
    let whole = datagram();
    let pieces = fragments(&whole, 1480);
    let one = std::slice::from_ref(&whole);
    let sightings = seen(
        &world,
        SECOND,
        &[
            ("n1/curl:eth0>", one),
            ("n1/vethcurl<", one),
            ("n1/eth0>", &pieces),
            ("n2/eth0<", &pieces),
            ("n2/vethhttp>", &pieces),
            ("n2/httpbin:eth0<", &pieces),
        ],
    );

    let out = world.correlate(sightings);

    assert_eq!(out.len(), 1);
    assert_eq!(out[0].hops.iter().map(|hop| hop.segments).collect::<Vec<_>>(), [1, 1, 3, 3, 3, 3]);
    assert_eq!((&out[0].verdict, out[0].notes.len()), (&Verdict::Delivered, 0));
}

#[test]
fn the_loss_of_one_fragment_is_the_loss_of_a_datagram_that_was_cut() {
    let world = two_nodes(false, "");
    let whole = datagram();
    let pieces = fragments(&whole, 1480);
    let one = std::slice::from_ref(&whole);
    let sightings = seen(
        &world,
        SECOND,
        &[
            ("n1/curl:eth0>", one),
            ("n1/vethcurl<", one),
            ("n1/eth0>", &pieces),
            ("n2/eth0<", &pieces[..2]),
            ("n2/vethhttp>", &pieces[..2]),
            ("n2/httpbin:eth0<", &pieces[..2]),
        ],
    );
    let out = world.correlate(sightings);
    assert_eq!(out.len(), 1);
    assert!(matches!(out[0].verdict, Verdict::Lost { .. }), "{:?}", out[0].verdict);
}

#[test]
fn a_fragment_that_is_lost_has_a_verdict_of_its_own() {
    let world = two_nodes(true, "");
    let pieces = fragments(&datagram(), 1480);
    let lost = pieces[1].fingerprint;
    let mut sightings = over_bridges(&world, &pieces, &datagram());
    // Lost on the wire: the second node has nothing to put together.
    sightings.retain(|sighting| {
        let is_far = &*sighting.point.node == "n2";
        !(is_far && (sighting.packet.fingerprint == lost || &*sighting.point.device != "eth0"))
    });
    let out = world.correlate(sightings);
    let lost_after: Vec<_> = out
        .iter()
        .map(|t| match &t.verdict {
            Verdict::Lost { after, .. } => *after,
            other => panic!("{other:?}"),
        })
        .collect();
    let (near, far) = (world.at("n1/eth0>").id, world.at("n2/eth0<").id);
    assert_eq!(lost_after, [far, near, far]);
}

#[test]
fn fragments_of_two_datagrams_are_kept_apart_by_their_identification() {
    let world = two_nodes(true, "");
    let one = datagram();
    let mut two = datagram();
    two.identification += 1;
    let two = stamp(two);
    let mut sightings = over_bridges(&world, &fragments(&one, 1480), &one);
    sightings.extend(over_bridges(&world, &fragments(&two, 1480), &two));
    sightings.sort_by_key(|sighting| (sighting.point.clock, sighting.time_ns, sighting.point.id));

    let out = world.correlate(sightings);

    assert_eq!(out.len(), 6);
    for trajectory in out {
        let id = trajectory.hops[0].packet.identification;
        assert!(trajectory.hops.iter().all(|hop| hop.packet.identification == id));
        assert_eq!((trajectory.hops.len(), trajectory.ambiguous), (8, None));
    }
}
