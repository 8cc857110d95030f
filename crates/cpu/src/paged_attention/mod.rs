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
mod keys;
mod load;
mod mass;
mod merge;
mod mix;
mod plan;
mod scores;
mod values;

use std::ops::Range;
use std::sync::Arc;

use interleaf_contract::host::{Pool, Resident};
use interleaf_contract::{ATTENTION_SPLIT, AttentionShape, Batch, CHUNK_TOKENS, MassSample, Row, RowKind};

use self::gather::Gathered;
use self::keys::Keys;
use self::load::Found;
use self::mass::Measured;
pub use self::mass::sums_len;
use self::merge::{Merge, merge};
use self::mix::Sums;
pub use self::plan::Plan;
use self::plan::{CHUNKS, Group};
use self::scores::{Queries, put_abreast, weigh};
use self::values::Values;
use crate::attention_mass::Totals;
use crate::isa::{Isa, Kernel};
use crate::lines::{Floats, LINE};
use crate::packed::Packed;
use crate::page_codec::{ABREAST, Pages, Scratch};
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
    measured: Option<Measured<'a>>,
}

/// Where the weighted values of a partial begin, unnormalised: on the line behind its maximum and its sum.
const VALUES: usize = LINE / size_of::<f32>();

/// Numbers of one partial.
const fn partial_len(dim: usize) -> usize {
    VALUES + dim
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
        Self { rows: &batch.rows, layer, shape, q, out, plan, resident, scratch, measured: None }
    }

    /// The same, measured if a sample has the layer. Then `sums` has [`sums_len`] values.
    pub fn measured(self, sample: Option<&'a MassSample>, sums: Shared<'a, f32>) -> Self {
        let sample = sample.filter(|sample| sample.has_layer(self.layer));
        let measured = sample.map(|sample| Measured::new(sample, &self.shape, sums));
        Self { measured, ..self }
    }

    /// What is measured of a key/value head.
    fn measured_of(&self, kv_head: usize) -> Option<&Measured<'a>> {
        self.measured.as_ref().filter(|measured| measured.has_head(kv_head))
    }

    /// This worker's part of the layer; what its rows pay to chunks is added to the totals.
    ///
    /// # Safety
    /// The machine has the tier, and all workers of the region call this with the same layer.
    pub unsafe fn run<I: Isa>(&self, pool: &Pool, worker: &Worker<'_>, totals: &mut Totals) {
        I::enter(Blocks { layer: self, pages: &Pages::new(pool, self.resident), worker, totals });
        worker.wait();
        I::enter(Merge { layer: self, worker, totals });
        worker.wait();
    }
}

/// How many values of scratch a layer needs.
pub fn scratch_len(plan: &Plan<'_>, shape: AttentionShape) -> usize {
    plan.partials() * partial_len(shape.head_dim as usize)
}

/// A group of the plan and a key/value head.
#[derive(Clone, Copy)]
struct Task<'a> {
    index: usize,
    group: &'a Group<'a>,
    kv_head: usize,
    /// The first of its partials.
    first: usize,
}

struct Blocks<'a, 'b> {
    layer: &'b PagedAttention<'a>,
    pages: &'b Pages<'b>,
    worker: &'b Worker<'b>,
    totals: &'b mut Totals,
}

impl Kernel for Blocks<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { layer, pages, worker, totals } = self;
        let dim = layer.shape.head_dim as usize;
        let group = (layer.shape.heads / layer.shape.kv_heads) as usize;
        let most = layer.plan.groups.iter().map(Group::count).max().unwrap_or(0) * group;
        let mut work = Work {
            anchor: Floats::zeroed(CHUNK_TOKENS * dim),
            page: Floats::zeroed(CHUNK_TOKENS * dim),
            scores: Floats::zeroed(most * ATTENTION_SPLIT),
            blocks: Floats::default(),
            decode: Scratch::default(),
            gathered: Gathered::default(),
            abreast: Floats::default(),
            sums: mass::Sums::default(),
        };
        let mut found = Found::default();
        for task in layer.plan.tasks(worker) {
            let (index, kv_head, partials) = layer.plan.task(task);
            let len = partial_len(dim);
            let (group, first) = (&layer.plan.groups[index], partials.start);
            let partials = layer.scratch.part_mut(first * len..partials.end * len);
            let task = Task { index, group, kv_head, first };
            run_task::<I>(layer, pages, task, partials, &mut found, &mut work);
            if group.kind == RowKind::Prompt
                && let Some(measured) = layer.measured_of(kv_head)
            {
                let sequence = group.rows().next().map_or(0, |row| layer.rows[row].sequence as usize);
                for (nth, block) in group.blocks.clone().enumerate() {
                    let paid = work.sums.paid(nth, partials.chunks_exact(len));
                    measured.pay(sequence, block, &paid, totals);
                }
            }
        }
    }
}

/// A worker's decoded pages, scores and running blocks.
struct Work {
    /// K, dim × tokens, or V, tokens × dim, of one head and chunk as all members' pages have it for an anchor.
    anchor: Floats,
    /// The same as one member reads it.
    page: Floats,
    /// Queries × positions of a block.
    scores: Floats,
    /// The partial of each query's present block.
    blocks: Floats,
    decode: Scratch,
    gathered: Gathered,
    /// Queries side by side.
    abreast: Floats,
    /// What the queries of a task have of each block, where they are a prompt's and measured.
    sums: mass::Sums,
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

/// Queries for which a page is decoded anew rather than kept: storing and loading it costs more than decoding it twice.
const FEW: usize = 2 * ABREAST;

/// Whether queries are multiplied with a page as it is decoded.
fn are_few(queries: &Range<usize>) -> bool {
    (1..=FEW).contains(&queries.len()) && queries.len().is_multiple_of(ABREAST)
}

#[inline(always)]
unsafe fn run_task<'p, I: Isa>(
    layer: &PagedAttention<'_>,
    pages: &'p Pages<'_>,
    task: Task<'_>,
    partials: &mut [f32],
    found: &mut Found<'p>,
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
    let of_row = |row: usize| (0..group).map(move |g| (row * heads + task.kv_head * group + g) * dim);
    let starts: Vec<usize> = task.group.rows().flat_map(of_row).collect();
    let mut abreast = std::mem::take(&mut work.abreast);
    put_abreast(layer.q.all(), dim, &starts, &mut abreast);
    let queries = Queries { values: layer.q.all(), dim, group, starts, abreast: &abreast };
    let rows: Vec<&Row> = task.group.rows().map(|row| &layer.rows[row]).collect();
    let end = rows.iter().map(|row| row.position as usize + 1).max().unwrap_or(0);
    let gathers = task.group.kind == RowKind::Generated;
    let measured = layer.measured_of(task.kv_head);
    if measured.is_some() && task.group.kind == RowKind::Prompt {
        work.sums.begin(task.group.blocks.len(), queries.starts.len());
    }
    for block in task.group.blocks.clone() {
        let start = block * ATTENTION_SPLIT;
        let seen: Vec<_> = rows.iter().map(|row| visible(shape, row, start)).collect();
        // A window may begin within the block.
        let first = seen.iter().filter(|seen| !seen.is_empty()).map(|seen| seen.start).min().unwrap_or(0);
        let chunks = (start + first) / CHUNK_TOKENS..end.min(start + ATTENTION_SPLIT).div_ceil(CHUNK_TOKENS);
        let of = (task.index, task.group);
        let load = found.load(pages, layer.layer, of, &seen, chunks.clone(), task.kv_head);
        for chunk in chunks.clone() {
            let (group, at) = (task.group, chunk * CHUNK_TOKENS - start);
            let keys = Keys { group, queries: &queries, seen: &seen, scale: shape.scale, chunk, at };
            keys.score::<I>(&load, work);
        }
        work.blocks.resize(rows.len() * group * len);
        work.blocks.fill(0.0);
        for (query, own) in work.blocks.chunks_exact_mut(len).enumerate() {
            let seen = seen[query / group].clone();
            let scores = &mut work.scores[query * ATTENTION_SPLIT..][..ATTENTION_SPLIT];
            let visible = &mut scores[seen.clone()];
            if let Some(cap) = shape.softcap {
                softcap::<I>(visible, cap);
            }
            // Weights in place of scores.
            (own[0], own[1]) = weigh::<I>(visible);
            match (measured, task.group.kind) {
                (None, _) => {}
                (Some(_), RowKind::Prompt) => {
                    let nth = block - task.group.blocks.start;
                    let (sums, largest) = work.sums.place(nth * queries.starts.len() + query);
                    mass::by_chunk::<I>(scores, seen, sums);
                    *largest = own[0];
                }
                (Some(measured), RowKind::Generated) => {
                    let at = (task.first + query) * CHUNKS;
                    mass::by_chunk::<I>(scores, seen, measured.sums.part_mut(at..at + CHUNKS));
                }
            }
        }
        let mut gathering = work.gathered.begin(
            (task.index, chunks.clone()),
            task.group.members().count(),
            rows.len() * group,
        );
        for chunk in chunks {
            let (weights, at) = (&*work.scores, chunk * CHUNK_TOKENS - start);
            let values =
                Values { group: task.group, seen: &seen, heads: group, weights, dim, gathers, chunk, at };
            let pages =
                values::Pages { anchor: &mut work.anchor, page: &mut work.page, decode: &mut work.decode };
            values.mix::<I>(&load, &mut gathering, &mut work.blocks, pages);
        }
        for (index, member) in task.group.members().enumerate() {
            let queries = member.rows.start * group..member.rows.end * group;
            let mut sums = Sums { values: &mut work.blocks, first: VALUES, stride: len, width: dim };
            gathering.expand::<I>(index, queries, &mut sums);
        }
        for (partial, block) in partials.chunks_exact_mut(len).zip(work.blocks.chunks_exact(len)) {
            if block[1] != 0.0 {
                merge::<I>(partial, block);
            }
        }
    }
    work.abreast = abreast;
}
