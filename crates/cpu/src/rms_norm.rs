//! Root-mean-square norm over rows or heads, with the residual taken in first.

use rayon::prelude::*;

use crate::dot::dot;

/// Groups normed by one worker at a time; a norm of a few hundred values is cheaper than a hand-over.
const GROUPS: usize = 16;

/// `x += delta`.
pub fn add(x: &mut [f32], delta: &[f32]) {
    for (x, d) in x.iter_mut().zip(delta) {
        *x += d;
    }
}

/// `out = x / √(mean(x²) + epsilon) · weight` over each group of `weight.len()` values.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let n = weight.len();
    let groups = x.par_chunks(GROUPS * n).zip(out.par_chunks_mut(GROUPS * n));
    groups.for_each(|(x, out)| {
        for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            let factor = 1.0 / (dot(x, x) / n as f32 + epsilon).sqrt();
            for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
                *o = x * factor * w;
            }
        }
    });
}
