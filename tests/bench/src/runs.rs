//! How often the programs run, and for how long, as the kernel counts it. Counting costs, so this is a run of its own.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use crate::Bench;
use crate::state::State;

/// Of a state, while UDP was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runs {
    pub(crate) state: State,
    /// Per packet sent.
    pub(crate) per_packet: f64,
    /// Nanoseconds of one run; `None` without any.
    pub(crate) ns: Option<f64>,
}

pub(crate) fn measure(bench: &Bench, states: &[State], seconds: f64) -> Result<Vec<Runs>> {
    let _counting = enable_stats(Stats::RunTime).context("the kernel does not count the runs of programs")?;
    states.iter().map(|state| of_state(bench, *state, seconds)).collect()
}

fn of_state(bench: &Bench, state: State, seconds: f64) -> Result<Runs> {
    let of_others = counts()?;
    let running = state.start(bench)?;
    let before = counts()?;
    let udp = bench.ends.udp(seconds)?;
    let mut sum = (0, Duration::ZERO);
    for (program, (runs, time)) in counts()?.into_iter().filter(|(id, _)| !of_others.contains_key(id)) {
        let (runs_before, time_before) = before.get(&program).copied().unwrap_or_default();
        sum = (sum.0 + runs - runs_before, sum.1 + (time - time_before));
    }
    running.end()?;
    let ns = (sum.0 > 0).then(|| sum.1.as_nanos() as f64 / sum.0 as f64);
    Ok(Runs { state, per_packet: sum.0 as f64 / udp.packets as f64, ns })
}

/// By program: runs, and their time. Of programs at hooks only; what they go on in is part of theirs.
fn counts() -> Result<HashMap<u32, (u64, Duration)>> {
    let mut found = HashMap::new();
    for program in loaded_programs() {
        // It may have gone meanwhile.
        let Ok(program) = program else { continue };
        let name = program.name_as_str().unwrap_or_default();
        if name.starts_with("tracer_in_") || name.starts_with("tracer_out_") || name == "no_op" {
            found.insert(program.id(), (program.run_count(), program.run_time()));
        }
    }
    Ok(found)
}
