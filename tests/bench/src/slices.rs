//! A run in slices. Whoever shares the machine's processors slows it down to a half for parts of a second to seconds, in
//! turns: what a run as a whole takes tells more of the neighbours than of what is measured. Its best slices tell what
//! the machine does while they are quiet.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

const LENGTH: Duration = Duration::from_millis(20);
/// One in so many slices is not worse than what is told of a run.
const BEST_ONE_IN: usize = 10;

/// Time and CPU of one unit (a packet, a byte), by slice.
pub(crate) struct Slices {
    began: Instant,
    cpu: Duration,
    units: u64,
    /// Seconds.
    wall_of_unit: Vec<f64>,
    cpu_of_unit: Vec<f64>,
}

impl Slices {
    pub(crate) fn begin() -> Self {
        let (wall_of_unit, cpu_of_unit) = (Vec::new(), Vec::new());
        Self { began: Instant::now(), cpu: thread_cpu(), units: 0, wall_of_unit, cpu_of_unit }
    }

    /// There are `units` by now.
    pub(crate) fn note(&mut self, units: u64) {
        let took = self.began.elapsed();
        if took < LENGTH || units == self.units {
            return;
        }
        let count = (units - self.units) as f64;
        let cpu = thread_cpu();
        self.wall_of_unit.push(took.as_secs_f64() / count);
        self.cpu_of_unit.push((cpu - self.cpu).as_secs_f64() / count);
        (self.began, self.cpu, self.units) = (Instant::now(), cpu, units);
    }

    /// Seconds and CPU seconds of a unit in the best slices; NaN if there was not one.
    pub(crate) fn best(self) -> (f64, f64) {
        (best_of(self.wall_of_unit), best_of(self.cpu_of_unit))
    }
}

fn best_of(mut slices: Vec<f64>) -> f64 {
    slices.sort_by(f64::total_cmp);
    slices.get(slices.len() / BEST_ONE_IN).copied().unwrap_or(f64::NAN)
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::best_of;

    #[test]
    fn the_best_tenth_is_told() {
        let slices = (0..20).rev().map(f64::from).collect();
        assert_eq!(best_of(slices), 2.0);
        assert_eq!(best_of(vec![3.0]), 3.0);
        assert!(best_of(Vec::new()).is_nan());
    }
}
