//! Scores of a chunk for all rows of a task: keys are decoded once for a member's rows and kept, or where these are few
//! multiplied as they are decoded. Both give the same bits.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use interleaf_contract::{ATTENTION_SPLIT, CHUNK_TOKENS, PageHalf};

use super::load::Load;
use super::plan::Group;
use super::scores::{Queries, score_all};
use super::{Work, are_few, seeing};
use crate::isa::Isa;
use crate::page_codec::{ABREAST, Anchor, Page, Score, Scratch};

/// A chunk and whose queries see what of it.
pub struct Keys<'a> {
    pub group: &'a Group<'a>,
    pub queries: &'a Queries<'a>,
    /// What each row sees of the block.
    pub seen: &'a [Range<usize>],
    pub scale: f32,
    pub chunk: usize,
    /// Where in the block it begins.
    pub at: usize,
}

impl Keys<'_> {
    /// Scores of every member's rows.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(always)]
    pub unsafe fn score<I: Isa>(&self, load: &Load<'_, '_>, work: &mut Work) {
        let Work { anchor, page, scores, decode, .. } = work;
        if load.is_of_one() {
            let queries = self.queries_of(0..self.seen.len());
            if self.are_abreast(&queries)
                && let Some((page, over)) =
                    load.codes::<I>(0, PageHalf::K, self.chunk, None, &mut decode.upcoming)
            {
                return self.as_decoded::<I>(queries, load.kv_head(), page, over, scores, decode);
            }
        }
        let is_whole = load.anchor::<I>(PageHalf::K, self.chunk, anchor, decode);
        for (index, member) in self.group.members().enumerate() {
            let queries = self.queries_of(member.rows.clone());
            if queries.is_empty() {
                continue;
            }
            if !is_whole
                && self.are_abreast(&queries)
                && let Some((page, over)) =
                    load.codes::<I>(index, PageHalf::K, self.chunk, Some(anchor), &mut decode.upcoming)
            {
                self.as_decoded::<I>(queries, load.kv_head(), page, over, scores, decode);
                continue;
            }
            let page = match is_whole {
                true => anchor,
                false => load.over::<I>(index, PageHalf::K, self.chunk, anchor, page, decode),
            };
            score_all::<I>(self.queries, queries, page, self.scale, scores, self.at);
        }
    }

    /// Queries of those of some rows that see something of the chunk.
    fn queries_of(&self, rows: Range<usize>) -> Range<usize> {
        let rows = seeing(self.seen, &rows, self.at);
        rows.start * self.queries.group..rows.end * self.queries.group
    }

    /// Whether they are few, and whole fours of the task's.
    fn are_abreast(&self, queries: &Range<usize>) -> bool {
        are_few(queries) && queries.start.is_multiple_of(ABREAST)
    }

    #[inline(always)]
    unsafe fn as_decoded<I: Isa>(
        &self,
        queries: Range<usize>,
        kv_head: usize,
        page: &Page<'_>,
        anchor: Anchor<'_>,
        scores: &mut [f32],
        scratch: &mut Scratch,
    ) {
        for first in queries.step_by(ABREAST) {
            let rows = &mut scores[first * ATTENTION_SPLIT..][..ABREAST * ATTENTION_SPLIT];
            let [a, b, c, d] = rows.as_chunks_mut::<ATTENTION_SPLIT>().0 else {
                unreachable!("as many rows")
            };
            let place = self.at..self.at + CHUNK_TOKENS;
            let scores = [a, b, c, d].map(|row| &mut row[place.clone()]);
            let queries = self.queries.abreast(first);
            Score { page, kv_head, anchor, queries, scale: self.scale, scores, scratch }.on::<I>();
        }
    }
}
