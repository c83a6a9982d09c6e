//! What is said of clocks while trajectories are told: whose they are, and that two contradict each other or show different
//! wall-clock times.

use std::collections::HashMap;
use std::sync::Arc;

use super::wall::WallClocks;
use crate::app::notice;
use crate::output::text::duration;
use crate::trajectory::clock::{Clocks, Moment};
use crate::trajectory::model::{ClockId, Hop, ObservationPoint, Trajectory};

/// Wall clocks that differ by less are taken for equal.
const SAME_NS: u128 = 1_000_000;

/// Clocks by the nodes whose they are.
#[derive(Debug, Default)]
pub(super) struct ClockNodes {
    /// The first of several nodes on one machine.
    names: HashMap<ClockId, Arc<str>>,
    /// Contradictions said.
    said: u64,
}

impl ClockNodes {
    pub(super) fn learn(&mut self, point: &ObservationPoint) {
        self.names.entry(point.clock).or_insert_with(|| Arc::clone(&point.node));
    }

    /// "node telekom-xwkb3".
    pub(super) fn of(&self, clock: ClockId) -> String {
        self.names.get(&clock).map_or_else(|| "this machine".to_owned(), |name| format!("node {name}"))
    }

    /// Lets the times of a trajectory be told by the reference's wall clock, as far as the difference is known.
    pub(super) fn align(&self, clocks: &Clocks, wall_clocks: &mut WallClocks, trajectory: &Trajectory) {
        let Some(reference) = wall_clocks.reference() else { return };
        let firsts = trajectory.hops.chunk_by(same_clock).filter_map(<[Hop]>::first);
        // The clocks may drift apart while the packet is on one machine. Where it crosses is what counts, and so comes last.
        let crossings = trajectory.hops.windows(2).filter(|pair| !same_clock(&pair[0], &pair[1])).flatten();
        for hop in firsts.chain(crossings) {
            let clock = hop.point.clock;
            if clock == reference {
                continue;
            }
            let Some(offset) = clocks.ahead(reference, Moment { clock, time_ns: hop.time_ns }) else {
                continue;
            };
            let ahead_ns = wall_clocks.align(clock, offset);
            if let Some(ahead_ns) = ahead_ns.filter(|ahead_ns| ahead_ns.unsigned_abs() >= SAME_NS) {
                notice(&format!(
                    "note: the wall clock of {} is {} that of {}: its times are told by the latter",
                    self.of(clock),
                    apart(ahead_ns, "ahead of", "behind"),
                    self.of(reference),
                ));
            }
        }
    }

    /// Says that clocks contradict each other: the first time, the second, the fourth and so on.
    pub(super) fn note_contradictions(&mut self, clocks: &Clocks) {
        let Some(contradictions) = clocks.contradictions() else { return };
        if contradictions.count < (2 * self.said).max(1) {
            return;
        }
        self.said = contradictions.count;
        let [one, other] = contradictions.latest.map(|clock| self.of(clock));
        let times = if self.said == 1 { "once".to_owned() } else { format!("{} times", self.said) };
        notice(&format!(
            "warning: packets between {one} and {other} contradict what was known of the clocks there ({times} in \
             this run, of all clocks): a machine was suspended, or a clock's rate changed. Times between them are \
             unknown until packets have passed both ways again"
        ));
    }
}

fn same_clock(one: &Hop, other: &Hop) -> bool {
    one.point.clock == other.point.clock
}

/// "37.2 s ahead".
pub(super) fn apart(ahead_ns: i128, ahead: &str, behind: &str) -> String {
    let ns = u64::try_from(ahead_ns.unsigned_abs()).unwrap_or(u64::MAX);
    format!("{} {}", duration(ns), if ahead_ns < 0 { behind } else { ahead })
}
