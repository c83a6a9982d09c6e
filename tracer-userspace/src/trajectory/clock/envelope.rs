//! The closest upper bound of something that changes slowly, from bounds that hold at single moments.
//!
//! A bound is carried to other moments by the most that can have been gained since. It is needless where another one,
//! carried to its moment, is as close: it is so at all moments then. Since the rate may be known less well later, this
//! must be so for any rate at all. What is left is a handful of points; where it is more, the one is forgotten that helps
//! least at the rate that is known.

use crate::trajectory::clock::WINDOW_NS;
use crate::trajectory::clock::rate::Rate;

/// Most bounds that are kept.
const MAX_BOUNDS: usize = 64;

/// A value, nanoseconds, that is not exceeded at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) at_ns: i64,
    pub(super) ns: i64,
}

impl Bound {
    fn carried_to(self, at_ns: i64, rate: &Rate) -> i64 {
        self.ns.saturating_add(rate.growth(at_ns - self.at_ns).ceil() as i64)
    }

    /// The same as a bound from below of the negative value, and the other way round.
    pub(super) fn negated(self) -> Self {
        Self { ns: -self.ns, ..self }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    /// In order of time.
    bounds: Vec<Bound>,
}

impl Envelope {
    pub(super) fn bounds(&self) -> &[Bound] {
        &self.bounds
    }

    /// What is not exceeded at a moment; `None` if no bound is near enough to say so.
    pub(super) fn at(&self, at_ns: i64, rate: &Rate) -> Option<i64> {
        let before = |at_ns: i64| self.bounds.partition_point(|bound| bound.at_ns < at_ns);
        let near = &self.bounds[before(at_ns - WINDOW_NS)..before(at_ns.saturating_add(WINDOW_NS + 1))];
        // Rounded once: this is asked for each packet.
        let base_ns = near.first()?.ns;
        let carried = |bound: &Bound| (bound.ns - base_ns) as f64 + rate.growth(at_ns - bound.at_ns);
        let least = near.iter().map(carried).fold(f64::INFINITY, f64::min);
        Some(base_ns.saturating_add(least.ceil() as i64))
    }

    /// Whether others say as much as this bound.
    pub(super) fn has_as_close(&self, bound: Bound) -> bool {
        self.at(bound.at_ns, &Rate::default()).is_some_and(|ns| ns <= bound.ns)
    }

    /// Adds a bound that is closer at its moment than all others.
    pub(super) fn add(&mut self, bound: Bound, rate: &Rate) {
        self.bounds.retain(|other| other.ns < bound.carried_to(other.at_ns, &Rate::default()));
        let place = self.bounds.partition_point(|other| other.at_ns <= bound.at_ns);
        self.bounds.insert(place, bound);
        if self.bounds.len() > MAX_BOUNDS {
            self.forget_one(rate);
        }
    }

    /// Forgets what is older.
    pub(super) fn forget_before(&mut self, at_ns: i64) {
        let old = self.bounds.partition_point(|bound| bound.at_ns < at_ns);
        self.bounds.drain(..old);
    }

    /// Forgets the bound, not the latest, whose neighbours say nearly the same at its moment.
    fn forget_one(&mut self, rate: &Rate) {
        let help = |place: usize| {
            let bound = self.bounds[place];
            let neighbours = [place.checked_sub(1), Some(place + 1)].into_iter().flatten();
            let without = neighbours.map(|other| self.bounds[other].carried_to(bound.at_ns, rate)).min();
            without.map(|without| without.saturating_sub(bound.ns))
        };
        let least = (0..self.bounds.len().saturating_sub(1)).min_by_key(|place| help(*place));
        if let Some(place) = least {
            self.bounds.remove(place);
        }
    }
}
