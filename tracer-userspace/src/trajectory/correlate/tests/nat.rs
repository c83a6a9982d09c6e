//! Ends that change on the way, and ends that are no pods, with records in any order.

use crate::trajectory::model::{Packet, Sighting, Trajectory, Verdict};
use crate::trajectory::testing::{
    ACK, CLUSTER_IP, CURL, Change, HTTPBIN, NODE_1, NODE_2, SECOND, SYN, Step, World, hooks, tcp, two_nodes,
    udp,
};

const OUTSIDE: (&str, u16) = ("192.0.2.7", 50_000);
const NODE_PORT: (&str, u16) = (NODE_1, 30_080);
/// What the node makes of a client outside, so that the answer comes back through it.
const MASQUERADED: (&str, u16) = (NODE_1, 1024);

fn names(steps: &[Step<'_>]) -> Vec<String> {
    steps.iter().map(|(hook, _)| (*hook).to_owned()).collect()
}

/// Orders in which records of two streams can come; each stream keeps its own.
fn orders(sightings: &[Sighting]) -> Vec<Vec<Sighting>> {
    let of =
        |node: &'static str| sightings.iter().filter(move |sighting| &*sighting.point.node == node).cloned();
    let alternating = || {
        let (mut near, mut far) = (of("n1"), of("n2"));
        let mut out = Vec::new();
        loop {
            let pair = [far.next(), near.next()];
            if pair.iter().all(Option::is_none) {
                return out;
            }
            out.extend(pair.into_iter().flatten());
        }
    };
    vec![of("n1").chain(of("n2")).collect(), of("n2").chain(of("n1")).collect(), alternating()]
}

/// Joins a walk's records in each order, and shows that there is one trajectory with all steps in theirs.
fn assert_joined(world: &World, packet: &Packet, steps: &[Step<'_>]) -> Trajectory {
    let mut last = None;
    for sightings in orders(&world.walk(SECOND, packet, steps)) {
        let mut out = world.correlate(sightings);
        assert_eq!(out.iter().map(hooks).collect::<Vec<_>>(), [names(steps)]);
        let trajectory = out.remove(0);
        assert_eq!((&trajectory.verdict, trajectory.missing.len()), (&Verdict::Delivered, 0));
        assert_eq!(trajectory.ambiguous, None);
        last = Some(trajectory);
    }
    last.unwrap()
}

#[test]
fn a_node_port_reached_from_outside_is_joined_to_a_pod_of_another_node_both_ways() {
    let mut world = two_nodes(false, "vxlan");
    world.node_port(NODE_PORT, (HTTPBIN, 8080));
    assert_joined(
        &world,
        &tcp(OUTSIDE, NODE_PORT, 9, 0, SYN),
        &[
            ("n1/eth0<", &[]),
            (
                "n1/vxlan>",
                &[Change::Ttl, Change::To(HTTPBIN, 8080), Change::From(MASQUERADED.0, MASQUERADED.1)],
            ),
            ("n1/eth0>", &[Change::Encap(1, NODE_1, NODE_2)]),
            ("n2/eth0<", &[]),
            ("n2/vxlan<", &[Change::Decap]),
            ("n2/vethhttp>", &[Change::Ttl]),
            ("n2/httpbin:eth0<", &[]),
        ],
    );
    assert_joined(
        &world,
        &tcp((HTTPBIN, 8080), MASQUERADED, 77, 0, SYN | ACK),
        &[
            ("n2/httpbin:eth0>", &[]),
            ("n2/vethhttp<", &[]),
            ("n2/vxlan>", &[Change::Ttl]),
            ("n2/eth0>", &[Change::Encap(1, NODE_2, NODE_1)]),
            ("n1/eth0<", &[]),
            ("n1/vxlan<", &[Change::Decap]),
            (
                "n1/eth0>",
                &[Change::Ttl, Change::From(NODE_PORT.0, NODE_PORT.1), Change::To(OUTSIDE.0, OUTSIDE.1)],
            ),
        ],
    );
}

#[test]
fn the_answer_of_a_pod_to_itself_through_its_own_service_is_joined() {
    let mut world = two_nodes(false, "vxlan");
    world.service("self", ("10.96.0.20", 80), &[(CURL, 8080)]);
    let answer = assert_joined(
        &world,
        &tcp((CURL, 8080), MASQUERADED, 77, 0, SYN | ACK),
        &[
            ("n1/curl:eth0>", &[]),
            ("n1/vethcurl<", &[]),
            ("n1/vethcurl>", &[Change::Ttl, Change::From("10.96.0.20", 80), Change::To(CURL, 40_000)]),
            ("n1/curl:eth0<", &[]),
        ],
    );
    assert!(answer.notes.is_empty(), "{:?}", answer.notes);
}

#[test]
fn a_host_network_end_is_its_node_both_ways() {
    let world = two_nodes(false, "vxlan");
    assert_joined(
        &world,
        &tcp((NODE_1, 40_000), (HTTPBIN, 8080), 9, 0, SYN),
        &[
            ("n1/vxlan>", &[]),
            ("n1/eth0>", &[Change::Encap(1, NODE_1, NODE_2)]),
            ("n2/eth0<", &[]),
            ("n2/vxlan<", &[Change::Decap]),
            ("n2/vethhttp>", &[Change::Ttl]),
            ("n2/httpbin:eth0<", &[]),
        ],
    );
    assert_joined(
        &world,
        &tcp((HTTPBIN, 8080), (NODE_1, 40_000), 77, 0, SYN | ACK),
        &[
            ("n2/httpbin:eth0>", &[]),
            ("n2/vethhttp<", &[]),
            ("n2/vxlan>", &[Change::Ttl]),
            ("n2/eth0>", &[Change::Encap(1, NODE_2, NODE_1)]),
            ("n1/eth0<", &[]),
            ("n1/vxlan<", &[Change::Decap]),
        ],
    );
}

#[test]
fn each_end_is_rewritten_at_most_once_in_a_direction() {
    let world = two_nodes(false, "vxlan");
    // Back to the address that it had: two packets, however alike they are.
    let packet = tcp((CURL, 40_000), (CLUSTER_IP, 80), 9, 0, SYN);
    let out = world.correlate(world.walk(
        SECOND,
        &packet,
        &[
            ("n1/curl:eth0>", &[]),
            ("n1/vethcurl<", &[]),
            ("n1/vxlan>", &[Change::Ttl, Change::To(HTTPBIN, 8080)]),
            ("n1/eth0>", &[Change::To(CLUSTER_IP, 80)]),
        ],
    ));
    assert_eq!(out.iter().map(|t| t.hops.len()).collect::<Vec<_>>(), [3, 1]);
}

#[test]
fn nodes_on_the_way_between_strangers_are_in_the_order_of_falling_ttl() {
    let mut world = two_nodes(false, "");
    world.node("n3", "10.135.0.13", 5 * SECOND);
    world.nic("n3", "eth0");
    let steps: &[Step<'_>] = &[
        ("n2/eth0<", &[]),
        ("n2/eth0>", &[Change::Ttl]),
        ("n3/eth0<", &[]),
        ("n3/eth0>", &[Change::Ttl]),
        ("n1/eth0<", &[]),
        ("n1/eth0>", &[Change::Ttl]),
    ];
    let packet = udp(OUTSIDE, ("198.51.100.1", 53), 40, 9, 1);
    let forth = world.walk(SECOND, &packet, steps);
    let back: Vec<Sighting> = forth.iter().rev().cloned().collect();
    for sightings in [forth, back] {
        let out = world.correlate(sightings);
        assert_eq!(out.iter().map(hooks).collect::<Vec<_>>(), [names(steps)]);
    }
}
