//! NEON with the matrix products of ARMv8.6: `smmla`, two outputs by two rows by eight inputs at a time. A row alone
//! would fill half of each product, and goes through `sdot` instead, which cores do more of in a cycle.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition of every method: the machine has the tier")]

use std::arch::aarch64::*;

use interleaf_contract::QUANT_BLOCK;

use crate::isa::{AHEAD, Interleave, Isa, Kernel, QuantisedPanel, QuantisedTile};
use crate::neon::{LANES, V, neon_vectors, nibbles, scaled, scaled_nibbles};

/// The tier of NEON with `i8mm`.
#[derive(Debug, Clone, Copy)]
pub struct NeonI8mm;

impl NeonI8mm {
    /// What of the tier's instructions the machine lacks.
    pub fn missing() -> Vec<&'static str> {
        let mut missing = crate::neon_dotprod::NeonDotprod::missing();
        if !std::arch::is_aarch64_feature_detected!("i8mm") {
            missing.push("i8mm");
        }
        missing
    }
}

#[target_feature(enable = "neon,dotprod,i8mm")]
unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<NeonI8mm>()
}

/// An instruction that adds products of sixteen pairs of codes to four sums. Its intrinsic is not stable yet.
macro_rules! product {
    ($(#[$what:meta])* $name:ident, $extension:literal) => {
        $(#[$what])*
        #[inline(always)]
        unsafe fn $name(mut acc: int32x4_t, codes: int8x16_t, x: int8x16_t) -> int32x4_t {
            std::arch::asm!(
                concat!(".arch_extension ", $extension),
                concat!(stringify!($name), " {acc:v}.4s, {codes:v}.16b, {x:v}.16b"),
                acc = inout(vreg) acc,
                codes = in(vreg) codes,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
            acc
        }
    };
}

product!(
    /// `acc[2·output + row] += Σ codes[output][0 ..= 7] · x[row][0 ..= 7]`.
    smmla,
    "i8mm"
);
product!(
    /// `acc[2·output + half] += Σ codes[output][4·half ..= 4·half + 3] · x[4·half ..= 4·half + 3]`, where x stands twice.
    sdot,
    "dotprod"
);

/// A block's products with one row.
#[inline(always)]
unsafe fn alone(codes: [[int8x16_t; 2]; 4], row: *const i8) -> int32x4_t {
    let mut sums = [vdupq_n_s32(0); 2];
    for (group, codes) in codes.into_iter().enumerate() {
        let x = vreinterpretq_s8_s64(vld1q_dup_s64(row.add(8 * group).cast()));
        sums = [sdot(sums[0], codes[0], x), sdot(sums[1], codes[1], x)];
    }
    vpaddq_s32(sums[0], sums[1])
}

/// A block's products: for each pair of rows the sums of outputs 0 and 1, and of 2 and 3. NIBBLES says that the codes
/// are [`nibbles`].
#[inline(always)]
unsafe fn products<const M: usize, const NIBBLES: bool>(
    codes: [[int8x16_t; 2]; 4],
    w: QuantisedPanel,
    x: QuantisedTile,
    block: usize,
    acc: &mut [V; M],
) {
    let weight_scales = NeonI8mm::load_f16(w.scales.add(block * LANES));
    let rows = x.codes.add(block * M * QUANT_BLOCK);
    let scaled = if NIBBLES { scaled_nibbles } else { scaled };
    if M == 1 {
        acc[0] = scaled(alone(codes, rows), weight_scales, *x.scales.add(block), acc[0]);
        return;
    }
    for first in (0..M).step_by(2) {
        let mut sums = [vdupq_n_s32(0); 2];
        for (group, codes) in codes.into_iter().enumerate() {
            let x = vld1q_s8(rows.add(first * QUANT_BLOCK + 16 * group));
            sums = [smmla(sums[0], codes[0], x), smmla(sums[1], codes[1], x)];
        }
        let scale = |row: usize| *x.scales.add(block * M + row);
        acc[first] = scaled(vuzp1q_s32(sums[0], sums[1]), weight_scales, scale(first), acc[first]);
        let second = vuzp2q_s32(sums[0], sums[1]);
        acc[first + 1] = scaled(second, weight_scales, scale(first + 1), acc[first + 1]);
    }
}

// SAFETY: methods use what `missing` asks for, and touch LANES elements.
unsafe impl Isa for NeonI8mm {
    const INTERLEAVE: Interleave = Interleave { lanes: LANES, step: 8, signed: true };
    const ROW_PAIRS: bool = true;
    // 8 registers of codes and 8 results of the 32 registers.
    const INTEGER_ROWS: usize = 8;

    neon_vectors!(enter);

    #[inline(always)]
    unsafe fn q4_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [V; M]) {
        for block in 0..w.blocks {
            let codes = w.codes.add(block * LANES * QUANT_BLOCK / 2).cast::<i8>();
            Self::prefetch(codes.wrapping_add(AHEAD).cast());
            // Low nibbles are the first sixteen inputs, high ones the others.
            let [a, b, c, d] = std::array::from_fn(|i| nibbles(vld1q_s8(codes.add(16 * i))));
            let groups = [[a.0, b.0], [c.0, d.0], [a.1, b.1], [c.1, d.1]];
            products::<M, true>(groups, w, x, block, acc);
        }
    }

    #[inline(always)]
    unsafe fn q8_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [V; M]) {
        for block in 0..w.blocks {
            let codes = w.codes.add(block * LANES * QUANT_BLOCK).cast::<i8>();
            Self::prefetch(codes.wrapping_add(AHEAD).cast());
            Self::prefetch(codes.wrapping_add(AHEAD + 64).cast());
            let groups =
                std::array::from_fn(|i| [vld1q_s8(codes.add(32 * i)), vld1q_s8(codes.add(32 * i + 16))]);
            products::<M, false>(groups, w, x, block, acc);
        }
    }
}
