//! What was told against what is true.

#[cfg(test)]
mod tests;
mod times;
mod twins;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Result, ensure};
use tracer::trajectory::model::{DeviceRole, Direction, Packet};

use self::times::{Widest, judge_times};
use self::twins::Twins;
use crate::change::Clock;
use crate::stream::Stream;
use crate::told::{Hop, Trajectory};
use crate::truth::{Carried, ORIGINAL, Truth};

/// Wrong judgements that are explained in full; the rest is only counted.
const EXPLAINED: usize = 5;

/// How one pass came out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Judgement {
    /// Packets, a copy that the wire made counted as one, of which there are records.
    pub(crate) packets: usize,
    /// Told with all hops and the right verdict.
    pub(crate) right: usize,
    pub(crate) incomplete: usize,
    pub(crate) ambiguous: usize,
    /// Not one hop of it was told.
    pub(crate) untold: usize,
    pub(crate) wrong_joins: usize,
    pub(crate) verdicts_right: usize,
    pub(crate) verdicts_wrong: usize,
    /// Trajectories whose verdict is that it is not known.
    pub(crate) verdicts_unknown: usize,
    pub(crate) times: Times,
    /// Sightings that no capture accounts for.
    pub(crate) unaccounted: usize,
    pub(crate) explanations: Vec<String>,
}

/// Cross-node times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    pub(crate) inside: usize,
    pub(crate) outside: usize,
    pub(crate) unknown: usize,
    /// Inside or not: told with a bound that is wider than half the least round trip and the jitter.
    pub(crate) too_wide: usize,
}

impl Judgement {
    pub(crate) fn is_wrong(&self) -> bool {
        self.wrong_joins + self.verdicts_wrong > 0
    }

    /// Counts the records that no capture accounts for, and shows the first. Neighbours on one bridge ask for each other
    /// of themselves: that is nobody's traffic, and not in the truth.
    fn note_unaccounted(&mut self, streams: &[Stream; 2], truth: &Truth) -> Result<()> {
        for (stream, labels) in streams.iter().zip(&truth.labels) {
            for (sighted, _) in stream.sightings().zip(labels).filter(|(_, carried)| carried.is_empty()) {
                if is_neighbour_discovery(&sighted.packet) {
                    continue;
                }
                self.unaccounted += 1;
                if self.unaccounted <= EXPLAINED {
                    let (point, packet) = (stream.point(sighted)?, &sighted.packet);
                    self.explanations.push(format!(
                        "    of no captured packet: {} at {} {:?} on {}: {:?}",
                        sighted.time_ns, point.device, point.direction, point.node, packet
                    ));
                }
            }
        }
        Ok(())
    }

    /// Says what is true of a packet that was not told whole although all its records came, and what was told.
    fn note_incomplete(&mut self, (emission, copy): Unit, told: &[(&Trajectory, bool)], truth: &Truth) {
        if self.explanations.len() >= EXPLAINED {
            return;
        }
        let known = &truth.emissions[emission as usize];
        let mut text = format!(
            "    not told whole: copy {copy} of {emission}: {}; wire: {}; arrived {:?}\n",
            known.what, known.on_the_wire, known.copies
        );
        for (trajectory, _) in told {
            text += &format!("      told {trajectory}");
            for hop in &trajectory.hops {
                text += &format!("      {} {} {} {}\n", hop.time_ns, hop.place(), hop.device, hop.direction);
            }
        }
        self.explanations.push(text);
    }

    fn wrong(&mut self, what: &str, told: &Trajectory, sights: &[Option<&Sight>], truth: &Truth) {
        if self.explanations.len() >= EXPLAINED {
            return;
        }
        let mut text = format!("    {what}\n      told {told}");
        for (hop, sight) in told.hops.iter().zip(sights) {
            let carried = match sight {
                None => "which was never recorded".to_owned(),
                Some(sight) => format!(
                    "carried {:?}",
                    sight.carried.iter().map(|c| (c.emission, c.copy)).collect::<Vec<_>>()
                ),
            };
            text += &format!(
                "      {} {} {} {}, {carried}\n",
                hop.time_ns,
                hop.place(),
                hop.device,
                hop.direction
            );
        }
        let emissions: BTreeSet<u32> = sights
            .iter()
            .flatten()
            .flat_map(|sight| sight.carried.iter().map(|carried| carried.emission))
            .collect();
        for emission in emissions.into_iter().take(6) {
            let known = &truth.emissions[emission as usize];
            text += &format!(
                "      true {emission}: {}; wire: {}; arrived {:?}\n",
                known.what, known.on_the_wire, known.copies
            );
        }
        self.explanations.push(text);
    }
}

fn is_neighbour_discovery(packet: &Packet) -> bool {
    packet.source.is_ipv6() && packet.icmp.is_some_and(|icmp| (133..=137).contains(&icmp.kind))
}

/// A record, as the judge knows it.
#[derive(Clone, Debug)]
struct Sight {
    stream: usize,
    point: (String, String, String),
    /// By the recorded clock, which is the same for both nodes.
    time_ns: u64,
    carried: Vec<Carried>,
    /// What tells a packet from another one with the same bytes: identification, acknowledgment, timestamps.
    mark: (u32, u32, Option<(u32, u32)>),
}

/// One packet or copy.
type Unit = (u32, u8);

/// Place, device, direction, and the time by the wall clock that tracer is told of.
type Sights = HashMap<(String, String, String, u64), Sight>;

/// The points at which each packet was recorded, with its last time there.
type Expected = BTreeMap<Unit, BTreeMap<(String, String, String), u64>>;

/// Judges what was told of a recording whose clocks were changed like this. Where records were `withheld`, nothing is left
/// to tell the copies of one packet apart by, and parts of a packet may be told apart if one says that records are missing.
///
/// # Errors
/// When a clock makes one time of two.
pub(crate) fn judge(
    told: &[Trajectory],
    streams: &[Stream; 2],
    clocks: &[Clock; 2],
    truth: &Truth,
    withheld: bool,
) -> Result<Judgement> {
    let sights = gather(streams, clocks, truth)?;
    let mut judgement = Judgement::default();
    judgement.note_unaccounted(streams, truth)?;
    let mut expected = expected_points(&sights, truth);
    judgement.packets = expected.len();
    let mut twins = Twins::set_apart(&mut expected, truth);
    let sights_of =
        |told: &Trajectory| told.hops.iter().map(|hop| find(hop, &sights, clocks)).collect::<Vec<_>>();
    let widest = Widest::of(&sights, told.iter().map(|told| (told, sights_of(told))), truth);
    let mut told_of: BTreeMap<Unit, Vec<(&Trajectory, bool)>> = BTreeMap::new();
    for trajectory in told {
        let found = sights_of(trajectory);
        if found.iter().any(Option::is_none) {
            judgement.wrong_joins += 1;
            judgement.wrong("told a hop that was never recorded", trajectory, &found, truth);
            continue;
        }
        let Some(units) = common_units(&found) else { continue };
        judge_times(&mut judgement, trajectory, &found, &widest, truth);
        if twins.take(trajectory, &found) {
            continue;
        }
        let runs_against_time = runs_against_time(trajectory, &found);
        if units.is_empty() || runs_against_time {
            let is_forgiven =
                withheld && !runs_against_time && (is_one_packet(&found) || are_equal(&found, truth));
            if trajectory.ambiguous.is_some() || is_forgiven {
                judgement.ambiguous += 1;
            } else {
                judgement.wrong_joins += 1;
                judgement.wrong("joined hops of different packets", trajectory, &found, truth);
            }
            continue;
        }
        // Of several packets of equal content in one, the one that is told of least is meant.
        let unit =
            units.iter().copied().min_by_key(|unit| told_of.get(unit).map_or(0, Vec::len)).unwrap_or((0, 0));
        let verdict = judge_verdict(trajectory, &found, unit, &units, &expected, truth);
        match verdict {
            Some(true) => judgement.verdicts_right += 1,
            None => judgement.verdicts_unknown += 1,
            Some(false) => {
                judgement.verdicts_wrong += 1;
                judgement.wrong("said what did not happen", trajectory, &found, truth);
            }
        }
        let points: BTreeSet<_> = found.iter().flatten().map(|sight| &sight.point).collect();
        let is_whole =
            expected.get(&unit).is_some_and(|all| all.iter().all(|(point, _)| points.contains(point)));
        let others = told_of.entry(unit).or_default();
        let is_split = units.len() == 1
            && trajectory.ambiguous.is_none()
            && others.iter().any(|(other, _)| {
                has_same_bytes(other, trajectory) && !says_that_records_are_missing([other, trajectory])
            });
        others.push((trajectory, is_whole && verdict == Some(true)));
        if is_split {
            judgement.wrong_joins += 1;
            judgement.wrong("told one packet as two", trajectory, &found, truth);
        } else if trajectory.ambiguous.is_some() {
            judgement.ambiguous += 1;
        }
    }
    for unit in expected.keys() {
        let told = told_of.get(unit).map_or(&[][..], Vec::as_slice);
        if told.iter().any(|(_, right)| *right) {
            judgement.right += 1;
            continue;
        }
        judgement.untold += usize::from(told.is_empty());
        judgement.incomplete += usize::from(!told.is_empty());
        if !withheld {
            judgement.note_incomplete(*unit, told, truth);
        }
    }
    twins.settle(&mut judgement);
    Ok(judgement)
}

/// All records by where and when tracer tells of them.
fn gather(streams: &[Stream; 2], clocks: &[Clock; 2], truth: &Truth) -> Result<Sights> {
    let mut sights = Sights::new();
    for (number, stream) in streams.iter().enumerate() {
        for (sighted, carried) in stream.sightings().zip(&truth.labels[number]) {
            let point = stream.point(sighted)?;
            let place = match &point.pod {
                Some(pod) if point.role == DeviceRole::PodInterface => {
                    format!("{}/{}", pod.namespace, pod.name)
                }
                _ => point.node.to_string(),
            };
            let direction = match point.direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            };
            let point = (place, point.device.to_string(), direction.to_owned());
            let (place, device, direction) = point.clone();
            let shown = clocks[number].wall(sighted.time_ns);
            let packet = &sighted.packet;
            let mark = (packet.identification, packet.acknowledgment, packet.tcp_timestamps);
            let (time_ns, carried) = (sighted.time_ns, carried.clone());
            let sight = Sight { stream: number, point, time_ns, carried: carried.clone(), mark };
            let twin = sights.insert((place, device, direction, shown), sight);
            ensure!(twin.is_none_or(|twin| twin.carried == carried), "two records of one time at one point");
        }
    }
    Ok(sights)
}

/// The record of a hop. Before its stream's first heartbeat tracer does not know a clock's wall time, and prints the bare
/// one.
fn find<'a>(hop: &Hop, sights: &'a Sights, clocks: &[Clock; 2]) -> Option<&'a Sight> {
    let mut key = key(hop);
    let time_ns = key.3;
    let walls = [0].into_iter().chain(clocks.iter().map(|clock| clock.wall_ns));
    walls.map(|wall_ns| time_ns.wrapping_add(wall_ns)).find_map(|time_ns| {
        key.3 = time_ns;
        sights.get(&key)
    })
}

fn key(hop: &Hop) -> (String, String, String, u64) {
    (hop.place(), hop.device.clone(), hop.direction.clone(), hop.time_ns)
}

fn expected_points(sights: &Sights, truth: &Truth) -> Expected {
    let mut expected = Expected::new();
    // Where several packets of equal content cannot be told apart, none is known to have been there.
    let certain = sights.values().filter(|sight| {
        sight.carried.len() == 1
            || sight.carried.iter().all(|c| truth.emissions[c.emission as usize].bytes.is_some())
    });
    for sight in certain {
        for carried in &sight.carried {
            let copy = if carried.copy == ORIGINAL { 0 } else { carried.copy };
            let times = expected.entry((carried.emission, copy)).or_default();
            let last = times.entry(sight.point.clone()).or_default();
            *last = (*last).max(sight.time_ns);
        }
    }
    expected
}

/// The packets that all hops are of; `None` where no hop has a known one.
fn common_units(found: &[Option<&Sight>]) -> Option<Vec<Unit>> {
    let known: Vec<_> = found.iter().flatten().filter(|sight| !sight.carried.is_empty()).collect();
    let first = known.first()?;
    let copies: BTreeSet<Unit> = known
        .iter()
        .flat_map(|sight| sight.carried.iter())
        .filter(|carried| first.carried.iter().any(|of_first| of_first.emission == carried.emission))
        .map(|carried| (carried.emission, if carried.copy == ORIGINAL { 0 } else { carried.copy }))
        .collect();
    // What the sender's node saw is of every copy.
    let is_in = |sight: &Sight, (emission, copy): Unit| {
        let is_of = |c: &Carried| c.emission == emission && (c.copy == ORIGINAL || c.copy == copy);
        sight.carried.iter().any(is_of)
    };
    Some(copies.into_iter().filter(|unit| known.iter().all(|sight| is_in(sight, *unit))).collect())
}

/// Whether all hops are of one packet, whatever copy of it.
fn is_one_packet(found: &[Option<&Sight>]) -> bool {
    let emissions =
        |sight: &&Sight| -> BTreeSet<u32> { sight.carried.iter().map(|carried| carried.emission).collect() };
    let known = found.iter().flatten().filter(|sight| !sight.carried.is_empty());
    known.map(emissions).reduce(|common, of_one| &common & &of_one).is_some_and(|common| !common.is_empty())
}

/// Whether all hops are of packets without identification that carry the same bytes and are marked alike: one that was
/// sent again within a tick of its sender's clock.
fn are_equal(found: &[Option<&Sight>], truth: &Truth) -> bool {
    let known = || found.iter().flatten().filter(|sight| !sight.carried.is_empty());
    let bytes = |sight: &Sight| truth.emissions[sight.carried[0].emission as usize].bytes;
    let Some(first) = known().next() else { return false };
    let is_equal = |sight: &&Sight| {
        let overlap = bytes(first).zip(bytes(sight)).is_some_and(|(first, other)| first.common(other) > 0);
        sight.mark == first.mark && first.mark.0 == 0 && overlap
    };
    known().all(is_equal)
}

/// Whether a later hop has an earlier time by the same clock. Pieces of a packet may overtake each other.
fn runs_against_time(told: &Trajectory, found: &[Option<&Sight>]) -> bool {
    let is_cut = told.tcp.is_some() && told.payload_length > 0;
    let sights = || found.iter().flatten();
    !is_cut
        && (0..2).any(|stream| {
            !sights().filter(|sight| sight.stream == stream).map(|sight| sight.time_ns).is_sorted()
        })
}

fn says_that_records_are_missing(told: [&Trajectory; 2]) -> bool {
    told.iter().any(|told| told.verdict == "unknown" && told.lost_records > 0)
}

/// Whether the verdict is right; `None` where it says that it does not know, or nobody does.
fn judge_verdict(
    told: &Trajectory,
    found: &[Option<&Sight>],
    unit: Unit,
    units: &[Unit],
    expected: &Expected,
    truth: &Truth,
) -> Option<bool> {
    let is_in_doubt = |(emission, copy): &Unit| {
        let known = &truth.emissions[*emission as usize];
        known.copies.get(copy).is_some_and(|arrived| arrived.doubtful)
    };
    if units.iter().any(is_in_doubt) {
        return None;
    }
    let arrived = |unit: &Unit| is_delivered(told, *unit, truth);
    match told.verdict.as_str() {
        "delivered" => Some(units.iter().any(arrived)),
        "lost" => {
            let last =
                expected.get(&unit).and_then(|points| points.iter().max_by_key(|(_, time_ns)| **time_ns));
            let after = told.verdict_detail.as_ref().and_then(|detail| detail.after_hop);
            let said = after.and_then(|hop| found.get(hop).copied().flatten()).map(|sight| &sight.point);
            // Of a packet that was cut, some pieces may have come further than others.
            let is_cut = told.tcp.is_some() && told.payload_length > 0;
            let is_there = is_cut || last.map(|(point, _)| point) == said;
            Some(!units.iter().all(arrived) && is_there)
        }
        // What came to its pod may still find no socket there.
        "dropped" if told.is_dropped_in_its_pod() => Some(units.iter().any(arrived)),
        "dropped" => Some(!units.iter().all(arrived)),
        _ => None,
    }
}

/// Whether all that the trajectory stands for came to its pod.
fn is_delivered(told: &Trajectory, (emission, copy): Unit, truth: &Truth) -> bool {
    let emission = &truth.emissions[emission as usize];
    let Some(arrived) = emission.copies.get(&copy) else { return false };
    match (emission.bytes, &told.tcp) {
        (Some(_), Some(tcp)) => {
            let bytes = crate::content::Bytes { start: tcp.seq, length: told.payload_length };
            bytes.is_covered_by(&arrived.bytes)
        }
        _ => arrived.whole,
    }
}

fn has_same_bytes(a: &Trajectory, b: &Trajectory) -> bool {
    let bytes = |told: &Trajectory| {
        told.tcp
            .as_ref()
            .filter(|_| told.payload_length > 0)
            .map(|tcp| crate::content::Bytes { start: tcp.seq, length: told.payload_length })
    };
    match (bytes(a), bytes(b)) {
        (Some(a), Some(b)) => a.common(b) > 0,
        _ => true,
    }
}
