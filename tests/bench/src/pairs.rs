//! Runs in pairs, interleaved: the machine's noise meets both of a pair alike.

use anyhow::Result;

use crate::load::Load;
use crate::state::State;
use crate::{Bench, Options};

/// A run of a state and the one without next to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) base: Load,
    pub(crate) with: Load,
    /// Of one core, while UDP was sent.
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
            // Which of the two comes first changes: what one leaves behind meets the other as often.
            sample.pairs.push(pair(bench, sample.state, options.seconds, round % 2 == 0)?);
        }
    }
    Ok(samples)
}

fn pair(bench: &Bench, state: State, seconds: f64, begins_without: bool) -> Result<Pair> {
    if begins_without {
        let base = bench.ends.load(seconds)?;
        return Ok(Pair { base, ..run(bench, state, seconds)? });
    }
    let with = run(bench, state, seconds)?;
    Ok(Pair { base: bench.ends.load(seconds)?, ..with })
}

/// A run of a state; what it is compared with is to be filled in.
fn run(bench: &Bench, state: State, seconds: f64) -> Result<Pair> {
    let running = state.start(bench)?;
    let before = running.cpu_seconds()?;
    let udp = bench.ends.udp(seconds)?;
    let cpu_share = (running.cpu_seconds()? - before) / udp.seconds;
    // What it has still to do with those packets is not the next traffic's cost.
    running.wait_until_idle()?;
    let tcp = bench.ends.tcp(seconds)?;
    running.wait_until_idle()?;
    let with = Load { udp, tcp, round_trip: bench.ends.round_trip(seconds)? };
    let resident_mib = running.resident_mib()?;
    let lost = running.end()?;
    Ok(Pair { base: with, with, cpu_share, resident_mib, lost })
}

impl Sample {
    pub(crate) fn of(&self, figure: impl Fn(&Pair) -> f64) -> Spread {
        Spread::of(self.pairs.iter().map(figure).collect())
    }

    /// CPU that the sender takes more, nanoseconds for each place that a packet passes.
    pub(crate) fn added_per_hop_ns(&self) -> Spread {
        let hops = f64::from(self.state.hops());
        self.of(|pair| (pair.with.udp.cpu_per_packet_ns - pair.base.udp.cpu_per_packet_ns) / hops)
    }

    pub(crate) fn packet_rate(&self) -> Spread {
        self.of(|pair| pair.with.udp.rate / pair.base.udp.rate)
    }

    pub(crate) fn throughput(&self) -> Spread {
        self.of(|pair| pair.with.tcp / pair.base.tcp)
    }

    pub(crate) fn round_trip(&self) -> Spread {
        self.of(|pair| pair.with.round_trip.as_secs_f64() / pair.base.round_trip.as_secs_f64())
    }

    /// `None` where nothing can be lost.
    pub(crate) fn lost(&self) -> Option<u64> {
        self.pairs.iter().map(|pair| pair.lost).sum()
    }
}

impl Spread {
    /// Of at least one figure.
    pub(crate) fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let median = match figures.len() {
            0 => f64::NAN,
            even if even % 2 == 0 => f64::midpoint(figures[middle - 1], figures[middle]),
            _ => figures[middle],
        };
        let end = |at: Option<&f64>| at.copied().unwrap_or(f64::NAN);
        Self { median, least: end(figures.first()), most: end(figures.last()) }
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        let spread = |figures: &[f64]| Spread::of(figures.to_vec());
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Spread { median: 2.0, least: 1.0, most: 3.0 });
        assert_eq!(spread(&[4.0, 1.0]).median, 2.5);
        assert!(spread(&[]).median.is_nan());
    }
}
