//! Causal grouped-query attention over pages, in fixed blocks of 256 positions.
//!
//! Each block has its own maximum, sum and weighted values; blocks are merged in ascending order. A prompt's
//! rows go through all blocks in one task, so that a block's pages are decoded once for a tile of rows and all
//! heads of a group. A generated row's blocks are tasks of their own, so that one long context keeps every core
//! busy; generated rows whose tables name the same pages share a task, and a page is decoded once for them.
//! All of this gives the same bits.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

mod plan;

use std::sync::Arc;

use interleaf_contract::host::Pool;
use interleaf_contract::{ATTENTION_SPLIT, AttentionShape, Batch, CHUNK_TOKENS, PageHalf, Row};

use self::plan::Group;
pub use self::plan::Plan;
use crate::isa::{Isa, Kernel};
use crate::lines::LINE;
use crate::math::{exp, load_first, store_first};
use crate::page_codec::decode;
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
    scratch: Shared<'a, f32>,
}

/// Values of one partial: the maximum, the sum, and the weighted values, unnormalised.
const fn partial_len(dim: usize) -> usize {
    dim + 2
}

impl<'a> PagedAttention<'a> {
    /// A layer whose scratch has [`scratch_len`] values.
    pub fn new(
        batch: &'a Batch,
        plan: Arc<Plan<'a>>,
        layer: u32,
        shape: AttentionShape,
        q: Shared<'a, f32>,
        out: Shared<'a, f32>,
        scratch: Shared<'a, f32>,
    ) -> Self {
        Self { rows: &batch.rows, layer, shape, q, out, plan, scratch }
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
        let most = layer.plan.groups.iter().map(|group| group.rows.len()).max().unwrap_or(0) * group;
        let mut work = Work {
            page: vec![0.0; CHUNK_TOKENS * dim],
            keys: vec![0.0; CHUNK_TOKENS * dim],
            scores: vec![0.0; most * ATTENTION_SPLIT],
            blocks: Vec::new(),
        };
        // Tasks of a prompt grow along it, so each worker takes every n-th.
        for index in worker.every(layer.plan.tasks()) {
            let (group, kv_head, partials) = layer.plan.task(index);
            let len = partial_len(dim);
            let partials = layer.scratch.part_mut(partials.start * len..partials.end * len);
            run_task::<I>(layer, pool, Task { group, kv_head }, partials, &mut work);
        }
    }
}

/// A worker's decoded page, scores and running blocks.
struct Work {
    /// K or V of one head and chunk, tokens × dim.
    page: Vec<f32>,
    /// K with tokens side by side, dim × tokens.
    keys: Vec<f32>,
    /// Queries × positions of a block.
    scores: Vec<f32>,
    /// The partial of each query's present block.
    blocks: Vec<f32>,
}

/// What a row sees of a block: positions from the block's start on.
fn visible(shape: AttentionShape, row: &Row, start: usize) -> std::ops::Range<usize> {
    let end = (row.position as usize + 1).saturating_sub(start).min(ATTENTION_SPLIT);
    let first = (shape.first_visible(row.position) as usize).saturating_sub(start);
    first.min(end)..end
}

/// The queries of a task: for each row the heads of its group.
struct Queries<'a> {
    values: &'a [f32],
    dim: usize,
    group: usize,
    /// Where each row's first query begins.
    starts: Vec<usize>,
}

impl Queries<'_> {
    fn pointer(&self, query: usize) -> *const f32 {
        let at = self.starts[query / self.group] + query % self.group * self.dim;
        self.values[at..at + self.dim].as_ptr()
    }
}

#[inline(always)]
unsafe fn run_task<I: Isa>(
    layer: &PagedAttention<'_>,
    pool: &Pool,
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
    let starts = task.group.rows.iter().map(|row| (row * heads + task.kv_head * group) * dim).collect();
    let queries = Queries { values: layer.q.all(), dim, group, starts };
    let rows: Vec<&Row> = task.group.rows.iter().map(|&row| &layer.rows[row]).collect();
    let end = rows.iter().map(|row| row.position as usize + 1).max().unwrap_or(0);
    for block in task.group.blocks.clone() {
        let start = block * ATTENTION_SPLIT;
        let seen: Vec<_> = rows.iter().map(|row| visible(shape, row, start)).collect();
        // A window may begin within the block.
        let first = seen.iter().filter(|seen| !seen.is_empty()).map(|seen| seen.start).min().unwrap_or(0);
        let chunks = (start + first) / CHUNK_TOKENS..end.min(start + ATTENTION_SPLIT).div_ceil(CHUNK_TOKENS);
        let pages = Pages { layer, pool, task, chunks: chunks.clone() };
        for chunk in chunks.clone() {
            let at = chunk * CHUNK_TOKENS - start;
            pages.load::<I>(PageHalf::K, chunk, &mut work.page);
            transpose::<I>(&work.page, dim, &mut work.keys);
            // From the first to the last row that sees something of the page; a prompt's rows between them do, too.
            let sees = |seen: &std::ops::Range<usize>| seen.start < at + CHUNK_TOKENS && seen.end > at;
            let first = seen.iter().position(sees).unwrap_or(rows.len()) * group;
            let last = seen.iter().rposition(sees).map_or(first, |row| (row + 1) * group);
            score_all::<I>(&queries, first..last, &work.keys, shape.scale, &mut work.scores, at);
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
        for chunk in chunks {
            let at = chunk * CHUNK_TOKENS - start;
            pages.load::<I>(PageHalf::V, chunk, &mut work.page);
            accumulate_all::<I>(&seen, group, at, dim, work);
        }
        for (partial, block) in partials.chunks_exact_mut(len).zip(work.blocks.chunks_exact(len)) {
            if block[1] != 0.0 {
                merge::<I>(partial, block);
            }
        }
    }
}

/// Pages that are fetched ahead of the one at hand: the hardware's own prefetch does not know where the next one is.
const PAGES_AHEAD: usize = 2;

/// The pages of a block as a task reads them: K of every chunk, then V.
struct Pages<'a, 'b> {
    layer: &'b PagedAttention<'a>,
    pool: &'b Pool,
    task: Task<'b>,
    chunks: std::ops::Range<usize>,
}

impl Pages<'_, '_> {
    /// Decodes one head's K or V of a chunk, tokens × dim.
    #[inline(always)]
    unsafe fn load<I: Isa>(&self, half: PageHalf, chunk: usize, out: &mut [f32]) {
        let later = chunk + PAGES_AHEAD;
        let next = match half {
            _ if later < self.chunks.end => Some((half, later)),
            PageHalf::K => Some((PageHalf::V, later - self.chunks.len())),
            PageHalf::V => None,
        };
        if let Some((half, chunk)) = next.filter(|(_, chunk)| self.chunks.contains(chunk)) {
            let page = self.find(half, chunk);
            for line in (0..page.len()).step_by(LINE) {
                I::prefetch(page[line..].as_ptr());
            }
        }
        decode::<I>(self.pool.geometry().element, self.find(half, chunk), out);
    }

    /// The head's part of a page.
    #[inline(always)]
    fn find(&self, half: PageHalf, chunk: usize) -> &[u8] {
        let Self { layer, pool, task, .. } = self;
        // The step was checked: tables reach as far as their rows' positions, and every entry is in the pool.
        let Some(entry) = task.group.pages.get(chunk) else { unreachable!("no page of chunk {chunk}") };
        let geometry = pool.geometry();
        let address = geometry.address(layer.layer, half, entry.half(half));
        let Ok(page) = pool.page(address) else { unreachable!("{address:?} is not in the pool") };
        let bytes = |elements| geometry.element.bytes(elements);
        let first = bytes(geometry.element_offset(task.kv_head, 0));
        &page[first..first + bytes(CHUNK_TOKENS * geometry.head_dim)]
    }
}

/// A page with its tokens side by side: `[token][dim]` to `[dim][token]`.
#[inline(always)]
unsafe fn transpose<I: Isa>(page: &[f32], dim: usize, keys: &mut [f32]) {
    assert!(page.len() == CHUNK_TOKENS * dim && keys.len() == page.len());
    let whole = dim / I::LANES * I::LANES;
    for i in (0..whole).step_by(I::LANES) {
        for token in (0..CHUNK_TOKENS).step_by(I::LANES) {
            let from = page.as_ptr().add(token * dim + i);
            I::transpose(from, dim, keys.as_mut_ptr().add(i * CHUNK_TOKENS + token), CHUNK_TOKENS);
        }
    }
    for i in whole..dim {
        for token in 0..CHUNK_TOKENS {
            keys[i * CHUNK_TOKENS + token] = page[token * dim + i];
        }
    }
}

/// Scaled products of some queries with the keys of a page, to `scores[query][at ..]`.
#[inline(always)]
unsafe fn score_all<I: Isa>(
    queries: &Queries<'_>,
    range: std::ops::Range<usize>,
    keys: &[f32],
    scale: f32,
    scores: &mut [f32],
    at: usize,
) {
    let mut query = range.start;
    while query < range.end {
        query += match range.end - query {
            8.. => score::<I, 8, 1>(queries, query, keys, scale, scores, at),
            // Of few queries several vectors of tokens where a page has them, lest every product wait for the one
            // before it.
            4.. if 4 * I::LANES <= CHUNK_TOKENS => score::<I, 4, 2>(queries, query, keys, scale, scores, at),
            4.. => score::<I, 4, 1>(queries, query, keys, scale, scores, at),
            _ if 4 * I::LANES <= CHUNK_TOKENS => score::<I, 1, 4>(queries, query, keys, scale, scores, at),
            _ => score::<I, 1, 1>(queries, query, keys, scale, scores, at),
        };
    }
}

/// Q queries and T vectors of tokens at once; every product adds its dimensions in one ascending chain.
#[inline(always)]
unsafe fn score<I: Isa, const Q: usize, const T: usize>(
    queries: &Queries<'_>,
    first: usize,
    keys: &[f32],
    scale: f32,
    scores: &mut [f32],
    at: usize,
) -> usize {
    let q: [*const f32; Q] = std::array::from_fn(|i| queries.pointer(first + i));
    let scale = I::splat(scale);
    let whole = queries.dim / I::FACTORS * I::FACTORS;
    for token in (0..CHUNK_TOKENS).step_by(T * I::LANES) {
        let mut sums = [[I::splat(0.0); T]; Q];
        let keys = |d: usize| keys.as_ptr().add(d * CHUNK_TOKENS + token);
        for d in (0..whole).step_by(I::FACTORS) {
            let q = std::array::from_fn(|i| q[i].add(d));
            I::rank_update(q, keys(d), CHUNK_TOKENS, &mut sums);
        }
        for d in whole..queries.dim {
            for (sums, q) in sums.iter_mut().zip(q) {
                for (t, sum) in sums.iter_mut().enumerate() {
                    *sum = I::fma(I::splat(*q.add(d)), I::load(keys(d).add(t * I::LANES)), *sum);
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            let place = &mut scores[(first + i) * ATTENTION_SPLIT + at + token..][..T * I::LANES];
            for (place, sum) in place.chunks_exact_mut(I::LANES).zip(sums) {
                I::store(place.as_mut_ptr(), I::mul(sum, scale));
            }
        }
    }
    Q
}

/// Scores to `exp(score − maximum)`; the maximum and the sum. Without scores: −∞ and 0.
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

/// Adds a page's weighted values to every query's block. Two queries that see all of it go together.
#[inline(always)]
unsafe fn accumulate_all<I: Isa>(
    seen: &[std::ops::Range<usize>],
    group: usize,
    at: usize,
    dim: usize,
    work: &mut Work,
) {
    let len = partial_len(dim);
    let (scores, blocks) = (work.scores.as_ptr(), work.blocks.as_mut_ptr());
    let whole = |query: usize| {
        seen.get(query / group).is_some_and(|seen| seen.start <= at && seen.end >= at + CHUNK_TOKENS)
    };
    let mut query = 0;
    while query < seen.len() * group {
        let seen = &seen[query / group];
        let tokens = seen.start.max(at)..seen.end.min(at + CHUNK_TOKENS);
        if tokens.start >= tokens.end {
            query += 1;
            continue;
        }
        let values = work.page[(tokens.start - at) * dim..].as_ptr();
        let weights = scores.add(query * ATTENTION_SPLIT + tokens.start);
        let o = blocks.add(query * len + 2);
        if whole(query) && whole(query + 1) {
            let weights = [weights, weights.add(ATTENTION_SPLIT)];
            accumulate::<I, 2>(weights, CHUNK_TOKENS, values, dim, [o, o.add(len)]);
            query += 2;
        } else {
            accumulate::<I, 1>([weights], tokens.len(), values, dim, [o]);
            query += 1;
        }
    }
}

/// `o += Σ weight · value`, tokens in order, for Q queries.
#[inline(always)]
unsafe fn accumulate<I: Isa, const Q: usize>(
    weights: [*const f32; Q],
    tokens: usize,
    values: *const f32,
    dim: usize,
    o: [*mut f32; Q],
) {
    /// Vectors of a value at once.
    const WIDE: usize = 4;
    let mut i = 0;
    while i + WIDE * I::LANES <= dim {
        let mut sums: [[I::V; WIDE]; Q] =
            std::array::from_fn(|q| std::array::from_fn(|v| I::load(o[q].add(i + v * I::LANES))));
        for t in 0..tokens {
            let value: [I::V; WIDE] =
                std::array::from_fn(|v| I::load(values.add(t * dim + i + v * I::LANES)));
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
    while i < dim {
        let lanes = I::LANES.min(dim - i);
        for (weights, o) in weights.into_iter().zip(o) {
            let mut sum = load_first::<I>(o.add(i), lanes);
            for t in 0..tokens {
                let value = load_first::<I>(values.add(t * dim + i), lanes);
                sum = I::fma(I::splat(*weights.add(t)), value, sum);
            }
            store_first::<I>(o.add(i), sum, lanes);
        }
        i += lanes;
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
        for index in worker.range(layer.rows.len() * kv_heads) {
            let (row, kv_head) = (index / kv_heads, index % kv_heads);
            for g in 0..group {
                merged.fill(0.0);
                merged[0] = f32::NEG_INFINITY;
                for partial in layer.plan.merges(row, kv_head) {
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
