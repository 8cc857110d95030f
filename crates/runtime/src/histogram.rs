//! How long things took, in few bytes: how many of them took about how long. No clock and no lock; whoever measures records.

use std::fmt;
use std::time::Duration;

/// Durations with the same power of two lie in so many buckets.
const PARTS: usize = 1 << PART_BITS;
const PART_BITS: usize = 4;

/// The longest durations are counted with those of 2³² µs, which is 71 minutes.
const POWERS: usize = 32;

const BUCKETS: usize = (POWERS - PART_BITS + 1) * PARTS;

/// Durations in buckets whose width grows with what is in them: each is a sixteenth of a power of two of microseconds wide. A
/// quantile is the middle of its bucket, so it is off by at most a thirty-second (3.2 %) of the duration that it stands for, or half a
/// microsecond if that is more; above 71 minutes by whatever it is more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    counts: [u32; BUCKETS],
    sum: Duration,
}

impl Histogram {
    /// The largest error of a quantile, as a share of it, of durations from 16 µs to 71 minutes.
    pub const RELATIVE_ERROR: f64 = 0.5 / PARTS as f64;

    /// Counts a duration.
    pub fn record(&mut self, took: Duration) {
        let count = &mut self.counts[bucket(took)];
        *count = count.saturating_add(1);
        self.sum = self.sum.saturating_add(took);
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// What all of them took together.
    #[must_use]
    pub const fn sum(&self) -> Duration {
        self.sum
    }

    /// What that share of them, from 0 to 1, took no longer than, by the nearest rank; `None` if there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((share.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut below = 0;
        let found = self.counts.iter().position(|count| {
            below += u64::from(*count);
            below >= rank
        });
        found.map(middle)
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], sum: Duration::ZERO }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, most, nearly_all] = [0.5, 0.95, 0.99].map(|share| self.quantile(share));
        f.debug_struct("Histogram")
            .field("count", &self.count())
            .field("sum", &self.sum)
            .field("p50", &half)
            .field("p95", &most)
            .field("p99", &nearly_all)
            .finish()
    }
}

/// The first buckets are of one microsecond each.
fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let power = micros.checked_ilog2().unwrap_or(0) as usize;
    if power < PART_BITS {
        return micros as usize;
    }
    let shift = power - PART_BITS;
    let part = (micros >> shift) as usize - PARTS;
    ((shift + 1) * PARTS + part).min(BUCKETS - 1)
}

fn middle(bucket: usize) -> Duration {
    let (row, part) = ((bucket / PARTS) as u32, (bucket % PARTS) as u64);
    let (first, shift) = match row.checked_sub(1) {
        None => (part, 0),
        Some(shift) => (PARTS as u64 + part, shift),
    };
    Duration::from_nanos(((first * 1000) << shift) + (500 << shift))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_recorded_has_no_quantiles() {
        let none = Histogram::default();
        assert_eq!((none.count(), none.sum(), none.quantile(0.5)), (0, Duration::ZERO, None));
    }

    #[test]
    fn the_shortest_and_the_longest_have_buckets() {
        let mut all = Histogram::default();
        all.record(Duration::ZERO);
        all.record(Duration::MAX);
        assert_eq!(all.quantile(0.0), Some(Duration::from_nanos(500)));
        let most = all.quantile(1.0).unwrap();
        assert!((4000..4400).contains(&most.as_secs()), "{most:?}");
        assert_eq!((all.count(), all.sum()), (2, Duration::MAX));
    }

    #[test]
    fn buckets_follow_each_other() {
        for at in 0..BUCKETS {
            assert_eq!(bucket(middle(at)), at);
        }
    }

    proptest! {
        #[test]
        fn quantiles_are_near_those_of_the_sorted_durations(
            powers in prop::collection::vec(0.0f64..41.0, 1..400),
            share in 0.0f64..=1.0,
        ) {
            let mut took: Vec<Duration> =
                powers.iter().map(|power| Duration::from_nanos(power.exp2() as u64)).collect();
            let mut all = Histogram::default();
            took.iter().for_each(|took| all.record(*took));
            took.sort_unstable();
            prop_assert_eq!(all.count(), took.len() as u64);
            prop_assert_eq!(all.sum(), took.iter().sum::<Duration>());
            let rank = ((share * took.len() as f64).ceil() as usize).max(1);
            let right = took[rank - 1].as_secs_f64();
            let found = all.quantile(share).unwrap().as_secs_f64();
            let most = (right * Histogram::RELATIVE_ERROR).max(0.5e-6) * (1.0 + 1e-9);
            prop_assert!((found - right).abs() <= most, "{} beside {}", found, right);
        }
    }
}
