//! Rotary position embedding, rotate-half form.

use interleaf_contract::RopeTable;
use rayon::prelude::*;

/// Rotates every head of every row in place; `x` is rows × (heads · head_dim).
pub fn rope(x: &mut [f32], head_dim: usize, positions: &[u32], table: &RopeTable) {
    if positions.is_empty() || x.is_empty() {
        return;
    }
    let half = table.rotary_dim / 2;
    let cols = x.len() / positions.len();
    x.par_chunks_exact_mut(cols).zip(positions).for_each(|(row, &position)| {
        let angles = position as usize * half..(position as usize + 1) * half;
        let (cos, sin) = (&table.cos[angles.clone()], &table.sin[angles]);
        for head in row.chunks_exact_mut(head_dim) {
            let (first, second) = head[..2 * half].split_at_mut(half);
            for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
    });
}
