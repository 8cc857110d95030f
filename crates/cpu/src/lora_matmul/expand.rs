//! What is added to a tile of sums while it is in registers: the bias, and each row's low-rank term.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use super::{Job, LoraMatmul, Term};
use crate::isa::Isa;
use crate::lines::LINE;
use crate::math::{load_first, store_first};

/// Adds bias and `scale · z·Bᵀ` to the sums of one panel of consecutive rows, and stores them. Rows of one adapter that
/// follow each other read its panel of B together.
///
/// # Safety
/// The machine has the tier; z is computed; nobody else has these rows and panel.
#[inline(always)]
pub unsafe fn finish<I: Isa, const M: usize>(
    layer: &LoraMatmul<'_>,
    job: &Job<'_>,
    first: usize,
    panel: usize,
    mut sums: [I::V; M],
) {
    if let Some(bias) = job.bias {
        let output = panel * I::LANES;
        let bias = &bias[output..bias.len().min(output + I::LANES)];
        let bias = load_first::<I>(bias.as_ptr(), bias.len());
        for sum in &mut sums {
            *sum = I::add(*sum, bias);
        }
    }
    if !job.terms.is_empty() {
        let terms = &job.terms[first..first + M];
        let mut row = 0;
        while row < M {
            // Four sums of each of four rows, where there are registers for them.
            row += match &terms[row] {
                None => 1,
                Some(_) if I::FLOAT_ROWS >= 8 && alike(terms, row, 4) => {
                    add::<I, 4>(layer, terms, row, panel, &mut sums)
                }
                Some(_) if alike(terms, row, 2) => add::<I, 2>(layer, terms, row, panel, &mut sums),
                Some(_) => add::<I, 1>(layer, terms, row, panel, &mut sums),
            };
        }
    }
    store::<I, M>(job, first, panel, sums);
}

/// Whether so many rows from this one on have the same factors.
#[inline(always)]
fn alike(terms: &[Option<Term<'_>>], row: usize, n: usize) -> bool {
    let b = |term: &Option<Term<'_>>| term.as_ref().map(|term| term.b.as_ptr());
    terms.len() >= row + n && terms[row + 1..row + n].iter().all(|term| b(term) == b(&terms[row]))
}

/// Adds the terms of N rows that have the same factors; returns N.
#[inline(always)]
unsafe fn add<I: Isa, const N: usize>(
    layer: &LoraMatmul<'_>,
    terms: &[Option<Term<'_>>],
    row: usize,
    panel: usize,
    sums: &mut [I::V],
) -> usize {
    let z = layer.scratch.z.all().as_ptr();
    let z: [*const f32; N] =
        std::array::from_fn(|i| z.wrapping_add(terms[row + i].as_ref().map_or(0, |term| term.z)));
    let Some(term) = &terms[row] else { return N };
    let b = term.b.as_ptr().add(panel * term.panel_bytes);
    let deltas = if term.half {
        combine::<I, N>(term.rank, z, |r| I::load_f16(b.cast::<u16>().add(r * I::LANES)))
    } else {
        combine::<I, N>(term.rank, z, |r| I::load(b.cast::<f32>().add(r * I::LANES)))
    };
    let scale = I::splat(term.scale);
    for (sum, delta) in sums[row..].iter_mut().zip(deltas) {
        *sum = I::fma(scale, delta, *sum);
    }
    N
}

/// `Σ z[r] · b(r)` of each row in four interleaved sums, so that no product waits for the one before it.
#[inline(always)]
unsafe fn combine<I: Isa, const N: usize>(
    rank: usize,
    z: [*const f32; N],
    b: impl Fn(usize) -> I::V,
) -> [I::V; N] {
    let mut sums = [[I::splat(0.0); 4]; N];
    let mut r = 0;
    while r + 4 <= rank {
        for i in 0..4 {
            let b = b(r + i);
            for (sums, z) in sums.iter_mut().zip(z) {
                sums[i] = I::fma(I::splat(*z.add(r + i)), b, sums[i]);
            }
        }
        r += 4;
    }
    while r < rank {
        let b = b(r);
        for (sums, z) in sums.iter_mut().zip(z) {
            sums[0] = I::fma(I::splat(*z.add(r)), b, sums[0]);
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
    let mut before =
        rows.start.checked_sub(1).and_then(|row| job.terms[row].as_ref()).map(|term| term.b.as_ptr());
    for term in &job.terms[rows] {
        let b = term.as_ref().map(|term| term.b.as_ptr());
        if let Some(term) = term
            && b != before
        {
            let b = term.b.as_ptr().wrapping_add(panel * term.panel_bytes);
            for line in (0..term.panel_bytes).step_by(LINE) {
                I::prefetch(b.wrapping_add(line));
            }
        }
        before = b;
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
