//! Weighted values of pages, added to what queries have of a block.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use interleaf_contract::{ATTENTION_SPLIT, CHUNK_TOKENS};

use crate::isa::{Isa, each_of};
use crate::math::{load_first, store_first};

/// The weights of some rows' queries for a page.
pub struct Weights<'a> {
    /// What each row of the task sees of the block.
    pub seen: &'a [Range<usize>],
    /// The rows.
    pub rows: Range<usize>,
    /// Queries of a row.
    pub group: usize,
    /// Queries × positions of a block.
    pub scores: &'a [f32],
    /// Where in the block the page begins.
    pub at: usize,
}

impl Weights<'_> {
    /// The tokens of the page that a query sees, from the block's start on.
    #[inline(always)]
    pub fn tokens(&self, query: usize) -> Range<usize> {
        let seen = &self.seen[query / self.group];
        seen.start.max(self.at)..seen.end.min(self.at + CHUNK_TOKENS)
    }

    /// A query's weights for some tokens, from the block's start on.
    #[inline(always)]
    pub fn of(&self, query: usize, tokens: Range<usize>) -> &[f32] {
        &self.scores[query * ATTENTION_SPLIT..][tokens]
    }

    /// The same of all tokens of the page, and behind them those of the queries that follow, [`ATTENTION_SPLIT`] apart.
    pub fn from(&self, query: usize) -> &[f32] {
        &self.scores[query * ATTENTION_SPLIT + self.at..]
    }

    /// Whether all queries see all of the page.
    pub fn see_all(&self) -> bool {
        let all = self.all();
        let sees = |seen: &Range<usize>| seen.start <= all.start && seen.end >= all.end;
        self.seen[self.rows.clone()].iter().all(sees)
    }

    /// All tokens of the page, from the block's start on.
    #[inline(always)]
    pub fn all(&self) -> Range<usize> {
        self.at..self.at + CHUNK_TOKENS
    }

    /// The queries.
    #[inline(always)]
    pub fn queries(&self) -> Range<usize> {
        self.rows.start * self.group..self.rows.end * self.group
    }
}

/// Where the sums of each query are.
pub struct Sums<'a> {
    pub values: &'a mut [f32],
    /// Where a query's begin among its values.
    pub first: usize,
    /// Values of a query.
    pub stride: usize,
    /// How many are summed, and values of a token.
    pub width: usize,
}

impl Sums<'_> {
    /// A query's.
    #[inline(always)]
    pub fn of(&mut self, query: usize) -> &mut [f32] {
        &mut self.values[query * self.stride + self.first..][..self.width]
    }

    /// Where those of Q queries begin.
    #[inline(always)]
    pub fn of_some<const Q: usize>(&mut self, query: usize) -> [*mut f32; Q] {
        let place = query * self.stride + self.first;
        let first = self.values[place..place + (Q - 1) * self.stride + self.width].as_mut_ptr();
        each_of!(Q, first, |q| first.wrapping_add(q * self.stride))
    }
}

/// Adds a page's weighted values, a row of each token, to every query's sums. Queries that see all of it go together, four where their sums fit
/// into registers, or else two.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn accumulate_all<I: Isa>(weights: &Weights<'_>, page: &[f32], sums: &mut Sums<'_>) {
    let width = sums.width;
    assert!(page.len() == CHUNK_TOKENS * width, "a page");
    let queries = weights.queries();
    let see_all = weights.see_all();
    let mut query = queries.start;
    while query < queries.end {
        let tokens = if see_all { weights.all() } else { weights.tokens(query) };
        if tokens.start >= tokens.end {
            query += 1;
            continue;
        }
        let most = if I::MANY_REGISTERS || width < WIDE * I::LANES { 4 } else { 2 };
        let last = queries.end.min(query + most);
        let sees_all = |query: &usize| see_all || weights.tokens(*query).len() == CHUNK_TOKENS;
        let together = (query..last).take_while(sees_all).count();
        query += match together {
            4 => some::<I, 4>(weights, query, tokens, page, sums),
            2 | 3 => some::<I, 2>(weights, query, tokens, page, sums),
            _ => some::<I, 1>(weights, query, tokens, page, sums),
        };
    }
}

/// The same of Q queries that see the same tokens.
#[inline(always)]
unsafe fn some<I: Isa, const Q: usize>(
    weights: &Weights<'_>,
    query: usize,
    tokens: Range<usize>,
    page: &[f32],
    sums: &mut Sums<'_>,
) -> usize {
    let width = sums.width;
    let first = tokens.start - weights.at;
    let values = page[first * width..].as_ptr();
    let rows = each_of!(Q, std::ptr::null(), |q| weights.of(query + q, tokens.clone()).as_ptr());
    let o = sums.of_some::<Q>(query);
    accumulate::<I, Q>(rows, tokens.len(), values, width, o);
    Q
}

/// Vectors of a value that are summed at once.
const WIDE: usize = 4;

/// `o += Σ weight · value`, tokens in order, for Q queries.
#[inline(always)]
unsafe fn accumulate<I: Isa, const Q: usize>(
    weights: [*const f32; Q],
    tokens: usize,
    values: *const f32,
    width: usize,
    o: [*mut f32; Q],
) {
    let zero = I::splat(0.0);
    let zeros = [zero; WIDE];
    let mut i = 0;
    while i + WIDE * I::LANES <= width {
        let mut sums = each_of!(Q, zeros, |q| each_of!(WIDE, zero, |v| I::load(o[q].add(i + v * I::LANES))));
        for t in 0..tokens {
            let value = each_of!(WIDE, zero, |v| I::load(values.add(t * width + i + v * I::LANES)));
            for (sums, weights) in sums.iter_mut().zip(weights) {
                let weight = I::splat(*weights.add(t));
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = I::fma(weight, value, *sum);
                }
            }
        }
        for (sums, o) in sums.into_iter().zip(o) {
            for (v, sum) in sums.into_iter().enumerate() {
                I::store(o.add(i + v * I::LANES), sum);
            }
        }
        i += WIDE * I::LANES;
    }
    while i < width {
        let lanes = I::LANES.min(width - i);
        let mut sums = each_of!(Q, zero, |q| load_first::<I>(o[q].add(i), lanes));
        for t in 0..tokens {
            let value = load_first::<I>(values.add(t * width + i), lanes);
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = I::fma(I::splat(*weights.add(t)), value, *sum);
            }
        }
        for (sum, o) in sums.into_iter().zip(o) {
            store_first::<I>(o.add(i), sum, lanes);
        }
        i += lanes;
    }
}
