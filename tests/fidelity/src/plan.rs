//! Which scenarios over which wires in which topologies, and the command line that says so.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use lexopt::{Arg::Long, Parser, ValueExt as _};
use tracer_lab::Topology;

use crate::scenario::{Scenario, WIRES, WireKind};

pub(crate) const USAGE: &str = "\
usage: cargo xtask fidelity [--short] [--seed N] [--scenario NAME] [--topology NAME] [--wire NAME]
                            [--replay DIR] [--save DIR]

  --short     a selection that takes two to three minutes
  --seed      of all decisions by chance; 1 by default
  --scenario  only this one: curl, bulk, dns, ping, flows, churn
  --topology  only this one, such as routed-vxlan
  --wire      only this one: clean, delay, loss, duplicate, reorder, mtu
  --replay    judges one saved recording, and nothing else
  --save      keeps each recording in a directory of its own in there";

/// Recordings of what once went wrong, or easily could.
const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/regressions");

/// What was typed.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) short: bool,
    pub(crate) seed: u64,
    scenario: Option<String>,
    topology: Option<String>,
    wire: Option<String>,
    replay: Option<PathBuf>,
    pub(crate) save: Option<PathBuf>,
}

/// One thing to do.
#[derive(Debug)]
pub(crate) enum Case {
    Run {
        scenario: Scenario,
        topology: Topology,
        wire: WireKind,
    },
    /// This kernel cannot do it.
    Lacking {
        topology: Topology,
        lack: String,
    },
}

pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Options, lexopt::Error> {
    let mut options = Options { seed: 1, ..Options::default() };
    let mut parser = Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("short") => options.short = true,
            Long("seed") => options.seed = parser.value()?.parse()?,
            Long("scenario") => options.scenario = Some(parser.value()?.string()?),
            Long("topology") => options.topology = Some(parser.value()?.string()?),
            Long("wire") => options.wire = Some(parser.value()?.string()?),
            Long("replay") => options.replay = Some(parser.value()?.into()),
            Long("save") => options.save = Some(parser.value()?.into()),
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

impl Options {
    /// How much is sent, in tenths.
    pub(crate) fn scale(&self) -> u64 {
        if self.short { 4 } else { 10 }
    }

    /// The saved recordings to judge.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(crate) fn replays(&self) -> Result<Vec<PathBuf>> {
        if let Some(path) = &self.replay {
            return Ok(vec![path.clone()]);
        }
        if self.is_selected() || !Path::new(REGRESSIONS).is_dir() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(REGRESSIONS)?.map(|entry| Ok(entry?.path()));
        let mut paths = entries.collect::<Result<Vec<PathBuf>>>()?;
        paths.retain(|path| path.is_dir());
        paths.sort();
        Ok(paths)
    }

    /// What to record.
    ///
    /// # Errors
    /// When nothing fits, or the kernel cannot be asked.
    pub(crate) fn cases(&self) -> Result<Vec<Case>> {
        if self.replay.is_some() {
            return Ok(Vec::new());
        }
        let mut cases = Vec::new();
        for topology in Topology::ALL.into_iter().filter(|topology| fits(&self.topology, topology.name())) {
            if let Some(lack) = topology.lacking()? {
                cases.push(Case::Lacking { topology, lack });
                continue;
            }
            // What encrypts is another matter: between the nodes nothing of a packet can be read.
            if topology == Topology::CalicoWireguard {
                continue;
            }
            for scenario in Scenario::ALL.into_iter().filter(|scenario| fits(&self.scenario, scenario.name()))
            {
                for wire in WIRES.into_iter().filter(|wire| fits(&self.wire, wire.name)) {
                    if self.is_selected() || is_planned(scenario, topology, wire.name, self.short) {
                        cases.push(Case::Run { scenario, topology, wire });
                    }
                }
            }
        }
        ensure!(!cases.is_empty(), "no scenario fits");
        Ok(cases)
    }

    fn is_selected(&self) -> bool {
        self.scenario.is_some() || self.topology.is_some() || self.wire.is_some()
    }
}

fn fits(wanted: &Option<String>, name: &str) -> bool {
    wanted.as_deref().is_none_or(|wanted| wanted == name)
}

/// Everything in one topology; in the others what their devices and programs could make a difference to.
fn is_planned(scenario: Scenario, topology: Topology, wire: &str, short: bool) -> bool {
    use Scenario::{Bulk, Churn, Curl, Dns, Flows, Ping};
    let is_usual = topology == Topology::RoutedVxlan;
    if short {
        let few = [(Curl, "delay"), (Bulk, "loss"), (Dns, "loss"), (Ping, "duplicate"), (Flows, "reorder")];
        return match topology {
            Topology::RoutedVxlan => few.contains(&(scenario, wire)),
            Topology::BridgeVxlan => (scenario, wire) == (Curl, "loss"),
            Topology::CiliumLegacyRouting => (scenario, wire) == (Flows, "clean"),
            Topology::CiliumHostRouting => (scenario, wire) == (Ping, "loss"),
            _ => false,
        };
    }
    match scenario {
        Curl | Bulk | Dns | Ping if is_usual => true,
        Curl | Bulk | Ping => matches!(wire, "delay" | "loss"),
        Dns | Flows => matches!(wire, "clean" | "loss") || (is_usual && wire == "reorder"),
        Churn => is_usual && wire == "clean",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, lexopt::Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn every_scenario_and_every_wire_is_in_the_full_plan() {
        for scenario in Scenario::ALL {
            assert!(WIRES.iter().any(|wire| is_planned(scenario, Topology::RoutedVxlan, wire.name, false)));
        }
        for wire in WIRES {
            assert!(Scenario::ALL.iter().any(|one| is_planned(
                *one,
                Topology::RoutedVxlan,
                wire.name,
                false
            )));
        }
    }

    #[test]
    fn the_short_plan_is_part_of_the_full_one_but_for_time() {
        for topology in Topology::EVERYWHERE {
            let short = |scenario, wire| is_planned(scenario, topology, wire, true);
            assert!(
                Scenario::ALL.iter().any(|one| WIRES.iter().any(|wire| short(*one, wire.name))),
                "{topology}"
            );
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for line in ["--seed soon", "--fast", "curl"] {
            assert!(parsed(line).is_err(), "{line}");
        }
        assert_eq!(parsed("--short --seed 7").unwrap().seed, 7);
    }
}
