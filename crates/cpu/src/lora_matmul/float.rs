//! Products with weights as numbers: f32, f16 and bf16 as they are stored, quantised ones decoded first.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use interleaf_contract::Dtype;

use super::expand::{finish, prefetch, store};
use super::tiles::{Tile, tiles};
use super::{Ahead, Job, LoraMatmul, STEP};
use crate::isa::{AHEAD, Isa};
use crate::lines::LINE;
use crate::math::load_first;

/// Inputs after which the next tile of rows has its turn: six panels of sixteen f16 outputs are then 384 KiB, which stay
/// in a second-level cache of 512 KiB. Sums are kept in y meanwhile, so the order is that of one chain.
const DEPTH: usize = 2048;

/// Panels that all tiles pass over before the next ones.
const PANELS: usize = 6;

/// How an element becomes an f32.
trait Element {
    const BYTES: usize;

    /// # Safety
    /// The machine has the tier; LANES elements are readable.
    unsafe fn load<I: Isa>(p: *const u8) -> I::V;
}

struct F32;
struct F16;
struct Bf16;

impl Element for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::V {
        I::load(p.cast())
    }
}

impl Element for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::V {
        I::load_f16(p.cast())
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::V {
        I::load_bf16(p.cast())
    }
}

/// Weights of consecutive panels, `[panel][input][lane]`.
#[derive(Clone, Copy)]
struct Weights {
    first: *const u8,
    /// The panel that `first` is of.
    panel: usize,
}

/// Multiplies some panels of a projection with all rows.
///
/// # Safety
/// The machine has the tier; x is prepared; workers have disjoint panels.
#[inline(always)]
pub unsafe fn products<I: Isa>(
    layer: &LoraMatmul<'_>,
    job: &Job<'_>,
    panels: Range<usize>,
    ahead: &mut Ahead<'_>,
) {
    if job.w.dtype().is_quantised() {
        let mut decoded = vec![0.0f32; layer.cols * I::LANES];
        for panel in panels {
            job.w.decode_panel(panel, &mut decoded);
            let weights = Weights { first: decoded.as_ptr().cast(), panel };
            group::<I, F32>(layer, job, weights, panel..panel + 1, ahead);
        }
        return;
    }
    let group_size = if layer.rows == 1 { panels.len().max(1) } else { PANELS };
    let mut first = panels.start;
    while first < panels.end {
        let group_panels = first..(first + group_size).min(panels.end);
        let weights = Weights { first: job.w.float_panel(first).as_ptr(), panel: first };
        match job.w.dtype() {
            Dtype::F32 => group::<I, F32>(layer, job, weights, group_panels, ahead),
            Dtype::F16 => group::<I, F16>(layer, job, weights, group_panels, ahead),
            _ => group::<I, Bf16>(layer, job, weights, group_panels, ahead),
        }
        first += group_size;
    }
}

/// All tiles over a few panels.
#[inline(always)]
unsafe fn group<I: Isa, E: Element>(
    layer: &LoraMatmul<'_>,
    job: &Job<'_>,
    weights: Weights,
    panels: Range<usize>,
    ahead: &mut Ahead<'_>,
) {
    let mut start = 0;
    loop {
        let depth = start..(start + DEPTH).min(layer.cols);
        for tile in tiles(layer.rows, I::FLOAT_ROWS) {
            let mut panel = panels.start;
            // How many panels at once does not change a sum; it fills the registers, and the time that a sum
            // waits for its last product.
            while panel < panels.end {
                let left = panels.end - panel;
                let part = Part { weights, tile, panel, depth: depth.clone() };
                panel += match tile.rows {
                    8 if left >= 3 => part.run::<I, E, 8, 3>(layer, job, ahead),
                    8 => part.run::<I, E, 8, 1>(layer, job, ahead),
                    4 if left >= 3 => part.run::<I, E, 4, 3>(layer, job, ahead),
                    4 => part.run::<I, E, 4, 1>(layer, job, ahead),
                    2 if left >= 4 => part.run::<I, E, 2, 4>(layer, job, ahead),
                    2 => part.run::<I, E, 2, 1>(layer, job, ahead),
                    _ if left >= 4 => part.run::<I, E, 1, 4>(layer, job, ahead),
                    _ => part.run::<I, E, 1, 1>(layer, job, ahead),
                };
            }
        }
        start = depth.end;
        if start >= layer.cols {
            return;
        }
    }
}

/// Adds the products of input k.
#[inline(always)]
unsafe fn multiply<I: Isa, E: Element, const M: usize, const P: usize>(
    w: [*const u8; P],
    x: *const f32,
    k: usize,
    acc: &mut [[I::V; P]; M],
) {
    // A closure would not always be inlined where it is called often, and then lacks the tier's instructions.
    let mut weights = [I::splat(0.0); P];
    for (weight, w) in weights.iter_mut().zip(w) {
        *weight = E::load::<I>(w.add(k * I::LANES * E::BYTES));
    }
    I::rank_1_update(x.add(k * M), weights, acc);
}

/// A tile of rows over some panels and inputs.
struct Part {
    weights: Weights,
    tile: Tile,
    panel: usize,
    depth: Range<usize>,
}

impl Part {
    /// Returns how many panels it took.
    #[inline(always)]
    unsafe fn run<I: Isa, E: Element, const M: usize, const P: usize>(
        self,
        layer: &LoraMatmul<'_>,
        job: &Job<'_>,
        ahead: &mut Ahead<'_>,
    ) -> usize {
        // A tile larger than the tier's largest does not come; without this it would be compiled.
        if M > I::FLOAT_ROWS {
            return P;
        }
        let (cols, outputs) = (layer.cols, job.w.rows());
        let x = if M == 1 {
            layer.x.all().as_ptr().add(self.tile.first * cols)
        } else {
            layer.scratch.packed.all().as_ptr().add(self.tile.first * cols)
        };
        let panel_bytes = cols * I::LANES * E::BYTES;
        let first = self.weights.first.add((self.panel - self.weights.panel) * panel_bytes);
        let w: [*const u8; P] = std::array::from_fn(|p| first.add(p * panel_bytes));

        let mut acc = [[I::splat(0.0); P]; M];
        if self.depth.start > 0 {
            for (m, acc) in acc.iter_mut().enumerate() {
                for (p, acc) in acc.iter_mut().enumerate() {
                    let output = (self.panel + p) * I::LANES;
                    let lanes = I::LANES.min(outputs - output);
                    let at = (self.tile.first + m) * outputs + output;
                    *acc = load_first::<I>(job.y.part(at..at + lanes).as_ptr(), lanes);
                }
            }
        }
        let input_bytes = I::LANES * E::BYTES;
        let inputs_per_line = (LINE / input_bytes).max(1);
        let last = self.depth.end == cols;
        let steps = self.depth.len().div_ceil(STEP / P);
        let mut k = self.depth.start;
        for step in 0..steps {
            ahead.step::<I>();
            if last && !job.terms.is_empty() {
                // Spread over the panels, what the rows add to the next ones.
                for item in step * M * P / steps..(step + 1) * M * P / steps {
                    let row = self.tile.first + item % M;
                    prefetch::<I>(job, row..row + 1, self.panel + P + item / M);
                }
            }
            let end = (k + STEP / P).min(self.depth.end);
            while k < end {
                for w in w {
                    I::prefetch(w.add(k * input_bytes).wrapping_add(AHEAD));
                }
                // Unrolled, one row takes its inputs a vector at a time; the sums of more would not stay in registers.
                if M == 1 && k + inputs_per_line <= end {
                    for i in 0..inputs_per_line {
                        multiply::<I, E, M, P>(w, x, k + i, &mut acc);
                    }
                    k += inputs_per_line;
                } else {
                    multiply::<I, E, M, P>(w, x, k, &mut acc);
                    k += 1;
                }
            }
        }
        for p in 0..P {
            let mut sums = [I::splat(0.0); M];
            for (sum, acc) in sums.iter_mut().zip(&acc) {
                *sum = acc[p];
            }
            if last {
                finish::<I, M>(layer, job, self.tile.first, self.panel + p, sums);
            } else {
                store::<I, M>(job, self.tile.first, self.panel + p, sums);
            }
        }
        P
    }
}
