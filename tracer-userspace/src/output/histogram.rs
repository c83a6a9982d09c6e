//! A log-linear histogram of nanoseconds: fixed error, small, never resampled.

/// Buckets per power of two.
const SUB: u64 = 32;
const SUB_BITS: u32 = SUB.trailing_zeros();

/// Percentiles read from it are off by at most this share of the value (half a bucket).
pub(crate) const RELATIVE_ERROR: f64 = 1.0 / (2 * SUB) as f64;

/// At most 1920 buckets (the whole range of `u64`), allocated as far as values reach.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    buckets: Vec<u32>,
    count: u64,
    max: u64,
}

impl Histogram {
    pub(crate) fn record(&mut self, value: u64) {
        let index = index_of(value);
        if self.buckets.len() <= index {
            self.buckets.resize(index + 1, 0);
        }
        self.buckets[index] = self.buckets[index].saturating_add(1);
        self.count += 1;
        self.max = self.max.max(value);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The largest value, exact.
    pub(crate) fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max)
    }

    /// The value that `percent` of all values do not exceed, within [`RELATIVE_ERROR`].
    pub(crate) fn percentile(&self, percent: u64) -> Option<u64> {
        let wanted = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return Some(middle_of(index).min(self.max));
            }
        }
        None
    }
}

fn index_of(value: u64) -> usize {
    if value < 2 * SUB {
        return value as usize;
    }
    let shift = value.ilog2() - SUB_BITS;
    (u64::from(shift) * SUB + (value >> shift)) as usize
}

fn middle_of(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * SUB {
        return index;
    }
    let shift = index / SUB - 1;
    let low = (index - shift * SUB) << shift;
    low + ((1u64 << shift) - 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_any_values_are_within_the_stated_error() {
        for scale in [1u64, 37, 1_000, 1_234_567, 1 << 40] {
            let mut histogram = Histogram::default();
            let mut values: Vec<u64> = (1..=1000u64).map(|i| i * i * scale).collect();
            for value in &values {
                histogram.record(*value);
            }
            values.sort_unstable();
            for percent in [1, 50, 90, 99, 100] {
                let exact = values[(values.len() * percent as usize).div_ceil(100) - 1] as f64;
                let read = histogram.percentile(percent).unwrap() as f64;
                assert!(
                    (read - exact).abs() <= exact * RELATIVE_ERROR + 0.5,
                    "{percent}: {read} for {exact}"
                );
            }
            assert_eq!(histogram.max(), values.last().copied());
        }
    }

    #[test]
    fn every_value_has_a_bucket_and_buckets_do_not_overlap() {
        let mut last = 0;
        for value in (0..10_000).chain((14..64).map(|bit| (1u64 << bit) - 1)).chain([u64::MAX]) {
            let index = index_of(value);
            assert!(index >= last && index < 1920);
            last = index;
        }
    }

    #[test]
    fn nothing_recorded_has_no_percentiles() {
        assert_eq!(Histogram::default().percentile(50), None);
        assert_eq!(Histogram::default().max(), None);
    }
}
