//! The vectors of f32 that all NEON tiers share, as the methods of [`Isa`](crate::isa::Isa).

use std::arch::aarch64::{float32x4_t, uint32x4_t};

/// f32 in a register.
pub const LANES: usize = 4;

/// A register of f32.
pub type V = float32x4_t;

/// A register of words of codes.
pub type Words = uint32x4_t;

/// Everything of `Isa` that is not an integer product; `$enter` is the tier's function of that name.
macro_rules! neon_vectors {
    ($enter:ident) => {
        const LANES: usize = $crate::neon::LANES;
        // 8 rows of three panels are 24 sums of the 32 registers.
        const FLOAT_ROWS: usize = 8;
        const MANY_REGISTERS: bool = true;
        const FACTORS: usize = $crate::neon::LANES;
        type V = $crate::neon::V;
        type Words = $crate::neon::Words;
        type Sixteen = [$crate::neon::V; 4];

        #[inline(always)]
        unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
            $enter(kernel)
        }

        #[inline(always)]
        unsafe fn prefetch(p: *const u8) {
            std::arch::asm!(
                "prfm pldl1keep, [{p}]",
                p = in(reg) p,
                options(nostack, preserves_flags, readonly)
            );
        }

        #[inline(always)]
        unsafe fn prefetch_far(p: *const u8) {
            std::arch::asm!(
                "prfm pldl2keep, [{p}]",
                p = in(reg) p,
                options(nostack, preserves_flags, readonly)
            );
        }

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            vdupq_n_f32(x)
        }

        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            vld1q_f32(p)
        }

        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            vst1q_f32(p, v);
        }

        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> Self::V {
            vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))
        }

        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Self::V {
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p)))
        }

        #[inline(always)]
        unsafe fn steps_8(p: *const u8) -> Self::Sixteen {
            $crate::neon::integers(vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p), vdupq_n_u8(128))))
        }

        #[inline(always)]
        unsafe fn steps_4(p: *const u8) -> Self::Sixteen {
            let codes = vld1_u8(p);
            let (low, high) = (vand_u8(codes, vdup_n_u8(15)), vshr_n_u8::<4>(codes));
            let codes = vcombine_u8(vzip1_u8(low, high), vzip2_u8(low, high));
            $crate::neon::integers(vsubq_s8(vreinterpretq_s8_u8(codes), vdupq_n_s8(8)))
        }

        #[inline(always)]
        unsafe fn steps_2(p: *const u8) -> Self::Sixteen {
            // Each of four bytes four times, shifted to each of its codes.
            let bytes = vreinterpret_u8_u32(vdup_n_u32(p.cast::<u32>().read_unaligned()));
            let twice = vzip1_u8(bytes, bytes);
            let codes = vcombine_u8(vzip1_u8(twice, twice), vzip2_u8(twice, twice));
            let to_bottom = vreinterpretq_s8_u32(vdupq_n_u32(0xFAFC_FE00));
            let codes = vandq_u8(vshlq_u8(codes, to_bottom), vdupq_n_u8(3));
            let whole = $crate::neon::integers(vreinterpretq_s8_u8(codes));
            whole.map(|whole| vsubq_f32(whole, vdupq_n_f32(1.5)))
        }

        #[inline(always)]
        unsafe fn words(p: *const u32) -> Self::Words {
            vld1q_u32(p)
        }

        #[inline(always)]
        unsafe fn steps_of_words<const BITS: usize>(words: Self::Words, nth: usize) -> Self::V {
            let to_bottom = vdupq_n_s32(-((BITS * nth) as i32));
            let codes = vandq_u32(vshlq_u32(words, to_bottom), vdupq_n_u32((1 << BITS) - 1));
            let lowest = if BITS == 2 { 1.5 } else { (1 << (BITS - 1)) as f32 };
            vsubq_f32(vcvtq_f32_u32(codes), vdupq_n_f32(lowest))
        }

        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            vaddq_f32(a, b)
        }

        #[inline(always)]
        unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
            vsubq_f32(a, b)
        }

        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            vmulq_f32(a, b)
        }

        #[inline(always)]
        unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
            vdivq_f32(a, b)
        }

        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            vfmaq_f32(c, a, b)
        }

        #[inline(always)]
        unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
            vmaxq_f32(a, b)
        }

        #[inline(always)]
        unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
            vminq_f32(a, b)
        }

        #[inline(always)]
        unsafe fn round(a: Self::V) -> Self::V {
            vrndnq_f32(a)
        }

        #[inline(always)]
        unsafe fn exp2i(n: Self::V) -> Self::V {
            let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        }

        #[inline(always)]
        unsafe fn sum(v: Self::V) -> f32 {
            vaddvq_f32(v)
        }

        #[inline(always)]
        unsafe fn largest(v: Self::V) -> f32 {
            vmaxvq_f32(v)
        }

        #[inline(always)]
        unsafe fn unzip(a: Self::V, b: Self::V) -> [Self::V; 2] {
            [vuzp1q_f32(a, b), vuzp2q_f32(a, b)]
        }

        #[inline(always)]
        unsafe fn rank_1_update<const M: usize, const P: usize>(
            x: *const f32,
            w: [Self::V; P],
            acc: &mut [[Self::V; P]; M],
        ) {
            let (fours, rest) = acc.as_chunks_mut::<4>();
            for (i, four) in fours.iter_mut().enumerate() {
                let x = vld1q_f32(x.add(4 * i));
                for (p, w) in w.into_iter().enumerate() {
                    four[0][p] = vfmaq_laneq_f32::<0>(four[0][p], w, x);
                    four[1][p] = vfmaq_laneq_f32::<1>(four[1][p], w, x);
                    four[2][p] = vfmaq_laneq_f32::<2>(four[2][p], w, x);
                    four[3][p] = vfmaq_laneq_f32::<3>(four[3][p], w, x);
                }
            }
            for (i, acc) in rest.iter_mut().enumerate() {
                let x = *x.add(M / 4 * 4 + i);
                for (acc, w) in acc.iter_mut().zip(w) {
                    *acc = vfmaq_n_f32(*acc, w, x);
                }
            }
        }

        #[inline(always)]
        unsafe fn rank_update<const M: usize, const P: usize>(
            x: [*const f32; M],
            w: *const f32,
            stride: usize,
            acc: &mut [[Self::V; P]; M],
        ) {
            let x = x.map(|x| vld1q_f32(x));
            macro_rules! lane {
                ($k:literal) => {
                    let w = $crate::isa::each_of!(P, vdupq_n_f32(0.0), |p| {
                        vld1q_f32(w.add($k * stride + p * $crate::neon::LANES))
                    });
                    for (acc, x) in acc.iter_mut().zip(x) {
                        for (acc, w) in acc.iter_mut().zip(w) {
                            *acc = vfmaq_laneq_f32::<$k>(*acc, w, x);
                        }
                    }
                };
            }
            lane!(0);
            lane!(1);
            lane!(2);
            lane!(3);
        }

        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
            let rows = $crate::isa::each_of!(4, vdupq_n_f32(0.0), |i| vld1q_f32(from.add(i * from_stride)));
            let pairs = [
                vtrn1q_f32(rows[0], rows[1]),
                vtrn2q_f32(rows[0], rows[1]),
                vtrn1q_f32(rows[2], rows[3]),
                vtrn2q_f32(rows[2], rows[3]),
            ]
            .map(|pair| vreinterpretq_f64_f32(pair));
            let columns = [
                vtrn1q_f64(pairs[0], pairs[2]),
                vtrn1q_f64(pairs[1], pairs[3]),
                vtrn2q_f64(pairs[0], pairs[2]),
                vtrn2q_f64(pairs[1], pairs[3]),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                vst1q_f32(to.add(i * to_stride), vreinterpretq_f32_f64(column));
            }
        }
    };
}

pub(crate) use neon_vectors;
