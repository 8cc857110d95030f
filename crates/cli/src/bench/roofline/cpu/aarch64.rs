//! Loops of NEON and, where there is one, of its dot product of 8-bit integers.

#![allow(unsafe_code, reason = "functions for instructions that not every processor of this kind has")]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::hint::black_box;

use super::{Kernels, Loop, portable};

/// Independent chains; there are 32 registers.
const CHAINS: usize = 24;

/// Those that this processor has, the best last.
pub(super) fn kernels() -> Vec<Kernels> {
    let mut found = Vec::new();
    if !is_aarch64_feature_detected!("neon") {
        return found;
    }
    let neon = Kernels {
        name: "NEON",
        f32: Loop {
            // SAFETY: NEON was detected.
            run: |iterations| unsafe { f32_neon(iterations) },
            multiply_adds: (4 * CHAINS) as u64,
        },
        int8: Loop {
            // SAFETY: NEON was detected.
            run: |iterations| unsafe { int8_neon(iterations) },
            multiply_adds: (8 * CHAINS) as u64,
        },
        // NEON is part of the target, so the compiler has made it of this.
        ..portable::KERNELS
    };
    found.push(neon);
    if !is_aarch64_feature_detected!("dotprod") {
        return found;
    }
    let int8 = Loop {
        // SAFETY: NEON and its dot product were detected.
        run: |iterations| unsafe { int8_dot(iterations) },
        multiply_adds: (16 * CHAINS) as u64,
    };
    found.push(Kernels { name: "NEON, SDOT", int8, ..neon });
    found
}

#[target_feature(enable = "neon")]
fn f32_neon(iterations: u64) -> f64 {
    let (factor, addend) = (vdupq_n_f32(black_box(0.5)), vdupq_n_f32(black_box(0.25)));
    let starts: [f32; CHAINS] = black_box(std::array::from_fn(|i| i as f32));
    let mut chains = starts.map(|start| vdupq_n_f32(start));
    for _ in 0..iterations {
        for chain in &mut chains {
            *chain = vfmaq_f32(*chain, factor, addend);
        }
    }
    chains.into_iter().map(|chain| f64::from(vaddvq_f32(chain))).sum()
}

/// Without an instruction for it: 16-bit products, then 32-bit sums of pairs.
#[target_feature(enable = "neon")]
fn int8_neon(iterations: u64) -> f64 {
    let codes = vdup_n_s8(black_box(3));
    let starts: [i32; CHAINS] = black_box(std::array::from_fn(|i| i as i32));
    let mut chains = starts.map(|start| vdupq_n_s32(start));
    for _ in 0..iterations {
        for chain in &mut chains {
            // The chain's own bits are multiplied: fixed factors would be multiplied once, before the loop.
            let own = vget_low_s8(vreinterpretq_s8_s32(*chain));
            *chain = vpadalq_s16(*chain, vmull_s8(own, codes));
        }
    }
    chains.into_iter().map(|chain| f64::from(vaddvq_s32(chain))).sum()
}

#[target_feature(enable = "neon,dotprod")]
fn int8_dot(iterations: u64) -> f64 {
    let (left, right) = (vdupq_n_s8(black_box(3)), vdupq_n_s8(black_box(-2)));
    let starts: [i32; CHAINS] = black_box(std::array::from_fn(|i| i as i32));
    let mut chains = starts.map(|start| vdupq_n_s32(start));
    for _ in 0..iterations {
        for chain in &mut chains {
            // SAFETY: the instruction is in this function's features and touches its operands only.
            unsafe {
                asm!(
                    "sdot {chain:v}.4s, {left:v}.16b, {right:v}.16b",
                    chain = inout(vreg) *chain,
                    left = in(vreg) left,
                    right = in(vreg) right,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
        }
    }
    chains.into_iter().map(|chain| f64::from(vaddvq_s32(chain))).sum()
}
