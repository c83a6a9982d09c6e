use crate::trajectory::exchange::testing::{FIN, RST, Talk, endings, of_trajectories, role_of, roles};
use crate::trajectory::exchange::{Ending, Outcome, Role};
use crate::trajectory::model::Verdict;
use crate::trajectory::rewrite::Endpoint;
use crate::trajectory::testing::{
    ACK, CLUSTER_IP, CURL, HTTPBIN, MS, PSH, SYN, ip, two_nodes, two_nodes_with_one_clock,
};

#[test]
fn a_connection_with_one_request_is_one_exchange_with_its_handshake_and_its_end() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.handshake(0);
    talk.ask(3 * MS, (1, 1), 78, PSH | ACK, 8);
    talk.answer(4 * MS, (1, 79), 0, ACK, 8);
    talk.answer(9 * MS, (1, 79), 300, PSH | ACK, 8);
    talk.ask(10 * MS, (79, 301), 0, ACK, 8);
    talk.goodbye(11 * MS, (79, 301));
    let told = talk.exchanges();
    assert_eq!(told.len(), 1);
    let exchange = &told[0];
    assert_eq!(
        roles(exchange),
        [">syn", "<syn-ack", ">ack", ">request", "<ack", "<answer", ">ack", ">fin", "<fin", ">ack"]
    );
    assert_eq!((exchange.outcome, exchange.ending), (Outcome::Answered, Some(Ending::Complete)));
    let end = |address, port| Endpoint { address: ip(address), port: Some(port) };
    assert_eq!(exchange.requester, end(CURL, 40_000));
    assert_eq!(exchange.addressed, end(CLUSTER_IP, 80));
    assert_eq!(exchange.responder, end(HTTPBIN, 8080));
    assert_eq!(exchange.bases, [1_000, 5_000]);
}

#[test]
fn a_connection_with_two_requests_gives_two_exchanges() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.handshake(0);
    talk.ask(3 * MS, (1, 1), 78, PSH | ACK, 8);
    talk.answer(5 * MS, (1, 79), 300, PSH | ACK, 8);
    talk.ask(6 * MS, (79, 301), 0, ACK, 8);
    talk.ask(7 * MS, (79, 301), 40, PSH | ACK, 8);
    talk.answer(19 * MS, (301, 119), 500, PSH | ACK, 8);
    talk.goodbye(20 * MS, (119, 801));
    let told = talk.exchanges();
    assert_eq!(endings(&told), [Ending::NextRequest, Ending::Complete]);
    assert_eq!(roles(&told[1])[..2], [">request", "<answer"]);
    assert_eq!((told[0].previous, told[1].previous), (None, Some(told[0].id)));
    assert!(told[0].handshake.is_some() && told[1].handshake.is_none());
    assert!(told.iter().all(|exchange| exchange.outcome == Outcome::Answered));
}

#[test]
fn an_answer_that_does_not_acknowledge_the_whole_request_does_not_end_it() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.ask(0, (1, 1), 100, ACK, 8);
    talk.ask(MS, (101, 1), 100, ACK, 8);
    talk.answer(2 * MS, (1, 101), 25, PSH | ACK, 8);
    talk.ask(3 * MS, (201, 26), 50, PSH | ACK, 8);
    talk.answer(9 * MS, (26, 251), 300, PSH | ACK, 8);
    let told = talk.exchanges();
    assert_eq!(told.len(), 1);
    // From the third request at 3 ms to the second answer at 9 ms, both of which take 7 us to the other end.
    assert_eq!(told[0].times.as_ref().unwrap().total_ns, 6 * MS + 7_000);
}

#[test]
fn what_is_lost_stands_where_it_was_sent_although_it_is_reported_last() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.ask(0, (1, 1), 78, PSH | ACK, 4);
    talk.ask(200 * MS, (1, 1), 78, PSH | ACK, 8);
    talk.answer(205 * MS, (1, 79), 300, PSH | ACK, 8);
    let trajectories = world.correlate(talk.sightings);
    let told = &of_trajectories(Default::default(), trajectories.into_iter().rev().collect()).0[0];
    assert_eq!(roles(told), [">request", ">retransmission", "<answer"]);
    assert!(matches!(told.members[0].trajectory.verdict, Verdict::Lost { .. }));
    let times = told.times.as_ref().unwrap();
    assert_eq!((times.resent_ns, times.total_ns), (200 * MS, 205 * MS + 7_000));
}

#[test]
fn a_request_lost_before_its_translation_is_of_the_same_exchange() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.answer(0, (0, 1), 0, SYN | ACK, 8);
    talk.ask(MS, (1, 1), 78, PSH | ACK, 2);
    let told = talk.exchanges();
    assert_eq!(roles(&told[0]), ["<syn-ack", ">request"]);
    assert_eq!(told[0].outcome, Outcome::Unanswered);
    assert_eq!(told[0].responder.address, ip(HTTPBIN), "the longest way says who answers");
}

#[test]
fn a_full_receiver_its_probe_and_its_update_are_shown_as_what_they_are() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.answer(0, (1, 1), 500, ACK, 8);
    talk.ask_with(MS, (1, 501), 0, ACK, 8, 0);
    talk.answer(2 * MS, (500, 1), 0, ACK, 8);
    talk.ask_with(3 * MS, (1, 501), 0, ACK, 8, 300);
    talk.answer(4 * MS, (500, 1), 0, ACK, 8);
    let told = talk.exchanges();
    assert_eq!(
        roles(&told[0]),
        ["<answer", ">zero-window", "<window-probe", ">window-update", "<keep-alive"]
    );
}

#[test]
fn a_refused_connection_and_a_reset_one_are_told_apart() {
    let world = two_nodes(false, "vxlan");
    let mut refused = Talk::new(&world, 40_000);
    refused.ask(0, (0, 0), 0, SYN, 8);
    refused.answer(MS, (0, 1), 0, RST | ACK, 8);
    let mut reset = Talk::new(&world, 40_001);
    reset.handshake(0);
    reset.ask(3 * MS, (1, 1), 78, PSH | ACK, 8);
    reset.answer(4 * MS, (1, 79), 0, RST | ACK, 8);
    let refused = refused.exchanges();
    let reset = reset.exchanges();
    assert_eq!((refused[0].outcome, role_of(&refused[0], 1)), (Outcome::Refused, Role::Reset));
    assert_eq!(reset[0].outcome, Outcome::Reset);
    assert_eq!([endings(&refused), endings(&reset)].concat(), [Ending::Complete; 2]);
}

#[test]
fn ports_that_are_used_again_are_another_connection() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.handshake(0);
    talk.goodbye(4 * MS, (1, 1));
    talk.ask(9 * MS, (90_000, 0), 0, SYN, 8);
    talk.answer(10 * MS, (70_000, 90_001), 0, SYN | ACK, 8);
    let told = talk.exchanges();
    assert_eq!(told.len(), 2);
    assert_eq!(told[1].previous, None);
    assert_eq!(roles(&told[1]), [">syn", "<syn-ack"]);
}

#[test]
fn the_client_is_known_by_its_port_where_the_handshake_was_not_seen() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.answer(0, (1, 1), 500, ACK, 8);
    talk.ask(MS, (1, 501), 78, ACK, 8);
    talk.answer(2 * MS, (501, 79), 20, FIN | ACK, 8);
    let told = talk.exchanges();
    assert_eq!(told.iter().map(roles).collect::<Vec<_>>(), [vec!["<answer"], vec![">request", "<answer"]]);
    assert_eq!(told[0].outcome, Outcome::NoRequest);
}
