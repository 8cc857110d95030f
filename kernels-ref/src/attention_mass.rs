//! How much later tokens look at each chunk: LLMS's information density (§3.2).

use interleaf_contract::host::{HostMatrix, Pool, Resident};
use interleaf_contract::{AttentionShape, BackendError, Batch, CHUNK_TOKENS, MassSample, PageHalf};

use crate::paged_attention::{gather, scores};

/// Attention that the rows of a batch paid to one sequence's tokens in one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnMass {
    /// Per position: the sum over rows that can see it of the weight, averaged over the measured heads.
    pub sum: Vec<f64>,
    /// Per position: how many rows of the batch can see it.
    pub rows: Vec<u32>,
}

/// What attention did in a layer.
#[derive(Debug, Clone, Copy)]
pub struct Attended<'a> {
    /// The layer.
    pub layer: u32,
    /// The head layout.
    pub shape: AttentionShape,
    /// Queries, rows × (heads · head_dim).
    pub q: &'a [f32],
    /// Rows × heads, as [`paged_attention`](crate::paged_attention::paged_attention) returned them for this batch.
    pub log_sums: &'a [f64],
}

/// Column sums of the causal attention matrix, recovered from saved log-sum-exps:
/// `A[row, c] = exp(scale · q·k_c − lse[row])`. Of key/value heads the sample says which are measured.
///
/// # Errors
/// If a page is outside the pool.
pub fn attention_mass<M: HostMatrix>(
    batch: &Batch,
    sequence: usize,
    attended: &Attended<'_>,
    sample: &MassSample,
    held: (&Pool, &Resident<M>),
) -> Result<ColumnMass, BackendError> {
    let Attended { layer, shape, q, log_sums } = *attended;
    let (heads, kv_heads, dim) = (shape.heads as usize, shape.kv_heads as usize, shape.head_dim as usize);
    let seen: Vec<(usize, std::ops::Range<usize>)> = (batch.rows.iter().enumerate())
        .filter(|(_, row)| row.sequence as usize == sequence)
        .map(|(i, row)| (i, shape.first_visible(row.position) as usize..row.position as usize + 1))
        .collect();
    let tokens = seen.iter().map(|(_, visible)| visible.end).max().unwrap_or(0);
    let mut mass = ColumnMass { sum: vec![0.0; tokens], rows: vec![0; tokens] };
    for (_, visible) in &seen {
        mass.rows[visible.clone()].iter_mut().for_each(|n| *n += 1);
    }
    let measured = f64::from(sample.heads(&shape));
    for kv_head in (0..kv_heads).step_by(sample.every as usize) {
        let keys = gather(&batch.sequences[sequence].pages, layer, PageHalf::K, kv_head, tokens, held)?;
        for (i, visible) in &seen {
            for head in kv_head * (heads / kv_heads)..(kv_head + 1) * (heads / kv_heads) {
                let q = &q[(i * heads + head) * dim..(i * heads + head + 1) * dim];
                let log_sum = log_sums[i * heads + head];
                let keys = &keys[visible.start * dim..visible.end * dim];
                for (sum, score) in mass.sum[visible.clone()].iter_mut().zip(scores(q, keys, shape)) {
                    *sum += (score - log_sum).exp() / measured;
                }
            }
        }
    }
    Ok(mass)
}

/// What all tokens of each chunk got.
#[must_use]
pub fn chunk_sums(mass: &ColumnMass) -> Vec<f64> {
    mass.sum.chunks(CHUNK_TOKENS).map(|sums| sums.iter().sum()).collect()
}

/// Density of each chunk: the mean over its tokens of the column means,
/// `D = mean_c (1/rows(c)) Σ_row A[row, c]` (LLMS §3.2). Tokens that no row can see are left out.
#[must_use]
pub fn chunk_density(mass: &ColumnMass) -> Vec<f64> {
    let columns = mass.sum.chunks(CHUNK_TOKENS).zip(mass.rows.chunks(CHUNK_TOKENS));
    columns
        .map(|(sums, rows)| {
            let means = sums.iter().zip(rows).filter(|(_, n)| **n > 0).map(|(s, &n)| s / f64::from(n));
            let (count, total) = means.fold((0u32, 0.0), |(count, total), mean| (count + 1, total + mean));
            if count == 0 { 0.0 } else { total / f64::from(count) }
        })
        .collect()
}
