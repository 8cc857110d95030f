//! Mean and quantiles of any number of samples in little memory.
//!
//! A histogram of logarithmic buckets, as DDSketch (Masson, Rim and Lee, PVLDB 12, 2019, section 2): bucket i has what is
//! above γ^(i−1) and up to γ^i, γ = (1+α)/(1−α), and answers 2γ^i/(γ+1), which is within the share α = 0.5 % of each of
//! these. The number, the mean, the least and the most are exact.

/// α: the largest error of a quantile, as a share of it.
const ERROR: f64 = 0.005;

/// What is less than this counts as 0: a nanosecond, where samples are seconds.
const LEAST: f64 = 1e-9;

/// What is more than this shares the last bucket: thirty years.
const MOST: f64 = 1e9;

/// Samples of 0 or more, by their distribution.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    refused: u64,
    /// How many are less than [`LEAST`].
    zeros: u64,
    /// How many are in each bucket, from [`LEAST`]'s on; as many buckets as were needed.
    buckets: Vec<u64>,
}

/// ln γ.
fn width() -> f64 {
    libm::log((1.0 + ERROR) / (1.0 - ERROR))
}

impl Summary {
    /// Of no samples.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a sample. What is negative or not finite is no time; it is counted apart, see [`Summary::refused`].
    pub fn record(&mut self, sample: f64) {
        if !(sample.is_finite() && sample >= 0.0) {
            self.refused += 1;
            return;
        }
        self.min = if self.count == 0 { sample } else { self.min.min(sample) };
        self.max = self.max.max(sample);
        self.count += 1;
        self.sum += sample;
        if sample < LEAST {
            self.zeros += 1;
            return;
        }
        let bucket = (libm::log(sample.min(MOST) / LEAST) / width()).ceil() as usize;
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
    }

    /// Counts all samples of another, as if they had been recorded here.
    pub fn merge(&mut self, other: &Self) {
        if other.count > 0 {
            self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
            self.max = self.max.max(other.max);
        }
        self.count += other.count;
        self.sum += other.sum;
        self.refused += other.refused;
        self.zeros += other.zeros;
        if other.buckets.len() > self.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (here, there) in self.buckets.iter_mut().zip(&other.buckets) {
            *here += there;
        }
    }

    /// How many samples there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// How many were negative or not finite, and are in nothing else here.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Their mean, `None` of none.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    /// The least, `None` of none.
    #[must_use]
    pub fn min(&self) -> Option<f64> {
        (self.count > 0).then_some(self.min)
    }

    /// The most, `None` of none.
    #[must_use]
    pub fn max(&self) -> Option<f64> {
        (self.count > 0).then_some(self.max)
    }

    /// The least sample that at least a share `q` of all do not exceed (nearest rank), within 0.5 %; `None` of none.
    /// 0.5 for the median, 0.99 for the 99th percentile.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = ((q * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut below = self.zeros;
        if below >= rank {
            return Some(self.min);
        }
        for (bucket, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank {
                let top = LEAST * libm::exp(bucket as f64 * width());
                // 2γ^i/(γ+1) = γ^i·(1−α), since γ+1 = 2/(1−α).
                return Some((top * (1.0 - ERROR)).clamp(self.min, self.max));
            }
        }
        Some(self.max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(samples: &[f64]) -> Summary {
        let mut summary = Summary::new();
        samples.iter().for_each(|sample| summary.record(*sample));
        summary
    }

    #[test]
    fn nothing_has_no_mean_and_no_quantile() {
        let none = of(&[]);
        assert_eq!((none.mean(), none.quantile(0.5), none.min(), none.max()), (None, None, None, None));
    }

    #[test]
    fn what_is_no_time_is_counted_apart() {
        let summary = of(&[1.0, f64::NAN, -1.0, f64::INFINITY]);
        assert_eq!((summary.count(), summary.refused(), summary.mean()), (1, 3, Some(1.0)));
    }

    #[test]
    fn zeros_and_giants_have_a_place() {
        let summary = of(&[0.0, 0.0, 0.0, 1e300]);
        assert_eq!(summary.quantile(0.5), Some(0.0));
        assert_eq!(summary.max(), Some(1e300));
        assert!(summary.buckets.len() < 5000);
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_samples_within_half_a_percent(
            exponents in prop::collection::vec(-8.0..8.0_f64, 1..300),
            q in 0.0..=1.0_f64,
        ) {
            let mut samples: Vec<f64> = exponents.iter().map(|e| 10_f64.powf(*e)).collect();
            let summary = of(&samples);
            samples.sort_by(f64::total_cmp);
            let rank = ((q * samples.len() as f64).ceil() as usize).clamp(1, samples.len());
            let exact = samples[rank - 1];
            let found = summary.quantile(q).unwrap();
            prop_assert!((found / exact - 1.0).abs() <= ERROR * (1.0 + 1e-9), "{found}, exactly {exact}");
        }

        #[test]
        fn merging_is_recording_all(
            a in prop::collection::vec(0.0..100.0_f64, 0..50),
            b in prop::collection::vec(0.0..100.0_f64, 0..50),
        ) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            let all = of(&[a, b].concat());
            prop_assert_eq!((merged.count(), merged.min(), merged.max()), (all.count(), all.min(), all.max()));
            prop_assert_eq!(merged.quantile(0.95), all.quantile(0.95));
            prop_assert!((merged.sum - all.sum).abs() <= 1e-9 * all.sum.max(1.0));
        }
    }
}
