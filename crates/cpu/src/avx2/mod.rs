//! AVX2 with FMA and F16C: vectors of eight, 16 registers. Integer products are `vpmaddubsw`, or `vpdpbusd`
//! where the machine has AVX-VNNI.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition of every method: the machine has the tier")]

use std::arch::x86_64::*;

use interleaf_contract::QUANT_BLOCK;

use crate::isa::{AHEAD, Interleave, Isa, Kernel, QuantisedPanel, QuantisedTile, each_of};

const LANES: usize = 8;

/// The AVX2 tier, with or without AVX-VNNI.
#[derive(Debug, Clone, Copy)]
pub struct Avx2<const VNNI: bool>;

impl<const VNNI: bool> Avx2<VNNI> {
    /// What of the tier's instructions the machine lacks.
    pub fn missing() -> Vec<&'static str> {
        let has = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("f16c", is_x86_feature_detected!("f16c")),
            ("avxvnni", !VNNI || is_x86_feature_detected!("avxvnni")),
        ];
        has.into_iter().filter(|(_, here)| !here).map(|(name, _)| name).collect()
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2<false>>()
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn enter_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2<true>>()
}

// SAFETY: methods use what `missing` asks for, and touch LANES elements.
unsafe impl<const VNNI: bool> Isa for Avx2<VNNI> {
    const LANES: usize = LANES;
    const INTERLEAVE: Interleave = Interleave { lanes: LANES, step: 4, signed: false };
    // 4 sums and 8 registers of codes of the 16.
    const INTEGER_ROWS: usize = 4;
    // 4 rows of three panels are 12 sums.
    const FLOAT_ROWS: usize = 4;
    type V = __m256;
    type Words = __m256i;
    type Sixteen = [__m256; 2];

    #[inline(always)]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        if VNNI { enter_vnni(kernel) } else { enter(kernel) }
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
        _mm256_set1_ps(x)
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        _mm256_loadu_ps(p)
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        _mm256_storeu_ps(p, v);
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::V {
        _mm256_cvtph_ps(_mm_loadu_si128(p.cast()))
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::V {
        let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
    }

    #[inline(always)]
    unsafe fn steps_8(p: *const u8) -> Self::Sixteen {
        let signed = _mm_xor_si128(_mm_loadu_si128(p.cast()), _mm_set1_epi8(-128));
        let steps = |eight| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
        [steps(signed), steps(_mm_unpackhi_epi64(signed, signed))]
    }

    #[inline(always)]
    unsafe fn steps_4(p: *const u8) -> Self::Sixteen {
        // With the highest bit of each code turned over it is signed, at the top of a lane once it is shifted there.
        let to_top = _mm256_setr_epi32(28, 24, 20, 16, 12, 8, 4, 0);
        let steps = |codes: u32| {
            let signed = _mm256_set1_epi32((codes ^ 0x8888_8888).cast_signed());
            _mm256_cvtepi32_ps(_mm256_srai_epi32::<28>(_mm256_sllv_epi32(signed, to_top)))
        };
        let p = p.cast::<u32>();
        [steps(p.read_unaligned()), steps(p.add(1).read_unaligned())]
    }

    #[inline(always)]
    unsafe fn steps_2(p: *const u8) -> Self::Sixteen {
        // A permutation looks at three bits: of a code and of the lower one of the next.
        let values = _mm256_setr_ps(-1.5, -0.5, 0.5, 1.5, -1.5, -0.5, 0.5, 1.5);
        let to_bottom = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
        let steps = |codes: u16| {
            let codes = _mm256_set1_epi32(i32::from(codes));
            _mm256_permutevar8x32_ps(values, _mm256_srlv_epi32(codes, to_bottom))
        };
        let p = p.cast::<u16>();
        [steps(p.read_unaligned()), steps(p.add(1).read_unaligned())]
    }

    #[inline(always)]
    unsafe fn words(p: *const u32) -> Self::Words {
        _mm256_loadu_si256(p.cast())
    }

    #[inline(always)]
    unsafe fn steps_of_words<const BITS: usize>(words: Self::Words, nth: usize) -> Self::V {
        if BITS == 2 {
            let values = _mm256_setr_ps(-1.5, -0.5, 0.5, 1.5, -1.5, -0.5, 0.5, 1.5);
            let to_bottom = _mm256_set1_epi32(2 * nth as i32);
            return _mm256_permutevar8x32_ps(values, _mm256_srlv_epi32(words, to_bottom));
        }
        // With the highest bit of each code turned over it is signed, at the top of a lane once it is shifted there.
        let highest = _mm256_set1_epi8(if BITS == 4 { 0x88_u8.cast_signed() } else { -128 });
        let to_top = _mm256_set1_epi32((32 - BITS * (nth + 1)) as i32);
        let top = _mm256_sllv_epi32(_mm256_xor_si256(words, highest), to_top);
        let whole = if BITS == 4 { _mm256_srai_epi32::<28>(top) } else { _mm256_srai_epi32::<24>(top) };
        _mm256_cvtepi32_ps(whole)
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        _mm256_add_ps(a, b)
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        _mm256_sub_ps(a, b)
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        _mm256_mul_ps(a, b)
    }

    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        _mm256_div_ps(a, b)
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        _mm256_fmadd_ps(a, b, c)
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        _mm256_max_ps(a, b)
    }

    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        _mm256_min_ps(a, b)
    }

    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
    }

    #[inline(always)]
    unsafe fn exp2i(n: Self::V) -> Self::V {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }

    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }

    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }

    #[inline(always)]
    unsafe fn unzip(a: Self::V, b: Self::V) -> [Self::V; 2] {
        // Within the halves of a register, then the quarters in order.
        let [even, odd] = [_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xDD>(a, b)];
        let even = _mm256_permute4x64_pd::<0xD8>(_mm256_castps_pd(even));
        let odd = _mm256_permute4x64_pd::<0xD8>(_mm256_castps_pd(odd));
        [_mm256_castpd_ps(even), _mm256_castpd_ps(odd)]
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        let rows = each_of!(8, _mm256_setzero_ps(), |i| _mm256_loadu_ps(from.add(i * from_stride)));
        // Pairs of rows, then fours, within the halves of a register, then the halves themselves.
        let pairs = each_of!(8, _mm256_setzero_pd(), |i| {
            let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
            _mm256_castps_pd(if i % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) })
        });
        let fours = each_of!(8, _mm256_setzero_ps(), |i| {
            let (first, column) = (i / 4 * 4, i % 4);
            let (a, b) = (pairs[first + column / 2], pairs[first + 2 + column / 2]);
            _mm256_castpd_ps(if column % 2 == 0 {
                _mm256_unpacklo_pd(a, b)
            } else {
                _mm256_unpackhi_pd(a, b)
            })
        });
        for column in 0..4 {
            let (a, b) = (fours[column], fours[4 + column]);
            _mm256_storeu_ps(to.add(column * to_stride), _mm256_permute2f128_ps::<0x20>(a, b));
            _mm256_storeu_ps(to.add((4 + column) * to_stride), _mm256_permute2f128_ps::<0x31>(a, b));
        }
    }

    #[inline(always)]
    unsafe fn q4_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [Self::V; M]) {
        let nibble = _mm256_set1_epi8(0x0F);
        for block in 0..w.blocks {
            let codes = w.codes.add(block * LANES * QUANT_BLOCK / 2);
            for line in 0..2 {
                Self::prefetch(codes.wrapping_add(AHEAD + line * 64));
            }
            let packed: [__m256i; 4] = std::array::from_fn(|i| _mm256_loadu_si256(codes.add(i * 32).cast()));
            // Codes are stored as 0 ..= 15 and mean −8 ..= 7.
            let groups: [__m256i; 8] = std::array::from_fn(|i| {
                let high = if i < 4 { packed[i] } else { _mm256_srli_epi16::<4>(packed[i - 4]) };
                _mm256_and_si256(high, nibble)
            });
            let weight_scales = Self::load_f16(w.scales.add(block * LANES));
            for (row, acc) in acc.iter_mut().enumerate() {
                let at = block * M + row;
                let codes = x.codes.add(at * QUANT_BLOCK).cast::<i32>();
                let four = |i: usize| _mm256_set1_epi32(codes.add(i).read_unaligned());
                let excess = _mm256_set1_epi32(*x.sums8.add(at));
                let sum = if VNNI {
                    let mut sum = _mm256_setzero_si256();
                    for (i, group) in groups.iter().enumerate() {
                        sum = _mm256_dpbusd_avx_epi32(sum, *group, four(i));
                    }
                    _mm256_sub_epi32(sum, excess)
                } else {
                    // 8 · 2 · 15 · 127 still fits 16 bits.
                    let mut pairs = _mm256_setzero_si256();
                    for (i, group) in groups.iter().enumerate() {
                        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(*group, four(i)));
                    }
                    _mm256_sub_epi32(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)), excess)
                };
                let scale = _mm256_mul_ps(_mm256_set1_ps(*x.scales.add(at)), weight_scales);
                *acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, *acc);
            }
        }
    }

    #[inline(always)]
    unsafe fn q8_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [Self::V; M]) {
        for block in 0..w.blocks {
            let codes = w.codes.add(block * LANES * QUANT_BLOCK);
            for line in 0..4 {
                Self::prefetch(codes.wrapping_add(AHEAD + line * 64));
            }
            let groups: [__m256i; 8] = std::array::from_fn(|i| _mm256_loadu_si256(codes.add(i * 32).cast()));
            let weight_scales = Self::load_f16(w.scales.add(block * LANES));
            for (row, acc) in acc.iter_mut().enumerate() {
                let at = block * M + row;
                let codes = x.codes.add(at * QUANT_BLOCK).cast::<i32>();
                let four = |i: usize| _mm256_set1_epi32(codes.add(i).read_unaligned());
                let sum = if VNNI {
                    let mut sum = _mm256_setzero_si256();
                    for (i, group) in groups.iter().enumerate() {
                        sum = _mm256_dpbusd_avx_epi32(sum, *group, four(i));
                    }
                    _mm256_sub_epi32(sum, _mm256_slli_epi32::<4>(_mm256_set1_epi32(*x.sums8.add(at))))
                } else {
                    // Magnitude of one side, sign on the other: 2 · 128 · 127 still fits 16 bits.
                    let mut sum = _mm256_setzero_si256();
                    for (i, group) in groups.iter().enumerate() {
                        let signed = _mm256_xor_si256(*group, _mm256_set1_epi8(-128));
                        let x = _mm256_sign_epi8(four(i), signed);
                        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(signed), x);
                        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                    }
                    sum
                };
                let scale = _mm256_mul_ps(_mm256_set1_ps(*x.scales.add(at)), weight_scales);
                *acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, *acc);
            }
        }
    }
}
