//! Values of a chunk for all rows of a task: decoded once for a member's rows and kept, or where these are few weighted as
//! they are decoded, or gathered as coefficients. All give the same bits but for what is gathered, which a row's kind alone
//! decides.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use interleaf_contract::PageHalf;

use super::gather::Gathering;
use super::load::Load;
use super::mix::{Sums, Weights, accumulate_all};
use super::plan::Group;
use super::{VALUES, are_few, partial_len, seeing};
use crate::isa::Isa;
use crate::lines::Floats;
use crate::page_codec::{ABREAST, Anchor, Mix, Page, Scratch};

/// A chunk and whose queries see what of it.
pub struct Values<'a> {
    pub group: &'a Group<'a>,
    /// What each row sees of the block.
    pub seen: &'a [Range<usize>],
    /// Queries of a row.
    pub heads: usize,
    /// Queries × positions of the block.
    pub weights: &'a [f32],
    pub dim: usize,
    /// Whether coefficients are gathered.
    pub gathers: bool,
    pub chunk: usize,
    /// Where in the block it begins.
    pub at: usize,
}

/// What values are decoded in.
pub struct Pages<'a> {
    pub anchor: &'a mut Floats,
    pub page: &'a mut Floats,
    pub decode: &'a mut Scratch,
}

impl Values<'_> {
    /// Adds them, weighted, to the sums of every member's rows, or to what these gather.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(always)]
    pub unsafe fn mix<'b, I: Isa>(
        &self,
        load: &Load<'b, 'b>,
        gathering: &mut Gathering<'b>,
        blocks: &mut [f32],
        pages: Pages<'_>,
    ) {
        let Pages { anchor, page, decode } = pages;
        if load.is_of_one() {
            let weights = self.weights_of(0..self.seen.len());
            let head = load.kv_head();
            if are_few(&weights.queries()) && weights.see_all() {
                let coefficients = if self.gathers {
                    load.coefficients::<I>(0, self.chunk, &mut decode.upcoming)
                } else {
                    None
                };
                if let Some((own, basis)) = coefficients {
                    if let Some(page) = load.codes_under::<I>(self.chunk, &mut decode.upcoming) {
                        self.as_decoded::<I>(&weights, head, page, Anchor::None, blocks, decode);
                        let mut sums = self.sums(blocks);
                        return gathering.add::<I>(0, basis, own, &weights, &mut sums, decode);
                    }
                } else if let Some((page, over)) =
                    load.codes::<I>(0, PageHalf::V, self.chunk, None, &mut decode.upcoming)
                {
                    return self.as_decoded::<I>(&weights, head, page, over, blocks, decode);
                }
            }
        }
        let is_whole = load.anchor::<I>(PageHalf::V, self.chunk, anchor, decode);
        for (index, member) in self.group.members().enumerate() {
            if seeing(self.seen, &member.rows, self.at).is_empty() {
                continue;
            }
            let weights = self.weights_of(member.rows);
            let mut sums = self.sums(blocks);
            if self.gathers
                && let Some((page, basis)) = load.coefficients::<I>(index, self.chunk, &mut decode.upcoming)
            {
                accumulate_all::<I>(&weights, anchor, &mut sums);
                gathering.add::<I>(index, basis, page, &weights, &mut sums, decode);
                continue;
            }
            if !is_whole
                && are_few(&weights.queries())
                && weights.see_all()
                && let Some((page, over)) =
                    load.codes::<I>(index, PageHalf::V, self.chunk, Some(anchor), &mut decode.upcoming)
            {
                self.as_decoded::<I>(&weights, load.kv_head(), page, over, blocks, decode);
                continue;
            }
            let page = match is_whole {
                true => anchor,
                false => load.over::<I>(index, PageHalf::V, self.chunk, anchor, page, decode),
            };
            accumulate_all::<I>(&weights, page, &mut sums);
        }
    }

    /// Where each query's weighted values are.
    fn sums<'v>(&self, blocks: &'v mut [f32]) -> Sums<'v> {
        Sums { values: blocks, first: VALUES, stride: partial_len(self.dim), width: self.dim }
    }

    fn weights_of(&self, rows: Range<usize>) -> Weights<'_> {
        Weights { seen: self.seen, rows, group: self.heads, scores: self.weights, at: self.at }
    }

    #[inline(always)]
    unsafe fn as_decoded<I: Isa>(
        &self,
        weights: &Weights<'_>,
        kv_head: usize,
        page: &Page<'_>,
        anchor: Anchor<'_>,
        blocks: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let len = partial_len(self.dim);
        let queries = weights.queries();
        let blocks = &mut blocks[queries.start * len..queries.end * len];
        for (first, sums) in queries.step_by(ABREAST).zip(blocks.chunks_exact_mut(ABREAST * len)) {
            let of = weights.from(first);
            let (a, sums) = sums.split_at_mut(len);
            let (b, sums) = sums.split_at_mut(len);
            let (c, d) = sums.split_at_mut(len);
            let sums = [a, b, c, d].map(|sums| &mut sums[VALUES..]);
            Mix { page, kv_head, anchor, weights: of, sums, scratch }.on::<I>();
        }
    }
}
