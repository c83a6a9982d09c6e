//! What a run showed as a whole: exchanges, legs, verdicts, losses. Memory is bounded: one histogram per leg and one per
//! kind of exchange, and a limit on the number of legs.

mod exchanges;
mod legs;

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use crate::output::histogram::RELATIVE_ERROR;
use crate::output::summary::exchanges::{ExchangeFigures, ExchangesLine};
use crate::output::summary::legs::{LegLine, Legs, LostLine};
use crate::trajectory::exchange::Exchange;
use crate::trajectory::model::{Trajectory, Verdict};

/// The version of the JSON form.
pub const SCHEMA: &str = "tracer.summary/v1";

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
    /// Drops that met no packet: of copies, of packets that were told before, or of which no hop was seen.
    pub drops_unmatched: u64,
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

/// Collects what is shown at the end of a run.
#[derive(Default)]
pub struct Summary {
    legs: Legs,
    exchanges: ExchangeFigures,
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
        self.legs.add(trajectory);
    }

    /// Takes in one exchange, if it has ended.
    pub fn add_exchange(&mut self, exchange: &Exchange) {
        if exchange.ending.is_some() {
            self.exchanges.add(exchange);
        }
    }

    fn total(&self) -> u64 {
        self.delivered + self.dropped + self.lost + self.unknown
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
        if losses.drops_unmatched > 0 {
            writeln!(
                out,
                "drops that met no packet (copies, packets told before, or seen at no hook): {}",
                losses.drops_unmatched
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
        self.exchanges.write_text(out)?;
        self.legs.write_text(out)
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
        let (legs, slowest_leg, lost_after) = self.legs.lines();
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
            exchanges: self.exchanges.line(),
            legs,
            slowest_leg,
            lost_after,
            other_legs: self.legs.others(),
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
    exchanges: ExchangesLine,
    legs: Vec<LegLine>,
    slowest_leg: Option<usize>,
    lost_after: Vec<LostLine>,
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

#[cfg(test)]
mod tests;
