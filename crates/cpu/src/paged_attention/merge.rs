//! Partials of blocks merged in ascending order: a row's result, and what a generated row pays to the chunks that it sees.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use interleaf_contract::RowKind;

use super::mass::{self, Measured};
use super::plan::CHUNKS;
use super::{PagedAttention, VALUES, partial_len};
use crate::attention_mass::Totals;
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
    pub totals: &'b mut Totals,
}

impl Kernel for Merge<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { layer, worker, totals } = self;
        let (heads, kv_heads) = (layer.shape.heads as usize, layer.shape.kv_heads as usize);
        let (dim, group) = (layer.shape.head_dim as usize, heads / kv_heads);
        let len = partial_len(dim);
        let mut merged = vec![0.0; len];
        let mut states = vec![[0.0; 2]; group];
        for index in worker.range(layer.rows.len() * kv_heads) {
            let (row, kv_head) = (index / kv_heads, index % kv_heads);
            for (g, state) in states.iter_mut().enumerate() {
                merged.fill(0.0);
                merged[0] = f32::NEG_INFINITY;
                for partial in layer.plan.merges(row, kv_head) {
                    let at = (partial + g) * len;
                    merge::<I>(&mut merged, layer.scratch.part(at..at + len));
                }
                *state = [merged[0], merged[1]];
                let place = (row * heads + kv_head * group + g) * dim;
                let out = layer.out.part_mut(place..place + dim);
                for (o, v) in out.iter_mut().zip(&merged[VALUES..]) {
                    *o = v / merged[1];
                }
            }
            if layer.rows[row].kind == RowKind::Generated
                && let Some(measured) = layer.measured_of(kv_head)
            {
                pay(layer, measured, (row, kv_head), &states, totals);
            }
        }
    }
}

/// What a generated row pays by the queries of a key/value head, whose final maxima and sums these are.
unsafe fn pay(
    layer: &PagedAttention<'_>,
    measured: &Measured<'_>,
    (row, kv_head): (usize, usize),
    states: &[[f32; 2]],
    totals: &mut Totals,
) {
    let len = partial_len(layer.shape.head_dim as usize);
    let sequence = layer.rows[row].sequence as usize;
    for (block, first) in layer.plan.blocks(row).zip(layer.plan.merges(row, kv_head)) {
        let mut paid = [0.0; CHUNKS];
        for (partial, state) in (first..).zip(states) {
            let sums = measured.sums.part(partial * CHUNKS..(partial + 1) * CHUNKS);
            mass::add(&mut paid, sums, layer.scratch.part(partial * len..partial * len + 1)[0], *state);
        }
        measured.pay(sequence, block, &paid, totals);
    }
}
