//! The figures of each leg: how often it was passed, what was lost on it, how long it took.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::output::histogram::Histogram;
use crate::output::text::duration;
use crate::trajectory::hash::FastState;
use crate::trajectory::model::{
    DeviceRole, Direction, Latency, ObservationPoint, PointId, Trajectory, Verdict,
};

/// Most different legs that have figures of their own.
const MAX_LEGS: usize = 512;
/// Most pairs of points whose leg is remembered.
const MAX_PASSED: usize = 4096;

/// One end of a leg. Devices of pods go by role, so that many pods of a node share their legs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LegEnd {
    node: Arc<str>,
    role: DeviceRole,
    device: Option<Arc<str>>,
    direction: Direction,
}

#[derive(Default)]
struct Figures {
    histogram: Histogram,
    /// Times that the leg was passed but its ends have clocks that cannot be compared.
    unknown: u64,
    /// Packets lost or dropped behind the leg's first end.
    lost: u64,
    /// The largest error of an estimate; 0 where all are exact.
    error_ns: u64,
}

/// A leg, or what was lost behind a hop from which no leg, or more than one, goes on.
type LegKey = (LegEnd, Option<LegEnd>);

/// See the module.
#[derive(Default)]
pub(super) struct Legs {
    /// In the order in which they were first passed, which is mostly that of the way.
    legs: Vec<(LegKey, Figures)>,
    /// Where in `legs` a leg is.
    places: HashMap<LegKey, usize>,
    /// The same for pairs of points, so that a passage costs no names. A point keeps its node, device and role.
    passed: HashMap<(PointId, PointId), Option<usize>, FastState>,
    /// Packets whose last hop was this, and which should have gone on.
    lost_after: HashMap<LegEnd, u64>,
    others: u64,
}

impl Legs {
    pub(super) fn add(&mut self, trajectory: &Trajectory) {
        for leg in &trajectory.legs {
            let hops = (trajectory.hops.get(leg.from), trajectory.hops.get(leg.from + 1));
            let (Some(from), Some(to)) = hops else { continue };
            let Some(place) = self.place(&from.point, &to.point) else {
                self.others += 1;
                continue;
            };
            let Some((_, figures)) = self.legs.get_mut(place) else { continue };
            match leg.latency {
                Latency::Exact { ns } => figures.histogram.record(ns),
                Latency::Estimated { ns, error_ns } => {
                    figures.histogram.record(ns);
                    figures.error_ns = figures.error_ns.max(error_ns);
                }
                Latency::Unknown(_) => figures.unknown += 1,
            }
        }
        let last = match &trajectory.verdict {
            Verdict::Dropped(dropped) => dropped.after.and_then(|index| trajectory.hops.get(index)),
            Verdict::Lost { after, .. } => trajectory.hops.iter().rfind(|hop| hop.point.id == *after),
            Verdict::Delivered | Verdict::Unknown { .. } => None,
        };
        if let Some(last) = last {
            let end = LegEnd::of(&last.point);
            if self.lost_after.len() < MAX_LEGS || self.lost_after.contains_key(&end) {
                *self.lost_after.entry(end).or_default() += 1;
            } else {
                self.others += 1;
            }
        }
    }

    /// Where the leg between two points has its figures; `None` for one too many.
    fn place(&mut self, from: &ObservationPoint, to: &ObservationPoint) -> Option<usize> {
        if let Some(place) = self.passed.get(&(from.id, to.id)) {
            return *place;
        }
        let key = (LegEnd::of(from), Some(LegEnd::of(to)));
        let place = self.places.get(&key).copied().or_else(|| {
            (self.legs.len() < MAX_LEGS).then(|| {
                self.legs.push((key.clone(), Figures::default()));
                self.places.insert(key, self.legs.len() - 1);
                self.legs.len() - 1
            })
        });
        if self.passed.len() >= MAX_PASSED {
            self.passed.clear();
        }
        self.passed.insert((from.id, to.id), place);
        place
    }

    /// Passages and losses that no leg of the table has.
    pub(super) fn others(&self) -> u64 {
        self.others
    }

    /// In the order of the way, with losses where they belong: on the only leg that goes on from where a packet was seen
    /// last; where there is none, or where several do, on a row of their own.
    fn rows(&self) -> Vec<(LegKey, Figures)> {
        let mut rows: Vec<(LegKey, Figures)> = self
            .legs
            .iter()
            .map(|(key, figures)| {
                let Figures { ref histogram, unknown, error_ns, .. } = *figures;
                (key.clone(), Figures { histogram: histogram.clone(), unknown, error_ns, lost: 0 })
            })
            .collect();
        let mut lost: Vec<_> = self.lost_after.iter().collect();
        lost.sort_by_key(|(end, _)| end.name());
        for (end, &count) in lost {
            let mut from_here = rows.iter().enumerate().filter(|(_, ((from, _), _))| from == end);
            match (from_here.next().map(|(index, _)| index), from_here.next_back().map(|(index, _)| index)) {
                (Some(only), None) => rows[only].1.lost += count,
                (first, last) => {
                    let at = last.or(first).map_or(rows.len(), |index| index + 1);
                    rows.insert(at, ((end.clone(), None), Figures { lost: count, ..Figures::default() }));
                }
            }
        }
        rows
    }

    /// Writes the table and which leg is the slowest.
    pub(super) fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        let rows = self.rows();
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let error = if rows.iter().any(|(_, figures)| figures.error_ns > 0) { "+/-" } else { "" };
        table.set_header(["leg", "", "count", "lost", "p50", "p90", "p99", "max", error]);
        for ((from, to), figures) in &rows {
            let histogram = &figures.histogram;
            let is_passed = histogram.count() + figures.unknown > 0;
            let absent = if is_passed { "unknown" } else { "" };
            let cell = |value: Option<u64>| value.map_or_else(|| absent.to_owned(), duration);
            table.add_row([
                from.name(),
                to.as_ref().map_or_else(|| "-> (none)".to_owned(), |to| format!("-> {}", to.name())),
                (histogram.count() + figures.unknown).to_string(),
                figures.lost.to_string(),
                cell(histogram.percentile(50)),
                cell(histogram.percentile(90)),
                cell(histogram.percentile(99)),
                cell(histogram.max()),
                if figures.error_ns > 0 { duration(figures.error_ns) } else { String::new() },
            ]);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for line in table.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        self.write_remarks(out, &rows)
    }

    fn write_remarks(&self, out: &mut impl Write, rows: &[(LegKey, Figures)]) -> io::Result<()> {
        if let Some((index, p99_ns)) = slowest(rows) {
            let ((from, to), figures) = &rows[index];
            let to = to.as_ref().map_or_else(String::new, LegEnd::name);
            let error = match figures.error_ns {
                0 => String::new(),
                error_ns => format!(" +/- {}", duration(error_ns)),
            };
            writeln!(out, "slowest: {} -> {to}, p99 {}{error}", from.name(), duration(p99_ns))?;
        }
        if rows.iter().any(|(_, figures)| figures.unknown > 0) {
            writeln!(out, "unknown: the clocks of the leg's two nodes could not be compared")?;
        }
        if rows.iter().any(|(_, figures)| figures.error_ns > 0) {
            writeln!(
                out,
                "+/-: the largest error of an estimate between two clocks; times without it are exact"
            )?;
        }
        if self.others > 0 {
            writeln!(out, "{} passages of further legs are not listed", self.others)?;
        }
        Ok(())
    }

    /// For JSON: the legs, the index of the slowest, and what was lost behind hops from which no leg, or more than one,
    /// goes on.
    pub(super) fn lines(&self) -> (Vec<LegLine>, Option<usize>, Vec<LostLine>) {
        let (legs, rest): (Vec<_>, Vec<_>) = self.rows().into_iter().partition(|((_, to), _)| to.is_some());
        let slowest = slowest(&legs).map(|(index, _)| index);
        let lines = legs.into_iter().filter_map(|((from, to), figures)| Some(line(from, to?, &figures)));
        let lost =
            rest.into_iter().map(|((from, _), figures)| LostLine { from: end(from), lost: figures.lost });
        (lines.collect(), slowest, lost.collect())
    }
}

/// The leg with the largest 99th percentile, and that.
fn slowest(rows: &[(LegKey, Figures)]) -> Option<(usize, u64)> {
    let p99 = |(index, (_, figures)): (usize, &(LegKey, Figures))| {
        figures.histogram.percentile(99).map(|p99_ns| (index, p99_ns))
    };
    rows.iter().enumerate().filter_map(p99).reduce(|a, b| if b.1 > a.1 { b } else { a })
}

impl LegEnd {
    fn of(point: &ObservationPoint) -> Self {
        let named = !matches!(point.role, DeviceRole::PodInterface | DeviceRole::PodPeer);
        Self {
            node: point.node.clone(),
            role: point.role,
            device: named.then(|| point.device.clone()),
            direction: point.direction,
        }
    }

    fn name(&self) -> String {
        let device = match (&self.device, self.role) {
            (Some(device), _) => device,
            (None, DeviceRole::PodInterface) => "pod's interface",
            (None, _) => "pod's veth peer",
        };
        let direction = match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        format!("{} {device} {direction}", self.node)
    }
}

#[derive(Serialize)]
pub(super) struct LegLine {
    from: EndLine,
    to: EndLine,
    count: u64,
    lost: u64,
    unknown: u64,
    p50_ns: Option<u64>,
    p90_ns: Option<u64>,
    p99_ns: Option<u64>,
    max_ns: Option<u64>,
    max_error_ns: u64,
}

#[derive(Serialize)]
pub(super) struct LostLine {
    from: EndLine,
    lost: u64,
}

#[derive(Serialize)]
struct EndLine {
    node: String,
    role: DeviceRole,
    device: Option<String>,
    direction: Direction,
}

fn end(LegEnd { node, role, device, direction }: LegEnd) -> EndLine {
    EndLine { node: node.to_string(), role, device: device.map(|device| device.to_string()), direction }
}

fn line(from: LegEnd, to: LegEnd, figures: &Figures) -> LegLine {
    LegLine {
        from: end(from),
        to: end(to),
        count: figures.histogram.count() + figures.unknown,
        lost: figures.lost,
        unknown: figures.unknown,
        p50_ns: figures.histogram.percentile(50),
        p90_ns: figures.histogram.percentile(90),
        p99_ns: figures.histogram.percentile(99),
        max_ns: figures.histogram.max(),
        max_error_ns: figures.error_ns,
    }
}
