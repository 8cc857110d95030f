//! AVX-512 with VNNI: vectors of sixteen, 32 registers, and `vpdpbusd` for the integer products.
//!
//! Products of bf16 weights are those of f32: `vdpbf16ps` would round the activations to 8 bits of mantissa, which
//! `act=f32` rules out, and activations split into the three parts that are exact would take three of its products
//! where two of f32 do.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition of every method: the machine has the tier")]

use std::arch::x86_64::*;

use interleaf_contract::QUANT_BLOCK;

use crate::isa::{AHEAD, Interleave, Isa, Kernel, QuantisedPanel, QuantisedTile, each_of};

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

/// The steps of codes of 4 bits in the lowest of each lane. A permutation looks at four bits: what stands above a code need
/// not be cleared.
#[inline(always)]
unsafe fn step_of_4(codes: __m512i) -> __m512 {
    let values = _mm512_setr_ps(
        -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0,
    );
    _mm512_permutexvar_ps(codes, values)
}

/// The same of 2 bits: of a code and the next.
#[inline(always)]
unsafe fn step_of_2(codes: __m512i) -> __m512 {
    let values = _mm512_broadcast_f32x4(_mm_setr_ps(-1.5, -0.5, 0.5, 1.5));
    _mm512_permutexvar_ps(codes, values)
}

// SAFETY: methods use what `missing` asks for, and touch LANES elements.
unsafe impl Isa for Avx512 {
    const LANES: usize = LANES;
    const INTERLEAVE: Interleave = Interleave { lanes: LANES, step: 4, signed: false };
    // 16 sums, 8 registers of codes and a few more fill the 32.
    const INTEGER_ROWS: usize = 16;
    // 8 rows of three panels are 24 sums.
    const FLOAT_ROWS: usize = 8;
    const MANY_REGISTERS: bool = true;
    const TWO_CHAINS: bool = true;
    type V = __m512;
    type Words = __m512i;
    type Sixteen = [__m512; 1];

    #[inline(always)]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        enter(kernel)
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }

    #[inline(always)]
    unsafe fn prefetch_far(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T1>(p.cast());
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
    unsafe fn steps_8(p: *const u8) -> Self::Sixteen {
        let signed = _mm_xor_si128(_mm_loadu_si128(p.cast()), _mm_set1_epi8(-128));
        [_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(signed))]
    }

    #[inline(always)]
    unsafe fn steps_4(p: *const u8) -> Self::Sixteen {
        let to_bottom = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
        let eights = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
        let codes = _mm512_castsi128_si512(_mm_loadl_epi64(p.cast()));
        let codes = _mm512_srlv_epi32(_mm512_permutexvar_epi32(eights, codes), to_bottom);
        [step_of_4(codes)]
    }

    #[inline(always)]
    unsafe fn steps_2(p: *const u8) -> Self::Sixteen {
        let to_bottom = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let codes = _mm512_set1_epi32(p.cast::<i32>().read_unaligned());
        [step_of_2(_mm512_srlv_epi32(codes, to_bottom))]
    }

    #[inline(always)]
    unsafe fn words(p: *const u32) -> Self::Words {
        _mm512_loadu_si512(p.cast())
    }

    #[inline(always)]
    unsafe fn steps_of_words<const BITS: usize>(words: Self::Words, nth: usize) -> Self::V {
        let to_bottom = _mm512_set1_epi32((BITS * nth) as i32);
        match BITS {
            2 => step_of_2(_mm512_srlv_epi32(words, to_bottom)),
            4 => step_of_4(_mm512_srlv_epi32(words, to_bottom)),
            _ => {
                // A code in the lowest bits of 2^23's mantissa: one operation puts it there and clears what stands above.
                let magic = 8_388_608.0_f32;
                let (low, exponent) = (_mm512_set1_epi32(0xFF), _mm512_castps_si512(_mm512_set1_ps(magic)));
                let number =
                    _mm512_ternarylogic_epi32::<0xEA>(_mm512_srlv_epi32(words, to_bottom), low, exponent);
                _mm512_sub_ps(_mm512_castsi512_ps(number), _mm512_set1_ps(magic + 128.0))
            }
        }
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
    unsafe fn unzip(a: Self::V, b: Self::V) -> [Self::V; 2] {
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        [_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b)]
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        let rows = each_of!(16, _mm512_setzero_ps(), |i| _mm512_loadu_ps(from.add(i * from_stride)));
        // Pairs of rows, then fours, within the quarters of a register.
        let pairs = each_of!(16, _mm512_setzero_pd(), |i| {
            let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
            _mm512_castps_pd(if i % 2 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) })
        });
        let fours = each_of!(16, _mm512_setzero_ps(), |i| {
            let (first, column) = (i / 4 * 4, i % 4);
            let (a, b) = (pairs[first + column / 2], pairs[first + 2 + column / 2]);
            _mm512_castpd_ps(if column % 2 == 0 {
                _mm512_unpacklo_pd(a, b)
            } else {
                _mm512_unpackhi_pd(a, b)
            })
        });
        // Then the quarters themselves: column 4q + c is quarter q of what the four fours have at c.
        for column in 0..4 {
            let [a, b, c, d] = [fours[column], fours[4 + column], fours[8 + column], fours[12 + column]];
            let (ab_even, ab_odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xDD>(a, b));
            let (cd_even, cd_odd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xDD>(c, d));
            let quarters = [
                _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even),
                _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd),
                _mm512_shuffle_f32x4::<0xDD>(ab_even, cd_even),
                _mm512_shuffle_f32x4::<0xDD>(ab_odd, cd_odd),
            ];
            for (quarter, values) in quarters.into_iter().enumerate() {
                _mm512_storeu_ps(to.add((4 * quarter + column) * to_stride), values);
            }
        }
    }

    #[inline(always)]
    unsafe fn q4_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [Self::V; M]) {
        let nibble = _mm512_set1_epi8(0x0F);
        for block in 0..w.blocks {
            let codes = w.codes.add(block * LANES * QUANT_BLOCK / 2);
            for line in 0..4 {
                Self::prefetch(codes.wrapping_add(AHEAD + line * 64));
            }
            let mut sums = [_mm512_setzero_si512(); M];
            for i in 0..4 {
                let packed = _mm512_loadu_si512(codes.add(i * 64).cast());
                product::<M>(_mm512_and_si512(packed, nibble), x, block, i, &mut sums);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), nibble);
                product::<M>(high, x, block, i + 4, &mut sums);
            }
            let weight_scales = Self::load_f16(w.scales.add(block * LANES));
            for (row, sum) in sums.into_iter().enumerate() {
                // Codes are stored as 0 ..= 15 and mean −8 ..= 7: eight times the row's codes too much.
                let excess = _mm512_set1_epi32(*x.sums8.add(block * M + row));
                scale::<M>(_mm512_sub_epi32(sum, excess), weight_scales, x, block, row, acc);
            }
        }
    }

    #[inline(always)]
    unsafe fn q8_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [Self::V; M]) {
        for block in 0..w.blocks {
            let codes = w.codes.add(block * LANES * QUANT_BLOCK);
            for line in 0..8 {
                Self::prefetch(codes.wrapping_add(AHEAD + line * 64));
            }
            let mut sums = [_mm512_setzero_si512(); M];
            for i in 0..8 {
                product::<M>(_mm512_loadu_si512(codes.add(i * 64).cast()), x, block, i, &mut sums);
            }
            let weight_scales = Self::load_f16(w.scales.add(block * LANES));
            for (row, sum) in sums.into_iter().enumerate() {
                // Codes are stored with an offset of 128.
                let excess = _mm512_slli_epi32::<4>(_mm512_set1_epi32(*x.sums8.add(block * M + row)));
                scale::<M>(_mm512_sub_epi32(sum, excess), weight_scales, x, block, row, acc);
            }
        }
    }
}

/// Four inputs of every row with one register of codes. Row after row, so that no product waits for the one
/// before it.
#[inline(always)]
unsafe fn product<const M: usize>(
    codes: __m512i,
    x: QuantisedTile,
    block: usize,
    group: usize,
    sums: &mut [__m512i; M],
) {
    let x = x.codes.add(block * M * QUANT_BLOCK + 4 * group);
    for (row, sum) in sums.iter_mut().enumerate() {
        let four = x.add(row * QUANT_BLOCK).cast::<i32>().read_unaligned();
        *sum = _mm512_dpbusd_epi32(*sum, codes, _mm512_set1_epi32(four));
    }
}

/// A block's exact sum times both scales, added to its row.
#[inline(always)]
unsafe fn scale<const M: usize>(
    sum: __m512i,
    weight_scales: __m512,
    x: QuantisedTile,
    block: usize,
    row: usize,
    acc: &mut [__m512; M],
) {
    let scale = _mm512_mul_ps(_mm512_set1_ps(*x.scales.add(block * M + row)), weight_scales);
    acc[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, acc[row]);
}
