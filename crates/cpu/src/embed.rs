//! Rows of the embedding.

use interleaf_contract::Matrix;

use crate::weight::rows_f32;

/// `out[i] = scale · table[tokens[i]]`; `out` is tokens × hidden.
pub fn embed(table: &Matrix, tokens: &[u32], scale: f32, out: &mut [f32]) {
    let mut scratch = vec![0.0; table.cols()];
    for (token, out) in tokens.iter().zip(out.chunks_exact_mut(table.cols())) {
        for (o, v) in out.iter_mut().zip(rows_f32(table, *token as usize, &mut scratch)) {
            *o = scale * v;
        }
    }
}
