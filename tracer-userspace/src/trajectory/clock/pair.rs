//! Two clocks: by how much the second is ahead of the first, as a function of the first one's time.

use crate::trajectory::clock::WINDOW_NS;
use crate::trajectory::clock::envelope::{Bound, Envelope};
use crate::trajectory::clock::rate::Rate;
use crate::trajectory::model::NoEstimate;

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the first clock's machine to the second's.
    There,
    Back,
}

/// Between which values something is, both included, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) least: i64,
    pub(super) most: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pair {
    /// By packets there: what the second clock is ahead by.
    above: Envelope,
    /// By packets back: the same, negative.
    below: Envelope,
    rate: Rate,
    /// When the rate was last found from nothing but what is remembered.
    rated_ns: i64,
    /// The latest that was learnt, of the first clock.
    newest_ns: Option<i64>,
    /// When the latest packet each way arrived, of the clock there, whether or not it told anything.
    arrived_ns: [Option<i64>; 2],
    /// Where all began anew after a contradiction: what was before is another matter.
    since_ns: Option<i64>,
}

impl Pair {
    /// Learns that the second clock was ahead by no more (`There`), or no less (`Back`), than `ahead_ns` at a moment of
    /// the first. False if this contradicts what is known, and all begins anew with it.
    pub(super) fn learn(&mut self, way: Way, at_ns: i64, ahead_ns: i64) -> bool {
        if self.is_before_the_beginning(at_ns) || at_ns < self.horizon_ns() {
            return true;
        }
        let is_possible = match way {
            Way::There => self.least(at_ns).is_none_or(|least| least <= ahead_ns),
            Way::Back => self.most(at_ns).is_none_or(|most| ahead_ns <= most),
        };
        if !is_possible {
            *self = Self { since_ns: Some(at_ns), ..Self::default() };
        }
        self.newest_ns = self.newest_ns.max(Some(at_ns));
        let [_, arrived_ns] = times(way, at_ns, ahead_ns);
        let latest_ns = &mut self.arrived_ns[way as usize];
        *latest_ns = (*latest_ns).max(Some(arrived_ns));
        self.take(way, Bound { at_ns, ns: ahead_ns });
        self.forget();
        is_possible
    }

    /// By how much the second clock is ahead when the first shows `at_ns`.
    pub(super) fn ahead(&self, at_ns: i64) -> Result<Interval, NoEstimate> {
        if self.is_before_the_beginning(at_ns) {
            return Err(NoEstimate::Inconsistent);
        }
        match (self.least(at_ns), self.most(at_ns)) {
            (Some(least), Some(most)) if least <= most => Ok(Interval { least, most }),
            (Some(_), Some(_)) => Err(NoEstimate::Inconsistent),
            _ => Err(NoEstimate::OneDirectionOnly),
        }
    }

    /// By how much the second clock is ahead when itself it shows `second_ns`.
    pub(super) fn ahead_when(&self, second_ns: i64) -> Option<Interval> {
        let mut at_ns = self.newest_ns?;
        // What is read at a wrong moment is wrong by the drift since: each turn is closer by two digits.
        for _ in 0..4 {
            let Interval { least, most } = self.ahead(at_ns).ok()?;
            at_ns = second_ns - (least + (most - least) / 2);
        }
        self.ahead(at_ns).ok()
    }

    /// Whether later packets cannot tell much about one that went this way: since it left, one the other way has arrived
    /// where it came from.
    pub(super) fn is_settled(&self, way: Way, at_ns: i64, ahead_ns: i64) -> bool {
        let other = match way {
            Way::There => Way::Back,
            Way::Back => Way::There,
        };
        let [left_ns, _] = times(way, at_ns, ahead_ns);
        self.is_before_the_beginning(at_ns)
            || self.arrived_ns[other as usize].is_some_and(|arrived_ns| arrived_ns >= left_ns)
    }

    /// Bounds in memory.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.above.bounds().len() + self.below.bounds().len()
    }

    fn most(&self, at_ns: i64) -> Option<i64> {
        self.above.at(at_ns, &self.rate)
    }

    fn least(&self, at_ns: i64) -> Option<i64> {
        self.below.at(at_ns, &self.rate.reversed()).map(|negative| -negative)
    }

    fn is_before_the_beginning(&self, at_ns: i64) -> bool {
        self.since_ns.is_some_and(|since_ns| at_ns < since_ns)
    }

    fn horizon_ns(&self) -> i64 {
        self.newest_ns.map_or(i64::MIN, |newest_ns| newest_ns - WINDOW_NS)
    }

    /// Adds a bound, unless others say as much: they say as much about the rate too.
    fn take(&mut self, way: Way, bound: Bound) {
        match way {
            Way::There => {
                if self.above.has_as_close(bound) {
                    return;
                }
                self.below.bounds().iter().for_each(|below| self.rate.learn(bound, below.negated()));
                self.above.add(bound, &self.rate);
            }
            Way::Back => {
                let negated = bound.negated();
                if self.below.has_as_close(negated) {
                    return;
                }
                self.above.bounds().iter().for_each(|above| self.rate.learn(*above, bound));
                self.below.add(negated, &self.rate.reversed());
            }
        }
    }

    /// Forgets bounds that are too old, and from time to time what only they knew of the rate.
    fn forget(&mut self) {
        let horizon_ns = self.horizon_ns();
        self.above.forget_before(horizon_ns);
        self.below.forget_before(horizon_ns);
        if self.rated_ns > horizon_ns + WINDOW_NS / 2 {
            return;
        }
        self.rated_ns = horizon_ns + WINDOW_NS;
        self.rate = Rate::default();
        for above in self.above.bounds() {
            for below in self.below.bounds() {
                self.rate.learn(*above, below.negated());
            }
        }
    }
}

/// When a packet left and arrived, each of the clock there.
fn times(way: Way, at_ns: i64, ahead_ns: i64) -> [i64; 2] {
    match way {
        Way::There => [at_ns, at_ns + ahead_ns],
        Way::Back => [at_ns + ahead_ns, at_ns],
    }
}
