//! How far a stream has come, in this machine's time.
//!
//! A heartbeat says: all until this moment of my clock is told. That moment in our time is between the earliest that
//! fits all heartbeats, which the one with the least delay shows, and its arrival. Clocks may run at different rates:
//! what the least delay says is allowed to grow by 2 % of the time that passes, so that a clock that runs slowly does
//! not look like an ever later stream, while a stream that was held up for a while does.
//!
//! The first heartbeats may all be late: both sides are starting. Until there are a few, the moment counts as earlier.

/// By how much two clocks may drift apart: one part in this. NTP corrects up to 1 in 2000; the tick of a clock can be
/// set to differ by 1 in 10.
const DRIFT: u64 = 50;

/// So many heartbeats show the least delay.
const ENOUGH_BEATS: u32 = 5;
/// How late the heartbeats before that may be, nanoseconds.
const LATE_AT_FIRST_NS: i128 = 1_000_000_000;

/// See the module. Times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    beats: u32,
    latest: Option<Beat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beat {
    arrived_ns: u64,
    /// Arrival less the moment in the stream's own clock, the least lately.
    least_delay: i128,
    until_ns: u64,
}

impl Progress {
    /// Takes in a heartbeat.
    pub(super) fn beat(&mut self, theirs_ns: u64, arrived_ns: u64) {
        let delay = i128::from(arrived_ns) - i128::from(theirs_ns);
        let least_delay = self.latest.map_or(delay, |latest| {
            let passed = arrived_ns.saturating_sub(latest.arrived_ns);
            delay.min(latest.least_delay + i128::from(passed / DRIFT))
        });
        self.beats = self.beats.saturating_add(1);
        let allowance = if self.beats < ENOUGH_BEATS { LATE_AT_FIRST_NS } else { 0 };
        let until = i128::from(theirs_ns) + least_delay - allowance;
        let until = u64::try_from(until).unwrap_or(0).min(arrived_ns);
        let until_ns = until.max(self.until_ns().unwrap_or(0));
        self.latest = Some(Beat { arrived_ns, least_delay, until_ns });
    }

    /// All that was seen there before this time of ours is told; `None` before the first heartbeat.
    pub(super) fn until_ns(&self) -> Option<u64> {
        self.latest.map(|latest| latest.until_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_stream_is_as_far_as_its_heartbeat_whatever_its_clock_shows() {
        for offset in [0, 37_000 * MS, 1 << 62] {
            let mut progress = Progress::default();
            assert_eq!(progress.until_ns(), None);
            for at in (1000..1500).step_by(100) {
                progress.beat(offset + at * MS, (at + 5) * MS);
                assert!(progress.until_ns().is_some());
            }
            for at in [1500, 1600, 1700] {
                progress.beat(offset + at * MS, (at + 5) * MS);
                assert_eq!(progress.until_ns(), Some((at + 5) * MS));
            }
        }
    }

    #[test]
    fn a_stream_whose_first_heartbeat_was_late_and_that_stalls_is_not_thought_further_than_it_is() {
        let mut progress = Progress::default();
        progress.beat(1000 * MS, 1900 * MS);
        progress.beat(1000 * MS, 4000 * MS);
        assert!(progress.until_ns().unwrap() <= 1000 * MS);
        for at in (4000..4500).step_by(100) {
            progress.beat(at * MS, (at + 2) * MS);
        }
        assert_eq!(progress.until_ns(), Some(4402 * MS));
    }

    #[test]
    fn heartbeats_that_were_held_up_are_not_taken_for_fresh_ones() {
        let mut progress = Progress::default();
        for at in (1000..2000).step_by(100) {
            progress.beat(at * MS, at * MS);
        }
        // Nothing for two seconds; then what was written meanwhile comes at once.
        progress.beat(2000 * MS, 4000 * MS);
        let until = progress.until_ns().unwrap();
        assert!((2000 * MS..2100 * MS).contains(&until), "{until}");
        progress.beat(3900 * MS, 4001 * MS);
        assert!((3900 * MS..=4001 * MS).contains(&progress.until_ns().unwrap()));
    }

    #[test]
    fn a_clock_that_drifts_by_a_hundredth_stays_current_for_hours() {
        for (numerator, denominator) in [(99, 100), (101, 100)] {
            let mut progress = Progress::default();
            for at in (0..36_000_000).step_by(100) {
                progress.beat(at * MS / denominator * numerator, at * MS);
                let behind = at * MS - progress.until_ns().unwrap();
                assert!(behind < 10 * MS || at < 500, "{behind} ns behind after {at} ms");
            }
        }
    }

    #[test]
    fn time_never_runs_backwards() {
        let mut progress = Progress::default();
        progress.beat(u64::MAX, 10);
        progress.beat(0, 20);
        let before = progress.until_ns();
        progress.beat(u64::MAX, 15);
        assert!(progress.until_ns() >= before);
    }
}
