//! Path there, application, path back: where the time of an exchange went.
//!
//! ```text
//!              start                     turn
//! request      D1 ── path there ──► ... ── D2 ──┐
//!                                               │ stay
//! answer       D1 ◄── path back ── ...  ── D2 ◄─┘
//!              arrival                   leaving
//! ```
//!
//! D1 is the first device on the request's way that the answer passed too (the requester's own, mostly), D2 the last.
//! Whole and stay are differences of two times at one device, hence of one clock. Whole less stay is the time on both
//! paths. Where D1 and D2 have different clocks, what one clock saw of each path is known; the rest is that of the wires,
//! both ways together, and each way has between none and all of it. Estimates of the clocks' offset narrow that.

use std::sync::Arc;

use crate::trajectory::model::{DeviceRole, Direction, Hop, Latency, ObservationPoint, Trajectory, Verdict};

/// The rates of two clocks are taken to differ by no more than one part of that many. adjtimex(2) slews CLOCK_MONOTONIC by
/// 500 ppm at most, but clocks of emulated machines have been seen to gain 1 %.
const RATE_DIFFERENCE: u64 = 100;

/// Where the time from a request to its answer went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    /// From the request's last byte leaving the requester to the answer's first byte reaching it, nanoseconds, exact.
    pub total_ns: u64,
    /// Of that: until a lost packet was sent again, nanoseconds, exact.
    pub resent_ns: u64,
    /// The rest of it.
    pub split: Result<Split, NoSplit>,
}

/// `total_ns` less `resent_ns`, in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    pub there: Latency,
    /// From the request's arrival to the answer's leaving, nanoseconds, exact.
    pub stay_ns: u64,
    /// Where that was measured.
    pub turn: Turn,
    pub back: Latency,
    /// There and back together. Exact within one clock; else only the difference of the clocks' rates makes it
    /// uncertain.
    pub paths: Latency,
}

/// Where the answer was waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// At the answering pod: the stay is the application's time.
    Pod(Arc<ObservationPoint>),
    /// At another device, behind which nothing was seen: the stay is the application's time and the way beyond.
    Device(Arc<ObservationPoint>),
}

/// Why there are no times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoTimes {
    /// No request was seen.
    NoRequest,
    /// No answer was seen that acknowledges the request.
    NoAnswer,
    /// Answer and request passed no common device.
    NoCommonDevice,
    /// No answer arrived.
    AnswerLost,
    /// The answer came before the request: they were not joined rightly.
    Inconsistent,
}

/// Why times do not split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoSplit {
    /// Nothing but the requester's own device was passed by both.
    OtherEndNotObserved,
    /// The parts are longer than the whole: a clock has been stopped.
    Inconsistent,
}

impl NoTimes {
    /// For people, in a few words.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoRequest => "no request seen",
            Self::NoAnswer => "no answer seen",
            Self::NoCommonDevice => "request and answer passed no common observed device",
            Self::AnswerLost => "the answer was not seen to arrive",
            Self::Inconsistent => "the answer came before the request",
        }
    }
}

impl NoSplit {
    /// For people, in a few words.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::OtherEndNotObserved => "the other end is not observed",
            Self::Inconsistent => "clocks contradict each other",
        }
    }
}

impl Turn {
    /// The observation point where the request arrived.
    #[must_use]
    pub fn point(&self) -> &Arc<ObservationPoint> {
        let (Self::Pod(point) | Self::Device(point)) = self;
        point
    }
}

/// The times between a question and its answer. `asked` are the packets that carried the question's last byte, and
/// `answered` those that carried the answer's first, both in the order in which they were sent.
///
/// # Errors
/// [`NoTimes`].
pub fn measure(asked: &[&Trajectory], answered: &[&Trajectory]) -> Result<Times, NoTimes> {
    let (&first_asked, &first_answered) = match (asked.first(), answered.first()) {
        (None, _) => return Err(NoTimes::NoRequest),
        (_, None) => return Err(NoTimes::NoAnswer),
        (Some(asked), Some(answered)) => (asked, answered),
    };
    let arrived_there = first_to_arrive(asked).unwrap_or(first_asked);
    let arrived_back = first_to_arrive(answered).ok_or(NoTimes::AnswerLost)?;

    let (start, end) = nearest_to_requester(first_asked, arrived_back).ok_or(NoTimes::NoCommonDevice)?;
    let total_ns = end.time_ns.checked_sub(start.time_ns).ok_or(NoTimes::Inconsistent)?;

    let parts = Parts::of(start, end, arrived_there, first_answered, arrived_back);
    let resent = parts.as_ref().map_or((0, 0), |parts| parts.resent_ns(start));
    let split = parts.ok_or(NoSplit::OtherEndNotObserved).and_then(|parts| parts.split(total_ns, resent));
    Ok(Times { total_ns, resent_ns: resent.0 + resent.1, split })
}

fn first_to_arrive<'a>(sent: &[&'a Trajectory]) -> Option<&'a Trajectory> {
    let arrived = |wanted: fn(&Verdict) -> bool| sent.iter().find(|sent| wanted(&sent.verdict)).copied();
    arrived(|verdict| *verdict == Verdict::Delivered)
        .or_else(|| arrived(|verdict| matches!(verdict, Verdict::Unknown { .. })))
}

/// The hops of the question and of the answer at the first device on the question's way that both passed.
fn nearest_to_requester<'a>(asked: &'a Trajectory, answered: &'a Trajectory) -> Option<(&'a Hop, &'a Hop)> {
    asked.hops.iter().find_map(|hop| {
        let back = answered.hops.iter().rev().find(|back| is_way_back(&hop.point, &back.point))?;
        Some((hop, back))
    })
}

/// The indices of the hops at the last device on the question's way that both passed.
fn furthest_from_requester(asked: &Trajectory, answered: &Trajectory) -> Option<(usize, usize)> {
    (0..asked.hops.len()).rev().find_map(|index| {
        let point = &asked.hops[index].point;
        let back = answered.hops.iter().position(|back| is_way_back(point, &back.point))?;
        Some((index, back))
    })
}

/// The same device, the other way.
fn is_way_back(there: &ObservationPoint, back: &ObservationPoint) -> bool {
    is_same_device(there, back) && there.direction != back.direction
}

fn is_same_device(a: &ObservationPoint, b: &ObservationPoint) -> bool {
    a.ifindex == b.ifindex && a.role == b.role && a.node == b.node && a.pod == b.pod && a.device == b.device
}

/// The hops between which the parts are.
struct Parts<'a> {
    there: &'a Trajectory,
    back: &'a Trajectory,
    /// Indices in `there`: at the requester's device and at the turn.
    there_from: usize,
    there_to: usize,
    /// Indices in `back`: at the turn and at the requester's device.
    back_from: usize,
    back_to: usize,
    /// The answer as it left for the first time.
    left: &'a Hop,
}

impl<'a> Parts<'a> {
    fn of(
        start: &Hop,
        end: &Hop,
        there: &'a Trajectory,
        first_answered: &'a Trajectory,
        back: &'a Trajectory,
    ) -> Option<Self> {
        let (there_to, left) = furthest_from_requester(there, first_answered)?;
        let left = &first_answered.hops[left];
        let at = |trajectory: &Trajectory, point: &ObservationPoint| {
            trajectory.hops.iter().position(|hop| hop.point.id == point.id)
        };
        let there_from = at(there, &start.point)?;
        let back_from = at(back, &left.point)?;
        let back_to = at(back, &end.point)?;
        (there_from < there_to && back_from < back_to).then_some(Self {
            there,
            back,
            there_from,
            there_to,
            back_from,
            back_to,
            left,
        })
    }

    /// Until question and answer that arrived were sent, since they were sent first; each in its sender's clock.
    fn resent_ns(&self, start: &Hop) -> (u64, u64) {
        let question = self.there.hops[self.there_from].time_ns.saturating_sub(start.time_ns);
        let answer = self.back.hops[self.back_from].time_ns.saturating_sub(self.left.time_ns);
        (question, answer)
    }

    fn split(&self, total_ns: u64, resent_ns: (u64, u64)) -> Result<Split, NoSplit> {
        let arrival = &self.there.hops[self.there_to];
        let stay_ns = self.left.time_ns.checked_sub(arrival.time_ns).ok_or(NoSplit::Inconsistent)?;
        let point = Arc::clone(&arrival.point);
        let is_entry = matches!(
            (point.role, point.direction),
            (DeviceRole::PodInterface, Direction::Ingress) | (DeviceRole::PodPeer, Direction::Egress)
        );
        let turn = if is_entry { Turn::Pod(point) } else { Turn::Device(point) };

        let there = Path::between(self.there, self.there_from, self.there_to);
        let back = Path::between(self.back, self.back_from, self.back_to);
        let elsewhere_ns = stay_ns + resent_ns.1;
        let measured_ns = elsewhere_ns + resent_ns.0;
        if let (Some(there_ns), Some(back_ns)) = (there.whole_ns, back.whole_ns) {
            let paths_ns = total_ns.checked_sub(measured_ns).ok_or(NoSplit::Inconsistent)?;
            let exact = |ns| Latency::Exact { ns };
            return Ok(Split {
                there: exact(there_ns),
                stay_ns,
                turn,
                back: exact(back_ns),
                paths: exact(paths_ns),
            });
        }
        let slack_ns = elsewhere_ns.div_ceil(RATE_DIFFERENCE);
        let paths_ns = (total_ns + slack_ns).checked_sub(measured_ns).ok_or(NoSplit::Inconsistent)?;
        // The wires, both ways, at most.
        let wires_ns = paths_ns.checked_sub(there.known_ns + back.known_ns).ok_or(NoSplit::Inconsistent)?;
        let (low, high) = wire_there(wires_ns, 2 * slack_ns, there.wire, back.wire);
        let there = (there.known_ns + low, there.known_ns + high);
        let least_back_ns = back.known_ns + wires_ns.saturating_sub(high + 2 * slack_ns);
        let back = (least_back_ns, back.known_ns + wires_ns - low);
        let both =
            (paths_ns.saturating_sub(2 * slack_ns).max(there.0 + back.0), paths_ns.min(there.1 + back.1));
        Ok(Split {
            there: interval(there),
            stay_ns,
            turn,
            back: interval(back),
            paths: interval((both.0.min(both.1), both.1)),
        })
    }
}

/// What is known of the time between two hops of a trajectory.
struct Path {
    /// All of it, where both ends have one clock.
    whole_ns: Option<u64>,
    /// Legs within one clock.
    known_ns: u64,
    /// Legs between clocks, together: at least and at most. `None` without an estimate.
    wire: Option<(u64, u64)>,
}

impl Path {
    fn between(trajectory: &Trajectory, from: usize, to: usize) -> Self {
        let (first, last) = (&trajectory.hops[from], &trajectory.hops[to]);
        let one_clock = first.point.clock == last.point.clock;
        let whole_ns = last.time_ns.checked_sub(first.time_ns).filter(|_| one_clock);
        let (mut known_ns, mut wire) = (0, Some((0, 0)));
        for leg in trajectory.legs.iter().filter(|leg| leg.from >= from && leg.from < to) {
            match leg.latency {
                Latency::Exact { ns } => known_ns += ns,
                Latency::Estimated { ns, error_ns } => {
                    wire = wire.map(|(low, high)| (low + ns.saturating_sub(error_ns), high + ns + error_ns));
                }
                Latency::Unknown(_) => wire = None,
            }
        }
        Self { whole_ns, known_ns, wire }
    }
}

/// What the wires take of the path there, at least and at most, when both ways together take `both_ns` at most and
/// `slack_ns` less at least. Estimates that contradict that are left out.
fn wire_there(
    both_ns: u64,
    slack_ns: u64,
    there: Option<(u64, u64)>,
    back: Option<(u64, u64)>,
) -> (u64, u64) {
    let (mut low, mut high) = (0, both_ns);
    let of_the_way_back = back
        .filter(|(least, _)| *least <= both_ns)
        .map(|(least, most)| (both_ns.saturating_sub(most.saturating_add(slack_ns)), both_ns - least));
    for (least, most) in [there, of_the_way_back].into_iter().flatten() {
        if least.max(low) <= most.min(high) {
            (low, high) = (least.max(low), most.min(high));
        }
    }
    (low, high)
}

fn interval((low, high): (u64, u64)) -> Latency {
    let error_ns = (high - low).div_ceil(2);
    Latency::Estimated { ns: low + error_ns, error_ns }
}
