//! AVX-512 with VNNI: vectors of sixteen, 32 registers, and `vpdpbusd` for the integer products.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition of every method: the machine has the tier")]

use std::arch::x86_64::*;

use interleaf_contract::QUANT_BLOCK;

use crate::isa::{Interleave, Isa, Kernel, QuantisedPanel, QuantisedTile};

const LANES: usize = 16;

/// The AVX-512 tier.
#[derive(Debug, Clone, Copy)]
pub struct Avx512;

impl Avx512 {
    /// What of the tier's instructions the machine lacks.
    pub fn missing() -> Vec<&'static str> {
        let has = [
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bw", is_x86_feature_detected!("avx512bw")),
            ("avx512vl", is_x86_feature_detected!("avx512vl")),
            ("avx512dq", is_x86_feature_detected!("avx512dq")),
            ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
            ("f16c", is_x86_feature_detected!("f16c")),
            ("fma", is_x86_feature_detected!("fma")),
        ];
        has.into_iter().filter(|(_, here)| !here).map(|(name, _)| name).collect()
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")]
unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

// SAFETY: methods use what `missing` asks for, and touch LANES elements.
unsafe impl Isa for Avx512 {
    const LANES: usize = LANES;
    const INTERLEAVE: Interleave = Interleave { lanes: LANES, step: 4, signed: false };
    // 16 sums, 8 registers of codes and a few more fill the 32.
    const INTEGER_ROWS: usize = 16;
    // 8 rows of three panels are 24 sums.
    const FLOAT_ROWS: usize = 8;
    type V = __m512;

    #[inline(always)]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        enter(kernel)
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        _mm512_set1_ps(x)
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        _mm512_loadu_ps(p)
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        _mm512_storeu_ps(p, v)
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::V {
        _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::V {
        let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        _mm512_add_ps(a, b)
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        _mm512_sub_ps(a, b)
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        _mm512_mul_ps(a, b)
    }

    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        _mm512_div_ps(a, b)
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        _mm512_fmadd_ps(a, b, c)
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        _mm512_max_ps(a, b)
    }

    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        _mm512_min_ps(a, b)
    }

    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
    }

    #[inline(always)]
    unsafe fn exp2i(n: Self::V) -> Self::V {
        let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
    }

    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        _mm512_reduce_add_ps(v)
    }

    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        _mm512_reduce_max_ps(v)
    }

    #[inline(always)]
    unsafe fn q4_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [Self::V; M]) {
        let nibble = _mm512_set1_epi8(0x0F);
        for block in 0..w.blocks {
            let codes = w.codes.add(block * LANES * QUANT_BLOCK / 2);
            let packed: [__m512i; 4] = std::array::from_fn(|i| _mm512_loadu_si512(codes.add(i * 64).cast()));
            let groups: [__m512i; 8] = std::array::from_fn(|i| {
                let high = if i < 4 { packed[i] } else { _mm512_srli_epi16::<4>(packed[i - 4]) };
                _mm512_and_si512(high, nibble)
            });
            // Codes are stored as 0 ..= 15 and mean −8 ..= 7.
            block_product::<M, 8>(groups, w, x, block, acc);
        }
    }

    #[inline(always)]
    unsafe fn q8_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [Self::V; M]) {
        for block in 0..w.blocks {
            let codes = w.codes.add(block * LANES * QUANT_BLOCK);
            let groups = std::array::from_fn(|i| _mm512_loadu_si512(codes.add(i * 64).cast()));
            block_product::<M, 128>(groups, w, x, block, acc);
        }
    }
}

/// One block of 32 inputs: eight products of four for every row, from minus the offset's share on.
///
/// # Safety
/// The machine has the tier's instructions; the panel and the tile reach to this block.
#[inline(always)]
unsafe fn block_product<const M: usize, const OFFSET: i32>(
    groups: [__m512i; 8],
    w: QuantisedPanel,
    x: QuantisedTile,
    block: usize,
    acc: &mut [__m512; M],
) {
    let weight_scales = Avx512::load_f16(w.scales.add(block * LANES));
    for (row, acc) in acc.iter_mut().enumerate() {
        let at = block * M + row;
        let codes = x.codes.add(at * QUANT_BLOCK).cast::<i32>();
        let four = |i: usize| _mm512_set1_epi32(codes.add(i).read_unaligned());
        // Two chains: one alone would wait for each product to end.
        let mut even = _mm512_set1_epi32(-OFFSET * *x.sums.add(at));
        let mut odd = _mm512_setzero_si512();
        for i in 0..4 {
            even = _mm512_dpbusd_epi32(even, groups[2 * i], four(2 * i));
            odd = _mm512_dpbusd_epi32(odd, groups[2 * i + 1], four(2 * i + 1));
        }
        let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
        let scale = _mm512_mul_ps(_mm512_set1_ps(*x.scales.add(at)), weight_scales);
        *acc = _mm512_fmadd_ps(sum, scale, *acc);
    }
}
