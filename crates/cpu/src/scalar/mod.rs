//! The tier without instructions of its own: arrays that any compiler turns into what its baseline has.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition of every method: the machine has the tier")]

use half::bf16;
use interleaf_contract::QUANT_BLOCK;

use crate::isa::{Interleave, Isa, Kernel, QuantisedPanel, QuantisedTile};
use crate::math::f16_to_f32;

/// Two registers of SSE2.
const LANES: usize = 8;

/// The scalar tier.
#[derive(Debug, Clone, Copy)]
pub struct Scalar;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    // A plain loop: the compiler does not inline `array::from_fn` everywhere.
    let mut out = [0.0; LANES];
    for (i, out) in out.iter_mut().enumerate() {
        *out = f(i);
    }
    out
}

// SAFETY: no instruction beyond the target's baseline is used.
unsafe impl Isa for Scalar {
    const LANES: usize = LANES;
    const INTERLEAVE: Interleave = Interleave { lanes: LANES, step: 4, signed: true };
    const INTEGER_ROWS: usize = 4;
    const FLOAT_ROWS: usize = 4;
    type V = [f32; LANES];
    type Words = [u32; LANES];
    type Sixteen = [[f32; LANES]; 2];

    #[inline(always)]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Self>()
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        p.cast::<Self::V>().read_unaligned()
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        p.cast::<Self::V>().write_unaligned(v)
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::V {
        let bits = p.cast::<[u16; LANES]>().read_unaligned();
        each(|i| f16_to_f32(bits[i]))
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::V {
        let bits = p.cast::<[u16; LANES]>().read_unaligned();
        each(|i| bf16::from_bits(bits[i]).to_f32())
    }

    #[inline(always)]
    unsafe fn steps_8(p: *const u8) -> Self::Sixteen {
        let codes = p.cast::<[u8; 16]>().read_unaligned();
        [each(|i| f32::from(codes[i]) - 128.0), each(|i| f32::from(codes[LANES + i]) - 128.0)]
    }

    #[inline(always)]
    unsafe fn steps_4(p: *const u8) -> Self::Sixteen {
        let codes = p.cast::<u64>().read_unaligned();
        let code = |i: usize| (codes >> (4 * i) & 15) as f32 - 8.0;
        [each(code), each(|i| code(LANES + i))]
    }

    #[inline(always)]
    unsafe fn steps_2(p: *const u8) -> Self::Sixteen {
        let codes = p.cast::<u32>().read_unaligned();
        let code = |i: usize| (codes >> (2 * i) & 3) as f32 - 1.5;
        [each(code), each(|i| code(LANES + i))]
    }

    #[inline(always)]
    unsafe fn words(p: *const u32) -> Self::Words {
        p.cast::<[u32; LANES]>().read_unaligned()
    }

    #[inline(always)]
    unsafe fn steps_of_words<const BITS: usize>(words: Self::Words, nth: usize) -> Self::V {
        let lowest = if BITS == 2 { -1.5 } else { -((1 << (BITS - 1)) as f32) };
        each(|i| (words[i] >> (BITS * nth) & ((1 << BITS) - 1)) as f32 + lowest)
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] - b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] / b[i])
    }

    /// Two roundings: without the instruction a fused product is a slow library call.
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        each(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        each(|i| a[i].round_ties_even())
    }

    #[inline(always)]
    unsafe fn exp2i(n: Self::V) -> Self::V {
        each(|i| f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }

    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
    }

    #[inline(always)]
    unsafe fn unzip(a: Self::V, b: Self::V) -> [Self::V; 2] {
        let lane = |i: usize| if i < LANES { a[i] } else { b[i - LANES] };
        [std::array::from_fn(|i| lane(2 * i)), std::array::from_fn(|i| lane(2 * i + 1))]
    }

    #[inline(always)]
    unsafe fn q4_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [Self::V; M]) {
        const BYTES: usize = LANES * QUANT_BLOCK / 2;
        for block in 0..w.blocks {
            let packed = w.codes.add(block * BYTES).cast::<[u8; BYTES]>().read_unaligned();
            let mut codes = [0i8; LANES * QUANT_BLOCK];
            let (low, high) = codes.split_at_mut(BYTES);
            for ((low, high), byte) in low.iter_mut().zip(high).zip(packed) {
                *low = ((byte << 4) as i8) >> 4;
                *high = (byte as i8) >> 4;
            }
            block_product(&codes, w, x, block, acc)
        }
    }

    #[inline(always)]
    unsafe fn q8_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [Self::V; M]) {
        const BYTES: usize = LANES * QUANT_BLOCK;
        for block in 0..w.blocks {
            let codes = w.codes.add(block * BYTES).cast::<[i8; BYTES]>().read_unaligned();
            block_product(&codes, w, x, block, acc);
        }
    }
}

/// One block: `codes` are `[group of 4 inputs][output][4]`.
///
/// # Safety
/// The panel and the tile reach to this block.
#[inline(always)]
unsafe fn block_product<const M: usize>(
    codes: &[i8; LANES * QUANT_BLOCK],
    w: QuantisedPanel,
    x: QuantisedTile,
    block: usize,
    acc: &mut [[f32; LANES]; M],
) {
    let weight_scales = Scalar::load_f16(w.scales.add(block * LANES));
    for (row, acc) in acc.iter_mut().enumerate() {
        let at = block * M + row;
        let row_codes = x.codes.add(at * QUANT_BLOCK).cast::<[i8; QUANT_BLOCK]>().read_unaligned();
        let scale = *x.scales.add(at);
        let mut sums = [0i32; LANES];
        for (group, x) in codes.chunks_exact(4 * LANES).zip(row_codes.chunks_exact(4)) {
            for (sum, w) in sums.iter_mut().zip(group.chunks_exact(4)) {
                *sum += w.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum::<i32>();
            }
        }
        for lane in 0..LANES {
            acc[lane] += sums[lane] as f32 * (scale * weight_scales[lane]);
        }
    }
}
