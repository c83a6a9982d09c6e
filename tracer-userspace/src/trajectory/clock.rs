//! What the clocks of two machines differ by, from the packets that pass between them and nothing else.
//!
//! **What a packet says.** It left a machine when the clock there showed `a` and arrived at another whose clock showed
//! `b` then. Whatever way it took and whatever it waited for, it arrived after it had left: the second clock was ahead
//! of the first by no more than `b - a`. A packet the other way says in the same manner that it was ahead by no less than
//! some value. Between the two lies the truth, and the two are as far from each other as the least times there and back.
//! Which devices saw the packet does not matter for that: between any hop and any later one the time is not negative, and
//! devices close to the wire give the closest bounds by themselves.
//!
//! **Clocks drift.** A bound holds for its own moment. For another one it is carried on at the greatest rate that is
//! possible ([`rate`]): at first the most that any two clocks may drift apart by, soon what the packets of the last
//! [`WINDOW_NS`] allow, and some more for rates that change. At a moment the closest of the bounds so carried holds
//! ([`envelope`]).
//!
//! **Assumptions**, all of them: a packet does not arrive before it has left; the two clocks' rates differ by no more
//! than [`rate::MOST`]; that difference does not change by more than [`rate::WANDER`] within two windows. That the ways there
//! and back take equally long is not among them; how unequal they are nobody can see, and therefore the error is
//! about half of the round trip.
//!
//! **Clocks that stop or step** (a suspended machine) break the last assumption. Bounds from before and after contradict
//! each other then: what was known is forgotten, moments up to then are told as inconsistent, and all begins anew
//! ([`pair`]).
//!
//! Which packets may be learnt from is for the caller to judge: one that was put together wrongly would be a lie. Memory
//! is bounded: [`MAX_PAIRS`], and 128 bounds each.

mod envelope;
mod pair;
mod rate;
#[cfg(test)]
mod tests;

use crate::trajectory::clock::pair::{Interval, Pair, Way};
use crate::trajectory::model::{ClockId, Latency, NoEstimate};
use crate::trajectory::recent::Recent;

/// How long a packet is remembered, and for how far from it it says something, nanoseconds.
pub const WINDOW_NS: i64 = 10_000_000_000;
/// Pairs of clocks that are known at a time; those used last.
const MAX_PAIRS: usize = 4096;
/// Times are below this, 73 years, so that their differences and sums fit.
const MAX_TIME_NS: i64 = 1 << 61;

/// What a clock shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub clock: ClockId,
    /// CLOCK_MONOTONIC of `clock`, nanoseconds.
    pub time_ns: u64,
}

/// By how much another clock is ahead: not further than `error_ns` from `ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    pub ns: i64,
    pub error_ns: u64,
}

/// How often clocks contradicted what was known of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradictions {
    pub count: u64,
    /// The two clocks of the last one.
    pub latest: [ClockId; 2],
}

/// See the module.
#[derive(Debug)]
pub struct Clocks {
    /// By the lower and the higher id.
    pairs: Recent<(ClockId, ClockId), Pair>,
    contradictions: Option<Contradictions>,
}

impl Default for Clocks {
    fn default() -> Self {
        Self { pairs: Recent::new(MAX_PAIRS), contradictions: None }
    }
}

impl Clocks {
    /// Learns from a packet that left at one moment and arrived at the other. In any order; what is older than the
    /// window is of no use.
    pub fn learn(&mut self, left: Moment, arrived: Moment) {
        let Some((key, way, at_ns, ahead_ns)) = crossing(left, arrived) else { return };
        if !self.pairs.entry(key, Pair::default).learn(way, at_ns, ahead_ns) {
            let count = self.contradictions.map_or(0, |known| known.count) + 1;
            self.contradictions = Some(Contradictions { count, latest: [key.0, key.1] });
        }
    }

    /// How long a packet took that left at one moment and arrived at the other; in seconds of the clock with the higher
    /// id where the two clocks differ in that. The whole interval is at or above 0.
    #[must_use]
    pub fn latency(&self, left: Moment, arrived: Moment) -> Latency {
        if left.clock == arrived.clock {
            return Latency::Exact { ns: arrived.time_ns.saturating_sub(left.time_ns) };
        }
        let Some((key, way, at_ns, ahead_ns)) = crossing(left, arrived) else {
            return Latency::Unknown(NoEstimate::Inconsistent);
        };
        let Some(pair) = self.pairs.get(&key) else {
            return Latency::Unknown(NoEstimate::OneDirectionOnly);
        };
        let offset = match pair.ahead(at_ns) {
            Ok(offset) => offset,
            Err(why) => return Latency::Unknown(why),
        };
        let (least, most) = match way {
            Way::There => (ahead_ns - offset.most, ahead_ns - offset.least),
            Way::Back => (offset.least - ahead_ns, offset.most - ahead_ns),
        };
        let (Ok(least), Ok(most)) = (u64::try_from(least.max(0)), u64::try_from(most)) else {
            return Latency::Unknown(NoEstimate::Inconsistent);
        };
        // Rounded up, so that the lower end of what is told is the lower end of what was found.
        let ns = least + (most - least).div_ceil(2);
        Latency::Estimated { ns, error_ns: ns - least }
    }

    /// Whether all is known that helps for a packet between these moments: one the other way was seen since, or no more
    /// can come.
    #[must_use]
    pub fn is_settled(&self, left: Moment, arrived: Moment) -> bool {
        let Some((key, way, at_ns, ahead_ns)) = crossing(left, arrived) else { return true };
        self.pairs.get(&key).is_some_and(|pair| pair.is_settled(way, at_ns, ahead_ns))
    }

    /// By how much `other` is ahead of a clock at a moment of that; `None` where it cannot be told.
    #[must_use]
    pub fn ahead(&self, other: ClockId, moment: Moment) -> Option<Offset> {
        let time_ns = representable(moment.time_ns)?;
        let interval = if moment.clock < other {
            self.pairs.get(&(moment.clock, other))?.ahead(time_ns).ok()?
        } else {
            let Interval { least, most } = self.pairs.get(&(other, moment.clock))?.ahead_when(time_ns)?;
            Interval { least: -most, most: -least }
        };
        let error_ns = (interval.most - interval.least).unsigned_abs().div_ceil(2);
        Some(Offset { ns: interval.least.saturating_add_unsigned(error_ns), error_ns })
    }

    /// How often what was known had to be forgotten; `None` if never.
    #[must_use]
    pub fn contradictions(&self) -> Option<Contradictions> {
        self.contradictions
    }
}

/// The pair, the way, the moment on the clock with the lower id, and what the other one seems to be ahead by.
fn crossing(left: Moment, arrived: Moment) -> Option<((ClockId, ClockId), Way, i64, i64)> {
    let (way, first, second) = match left.clock.cmp(&arrived.clock) {
        std::cmp::Ordering::Less => (Way::There, left, arrived),
        std::cmp::Ordering::Greater => (Way::Back, arrived, left),
        std::cmp::Ordering::Equal => return None,
    };
    let (first_ns, second_ns) = (representable(first.time_ns)?, representable(second.time_ns)?);
    Some(((first.clock, second.clock), way, first_ns, second_ns - first_ns))
}

fn representable(time_ns: u64) -> Option<i64> {
    i64::try_from(time_ns).ok().filter(|time_ns| *time_ns < MAX_TIME_NS)
}
