//! Rows of the embedding.

use interleaf_contract::Matrix;

use crate::weight::decode_row;

/// `out[i] = scale · table[tokens[i]]`. `table` is vocabulary × hidden; `out` is tokens × hidden.
pub fn embed(table: &Matrix, tokens: &[u32], scale: f32, out: &mut [f32]) {
    for (token, out) in tokens.iter().zip(out.chunks_exact_mut(table.cols())) {
        decode_row(table, *token as usize, out);
        out.iter_mut().for_each(|v| *v *= scale);
    }
}
