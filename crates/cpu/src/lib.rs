//! The CPU backend: kernels written once over the instructions of a tier, and one parallel region for a step.
//!
//! A tier ([`Tier`]) is an instruction set in a folder of its own: `scalar`, `neon`, `neon_dotprod`,
//! `neon_i8mm`, `avx2`, `avx512`. One is chosen when
//! a backend is opened. One module a stem, each held to the function of the same name in `kernels-ref`.
//!
//! A row's bits depend on the tier and never on its neighbours, the number of threads or how a prompt was cut: K is
//! never split between workers, a sum has one order for every number of rows, and attention merges fixed blocks in
//! ascending order.
//!
//! `unsafe` is in the bodies over a tier, in what the workers of a region share (`region`), and in asking for huge pages
//! (`lines`).
#![allow(unsafe_code, reason = "a tier's instructions, memory that workers write in parts, huge pages")]

mod activations;
mod add;
mod attention_mass;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod backend;
mod cores;
mod embed;
mod isa;
mod kv_append;
mod kv_read;
mod lines;
mod lora_matmul;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_dotprod;
#[cfg(target_arch = "aarch64")]
mod neon_i8mm;
mod packed;
mod page_codec;
mod paged_attention;
mod region;
mod rms_norm;
mod rope;
mod sample;
mod scalar;
mod softcap;
mod step;
mod swiglu;
mod tier;
#[cfg(test)]
mod tier_tests;

pub use backend::{CpuBackend, CpuKernels, CpuOptions};
pub use tier::Tier;
