//! What is added to a tile of sums while it is in registers: the bias, and each row's low-rank term.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use interleaf_contract::Dtype;

use super::{Job, LoraMatmul};
use crate::isa::Isa;
use crate::math::{load_first, store_first};

/// Adds bias and `scale · z·Bᵀ` to one row's sums of one panel, and stores them.
///
/// # Safety
/// The machine has the tier; z is computed; nobody else has this row and panel.
#[inline(always)]
pub unsafe fn finish<I: Isa>(layer: &LoraMatmul<'_>, job: &Job<'_>, row: usize, panel: usize, mut sum: I::V) {
    if let Some(bias) = job.bias {
        let first = panel * I::LANES;
        let bias = &bias[first..bias.len().min(first + I::LANES)];
        sum = I::add(sum, load_first::<I>(bias.as_ptr(), bias.len()));
    }
    if let Some(Some(term)) = job.terms.get(row) {
        let rank = term.b.cols();
        let z = layer.scratch.z.part(term.z..term.z + rank);
        let b = term.b.float_panel(panel).as_ptr();
        let bytes = rank * I::LANES * term.b.dtype().block_bytes();
        // The panel after the next: by its turn every other row's adapter has had its own.
        for line in (0..bytes).step_by(64) {
            I::prefetch(b.wrapping_add(2 * bytes + line));
        }
        let mut delta = I::splat(0.0);
        if term.b.dtype() == Dtype::F16 {
            for (r, &z) in z.iter().enumerate() {
                delta = I::fma(I::splat(z), I::load_f16(b.cast::<u16>().add(r * I::LANES)), delta);
            }
        } else {
            for (r, &z) in z.iter().enumerate() {
                delta = I::fma(I::splat(z), I::load(b.cast::<f32>().add(r * I::LANES)), delta);
            }
        }
        sum = I::fma(I::splat(term.scale), delta, sum);
    }
    store::<I>(job, row, panel, sum);
}

/// Stores one row's sums of one panel.
///
/// # Safety
/// The machine has the tier; nobody else has this row and panel.
#[inline(always)]
pub unsafe fn store<I: Isa>(job: &Job<'_>, row: usize, panel: usize, sum: I::V) {
    let outputs = job.w.rows();
    let output = panel * I::LANES;
    let lanes = I::LANES.min(outputs - output);
    let at = row * outputs + output;
    store_first::<I>(job.y.part_mut(at..at + lanes).as_mut_ptr(), sum, lanes);
}
