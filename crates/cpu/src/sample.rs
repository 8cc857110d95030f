//! A token from logits. Weights are computed in f64 as in the reference, and candidates are found and sorted only as
//! far as the draw goes: a vocabulary of 128 thousand takes longer to sort than a small model takes for a layer.

use interleaf_contract::Sampler;

use crate::isa::{Isa, Kernel};

/// Chooses a token; the order of the rules is stated at [`Sampler`].
pub struct Sample<'a> {
    pub logits: &'a [f32],
    pub sampler: &'a Sampler,
}

impl Kernel for Sample<'_> {
    type Output = Option<u32>;

    #[inline(always)]
    unsafe fn run<I: Isa>(self) -> Option<u32> {
        let sampler = self.sampler;
        let mut logits = std::borrow::Cow::Borrowed(self.logits);
        for &(token, bias) in &sampler.bias {
            logits.to_mut()[token as usize] += bias;
        }
        if sampler.repeat_penalty != 1.0 {
            penalise(logits.to_mut(), sampler);
        }
        let largest = largest(&logits)?;
        if sampler.temperature == 0.0 {
            return first(&logits, largest);
        }
        draw(&logits, largest.min(f32::MAX), sampler)
    }
}

/// The largest logit that can be chosen. Plain loops over an array of lanes, which the tier's instructions are used for.
#[inline(always)]
fn largest(logits: &[f32]) -> Option<f32> {
    const LANES: usize = 32;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = logits.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            // False for NaN.
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    let largest = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
    can_be_chosen(largest).then_some(largest)
}

/// The first token that has this logit.
#[inline(always)]
fn first(logits: &[f32], logit: f32) -> Option<u32> {
    const CHUNK: usize = 64;
    let chunk =
        logits.chunks(CHUNK).position(|chunk| chunk.iter().fold(false, |any, &l| any | (l == logit)))?;
    let inside = logits[chunk * CHUNK..].iter().position(|&l| l == logit)?;
    Some((chunk * CHUNK + inside) as u32)
}

/// What is neither NaN nor banned. A logit that has grown to +∞ counts as the largest f32.
fn can_be_chosen(logit: f32) -> bool {
    logit > f32::NEG_INFINITY
}

fn penalise(logits: &mut [f32], sampler: &Sampler) {
    let mut history = sampler.history.clone();
    history.sort_unstable();
    history.dedup();
    for token in history {
        let logit = &mut logits[token as usize];
        *logit = if *logit > 0.0 { *logit / sampler.repeat_penalty } else { *logit * sampler.repeat_penalty };
    }
}

/// A candidate: its logit, and its token, of which the smaller goes first among equals.
type Candidate = (f32, u32);

fn descending(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Draws from what top-k, top-p and min-p leave.
#[inline(always)]
fn draw(logits: &[f32], largest: f32, sampler: &Sampler) -> Option<u32> {
    let weights = Weights { largest, temperature: f64::from(sampler.temperature) };
    let mut candidates = Descending::new(logits, weights);
    // As many as there are leave nothing out, and are not sorted for it.
    if sampler.top_k == 0 || sampler.top_k as usize >= logits.len() {
        return choose(candidates, weights.total(logits), weights, sampler);
    }
    let most: Vec<Candidate> = candidates.by_ref().take(sampler.top_k as usize).collect();
    let total = most.iter().map(|(logit, _)| weights.of(*logit)).sum();
    choose(most.into_iter(), total, weights, sampler)
}

/// Draws from candidates in descending order whose weights add up to `total`.
#[inline(always)]
fn choose(
    candidates: impl Iterator<Item = Candidate>,
    total: f64,
    weights: Weights,
    sampler: &Sampler,
) -> Option<u32> {
    let (nucleus, least) = (f64::from(sampler.top_p) * total, f64::from(sampler.min_p));
    let fraction = uniform(sampler);
    // Without a rule that cuts the tail off, what is drawn from is known at once.
    let whole = sampler.top_p >= 1.0 && sampler.min_p <= 0.0;
    let mut kept: Vec<(u32, f64)> = Vec::new();
    let mut reached = 0.0;
    for (logit, token) in candidates {
        // The most likely token has weight 1, so min-p compares with the weights themselves.
        let weight = weights.of(logit);
        if weight < least {
            break;
        }
        kept.push((token, weight));
        reached += weight;
        if reached >= nucleus || (whole && reached > fraction * total) {
            break;
        }
    }
    let target = fraction * if whole { total } else { reached };
    let mut reached = 0.0;
    let drawn = kept.iter().find(|(_, weight)| {
        reached += weight;
        target < reached
    });
    drawn.or(kept.last()).map(|(token, _)| *token)
}

/// What logits weigh, as a share of the largest.
#[derive(Clone, Copy)]
struct Weights {
    largest: f32,
    temperature: f64,
}

impl Weights {
    #[inline(always)]
    fn of(self, logit: f32) -> f64 {
        exp(f64::from(logit.min(f32::MAX) - self.largest) / self.temperature)
    }

    /// Of all that can be chosen. Plain loops over an array of lanes, as in [`largest`].
    #[inline(always)]
    fn total(self, logits: &[f32]) -> f64 {
        const LANES: usize = 16;
        let of = |logit: f32| if can_be_chosen(logit) { self.of(logit) } else { 0.0 };
        let mut lanes = [0.0; LANES];
        let (whole, rest) = logits.as_chunks::<LANES>();
        for chunk in whole {
            for (lane, &logit) in lanes.iter_mut().zip(chunk) {
                *lane += of(logit);
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|&logit| of(logit)).sum::<f64>()
    }
}

/// `eˣ` for x ≤ 0 to within 2 units in the last place, without a branch, so that a loop of it becomes vectors; 0 below
/// −708, where results cease to be normal numbers.
///
/// `eˣ = 2ⁿ·eʳ` with `r = x − n·ln 2`, the logarithm in two parts of which n times the first is exact, and Taylor's
/// polynomial: r¹⁴/14! is below 5e-18 for |r| ≤ ln 2 / 2.
#[inline(always)]
fn exp(x: f64) -> f64 {
    const LEAST: f64 = -708.0;
    const LN_2_HIGH: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000);
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    /// 1.5 · 2⁵²: a number of small magnitude that is added to it leaves its nearest integer in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const TAYLOR: [f64; 12] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        1.0 / 2.0,
    ];
    let clamped = if x > LEAST { x } else { LEAST };
    let shifted = clamped * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = TAYLOR[0];
    for c in &TAYLOR[1..] {
        p = p * r + c;
    }
    let p = 1.0 + (r + r * r * p);
    // The bits of n, moved into the exponent, which is at least −1022.
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x > LEAST { p * scale } else { 0.0 }
}

/// Candidates in descending order. They are collected in bands, each of what a pass over the logits finds below the band
/// before it: most draws end in the first, of a few hundred.
struct Descending<'a> {
    logits: &'a [f32],
    weights: Weights,
    /// Bands that have been collected, and the least logit of the last.
    bands: usize,
    least: f32,
    band: Sorted,
}

/// How far below the largest logit the bands reach, in temperatures; what is below all of them weighs less than 1e-13
/// each.
const BANDS: [f64; 2] = [8.0, 30.0];

impl<'a> Descending<'a> {
    fn new(logits: &'a [f32], weights: Weights) -> Self {
        Self { logits, weights, bands: 0, least: f32::INFINITY, band: Sorted::new(Vec::new()) }
    }

    #[inline(always)]
    fn collect(&mut self) {
        const CHUNK: usize = 32;
        let above = self.least;
        let reach = BANDS.get(self.bands).map(|reach| reach * self.weights.temperature);
        self.least =
            reach.map_or(f32::NEG_INFINITY, |reach| (f64::from(self.weights.largest) - reach) as f32);
        let least = self.least;
        // In the first band +∞ is too; in the last one nothing is that cannot be chosen.
        let first = self.bands == 0;
        let inside = |logit: f32| {
            (first || logit < above)
                && if least > f32::NEG_INFINITY { logit >= least } else { can_be_chosen(logit) }
        };
        self.bands += 1;
        let mut found = Vec::new();
        for (index, chunk) in self.logits.chunks(CHUNK).enumerate() {
            if chunk.iter().fold(false, |any, &logit| any | inside(logit)) {
                let tokens = (index * CHUNK) as u32..;
                let candidates = chunk.iter().zip(tokens).filter(|(logit, _)| inside(**logit));
                found.extend(candidates.map(|(logit, token)| (logit.min(f32::MAX), token)));
            }
        }
        self.band = Sorted::new(found);
    }
}

impl Iterator for Descending<'_> {
    type Item = Candidate;

    fn next(&mut self) -> Option<Candidate> {
        loop {
            if let Some(candidate) = self.band.next() {
                return Some(candidate);
            }
            if self.bands > BANDS.len() {
                return None;
            }
            self.collect();
        }
    }
}

/// Candidates in descending order, sorted in blocks as they are asked for.
struct Sorted {
    candidates: Vec<Candidate>,
    /// How many of the first are in their places, and how many of those have been given out.
    sorted: usize,
    next: usize,
    block: usize,
}

impl Sorted {
    fn new(candidates: Vec<Candidate>) -> Self {
        Self { candidates, sorted: 0, next: 0, block: 128 }
    }
}

impl Iterator for Sorted {
    type Item = Candidate;

    fn next(&mut self) -> Option<Candidate> {
        if self.next == self.sorted {
            let unsorted = &mut self.candidates[self.sorted..];
            let block = self.block.min(unsorted.len());
            if block < unsorted.len() {
                unsorted.select_nth_unstable_by(block, descending);
            }
            unsorted[..block].sort_unstable_by(descending);
            self.sorted += block;
            self.block *= 8;
        }
        let candidate = self.candidates.get(self.next).copied();
        self.next += 1;
        candidate
    }
}

/// A fraction in [0, 1) of 24 bits from PCG4D (Jarzynski and Olano, JCGT 9(3), 2020).
fn uniform(sampler: &Sampler) -> f64 {
    let seed = sampler.seed;
    let mut v = [seed as u32, (seed >> 32) as u32, sampler.sequence, sampler.step]
        .map(|x| x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    for shift in [16, 0] {
        v[0] = v[0].wrapping_add(v[1].wrapping_mul(v[3]));
        v[1] = v[1].wrapping_add(v[2].wrapping_mul(v[0]));
        v[2] = v[2].wrapping_add(v[0].wrapping_mul(v[1]));
        v[3] = v[3].wrapping_add(v[1].wrapping_mul(v[2]));
        if shift > 0 {
            v = v.map(|x| x ^ (x >> shift));
        }
    }
    f64::from(v[0] >> 8) / f64::from(1u32 << 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_come_in_order_whatever_their_number() {
        for n in [0usize, 1, 127, 128, 129, 1151, 1152, 1153, 20_000] {
            for spread in [0.0f32, 1e-3, 1.0, 1e36] {
                let mut logits: Vec<f32> =
                    (0..n).map(|i| ((i * 7919) % 1013) as f32 * 0.1 * spread - 40.0).collect();
                for (i, logit) in logits.iter_mut().enumerate() {
                    match i % 97 {
                        5 => *logit = f32::NAN,
                        6 => *logit = f32::NEG_INFINITY,
                        7 => *logit = f32::INFINITY,
                        _ => {}
                    }
                }
                let mut expected: Vec<Candidate> = logits
                    .iter()
                    .zip(0..)
                    .filter(|(logit, _)| can_be_chosen(**logit))
                    .map(|(logit, token)| (logit.min(f32::MAX), token))
                    .collect();
                expected.sort_by(descending);
                let largest = expected.first().map_or(0.0, |(logit, _)| *logit);
                for temperature in [1e-30, 0.1, 1.0, 1e30] {
                    let found: Vec<Candidate> =
                        Descending::new(&logits, Weights { largest, temperature }).collect();
                    assert_eq!(found, expected, "{n} spread by {spread} at {temperature}");
                }
            }
        }
    }

    #[test]
    fn exponentials_are_those_of_the_library() {
        for i in 0..2_000_000u32 {
            let x = -f64::from(i) * 3.6e-4;
            let (found, expected) = (exp(x), x.exp());
            if x > -708.0 {
                assert!(
                    (found - expected).abs() <= 2.0 * f64::EPSILON * expected,
                    "{x}: {found}, {expected}"
                );
            } else {
                assert!(found == 0.0 && expected < 1e-300, "{x}");
            }
        }
        assert_eq!((exp(0.0), exp(f64::NEG_INFINITY)), (1.0, 0.0));
    }

    #[test]
    fn the_first_of_the_largest_is_chosen() {
        for n in [1usize, 31, 32, 33, 64, 65, 1000] {
            for at in [0, n / 2, n - 1] {
                let mut logits = vec![-1.0f32; n];
                logits[at] = 2.0;
                *logits.last_mut().unwrap() = 2.0;
                logits[0] = if at == 0 { 2.0 } else { f32::NAN };
                let found = largest(&logits).unwrap();
                assert_eq!((found, first(&logits, found)), (2.0, Some(at as u32)));
            }
        }
        assert_eq!(largest(&[f32::NEG_INFINITY, f32::NAN]), None);
        assert_eq!(largest(&[]), None);
    }
}
