//! What is added to a tile of sums while it is in registers: the bias, and each row's low-rank term.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use super::{Job, LoraMatmul};
use crate::isa::Isa;
use crate::lines::LINE;
use crate::math::{load_first, store_first};

/// Adds bias and `scale · z·Bᵀ` to the sums of one panel of consecutive rows, and stores them. A tile of one adapter reads
/// its panel of B for several rows at once.
///
/// # Safety
/// The machine has the tier; z is computed; nobody else has these rows and panel.
#[inline(always)]
pub unsafe fn finish<I: Isa, const M: usize>(
    layer: &LoraMatmul<'_>,
    job: &Job<'_>,
    first: usize,
    panel: usize,
    sums: [I::V; M],
) {
    let rows = first..first + M;
    if M >= 4 && job.terms.get(first).is_some_and(|term| term.as_ref().is_some_and(|term| term.alike >= M)) {
        // Four sums of each of four rows, where there are registers for them.
        if I::FLOAT_ROWS >= 8 {
            for (rows, sums) in rows.step_by(4).zip(sums.as_chunks::<4>().0) {
                together::<I, 4>(layer, job, rows, panel, *sums);
            }
        } else {
            for (rows, sums) in rows.step_by(2).zip(sums.as_chunks::<2>().0) {
                together::<I, 2>(layer, job, rows, panel, *sums);
            }
        }
        return;
    }
    for (row, sum) in rows.zip(sums) {
        together::<I, 1>(layer, job, row, panel, [sum]);
    }
}

/// The same for N rows that have the same factors, or one.
#[inline(always)]
unsafe fn together<I: Isa, const N: usize>(
    layer: &LoraMatmul<'_>,
    job: &Job<'_>,
    first: usize,
    panel: usize,
    mut sums: [I::V; N],
) {
    if let Some(bias) = job.bias {
        let output = panel * I::LANES;
        let bias = &bias[output..bias.len().min(output + I::LANES)];
        let bias = load_first::<I>(bias.as_ptr(), bias.len());
        for sum in &mut sums {
            *sum = I::add(*sum, bias);
        }
    }
    if let Some(Some(term)) = job.terms.get(first) {
        // The shrunk values of an adapter's rows stand one after another.
        let z = layer.scratch.z.all().as_ptr().add(term.z);
        let b = term.b.as_ptr().add(panel * term.panel_bytes);
        let deltas = if term.half {
            combine::<I, N>(term.rank, z, |r| I::load_f16(b.cast::<u16>().add(r * I::LANES)))
        } else {
            combine::<I, N>(term.rank, z, |r| I::load(b.cast::<f32>().add(r * I::LANES)))
        };
        let scale = I::splat(term.scale);
        for (sum, delta) in sums.iter_mut().zip(deltas) {
            *sum = I::fma(scale, delta, *sum);
        }
    }
    store::<I, N>(job, first, panel, sums);
}

/// `Σ z[r] · b(r)` of each row in four interleaved sums, so that no product waits for the one before it.
#[inline(always)]
unsafe fn combine<I: Isa, const N: usize>(
    rank: usize,
    z: *const f32,
    b: impl Fn(usize) -> I::V,
) -> [I::V; N] {
    let mut sums = [[I::splat(0.0); 4]; N];
    let mut r = 0;
    while r + 4 <= rank {
        for i in 0..4 {
            let b = b(r + i);
            for (row, sums) in sums.iter_mut().enumerate() {
                sums[i] = I::fma(I::splat(*z.add(row * rank + r + i)), b, sums[i]);
            }
        }
        r += 4;
    }
    while r < rank {
        let b = b(r);
        for (row, sums) in sums.iter_mut().enumerate() {
            sums[0] = I::fma(I::splat(*z.add(row * rank + r)), b, sums[0]);
        }
        r += 1;
    }
    // A closure in a closure is not always inlined, and then lacks the tier's instructions.
    let mut deltas = [I::splat(0.0); N];
    for (delta, [a, b, c, d]) in deltas.iter_mut().zip(sums) {
        *delta = I::add(I::add(a, b), I::add(c, d));
    }
    deltas
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
        // What the row before reads too is on its way.
        if term.again {
            continue;
        }
        let b = term.b.as_ptr().wrapping_add(panel * term.panel_bytes);
        for line in (0..term.panel_bytes).step_by(LINE) {
            I::prefetch(b.wrapping_add(line));
        }
    }
}

/// Stores the sums of one panel of consecutive rows.
///
/// # Safety
/// The machine has the tier; nobody else has these rows and panel.
#[inline(always)]
pub unsafe fn store<I: Isa, const M: usize>(job: &Job<'_>, first: usize, panel: usize, sums: [I::V; M]) {
    let outputs = job.w.rows();
    let output = panel * I::LANES;
    let lanes = I::LANES.min(outputs - output);
    for (row, sum) in (first..).zip(sums) {
        let at = row * outputs + output;
        store_first::<I>(job.y.part_mut(at..at + lanes).as_mut_ptr(), sum, lanes);
    }
}
