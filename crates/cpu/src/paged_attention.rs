//! Causal grouped-query attention over pages, in fixed blocks of 256 positions.
//!
//! Each block has its own maximum, sum and weighted values; blocks are merged in ascending order. A
//! prompt's rows go through all blocks in one task, so that a block's pages are decoded once for a tile
//! of rows and all heads of a group; a generated row's blocks are tasks of their own, so that one long
//! context keeps every core busy. Both give the same bits.

use interleaf_contract::host::Pool;
use interleaf_contract::{
    ATTENTION_SPLIT, AttentionShape, BackendError, Batch, CHUNK_TOKENS, PageAddress, PageHalf, PageTable,
    Row, RowKind,
};
use rayon::prelude::*;

use crate::dot::dot;
use crate::page_codec::decode;

/// Prompt rows of one task: enough to pay for decoding a block, few enough to spread over cores.
const ROW_TILE: usize = 16;

/// The softmax-weighted values of some positions, unnormalised: `o = Σ exp(s − max)·v`.
#[derive(Clone)]
struct Partial {
    max: f32,
    sum: f32,
    o: Vec<f32>,
}

impl Partial {
    fn empty(dim: usize) -> Self {
        Self { max: f32::NEG_INFINITY, sum: 0.0, o: vec![0.0; dim] }
    }

    /// Takes in the next block. Merging into nothing copies, so that a single block keeps its bits.
    fn merge(&mut self, next: Self) {
        if self.sum == 0.0 {
            *self = next;
            return;
        }
        let max = self.max.max(next.max);
        let (old, new) = ((self.max - max).exp(), (next.max - max).exp());
        self.sum = self.sum * old + next.sum * new;
        for (o, n) in self.o.iter_mut().zip(&next.o) {
            *o = *o * old + n * new;
        }
        self.max = max;
    }
}

/// Rows of one sequence, one key/value head and a range of blocks.
struct Task<'a> {
    pages: &'a PageTable,
    first_row: usize,
    rows: &'a [Row],
    kv_head: usize,
    blocks: std::ops::Range<usize>,
}

/// `q` and `out` are rows × (heads · head_dim); row i at position p attends to positions `0 ..= p`.
pub fn paged_attention(
    batch: &Batch,
    layer: u32,
    shape: AttentionShape,
    q: &[f32],
    pool: &Pool,
    out: &mut [f32],
) -> Result<(), BackendError> {
    let (heads, dim) = (shape.heads as usize, shape.head_dim as usize);
    let group = heads / shape.kv_heads as usize;
    let tasks = tasks(batch, shape);
    let partials: Vec<Vec<Partial>> = tasks
        .par_iter()
        .map_init(Scratch::default, |scratch, task| run(task, layer, shape, q, pool, scratch))
        .collect::<Result<_, _>>()?;

    // Tasks of the same rows and head stand together with ascending blocks.
    let mut results = tasks.iter().zip(partials).peekable();
    while let Some((task, mut merged)) = results.next() {
        let same = |next: &Task<'_>| next.first_row == task.first_row && next.kv_head == task.kv_head;
        while let Some((_, next)) = results.next_if(|(next, _)| same(next)) {
            merged.iter_mut().zip(next).for_each(|(merged, next)| merged.merge(next));
        }
        for (i, partial) in merged.iter().enumerate() {
            let (row, head) = (task.first_row + i / group, task.kv_head * group + i % group);
            let place = (row * heads + head) * dim;
            for (o, v) in out[place..place + dim].iter_mut().zip(&partial.o) {
                *o = v / partial.sum;
            }
        }
    }
    Ok(())
}

fn tasks(batch: &Batch, shape: AttentionShape) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    for (sequence, first, count) in batch.runs() {
        let pages = &batch.sequences[sequence].pages;
        for kv_head in 0..shape.kv_heads as usize {
            let mut first_row = first;
            while first_row < first + count {
                let kind = batch.rows[first_row].kind;
                let tile = if kind == RowKind::Prompt { ROW_TILE } else { 1 };
                let last = (first_row + tile).min(first + count);
                let alike = batch.rows[first_row..last].iter().take_while(|r| r.kind == kind).count();
                let rows = &batch.rows[first_row..first_row + alike];
                let first = shape.first_visible(rows[0].position) as usize / ATTENTION_SPLIT;
                let blocks = first..rows[alike - 1].position as usize / ATTENTION_SPLIT + 1;
                let task = |blocks| Task { pages, first_row, rows, kv_head, blocks };
                if kind == RowKind::Prompt {
                    tasks.push(task(blocks));
                } else {
                    tasks.extend(blocks.map(|block| task(block..block + 1)));
                }
                first_row += alike;
            }
        }
    }
    tasks
}

/// A worker's decoded block and scores.
#[derive(Default)]
struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
}

/// The task's partials, rows × heads of the group.
fn run(
    task: &Task<'_>,
    layer: u32,
    shape: AttentionShape,
    q: &[f32],
    pool: &Pool,
    scratch: &mut Scratch,
) -> Result<Vec<Partial>, BackendError> {
    let (heads, dim) = (shape.heads as usize, shape.head_dim as usize);
    let group = heads / shape.kv_heads as usize;
    let mut partials = vec![Partial::empty(dim); task.rows.len() * group];
    let end = task.rows.last().map_or(0, |row| row.position as usize + 1);
    for block in task.blocks.clone() {
        let start = block * ATTENTION_SPLIT;
        let tokens = ATTENTION_SPLIT.min(end - start);
        for (half, block) in [(PageHalf::K, &mut scratch.keys), (PageHalf::V, &mut scratch.values)] {
            block.resize(tokens * dim, 0.0);
            gather(task.pages, layer, half, task.kv_head, start, pool, block)?;
        }
        for (i, row) in task.rows.iter().enumerate() {
            // What of this block the row sees: up to its own position, from its window's first on.
            let end = (row.position as usize + 1).saturating_sub(start).min(tokens);
            let first = (shape.first_visible(row.position) as usize).saturating_sub(start);
            if first >= end {
                continue;
            }
            let seen = first * dim..end * dim;
            for g in 0..group {
                let head = task.kv_head * group + g;
                let place = ((task.first_row + i) * heads + head) * dim;
                let q = &q[place..place + dim];
                let keys = scratch.keys[seen.clone()].chunks_exact(dim);
                scratch.scores.clear();
                scratch.scores.extend(keys.map(|k| dot(q, k) * shape.scale));
                if let Some(cap) = shape.softcap {
                    scratch.scores.iter_mut().for_each(|score| *score = cap * (*score / cap).tanh());
                }
                let next = attend(&mut scratch.scores, &scratch.values[seen.clone()], dim);
                partials[i * group + g].merge(next);
            }
        }
    }
    Ok(partials)
}

/// One head's K or V from position `start` (a chunk's first) on; `out` is tokens × head_dim.
fn gather(
    pages: &PageTable,
    layer: u32,
    half: PageHalf,
    kv_head: usize,
    start: usize,
    pool: &Pool,
    out: &mut [f32],
) -> Result<(), BackendError> {
    let geometry = pool.geometry();
    for (i, out) in out.chunks_mut(CHUNK_TOKENS * geometry.head_dim).enumerate() {
        let Some(entry) = pages.entry(layer as usize, start / CHUNK_TOKENS + i) else { continue };
        let entry = if half == PageHalf::K { entry.k } else { entry.v };
        let page = pool.page(PageAddress { layer, slot: entry.slot, half })?;
        decode(entry.codec, page, geometry.element_offset(kv_head, 0), out);
    }
    Ok(())
}

fn attend(scores: &mut [f32], values: &[f32], dim: usize) -> Partial {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut partial = Partial { max, sum: 0.0, o: vec![0.0; dim] };
    for (score, v) in scores.iter_mut().zip(values.chunks_exact(dim)) {
        let weight = (*score - max).exp();
        partial.sum += weight;
        for (o, v) in partial.o.iter_mut().zip(v) {
            *o += weight * v;
        }
    }
    partial
}
