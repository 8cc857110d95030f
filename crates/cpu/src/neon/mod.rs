//! NEON, which every 64-bit ARM core has: vectors of four, 32 registers. Integer products are widening multiplies.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition of every method: the machine has the tier")]

mod vectors;

use std::arch::aarch64::*;

use interleaf_contract::QUANT_BLOCK;

use crate::isa::{AHEAD, Interleave, Isa, Kernel, QuantisedPanel, QuantisedTile};
pub(crate) use vectors::neon_vectors;
pub use vectors::{LANES, V, Words};

/// The NEON tier.
#[derive(Debug, Clone, Copy)]
pub struct Neon;

impl Neon {
    /// What of the tier's instructions the machine lacks.
    pub fn missing() -> Vec<&'static str> {
        if std::arch::is_aarch64_feature_detected!("neon") { Vec::new() } else { vec!["neon"] }
    }
}

#[target_feature(enable = "neon")]
unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Neon>()
}

// SAFETY: methods use what `missing` asks for, and touch LANES elements.
unsafe impl Isa for Neon {
    const INTERLEAVE: Interleave = Interleave { lanes: LANES, step: 4, signed: true };
    // Two sums of 16-bit products and one of results for each row, beside the codes.
    const INTEGER_ROWS: usize = 4;

    neon_vectors!(enter);

    #[inline(always)]
    unsafe fn q4_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [V; M]) {
        for block in 0..w.blocks {
            let codes = w.codes.add(block * LANES * QUANT_BLOCK / 2).cast::<i8>();
            Self::prefetch(codes.wrapping_add(AHEAD).cast());
            let weight_scales = Self::load_f16(w.scales.add(block * LANES));
            let packed: [int8x16_t; 4] = std::array::from_fn(|i| vld1q_s8(codes.add(16 * i)));
            for (row, acc) in acc.iter_mut().enumerate() {
                let at = block * M + row;
                let x32 = x.codes.add(at * QUANT_BLOCK).cast::<i32>();
                let four = |i: usize| vreinterpretq_s8_s32(vdupq_n_s32(x32.add(i).read_unaligned()));
                // Eight products of at most 8 · 127 fit 16 bits.
                let mut low = vdupq_n_s16(0);
                let mut high = vdupq_n_s16(0);
                for (i, packed) in packed.into_iter().enumerate() {
                    for (codes, x) in [
                        (vshrq_n_s8::<4>(vshlq_n_s8::<4>(packed)), four(i)),
                        (vshrq_n_s8::<4>(packed), four(i + 4)),
                    ] {
                        low = vmlal_s8(low, vget_low_s8(codes), vget_low_s8(x));
                        high = vmlal_high_s8(high, codes, x);
                    }
                }
                let sum = vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
                *acc = scaled(sum, weight_scales, *x.scales.add(at), *acc);
            }
        }
    }

    #[inline(always)]
    unsafe fn q8_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [V; M]) {
        for block in 0..w.blocks {
            let codes = w.codes.add(block * LANES * QUANT_BLOCK).cast::<i8>();
            Self::prefetch(codes.wrapping_add(AHEAD).cast());
            Self::prefetch(codes.wrapping_add(AHEAD + 64).cast());
            let weight_scales = Self::load_f16(w.scales.add(block * LANES));
            for (row, acc) in acc.iter_mut().enumerate() {
                let at = block * M + row;
                let x32 = x.codes.add(at * QUANT_BLOCK).cast::<i32>();
                let four = |i: usize| vreinterpretq_s8_s32(vdupq_n_s32(x32.add(i).read_unaligned()));
                let (mut low, mut high) = (vdupq_n_s32(0), vdupq_n_s32(0));
                for i in (0..8).step_by(2) {
                    // Two products of at most 128 · 127 still fit 16 bits.
                    let (a, b) = (vld1q_s8(codes.add(16 * i)), vld1q_s8(codes.add(16 * i + 16)));
                    let (xa, xb) = (four(i), four(i + 1));
                    let pair = vmull_s8(vget_low_s8(a), vget_low_s8(xa));
                    low = vpadalq_s16(low, vmlal_s8(pair, vget_low_s8(b), vget_low_s8(xb)));
                    let pair = vmull_high_s8(a, xa);
                    high = vpadalq_s16(high, vmlal_high_s8(pair, b, xb));
                }
                *acc = scaled(vpaddq_s32(low, high), weight_scales, *x.scales.add(at), *acc);
            }
        }
    }
}

/// A block's exact sum times both scales, added to its row.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
pub unsafe fn scaled(sum: int32x4_t, weight_scales: V, row_scale: f32, acc: V) -> V {
    vfmaq_f32(acc, vcvtq_f32_s32(sum), vmulq_n_f32(weight_scales, row_scale))
}

/// The same for a sum of [`nibbles`], sixteen times too large, which the conversion makes good at no cost.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
pub unsafe fn scaled_nibbles(sum: int32x4_t, weight_scales: V, row_scale: f32, acc: V) -> V {
    vfmaq_f32(acc, vcvtq_n_f32_s32::<4>(sum), vmulq_n_f32(weight_scales, row_scale))
}

/// Sixteen integers as f32.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
pub unsafe fn integers(bytes: int8x16_t) -> [V; 4] {
    let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
    [
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
        vcvtq_f32_s32(vmovl_high_s16(low)),
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
        vcvtq_f32_s32(vmovl_high_s16(high)),
    ]
}

/// Low and high 4-bit codes as bytes, sixteen times too large: one instruction each, and the masking one runs on more
/// ports than a shift.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
pub unsafe fn nibbles(packed: int8x16_t) -> (int8x16_t, int8x16_t) {
    (vshlq_n_s8::<4>(packed), vandq_s8(packed, vdupq_n_s8(-16)))
}
