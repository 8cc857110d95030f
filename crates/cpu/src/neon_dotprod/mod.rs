//! NEON with the dot product instructions of ARMv8.2: `sdot` by lane, four outputs by four inputs at a time.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition of every method: the machine has the tier")]

use std::arch::aarch64::*;

use interleaf_contract::QUANT_BLOCK;

use crate::isa::{AHEAD, Interleave, Isa, Kernel, QuantisedPanel, QuantisedTile};
use crate::neon::{LANES, V, neon_vectors, nibbles, scaled, scaled_nibbles};

/// The tier of NEON with `dotprod`.
#[derive(Debug, Clone, Copy)]
pub struct NeonDotprod;

impl NeonDotprod {
    /// What of the tier's instructions the machine lacks.
    pub fn missing() -> Vec<&'static str> {
        let here = std::arch::is_aarch64_feature_detected!("dotprod");
        if here { crate::neon::Neon::missing() } else { vec!["dotprod"] }
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<NeonDotprod>()
}

/// `acc[output] += Σ codes[output][0 ..= 3] · x[4·GROUP ..= 4·GROUP + 3]`. The intrinsic is not stable yet.
#[inline(always)]
unsafe fn sdot<const GROUP: usize>(mut acc: int32x4_t, codes: int8x16_t, x: int8x16_t) -> int32x4_t {
    std::arch::asm!(
        ".arch_extension dotprod",
        "sdot {acc:v}.4s, {codes:v}.16b, {x:v}.4b[{group}]",
        acc = inout(vreg) acc,
        codes = in(vreg) codes,
        x = in(vreg) x,
        group = const GROUP,
        options(pure, nomem, nostack, preserves_flags)
    );
    acc
}

/// Four inputs of every row with one register of codes.
#[inline(always)]
unsafe fn product<const M: usize, const GROUP: usize>(
    sums: &mut [int32x4_t; M],
    codes: int8x16_t,
    x: &[int8x16_t; M],
) {
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum = sdot::<GROUP>(*sum, codes, *x);
    }
}

// SAFETY: methods use what `missing` asks for, and touch LANES elements.
unsafe impl Isa for NeonDotprod {
    const INTERLEAVE: Interleave = Interleave { lanes: LANES, step: 4, signed: true };
    // 8 sums, 8 registers of x and 8 results of the 32 registers.
    const INTEGER_ROWS: usize = 8;

    neon_vectors!(enter);

    #[inline(always)]
    unsafe fn q4_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [V; M]) {
        for block in 0..w.blocks {
            let codes = w.codes.add(block * LANES * QUANT_BLOCK / 2).cast::<i8>();
            Self::prefetch(codes.wrapping_add(AHEAD).cast());
            let rows = x.codes.add(block * M * QUANT_BLOCK);
            let mut sums = [vdupq_n_s32(0); M];
            let packed: [int8x16_t; 4] = std::array::from_fn(|i| vld1q_s8(codes.add(16 * i)));
            let front: [int8x16_t; M] = std::array::from_fn(|i| vld1q_s8(rows.add(i * QUANT_BLOCK)));
            let codes = packed.map(|packed| nibbles(packed));
            product::<M, 0>(&mut sums, codes[0].0, &front);
            product::<M, 1>(&mut sums, codes[1].0, &front);
            product::<M, 2>(&mut sums, codes[2].0, &front);
            product::<M, 3>(&mut sums, codes[3].0, &front);
            let back: [int8x16_t; M] = std::array::from_fn(|i| vld1q_s8(rows.add(i * QUANT_BLOCK + 16)));
            product::<M, 0>(&mut sums, codes[0].1, &back);
            product::<M, 1>(&mut sums, codes[1].1, &back);
            product::<M, 2>(&mut sums, codes[2].1, &back);
            product::<M, 3>(&mut sums, codes[3].1, &back);
            let weight_scales = Self::load_f16(w.scales.add(block * LANES));
            for (row, (acc, sum)) in acc.iter_mut().zip(sums).enumerate() {
                *acc = scaled_nibbles(sum, weight_scales, *x.scales.add(block * M + row), *acc);
            }
        }
    }

    #[inline(always)]
    unsafe fn q8_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [V; M]) {
        for block in 0..w.blocks {
            let codes = w.codes.add(block * LANES * QUANT_BLOCK).cast::<i8>();
            Self::prefetch(codes.wrapping_add(AHEAD).cast());
            Self::prefetch(codes.wrapping_add(AHEAD + 64).cast());
            let rows = x.codes.add(block * M * QUANT_BLOCK);
            let mut sums = [vdupq_n_s32(0); M];
            for half in 0..2 {
                let codes = codes.add(64 * half);
                let x: [int8x16_t; M] =
                    std::array::from_fn(|i| vld1q_s8(rows.add(i * QUANT_BLOCK + 16 * half)));
                product::<M, 0>(&mut sums, vld1q_s8(codes), &x);
                product::<M, 1>(&mut sums, vld1q_s8(codes.add(16)), &x);
                product::<M, 2>(&mut sums, vld1q_s8(codes.add(32)), &x);
                product::<M, 3>(&mut sums, vld1q_s8(codes.add(48)), &x);
            }
            let weight_scales = Self::load_f16(w.scales.add(block * LANES));
            for (row, (acc, sum)) in acc.iter_mut().zip(sums).enumerate() {
                *acc = scaled(sum, weight_scales, *x.scales.add(block * M + row), *acc);
            }
        }
    }
}
