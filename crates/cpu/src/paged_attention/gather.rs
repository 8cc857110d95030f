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

use super::mix::{Rows, Sums, Weights, accumulate_all};
use crate::isa::Isa;
use crate::lines::Floats;
use crate::math::{MOST_LANES, load_first};
use crate::page_codec::{Basis, Page, Scratch, Stored, stored};

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
}

impl Gathered {
    /// Begins a block of a task.
    pub fn begin<'a>(&'a mut self, members: usize, queries: usize) -> Gathering<'a> {
        if self.sums.len() < queries * STRIDE {
            self.sums.resize(queries * STRIDE);
        }
        Gathering {
            sums: &mut self.sums,
            numbers: &mut self.basis,
            scales: &mut self.scales,
            bases: vec![None; members],
        }
    }
}

/// What the queries of a block have gathered.
pub struct Gathering<'a> {
    sums: &'a mut [f32],
    numbers: &'a mut Floats,
    scales: &'a mut Floats,
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
        let Stored { z, steps, group } = stored::<I>(page, scratch);
        let rank = basis.rank;
        for (g, first) in (0..rank).step_by(group).enumerate() {
            let steps = steps.as_chunks().0.get(g);
            let rows = Rows { values: &z[first..], stride: rank, steps };
            let (first, width) = (MOST_LANES + first, group.min(rank - first));
            accumulate_all::<I>(weights, rows, &mut Sums { values: self.sums, first, stride: STRIDE, width });
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
