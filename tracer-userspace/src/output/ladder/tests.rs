use super::write_exchange;
use crate::output::text::Style;
use crate::trajectory::correlate::CorrelatorConfig;
use crate::trajectory::exchange::testing::{FIN, ROUTED_BACK, RST, Talk, exchanges, of_trajectories};
use crate::trajectory::exchange::{Config, Exchange};
use crate::trajectory::testing::{
    ACK, CURL, HTTPBIN, MS, PSH, ROUTED, SECOND, SYN, World, drop_at, ping, stamp, two_nodes,
    two_nodes_with_one_clock, udp,
};

fn ladder(world: &World, exchanges: &[Exchange]) -> String {
    let mut out = Vec::new();
    for exchange in exchanges {
        let wall = |_, time_ns| 1_795_313_343_000_000_000 + time_ns % SECOND;
        write_exchange(&mut out, exchange, &world.book, &wall, Style::default()).unwrap();
    }
    let text = String::from_utf8(out).unwrap();
    // What stands below a ladder are full trajectories, whose advice is as long as it is.
    let rows = text.split("\n\n").filter(|part| part.trim_start().starts_with("exchange"));
    assert!(rows.flat_map(str::lines).all(|line| line.chars().count() <= 100), "{text}");
    text
}

fn of(talk: Talk<'_>) -> String {
    let world = talk.world;
    ladder(world, &talk.exchanges())
}

#[test]
fn a_request_to_a_service_over_two_nodes_with_one_clock() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.handshake(0);
    talk.ask(3 * MS, (1, 1), 78, PSH | ACK, 8);
    talk.answer(4 * MS, (1, 79), 0, ACK, 8);
    talk.answer(9 * MS, (1, 79), 300, PSH | ACK, 8);
    talk.ask(10 * MS, (79, 301), 0, ACK, 8);
    talk.goodbye(11 * MS, (79, 301));
    insta::assert_snapshot!(of(talk));
}

#[test]
fn a_lost_request_ends_where_it_was_lost_and_its_retransmission_names_it() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.ask(0, (1, 1), 78, PSH | ACK, 4);
    talk.ask(204 * MS, (1, 1), 78, PSH | ACK, 8);
    talk.answer(209 * MS, (1, 79), 300, PSH | ACK, 3);
    talk.answer(412 * MS, (1, 79), 300, PSH | ACK, 8);
    insta::assert_snapshot!(of(talk));
}

#[test]
fn a_full_receiver_and_a_second_request_on_the_connection() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.ask(0, (1, 1), 78, PSH | ACK, 8);
    talk.answer(2 * MS, (1, 79), 500, ACK, 8);
    talk.ask_with(3 * MS, (79, 501), 0, ACK, 8, 0);
    talk.answer(4 * MS, (500, 79), 0, ACK, 8);
    talk.ask_with(5 * MS, (79, 501), 0, ACK, 8, 300);
    talk.ask(9 * MS, (79, 501), 40, PSH | ACK, 8);
    talk.answer(12 * MS, (501, 119), 20, FIN | PSH | ACK, 8);
    insta::assert_snapshot!(of(talk));
}

#[test]
fn a_refused_connection_and_an_echo_request_without_reply() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.ask(0, (0, 0), 0, SYN, 8);
    talk.answer(MS, (0, 1), 0, RST | ACK, 8);
    let refused = of(talk);
    let unanswered = exchanges(&world, world.walk(SECOND, &ping(CURL, HTTPBIN, 1), ROUTED));
    insta::assert_snapshot!(refused + "\n" + &ladder(&world, &unanswered));
}

#[test]
fn a_dropped_packet_ends_at_the_place_that_dropped_it() {
    let world = two_nodes_with_one_clock("vxlan");
    let query = |id: u32, from: (&str, u16), to: (&str, u16)| {
        let mut packet = udp(from, to, 40, id, id);
        packet.sequence = 0xbeef;
        stamp(packet)
    };
    let (curl, dns) = ((CURL, 40_000), (HTTPBIN, 53));
    let reply = query(4, dns, curl);
    let mut correlator = world.correlator(CorrelatorConfig::default());
    let mut sightings = world.walk(SECOND + MS, &query(2, curl, dns), &ROUTED[..6]);
    sightings.extend(world.walk(SECOND + 2 * MS, &query(3, curl, dns), ROUTED));
    sightings.extend(world.walk(SECOND + 3 * MS, &reply, &ROUTED_BACK[..1]));
    sightings.into_iter().for_each(|sighting| correlator.push(sighting));
    correlator.push_drop(drop_at(&world, "n1/curl", "NETFILTER_DROP", SECOND, &query(1, curl, dns)));
    correlator.push_drop(drop_at(&world, "n2", "IP_RPFILTER", SECOND + MS + 7_000, &query(2, curl, dns)));
    correlator.push_drop(drop_at(&world, "n2", "NETFILTER_DROP", SECOND + 3 * MS + 2_000, &reply));
    let mut trajectories = Vec::new();
    correlator.finish(&mut |trajectory| trajectories.push(trajectory));
    let (exchanges, _) = of_trajectories(Config::default(), trajectories);
    let text = ladder(&world, &exchanges);
    let (ladder, _) = text.split_once("\n\n").unwrap();
    insta::assert_snapshot!(ladder);
}

#[test]
fn a_long_answer_is_folded_but_not_what_is_special_in_it() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.ask(0, (1, 1), 78, PSH | ACK, 8);
    for number in 0..60u32 {
        let hops = if number == 40 { 4 } else { 8 };
        talk.answer(5 * MS + u64::from(number) * 50_000, (1 + 1_000 * number, 79), 1_000, ACK, hops);
    }
    let text = of(talk);
    let (rows, _) = text.split_once("61 packets").unwrap();
    assert_eq!(rows.matches("more, delivered:").count(), 2, "{text}");
    assert!(rows.contains("bytes x---") && rows.contains("x lost after eth0 egress on n2"), "{text}");
    assert!(rows.lines().count() < 45, "{text}");
}
