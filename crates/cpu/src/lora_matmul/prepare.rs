//! x in the forms that the products read: by tiles of rows, so that what a tile needs next stands next.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use half::f16;
use interleaf_contract::QUANT_BLOCK;

use super::LoraMatmul;
use super::tiles::tile_of;
use crate::isa::{Isa, code_place};

/// Inputs of one row that are packed at a time.
pub const PIECE: usize = 64;

/// Quantises blocks of rows: block b of row r is `r · blocks + b`.
///
/// # Safety
/// The machine has the tier; workers have disjoint ranges.
#[inline(always)]
pub unsafe fn quantise<I: Isa>(layer: &LoraMatmul<'_>, range: Range<usize>) {
    let blocks = layer.cols / QUANT_BLOCK;
    let x = layer.x.all();
    for index in range {
        let (row, block) = (index / blocks, index % blocks);
        let tile = tile_of(row, layer.rows, I::INTEGER_ROWS);
        let (first, row) = (tile.first * blocks + block * tile.rows, row - tile.first);
        let at = first + row;
        let x = &x[index * QUANT_BLOCK..(index + 1) * QUANT_BLOCK];
        let (scale, sum) = if I::ROW_PAIRS {
            let mut codes = [0; QUANT_BLOCK];
            let quantised = quantise_block(x, &mut codes);
            let step = I::INTERLEAVE.step;
            for (group, codes) in codes.chunks_exact(step).enumerate() {
                let place = first * QUANT_BLOCK + code_place::<I>(tile.rows, row, group * step);
                layer.scratch.codes.part_mut(place..place + step).copy_from_slice(codes);
            }
            quantised
        } else {
            quantise_block(x, layer.scratch.codes.part_mut(at * QUANT_BLOCK..(at + 1) * QUANT_BLOCK))
        };
        layer.scratch.scales.part_mut(at..at + 1)[0] = scale;
        layer.scratch.sums.part_mut(at..at + 1)[0] = sum;
    }
}

/// One block of 32 as `kernels-ref` quantises it, bit for bit. Returns the scale as it is after its
/// rounding to f16, and eight times the sum of the codes.
#[inline(always)]
fn quantise_block(x: &[f32], codes: &mut [i8]) -> (f32, i32) {
    let mut values = [0.0f32; QUANT_BLOCK];
    values.copy_from_slice(x);
    // As integers magnitudes have the same order, NaN is above them all, and the largest is found in vectors.
    let largest = values.iter().map(|v| v.to_bits() & 0x7FFF_FFFF).fold(0, u32::max);
    let d = f32::from_bits(largest) / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    // A NaN stays: a block that has one must not pass for zeros.
    let scale = f16::from_f32(d).to_f32();
    if !(d.is_finite() && inverse.is_finite()) {
        // As the reference's conversion to i8, which saturates.
        let round = |v: f32| i32::from((v * inverse).round() as i8);
        return (scale, 8 * codes_of(&values, codes, round));
    }
    let round = |v: f32| {
        let scaled = v * inverse;
        // SAFETY: no magnitude is above that of the largest, of which 127 and a rounding error come.
        unsafe { (scaled + almost_half(scaled)).to_int_unchecked::<i32>() }
    };
    (scale, 8 * codes_of(&values, codes, round))
}

/// The largest f32 below a half, with the sign of `x`: added before cutting off, it rounds halves away from zero and
/// nothing else up.
#[inline(always)]
fn almost_half(x: f32) -> f32 {
    0.499_999_97_f32.copysign(x)
}

/// Writes the codes of some values; returns their sum.
#[inline(always)]
fn codes_of(values: &[f32; QUANT_BLOCK], codes: &mut [i8], round: impl Fn(f32) -> i32) -> i32 {
    let mut sum = 0;
    for (code, v) in codes.iter_mut().zip(values) {
        let q = round(*v);
        *code = q as i8;
        sum += q;
    }
    sum
}

/// Packs pieces of rows: inputs `[k][row of the tile]`.
///
/// # Safety
/// The machine has the tier; workers have disjoint ranges.
#[inline(always)]
pub unsafe fn pack<I: Isa>(layer: &LoraMatmul<'_>, range: Range<usize>) {
    let x = layer.x.all();
    let total = layer.rows * layer.cols;
    for piece in range {
        let mut at = (piece * PIECE).min(total);
        let end = (at + PIECE).min(total);
        while at < end {
            let (row, first) = (at / layer.cols, at % layer.cols);
            let n = (end - at).min(layer.cols - first);
            let tile = tile_of(row, layer.rows, I::FLOAT_ROWS);
            let place = tile.first * layer.cols + first * tile.rows + row - tile.first;
            for (k, &value) in x[at..at + n].iter().enumerate() {
                let place = place + k * tile.rows;
                layer.scratch.packed.part_mut(place..place + 1)[0] = value;
            }
            at += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_away_from_zero_and_nothing_else_up() {
        for bits in (0..=0x4300_0000u32).step_by(977).chain([0x3EFF_FFFF, 0x3F00_0000, 0x4220_0000]) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                if x.abs() <= 127.0 {
                    let found = (x + 0.499_999_97_f32.copysign(x)) as i32;
                    assert_eq!(found, x.round() as i32, "{x}");
                }
            }
        }
    }

    #[test]
    fn blocks_out_of_the_ordinary_are_the_references() {
        for value in [0.0, 1e-40, -1e-38, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NEG_INFINITY] {
            for other in [0.0, value, -value, 1.0] {
                let mut x = [other; QUANT_BLOCK];
                x[3] = value;
                let mut codes = [0; QUANT_BLOCK];
                let (scale, sum) = quantise_block(&x, &mut codes);
                let expected = interleaf_kernels_ref::numerics::quantise_q8_0(&x)[0];
                assert_eq!(codes, expected.qs, "{value} among {other}");
                assert_eq!(sum, 8 * codes.iter().map(|&q| i32::from(q)).sum::<i32>());
                let exact = f16::from_bits(expected.d).to_f32();
                assert!(scale.to_bits() == exact.to_bits() || (scale.is_nan() && exact.is_nan()));
            }
        }
    }

    #[test]
    fn a_block_with_a_nan_has_no_scale() {
        let mut x = [1.0; QUANT_BLOCK];
        x[7] = f32::NAN;
        assert!(quantise_block(&x, &mut [0; QUANT_BLOCK]).0.is_nan());
    }
}
