//! The fused base + LoRA linear layer over a mixed batch.
//!
//! Rows are grouped by adapter; all projections that read the same x share one parallel shrink pass.
//! The base product then runs over tiles of outputs, and the expand term is added while its tile of
//! results is in cache. Ranks are exact: nothing is padded.

mod base;
mod lora;

use interleaf_contract::{LoraSite, Matrix, Numerics};
use rayon::prelude::*;

use base::Activations;
pub use lora::Group;

/// Outputs computed by one worker at a time: sixteen rows of a 2048-wide f16 matrix are 64 KiB, which
/// stay in a core's second-level cache while every row of the batch passes over them.
const TILE: usize = 16;

/// One projection of a group that shares x.
pub struct Job<'a> {
    /// W, out × in.
    pub w: &'a Matrix,
    /// One value per output.
    pub bias: Option<&'a [f32]>,
    /// This projection's site of each group's adapter.
    pub sites: Vec<Option<&'a LoraSite>>,
    /// rows × out.
    pub y: Vec<f32>,
}

/// Computes every job's `y` from `x`, rows × in. `groups` are the rows that share an adapter.
pub fn lora_matmul(x: &[f32], rows: usize, numerics: Numerics, groups: &[Group], jobs: &mut [Job<'_>]) {
    let shrunk = lora::shrink(x, groups, jobs);
    let integer = numerics == Numerics::ActQ8_0 && jobs.iter().any(|j| j.w.dtype().is_quantised());
    let activations = Activations::new(x, rows, integer);
    for (job, shrunk) in jobs.iter_mut().zip(&shrunk) {
        let (w, bias, sites) = (job.w, job.bias, &job.sites);
        // Transposed, out × rows: a tile of outputs is then one contiguous piece for one worker.
        let mut transposed = vec![0.0; w.rows() * rows];
        if rows > 0 {
            transposed.par_chunks_mut(TILE * rows).enumerate().for_each_init(
                || base::Scratch::new(w),
                |scratch, (tile, y)| {
                    base::tile(&activations, w, numerics, tile * TILE, y, scratch);
                    if let Some(bias) = bias {
                        for (y, b) in y.chunks_exact_mut(rows).zip(&bias[tile * TILE..]) {
                            y.iter_mut().for_each(|y| *y += b);
                        }
                    }
                    lora::expand(groups, sites, shrunk, tile * TILE, rows, y);
                },
            );
        }
        transpose(&transposed, rows, &mut job.y);
    }
}

/// out × rows to rows × out.
fn transpose(transposed: &[f32], rows: usize, y: &mut [f32]) {
    if rows == 1 {
        return y.copy_from_slice(transposed);
    }
    let outputs = transposed.len().checked_div(rows).unwrap_or(0);
    if outputs > 0 {
        y.par_chunks_exact_mut(outputs).enumerate().for_each(|(row, y)| {
            for (n, y) in y.iter_mut().enumerate() {
                *y = transposed[n * rows + row];
            }
        });
    }
}
