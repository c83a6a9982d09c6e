//! What a pass changes in recorded streams before they are joined: the clocks, which records come, and in which order.

use std::collections::BTreeMap;

use tracer::stream::{Counts, Heartbeat, Sighted};
use tracer::trajectory::model::DropSighting;
use tracer_lab::Chance;

use crate::stream::{Item, Stream};

/// How a stream's clock shows other times than it was recorded with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Clock {
    /// When the recording began, nanoseconds of the recorded clock.
    pub(crate) origin_ns: u64,
    pub(crate) offset_ns: i64,
    /// Nanoseconds too many in a billion.
    pub(crate) drift_ppb: i64,
    /// What is added for the wall clock: the same for the whole stream, so that a told time leads back to its record.
    pub(crate) wall_ns: u64,
}

impl Clock {
    /// What the changed clock shows at a recorded time.
    pub(crate) fn shown(&self, recorded_ns: u64) -> u64 {
        let passed = i128::from(recorded_ns) - i128::from(self.origin_ns);
        let drift = passed * i128::from(self.drift_ppb) / 1_000_000_000;
        let shown = i128::from(recorded_ns) + i128::from(self.offset_ns) + drift;
        u64::try_from(shown).unwrap_or(0)
    }

    /// The wall clock beside it.
    pub(crate) fn wall(&self, recorded_ns: u64) -> u64 {
        self.shown(recorded_ns).wrapping_add(self.wall_ns)
    }
}

/// One way to hand a recording over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pass {
    pub(crate) name: &'static str,
    /// Share of the records that are withheld and told as lost.
    pub(crate) withheld: f64,
    /// Records of different packets between two heartbeats come in any order.
    pub(crate) shuffled: bool,
    /// So long the second node's stream is held up when a third of it has come; in milliseconds.
    pub(crate) late_ms: u64,
}

pub(crate) const PASSES: [Pass; 5] = [
    Pass { name: "all records", withheld: 0.0, shuffled: false, late_ms: 0 },
    Pass { name: "out of order", withheld: 0.0, shuffled: true, late_ms: 700 },
    Pass { name: "1 % withheld", withheld: 0.01, shuffled: false, late_ms: 0 },
    Pass { name: "10 % withheld", withheld: 0.1, shuffled: false, late_ms: 0 },
    Pass { name: "50 % withheld", withheld: 0.5, shuffled: false, late_ms: 0 },
];

/// The stream with another clock, and without what the pass withholds; a reader cannot tell it from a real one. Also
/// how many records were withheld.
pub(crate) fn changed(
    stream: &Stream,
    clock: &Clock,
    boot: &str,
    pass: &Pass,
    chance: &mut Chance,
) -> (Stream, u64) {
    let mut changed =
        Stream { hello: stream.hello.clone(), items: Vec::new(), points: stream.points.clone() };
    boot.clone_into(&mut changed.hello.boot_id);
    changed.hello.wall_ns = clock.wall(stream.hello.monotonic_ns);
    changed.hello.monotonic_ns = clock.shown(stream.hello.monotonic_ns);
    let (mut withheld, mut told) = (0, 0);
    let mut counts = Counts::default();
    let mut waiting = Vec::new();
    for item in &stream.items {
        match item {
            Item::Sighting(number, sighted) => {
                if chance.happens(pass.withheld) {
                    withheld += 1;
                    continue;
                }
                let sighted = Sighted { time_ns: clock.shown(sighted.time_ns), ..(**sighted).clone() };
                waiting.push(Item::Sighting(*number, Box::new(sighted)));
                continue;
            }
            Item::Counts(recorded) => counts = recorded.clone(),
            Item::Point { .. } | Item::Gone(_) | Item::Drop(_) | Item::Heartbeat(_) | Item::End(_) => {}
        }
        if pass.shuffled {
            shuffle(&mut waiting, chance);
        }
        changed.items.append(&mut waiting);
        match item {
            Item::Heartbeat(heartbeat) => {
                if withheld > told {
                    changed.items.push(Item::Counts(with_losses(&counts, withheld)));
                    told = withheld;
                }
                changed.items.push(Item::Heartbeat(Heartbeat {
                    monotonic_ns: clock.shown(heartbeat.monotonic_ns),
                    wall_ns: clock.wall(heartbeat.monotonic_ns),
                }));
            }
            Item::Counts(_) => changed.items.push(Item::Counts(with_losses(&counts, withheld))),
            Item::Point { point, since_ns } => {
                changed.items.push(Item::Point { point: point.clone(), since_ns: clock.shown(*since_ns) })
            }
            Item::Drop(drop) => {
                let time_ns = clock.shown(drop.time_ns);
                changed.items.push(Item::Drop(Box::new(DropSighting { time_ns, ..(**drop).clone() })));
            }
            other => changed.items.push(other.clone()),
        }
    }
    (changed, withheld)
}

/// The totals as they were, with records that the ring had no room for.
fn with_losses(counts: &Counts, withheld: u64) -> Counts {
    let mut counts = counts.clone();
    counts.losses.ring_full += withheld;
    counts
}

/// Any order, in which only the records of one packet stay as they were: the kernel has written each before the packet
/// went on.
fn shuffle(items: &mut [Item], chance: &mut Chance) {
    let key = |item: &Item| match item {
        Item::Sighting(number, sighted) => (sighted.packet.fingerprint, *number),
        _ => (0, 0),
    };
    for last in (1..items.len()).rev() {
        items.swap(last, chance.below(last as u64 + 1) as usize);
    }
    let mut places: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (place, item) in items.iter().enumerate() {
        places.entry(key(item).0).or_default().push(place);
    }
    let mut sorted = items.to_vec();
    for places in places.into_values() {
        let mut of_packet: Vec<_> = places.iter().map(|place| items[*place].clone()).collect();
        of_packet.sort_by_key(key);
        for (place, item) in places.into_iter().zip(of_packet) {
            sorted[place] = item;
        }
    }
    items.clone_from_slice(&sorted);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_its_offset_and_drifts_from_its_origin() {
        let clock = Clock { origin_ns: 1_000, offset_ns: -400, drift_ppb: 1_000_000, wall_ns: 7 };
        assert_eq!(clock.shown(1_000), 600);
        assert_eq!(clock.shown(1_001_000), 600 + 1_000_000 + 1_000);
        assert_eq!(clock.wall(1_000), 607);
    }

    #[test]
    fn time_does_not_run_backwards_under_a_slow_clock() {
        let clock = Clock { origin_ns: 0, offset_ns: 0, drift_ppb: -100_000, wall_ns: 0 };
        let shown: Vec<_> = (0..100_000).map(|at| clock.shown(at)).collect();
        assert!(shown.is_sorted());
    }
}
