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
//! | [`turns`] | two networks in turns, so that the machine's neighbours meet both |
//! | [`least`] | the least that any tool pays |
//! | [`state`] | the tools: how each is started and ended |
//! | [`process`] | a tool's process: CPU, memory, what it says |
//! | [`pairs`] | the order of runs, medians |
//! | [`runs`] | the kernel's own count of runs and time |
//! | [`follow`] | what only a follow has: records at a fixed rate, delay, the first hop |
//! | [`many`] | many pods |
//! | [`report`] | what is printed |

mod follow;
mod least;
mod load;
mod many;
mod pairs;
mod process;
mod report;
mod runs;
mod state;
mod turns;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tracer_integration::Tracer;
use tracer_lab::{Lab, Topology};

use crate::load::Ends;
use crate::state::State;

const USAGE: &str = "\
usage: tracer-bench [--quick] [--pairs N] [--seconds S] [--only PART]... [--state WORD]

  Two nodes in network namespaces, VXLAN between them, a pod that sends to one on the other node, and on the eight
  devices of the way: a program that does nothing, the least that tools can do, tracer in each of its states, tcpdump.
  A second such network has nothing on it; the two are used in turns of milliseconds (--pairs of runs, 7; --seconds of
  each kind of traffic in each network in a run, 1). Prints a table; timings never fail it. Takes some ten minutes.
  --only: states, runs, rate, screen or pods; all if not given. --state: only states with this in their name.
  --quick: one short pair of each, fewer pods; fails if what is counted is wrong (records, losses, runs). Needs root.";

/// What was asked for.
#[derive(Clone, Copy, Debug)]
struct Options {
    quick: bool,
    pairs: usize,
    /// Of each kind of traffic in a run.
    seconds: f64,
    pods: u16,
    /// Bits of [`Part`].
    parts: u8,
    /// In the names of the states that are measured.
    state: &'static str,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    States = 1,
    Runs = 2,
    Rate = 4,
    Screen = 8,
    Pods = 16,
}

impl Part {
    const NAMES: [(&'static str, Self); 5] = [
        ("states", Self::States),
        ("runs", Self::Runs),
        ("rate", Self::Rate),
        ("screen", Self::Screen),
        ("pods", Self::Pods),
    ];
}

impl Options {
    const WHOLE: Self = Self { quick: false, pairs: 7, seconds: 1.0, pods: 250, parts: u8::MAX, state: "" };
    const QUICK: Self = Self { quick: true, pairs: 1, seconds: 0.2, pods: 40, parts: u8::MAX, state: "" };

    const fn has(self, part: Part) -> bool {
        self.parts & part as u8 != 0
    }
}

/// What all parts of the bench work with.
struct Bench {
    bare: Bare,
    lab: Lab,
    tracer: Tracer,
    ends: Ends,
}

/// The other network, alike, with nothing on it.
struct Bare {
    ends: Ends,
    lab: Lab,
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
    let (mut options, mut pairs, mut seconds, mut parts) = (Options::WHOLE, None, None, 0);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("quick") => options = Options::QUICK,
            Long("pairs") => pairs = Some(arguments.value()?.parse::<usize>()?.max(1)),
            Long("seconds") => seconds = Some(arguments.value()?.parse::<f64>()?.clamp(0.05, 60.0)),
            Long("only") => {
                let name = arguments.value()?.string()?;
                let known = Part::NAMES.iter().find(|(known, _)| *known == name);
                let (_, part) = known.ok_or_else(|| format!("there is no part {name}"))?;
                parts |= *part as u8;
            }
            Long("state") => options.state = arguments.value()?.string()?.leak(),
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    options.pairs = pairs.unwrap_or(options.pairs);
    options.seconds = seconds.unwrap_or(options.seconds);
    if parts != 0 {
        options.parts = parts;
    }
    Ok(Some(options))
}

/// Whether everything that was counted is right.
fn run(options: Options) -> Result<bool> {
    let lab = Lab::build(Topology::RoutedVxlan)?;
    let tracer = Tracer::new(&lab)?;
    let ends = Ends::open(&lab)?;
    let bare = Lab::build(Topology::RoutedVxlan)?;
    let bench = Bench { bare: Bare { ends: Ends::open(&bare)?, lab: bare }, lab, tracer, ends };
    // The first packets find out the neighbours' MAC addresses and warm the caches.
    load::udp(&bench.bare.ends, &bench.ends, options.seconds)
        .context("the networks without anything on them")?;

    report::print_machine(options);
    let mut states = State::ALL.to_vec();
    states.retain(|state| state.name().contains(options.state));
    let (mut samples, mut runs) = (Vec::new(), Vec::new());
    if options.has(Part::States) {
        samples = pairs::measure(&bench, &states, options)?;
    }
    if options.has(Part::Runs) {
        states.retain(|state| state.is_on_hooks());
        runs = runs::measure(&bench, &states, options.seconds)?;
    }
    report::print_states(&samples, &runs);
    let rate = if options.has(Part::Rate) {
        let rate = if options.quick { 20_000 } else { follow::FULL_RATE };
        Some(follow::at_a_rate(&bench, rate, options)?)
    } else {
        None
    };
    let screen = if options.has(Part::Screen) {
        Some((follow::to_the_screen(&bench, options)?, follow::first_hop(&bench)?))
    } else {
        None
    };
    drop(bench);
    let of_agents = if options.has(Part::Rate) { Some(follow::by_agents(options)?) } else { None };
    let many = if options.has(Part::Pods) { Some(many::attach(options.pods)?) } else { None };
    report::print_others(rate.as_ref(), of_agents, screen.as_ref(), many.as_ref());
    report::print_targets(&samples, rate.as_ref(), screen.as_ref().map(|(delay, _)| delay), many.as_ref());

    let wrong = report::wrong(&samples, &runs, rate.as_ref());
    wrong.iter().for_each(|wrong| println!("WRONG: {wrong}"));
    Ok(wrong.is_empty())
}
