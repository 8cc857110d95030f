//! Random numbers that are the same on every platform and in every run: the generator's stream is specified (ChaCha with
//! 8 rounds), the distributions are here and not in a crate that may change them, and logarithms and powers are libm's in
//! Rust and not the system's, whose last bits differ.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::text::mix;
use crate::values::Between;

/// What numbers are drawn for. Each purpose has a stream of its own, so that two variants of a workload under one seed
/// differ in what they change and not in all that is drawn after it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// When something happens.
    Times,
    /// Which context, app or adapter it is.
    Choices,
    /// How many tokens there are.
    Lengths,
}

/// A stream for each purpose.
#[derive(Debug, Clone)]
pub(crate) struct Draws {
    pub times: Draw,
    pub choices: Draw,
    pub lengths: Draw,
}

impl Draws {
    pub fn new(seed: u64) -> Self {
        let draw = |purpose| Draw::new(seed, purpose);
        Self { times: draw(Purpose::Times), choices: draw(Purpose::Choices), lengths: draw(Purpose::Lengths) }
    }
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub(crate) struct Draw(ChaCha8Rng);

impl Draw {
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        let mut key = [0; 32];
        for (place, bytes) in (0_u64..).zip(key.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&mix(seed.wrapping_add(place << 32)).to_le_bytes());
        }
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(purpose as u64);
        Self(generator)
    }

    /// Evenly from 0 to below 1, in steps of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Evenly from above 0 to 1: what a logarithm may be taken of.
    fn above_zero(&mut self) -> f64 {
        1.0 - self.unit()
    }

    /// Whether something of this probability happens.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Evenly from the least to the most.
    pub fn between(&mut self, range: Between) -> u32 {
        let width = f64::from(range.max() - range.min()) + 1.0;
        range.min() + ((self.unit() * width) as u32).min(range.max() - range.min())
    }

    /// Exponential, of a mean: the time to the next event of a Poisson process.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * libm::log(self.above_zero())
    }

    /// Normal, of mean 0 and variance 1: Marsaglia's polar method, whose second number is left.
    fn normal(&mut self) -> f64 {
        loop {
            let (x, y) = (2.0 * self.unit() - 1.0, 2.0 * self.unit() - 1.0);
            let square = x * x + y * y;
            if 0.0 < square && square < 1.0 {
                return x * (-2.0 * libm::log(square) / square).sqrt();
            }
        }
    }

    /// Gamma, of mean `shape · scale`: Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 26
    /// (2000), section 8 for shapes below 1.
    fn gamma(&mut self, shape: f64, scale: f64) -> f64 {
        if shape < 1.0 {
            let boost = libm::pow(self.above_zero(), 1.0 / shape);
            return self.gamma(shape + 1.0, scale) * boost;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = 1.0 + c * x;
            if v <= 0.0 {
                continue;
            }
            let v = v * v * v;
            if libm::log(self.above_zero()) < 0.5 * x * x + d - d * v + d * libm::log(v) {
                return d * v * scale;
            }
        }
    }

    /// The time between two arrivals, in seconds, where `rate` arrive in a second with a coefficient of variation `cv`:
    /// Gamma of shape 1/cv² and scale cv²/rate, as S-LoRA draws it (`benchmarks/trace.py`).
    pub fn gap(&mut self, rate: f64, cv: f64) -> f64 {
        self.gamma(1.0 / (cv * cv), cv * cv / rate)
    }
}

/// A choice among things of different weights.
#[derive(Debug, Clone)]
pub(crate) struct Weighted {
    /// Sums of the weights up to and with each.
    sums: Vec<f64>,
}

impl Weighted {
    pub fn new(weights: impl IntoIterator<Item = f64>) -> Self {
        let sums = weights.into_iter().scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self { sums: sums.collect() }
    }

    /// Zipf over ranks: the k-th of `count` has a share of 1/kᵃ.
    pub fn zipf(count: u32, exponent: f64) -> Self {
        Self::new((1..=count).map(|rank| libm::pow(f64::from(rank), -exponent)))
    }

    /// One of them, by its place.
    pub fn pick(&self, draw: &mut Draw) -> usize {
        let all = self.sums.last().copied().unwrap_or_default();
        let place = draw.unit() * all;
        self.sums.partition_point(|sum| *sum <= place).min(self.sums.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWN: usize = 400_000;

    fn draw() -> Draw {
        Draw::new(7, Purpose::Times)
    }

    /// Mean and coefficient of variation of what is drawn.
    fn moments(mut next: impl FnMut() -> f64) -> (f64, f64) {
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..DRAWN {
            let value = next();
            sum += value;
            squares += value * value;
        }
        let mean = sum / DRAWN as f64;
        (mean, (squares / DRAWN as f64 - mean * mean).sqrt() / mean)
    }

    #[test]
    fn units_are_even() {
        let mut draw = draw();
        let mut counts = [0_u32; 64];
        for _ in 0..DRAWN {
            counts[(draw.unit() * 64.0) as usize] += 1;
        }
        let expected = DRAWN as f64 / 64.0;
        let square: f64 = counts.iter().map(|c| (f64::from(*c) - expected).powi(2) / expected).sum();
        // Chi-square of 63 degrees of freedom: 63 ± 11; 5 of these away.
        assert!((63.0 - 56.0..63.0 + 56.0).contains(&square), "{square}");
    }

    #[test]
    fn exponential_gaps_have_the_mean_and_vary_by_it() {
        let mut draw = draw();
        let (mean, cv) = moments(|| draw.exponential(300.0));
        assert!((mean / 300.0 - 1.0).abs() < 0.01 && (cv - 1.0).abs() < 0.01, "{mean} {cv}");
    }

    #[test]
    fn gamma_gaps_have_the_rate_and_the_variation() {
        let mut draw = draw();
        for (rate, wanted) in [(0.5, 0.5), (0.5, 1.0), (2.0, 1.5), (2.0, 4.0)] {
            let (mean, cv) = moments(|| draw.gap(rate, wanted));
            // The error of the mean is cv/√n; that of cv grows with the fourth moment.
            assert!((mean * rate - 1.0).abs() < 5.0 * wanted / (DRAWN as f64).sqrt(), "{wanted}: {mean}");
            assert!((cv / wanted - 1.0).abs() < 0.01 * wanted.max(1.0), "{wanted}: {cv}");
        }
    }

    #[test]
    fn whole_numbers_reach_both_ends_evenly() {
        let mut draw = draw();
        let range = Between::try_from([3, 6]).unwrap();
        let mut counts = [0_u32; 8];
        for _ in 0..DRAWN {
            counts[draw.between(range) as usize] += 1;
        }
        let expected = DRAWN as f64 / 4.0;
        assert!(counts[3..7].iter().all(|c| (f64::from(*c) / expected - 1.0).abs() < 0.02), "{counts:?}");
        assert_eq!(counts[3..7].iter().sum::<u32>() as usize, DRAWN);
    }

    #[test]
    fn the_extremes_of_a_range_do_not_overflow() {
        let range = Between::try_from([1, u32::MAX]).unwrap();
        let mut draw = draw();
        assert!((0..1000).all(|_| draw.between(range) >= 1));
    }

    #[test]
    fn zipf_has_zipfs_shares() {
        for exponent in [0.5, 1.0, 1.3] {
            let (mut draw, zipf) = (draw(), Weighted::zipf(50, exponent));
            let mut counts = [0_u32; 50];
            for _ in 0..DRAWN {
                counts[zipf.pick(&mut draw)] += 1;
            }
            let weights: Vec<f64> = (1..=50).map(|k| f64::from(k).powf(-exponent)).collect();
            let all: f64 = weights.iter().sum();
            let square: f64 = counts
                .iter()
                .zip(&weights)
                .map(|(count, weight)| {
                    let expected = DRAWN as f64 * weight / all;
                    (f64::from(*count) - expected).powi(2) / expected
                })
                .sum();
            // Chi-square of 49 degrees of freedom: 49 ± 10; 5 of these away.
            assert!(square < 49.0 + 50.0, "{exponent}: {square}");
        }
    }

    #[test]
    fn purposes_and_seeds_have_streams_of_their_own() {
        let first = |seed, purpose| Draw::new(seed, purpose).unit();
        let all = [first(1, Purpose::Times), first(1, Purpose::Choices), first(2, Purpose::Times)];
        assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2], "{all:?}");
    }
}
