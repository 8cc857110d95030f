//! Partials of blocks merged in ascending order: a row's result.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use super::{PagedAttention, VALUES, partial_len};
use crate::isa::{Isa, Kernel};
use crate::region::Worker;

/// Takes the next block into a partial. Merging into nothing copies, so that a single block keeps its bits.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn merge<I: Isa>(partial: &mut [f32], next: &[f32]) {
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

/// What every row merges.
pub struct Merge<'a, 'b> {
    pub layer: &'b PagedAttention<'a>,
    pub worker: &'b Worker<'b>,
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
                for (o, v) in out.iter_mut().zip(&merged[VALUES..]) {
                    *o = v / merged[1];
                }
            }
        }
    }
}
