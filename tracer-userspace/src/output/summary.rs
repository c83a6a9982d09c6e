//! What a run showed as a whole: legs, verdicts, losses. Memory is bounded: one histogram per leg, and a limit on
//! the number of legs.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::sync::Arc;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::output::histogram::{Histogram, RELATIVE_ERROR};
use crate::output::text::duration;
use crate::trajectory::model::{DeviceRole, Direction, Latency, ObservationPoint, Trajectory, Verdict};

/// The version of the JSON form.
pub const SCHEMA: &str = "tracer.summary/v1";

/// Most different legs that have figures of their own.
const MAX_LEGS: usize = 512;

/// One end of a leg. Devices of pods go by role, so that many pods of a node share their legs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LegEnd {
    node: Arc<str>,
    role: DeviceRole,
    device: Option<Arc<str>>,
    direction: Direction,
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

/// What was lost or left out on the way from kernel to output, by stage. All zero means that the answer is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LossTotals {
    /// Records that the kernel's ring buffer had no room for.
    pub ring_full: u64,
    /// Records that a channel in this process had no room for.
    pub channel_full: u64,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Records of a device that this run did not attach to.
    pub unattributed: u64,
    /// Drops that the kernel could not tell.
    pub drop_records: u64,
    /// Drops in network namespaces that are no node's and no pod's; nothing is lost with them.
    pub drops_elsewhere: u64,
    /// Packets dropped from the correlator's memory before they were complete.
    pub evicted: u64,
    /// Packets of others that were recorded because they share an address (NAT); nothing is lost with them.
    pub unrelated: u64,
}

/// A stream that was read, and why nothing more came from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamEnd {
    /// Where it was read.
    pub path: String,
    /// The nodes that it stands for; empty if it said nothing.
    pub nodes: Vec<String>,
    /// Of the machine that wrote it; empty if it said nothing.
    pub kernel: String,
    pub end: String,
}

/// Packets at all hooks by outcome: stable name and count. Their sum is what passed the hooks.
pub type HookCounts = [(&'static str, u64)];

#[derive(Default)]
struct LegFigures {
    /// Legs are listed in the order in which they were first passed, which is mostly that of the way.
    rank: usize,
    histogram: Histogram,
    /// Times that the leg was passed but its ends have clocks that cannot be compared.
    unknown: u64,
}

/// Collects what is shown at the end of a run.
#[derive(Default)]
pub struct Summary {
    legs: HashMap<(LegEnd, LegEnd), LegFigures>,
    other_legs: u64,
    delivered: u64,
    dropped: u64,
    lost: u64,
    unknown: u64,
    ambiguous: u64,
    retransmissions: u64,
}

impl Summary {
    /// Takes in one trajectory.
    pub fn add(&mut self, trajectory: &Trajectory) {
        match trajectory.verdict {
            Verdict::Delivered => self.delivered += 1,
            Verdict::Dropped(_) => self.dropped += 1,
            Verdict::Lost { .. } => self.lost += 1,
            Verdict::Unknown { .. } => self.unknown += 1,
        }
        self.ambiguous += u64::from(trajectory.ambiguous.is_some());
        self.retransmissions += u64::from(trajectory.retransmission_of.is_some());
        for leg in &trajectory.legs {
            let (Some(from), Some(to)) = (trajectory.hops.get(leg.from), trajectory.hops.get(leg.from + 1))
            else {
                continue;
            };
            let key = (LegEnd::of(&from.point), LegEnd::of(&to.point));
            if self.legs.len() >= MAX_LEGS && !self.legs.contains_key(&key) {
                self.other_legs += 1;
                continue;
            }
            let rank = self.legs.len();
            let figures =
                self.legs.entry(key).or_insert_with(|| LegFigures { rank, ..LegFigures::default() });
            match leg.latency {
                Latency::Exact { ns } | Latency::Estimated { ns, .. } => figures.histogram.record(ns),
                Latency::Unknown(_) => figures.unknown += 1,
            }
        }
    }

    fn total(&self) -> u64 {
        self.delivered + self.dropped + self.lost + self.unknown
    }

    fn in_order(&self) -> Vec<(&(LegEnd, LegEnd), &LegFigures)> {
        let mut legs: Vec<_> = self.legs.iter().collect();
        legs.sort_by_key(|(_, figures)| figures.rank);
        legs
    }

    /// Writes tables for people.
    ///
    /// # Errors
    /// What `out` returns.
    pub fn write_text(
        &self,
        out: &mut impl Write,
        hooks: &HookCounts,
        losses: &LossTotals,
        streams: &[StreamEnd],
    ) -> io::Result<()> {
        writeln!(
            out,
            "{} packets: {} delivered, {} dropped, {} lost, {} not known; {} retransmissions, {} ambiguous",
            self.total(),
            self.delivered,
            self.dropped,
            self.lost,
            self.unknown,
            self.retransmissions,
            self.ambiguous
        )?;
        writeln!(
            out,
            "records lost: {} ring full, {} channel full, {} undecodable, {} unattributed; packets evicted: {}; of others: {}",
            losses.ring_full,
            losses.channel_full,
            losses.undecodable,
            losses.unattributed,
            losses.evicted,
            losses.unrelated
        )?;
        if losses.drop_records > 0 {
            writeln!(out, "drops that the kernel could not tell: {}", losses.drop_records)?;
        }
        if losses.drops_elsewhere > 0 {
            writeln!(
                out,
                "drops in network namespaces that are no node's and no pod's: {}",
                losses.drops_elsewhere
            )?;
        }
        let seen: Vec<String> = hooks
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{count} {}", name.replace('_', " ")))
            .collect();
        if !seen.is_empty() {
            writeln!(out, "packets at all hooks: {}", seen.join(", "))?;
        }
        for stream in streams {
            let nodes = if stream.nodes.is_empty() { "unknown".to_owned() } else { stream.nodes.join(", ") };
            writeln!(out, "stream {} (node {nodes}): {}", stream.path, stream.end)?;
        }
        if self.legs.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["leg", "", "count", "p50", "p99", "max"]);
        for ((from, to), figures) in self.in_order() {
            let histogram = &figures.histogram;
            let cell = |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), duration);
            table.add_row([
                from.name(),
                format!("-> {}", to.name()),
                (histogram.count() + figures.unknown).to_string(),
                cell(histogram.percentile(50)),
                cell(histogram.percentile(99)),
                cell(histogram.max()),
            ]);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for line in table.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        if self.legs.values().any(|figures| figures.unknown > 0) {
            writeln!(out, "unknown: clocks of two nodes not compared")?;
        }
        if self.other_legs > 0 {
            writeln!(out, "{} passages of further legs are not listed", self.other_legs)?;
        }
        Ok(())
    }

    /// Writes one line of JSON.
    ///
    /// # Errors
    /// What `out` returns.
    pub fn write_json(
        &self,
        out: &mut impl Write,
        hooks: &HookCounts,
        losses: &LossTotals,
        streams: &[StreamEnd],
    ) -> io::Result<()> {
        let line = SummaryLine {
            schema: SCHEMA,
            packets: PacketsObject {
                total: self.total(),
                delivered: self.delivered,
                dropped: self.dropped,
                lost: self.lost,
                unknown: self.unknown,
                ambiguous: self.ambiguous,
                retransmissions: self.retransmissions,
            },
            hooks: hooks.iter().copied().collect(),
            losses,
            percentile_error: RELATIVE_ERROR,
            legs: self.in_order().into_iter().map(|((from, to), figures)| leg(from, to, figures)).collect(),
            other_legs: self.other_legs,
            streams,
        };
        serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
        out.write_all(b"\n")
    }
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    schema: &'static str,
    packets: PacketsObject,
    hooks: BTreeMap<&'static str, u64>,
    losses: &'a LossTotals,
    percentile_error: f64,
    legs: Vec<LegLine<'a>>,
    other_legs: u64,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    streams: &'a [StreamEnd],
}

#[derive(Serialize)]
struct PacketsObject {
    total: u64,
    delivered: u64,
    dropped: u64,
    lost: u64,
    unknown: u64,
    ambiguous: u64,
    retransmissions: u64,
}

#[derive(Serialize)]
struct LegLine<'a> {
    from: EndLine<'a>,
    to: EndLine<'a>,
    count: u64,
    unknown: u64,
    p50_ns: Option<u64>,
    p99_ns: Option<u64>,
    max_ns: Option<u64>,
}

#[derive(Serialize)]
struct EndLine<'a> {
    node: &'a str,
    role: DeviceRole,
    device: Option<&'a str>,
    direction: Direction,
}

fn leg<'a>(from: &'a LegEnd, to: &'a LegEnd, figures: &LegFigures) -> LegLine<'a> {
    let end = |end: &'a LegEnd| EndLine {
        node: &end.node,
        role: end.role,
        device: end.device.as_deref(),
        direction: end.direction,
    };
    LegLine {
        from: end(from),
        to: end(to),
        count: figures.histogram.count() + figures.unknown,
        unknown: figures.unknown,
        p50_ns: figures.histogram.percentile(50),
        p99_ns: figures.histogram.percentile(99),
        max_ns: figures.histogram.max(),
    }
}

#[cfg(test)]
mod tests;
