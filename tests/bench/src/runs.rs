//! How often the programs run, and for how long, as the kernel counts it: beside a program that does nothing, on the other
//! network. Counting costs, so this is a run of its own.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use crate::state::{State, no_op};
use crate::{Bench, load};

/// Of a state, while UDP was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runs {
    pub(crate) state: State,
    /// Per packet sent.
    pub(crate) per_packet: f64,
    /// Nanoseconds of one run; `None` without any.
    pub(crate) ns: Option<f64>,
    /// Of the program that does nothing, at the same time.
    pub(crate) no_op_ns: Option<f64>,
}

impl Runs {
    /// Nanoseconds of a run, and those of the program that does nothing.
    pub(crate) fn words(&self) -> String {
        let (Some(ns), Some(no_op_ns)) = (self.ns, self.no_op_ns) else { return "-".to_owned() };
        format!("{ns:.0} to {no_op_ns:.0}")
    }
}

pub(crate) fn measure(bench: &Bench, states: &[State], seconds: f64) -> Result<Vec<Runs>> {
    let _counting = enable_stats(Stats::RunTime).context("the kernel does not count the runs of programs")?;
    let _beside = no_op(&bench.bare.lab)?;
    states.iter().map(|state| of_state(bench, *state, seconds)).collect()
}

fn of_state(bench: &Bench, state: State, seconds: f64) -> Result<Runs> {
    let of_others = counts()?;
    let running = state.start(bench)?;
    let before = counts()?;
    let udp = load::udp(&bench.bare.ends, &bench.ends, seconds)?;
    let (mut own, mut others) = (Sum::default(), Sum::default());
    for (program, (runs, time)) in counts()? {
        let (runs_before, time_before) = before.get(&program).copied().unwrap_or_default();
        // What was there before is what does nothing on the other network.
        let sum = if of_others.contains_key(&program) { &mut others } else { &mut own };
        *sum = Sum { runs: sum.runs + runs - runs_before, time: sum.time + (time - time_before) };
    }
    running.end()?;
    let per_packet = own.runs as f64 / udp.done().0 as f64;
    Ok(Runs { state, per_packet, ns: own.of_one_ns(), no_op_ns: others.of_one_ns() })
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    runs: u64,
    time: Duration,
}

impl Sum {
    fn of_one_ns(&self) -> Option<f64> {
        (self.runs > 0).then(|| self.time.as_nanos() as f64 / self.runs as f64)
    }
}

/// By program: runs, and their time. Of programs at hooks only; what they go on in is part of theirs.
fn counts() -> Result<HashMap<u32, (u64, Duration)>> {
    let mut found = HashMap::new();
    for program in loaded_programs() {
        // It may have gone meanwhile.
        let Ok(program) = program else { continue };
        let name = program.name_as_str().unwrap_or_default();
        let begins = |beginning: &&str| name.starts_with(*beginning);
        if ["tracer_in_", "tracer_out_", "least_", "no_op"].iter().any(begins) {
            found.insert(program.id(), (program.run_count(), program.run_time()));
        }
    }
    Ok(found)
}
