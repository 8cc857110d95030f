//! `z = x·Aᵀ`, once for all projections that share x; the rows of A are split between workers.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use interleaf_contract::{Dtype, Matrix};

use super::LoraMatmul;
use crate::isa::Isa;
use crate::math::{MOST_LANES, load_first};
use crate::region::Worker;

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
            for (i, &row) in site.rows.iter().enumerate() {
                let x = &x[row * layer.cols..(row + 1) * layer.cols];
                let z = layer.scratch.z.part_mut(site.z + i * rank + r..site.z + i * rank + r + n);
                match (site.a.dtype(), n) {
                    (Dtype::F16, 4) => z.copy_from_slice(&dots::<I, 4, true>(x, site.a, r)),
                    (Dtype::F16, _) => z.copy_from_slice(&dots::<I, 1, true>(x, site.a, r)),
                    (_, 4) => z.copy_from_slice(&dots::<I, 4, false>(x, site.a, r)),
                    (_, _) => z.copy_from_slice(&dots::<I, 1, false>(x, site.a, r)),
                }
            }
            r += n;
        }
    }
}

/// Dot products of x with N rows of A from `first` on, each in two interleaved sums.
#[inline(always)]
unsafe fn dots<I: Isa, const N: usize, const HALF: bool>(x: &[f32], a: &Matrix, first: usize) -> [f32; N] {
    let (n, bytes) = (x.len(), a.data().as_ptr());
    let element = if HALF { 2 } else { 4 };
    let rows: [*const u8; N] = std::array::from_fn(|i| bytes.add((first + i) * n * element));
    let mut sums = [[I::splat(0.0); 2]; N];
    let mut k = 0;
    while k + 2 * I::LANES <= n {
        for part in 0..2 {
            let at = k + part * I::LANES;
            let x = I::load(x.as_ptr().add(at));
            for (sums, row) in sums.iter_mut().zip(rows) {
                sums[part] = I::fma(x, load_element::<I, HALF>(row, at), sums[part]);
            }
        }
        k += 2 * I::LANES;
    }
    for part in 0..2 {
        if k < n {
            let lanes = I::LANES.min(n - k);
            let x = load_first::<I>(x.as_ptr().add(k), lanes);
            for (sums, row) in sums.iter_mut().zip(rows) {
                let mut tail = [0u32; MOST_LANES];
                std::ptr::copy_nonoverlapping(
                    row.add(k * element),
                    tail.as_mut_ptr().cast(),
                    lanes * element,
                );
                sums[part] = I::fma(x, load_element::<I, HALF>(tail.as_ptr().cast(), 0), sums[part]);
            }
            k += lanes;
        }
    }
    sums.map(|[a, b]| I::sum(I::add(a, b)))
}

#[inline(always)]
unsafe fn load_element<I: Isa, const HALF: bool>(row: *const u8, k: usize) -> I::V {
    if HALF { I::load_f16(row.cast::<u16>().add(k)) } else { I::load(row.cast::<f32>().add(k)) }
}
