//! Times between nodes, compared with those of the one clock that recorded both.

use std::collections::BTreeMap;

use super::{Judgement, Sight, Sights, Unit};
use crate::told::Trajectory;
use crate::truth::{ORIGINAL, Truth};

/// Compares what was told of one packet.
pub(super) fn judge_times(
    judgement: &mut Judgement,
    told: &Trajectory,
    found: &[Option<&Sight>],
    widest: &Widest,
    truth: &Truth,
) {
    for leg in &told.legs {
        let (Some(Some(from)), Some(Some(to))) = (found.get(leg.from), found.get(leg.to)) else { continue };
        if from.stream == to.stream {
            continue;
        }
        let (Some(latency_ns), Some(error_ns)) = (leg.latency_ns, leg.latency_error_ns) else {
            judgement.times.unknown += 1;
            continue;
        };
        let off = i128::from(latency_ns) - (i128::from(to.time_ns) - i128::from(from.time_ns));
        if off.unsigned_abs() <= u128::from(error_ns) {
            judgement.times.inside += 1;
        } else {
            judgement.times.outside += 1;
            let what = format!(
                "told {latency_ns} ns +/- {error_ns} ns from hop {} to hop {}, which is {off} ns off",
                leg.from + 1,
                leg.to + 1
            );
            judgement.wrong(&what, told, found, truth);
        }
        judgement.times.too_wide +=
            usize::from(error_ns > widest.bound_ns && !widest.is_early(from.time_ns.max(to.time_ns)));
    }
}

/// What packets have told of the clocks between these times ago is what a bound can be made of, nanoseconds: clocks drift,
/// and records between two heartbeats come in any order.
const RECENT_NS: u64 = 1_000_000_000;
const KNOWN_NS: u64 = 100_000_000;

/// How wide a bound may be.
pub(super) struct Widest {
    /// Half the least round trip between the nodes, and the jitter: how far 99 of 100 are from the fastest.
    bound_ns: u64,
    /// When packets came that tell of the clocks, from which node, and how long they took.
    crossings: Vec<(u64, usize, u64)>,
}

impl Widest {
    /// `told` with what was recorded at its hops: packets that cannot be told apart tell nothing of the clocks.
    pub(super) fn of<'a>(
        sights: &Sights,
        told: impl Iterator<Item = (&'a Trajectory, Vec<Option<&'a Sight>>)>,
        truth: &Truth,
    ) -> Self {
        let mut crossings: Vec<(u64, usize, u64)> = Vec::new();
        for (told, found) in told.filter(|(told, _)| told.ambiguous.is_none()) {
            let legs =
                told.legs.iter().filter_map(|leg| Some(((*found.get(leg.from)?)?, (*found.get(leg.to)?)?)));
            let across = legs.filter(|(from, to)| from.stream != to.stream);
            let took = |from: &Sight, to: &Sight| to.time_ns.saturating_sub(from.time_ns);
            crossings.extend(across.map(|(from, to)| (to.time_ns, from.stream, took(from, to))));
        }
        Self { bound_ns: widest_bound(sights, truth), crossings }
    }

    /// Whether a packet that came then need not have so narrow a bound: of a burst the first are told before others have
    /// crossed so fast both ways.
    fn is_early(&self, came_ns: u64) -> bool {
        let fastest = |way: usize| {
            let recent = self.crossings.iter().filter(|(at_ns, from, _)| {
                *from == way && (*at_ns + KNOWN_NS..*at_ns + RECENT_NS).contains(&came_ns)
            });
            recent.map(|(.., took_ns)| *took_ns).min()
        };
        !matches!((fastest(0), fastest(1)), (Some(there), Some(back)) if (there + back) / 2 <= self.bound_ns)
    }
}

/// Half the least round trip between the nodes, and the jitter: how far 99 of 100 are from the fastest.
fn widest_bound(sights: &Sights, truth: &Truth) -> u64 {
    // By packet: the last time at the sender's node, the first at the other.
    let mut crossed: BTreeMap<Unit, [Option<(usize, u64)>; 2]> = BTreeMap::new();
    for sight in sights.values() {
        for carried in &sight.carried {
            if truth.emissions[carried.emission as usize].bytes.is_some() {
                continue;
            }
            let here = Some((sight.stream, sight.time_ns));
            let copy = if carried.copy == ORIGINAL { 0 } else { carried.copy };
            let ends = crossed.entry((carried.emission, copy)).or_default();
            if carried.copy == ORIGINAL {
                ends[0] = ends[0].max(here);
            } else {
                ends[1] = ends[1].map_or(here, |known| here.map(|here| known.min(here)));
            }
        }
    }
    let mut times: [Vec<u64>; 2] = Default::default();
    for ends in crossed.values() {
        if let [Some((from, sent_ns)), Some((to, came_ns))] = ends
            && from != to
        {
            times[*from].push(came_ns.saturating_sub(*sent_ns));
        }
    }
    times.iter_mut().for_each(|times| times.sort_unstable());
    let least = |times: &Vec<u64>| times.first().copied().unwrap_or(0);
    let jitter = |times: &Vec<u64>| times.get(times.len() * 99 / 100).map_or(0, |late| late - least(times));
    (least(&times[0]) + least(&times[1])) / 2 + jitter(&times[0]).max(jitter(&times[1]))
}
