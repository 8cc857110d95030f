//! Causal grouped-query attention over pages, in fixed blocks of 256 positions.
//!
//! Each block has its own maximum, sum and weighted values; blocks are merged in ascending order. A prompt's
//! rows go through all blocks in one task, so that a block's pages are decoded once for a tile of rows and all
//! heads of a group. A generated row's blocks are tasks of their own, so that one long context keeps every core
//! busy; generated rows whose tables name the same pages share a task, and a page is decoded once for them.
//! All of this gives the same bits.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use interleaf_contract::host::Pool;
use interleaf_contract::{
    ATTENTION_SPLIT, AttentionShape, Batch, CHUNK_TOKENS, ChunkEntry, PageAddress, PageHalf, PageTable, Row,
    RowKind,
};

use crate::isa::{Isa, Kernel};
use crate::math::{exp, load_first, store_first};
use crate::page_codec::decode;
use crate::region::{Shared, Worker};

/// Prompt rows of one task: enough to pay for decoding a block, few enough to spread over cores.
const ROW_TILE: usize = 16;

/// Rows, one key/value head and a range of blocks.
struct Task<'a> {
    pages: &'a PageTable,
    /// Indices of the rows in the batch.
    rows: Vec<usize>,
    kv_head: usize,
    blocks: std::ops::Range<usize>,
    /// Where its partials begin: rows × heads of the group.
    partials: usize,
}

/// An attention layer of a step.
pub struct PagedAttention<'a> {
    rows: &'a [Row],
    layer: u32,
    shape: AttentionShape,
    q: Shared<'a, f32>,
    out: Shared<'a, f32>,
    tasks: Vec<Task<'a>>,
    /// For every row and key/value head, the partials to merge, in ascending blocks.
    merges: Vec<Vec<usize>>,
    scratch: Shared<'a, f32>,
}

/// Values of one partial: the maximum, the sum, and the weighted values, unnormalised.
const fn partial_len(dim: usize) -> usize {
    dim + 2
}

impl<'a> PagedAttention<'a> {
    /// A layer whose scratch has [`PagedAttention::scratch_len`] values.
    pub fn new(
        batch: &'a Batch,
        layer: u32,
        shape: AttentionShape,
        q: Shared<'a, f32>,
        out: Shared<'a, f32>,
        scratch: Shared<'a, f32>,
    ) -> Self {
        let (tasks, _) = tasks(batch, layer, shape);
        let (kv_heads, group) = (shape.kv_heads as usize, (shape.heads / shape.kv_heads) as usize);
        let mut merges = vec![Vec::new(); batch.rows.len() * kv_heads];
        // Tasks of one row and head stand in ascending blocks.
        for task in &tasks {
            for (i, &row) in task.rows.iter().enumerate() {
                merges[row * kv_heads + task.kv_head].push(task.partials + i * group);
            }
        }
        Self { rows: &batch.rows, layer, shape, q, out, tasks, merges, scratch }
    }

    /// How many values of scratch a layer needs.
    pub fn scratch_len(batch: &Batch, shape: AttentionShape) -> usize {
        tasks(batch, 0, shape).1 * partial_len(shape.head_dim as usize)
    }

    /// This worker's part of the layer.
    ///
    /// # Safety
    /// The machine has the tier, and all workers of the region call this with the same layer.
    pub unsafe fn run<I: Isa>(&self, pool: &Pool, worker: &Worker<'_>) {
        I::enter(Blocks { layer: self, pool, worker });
        worker.wait();
        I::enter(Merge { layer: self, worker });
        worker.wait();
    }
}

/// The tasks of a layer, and how many partials they leave.
fn tasks(batch: &Batch, layer: u32, shape: AttentionShape) -> (Vec<Task<'_>>, usize) {
    let group = (shape.heads / shape.kv_heads) as usize;
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for (sequence, first, count) in batch.runs() {
        let pages = &batch.sequences[sequence].pages;
        let mut next = first;
        while next < first + count {
            let kind = batch.rows[next].kind;
            let tile = if kind == RowKind::Prompt { ROW_TILE } else { 1 };
            let last = (next + tile).min(first + count);
            let alike = batch.rows[next..last].iter().take_while(|r| r.kind == kind).count();
            let rows: Vec<usize> = (next..next + alike).collect();
            let first_block = shape.first_visible(batch.rows[next].position) as usize / ATTENTION_SPLIT;
            let blocks = first_block..batch.rows[next + alike - 1].position as usize / ATTENTION_SPLIT + 1;
            for kv_head in 0..shape.kv_heads as usize {
                let task = |blocks, rows| Task { pages, rows, kv_head, blocks, partials: 0 };
                if kind == RowKind::Prompt {
                    tasks.push(task(blocks.clone(), rows.clone()));
                    continue;
                }
                for block in blocks.clone() {
                    let same = |other: &&mut Task<'_>| {
                        other.kv_head == kv_head
                            && other.blocks == (block..block + 1)
                            && batch.rows[other.rows[0]].kind == RowKind::Generated
                            && same_pages(other.pages, pages, layer, block)
                    };
                    match tasks.iter_mut().find(same) {
                        Some(shared) => shared.rows.extend(&rows),
                        None => tasks.push(task(block..block + 1, rows.clone())),
                    }
                }
            }
            next += alike;
        }
    }
    let mut partials = 0;
    for task in &mut tasks {
        task.partials = partials;
        partials += task.rows.len() * group;
    }
    (tasks, partials)
}

/// Whether two tables name the same pages all through a block.
fn same_pages(a: &PageTable, b: &PageTable, layer: u32, block: usize) -> bool {
    const CHUNKS: usize = ATTENTION_SPLIT / CHUNK_TOKENS;
    let entry = |table: &PageTable, chunk| table.entry(layer as usize, chunk);
    (block * CHUNKS..(block + 1) * CHUNKS)
        .all(|chunk| entry(a, chunk).is_some() && entry(a, chunk) == entry(b, chunk))
}

struct Blocks<'a, 'b> {
    layer: &'b PagedAttention<'a>,
    pool: &'b Pool,
    worker: &'b Worker<'b>,
}

impl Kernel for Blocks<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { layer, pool, worker } = self;
        let dim = layer.shape.head_dim as usize;
        let group = (layer.shape.heads / layer.shape.kv_heads) as usize;
        let most = layer.tasks.iter().map(|task| task.rows.len()).max().unwrap_or(0) * group;
        let mut work = Work {
            page: vec![0.0; CHUNK_TOKENS * dim],
            scores: vec![0.0; most * ATTENTION_SPLIT],
            block: vec![0.0; partial_len(dim)],
        };
        // Tasks of a prompt grow along it, so each worker takes every n-th.
        for index in worker.every(layer.tasks.len()) {
            let task = &layer.tasks[index];
            let len = partial_len(dim);
            let count = task.rows.len() * group;
            let partials = layer.scratch.part_mut(task.partials * len..(task.partials + count) * len);
            run_task::<I>(layer, pool, task, partials, &mut work);
        }
    }
}

/// A worker's decoded page, scores and running block.
struct Work {
    page: Vec<f32>,
    /// Queries × positions of a block.
    scores: Vec<f32>,
    block: Vec<f32>,
}

/// What a row sees of a block: positions from the block's start on.
fn visible(shape: AttentionShape, row: &Row, start: usize) -> std::ops::Range<usize> {
    let end = (row.position as usize + 1).saturating_sub(start).min(ATTENTION_SPLIT);
    let first = (shape.first_visible(row.position) as usize).saturating_sub(start);
    first.min(end)..end
}

#[inline(always)]
unsafe fn run_task<I: Isa>(
    layer: &PagedAttention<'_>,
    pool: &Pool,
    task: &Task<'_>,
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
    let end = task.rows.iter().map(|&row| layer.rows[row].position as usize + 1).max().unwrap_or(0);
    for block in task.blocks.clone() {
        let start = block * ATTENTION_SPLIT;
        let chunks = start / CHUNK_TOKENS..end.min(start + ATTENTION_SPLIT).div_ceil(CHUNK_TOKENS);
        for chunk in chunks.clone() {
            let at = chunk * CHUNK_TOKENS - start;
            if !load_page(layer, pool, task, chunk, PageHalf::K, &mut work.page) {
                continue;
            }
            for (i, &row) in task.rows.iter().enumerate() {
                let seen = visible(shape, &layer.rows[row], start);
                if seen.start >= at + CHUNK_TOKENS || seen.end <= at {
                    continue;
                }
                let q = (row * heads + task.kv_head * group) * dim;
                let q = layer.q.part(q..q + group * dim);
                for (g, q) in q.chunks_exact(dim).enumerate() {
                    let scores = &mut work.scores[(i * group + g) * ATTENTION_SPLIT + at..][..CHUNK_TOKENS];
                    score::<I>(q, &work.page, shape.scale, scores);
                }
            }
        }
        for (i, &row) in task.rows.iter().enumerate() {
            let seen = visible(shape, &layer.rows[row], start);
            for g in 0..group {
                let scores = &mut work.scores[(i * group + g) * ATTENTION_SPLIT..][..ATTENTION_SPLIT];
                if let Some(cap) = shape.softcap {
                    scores[seen.clone()].iter_mut().for_each(|s| *s = cap * (*s / cap).tanh());
                }
            }
        }
        // Weights in place of scores; a block's maximum and sum go to the front of its own partial.
        let mut blocks = vec![0.0f32; task.rows.len() * group * len];
        for (i, &row) in task.rows.iter().enumerate() {
            let seen = visible(shape, &layer.rows[row], start);
            for g in 0..group {
                let index = i * group + g;
                let scores = &mut work.scores[index * ATTENTION_SPLIT..][..ATTENTION_SPLIT];
                let own = &mut blocks[index * len..][..len];
                if seen.is_empty() {
                    own[0] = f32::NEG_INFINITY;
                    continue;
                }
                let (max, sum) = weigh::<I>(&mut scores[seen.clone()]);
                (own[0], own[1]) = (max, sum);
            }
        }
        for chunk in chunks {
            let at = chunk * CHUNK_TOKENS - start;
            if !load_page(layer, pool, task, chunk, PageHalf::V, &mut work.page) {
                continue;
            }
            for (i, &row) in task.rows.iter().enumerate() {
                let seen = visible(shape, &layer.rows[row], start);
                let tokens = seen.start.max(at)..seen.end.min(at + CHUNK_TOKENS);
                if tokens.start >= tokens.end {
                    continue;
                }
                for g in 0..group {
                    let index = i * group + g;
                    let weights = &work.scores[index * ATTENTION_SPLIT..][tokens.clone()];
                    let values = &work.page[(tokens.start - at) * dim..];
                    accumulate::<I>(weights, values, dim, &mut blocks[index * len + 2..][..dim]);
                }
            }
        }
        for (partial, block) in partials.chunks_exact_mut(len).zip(blocks.chunks_exact(len)) {
            if block[1] != 0.0 || block[0].is_nan() {
                work.block.copy_from_slice(block);
                merge::<I>(partial, &work.block);
            }
        }
    }
}

/// Decodes one head's K or V of a chunk, tokens × dim; false if the table does not reach it.
#[inline(always)]
fn load_page(
    layer: &PagedAttention<'_>,
    pool: &Pool,
    task: &Task<'_>,
    chunk: usize,
    half: PageHalf,
    out: &mut [f32],
) -> bool {
    let Some(ChunkEntry { k, v }) = task.pages.entry(layer.layer as usize, chunk) else { return false };
    let entry = if half == PageHalf::K { k } else { v };
    let address = PageAddress { layer: layer.layer, slot: entry.slot, half };
    // The step was checked: every entry is in the pool.
    let Ok(page) = pool.page(address) else { return false };
    decode(entry.codec, page, pool.geometry().element_offset(task.kv_head, 0), out);
    true
}

/// Scaled products of a query with the keys of a page.
#[inline(always)]
unsafe fn score<I: Isa>(q: &[f32], page: &[f32], scale: f32, scores: &mut [f32]) {
    let dim = q.len();
    for (score, key) in scores.iter_mut().zip(page.chunks_exact(dim)) {
        let mut sum = I::splat(0.0);
        for i in (0..dim).step_by(I::LANES) {
            let lanes = I::LANES.min(dim - i);
            let (q, k) =
                (load_first::<I>(q.as_ptr().add(i), lanes), load_first::<I>(key.as_ptr().add(i), lanes));
            sum = I::fma(q, k, sum);
        }
        *score = I::sum(sum) * scale;
    }
}

/// Scores to `exp(score − maximum)`; the maximum and the sum.
#[inline(always)]
unsafe fn weigh<I: Isa>(scores: &mut [f32]) -> (f32, f32) {
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

/// `o += Σ weight · value`, tokens in order.
#[inline(always)]
unsafe fn accumulate<I: Isa>(weights: &[f32], values: &[f32], dim: usize, o: &mut [f32]) {
    for i in (0..dim).step_by(I::LANES) {
        let lanes = I::LANES.min(dim - i);
        let mut sum = load_first::<I>(o.as_ptr().add(i), lanes);
        for (t, &weight) in weights.iter().enumerate() {
            sum = I::fma(I::splat(weight), load_first::<I>(values.as_ptr().add(t * dim + i), lanes), sum);
        }
        store_first::<I>(o.as_mut_ptr().add(i), sum, lanes);
    }
}

/// Takes the next block into a partial. Merging into nothing copies, so that a single block keeps its bits.
#[inline(always)]
unsafe fn merge<I: Isa>(partial: &mut [f32], next: &[f32]) {
    if partial[1] == 0.0 && !partial[0].is_nan() {
        partial.copy_from_slice(next);
        return;
    }
    let max = if partial[0] > next[0] { partial[0] } else { next[0] };
    let (old, new) = ((partial[0] - max).exp(), (next[0] - max).exp());
    partial[0] = max;
    for (o, n) in partial[1..].iter_mut().zip(&next[1..]) {
        *o = *o * old + n * new;
    }
}

struct Merge<'a, 'b> {
    layer: &'b PagedAttention<'a>,
    worker: &'b Worker<'b>,
}

impl Kernel for Merge<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { layer, worker } = self;
        let (heads, kv_heads) = (layer.shape.heads as usize, layer.shape.kv_heads as usize);
        let (dim, group) = (layer.shape.head_dim as usize, heads / kv_heads);
        let len = partial_len(dim);
        let mut merged = vec![0.0; len];
        for index in worker.range(layer.merges.len()) {
            let (row, kv_head) = (index / kv_heads, index % kv_heads);
            for g in 0..group {
                merged.fill(0.0);
                merged[0] = f32::NEG_INFINITY;
                for &partial in &layer.merges[index] {
                    let at = (partial + g) * len;
                    merge::<I>(&mut merged, layer.scratch.part(at..at + len));
                }
                let place = (row * heads + kv_head * group + g) * dim;
                let out = layer.out.part_mut(place..place + dim);
                for (o, v) in out.iter_mut().zip(&merged[2..]) {
                    *o = v / merged[1];
                }
            }
        }
    }
}
