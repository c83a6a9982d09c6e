use crate::trajectory::exchange::testing::{Talk, of_trajectories};
use crate::trajectory::exchange::{Exchange, NoSplit, NoTimes, Outcome, Split, Times, Turn};
use crate::trajectory::model::{Latency, Verdict};
use crate::trajectory::testing::{ACK, MS, PSH, SECOND, World, two_nodes, two_nodes_with_one_clock};

/// A request at 0 that is answered after 5 ms; both take 7 us.
fn asked(world: &World) -> Exchange {
    let mut talk = Talk::new(world, 40_000);
    talk.ask(0, (1, 1), 78, PSH | ACK, 8);
    talk.answer(5 * MS, (1, 79), 300, PSH | ACK, 8);
    talk.exchanges().remove(0)
}

fn split(times: &Result<Times, NoTimes>) -> &Split {
    times.as_ref().unwrap().split.as_ref().unwrap()
}

/// The least and the most that a latency may be.
fn bounds(latency: Latency) -> (u64, u64) {
    match latency {
        Latency::Exact { ns } => (ns, ns),
        Latency::Estimated { ns, error_ns } => (ns.checked_sub(error_ns).unwrap(), ns + error_ns),
        Latency::Unknown(why) => panic!("{why:?}"),
    }
}

#[test]
fn within_one_clock_there_application_and_back_are_exact_and_add_up_to_the_whole() {
    let world = two_nodes_with_one_clock("vxlan");
    let exchange = asked(&world);
    let whole = exchange.times.as_ref().unwrap();
    assert_eq!((whole.total_ns, whole.resent_ns), (5 * MS + 7_000, 0));
    let split = split(&exchange.times);
    assert_eq!(split.there, Latency::Exact { ns: 7_000 });
    assert_eq!(split.stay_ns, 5 * MS - 7_000);
    assert_eq!(split.back, Latency::Exact { ns: 7_000 });
    assert_eq!(split.paths, Latency::Exact { ns: 14_000 });
    assert!(matches!(&split.turn, Turn::Pod(point) if &*point.device == "httpbin:eth0"));
}

#[test]
fn between_two_clocks_whole_and_application_are_exact_and_each_path_is_within_its_bounds() {
    let world = two_nodes(false, "vxlan");
    let exchange = asked(&world);
    assert_eq!(exchange.times.as_ref().unwrap().total_ns, 5 * MS + 7_000);
    let split = split(&exchange.times);
    assert_eq!(split.stay_ns, 5 * MS - 7_000);
    for path in [split.there, split.back] {
        let (least, most) = bounds(path);
        assert!(least <= 7_000 && 7_000 <= most, "{path:?}");
        assert!(least >= 6_000, "six of seven legs are exact: {path:?}");
        assert!(most <= 8_000 + 2 * 5 * MS / 100, "the wires take 2 us together: {path:?}");
    }
    let (least, most) = bounds(split.paths);
    assert!(
        least <= 14_000 && 14_000 <= most && most - least <= 2 * 50_000,
        "only the rates differ: {least} {most}"
    );
}

#[test]
fn estimates_of_the_clocks_narrow_the_split() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.ask(0, (1, 1), 78, PSH | ACK, 8);
    talk.answer(20_000, (1, 79), 300, PSH | ACK, 8);
    let mut trajectories = world.correlate(talk.sightings);
    for leg in trajectories.iter_mut().flat_map(|trajectory| &mut trajectory.legs) {
        if matches!(leg.latency, Latency::Unknown(_) | Latency::Estimated { .. }) {
            leg.latency = Latency::Estimated { ns: 1_000, error_ns: 100 };
        }
    }
    let exchange = of_trajectories(Default::default(), trajectories).0.remove(0);
    let (least, most) = bounds(split(&exchange.times).there);
    assert!(least <= 7_000 && 7_000 <= most && most - least <= 201, "{least} {most}");
}

#[test]
fn an_estimate_that_contradicts_the_exchange_is_left_out() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.ask(0, (1, 1), 78, PSH | ACK, 8);
    talk.answer(20_000, (1, 79), 300, PSH | ACK, 8);
    let mut trajectories = world.correlate(talk.sightings);
    for leg in trajectories.iter_mut().flat_map(|trajectory| &mut trajectory.legs) {
        if !matches!(leg.latency, Latency::Exact { .. }) {
            leg.latency = Latency::Estimated { ns: SECOND, error_ns: 1 };
        }
    }
    let exchange = of_trajectories(Default::default(), trajectories).0.remove(0);
    let (least, most) = bounds(split(&exchange.times).there);
    assert!(least <= 7_000 && (7_000..10_000).contains(&most), "{least} {most}");
}

#[test]
fn nothing_is_said_of_the_split_where_the_other_end_is_not_observed() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut trajectories = {
        let mut talk = Talk::new(&world, 40_000);
        talk.ask(0, (1, 1), 78, PSH | ACK, 8);
        talk.answer(5 * MS, (1, 79), 300, PSH | ACK, 8);
        world.correlate(talk.sightings)
    };
    for trajectory in &mut trajectories {
        trajectory.hops.retain(|hop| &*hop.point.device == "curl:eth0");
        trajectory.legs.clear();
    }
    let exchange = of_trajectories(Default::default(), trajectories).0.remove(0);
    let times = exchange.times.unwrap();
    assert_eq!(times.total_ns, 5 * MS + 7_000);
    assert_eq!(times.split, Err(NoSplit::OtherEndNotObserved));
}

#[test]
fn what_was_answered_beyond_the_last_device_is_not_called_the_application() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut trajectories = {
        let mut talk = Talk::new(&world, 40_000);
        talk.ask(0, (1, 1), 78, PSH | ACK, 8);
        talk.answer(5 * MS, (1, 79), 300, PSH | ACK, 8);
        world.correlate(talk.sightings)
    };
    for trajectory in &mut trajectories {
        trajectory.hops.retain(|hop| &*hop.point.node == "n1");
        trajectory.legs.truncate(3);
    }
    let exchange = of_trajectories(Default::default(), trajectories).0.remove(0);
    let split = split(&exchange.times);
    assert!(matches!(&split.turn, Turn::Device(point) if &*point.device == "eth0"));
    assert_eq!(split.there, Latency::Exact { ns: 3_000 });
}

#[test]
fn without_an_answer_or_without_its_arrival_there_are_no_times() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut lone = Talk::new(&world, 40_000);
    lone.ask(0, (1, 1), 78, PSH | ACK, 8);
    assert_eq!(lone.exchanges()[0].times, Err(NoTimes::NoAnswer));

    let mut lost = Talk::new(&world, 40_001);
    lost.ask(0, (1, 1), 78, PSH | ACK, 8);
    lost.answer(5 * MS, (1, 79), 300, PSH | ACK, 3);
    let told = lost.exchanges();
    assert!(matches!(told[0].members[1].trajectory.verdict, Verdict::Lost { .. }));
    assert_eq!((&told[0].times, told[0].outcome), (&Err(NoTimes::AnswerLost), Outcome::AnswerLost));
}

#[test]
fn an_answer_that_was_sent_again_waits_at_the_responder_and_not_on_the_path() {
    let world = two_nodes(false, "vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.ask(0, (1, 1), 78, PSH | ACK, 8);
    talk.answer(5 * MS, (1, 79), 300, PSH | ACK, 3);
    talk.answer(205 * MS, (1, 79), 300, PSH | ACK, 8);
    let exchange = talk.exchanges().remove(0);
    let times = exchange.times.as_ref().unwrap();
    assert_eq!((times.total_ns, times.resent_ns), (205 * MS + 7_000, 200 * MS));
    assert_eq!(split(&exchange.times).stay_ns, 5 * MS - 7_000);
}

#[test]
fn a_handshake_has_times_of_its_own() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.handshake(0);
    let handshake = talk.exchanges().remove(0).handshake.unwrap();
    assert_eq!(handshake.total_ns, MS + 7_000);
}
