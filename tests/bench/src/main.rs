//! What observing costs, measured in pairs: each run of a tool next to one without. `cargo xtask bench` runs it.
//!
//! ```text
//! states, in pairs ─► table     load: UDP, TCP, request/response     state: what is on the hooks meanwhile
//! one load at a fixed rate      delay to the screen                  250 pods
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`load`] | the traffic, and what it cost its sender |
//! | [`state`] | the tools: how each is started and ended |
//! | [`process`] | a tool's process: CPU, memory, what it says |
//! | [`pairs`] | the order of runs, medians |
//! | [`runs`] | the kernel's own count of runs and time |
//! | [`follow`] | what only a follow has: records at a fixed rate, delay, the first hop |
//! | [`many`] | many pods |
//! | [`report`] | what is printed |

mod follow;
mod load;
mod many;
mod pairs;
mod process;
mod report;
mod runs;
mod state;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tracer_integration::Tracer;
use tracer_lab::{Lab, Topology};

use crate::load::Ends;
use crate::state::State;

const USAGE: &str = "\
usage: tracer-bench [--quick] [--pairs N] [--seconds S]

  Two nodes in network namespaces, VXLAN between them, a pod that sends to one on the other node, and on the eight
  devices of the way: nothing, a program that does nothing, tracer in each of its states, tcpdump. Each state is
  measured beside a run without (--pairs, 7; --seconds of each kind of traffic in a run, 1). Prints a table; timings
  never fail it. Takes some ten minutes.
  --quick: one short pair of each, fewer pods; fails if what is counted is wrong (records, losses, runs). Needs root.";

/// What was asked for.
#[derive(Clone, Copy, Debug)]
struct Options {
    quick: bool,
    pairs: usize,
    /// Of each kind of traffic in a run.
    seconds: f64,
    pods: u16,
}

impl Options {
    const WHOLE: Self = Self { quick: false, pairs: 7, seconds: 1.0, pods: 250 };
    const QUICK: Self = Self { quick: true, pairs: 1, seconds: 0.2, pods: 40 };
}

/// What all parts of the bench work with.
struct Bench {
    lab: Lab,
    tracer: Tracer,
    ends: Ends,
}

fn main() -> ExitCode {
    let options = match parse(lexopt::Parser::from_env()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: lexopt::Parser) -> Result<Option<Options>, lexopt::Error> {
    use lexopt::prelude::*;
    let (mut options, mut pairs, mut seconds) = (Options::WHOLE, None, None);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("quick") => options = Options::QUICK,
            Long("pairs") => pairs = Some(arguments.value()?.parse::<usize>()?.max(1)),
            Long("seconds") => seconds = Some(arguments.value()?.parse::<f64>()?.clamp(0.05, 60.0)),
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    options.pairs = pairs.unwrap_or(options.pairs);
    options.seconds = seconds.unwrap_or(options.seconds);
    Ok(Some(options))
}

/// Whether everything that was counted is right.
fn run(options: Options) -> Result<bool> {
    let lab = Lab::build(Topology::RoutedVxlan)?;
    let tracer = Tracer::new(&lab)?;
    let ends = Ends::open(&lab)?;
    let bench = Bench { lab, tracer, ends };
    // The first packets find out the neighbours' MAC addresses and warm the caches.
    bench.ends.load(options.seconds).context("the network without anything on it")?;

    report::print_machine(options);
    let samples = pairs::measure(&bench, &State::ALL, options)?;
    let runs = runs::measure(&bench, &State::ON_HOOKS, options.seconds)?;
    report::print_states(&samples, &runs);
    let rate = follow::at_a_rate(&bench, if options.quick { 20_000 } else { follow::FULL_RATE }, options)?;
    let screen = follow::to_the_screen(&bench, options)?;
    let first_hop = follow::first_hop(&bench)?;
    drop(bench);
    let many = many::attach(options.pods)?;
    report::print_others(&rate, &screen, first_hop, &many);
    report::print_targets(&samples, &rate, &screen, &many);

    let wrong = report::wrong(&samples, &runs, &rate);
    wrong.iter().for_each(|wrong| println!("WRONG: {wrong}"));
    Ok(wrong.is_empty())
}
