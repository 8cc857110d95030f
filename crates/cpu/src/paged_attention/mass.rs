//! What rows pay to chunks: sums of a block's weights by chunk as they are at hand for the values, scaled once a row's
//! maximum and sum over all blocks are known. A prompt's row has them at the end of its task, which keeps the sums of its
//! blocks until then; those of a generated row travel with its partials.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use interleaf_contract::{ATTENTION_SPLIT, AttentionShape, CHUNK_TOKENS, MassSample};

use super::plan::{CHUNKS, Plan};
use crate::attention_mass::Totals;
use crate::isa::Isa;
use crate::lines::Floats;
use crate::math::MOST_LANES;
use crate::region::Shared;

/// A layer that is measured.
pub struct Measured<'a> {
    sample: &'a MassSample,
    /// What a weight of one query head counts in the mean of all that are measured.
    share: f64,
    /// What generated rows leave for merging: partials × [`CHUNKS`].
    pub sums: Shared<'a, f32>,
}

/// How many values the sums of a layer's partials are.
pub fn sums_len(plan: &Plan<'_>) -> usize {
    plan.partials() * CHUNKS
}

impl<'a> Measured<'a> {
    /// A layer of a sample.
    pub fn new(sample: &'a MassSample, shape: &AttentionShape, sums: Shared<'a, f32>) -> Self {
        let share = 1.0 / (f64::from(sample.heads(shape)) * sample.layers.len() as f64);
        Self { sample, share, sums }
    }

    /// Whether the queries of a key/value head are measured.
    pub fn has_head(&self, kv_head: usize) -> bool {
        self.sample.has_head(kv_head as u32)
    }

    /// Adds what some query heads paid to the chunks of a block.
    pub fn pay(&self, sequence: usize, block: usize, paid: &[f32; CHUNKS], totals: &mut Totals) {
        totals.add(sequence, block * CHUNKS, paid, self.share);
    }
}

/// The sums of all blocks that a task has gone through.
#[derive(Default)]
pub struct Sums {
    /// Blocks × queries × [`CHUNKS`].
    sums: Floats,
    /// Blocks × queries: the maximum that the weights are relative to.
    largest: Floats,
}

impl Sums {
    /// Makes room for a task.
    pub fn begin(&mut self, blocks: usize, queries: usize) {
        self.sums.resize(blocks * queries * CHUNKS);
        self.largest.resize(blocks * queries);
    }

    /// Where the sums and the maximum of a query in a block go, the blocks numbered from the task's first on.
    pub fn place(&mut self, at: usize) -> (&mut [f32], &mut f32) {
        (&mut self.sums[at * CHUNKS..][..CHUNKS], &mut self.largest[at])
    }

    /// What the queries of a task paid to the chunks of a block, by the final states of each.
    pub fn paid<'s>(&self, block: usize, states: impl ExactSizeIterator<Item = &'s [f32]>) -> [f32; CHUNKS] {
        let mut paid = [0.0; CHUNKS];
        let first = block * states.len();
        let sums = self.sums[first * CHUNKS..].chunks_exact(CHUNKS).zip(&self.largest[first..]);
        for ((sums, largest), state) in sums.zip(states) {
            add(&mut paid, sums, *largest, [state[0], state[1]]);
        }
        paid
    }
}

/// Adds what a query paid to the chunks of a block: the sums of its weights there, relative to the block's maximum, and its
/// final state, a maximum and the sum relative to that. A state that is no number pays nothing.
#[inline(always)]
pub fn add(paid: &mut [f32; CHUNKS], sums: &[f32], largest: f32, [max, total]: [f32; 2]) {
    if total > 0.0 {
        let factor = (largest - max).exp() / total;
        for (paid, sum) in paid.iter_mut().zip(sums) {
            *paid += sum * factor;
        }
    }
}

/// Sums of a query's weights for each chunk of a block, of which it sees `seen`. What it does not see is overwritten where it
/// lies beside what it sees.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn by_chunk<I: Isa>(weights: &mut [f32], seen: Range<usize>, sums: &mut [f32]) {
    /// A vector of sums.
    const fn span(lanes: usize) -> usize {
        lanes * CHUNK_TOKENS
    }
    const { assert!(ATTENTION_SPLIT.is_multiple_of(span(I::LANES)), "a block is whole vectors of sums") };
    assert!(weights.len() == ATTENTION_SPLIT && sums.len() == CHUNKS, "a block");
    sums.fill(0.0);
    if seen.is_empty() {
        return;
    }
    let span = span(I::LANES);
    let places = seen.start / span * span..seen.end.next_multiple_of(span);
    weights[places.start..seen.start].fill(0.0);
    weights[seen.end..places.end].fill(0.0);
    for place in places.step_by(span) {
        let of = vector_of_sums::<I>(weights[place..place + span].as_ptr());
        I::store(sums[place / CHUNK_TOKENS..][..I::LANES].as_mut_ptr(), of);
    }
}

/// The sums of [`Isa::LANES`] chunks, one in each lane: every chunk to one vector, then neighbouring lanes of two vectors
/// to one until one is left.
#[inline(always)]
unsafe fn vector_of_sums<I: Isa>(weights: *const f32) -> I::V {
    let mut sums = [I::splat(0.0); MOST_LANES];
    for (chunk, sum) in sums[..I::LANES].iter_mut().enumerate() {
        let weights = weights.add(chunk * CHUNK_TOKENS);
        *sum = I::load(weights);
        for at in (I::LANES..CHUNK_TOKENS).step_by(I::LANES) {
            *sum = I::add(*sum, I::load(weights.add(at)));
        }
    }
    let mut left = I::LANES;
    while left > 1 {
        left /= 2;
        for i in 0..left {
            let [even, odd] = I::unzip(sums[2 * i], sums[2 * i + 1]);
            sums[i] = I::add(even, odd);
        }
    }
    sums[0]
}
