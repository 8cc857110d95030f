//! V's pages of coefficients without expanding them: `Σ weight · (mean + z·directions)` is
//! `(Σ weight) · mean + (Σ weight · z)·directions`, so that a query gathers as many sums as the rank is, and they are
//! expanded once for all of a block's pages.
//!
//! A page that is expanded costs tokens × rank × dim products once for all queries that read it, one that is gathered
//! tokens × rank for each of them, and rank × dim in 256 tokens. Some fifty queries are where the two meet at rank 16 and
//! 64 dimensions: a tile of prompt rows has about as many, a generated row a few. So generated rows gather and prompt rows
//! expand, whatever is beside them.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use interleaf_contract::CHUNK_TOKENS;

use super::mix::{Sums, Weights};
use super::plan::CHUNKS;
use crate::isa::{Isa, each_of};
use crate::lines::Floats;
use crate::math::{MOST_LANES, load_first, store_first};
use crate::page_codec::{Basis, Page, Scratch, coefficients};

/// Sums of weights, one in each lane, and as many of coefficients as the largest rank, in whole lines.
const STRIDE: usize = MOST_LANES + (u8::MAX as usize).next_multiple_of(MOST_LANES);

/// What a worker gathers in.
#[derive(Default)]
pub struct Gathered {
    /// Queries × [`STRIDE`].
    sums: Floats,
    /// A basis as numbers, and its scales.
    basis: Floats,
    scales: Floats,
    read: Read,
}

/// Coefficients of a block's pages, which all heads share: read for the first.
#[derive(Default)]
struct Read {
    /// Whose they are: a group of the plan, and its chunks.
    of: Option<(usize, Range<usize>)>,
    /// Where a member's page of a chunk begins, members × chunks of a block; none where nobody has read it.
    starts: Vec<Option<usize>>,
    /// Tokens × rank of each that was read, one after another, and how many numbers that is.
    values: Floats,
    len: usize,
}

impl Read {
    /// Begins with the pages of a block, unless they are here.
    fn begin(&mut self, of: (usize, Range<usize>), members: usize) {
        if self.of.as_ref() != Some(&of) {
            self.of = Some(of);
            self.starts.clear();
            self.starts.resize(members * CHUNKS, None);
            self.len = 0;
        }
    }

    /// A page's, tokens × rank.
    #[inline(always)]
    unsafe fn page<I: Isa>(&mut self, nth: usize, page: &Page<'_>, scratch: &mut Scratch) -> &[f32] {
        let start = match self.starts[nth] {
            Some(start) => start,
            None => {
                let read = coefficients::<I>(page, scratch);
                let start = self.len;
                self.len += read.len();
                self.values.resize(self.values.len().max(self.len));
                self.values[start..self.len].copy_from_slice(read);
                self.starts[nth] = Some(start);
                start
            }
        };
        &self.values[start..]
    }
}

impl Gathered {
    /// Begins a block of a task: of a group of the plan, some chunks.
    pub fn begin<'a>(
        &'a mut self,
        of: (usize, Range<usize>),
        members: usize,
        queries: usize,
    ) -> Gathering<'a> {
        self.read.begin(of, members);
        if self.sums.len() < queries * STRIDE {
            self.sums.resize(queries * STRIDE);
        }
        Gathering {
            sums: &mut self.sums,
            numbers: &mut self.basis,
            scales: &mut self.scales,
            read: &mut self.read,
            bases: vec![None; members],
        }
    }
}

/// What the queries of a block have gathered.
pub struct Gathering<'a> {
    sums: &'a mut [f32],
    numbers: &'a mut Floats,
    scales: &'a mut Floats,
    read: &'a mut Read,
    /// What each member's sums are to be expanded with; none where it has none yet.
    bases: Vec<Option<Basis<'a>>>,
}

impl<'a> Gathering<'a> {
    /// Adds a page's coefficients by a member's weights; `out` takes what was gathered in another basis.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(always)]
    pub unsafe fn add<I: Isa>(
        &mut self,
        member: usize,
        basis: Basis<'a>,
        page: &Page<'_>,
        weights: &Weights<'_>,
        out: &mut Sums<'_>,
        scratch: &mut Scratch,
    ) {
        if !self.bases[member].is_some_and(|found| found.is(&basis)) {
            self.expand::<I>(member, weights.queries(), out);
            for query in weights.queries() {
                self.sums[query * STRIDE..][..MOST_LANES + basis.rank].fill(0.0);
            }
            self.bases[member] = Some(basis);
        }
        let see_all = weights.see_all();
        for query in weights.queries() {
            let tokens = if see_all { weights.all() } else { weights.tokens(query) };
            if !tokens.is_empty() {
                let total = self.sums[query * STRIDE..][..MOST_LANES].as_mut_ptr();
                let mut sum = I::load(total);
                for weights in weights.of(query, tokens).chunks(I::LANES) {
                    sum = I::add(sum, load_first::<I>(weights.as_ptr(), weights.len()));
                }
                I::store(total, sum);
            }
        }
        let z = self.read.page::<I>(member * CHUNKS + weights.at / CHUNK_TOKENS, page, scratch);
        let sums = Sums { values: self.sums, first: MOST_LANES, stride: STRIDE, width: basis.rank };
        let mut add = Coefficients { z, weights, sums };
        let queries = weights.queries();
        let mut query = queries.start;
        while query < queries.end {
            let together = if see_all { queries.end - query } else { 1 };
            query += match together {
                4.. => add.of::<I, 4>(query),
                2.. => add.of::<I, 2>(query),
                _ => add.of::<I, 1>(query),
            };
        }
    }

    /// Adds what a member's queries have gathered, expanded, to their sums of values.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(always)]
    pub unsafe fn expand<I: Isa>(&mut self, member: usize, queries: Range<usize>, out: &mut Sums<'_>) {
        let Some(basis) = self.bases[member].take() else { return };
        basis.scales(self.scales);
        let directions = basis.numbers::<I>(self.numbers);
        for query in queries {
            let own = &mut self.sums[query * STRIDE..][..MOST_LANES + basis.rank];
            let (total, sums) = own.split_at_mut(MOST_LANES);
            // What is gathered is in steps of directions.
            for (sum, scale) in sums.iter_mut().zip(&**self.scales) {
                *sum *= scale;
            }
            directions.add::<I>(I::sum(I::load(total.as_ptr())), sums, out.of(query));
        }
    }
}

/// A page's coefficients, added to what queries have gathered.
struct Coefficients<'a> {
    /// Tokens × rank.
    z: &'a [f32],
    weights: &'a Weights<'a>,
    /// As wide as the rank.
    sums: Sums<'a>,
}

impl Coefficients<'_> {
    /// Of Q queries that see the same tokens. Those at even places are added in one chain and those at odd places in another:
    /// where a vector is as wide as the rank, a query has no other product that does not wait for the one before it.
    #[inline(always)]
    unsafe fn of<I: Isa, const Q: usize>(&mut self, query: usize) -> usize {
        let Self { z, weights, .. } = *self;
        let rank = self.sums.width;
        let tokens = weights.tokens(query);
        if tokens.start >= tokens.end {
            return Q;
        }
        let z = z[(tokens.start - weights.at) * rank..(tokens.end - weights.at) * rank].as_ptr();
        let of = each_of!(Q, std::ptr::null(), |q| weights.of(query + q, tokens.clone()).as_ptr());
        let sums = self.sums.of_some::<Q>(query);
        for i in (0..rank).step_by(I::LANES) {
            let lanes = I::LANES.min(rank - i);
            let mut even = each_of!(Q, I::splat(0.0), |q| load_first::<I>(sums[q].add(i), lanes));
            let mut odd = [I::splat(0.0); Q];
            for token in (0..tokens.len()).step_by(2) {
                add::<I, Q>(&mut even, of, token, load_first::<I>(z.add(token * rank + i), lanes));
                if token + 1 < tokens.len() {
                    let z = load_first::<I>(z.add((token + 1) * rank + i), lanes);
                    add::<I, Q>(&mut odd, of, token + 1, z);
                }
            }
            for ((even, odd), sums) in even.into_iter().zip(odd).zip(sums) {
                store_first::<I>(sums.add(i), I::add(even, odd), lanes);
            }
        }
        Q
    }
}

/// `sums += weights · z` of a token.
#[inline(always)]
unsafe fn add<I: Isa, const Q: usize>(sums: &mut [I::V; Q], weights: [*const f32; Q], token: usize, z: I::V) {
    for (sum, weights) in sums.iter_mut().zip(weights) {
        *sum = I::fma(I::splat(*weights.add(token)), z, *sum);
    }
}
