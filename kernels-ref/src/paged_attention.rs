//! Causal grouped-query attention over pages.

use interleaf_contract::host::{HostMatrix, Pool, Resident};
use interleaf_contract::{AttentionShape, BackendError, Batch, CHUNK_TOKENS, PageHalf, PageTable};

use crate::page_codec::{PageOf, read_page};
use crate::softcap::capped;

/// `q` and `out` are rows × (heads · head_dim). Row i, at position p, attends to positions `0 ..= p` of
/// its sequence, or to the last of them that its window holds: `out = Σ softmax(scale · q·Kᵀ)·V`, scores
/// capped where the shape says so, the softmax over all of them at once, in f64.
/// Pages may be in any codecs; what is resident has their constants.
/// Returns each row's and head's log-sum-exp of the scaled scores, rows × heads, from which
/// [`attention_mass`](crate::attention_mass) recovers the weights.
///
/// # Errors
/// If a page is outside the pool.
pub fn paged_attention<M: HostMatrix>(
    batch: &Batch,
    layer: u32,
    shape: AttentionShape,
    q: &[f32],
    held: (&Pool, &Resident<M>),
    out: &mut [f32],
) -> Result<Vec<f64>, BackendError> {
    let (heads, kv_heads, dim) = (shape.heads as usize, shape.kv_heads as usize, shape.head_dim as usize);
    let cols = heads * dim;
    let mut log_sums = vec![0.0; batch.rows.len() * heads];
    for (sequence, first, rows) in batch.runs() {
        let tokens = batch.rows[first + rows - 1].position as usize + 1;
        let pages = &batch.sequences[sequence].pages;
        for kv_head in 0..kv_heads {
            let keys = gather(pages, layer, PageHalf::K, kv_head, tokens, held)?;
            let values = gather(pages, layer, PageHalf::V, kv_head, tokens, held)?;
            for i in first..first + rows {
                let position = batch.rows[i].position;
                let seen = shape.first_visible(position) as usize * dim..(position as usize + 1) * dim;
                for head in kv_head * (heads / kv_heads)..(kv_head + 1) * (heads / kv_heads) {
                    let place = i * cols + head * dim..i * cols + (head + 1) * dim;
                    let scores = scores(&q[place.clone()], &keys[seen.clone()], shape);
                    log_sums[i * heads + head] = attend(&scores, &values[seen.clone()], &mut out[place]);
                }
            }
        }
    }
    Ok(log_sums)
}

/// One head's K or V of the first `tokens` positions, tokens × head_dim.
pub(crate) fn gather<M: HostMatrix>(
    pages: &PageTable,
    layer: u32,
    half: PageHalf,
    kv_head: usize,
    tokens: usize,
    held: (&Pool, &Resident<M>),
) -> Result<Vec<f32>, BackendError> {
    let (pool, resident) = held;
    let geometry = pool.geometry();
    let dim = geometry.head_dim;
    let mut all = vec![0.0; tokens * dim];
    for (chunk, out) in all.chunks_mut(CHUNK_TOKENS * dim).enumerate() {
        let Some(entry) = pages.entry(layer as usize, chunk) else { continue };
        let page = read_page(PageOf { layer, half, chunk }, entry.half(half), pool, resident)?;
        out.copy_from_slice(&page[geometry.element_offset(kv_head, 0)..][..out.len()]);
    }
    Ok(all)
}

/// `scale · q·kᵀ`, capped where the shape says so, for every key.
pub(crate) fn scores(q: &[f32], keys: &[f32], shape: AttentionShape) -> Vec<f64> {
    let score = |k| crate::lora_matmul::dot(q, k) * f64::from(shape.scale);
    let cap = |score: f64| shape.softcap.map_or(score, |cap| capped(score, f64::from(cap)));
    keys.chunks_exact(q.len()).map(|k| cap(score(k))).collect()
}

/// Softmax of the scores times the values; returns the log-sum-exp.
fn attend(scores: &[f64], values: &[f32], out: &mut [f32]) -> f64 {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut mixed = vec![0.0f64; out.len()];
    for (weight, v) in weights.iter().zip(values.chunks_exact(out.len())) {
        for (m, &v) in mixed.iter_mut().zip(v) {
            *m += weight * f64::from(v);
        }
    }
    for (o, m) in out.iter_mut().zip(mixed) {
        *o = (m / sum) as f32;
    }
    largest + sum.ln()
}
