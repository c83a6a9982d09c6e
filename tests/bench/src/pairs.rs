//! Runs in pairs, interleaved ([`crate::turns`]): the machine's noise meets both of a pair alike.

use std::time::Instant;

use anyhow::Result;

use crate::load::{self, Load};
use crate::state::State;
use crate::turns::median;
use crate::{Bench, Options};

/// A run of a state and the one without beside it.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) load: Load,
    /// Of one core, while UDP was sent over both networks.
    pub(crate) cpu_share: f64,
    pub(crate) resident_mib: f64,
    pub(crate) lost: Option<u64>,
}

/// All pairs of a state.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) state: State,
    pub(crate) pairs: Vec<Pair>,
}

/// Median, least and most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

pub(crate) fn measure(bench: &Bench, states: &[State], options: Options) -> Result<Vec<Sample>> {
    let mut samples: Vec<Sample> =
        states.iter().map(|state| Sample { state: *state, pairs: Vec::new() }).collect();
    for round in 0..options.pairs {
        for sample in &mut samples {
            eprintln!("bench: pair {} of {}: {}", round + 1, options.pairs, sample.state.name());
            sample.pairs.push(pair(bench, sample.state, options.seconds)?);
        }
    }
    Ok(samples)
}

fn pair(bench: &Bench, state: State, seconds: f64) -> Result<Pair> {
    let (bare, with) = (&bench.bare.ends, &bench.ends);
    let running = state.start(bench)?;
    let (began, before) = (Instant::now(), running.cpu_seconds()?);
    let udp = load::udp(bare, with, seconds)?;
    let cpu_share = (running.cpu_seconds()? - before) / began.elapsed().as_secs_f64();
    // What it has still to do with those packets is not the next traffic's cost.
    running.wait_until_idle()?;
    let tcp = load::tcp(bare, with, seconds)?;
    running.wait_until_idle()?;
    let load = Load { udp, tcp, round_trip: load::round_trip(bare, with, seconds)? };
    let resident_mib = running.resident_mib()?;
    let lost = running.end()?;
    Ok(Pair { load, cpu_share, resident_mib, lost })
}

impl Sample {
    pub(crate) fn of(&self, figure: impl Fn(&Pair) -> f64) -> Spread {
        Spread::of(self.pairs.iter().map(figure).collect())
    }

    /// CPU that the sender takes more, nanoseconds for each place that a packet passes.
    pub(crate) fn added_per_hop_ns(&self) -> Spread {
        let hops = f64::from(self.state.hops());
        self.of(|pair| pair.load.udp.added_cpu_ns() / hops)
    }

    pub(crate) fn packet_rate(&self) -> Spread {
        self.of(|pair| pair.load.udp.rate())
    }

    pub(crate) fn throughput(&self) -> Spread {
        self.of(|pair| pair.load.tcp.rate())
    }

    pub(crate) fn round_trip(&self) -> Spread {
        self.of(|pair| {
            let (bare, with) = pair.load.round_trip;
            with.as_secs_f64() / bare.as_secs_f64()
        })
    }

    /// `None` where nothing can be lost.
    pub(crate) fn lost(&self) -> Option<u64> {
        self.pairs.iter().map(|pair| pair.lost).sum()
    }
}

impl Spread {
    /// Of at least one figure.
    pub(crate) fn of(figures: Vec<f64>) -> Self {
        let least = figures.iter().copied().fold(f64::NAN, f64::min);
        let most = figures.iter().copied().fold(f64::NAN, f64::max);
        Self { median: median(figures), least, most }
    }
}
