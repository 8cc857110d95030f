//! `z = x·Aᵀ`, once for all projections that share x; the rows of A are split between workers.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use interleaf_contract::{Dtype, Matrix};

use super::LoraMatmul;
use crate::isa::Isa;
use crate::math::MOST_LANES;
use crate::region::{Shared, Worker};

/// The rows that one site of an adapter shrinks.
pub struct Shrink<'a> {
    /// rank × in.
    pub a: &'a Matrix,
    /// The rows of x.
    pub rows: Vec<usize>,
    /// Where their values begin: rows × rank.
    pub z: usize,
}

/// This worker's values.
///
/// # Safety
/// The machine has the tier; all workers call this with the same layer.
#[inline(always)]
pub unsafe fn shrink<I: Isa>(layer: &LoraMatmul<'_>, worker: &Worker<'_>) {
    let total: usize = layer.shrinks.iter().map(|s| s.a.rows()).sum();
    let mine = worker.range(total);
    let mut first = 0;
    let x = layer.x.all();
    for site in &layer.shrinks {
        let rank = site.a.rows();
        let part = super::overlap(&mine, first..first + rank);
        first += rank;
        let mut r = part.start;
        while r < part.end {
            let n = if part.end - r >= 4 { 4 } else { 1 };
            let mut i = 0;
            while i < site.rows.len() {
                // Two rows of x with four of A are sixteen sums.
                let m = if I::FLOAT_ROWS >= 8 && site.rows.len() - i >= 2 { 2 } else { 1 };
                let values = Values { site, x, first: i, r, z: layer.scratch.z };
                match (site.a.dtype(), m, n) {
                    (Dtype::F16, 2, 4) => values.compute::<I, 2, 4, true>(),
                    (Dtype::F16, 2, _) => values.compute::<I, 2, 1, true>(),
                    (Dtype::F16, _, 4) => values.compute::<I, 1, 4, true>(),
                    (Dtype::F16, _, _) => values.compute::<I, 1, 1, true>(),
                    (_, 2, 4) => values.compute::<I, 2, 4, false>(),
                    (_, 2, _) => values.compute::<I, 2, 1, false>(),
                    (_, _, 4) => values.compute::<I, 1, 4, false>(),
                    (_, _, _) => values.compute::<I, 1, 1, false>(),
                }
                i += m;
            }
            r += n;
        }
    }
}

/// Some values of a site: those of its rows from `first` on with the rows of A from `r` on.
struct Values<'a> {
    site: &'a Shrink<'a>,
    x: &'a [f32],
    first: usize,
    r: usize,
    z: Shared<'a, f32>,
}

impl Values<'_> {
    /// Computes M × N of them.
    #[inline(always)]
    unsafe fn compute<I: Isa, const M: usize, const N: usize, const HALF: bool>(self) {
        let (cols, rank) = (self.site.a.cols(), self.site.a.rows());
        let x = std::array::from_fn(|m| self.x[self.site.rows[self.first + m] * cols..].as_ptr());
        for (m, dots) in dots::<I, M, N, HALF>(x, self.site.a, self.r).into_iter().enumerate() {
            let at = self.site.z + (self.first + m) * rank + self.r;
            self.z.part_mut(at..at + N).copy_from_slice(&dots);
        }
    }
}

/// Dot products of M rows of x with N rows of A from `first` on, each in two interleaved sums.
#[inline(always)]
unsafe fn dots<I: Isa, const M: usize, const N: usize, const HALF: bool>(
    x: [*const f32; M],
    a: &Matrix,
    first: usize,
) -> [[f32; N]; M] {
    let (n, bytes) = (a.cols(), a.data().as_ptr());
    let element = if HALF { 2 } else { 4 };
    let rows: [*const u8; N] = std::array::from_fn(|i| bytes.wrapping_add((first + i) * n * element));
    let (mut even, mut odd) = ([[I::splat(0.0); M]; N], [[I::splat(0.0); M]; N]);
    let mut k = 0;
    while k + 2 * I::LANES <= n {
        multiply::<I, M, N, HALF>(
            x.map(|x| x.wrapping_add(k)),
            rows.map(|row| row.wrapping_add(k * element)),
            &mut even,
        );
        let k_odd = k + I::LANES;
        multiply::<I, M, N, HALF>(
            x.map(|x| x.wrapping_add(k_odd)),
            rows.map(|row| row.wrapping_add(k_odd * element)),
            &mut odd,
        );
        k += 2 * I::LANES;
    }
    // Not a loop over the two: indexed by one that is not unrolled, they would be kept in memory all along.
    if k < n {
        tail::<I, M, N, HALF>(x, rows, k..n.min(k + I::LANES), &mut even);
    }
    if k + I::LANES < n {
        tail::<I, M, N, HALF>(x, rows, k + I::LANES..n, &mut odd);
    }
    // A closure in a closure is not always inlined, and then lacks the tier's instructions.
    let mut dots = [[0.0; N]; M];
    for (m, dots) in dots.iter_mut().enumerate() {
        for (dot, (even, odd)) in dots.iter_mut().zip(even.iter().zip(&odd)) {
            *dot = I::sum(I::add(even[m], odd[m]));
        }
    }
    dots
}

/// A vector of M rows of x with one of N rows of A.
#[inline(always)]
unsafe fn multiply<I: Isa, const M: usize, const N: usize, const HALF: bool>(
    x: [*const f32; M],
    rows: [*const u8; N],
    sums: &mut [[I::V; M]; N],
) {
    let mut values = [I::splat(0.0); M];
    for (value, x) in values.iter_mut().zip(x) {
        *value = I::load(x);
    }
    for (sums, row) in sums.iter_mut().zip(rows) {
        let a = load_element::<I, HALF>(row, 0);
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = I::fma(value, a, *sum);
        }
    }
}

/// The same where fewer are left than a vector has.
#[inline(always)]
unsafe fn tail<I: Isa, const M: usize, const N: usize, const HALF: bool>(
    x: [*const f32; M],
    rows: [*const u8; N],
    rest: Range<usize>,
    sums: &mut [[I::V; M]; N],
) {
    let element = if HALF { 2 } else { 4 };
    let mut values = [[0.0f32; MOST_LANES]; M];
    for (value, x) in values.iter_mut().zip(x) {
        std::ptr::copy_nonoverlapping(x.add(rest.start), value.as_mut_ptr(), rest.len());
    }
    let mut factors = [[0u32; MOST_LANES]; N];
    for (factors, row) in factors.iter_mut().zip(rows) {
        let from = row.add(rest.start * element);
        std::ptr::copy_nonoverlapping(from, factors.as_mut_ptr().cast(), rest.len() * element);
    }
    let (mut x, mut rows) = ([std::ptr::null(); M], [std::ptr::null(); N]);
    for (x, value) in x.iter_mut().zip(&values) {
        *x = value.as_ptr();
    }
    for (row, factors) in rows.iter_mut().zip(&factors) {
        *row = factors.as_ptr().cast();
    }
    multiply::<I, M, N, HALF>(x, rows, sums);
}

#[inline(always)]
unsafe fn load_element<I: Isa, const HALF: bool>(row: *const u8, k: usize) -> I::V {
    if HALF { I::load_f16(row.cast::<u16>().add(k)) } else { I::load(row.cast::<f32>().add(k)) }
}
