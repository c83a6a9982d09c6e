//! How fast one clock gains on another: between which two rates.

use crate::trajectory::clock::envelope::Bound;

/// The most that two clocks may drift apart by, seconds per second. NTP corrects by up to 0.0005; emulated machines
/// were seen to gain 0.01.
pub(super) const MOST: f64 = 0.02;
/// By how much the rate may change within two windows, seconds per second: twice what crystals of two machines usually
/// differ by at all.
pub(super) const WANDER: f64 = 0.0001;

/// The mean rates that stretches of the window may have had, seconds gained per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    least: f64,
    most: f64,
}

impl Default for Rate {
    fn default() -> Self {
        Self { least: -MOST, most: MOST }
    }
}

impl Rate {
    /// Learns from two bounds of what is gained on: not more than `above` at its moment, not less than `below` at its.
    pub(super) fn learn(&mut self, above: Bound, below: Bound) {
        let passed_ns = above.at_ns - below.at_ns;
        let gained_ns = above.ns - below.ns;
        // Both signs turn where the upper bound is the earlier one.
        let rate = gained_ns as f64 / passed_ns as f64;
        match passed_ns {
            1.. => self.most = self.most.min(rate),
            0 => {}
            _ => self.least = self.least.max(rate),
        }
    }

    /// The most that can be gained while `passed_ns` pass, nanoseconds; where these are negative, the most that it can have
    /// been more that much earlier.
    pub(super) fn growth(&self, passed_ns: i64) -> f64 {
        let rate = if passed_ns >= 0 { self.most + WANDER } else { self.least - WANDER };
        passed_ns as f64 * rate
    }

    /// How fast the other clock gains on the one.
    pub(super) fn reversed(self) -> Self {
        Self { least: -self.most, most: -self.least }
    }
}
