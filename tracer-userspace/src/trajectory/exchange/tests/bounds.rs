use crate::trajectory::exchange::testing::{Talk, of_trajectories};
use crate::trajectory::exchange::{Config, Ending, Exchanges, Finding, Outcome};
use crate::trajectory::model::Trajectory;
use crate::trajectory::testing::{ACK, CURL, HTTPBIN, MS, PSH, ROUTED, SECOND, ping, two_nodes};

fn pings(count: u32) -> Vec<Trajectory> {
    let world = two_nodes(false, "vxlan");
    let walk = |number| world.walk(SECOND + u64::from(number) * MS, &ping(CURL, HTTPBIN, number), ROUTED);
    world.correlate((0..count).flat_map(walk).collect())
}

#[test]
fn the_quietest_conversation_is_ended_for_the_next_and_counted() {
    let config = Config { max_conversations: 3, ..Config::default() };
    let mut exchanges = Exchanges::new(config);
    let mut ended = Vec::new();
    let emit = &mut |finding: Finding<'_>| {
        if let Finding::Exchange(exchange) = finding {
            ended.push((exchange.members[0].trajectory.id, exchange.ending));
        }
    };
    for (step, trajectory) in pings(5).into_iter().enumerate() {
        exchanges.advance(SECOND + step as u64, emit);
        exchanges.push(trajectory, emit);
    }
    assert_eq!(exchanges.counters().evicted, 2);
    assert_eq!(exchanges.packets(), 3);
    assert_eq!(ended, [(1, Some(Ending::Evicted)), (2, Some(Ending::Evicted))]);
}

#[test]
fn no_more_packets_are_kept_than_there_is_room_for() {
    let mut exchanges = Exchanges::new(Config { max_packets: 10, ..Config::default() });
    for trajectory in pings(50) {
        exchanges.push(trajectory, &mut |_| {});
        assert!(exchanges.packets() <= 10);
    }
    exchanges.finish(&mut |_| {});
    assert_eq!((exchanges.packets(), exchanges.counters().exchanges), (0, 50));
}

#[test]
fn a_long_answer_keeps_its_beginning_and_every_packet_that_did_not_arrive() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.ask(0, (1, 1), 78, PSH | ACK, 8);
    for number in 0..400 {
        let hops = if number == 300 { 4 } else { 8 };
        talk.answer(5 * MS + u64::from(number) * 20_000, (1 + 1_000 * number, 79), 1_000, ACK, hops);
    }
    let (told, lone) = of_trajectories(Config::default(), world.correlate(talk.sightings));
    let exchange = &told[0];
    assert_eq!(exchange.members.len() as u64 + exchange.left_out, 401);
    assert_eq!(exchange.members.len(), 129);
    assert_eq!(lone.len(), 0, "the lost one is a member");
    assert_eq!(exchange.outcome, Outcome::Answered);
}

#[test]
fn an_exchange_that_waits_for_its_answer_is_shown_and_shown_on_when_it_comes() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.ask(0, (1, 1), 78, PSH | ACK, 8);
    let asked = world.correlate(std::mem::take(&mut talk.sightings)).remove(0);
    talk.answer(5 * MS, (1, 79), 300, PSH | ACK, 8);
    let answered = world.correlate(talk.sightings).remove(0);
    let mut exchanges = Exchanges::new(Config::default());
    let mut shown = Vec::new();
    let emit = &mut |finding: Finding<'_>| {
        if let Finding::Exchange(exchange) = finding {
            shown.push((
                exchange.id,
                exchange.told,
                exchange.members.len(),
                exchange.outcome,
                exchange.ending,
            ));
        }
    };

    exchanges.push(asked, emit);
    exchanges.advance(2 * SECOND, emit);
    exchanges.advance(6 * SECOND, emit);
    exchanges.push(answered, emit);
    exchanges.advance(7 * SECOND, emit);
    exchanges.advance(8 * SECOND, emit);

    assert_eq!(
        shown,
        [(1, 0, 1, Outcome::Unanswered, None), (1, 1, 2, Outcome::Answered, Some(Ending::Quiet))]
    );
}

#[test]
fn a_request_is_given_up_when_its_answer_does_not_come() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.ask(0, (1, 1), 78, PSH | ACK, 8);
    let mut exchanges = Exchanges::new(Config::default());
    let mut endings = Vec::new();
    let emit = &mut |finding: Finding<'_>| {
        if let Finding::Exchange(exchange) = finding {
            endings.push(exchange.ending);
        }
    };
    exchanges.push(world.correlate(talk.sightings).remove(0), emit);
    for second in 1..100 {
        exchanges.advance(second * SECOND, emit);
    }
    assert_eq!(endings, [None, Some(Ending::Quiet)]);
    assert_eq!(exchanges.packets(), 0);
}

#[test]
fn an_exchange_that_does_not_pause_is_shown_every_two_seconds() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    for number in 0..60 {
        talk.answer(u64::from(number) * 100 * MS, (1 + 1_000 * number, 79), 1_000, ACK, 8);
    }
    let mut exchanges = Exchanges::new(Config::default());
    let mut shown = Vec::new();
    let emit = &mut |finding: Finding<'_>| {
        if let Finding::Exchange(exchange) = finding {
            shown.push((exchange.told, exchange.members.len(), exchange.ending));
        }
    };
    for (step, trajectory) in world.correlate(talk.sightings).into_iter().enumerate() {
        exchanges.advance(SECOND + step as u64 * 100 * MS, emit);
        exchanges.push(trajectory, emit);
    }
    exchanges.finish(emit);
    assert_eq!(shown.len(), 3, "{shown:?}");
    assert!(
        shown.windows(2).all(|pair| pair[1].0 == pair[0].1),
        "each goes on where the last ended: {shown:?}"
    );
    assert_eq!(
        shown.iter().map(|(_, _, ending)| *ending).collect::<Vec<_>>(),
        [None, None, Some(Ending::RunEnded)]
    );
}

#[test]
fn what_comes_behind_a_pause_of_the_observer_belongs_to_the_exchange_that_it_ends() {
    let world = two_nodes(false, "vxlan");
    let told = |most_step_ns| {
        let mut talk = Talk::new(&world, 40_000);
        talk.handshake(0);
        talk.ask(3 * MS, (1, 1), 78, PSH | ACK, 8);
        talk.answer(5 * MS, (1, 79), 200, PSH | ACK, 8);
        let goodbye = talk.sightings.len();
        talk.goodbye(7 * MS, (79, 201));
        let mut trajectories = world.correlate(talk.sightings);
        assert_eq!((trajectories.len(), goodbye), (8, 40));
        let rest = trajectories.split_off(5);

        let mut exchanges = Exchanges::new(Config { most_step_ns, ..Config::default() });
        let mut endings = Vec::new();
        let emit = &mut |finding: Finding<'_>| {
            if let Finding::Exchange(exchange) = finding
                && exchange.ending.is_some()
            {
                endings.push((exchange.members.len(), exchange.ending));
            }
        };
        exchanges.advance(SECOND, emit);
        trajectories.into_iter().for_each(|trajectory| exchanges.push(trajectory, emit));
        exchanges.advance(4 * SECOND, emit);
        rest.into_iter().for_each(|trajectory| exchanges.push(trajectory, emit));
        exchanges.finish(emit);
        endings
    };
    assert_eq!(told(100 * MS), [(8, Some(Ending::Complete))]);
    assert_eq!(told(u64::MAX).len(), 2, "a pause of the packets ends it");
}
