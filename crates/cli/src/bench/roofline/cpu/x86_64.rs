//! Loops of AVX-512 and AVX2, chosen at run time. Intrinsics are the point, so this file may be unsafe.

#![allow(unsafe_code, reason = "functions for instructions that not every processor of this kind has")]

use std::arch::x86_64::*;
use std::hint::black_box;

use super::{Kernels, Loop, portable};

/// Independent chains of AVX2, which has 16 registers, and of AVX-512, which has 32.
const CHAINS: usize = 12;
const WIDE_CHAINS: usize = 24;

/// Those that this processor has, the best last.
pub(super) fn kernels() -> Vec<Kernels> {
    let mut found = Vec::new();
    if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("fma") {
        return found;
    }
    let avx2 = Kernels {
        name: "AVX2, FMA",
        // SAFETY: AVX2 was detected.
        sum: |words| unsafe { sum_avx2(words) },
        f32: Loop {
            // SAFETY: AVX2 and FMA were detected.
            run: |iterations| unsafe { f32_avx2(iterations) },
            multiply_adds: (8 * CHAINS) as u64,
        },
        int8: Loop {
            // SAFETY: AVX2 was detected.
            run: |iterations| unsafe { int8_avx2(iterations) },
            multiply_adds: (32 * CHAINS) as u64,
        },
    };
    found.push(avx2);
    if !is_x86_feature_detected!("avx512f") {
        return found;
    }
    let avx512 = Kernels {
        name: "AVX-512",
        // SAFETY: AVX-512 was detected.
        sum: |words| unsafe { sum_avx512(words) },
        f32: Loop {
            // SAFETY: AVX-512 was detected.
            run: |iterations| unsafe { f32_avx512(iterations) },
            multiply_adds: (16 * WIDE_CHAINS) as u64,
        },
        ..avx2
    };
    found.push(avx512);
    if !is_x86_feature_detected!("avx512vnni") {
        return found;
    }
    let int8 = Loop {
        // SAFETY: AVX-512 and its VNNI were detected.
        run: |iterations| unsafe { int8_avx512(iterations) },
        multiply_adds: (64 * WIDE_CHAINS) as u64,
    };
    found.push(Kernels { name: "AVX-512, VNNI", int8, ..avx512 });
    found
}

#[target_feature(enable = "avx2")]
fn sum_avx2(words: &[u64]) -> u64 {
    let (vectors, rest) = words.as_chunks::<4>();
    let (groups, few) = vectors.as_chunks::<8>();
    let mut sums = [_mm256_setzero_si256(); 8];
    for group in groups {
        for (sum, vector) in sums.iter_mut().zip(group) {
            // SAFETY: the vector is 32 bytes; the load needs no alignment.
            *sum = _mm256_add_epi64(*sum, unsafe { _mm256_loadu_si256(vector.as_ptr().cast()) });
        }
    }
    let sum = sums.into_iter().fold(_mm256_setzero_si256(), |a, b| _mm256_add_epi64(a, b));
    let mut lanes = [0u64; 4];
    // SAFETY: the array is 32 bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
    lanes
        .into_iter()
        .fold((portable::KERNELS.sum)(few.as_flattened()), u64::wrapping_add)
        .wrapping_add((portable::KERNELS.sum)(rest))
}

#[target_feature(enable = "avx512f")]
fn sum_avx512(words: &[u64]) -> u64 {
    let (vectors, rest) = words.as_chunks::<8>();
    let (groups, few) = vectors.as_chunks::<8>();
    let mut sums = [_mm512_setzero_si512(); 8];
    for group in groups {
        for (sum, vector) in sums.iter_mut().zip(group) {
            // SAFETY: the vector is 64 bytes; the load needs no alignment.
            *sum = _mm512_add_epi64(*sum, unsafe { _mm512_loadu_si512(vector.as_ptr().cast()) });
        }
    }
    let sum = sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_add_epi64(a, b));
    let sum = _mm512_reduce_add_epi64(sum) as u64;
    let others = [few.as_flattened(), rest].map(portable::KERNELS.sum);
    others.into_iter().fold(sum, u64::wrapping_add)
}

#[target_feature(enable = "avx2,fma")]
fn f32_avx2(iterations: u64) -> f64 {
    let (factor, addend) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.25)));
    let starts: [f32; CHAINS] = black_box(std::array::from_fn(|i| i as f32));
    let mut chains = starts.map(|start| _mm256_set1_ps(start));
    for _ in 0..iterations {
        for chain in &mut chains {
            *chain = _mm256_fmadd_ps(*chain, factor, addend);
        }
    }
    chains.into_iter().map(|chain| f64::from(_mm256_cvtss_f32(chain))).sum()
}

#[target_feature(enable = "avx512f")]
fn f32_avx512(iterations: u64) -> f64 {
    let (factor, addend) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
    let starts: [f32; WIDE_CHAINS] = black_box(std::array::from_fn(|i| i as f32));
    let mut chains = starts.map(|start| _mm512_set1_ps(start));
    for _ in 0..iterations {
        for chain in &mut chains {
            *chain = _mm512_fmadd_ps(*chain, factor, addend);
        }
    }
    chains.into_iter().map(|chain| f64::from(_mm512_reduce_add_ps(chain))).sum()
}

/// Without an instruction for it: 16-bit sums of pairs, then 32-bit sums of those.
#[target_feature(enable = "avx2")]
fn int8_avx2(iterations: u64) -> f64 {
    let (codes, ones) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi16(black_box(1)));
    let starts: [i32; CHAINS] = black_box(std::array::from_fn(|i| i as i32));
    let mut chains = starts.map(|start| _mm256_set1_epi32(start));
    for _ in 0..iterations {
        for chain in &mut chains {
            // The chain's own bits are multiplied: fixed factors would be multiplied once, before the loop.
            let pairs = _mm256_maddubs_epi16(*chain, codes);
            *chain = _mm256_add_epi32(*chain, _mm256_madd_epi16(pairs, ones));
        }
    }
    chains.into_iter().map(|chain| f64::from(_mm256_extract_epi32::<0>(chain))).sum()
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn int8_avx512(iterations: u64) -> f64 {
    let (left, right) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(-2)));
    let starts: [i32; WIDE_CHAINS] = black_box(std::array::from_fn(|i| i as i32));
    let mut chains = starts.map(|start| _mm512_set1_epi32(start));
    for _ in 0..iterations {
        for chain in &mut chains {
            *chain = _mm512_dpbusd_epi32(*chain, left, right);
        }
    }
    chains.into_iter().map(|chain| f64::from(_mm512_reduce_add_epi32(chain))).sum()
}
