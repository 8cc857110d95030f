//! A token from logits. Weights are computed in f64 as in the reference, and candidates are sorted only as far as
//! the draw goes: a vocabulary of 128 thousand takes longer to sort than a small model takes for a layer.

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
fn draw(logits: &[f32], largest: f32, sampler: &Sampler) -> Option<u32> {
    let candidates = logits.iter().enumerate().filter(|(_, l)| can_be_chosen(**l));
    let mut candidates: Vec<Candidate> = candidates.map(|(t, l)| (l.min(f32::MAX), t as u32)).collect();
    let k = sampler.top_k as usize;
    if k > 0 && k < candidates.len() {
        candidates.select_nth_unstable_by(k, descending);
        candidates.truncate(k);
    }
    let temperature = f64::from(sampler.temperature);
    // The most likely token has weight 1, so min-p compares with the weights themselves.
    let weight = |&(logit, _): &Candidate| (f64::from(logit - largest) / temperature).exp();
    let total: f64 = candidates.iter().map(weight).sum();
    let (nucleus, least) = (f64::from(sampler.top_p) * total, f64::from(sampler.min_p));
    let fraction = uniform(sampler);
    // Without a rule that cuts the tail off, what is drawn from is known at once.
    let whole = sampler.top_p >= 1.0 && sampler.min_p <= 0.0;

    let mut kept: Vec<(u32, f64)> = Vec::new();
    let mut reached = 0.0;
    let mut sorted = Sorted::new(&mut candidates);
    while let Some(candidate) = sorted.next() {
        let weight = weight(&candidate);
        if weight < least {
            break;
        }
        kept.push((candidate.1, weight));
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

/// Candidates in descending order, sorted in blocks as they are asked for.
struct Sorted<'a> {
    rest: &'a mut [Candidate],
    /// How many of the first of `rest` are in their places, and how many of those have been given out.
    sorted: usize,
    next: usize,
    block: usize,
}

impl<'a> Sorted<'a> {
    fn new(rest: &'a mut [Candidate]) -> Self {
        Self { rest, sorted: 0, next: 0, block: 128 }
    }

    fn next(&mut self) -> Option<Candidate> {
        if self.next == self.sorted {
            let unsorted = &mut self.rest[self.sorted..];
            let block = self.block.min(unsorted.len());
            if block < unsorted.len() {
                unsorted.select_nth_unstable_by(block, descending);
            }
            unsorted[..block].sort_unstable_by(descending);
            self.sorted += block;
            self.block *= 8;
        }
        let candidate = self.rest.get(self.next).copied();
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
            let mut candidates: Vec<Candidate> =
                (0..n).map(|i| (((i * 7919) % 1013) as f32, i as u32)).collect();
            let mut expected = candidates.clone();
            expected.sort_by(descending);
            let mut sorted = Sorted::new(&mut candidates);
            let found: Vec<Candidate> = std::iter::from_fn(|| sorted.next()).collect();
            assert_eq!(found, expected);
        }
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
