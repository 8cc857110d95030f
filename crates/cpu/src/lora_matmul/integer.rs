//! Products of quantised rows with quantised weights, as integers.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use interleaf_contract::{Dtype, QUANT_BLOCK};

use super::expand::{finish, prefetch};
use super::tiles::{Tile, tiles};
use super::{Ahead, Job, LoraMatmul, STEP};
use crate::isa::{Isa, QuantisedTile};

/// Panels that meet a tile of rows one after another, so that the rows stay in the first-level cache for all
/// of them and the weights in the second for all tiles: four panels of sixteen 2048-wide Q4_0 rows are 72 KiB.
const PANELS: usize = 4;

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
    let mut first = panels.start;
    while first < panels.end {
        let last = (first + PANELS).min(panels.end);
        for tile in tiles(layer.rows, I::INTEGER_ROWS) {
            for panel in first..last {
                match tile.rows {
                    16 => one::<I, 16>(layer, job, tile, panel, ahead),
                    8 => one::<I, 8>(layer, job, tile, panel, ahead),
                    4 => one::<I, 4>(layer, job, tile, panel, ahead),
                    2 => one::<I, 2>(layer, job, tile, panel, ahead),
                    _ => one::<I, 1>(layer, job, tile, panel, ahead),
                }
            }
        }
        first = last;
    }
}

#[inline(always)]
unsafe fn one<I: Isa, const M: usize>(
    layer: &LoraMatmul<'_>,
    job: &Job<'_>,
    tile: Tile,
    panel: usize,
    ahead: &mut Ahead<'_>,
) {
    // A tile larger than the tier's largest does not come; without this it would be compiled.
    if M > I::INTEGER_ROWS {
        return;
    }
    let at = tile.first * (layer.cols / QUANT_BLOCK);
    let mut x = QuantisedTile {
        codes: layer.scratch.codes.all().as_ptr().add(at * QUANT_BLOCK),
        scales: layer.scratch.scales.all().as_ptr().add(at),
        sums8: layer.scratch.sums.all().as_ptr().add(at),
    };
    let mut w = job.w.quantised_panel(panel);
    let mut acc = [I::splat(0.0); M];
    let blocks = w.blocks;
    let steps = blocks.div_ceil(STEP / QUANT_BLOCK);
    for step in 0..steps {
        w.blocks = (blocks - step * (STEP / QUANT_BLOCK)).min(STEP / QUANT_BLOCK);
        ahead.step::<I>();
        // Spread over the panel, what the rows add to the next one.
        prefetch::<I>(job, tile.first + step * M / steps..tile.first + (step + 1) * M / steps, panel + 1);
        if job.w.dtype() == Dtype::Q4_0 {
            I::q4_0::<M>(w, x, &mut acc);
            w.codes = w.codes.add(w.blocks * I::LANES * QUANT_BLOCK / 2);
        } else {
            I::q8_0::<M>(w, x, &mut acc);
            w.codes = w.codes.add(w.blocks * I::LANES * QUANT_BLOCK);
        }
        w.scales = w.scales.add(w.blocks * I::LANES);
        x.codes = x.codes.add(w.blocks * M * QUANT_BLOCK);
        x.scales = x.scales.add(w.blocks * M);
        x.sums8 = x.sums8.add(w.blocks * M);
    }
    finish::<I, M>(layer, job, tile.first, panel, acc);
}
