//! Two networks that are alike, in turns of a few milliseconds: one with nothing on it, one with what is measured. Whoever
//! shares the machine's processors slows it down to a half for parts of a second to seconds; each turn is compared with
//! the one next to it, which meets the same neighbours.

use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};

/// What was done in one turn.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Packets or bytes.
    units: u64,
    wall: Duration,
    /// Of the sending thread.
    cpu: Duration,
}

/// All turns of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns {
    bare: Vec<Turn>,
    with: Vec<Turn>,
}

impl Turns {
    /// Lets both work for so many seconds each, in turns of `length`. Each call does a little, and says how much.
    pub(crate) fn take(
        seconds: f64,
        length: Duration,
        mut bare: impl FnMut() -> Result<u64>,
        mut with: impl FnMut() -> Result<u64>,
    ) -> Result<Self> {
        let mut turns = Self::default();
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < 2.0 * seconds {
            // What one leaves behind meets the other as often.
            if turns.bare.len().is_multiple_of(2) {
                turns.bare.push(Turn::take(length, &mut bare)?);
                turns.with.push(Turn::take(length, &mut with)?);
            } else {
                turns.with.push(Turn::take(length, &mut with)?);
                turns.bare.push(Turn::take(length, &mut bare)?);
            }
        }
        Ok(turns)
    }

    /// Units of the network with something on it, and the seconds that they took.
    pub(crate) fn done(&self) -> (u64, f64) {
        let units = self.with.iter().map(|turn| turn.units).sum();
        (units, self.with.iter().map(|turn| turn.wall.as_secs_f64()).sum())
    }

    /// Units a second of the bare network.
    pub(crate) fn bare_rate(&self) -> f64 {
        median(self.bare.iter().map(Turn::rate).collect())
    }

    /// Nanoseconds of the sender's CPU for a unit of the bare network.
    pub(crate) fn bare_cpu_ns(&self) -> f64 {
        median(self.bare.iter().map(Turn::cpu_of_unit_ns).collect())
    }

    /// How many times the bare network's rate.
    pub(crate) fn rate(&self) -> f64 {
        self.of_both(|bare, with| with.rate() / bare.rate())
    }

    /// Nanoseconds of the sender's CPU that a unit takes more.
    pub(crate) fn added_cpu_ns(&self) -> f64 {
        self.of_both(|bare, with| with.cpu_of_unit_ns() - bare.cpu_of_unit_ns())
    }

    fn of_both(&self, figure: impl Fn(&Turn, &Turn) -> f64) -> f64 {
        median(self.bare.iter().zip(&self.with).map(|(bare, with)| figure(bare, with)).collect())
    }
}

impl Turn {
    fn take(length: Duration, work: &mut impl FnMut() -> Result<u64>) -> Result<Self> {
        let (began, cpu) = (Instant::now(), thread_cpu());
        let mut units = 0;
        loop {
            units += work()?;
            let wall = began.elapsed();
            if wall >= length {
                return Ok(Self { units, wall, cpu: thread_cpu() - cpu });
            }
        }
    }

    fn rate(&self) -> f64 {
        self.units as f64 / self.wall.as_secs_f64()
    }

    fn cpu_of_unit_ns(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.units as f64
    }
}

/// NaN of none.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.retain(|figure| figure.is_finite());
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(figures[middle - 1], figures[middle]),
        _ => figures[middle],
    }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(units: u64) -> Turn {
        Turn { units, wall: Duration::from_millis(10), cpu: Duration::from_millis(10) }
    }

    #[test]
    fn each_turn_is_compared_with_its_neighbour_whatever_slows_both_down() {
        let turns = Turns {
            bare: [1000, 500, 1000, 600, 1000].map(turn).to_vec(),
            with: [800, 400, 800, 480, 800].map(turn).to_vec(),
        };
        assert!((turns.rate() - 0.8).abs() < 1e-9);
        assert!((turns.added_cpu_ns() - 2500.0).abs() < 1e-6);
        assert_eq!(turns.done(), (3280, 0.05));
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, f64::NAN]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
