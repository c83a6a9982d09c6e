//! Packets of the very same content, addresses, identification and all: nothing tells them apart but the place in a queue.
//! Which of them a trajectory shows is not judged. How many are told as delivered and as lost is.

use std::collections::{BTreeMap, BTreeSet};

use super::{Expected, Judgement, Sight};
use crate::told::Trajectory;
use crate::truth::Truth;

type Point = (String, String, String);

/// All groups of such packets.
pub(super) struct Twins<'a> {
    truth: &'a Truth,
    groups: BTreeMap<u32, Group>,
}

#[derive(Default)]
struct Group {
    /// The points of each packet or copy, and whether it was delivered.
    packets: Vec<(BTreeSet<Point>, bool)>,
    /// How many more there were that were delivered, and that were not: of these no record is known to be theirs.
    unplaced: [usize; 2],
    told: Told,
}

#[derive(Default)]
struct Told {
    delivered: usize,
    lost: usize,
    unknown: usize,
    ambiguous: usize,
    /// With all points of one of the packets, and a verdict.
    complete: usize,
    /// For explanations.
    examples: Vec<String>,
}

impl<'a> Twins<'a> {
    /// Takes those packets out of what is expected of each packet alone. Data that may be cut stays there: its bytes tell
    /// whether it arrived.
    pub(super) fn set_apart(expected: &mut Expected, truth: &'a Truth) -> Self {
        let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
        for emission in truth.emissions.iter().filter(|emission| emission.bytes.is_none()) {
            *sizes.entry(emission.twin).or_default() += 1;
        }
        let mut groups: BTreeMap<u32, Group> = BTreeMap::new();
        expected.retain(|(emission, copy), points| {
            let emission = &truth.emissions[*emission as usize];
            if sizes.get(&emission.twin).is_none_or(|size| *size < 2) || emission.bytes.is_some() {
                return true;
            }
            let delivered = emission.copies.get(copy).is_some_and(|arrived| arrived.whole);
            let points = points.keys().cloned().collect();
            groups.entry(emission.twin).or_default().packets.push((points, delivered));
            false
        });
        for (twin, group) in &mut groups {
            let all = truth.emissions.iter().filter(|emission| emission.twin == *twin);
            let delivered = all.clone().flat_map(|emission| emission.copies.values());
            let delivered = delivered.filter(|arrived| arrived.whole).count();
            let lost = all.filter(|emission| !emission.copies.values().any(|arrived| arrived.whole)).count();
            let placed = group.packets.iter().filter(|(_, delivered)| *delivered).count();
            group.unplaced =
                [delivered.saturating_sub(placed), lost.saturating_sub(group.packets.len() - placed)];
        }
        Self { truth, groups }
    }

    /// Counts what was told of such packets; whether it was of such.
    pub(super) fn take(&mut self, trajectory: &Trajectory, found: &[Option<&Sight>]) -> bool {
        let of = |sight: &&Sight| -> BTreeSet<u32> {
            sight.carried.iter().map(|carried| self.truth.emissions[carried.emission as usize].twin).collect()
        };
        let known: Vec<_> = found.iter().flatten().filter(|sight| !sight.carried.is_empty()).collect();
        let Some(first) = known.first().map(|sight| of(sight)) else { return false };
        let common: BTreeSet<u32> =
            known.iter().map(|sight| of(sight)).fold(first, |common, twins| &common & &twins);
        let Some(group) = common.into_iter().next().and_then(|twin| self.groups.get_mut(&twin)) else {
            return false;
        };
        let points: BTreeSet<_> = found.iter().flatten().map(|sight| sight.point.clone()).collect();
        let told = &mut group.told;
        told.ambiguous += usize::from(trajectory.ambiguous.is_some());
        match trajectory.verdict.as_str() {
            "delivered" => told.delivered += 1,
            "dropped" if trajectory.is_dropped_in_its_pod() => told.delivered += 1,
            "lost" | "dropped" => told.lost += 1,
            _ => told.unknown += 1,
        }
        let is_known = trajectory.verdict != "unknown";
        told.complete += usize::from(is_known && group.packets.iter().any(|(all, _)| *all == points));
        if told.examples.len() < 3 {
            told.examples.push(trajectory.to_string());
        }
        true
    }

    /// Adds what came of all of them.
    pub(super) fn settle(self, judgement: &mut Judgement) {
        for (twin, Group { packets, unplaced, told }) in self.groups {
            let delivered = packets.iter().filter(|(_, delivered)| *delivered).count();
            let lost = packets.len() - delivered;
            let wrong = told.delivered.saturating_sub(delivered + unplaced[0])
                + told.lost.saturating_sub(lost + unplaced[1]);
            judgement.verdicts_wrong += wrong;
            judgement.verdicts_right += told.delivered.min(delivered) + told.lost.min(lost);
            judgement.verdicts_unknown += told.unknown;
            judgement.ambiguous += told.ambiguous;
            let right = told.complete.min(packets.len());
            let all = (told.delivered + told.lost + told.unknown).min(packets.len());
            judgement.right += right;
            judgement.incomplete += all.saturating_sub(right);
            judgement.untold += packets.len() - all.max(right);
            if wrong > 0 && judgement.explanations.len() < super::EXPLAINED {
                judgement.explanations.push(format!(
                    "    of {} packets like {}, {delivered} were delivered and {lost} lost; told were {} and {}, among them\n      {}",
                    packets.len(),
                    self.truth.emissions[twin as usize].what,
                    told.delivered,
                    told.lost,
                    told.examples.concat()
                ));
            }
        }
    }
}
