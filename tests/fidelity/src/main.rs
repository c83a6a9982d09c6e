//! The fidelity bench, run by `cargo xtask fidelity`: whether what tracer tells is true. docs/fidelity.md describes it.
//!
//! ```text
//! lab + relay ─► traffic ─► captures, relay's log ──────► truth ─────────┐
//!                  └──────► tracer observe, one per node ► streams ─┐    ├─► judge ─► table
//!                             (clock changed, records withheld) ◄───┘    │
//!                                         └─► tracer follow --from ──────┘
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `plan` | which scenarios, topologies and wires; the command line |
//! | `scenario` | the traffic and the wires |
//! | `record` | one scenario recorded; regression files |
//! | `content`, `truth` | which packets there were, from captures and the relay's log |
//! | `stream`, `change`, `replay` | recorded streams, what a pass changes in them, handing them to tracer |
//! | `told`, `judge` | what tracer told, and how much of it is true |
//! | `report` | the table |

mod change;
mod content;
mod judge;
mod plan;
mod record;
mod replay;
mod report;
mod scenario;
mod stream;
mod told;
mod truth;

use std::env;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result, anyhow};

use crate::change::PASSES;
use crate::plan::{Case, Options};
use crate::record::Recording;
use crate::report::Report;

/// A scenario failed.
const FAILED: u8 = 1;
/// The command line was not understood.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let options = match plan::parse(env::args_os().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}\n\n{}", plan::USAGE);
            return ExitCode::from(USAGE);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// Whether all that was told is true.
fn run(options: &Options) -> Result<bool> {
    let mut report = Report::begin(options.seed);
    for path in &options.replays()? {
        let recording = Recording::load(path).with_context(|| format!("cannot replay {}", path.display()))?;
        judge_all(&recording, &mut report)?;
    }
    for case in &options.cases()? {
        match case {
            Case::Lacking { topology, lack } => report.lacking(*topology, lack),
            Case::Run { scenario, topology, wire } => {
                let made = Recording::make(*scenario, *topology, wire, options.seed, options.scale());
                match made {
                    Err(error) => {
                        let name = format!("{} {topology} {}", scenario.name(), wire.name);
                        report.failed(&name, &format!("{error:#}"));
                    }
                    Ok(recording) => {
                        let is_true = judge_all(&recording, &mut report)?;
                        if let Some(directory) = &options.save {
                            let name = format!("{}-{topology}-{}", scenario.name(), wire.name);
                            recording.save(&directory.join(name))?;
                        } else if !is_true {
                            report.note("it can be kept: --save DIR, with the same seed and names");
                        }
                    }
                }
            }
        }
    }
    Ok(report.end())
}

/// Judges all passes of a recording, at the same time: they wait most of it.
fn judge_all(recording: &Recording, report: &mut Report) -> Result<bool> {
    let results = thread::scope(|scope| {
        let running: Vec<_> =
            PASSES.iter().map(|pass| scope.spawn(move || replay::replay(recording, pass))).collect();
        let join = |(pass, thread): (_, thread::ScopedJoinHandle<'_, Result<_>>)| {
            (pass, thread.join().unwrap_or_else(|_| Err(anyhow!("a replay panicked"))))
        };
        PASSES.iter().zip(running).map(join).collect::<Vec<_>>()
    });
    let mut is_true = true;
    for (pass, judgement) in results {
        is_true &= report.row(&recording.origin, pass, judgement?);
    }
    Ok(is_true)
}
