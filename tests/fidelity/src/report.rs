//! The table that is printed, and what must hold in it.

use std::collections::BTreeMap;

use tracer_lab::Topology;

use crate::change::Pass;
use crate::judge::Judgement;
use crate::record::Origin;

/// Share of a scenario's packets, over all its rows, that must be complete where no record was lost; one of a row may
/// always be incomplete.
const COMPLETE: f64 = 0.999;
/// As [`COMPLETE`], of one row; one packet there may always be incomplete.
const COMPLETE_IN_ROW: f64 = 0.99;
/// Share of cross-node times whose true value must be inside the bound.
const INSIDE: f64 = 0.99;

/// Times that may be told with a wider bound whatever their share: the first packets are told before the fastest has come.
const EARLY: usize = 5;

/// Rows as they come, and whether all that must hold does.
pub(crate) struct Report {
    seed: u64,
    rows: usize,
    failures: Vec<String>,
    /// By scenario, where no record was withheld: packets that were told complete, all, and rows with one that was not.
    complete: BTreeMap<String, [usize; 3]>,
}

impl Report {
    pub(crate) fn begin(seed: u64) -> Self {
        print(&format!(
            "{:<10} {:<20} {:<10} {:<14} {:>8} {:>8} {:>7} {:>6} {:>6} {:>6} {:>9} {:>6} {:>8} {:>8}  seed",
            "scenario",
            "topology",
            "wire",
            "pass",
            "packets",
            "right",
            "incompl",
            "untold",
            "ambig",
            "wrong",
            "verdicts",
            "wrong",
            "times",
            "inside"
        ));
        Self { seed, rows: 0, failures: Vec::new(), complete: BTreeMap::new() }
    }

    /// Prints how a pass came out; whether all that must hold does.
    pub(crate) fn row(&mut self, origin: &Origin, pass: &Pass, judgement: Judgement) -> bool {
        let Judgement { times, .. } = &judgement;
        let known = times.inside + times.outside;
        let inside = match known {
            0 => "-".to_owned(),
            _ => format!("{:.2} %", 100.0 * share(times.inside, known)),
        };
        print(&format!(
            "{:<10} {:<20} {:<10} {:<14} {:>8} {:>8} {:>7} {:>6} {:>6} {:>6} {:>9} {:>6} {:>8} {:>8}  {}",
            origin.scenario,
            origin.topology,
            origin.wire,
            pass.name,
            judgement.packets,
            judgement.right,
            judgement.incomplete,
            judgement.untold,
            judgement.ambiguous,
            judgement.wrong_joins,
            judgement.verdicts_right,
            judgement.verdicts_wrong,
            known,
            inside,
            origin.seed
        ));
        self.rows += 1;
        if pass.withheld == 0.0 {
            let [right, packets, rows] = self.complete.entry(origin.scenario.to_string()).or_default();
            *right += judgement.right;
            *packets += judgement.packets;
            *rows += usize::from(judgement.right < judgement.packets);
        }
        let failed = failures(pass, &judgement);
        for why in &failed {
            print(&format!("  FAILED: {why}"));
        }
        if !failed.is_empty() {
            judgement.explanations.iter().for_each(|text| print(text));
        }
        let name = format!("{} {} {}, {}", origin.scenario, origin.topology, origin.wire, pass.name);
        self.failures.extend(failed.iter().map(|why| format!("{name}: {why}")));
        failed.is_empty()
    }

    pub(crate) fn lacking(&mut self, topology: Topology, lack: &str) {
        print(&format!("{:<10} {topology:<20} not on this kernel: {lack}", "-"));
    }

    pub(crate) fn failed(&mut self, name: &str, why: &str) {
        print(&format!("  FAILED: {name} could not be recorded: {why}"));
        self.failures.push(format!("{name}: {why}"));
    }

    pub(crate) fn note(&self, text: &str) {
        print(&format!("  {text}"));
    }

    /// Whether all held, in words.
    pub(crate) fn end(self) -> bool {
        let Self { seed, rows, mut failures, complete } = self;
        print("");
        for (scenario, [right, packets, rows]) in complete {
            let complete = share(right, packets);
            print(&format!(
                "{scenario:<10} {right} of {packets} complete where nothing was withheld: {:.3} %",
                100.0 * complete
            ));
            if share(right + rows, packets) < COMPLETE {
                failures.push(format!("{scenario}: {:.3} % complete", 100.0 * complete));
            }
        }
        if failures.is_empty() {
            print(&format!("\n{rows} rows, seed {seed}: nothing wrong"));
        } else {
            print(&format!(
                "\n{rows} rows, seed {seed}: {} failures\n  {}",
                failures.len(),
                failures.join("\n  ")
            ));
        }
        failures.is_empty()
    }
}

/// What must hold and does not.
fn failures(pass: &Pass, judgement: &Judgement) -> Vec<String> {
    let mut failed = Vec::new();
    if judgement.is_wrong() {
        failed.push(format!(
            "{} wrong joins, {} wrong verdicts",
            judgement.wrong_joins, judgement.verdicts_wrong
        ));
    }
    if judgement.packets == 0 {
        failed.push("nothing was recorded, so nothing was proved".to_owned());
    }
    let complete = share(judgement.right, judgement.packets);
    let missing = judgement.packets.saturating_sub(judgement.right);
    if pass.withheld == 0.0 && missing > 1 && complete < COMPLETE_IN_ROW {
        failed.push(format!("{:.3} % complete", 100.0 * complete));
    }
    let times = &judgement.times;
    let known = times.inside + times.outside;
    if share(times.inside, known) < INSIDE {
        failed.push(format!("{} of {known} times outside their bound", times.outside));
    }
    let is_wide = times.too_wide > EARLY && share(times.too_wide, known.max(1)) > 1.0 - INSIDE;
    if pass.withheld == 0.0 && is_wide {
        failed
            .push(format!("{} of {known} bounds wider than half the round trip and jitter", times.too_wide));
    }
    if judgement.unaccounted * 1000 > judgement.packets {
        failed.push(format!("{} records are of no captured packet", judgement.unaccounted));
    }
    failed
}

/// All, where there is nothing.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

fn print(text: &str) {
    use std::io::Write as _;
    // Who closes the pipe has read enough.
    let _ = writeln!(std::io::stdout(), "{text}");
}
