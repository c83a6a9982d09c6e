use crate::trajectory::exchange::testing::{ROUTED_BACK, exchanges, of_trajectories, roles};
use crate::trajectory::exchange::{Ending, Kind, Outcome};
use crate::trajectory::model::{Packet, Sighting};
use crate::trajectory::testing::{
    CLUSTER_IP, CURL, HTTPBIN, MS, ROUTED, ROUTED_SERVICE, SECOND, World, ping, stamp, two_nodes, udp,
};

/// A DNS message from or to curl.
fn dns(from: (&str, u16), to: (&str, u16), id: u16, number: u32) -> Packet {
    let mut packet = udp(from, to, 40, number, number);
    packet.sequence = id.into();
    stamp(packet)
}

fn query(world: &World, at_ns: u64, id: u16, number: u32, hops: usize) -> Vec<Sighting> {
    world.walk(SECOND + at_ns, &dns((CURL, 40_000), (CLUSTER_IP, 53), id, number), &ROUTED_SERVICE[..hops])
}

fn answer(world: &World, at_ns: u64, id: u16, number: u32) -> Vec<Sighting> {
    world.walk(SECOND + at_ns, &dns((HTTPBIN, 8080), (CURL, 40_000), id, number), ROUTED_BACK)
}

#[test]
fn dns_answers_find_their_queries_by_id_in_any_order() {
    // Both from one port, as resolvers ask for A and AAAA.
    let mut world = two_nodes(false, "vxlan");
    world.service("dns", ("10.96.0.53", 53), &[(HTTPBIN, 53)]);
    let there = |id, number, at_ns| {
        world.walk(SECOND + at_ns, &dns((CURL, 40_000), (HTTPBIN, 53), id, number), ROUTED)
    };
    let back = |id, number, at_ns| {
        let steps: Vec<_> = ROUTED_BACK.iter().map(|(hook, _)| (*hook, &[][..])).collect();
        world.walk(SECOND + at_ns, &dns((HTTPBIN, 53), (CURL, 40_000), id, number), &steps)
    };
    let seen = [there(7, 1, 0), there(8, 2, MS), back(8, 3, 5 * MS), back(7, 4, 9 * MS)].concat();

    let told = exchanges(&world, seen);

    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|exchange| exchange.kind == Kind::Dns && exchange.outcome == Outcome::Answered));
    assert!(told.iter().all(|exchange| exchange.ending == Some(Ending::Complete)));
    let mut totals: Vec<_> = told.iter().map(|exchange| exchange.times.as_ref().unwrap().total_ns).collect();
    totals.sort_unstable();
    assert_eq!(totals, [4 * MS + 7_000, 9 * MS + 7_000]);
}

#[test]
fn a_query_that_is_asked_again_is_of_the_same_exchange() {
    let mut world = two_nodes(false, "vxlan");
    world.service("web", (CLUSTER_IP, 53), &[(HTTPBIN, 8080)]);
    let seen = [query(&world, 0, 7, 1, 4), query(&world, 300 * MS, 7, 2, 8), answer(&world, 305 * MS, 7, 3)]
        .concat();
    // The endpoint's port is not DNS', so its answers have no ID: they go by ports.
    let told = exchanges(&world, seen);
    let asked = told.iter().find(|exchange| exchange.kind == Kind::Dns).unwrap();
    assert_eq!(roles(asked)[..2], [">request", ">retransmission"]);
}

#[test]
fn echo_replies_find_their_requests_by_identifier_and_sequence_number() {
    let world = two_nodes(false, "vxlan");
    let mut seen = Vec::new();
    for number in 0..3u32 {
        let at_ns = u64::from(number) * 10 * MS;
        seen.extend(world.walk(SECOND + at_ns, &ping(CURL, HTTPBIN, number), ROUTED));
        if number != 1 {
            let mut reply = ping(HTTPBIN, CURL, number);
            reply.icmp = reply.icmp.map(|icmp| crate::trajectory::model::IcmpHeader { kind: 0, ..icmp });
            let steps: Vec<_> = ROUTED_BACK.iter().map(|(hook, _)| (*hook, &[][..])).collect();
            seen.extend(world.walk(SECOND + at_ns + MS, &stamp(reply), &steps));
        }
    }
    let told = exchanges(&world, seen);
    let outcomes: Vec<_> = told.iter().map(|exchange| exchange.outcome).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Answered).count(), 2);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Unanswered).count(), 1);
    assert!(told.iter().all(|exchange| exchange.kind == Kind::Echo));
}

#[test]
fn a_datagram_is_answered_by_the_next_one_the_other_way() {
    let world = two_nodes(false, "vxlan");
    let ask = |at_ns, number| {
        world.walk(
            SECOND + at_ns,
            &udp((CURL, 40_000), (CLUSTER_IP, 80), 100, number, number),
            ROUTED_SERVICE,
        )
    };
    let tell = |at_ns, number| {
        world.walk(SECOND + at_ns, &udp((HTTPBIN, 8080), (CURL, 40_000), 200, number, number), ROUTED_BACK)
    };
    let told = exchanges(&world, [ask(0, 1), tell(3 * MS, 2), tell(4 * MS, 3), ask(9 * MS, 4)].concat());
    assert_eq!(
        told.iter().map(roles).collect::<Vec<_>>(),
        [vec![">request", "<answer", "<answer"], vec![">request"]]
    );
    assert_eq!(told[0].times.as_ref().unwrap().total_ns, 3 * MS + 7_000);
    assert_eq!(told[1].outcome, Outcome::Unanswered);
}

#[test]
fn later_fragments_are_of_the_exchange_of_their_first_and_icmp_errors_of_none() {
    let world = two_nodes(false, "vxlan");
    let mut first = ping(CURL, HTTPBIN, 1);
    first.fragment = Some((0, true));
    let mut later = ping(CURL, HTTPBIN, 1);
    (later.fragment, later.icmp, later.sequence) = (Some((1400, false)), None, 0);
    let mut error = ping(HTTPBIN, CURL, 0);
    error.icmp = error.icmp.map(|icmp| crate::trajectory::model::IcmpHeader { kind: 3, ..icmp });
    let back: Vec<_> = ROUTED_BACK.iter().map(|(hook, _)| (*hook, &[][..])).collect();
    let seen = [
        world.walk(SECOND, &stamp(first), ROUTED),
        world.walk(SECOND + MS, &stamp(later), ROUTED),
        world.walk(SECOND + 2 * MS, &stamp(error), &back),
    ]
    .concat();
    let (told, lone) = of_trajectories(Default::default(), world.correlate(seen));
    assert_eq!(roles(&told[0]), [">request", ">fragment"]);
    assert_eq!((told.len(), lone.len()), (1, 1));
}

#[test]
fn a_query_that_is_asked_again_because_its_answer_was_lost_is_of_the_same_exchange() {
    let world = two_nodes(false, "vxlan");
    let back: Vec<_> = ROUTED_BACK.iter().map(|(hook, _)| (*hook, &[][..])).collect();
    let there =
        |number, at_ns| world.walk(SECOND + at_ns, &dns((CURL, 40_000), (HTTPBIN, 53), 7, number), ROUTED);
    let answer = |number, at_ns, hops| {
        world.walk(SECOND + at_ns, &dns((HTTPBIN, 53), (CURL, 40_000), 7, number), &back[..hops])
    };
    let seen = [there(1, 0), answer(2, MS, 3), there(3, 500 * MS), answer(4, 501 * MS, 8)].concat();

    let told = exchanges(&world, seen);

    assert_eq!(
        told.iter().map(roles).collect::<Vec<_>>(),
        [[">request", "<answer", ">retransmission", "<answer"]]
    );
    assert_eq!((told[0].outcome, told[0].ending), (Outcome::Answered, Some(Ending::Complete)));
    assert_eq!(told[0].times.as_ref().unwrap().resent_ns, 500 * MS);
}
