//! The CPU backend: rayon over portable loops that the compiler vectorises.
//!
//! One module a stem, each held to the function of the same name in `kernels-ref`. There is no unsafe
//! code and no instruction-set dispatch here: these loops are the portable tier that every machine has.
//!
//! A row's bits never depend on its neighbours, the number of threads or how a prompt was cut:
//! K is never split between workers, every dot product adds in one order, and attention
//! merges fixed blocks in ascending order.

mod activations;
mod backend;
mod dot;
mod embed;
mod kv_append;
mod lora_matmul;
mod page_codec;
mod paged_attention;
mod rms_norm;
mod rope;
mod sample;
mod softcap;
mod swiglu;
mod weight;

pub use backend::{CpuBackend, CpuKernels, CpuOptions};
