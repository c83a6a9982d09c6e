//! Two clocks, packets between them whose true times are known, and what is said of them.

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::*;
use crate::trajectory::testing::{MS, SECOND};

const A: ClockId = ClockId(3);
const B: ClockId = ClockId(8);
const US: u64 = 1_000;

/// A clock that shows `offset_ns` at true time 0 and gains `per_million` from then on; by 45 more or less in turns that
/// take `period_ns`, unless that is 0.
#[derive(Clone, Copy, Debug)]
struct Clock {
    id: ClockId,
    offset_ns: i64,
    per_million: i64,
    period_ns: u64,
}

impl Clock {
    fn at(&self, true_ns: u64) -> Moment {
        let angle = std::f64::consts::TAU / self.period_ns.max(1) as f64;
        let wander = 45e-6 / angle * (angle * (true_ns % self.period_ns.max(1)) as f64).sin();
        let true_ns = i128::from(true_ns);
        let drift = true_ns * i128::from(self.per_million) / 1_000_000 + wander as i128;
        let shown = i128::from(self.offset_ns) + true_ns + drift;
        Moment { clock: self.id, time_ns: u64::try_from(shown).unwrap() }
    }
}

/// A packet's true times.
#[derive(Clone, Copy, Debug)]
struct Passage {
    there: bool,
    left_ns: u64,
    arrived_ns: u64,
}

impl Passage {
    fn new(there: bool, left_ns: u64, delay_ns: u64) -> Self {
        Self { there, left_ns, arrived_ns: left_ns + delay_ns }
    }

    fn seen(&self, clocks: [Clock; 2]) -> (Moment, Moment) {
        let [from, to] = if self.there { clocks } else { [clocks[1], clocks[0]] };
        (from.at(self.left_ns), to.at(self.arrived_ns))
    }

    /// In seconds of the second clock.
    fn truth_ns(&self, [_, second]: [Clock; 2]) -> u64 {
        second.at(self.arrived_ns).time_ns - second.at(self.left_ns).time_ns
    }
}

/// Clocks, which for the most part differ by less than 1 %, set to within days of each other.
fn clocks() -> impl Strategy<Value = [Clock; 2]> {
    let drift = prop_oneof![Just(0), -100..=100i64, -5_000..=5_000i64];
    let clock = move |id| {
        ((1..=400_000_000_000_000i64), drift.clone()).prop_map(move |(offset_ns, per_million)| Clock {
            id,
            offset_ns,
            per_million,
            period_ns: 0,
        })
    };
    // One of them wanders, so that the difference of their rates changes by less than is assumed.
    let period = prop_oneof![Just(0), SECOND / 2..60 * SECOND];
    (clock(A), clock(B), period).prop_map(|(a, b, period_ns)| [a, Clock { period_ns, ..b }])
}

/// Packets both ways at random times with random delays, of which some are large.
fn passages() -> impl Strategy<Value = Vec<Passage>> {
    let gap = prop_oneof![US..100 * US, MS..20 * MS, 100 * MS..2 * SECOND];
    let jitter = prop_oneof![0..20 * US, 0..5 * MS];
    let base = (20 * US..2 * MS, 20 * US..2 * MS);
    (base, prop::collection::vec((any::<bool>(), gap, jitter), 2..200)).prop_map(
        |((there_ns, back_ns), all)| {
            let mut now = 0;
            let passage = |(there, gap, jitter)| {
                now += gap;
                Passage::new(there, now, if there { there_ns } else { back_ns } + jitter)
            };
            all.into_iter().map(passage).collect()
        },
    )
}

/// What is told, and both its ends.
fn bounds(latency: Latency) -> Option<(u64, u64)> {
    match latency {
        Latency::Estimated { ns, error_ns } => Some((ns.checked_sub(error_ns).unwrap(), ns + error_ns)),
        _ => None,
    }
}

fn learnt(clocks: [Clock; 2], passages: &[Passage]) -> Clocks {
    let mut known = Clocks::default();
    for passage in passages {
        let (left, arrived) = passage.seen(clocks);
        known.learn(left, arrived);
    }
    known
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn the_true_time_is_inside_what_is_told(clocks in clocks(), passages in passages(), order in any::<u64>()) {
        // Not quite in the order in which they happened, and some lost.
        let mut heard: Vec<(usize, Passage)> = passages.iter().copied().enumerate().collect();
        heard.sort_by_key(|(number, _)| *number as u64 + (order >> (number % 60)) % 4);
        heard.retain(|(number, _)| order.rotate_left(*number as u32 * 7) % 8 != 0);
        let mut known = Clocks::default();
        for (_, passage) in heard {
            let (left, arrived) = passage.seen(clocks);
            known.learn(left, arrived);
            for asked in [&passage, &passages[0]] {
                let (left, arrived) = asked.seen(clocks);
                if let Some((least, most)) = bounds(known.latency(left, arrived)) {
                    let truth = asked.truth_ns(clocks);
                    prop_assert!((least..=most).contains(&truth), "{truth} is not in {least}..={most}");
                }
            }
        }
        prop_assert_eq!(known.contradictions(), None);
    }

    #[test]
    fn the_other_clock_is_ahead_by_what_is_told(clocks in clocks(), passages in passages()) {
        let known = learnt(clocks, &passages);
        let last = passages[passages.len() - 1].arrived_ns;
        for [of, other] in [clocks, [clocks[1], clocks[0]]] {
            let (shown, truth) = (of.at(last), other.at(last).time_ns as i64 - of.at(last).time_ns as i64);
            if let Some(Offset { ns, error_ns }) = known.ahead(other.id, shown) {
                // A nanosecond for the clocks' own rounding.
                prop_assert!(ns.abs_diff(truth) <= error_ns + 1, "{truth} is not {ns} +/- {error_ns}");
            }
        }
    }

    #[test]
    fn the_error_is_at_most_half_of_the_exchange_s_own_round_trip(
        clocks in clocks(),
        exchanges in prop::collection::vec((20 * US..5 * MS, 0..10 * MS, 20 * US..5 * MS, 0..3 * SECOND), 1..50),
    ) {
        let mut known = Clocks::default();
        let mut now = 0;
        for (there_ns, answering_ns, back_ns, pause_ns) in exchanges {
            let request = Passage::new(true, now, there_ns);
            let answer = Passage::new(false, request.arrived_ns + answering_ns, back_ns);
            now = answer.arrived_ns + pause_ns;
            for passage in [request, answer] {
                let (left, arrived) = passage.seen(clocks);
                known.learn(left, arrived);
            }
            // Between the two packets the clocks may have drifted apart by so much.
            let drift = (answer.arrived_ns - request.left_ns) as f64 * (2.0 * rate::MOST + 2.0 * rate::WANDER);
            let allowed = (there_ns + back_ns) as f64 * 1.01 / 2.0 + drift / 2.0 + 2.0;
            for passage in [request, answer] {
                let (left, arrived) = passage.seen(clocks);
                prop_assert!(known.is_settled(left, arrived) || !passage.there);
                let Latency::Estimated { ns, error_ns } = known.latency(left, arrived) else {
                    panic!("{:?}", known.latency(left, arrived));
                };
                prop_assert!(error_ns as f64 <= allowed, "{ns} +/- {error_ns}, allowed {allowed}");
            }
        }
    }

    #[test]
    fn whatever_is_learnt_nothing_breaks(all in prop::collection::vec((any::<bool>(), any::<u64>(), any::<u64>()), 1..100)) {
        let mut known = Clocks::default();
        for (there, one, other) in all {
            let (a, b) = (Moment { clock: A, time_ns: one }, Moment { clock: B, time_ns: other });
            let (left, arrived) = if there { (a, b) } else { (b, a) };
            known.learn(left, arrived);
            bounds(known.latency(left, arrived));
            let _ = (known.ahead(B, a), known.ahead(A, b), known.is_settled(left, arrived));
        }
    }
}

fn plain(drift: i64) -> [Clock; 2] {
    let clock = |id, offset_ns, per_million| Clock { id, offset_ns, per_million, period_ns: 0 };
    [clock(A, 5_000 * SECOND as i64, 0), clock(B, 90_000 * SECOND as i64, drift)]
}

/// A request each 100 ms, with its answer.
fn pings(from_ns: u64, count: u64) -> Vec<Passage> {
    (0..count)
        .flat_map(|number| {
            let request = Passage::new(true, from_ns + number * 100 * MS, 100 * US);
            [request, Passage::new(false, request.arrived_ns, 100 * US)]
        })
        .collect()
}

#[test]
fn jitter_costs_little_once_there_was_traffic() {
    let clocks = plain(10_000);
    let (there_ns, back_ns, jitter) = (80 * US, 120 * US, 100 * US);
    // Xorshift: the same delays each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |most: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % most
    };
    let mut known = Clocks::default();
    for number in 0..4_000u64 {
        let request = Passage::new(true, number * MS, there_ns + random(jitter));
        let answer = Passage::new(false, request.arrived_ns, back_ns + random(jitter));
        for passage in [request, answer] {
            let (left, arrived) = passage.seen(clocks);
            known.learn(left, arrived);
        }
        if number >= 2_000 {
            let (left, arrived) = request.seen(clocks);
            let Latency::Estimated { error_ns, .. } = known.latency(left, arrived) else {
                panic!("{:?}", known.latency(left, arrived));
            };
            let allowed = (there_ns + back_ns) / 2 + jitter / 4;
            assert!(error_ns <= allowed, "+/- {error_ns}, allowed {allowed}");
        }
    }
}

#[test]
fn one_direction_alone_tells_nothing() {
    for there in [true, false] {
        let clocks = plain(10);
        let passages: Vec<_> = (0..100).map(|number| Passage::new(there, number * MS, 50 * US)).collect();
        let known = learnt(clocks, &passages);
        for asked in [passages[99], Passage::new(!there, 99 * MS, 50 * US)] {
            let (left, arrived) = asked.seen(clocks);
            assert_eq!(known.latency(left, arrived), Latency::Unknown(NoEstimate::OneDirectionOnly));
        }
        assert!(!known.is_settled(passages[99].seen(clocks).0, passages[99].seen(clocks).1));
    }
}

#[test]
fn a_direction_that_fell_silent_is_missing_after_the_window() {
    let clocks = plain(10);
    let mut passages = pings(0, 20);
    let known_until = |passages: &[Passage]| {
        let (left, arrived) = passages[passages.len() - 1].seen(clocks);
        learnt(clocks, passages).latency(left, arrived)
    };
    passages.push(Passage::new(true, 11 * SECOND, 100 * US));
    assert!(bounds(known_until(&passages)).is_some());
    passages.push(Passage::new(true, 12 * SECOND, 100 * US));
    assert_eq!(known_until(&passages), Latency::Unknown(NoEstimate::OneDirectionOnly));
}

#[test]
fn a_clock_that_stopped_is_inconsistent_once_and_known_again() {
    for (stopped, there_first) in [(0, true), (0, false), (1, true), (1, false)] {
        let before = plain(100);
        let mut after = before;
        after[stopped].offset_ns -= 3 * SECOND as i64;
        let mut known = learnt(before, &pings(0, 50));

        let mut later = pings(9 * SECOND, 20);
        if !there_first {
            later.remove(0);
        }
        for (number, passage) in later.iter().enumerate() {
            let (left, arrived) = passage.seen(after);
            known.learn(left, arrived);
            if number == 2 {
                // The first packet either contradicts by itself, or the next one the other way does.
                let count = known.contradictions().unwrap().count;
                assert_eq!(count, 1, "clock {stopped}, there first: {there_first}");
                let before_the_stop = pings(0, 50)[99].seen(before);
                assert_eq!(
                    known.latency(before_the_stop.0, before_the_stop.1),
                    Latency::Unknown(NoEstimate::Inconsistent)
                );
                assert!(known.is_settled(before_the_stop.0, before_the_stop.1), "nothing more can come");
            }
            if number >= 3 {
                let (least, most) = bounds(known.latency(left, arrived)).unwrap();
                assert!((least..=most).contains(&passage.truth_ns(after)));
                // Carried on from the packet before, 100 ms ago, at 2 % until more is known of the rate.
                let allowed = if number < 10 { 3 * MS } else { 300 * US };
                assert!(most < allowed, "packet {number}: {most}");
            }
        }
        assert_eq!(known.contradictions(), Some(Contradictions { count: 1, latest: [A, B] }));
    }
}

#[test]
fn a_packet_from_before_a_stop_that_comes_late_changes_nothing() {
    let before = plain(0);
    let mut after = before;
    after[1].offset_ns += 7 * SECOND as i64;
    let mut known = learnt(before, &pings(0, 20));
    for passage in pings(3 * SECOND, 20) {
        let (left, arrived) = passage.seen(after);
        known.learn(left, arrived);
    }
    let asked = pings(5 * SECOND, 1)[0].seen(after);
    let told = known.latency(asked.0, asked.1);
    for passage in pings(0, 20) {
        let (left, arrived) = passage.seen(before);
        known.learn(left, arrived);
    }
    assert_eq!(known.latency(asked.0, asked.1), told);
    assert_eq!(known.contradictions().unwrap().count, 1);
}

#[test]
fn a_rate_that_changes_by_as_much_as_is_assumed_breaks_nothing() {
    // Prompt packets, by which the rate is known well; when it changes, all packets are slow.
    for turn in [90, -90] {
        let before = plain(0);
        let mut after = plain(turn);
        after[1].offset_ns -= 12 * turn * 1_000;
        let mut known = Clocks::default();
        for number in 0..160 {
            let sent = number * 100 * MS;
            let (clocks, delay) = if sent < 12 * SECOND { (before, 5 * US) } else { (after, 2 * MS) };
            let request = Passage::new(true, sent, delay);
            for passage in [request, Passage::new(false, request.arrived_ns, delay)] {
                let (left, arrived) = passage.seen(clocks);
                known.learn(left, arrived);
                let Some((least, most)) = bounds(known.latency(left, arrived)) else { continue };
                let truth = passage.truth_ns(clocks);
                assert!((least..=most).contains(&truth), "{truth} is not in {least}..={most} at {sent}");
            }
        }
        assert_eq!(known.contradictions(), None);
    }
}

#[test]
fn a_rate_that_changes_is_followed() {
    // The second clock gains 0.04 % for a minute and then loses as much: more than what is assumed.
    let gaining = plain(400);
    let mut losing = plain(-400);
    losing[1].offset_ns += 2 * 60 * 400_000;
    let mut known = Clocks::default();
    let (mut told, mut wrong) = (0, 0);
    for passage in pings(50 * SECOND, 300) {
        let clocks = if passage.left_ns < 60 * SECOND { gaining } else { losing };
        let (left, arrived) = passage.seen(clocks);
        known.learn(left, arrived);
        let Some((least, most)) = bounds(known.latency(left, arrived)) else { continue };
        let truth = passage.truth_ns(clocks);
        told += 1;
        wrong += u32::from(!(least..=most).contains(&truth));
        // Even where the assumption does not hold.
        let round_trip = 200 * US;
        assert!(least <= truth + round_trip && truth <= most + round_trip, "{truth} {least}..={most}");
    }
    assert!(told > 590, "{told}");
    assert!(wrong < 10, "{wrong} of {told}");
}

#[test]
fn what_is_remembered_is_bounded() {
    let clocks = plain(5_000);
    let mut known = Clocks::default();
    // Delays that shrink all the time: each packet says more than all before.
    for number in 0..50_000u64 {
        let delay = 10 * MS - number * 190;
        for there in [true, false] {
            let (left, arrived) = Passage::new(there, number * 10 * US, delay).seen(clocks);
            known.learn(left, arrived);
        }
    }
    let pair = known.pairs.get(&(A, B)).unwrap();
    assert!(pair.remembered() <= 128, "{}", pair.remembered());
}

#[test]
fn a_packet_that_seems_to_arrive_before_it_left_has_no_time() {
    let clocks = plain(0);
    let known = learnt(clocks, &pings(0, 20));
    let (left, arrived) = Passage::new(true, SECOND, 0).seen(clocks);
    let earlier = Moment { time_ns: arrived.time_ns - SECOND, ..arrived };
    assert_eq!(known.latency(left, earlier), Latency::Unknown(NoEstimate::Inconsistent));
}
