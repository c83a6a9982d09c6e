//! Times between two clocks.

use crate::trajectory::correlate::{Correlator, CorrelatorConfig, clocks::MAX_WAITING};
use crate::trajectory::model::{ClockId, Latency, NoEstimate, Sighting, Trajectory};
use crate::trajectory::testing::{
    ACK, Book, CURL, HTTPBIN, MS, ROUTED, SECOND, SYN, Step, World, ping, run, tcp, two_nodes, udp,
};

/// The way back.
const BACK: &[Step<'static>] = &[
    ("n2/httpbin:eth0>", &[]),
    ("n2/vethhttp<", &[]),
    ("n2/vxlan>", &[]),
    ("n2/eth0>", &[]),
    ("n1/eth0<", &[]),
    ("n1/vxlan<", &[]),
    ("n1/vethcurl>", &[]),
    ("n1/curl:eth0<", &[]),
];
/// The leg over the wire, and what it takes in this world.
const WIRE: usize = 3;
const WIRE_NS: u64 = 1_000;
const ONE_WAY: Latency = Latency::Unknown(NoEstimate::OneDirectionOnly);

/// A run of a correlator, a step at a time.
struct Told {
    correlator: Correlator<Book>,
    now_ns: u64,
    out: Vec<Trajectory>,
}

impl Told {
    fn of(world: &World) -> Self {
        let mut told = Self {
            correlator: world.correlator(CorrelatorConfig::default()),
            now_ns: SECOND,
            out: Vec::new(),
        };
        told.after(0, []);
        told
    }

    /// Pushes, then lets time pass.
    fn after(&mut self, passed_ns: u64, sightings: impl IntoIterator<Item = Sighting>) -> usize {
        sightings.into_iter().for_each(|sighting| self.correlator.push(sighting));
        self.now_ns += passed_ns;
        let Self { correlator, now_ns, out } = self;
        correlator.advance(*now_ns, &mut |trajectory| out.push(trajectory));
        out.len()
    }
}

fn assert_true(latency: Latency) {
    let Latency::Estimated { ns, error_ns } = latency else { panic!("{latency:?}") };
    assert!(error_ns <= ns, "{latency:?} is negative at its lower end");
    assert!((ns - error_ns..=ns + error_ns).contains(&WIRE_NS), "{latency:?} does not hold {WIRE_NS}");
}

/// An echo and its answer, `apart_ns` later.
fn echo(world: &World, at_ns: u64, sequence: u32, apart_ns: u64) -> [Vec<Sighting>; 2] {
    let mut answer = ping(HTTPBIN, CURL, sequence);
    answer.icmp.as_mut().unwrap().kind = 0;
    [
        world.walk(at_ns, &ping(CURL, HTTPBIN, sequence), ROUTED),
        world.walk(at_ns + apart_ns, &crate::trajectory::testing::stamp(answer), BACK),
    ]
}

#[test]
fn a_connection_s_first_packet_waits_for_its_answer_and_is_told_with_a_bound() {
    let world = two_nodes(false, "vxlan");
    let (curl, web) = ((CURL, 40_000), (HTTPBIN, 80));
    let mut told = Told::of(&world);
    assert_eq!(told.after(20 * MS, world.walk(SECOND, &tcp(curl, web, 100, 0, SYN), ROUTED)), 0);
    let answered_ns = SECOND + 30_000;
    told.after(20 * MS, world.walk(answered_ns, &tcp(web, curl, 900, 0, SYN | ACK), BACK));
    // Nothing goes to the answer but a short wait.
    assert_eq!(told.after(20 * MS, []), 2);
    for (number, trajectory) in told.out.iter().enumerate() {
        assert_eq!(trajectory.id, number as u64 + 1);
        assert_true(trajectory.legs[WIRE].latency);
        let Latency::Estimated { error_ns, .. } = trajectory.legs[WIRE].latency else { unreachable!() };
        assert!(error_ns < 2 * WIRE_NS, "+/- {error_ns}");
    }
    let others = told.out.iter().flat_map(|told| &told.legs).filter(|leg| leg.from != WIRE);
    assert!(others.into_iter().all(|leg| matches!(leg.latency, Latency::Exact { .. })));
}

#[test]
fn a_packet_that_nobody_answers_is_told_without_a_time_after_the_grace_time() {
    let world = two_nodes(false, "vxlan");
    let mut told = Told::of(&world);
    assert_eq!(told.after(MS, world.walk(SECOND, &ping(CURL, HTTPBIN, 1), ROUTED)), 0);
    assert_eq!(told.after(299 * MS, []), 0);
    assert_eq!(told.after(MS, []), 1);
    assert_eq!(told.out[0].legs[WIRE].latency, ONE_WAY);
}

#[test]
fn later_packets_are_told_soon_whether_or_not_they_are_answered() {
    let world = two_nodes(false, "vxlan");
    let mut told = Told::of(&world);
    let [request, answer] = echo(&world, SECOND, 1, 30_000);
    told.after(MS, request.into_iter().chain(answer));
    assert_eq!(told.after(20 * MS, []), 2);
    assert_eq!(told.after(MS, world.walk(SECOND + 40 * MS, &ping(CURL, HTTPBIN, 2), ROUTED)), 2);
    assert_eq!(told.after(19 * MS, []), 2);
    assert_eq!(told.after(MS, []), 3);
    assert_true(told.out[2].legs[WIRE].latency);
}

#[test]
fn packets_of_one_direction_wait_in_a_bounded_room_and_keep_their_order() {
    let world = two_nodes(false, "vxlan");
    let mut told = Told::of(&world);
    let count = 2 * MAX_WAITING as u32;
    let pings = (0..count)
        .flat_map(|number| world.walk(SECOND + u64::from(number) * MS, &ping(CURL, HTTPBIN, number), ROUTED));
    assert_eq!(told.after(20 * MS, pings), MAX_WAITING);
    assert_eq!(told.after(SECOND, []), 2 * MAX_WAITING);
    for (number, trajectory) in told.out.iter().enumerate() {
        assert_eq!((trajectory.id, trajectory.hops[0].packet.sequence), (number as u64 + 1, number as u32));
    }
}

#[test]
fn what_comes_late_and_in_disorder_is_inside_the_bound_too() {
    let world = two_nodes(false, "vxlan");
    let mut sightings: Vec<Sighting> = (0..50)
        .flat_map(|number| echo(&world, SECOND + u64::from(number) * 7 * MS, number, 50_000).concat())
        .collect();
    // Each record moves by up to 40 places, those of one packet by different ones.
    let mut place: Vec<usize> = (0..sightings.len()).collect();
    place.sort_by_key(|number| number + number * 7919 % 40);
    sightings = place.into_iter().map(|number| sightings[number].clone()).collect();
    let out = run(&mut world.correlator(CorrelatorConfig::default()), sightings);
    assert_eq!(out.len(), 100);
    out.iter().for_each(|told| assert_true(told.legs[WIRE].latency));
}

#[test]
fn packets_that_may_have_been_mixed_up_teach_nothing() {
    let world = two_nodes(false, "vxlan");
    // Two equal datagrams each way, of which one arrives: no telling which.
    let (there, back) =
        (udp((CURL, 5000), (HTTPBIN, 53), 60, 0, 7), udp((HTTPBIN, 53), (CURL, 5000), 60, 0, 7));
    let mut sightings = Vec::new();
    for (way, packet) in [(ROUTED, &there), (BACK, &back)] {
        sightings.extend(world.walk(SECOND, packet, &way[..4]));
        sightings.extend(world.walk(SECOND + 50 * MS, packet, way));
    }
    let out = world.correlate(sightings);
    assert_eq!(out.len(), 4);
    for told in out.iter().filter(|told| told.hops.len() == 8) {
        assert_eq!(told.legs[WIRE].latency, Latency::Unknown(NoEstimate::Ambiguous));
    }

    // Lost records may have belonged to a packet of the same content: nor is the time of such a packet known.
    let mut correlator = world.correlator(CorrelatorConfig::default());
    correlator.report_loss(&std::sync::Arc::from("n2"), 3, SECOND);
    let once = |packet, way| world.walk(SECOND, packet, way);
    for told in run(&mut correlator, [once(&there, ROUTED), once(&back, BACK)].concat()) {
        assert_eq!(told.legs[WIRE].latency, Latency::Unknown(NoEstimate::RecordsMissing));
    }
    // Without it they teach, and so do packets that the sender has marked.
    for told in world.correlate([once(&there, ROUTED), once(&back, BACK)].concat()) {
        assert_true(told.legs[WIRE].latency);
    }
    for told in run(&mut correlator, echo(&world, SECOND, 1, 30_000).concat()) {
        assert_true(told.legs[WIRE].latency);
    }
}

#[test]
fn a_machine_that_was_suspended_is_told_as_inconsistent_and_then_known_again() {
    let world = two_nodes(false, "vxlan");
    let suspended = |at_ns: u64, sequence: u32| {
        let mut sightings = echo(&world, at_ns, sequence, 30_000).concat();
        for sighting in &mut sightings {
            if sighting.point.clock == ClockId(1) {
                sighting.time_ns -= 3 * SECOND;
            }
        }
        sightings
    };
    let mut told = Told::of(&world);
    let before: Vec<_> =
        (0..10).flat_map(|n| echo(&world, SECOND + u64::from(n) * 100 * MS, n, 30_000).concat()).collect();
    told.after(SECOND, before);
    assert_eq!(told.after(SECOND, []), 20);
    assert_eq!(told.correlator.clocks().contradictions(), None);

    told.after(100 * MS, suspended(6 * SECOND, 100));
    told.after(100 * MS, suspended(6 * SECOND + 100 * MS, 101));
    assert_eq!(told.after(SECOND, []), 24);
    let contradictions = told.correlator.clocks().contradictions().unwrap();
    assert_eq!((contradictions.count, contradictions.latest), (1, [ClockId(0), ClockId(1)]));
    told.out[..20].iter().chain(&told.out[22..]).for_each(|told| assert_true(told.legs[WIRE].latency));
    for told in &told.out[20..22] {
        match told.legs[WIRE].latency {
            Latency::Unknown(_) => {}
            known => assert_true(known),
        }
    }
}
