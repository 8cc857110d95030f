//! Causal grouped-query attention over pages in any codec, in fixed blocks of 256 positions.
//!
//! Each block has its own maximum, sum and weighted values; blocks are merged in ascending order. A prompt's
//! rows go through all blocks in one task, so that a block's pages are decoded once for a tile of rows and all
//! heads of a group. A generated row's blocks are tasks of their own, so that one long context keeps every core
//! busy; generated rows whose tables name the same pages share a task, and a page is decoded once for them. So do those
//! whose pages are differences from the same anchors: these are decoded once, and each has its own difference added.
//! All of this gives the same bits.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

mod gather;
mod load;
mod merge;
mod mix;
mod plan;
mod scores;

use std::ops::Range;
use std::sync::Arc;

use interleaf_contract::host::{Pool, Resident};
use interleaf_contract::{ATTENTION_SPLIT, AttentionShape, Batch, CHUNK_TOKENS, PageHalf, Row, RowKind};

use self::gather::Gathered;
use self::load::Load;
use self::merge::{Merge, merge};
use self::mix::{Sums, accumulate_all};
use self::plan::Group;
pub use self::plan::Plan;
use self::scores::{Queries, score_all, weigh};
use crate::isa::{Isa, Kernel};
use crate::packed::Packed;
use crate::page_codec::{Pages, Scratch};
use crate::region::{Shared, Worker};
use crate::softcap::softcap;

/// An attention layer of a step.
pub struct PagedAttention<'a> {
    rows: &'a [Row],
    layer: u32,
    shape: AttentionShape,
    q: Shared<'a, f32>,
    out: Shared<'a, f32>,
    plan: Arc<Plan<'a>>,
    resident: &'a Resident<Packed>,
    scratch: Shared<'a, f32>,
}

/// Values of one partial: the maximum, the sum, and the weighted values, unnormalised.
const fn partial_len(dim: usize) -> usize {
    dim + 2
}

impl<'a> PagedAttention<'a> {
    /// A layer whose scratch has [`scratch_len`] values.
    #[allow(clippy::too_many_arguments, reason = "what the operation names, and where its results go")]
    pub fn new(
        batch: &'a Batch,
        plan: Arc<Plan<'a>>,
        layer: u32,
        shape: AttentionShape,
        q: Shared<'a, f32>,
        out: Shared<'a, f32>,
        resident: &'a Resident<Packed>,
        scratch: Shared<'a, f32>,
    ) -> Self {
        Self { rows: &batch.rows, layer, shape, q, out, plan, resident, scratch }
    }

    /// This worker's part of the layer.
    ///
    /// # Safety
    /// The machine has the tier, and all workers of the region call this with the same layer.
    pub unsafe fn run<I: Isa>(&self, pool: &Pool, worker: &Worker<'_>) {
        I::enter(Blocks { layer: self, pages: &Pages::new(pool, self.resident), worker });
        worker.wait();
        I::enter(Merge { layer: self, worker });
        worker.wait();
    }
}

/// How many values of scratch a layer needs.
pub fn scratch_len(plan: &Plan<'_>, shape: AttentionShape) -> usize {
    plan.partials() * partial_len(shape.head_dim as usize)
}

/// A group of rows and a key/value head.
#[derive(Clone, Copy)]
struct Task<'a> {
    group: &'a Group<'a>,
    kv_head: usize,
}

struct Blocks<'a, 'b> {
    layer: &'b PagedAttention<'a>,
    pages: &'b Pages<'b>,
    worker: &'b Worker<'b>,
}

impl Kernel for Blocks<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { layer, pages, worker } = self;
        let dim = layer.shape.head_dim as usize;
        let group = (layer.shape.heads / layer.shape.kv_heads) as usize;
        let most = layer.plan.groups.iter().map(Group::count).max().unwrap_or(0) * group;
        let mut work = Work {
            anchor: vec![0.0; CHUNK_TOKENS * dim],
            page: vec![0.0; CHUNK_TOKENS * dim],
            scores: vec![0.0; most * ATTENTION_SPLIT],
            blocks: Vec::new(),
            decode: Scratch::default(),
            gathered: Gathered::default(),
        };
        // Tasks of a prompt grow along it, so each worker takes every n-th.
        for index in worker.every(layer.plan.tasks()) {
            let (group, kv_head, partials) = layer.plan.task(index);
            let len = partial_len(dim);
            let partials = layer.scratch.part_mut(partials.start * len..partials.end * len);
            run_task::<I>(layer, pages, Task { group, kv_head }, partials, &mut work);
        }
    }
}

/// A worker's decoded pages, scores and running blocks.
struct Work {
    /// K, dim × tokens, or V, tokens × dim, of one head and chunk as all members' pages have it for an anchor.
    anchor: Vec<f32>,
    /// The same as one member reads it.
    page: Vec<f32>,
    /// Queries × positions of a block.
    scores: Vec<f32>,
    /// The partial of each query's present block.
    blocks: Vec<f32>,
    decode: Scratch,
    gathered: Gathered,
}

/// What a row sees of a block: positions from the block's start on.
fn visible(shape: AttentionShape, row: &Row, start: usize) -> Range<usize> {
    let end = (row.position as usize + 1).saturating_sub(start).min(ATTENTION_SPLIT);
    let first = (shape.first_visible(row.position) as usize).saturating_sub(start);
    first.min(end)..end
}

/// From the first to the last of some rows that see something of the page at a place; a prompt's rows between them do,
/// too.
fn seeing(seen: &[Range<usize>], rows: &Range<usize>, at: usize) -> Range<usize> {
    let sees = |seen: &Range<usize>| seen.start < at + CHUNK_TOKENS && seen.end > at;
    let own = &seen[rows.clone()];
    let first = own.iter().position(sees).unwrap_or(0);
    let last = own.iter().rposition(sees).map_or(first, |row| row + 1);
    rows.start + first..rows.start + last
}

#[inline(always)]
unsafe fn run_task<I: Isa>(
    layer: &PagedAttention<'_>,
    pages: &Pages<'_>,
    task: Task<'_>,
    partials: &mut [f32],
    work: &mut Work,
) {
    let shape = layer.shape;
    let (heads, dim) = (shape.heads as usize, shape.head_dim as usize);
    let group = heads / shape.kv_heads as usize;
    let len = partial_len(dim);
    for partial in partials.chunks_exact_mut(len) {
        partial.fill(0.0);
        partial[0] = f32::NEG_INFINITY;
    }
    let starts = task.group.rows().map(|row| (row * heads + task.kv_head * group) * dim).collect();
    let queries = Queries { values: layer.q.all(), dim, group, starts };
    let rows: Vec<&Row> = task.group.rows().map(|row| &layer.rows[row]).collect();
    let end = rows.iter().map(|row| row.position as usize + 1).max().unwrap_or(0);
    let gathers = task.group.kind == RowKind::Generated;
    for block in task.group.blocks.clone() {
        let start = block * ATTENTION_SPLIT;
        let seen: Vec<_> = rows.iter().map(|row| visible(shape, row, start)).collect();
        // A window may begin within the block.
        let first = seen.iter().filter(|seen| !seen.is_empty()).map(|seen| seen.start).min().unwrap_or(0);
        let chunks = (start + first) / CHUNK_TOKENS..end.min(start + ATTENTION_SPLIT).div_ceil(CHUNK_TOKENS);
        let load = Load { pages, layer: layer.layer, task, chunks: chunks.clone() };
        for chunk in chunks.clone() {
            let at = chunk * CHUNK_TOKENS - start;
            let is_whole = load.at_once::<I>(PageHalf::K, chunk, &mut work.page, &mut work.decode);
            if !is_whole {
                load.anchor::<I>(PageHalf::K, chunk, &mut work.anchor, &mut work.decode);
            }
            for member in task.group.members() {
                let seeing = seeing(&seen, &member.rows, at);
                if seeing.is_empty() {
                    continue;
                }
                let page = if is_whole {
                    &work.page
                } else {
                    load.over::<I>(
                        member.pages,
                        PageHalf::K,
                        chunk,
                        &work.anchor,
                        &mut work.page,
                        &mut work.decode,
                    )
                };
                let seeing = seeing.start * group..seeing.end * group;
                score_all::<I>(&queries, seeing, page, shape.scale, &mut work.scores, at);
            }
        }
        work.blocks.clear();
        work.blocks.resize(rows.len() * group * len, 0.0);
        for (query, own) in work.blocks.chunks_exact_mut(len).enumerate() {
            let seen = seen[query / group].clone();
            let scores = &mut work.scores[query * ATTENTION_SPLIT..][seen];
            if let Some(cap) = shape.softcap {
                softcap::<I>(scores, cap);
            }
            // Weights in place of scores.
            (own[0], own[1]) = weigh::<I>(scores);
        }
        let mut gathering = work.gathered.begin(task.group.members().count(), rows.len() * group);
        for chunk in chunks {
            let at = chunk * CHUNK_TOKENS - start;
            let is_whole = load.at_once::<I>(PageHalf::V, chunk, &mut work.page, &mut work.decode);
            if !is_whole {
                load.anchor::<I>(PageHalf::V, chunk, &mut work.anchor, &mut work.decode);
            }
            for (index, member) in task.group.members().enumerate() {
                if seeing(&seen, &member.rows, at).is_empty() {
                    continue;
                }
                let weights =
                    mix::Weights { seen: &seen, rows: member.rows.clone(), group, scores: &work.scores, at };
                let mut sums = Sums { values: &mut work.blocks, first: 2, stride: len, width: dim };
                if gathers && let Some((page, basis)) = load.coefficients::<I>(member.pages, chunk) {
                    accumulate_all::<I>(&weights, &work.anchor, &mut sums);
                    gathering.add::<I>(index, basis, &page, &weights, &mut sums, &mut work.decode);
                    continue;
                }
                let page = if is_whole {
                    &work.page
                } else {
                    load.over::<I>(
                        member.pages,
                        PageHalf::V,
                        chunk,
                        &work.anchor,
                        &mut work.page,
                        &mut work.decode,
                    )
                };
                accumulate_all::<I>(&weights, page, &mut sums);
            }
        }
        for (index, member) in task.group.members().enumerate() {
            let queries = member.rows.start * group..member.rows.end * group;
            let mut sums = Sums { values: &mut work.blocks, first: 2, stride: len, width: dim };
            gathering.expand::<I>(index, queries, &mut sums);
        }
        for (partial, block) in partials.chunks_exact_mut(len).zip(work.blocks.chunks_exact(len)) {
            if block[1] != 0.0 {
                merge::<I>(partial, block);
            }
        }
    }
}
