//! What is added to a tile of sums while it is in registers: the bias, and each row's low-rank term.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

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
        let z = layer.scratch.z.all().as_ptr().add(term.z);
        let b = term.b.as_ptr().add(panel * term.panel_bytes);
        let delta = if term.half {
            combine::<I>(term.rank, z, |r| I::load_f16(b.cast::<u16>().add(r * I::LANES)))
        } else {
            combine::<I>(term.rank, z, |r| I::load(b.cast::<f32>().add(r * I::LANES)))
        };
        sum = I::fma(I::splat(term.scale), delta, sum);
    }
    store::<I>(job, row, panel, sum);
}

/// `Σ z[r] · b(r)` in four interleaved sums, so that no product waits for the one before it.
#[inline(always)]
unsafe fn combine<I: Isa>(rank: usize, z: *const f32, b: impl Fn(usize) -> I::V) -> I::V {
    let mut sums = [I::splat(0.0); 4];
    let mut r = 0;
    while r + 4 <= rank {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = I::fma(I::splat(*z.add(r + i)), b(r + i), *sum);
        }
        r += 4;
    }
    while r < rank {
        sums[0] = I::fma(I::splat(*z.add(r)), b(r), sums[0]);
        r += 1;
    }
    I::add(I::add(sums[0], sums[1]), I::add(sums[2], sums[3]))
}

/// Asks for what some rows will add to a panel.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn prefetch<I: Isa>(job: &Job<'_>, rows: Range<usize>, panel: usize) {
    if job.terms.is_empty() {
        return;
    }
    for term in job.terms[rows].iter().flatten() {
        let b = term.b.as_ptr().wrapping_add(panel * term.panel_bytes);
        for line in (0..term.panel_bytes).step_by(64) {
            I::prefetch(b.wrapping_add(line));
        }
    }
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
