//! How far streams have come, in this machine's time.
//!
//! **Of itself** a heartbeat says: all until this moment of my clock is told. That moment in our time is between the
//! earliest that fits all heartbeats, which the one with the least delay shows, and its arrival. Clocks may run at
//! different rates: what the least delay says is allowed to grow by a little of the time that passes ([`DRIFT`]), so
//! that a clock that runs slowly does not look like an ever later stream, while a stream that was held up does. One that
//! stays late looks like a slow clock in the end.
//!
//! **Of each other** the packets tell: where they show by how much two clocks differ, a heartbeat of the one is a moment
//! of the other, and the later stream is behind by what lies between their heartbeats, for however long.
//!
//! Where packets do not tell yet, nothing shows how late even the least delayed heartbeat was, and a machine that is
//! starved at its start delays all of them. Such a stream counts as earlier by [`UNKNOWN_NS`]: that makes verdicts late,
//! and a lag of less than that makes none wrong. Of a stream alone there is nothing to be late for.

use crate::trajectory::clock::{Moment, Offset};
use crate::trajectory::model::ClockId;

/// By how much two clocks may drift apart: one part in this. NTP corrects each by up to 1 in 2000. A clock that is set
/// right faster than that makes verdicts late, and none wrong.
const DRIFT: u64 = 1000;

/// From how far away the heartbeats of two streams are compared, nanoseconds: further, their drift against our own clock
/// would matter.
const COMPARED_NS: u64 = 10_000_000_000;

/// How late a stream may be of which no packet tells, nanoseconds.
const UNKNOWN_NS: u64 = 1_000_000_000;

/// See the module. Times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    latest: Option<Beat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beat {
    arrived_ns: u64,
    /// Of the stream's own clock.
    theirs_ns: u64,
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
        let until = i128::from(theirs_ns) + least_delay;
        let until = u64::try_from(until).unwrap_or(0).min(arrived_ns);
        let until_ns = until.max(self.until_ns().unwrap_or(0));
        self.latest = Some(Beat { arrived_ns, theirs_ns, least_delay, until_ns });
    }

    /// All that was seen there before this time of ours is told, as far as the stream itself shows; `None` before the
    /// first heartbeat.
    pub(super) fn until_ns(&self) -> Option<u64> {
        self.latest.map(|latest| latest.until_ns)
    }
}

/// How far a stream has come, with what others show of it; `ahead` is what is known of how the clocks differ
/// ([`crate::trajectory::clock::Clocks::ahead`]). `None` before its first heartbeat.
pub(super) fn compared(
    stream: (ClockId, &Progress),
    others: impl Iterator<Item = (ClockId, Progress)>,
    ahead: impl Fn(ClockId, Moment) -> Option<Offset>,
) -> Option<u64> {
    let (clock, Progress { latest, .. }) = stream;
    let latest = latest.as_ref()?;
    let moment = Moment { clock, time_ns: latest.theirs_ns };
    let by_other = |other: ClockId, beat: Beat| {
        let offset = if other == clock { Offset { ns: 0, error_ns: 0 } } else { ahead(other, moment)? };
        // The latest that it can be there.
        let at_ns = latest
            .theirs_ns
            .checked_add_signed(offset.ns)?
            .checked_add(offset.error_ns)
            .filter(|at_ns| at_ns.abs_diff(beat.theirs_ns) < COMPARED_NS)?;
        Some(
            (beat.until_ns + at_ns.saturating_sub(beat.theirs_ns))
                .saturating_sub(beat.theirs_ns.saturating_sub(at_ns)),
        )
    };
    let unknown_ns = latest.until_ns.saturating_sub(UNKNOWN_NS);
    let beating = others.filter_map(|(other, progress)| Some((other, progress.latest?)));
    let shown = beating.map(|(other, beat)| by_other(other, beat).unwrap_or(unknown_ns));
    Some(shown.fold(latest.until_ns, u64::min))
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
            for at in [1000, 1100, 1200] {
                progress.beat(offset + at * MS, (at + 5) * MS);
                assert_eq!(progress.until_ns(), Some((at + 5) * MS));
            }
        }
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
    fn a_clock_that_drifts_by_a_thousandth_stays_current_for_hours() {
        for (numerator, denominator) in [(999, 1000), (1001, 1000)] {
            let mut progress = Progress::default();
            for at in (0..36_000_000).step_by(100) {
                progress.beat(at * MS / denominator * numerator, at * MS);
                let behind = at * MS - progress.until_ns().unwrap();
                assert!(behind < 10 * MS, "{behind} ns behind after {at} ms");
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

    /// By how much a stream is thought to be behind after ten minutes that is late from a moment on, where another one
    /// with a clock of its own is not.
    fn thought_behind(late_ms: u64, from_ms: u64, known: Option<Offset>) -> u64 {
        let (near, far) = (ClockId(0), ClockId(1));
        let (mut first, mut second) = (Progress::default(), Progress::default());
        let hour = 3_600_000 * MS;
        let mut until_ns = 0;
        for at in (1000..600_000).step_by(100) {
            first.beat(at * MS, at * MS);
            let late = if at < from_ms { 0 } else { late_ms };
            second.beat(hour + (at - late) * MS, at * MS);
            let ahead = |other: ClockId, moment: Moment| {
                let sign = if moment.clock == near { 1 } else { -1 };
                assert_ne!(moment.clock, other);
                known.map(|offset| Offset { ns: sign * offset.ns, ..offset })
            };
            until_ns = compared((far, &second), [(near, first)].into_iter(), ahead).unwrap();
            let first = compared((near, &first), [(far, second)].into_iter(), ahead).unwrap();
            assert_eq!(first, (at * MS).saturating_sub(if known.is_some() { 0 } else { UNKNOWN_NS }));
        }
        599_900 * MS - until_ns
    }

    #[test]
    fn a_stream_that_stays_late_stays_behind_where_packets_tell_how_the_clocks_differ() {
        let hour = 3_600_000_000_000_000_i64 / 1000;
        for from_ms in [0, 5000] {
            let late_by = |known| thought_behind(700, from_ms, Some(known));
            assert_eq!(late_by(Offset { ns: hour, error_ns: 0 }), 700 * MS);
            assert_eq!(late_by(Offset { ns: hour, error_ns: 50_000 }), 700 * MS - 50_000);
        }
    }

    #[test]
    fn a_stream_of_which_no_packet_tells_counts_as_behind_from_its_first_heartbeat_on() {
        for from_ms in [0, 5000] {
            let behind = thought_behind(700, from_ms, None);
            assert!((1000 * MS..1200 * MS).contains(&behind), "{behind}");
        }
        let mut alone = Progress::default();
        alone.beat(7, 1000 * MS);
        let own = || std::iter::once((ClockId(0), alone));
        assert_eq!(compared((ClockId(0), &alone), own(), |_, _| None), Some(1000 * MS));
        let other = std::iter::once((ClockId(1), alone));
        assert_eq!(compared((ClockId(0), &alone), own().chain(other), |_, _| None), Some(0));
    }
}
