//! Which wall-clock time the moments of monotonic clocks are told as.
//!
//! **No jumps.** What is added to a clock's time for the wall clock beside it is taken once and then stays, whatever
//! becomes of that wall clock; that it was set is said. (Correcting its rate, as NTP does, acts on both alike.)
//!
//! **One reference.** Wall clocks of several machines differ. Where the packets tell by how much a clock differs from the
//! reference's, its times are told by the wall clock there; the value moves only when it leaves the
//! middle half of what is possible, so that times do not jitter with the estimate. Else they are told by the wall clock of their own machine.

use std::collections::HashMap;

use crate::trajectory::clock::Offset;
use crate::trajectory::model::ClockId;

/// What a wall clock must be off by to have been set: the two clocks are not read in one moment.
const STEP_NS: u64 = 10_000_000;

/// See the module. Times in nanoseconds, those of wall clocks since 1970.
#[derive(Debug, Default)]
pub struct WallClocks {
    reference: Option<ClockId>,
    clocks: HashMap<ClockId, Known>,
}

/// What is known of a clock; all to be added to its time.
#[derive(Debug, Default)]
struct Known {
    /// For its own wall clock.
    wall_ns: Option<i128>,
    /// The same as last heard.
    heard_ns: Option<i128>,
    /// For the reference's clock.
    reference_ns: Option<i64>,
}

impl WallClocks {
    /// Whose wall clock is told where possible.
    pub fn set_reference(&mut self, clock: ClockId) {
        self.reference = Some(clock);
    }

    #[must_use]
    pub fn reference(&self) -> Option<ClockId> {
        self.reference
    }

    /// What a clock and the wall clock beside it show at one moment. Returns by how much the wall clock was set forward
    /// since the last time, if it was.
    pub fn hear(&mut self, clock: ClockId, monotonic_ns: u64, wall_ns: u64) -> Option<i128> {
        let offset_ns = i128::from(wall_ns) - i128::from(monotonic_ns);
        let known = self.clocks.entry(clock).or_default();
        let Some(before_ns) = known.heard_ns else {
            (known.wall_ns, known.heard_ns) = (Some(offset_ns), Some(offset_ns));
            return None;
        };
        let step_ns = offset_ns - before_ns;
        if step_ns.unsigned_abs() < STEP_NS.into() {
            return None;
        }
        known.heard_ns = Some(offset_ns);
        Some(step_ns)
    }

    /// By how much the reference's clock is ahead of a clock. Returns, the first time, by how much the wall clock there
    /// is ahead of the reference's.
    pub fn align(&mut self, clock: ClockId, reference_ahead: Offset) -> Option<i128> {
        let of_reference_ns = self.clocks.get(&self.reference?)?.wall_ns?;
        let known = self.clocks.entry(clock).or_default();
        let Offset { ns, error_ns } = reference_ahead;
        let (least, most) =
            (ns.saturating_sub_unsigned(error_ns / 2), ns.saturating_add_unsigned(error_ns / 2));
        match &mut known.reference_ns {
            Some(ahead_ns) => {
                *ahead_ns = (*ahead_ns).clamp(least, most);
                None
            }
            unknown => {
                *unknown = Some(ns);
                Some(known.wall_ns? - (i128::from(ns) + of_reference_ns))
            }
        }
    }

    /// The wall-clock time of a moment; 1970 and a bit for a clock of which nothing was heard.
    #[must_use]
    pub fn wall_ns(&self, clock: ClockId, time_ns: u64) -> u64 {
        let wall_ns = i128::from(time_ns) + self.offset_ns(clock).unwrap_or_default();
        u64::try_from(wall_ns).unwrap_or_default()
    }

    /// By how much the times told of a clock are ahead of the wall clock beside it; `None` where they are told by that.
    #[must_use]
    pub fn correction_ns(&self, clock: ClockId) -> Option<i128> {
        let known = self.clocks.get(&clock)?;
        known.reference_ns?;
        Some(self.offset_ns(clock)? - known.wall_ns?)
    }

    fn offset_ns(&self, clock: ClockId) -> Option<i128> {
        let known = self.clocks.get(&clock)?;
        let aligned = || {
            let reference = self.clocks.get(&self.reference?)?;
            Some(i128::from(known.reference_ns?) + reference.wall_ns?)
        };
        aligned().or(known.wall_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOON: u64 = 1_795_313_343 * SECOND;
    const NEAR: ClockId = ClockId(1);
    const FAR: ClockId = ClockId(0);

    #[test]
    fn times_go_on_evenly_when_the_wall_clock_is_set_and_that_is_said_once() {
        for step in [3_600 * SECOND as i64, -20_000_000] {
            let mut clocks = WallClocks::default();
            assert_eq!(clocks.hear(NEAR, 5 * SECOND, NOON), None);
            assert_eq!(clocks.hear(NEAR, 6 * SECOND, NOON + SECOND + 900_000), None, "read a little late");
            let stepped = (NOON + 2 * SECOND).strict_add_signed(step);
            assert_eq!(clocks.hear(NEAR, 7 * SECOND, stepped), Some(i128::from(step)));
            assert_eq!(clocks.hear(NEAR, 8 * SECOND, stepped + SECOND), None);
            assert_eq!(clocks.wall_ns(NEAR, 8 * SECOND), NOON + 3 * SECOND);
        }
    }

    #[test]
    fn a_wall_clock_that_creeps_away_is_said_for_each_step_that_it_adds_up_to() {
        let mut clocks = WallClocks::default();
        let steps = (0..25)
            .filter_map(|turn: u64| clocks.hear(NEAR, turn * SECOND, NOON + turn * (SECOND + 1_000_000)));
        assert_eq!(steps.collect::<Vec<_>>(), [10_000_000, 10_000_000]);
    }

    #[test]
    fn times_of_another_machine_are_told_by_the_reference_as_far_as_it_is_known() {
        let mut clocks = WallClocks::default();
        clocks.set_reference(NEAR);
        // An hour wrong.
        clocks.hear(FAR, 70 * SECOND, NOON + 3_600 * SECOND);
        let offset = |ns, error_ns| Offset { ns, error_ns };
        assert_eq!(clocks.align(FAR, offset(-65 * SECOND as i64, 100)), None, "the reference is not known");
        assert_eq!(clocks.wall_ns(FAR, 70 * SECOND), NOON + 3_600 * SECOND);

        clocks.hear(NEAR, 5 * SECOND, NOON);
        let ahead = clocks.align(FAR, offset(-65 * SECOND as i64, 100));
        assert_eq!(ahead, Some(3_600 * i128::from(SECOND)));
        assert_eq!(clocks.wall_ns(FAR, 70 * SECOND), NOON);
        assert_eq!(clocks.wall_ns(NEAR, 5 * SECOND), NOON);
    }

    #[test]
    fn what_is_not_known_exactly_does_not_make_times_jitter() {
        let mut clocks = WallClocks::default();
        clocks.set_reference(NEAR);
        clocks.hear(NEAR, 0, NOON);
        let mut told = |ns, error_ns| {
            clocks.align(FAR, Offset { ns, error_ns });
            clocks.wall_ns(FAR, SECOND) - NOON - SECOND
        };
        assert_eq!(told(1000, 500), 1000);
        assert_eq!(told(1200, 400), 1000);
        assert_eq!(told(1600, 500), 1350, "as far as it must");
        assert_eq!(told(900, 50), 925);
    }

    #[test]
    fn no_times_are_too_great() {
        let mut clocks = WallClocks::default();
        clocks.set_reference(NEAR);
        clocks.hear(NEAR, 0, u64::MAX);
        clocks.hear(FAR, u64::MAX, 0);
        assert_eq!((clocks.wall_ns(NEAR, u64::MAX), clocks.wall_ns(FAR, 0)), (0, 0));
        clocks.align(FAR, Offset { ns: i64::MIN, error_ns: u64::MAX });
        clocks.align(FAR, Offset { ns: i64::MAX, error_ns: u64::MAX });
    }
}
