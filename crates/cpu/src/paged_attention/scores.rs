//! Scores of queries with the keys of a page, and the weights of a block that they become.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use interleaf_contract::{ATTENTION_SPLIT, CHUNK_TOKENS};

use crate::isa::{Isa, each_of};
use crate::lines::Floats;
use crate::math::{exp, load_first, store_first};
use crate::page_codec::ABREAST;

/// The queries of a task: for each row the heads of its group.
pub struct Queries<'a> {
    pub values: &'a [f32],
    pub dim: usize,
    pub group: usize,
    /// Where each query begins.
    pub starts: Vec<usize>,
    /// The same with [`ABREAST`] queries side by side, dim × ABREAST, then the next ones; what is left of them is not there.
    pub abreast: &'a [f32],
}

impl<'a> Queries<'a> {
    /// A query's values.
    pub fn of(&self, query: usize) -> &'a [f32] {
        &self.values[self.starts[query]..][..self.dim]
    }

    /// So many queries from a multiple of them on, side by side.
    pub fn abreast(&self, first: usize) -> &'a [f32] {
        assert!(first.is_multiple_of(ABREAST), "a whole four");
        &self.abreast[first * self.dim..][..ABREAST * self.dim]
    }

    fn pointer(&self, query: usize) -> *const f32 {
        self.of(query).as_ptr()
    }
}

/// Puts queries side by side, as [`Queries::abreast`] has them.
pub fn put_abreast(values: &[f32], dim: usize, starts: &[usize], out: &mut Floats) {
    out.resize(starts.len() / ABREAST * ABREAST * dim);
    for (starts, out) in starts.chunks_exact(ABREAST).zip(out.chunks_exact_mut(ABREAST * dim)) {
        for (i, start) in starts.iter().enumerate() {
            for (place, value) in out.chunks_exact_mut(ABREAST).zip(&values[*start..][..dim]) {
                place[i] = *value;
            }
        }
    }
}

/// Scaled products of some queries with the keys of a page, to `scores[query][at ..]`.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn score_all<I: Isa>(
    queries: &Queries<'_>,
    range: std::ops::Range<usize>,
    keys: &[f32],
    scale: f32,
    scores: &mut [f32],
    at: usize,
) {
    // Of few queries several vectors of tokens where a page has them, lest every product wait for the one before it.
    let (two, four) = (2 * I::LANES <= CHUNK_TOKENS, 4 * I::LANES <= CHUNK_TOKENS);
    let mut query = range.start;
    while query < range.end {
        query += match range.end - query {
            8.. => score::<I, 8, 1>(queries, query, keys, scale, scores, at),
            4.. if two => score::<I, 4, 2>(queries, query, keys, scale, scores, at),
            4.. => score::<I, 4, 1>(queries, query, keys, scale, scores, at),
            2.. if two => score::<I, 2, 2>(queries, query, keys, scale, scores, at),
            3 => score::<I, 3, 1>(queries, query, keys, scale, scores, at),
            2.. => score::<I, 2, 1>(queries, query, keys, scale, scores, at),
            _ if four => score::<I, 1, 4>(queries, query, keys, scale, scores, at),
            _ if two => score::<I, 1, 2>(queries, query, keys, scale, scores, at),
            _ => score::<I, 1, 1>(queries, query, keys, scale, scores, at),
        };
    }
}

/// Q queries and T vectors of tokens at once; every product adds its dimensions in one ascending chain, or those at even
/// places in one and those at odd places in another.
#[inline(always)]
unsafe fn score<I: Isa, const Q: usize, const T: usize>(
    queries: &Queries<'_>,
    first: usize,
    keys: &[f32],
    scale: f32,
    scores: &mut [f32],
    at: usize,
) -> usize {
    let q = each_of!(Q, std::ptr::null(), |i| queries.pointer(first + i));
    let scale = I::splat(scale);
    let step = if I::TWO_CHAINS { 2 * I::FACTORS } else { I::FACTORS };
    let whole = queries.dim / step * step;
    for token in (0..CHUNK_TOKENS).step_by(T * I::LANES) {
        let zeros = [[I::splat(0.0); T]; Q];
        let (mut sums, mut odd) = (zeros, zeros);
        let keys = keys.as_ptr().add(token);
        if I::TWO_CHAINS {
            for d in (0..whole).step_by(2 * I::FACTORS) {
                let even = each_of!(Q, std::ptr::null(), |i| q[i].add(d));
                I::rank_update(even, keys.add(d * CHUNK_TOKENS), CHUNK_TOKENS, &mut sums);
                let d = d + I::FACTORS;
                let behind = each_of!(Q, std::ptr::null(), |i| q[i].add(d));
                I::rank_update(behind, keys.add(d * CHUNK_TOKENS), CHUNK_TOKENS, &mut odd);
            }
        } else {
            for d in (0..whole).step_by(I::FACTORS) {
                let q = each_of!(Q, std::ptr::null(), |i| q[i].add(d));
                I::rank_update(q, keys.add(d * CHUNK_TOKENS), CHUNK_TOKENS, &mut sums);
            }
        }
        for d in whole..queries.dim {
            for (sums, q) in sums.iter_mut().zip(q) {
                for (t, sum) in sums.iter_mut().enumerate() {
                    let keys = I::load(keys.add(d * CHUNK_TOKENS + t * I::LANES));
                    *sum = I::fma(I::splat(*q.add(d)), keys, *sum);
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            let place = &mut scores[(first + i) * ATTENTION_SPLIT + at + token..][..T * I::LANES];
            for (t, (place, mut sum)) in place.chunks_exact_mut(I::LANES).zip(sums).enumerate() {
                if I::TWO_CHAINS {
                    sum = I::add(sum, odd[i][t]);
                }
                I::store(place.as_mut_ptr(), I::mul(sum, scale));
            }
        }
    }
    Q
}

/// Scores to `exp(score − maximum)`; the maximum and the sum. Without scores: −∞ and 0.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn weigh<I: Isa>(scores: &mut [f32]) -> (f32, f32) {
    let n = scores.len();
    let mut largest = I::splat(f32::NEG_INFINITY);
    let whole = n / I::LANES * I::LANES;
    for i in (0..whole).step_by(I::LANES) {
        largest = I::max(largest, I::load(scores.as_ptr().add(i)));
    }
    let mut max = I::largest(largest);
    for &score in &scores[whole..] {
        max = if max > score { max } else { score };
    }
    let mut sum = I::splat(0.0);
    for i in (0..n).step_by(I::LANES) {
        let lanes = I::LANES.min(n - i);
        let p = scores.as_mut_ptr().add(i);
        store_first::<I>(p, exp::<I>(I::sub(load_first::<I>(p, lanes), I::splat(max))), lanes);
        // Lanes that are not there are zero once they are stored and read again.
        sum = I::add(sum, load_first::<I>(p, lanes));
    }
    (max, I::sum(sum))
}
