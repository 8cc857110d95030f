//! Every kernel as the plainest Rust that can be read top to bottom: the definition of right.
//!
//! Each module is one stem: `lora_matmul` here is `crates/cpu/src/lora_matmul`, `crates/gpu/src/lora_matmul.rs`
//! and `shaders/lora_matmul*.wgsl`. The functions are scalar, take slices and accumulate in f64, so that
//! their own rounding is far below every bound a kernel is held to. No kernel calls them: they serve
//! tests, benches and `--backend ref`, through the thin [`RefBackend`].
//!
//! Slices must have the lengths that the documentation states; the functions index by them.

mod backend;

pub mod add;
pub mod attention_mass;
pub mod embed;
pub mod joint_low_rank;
pub mod kv_append;
pub mod kv_read;
pub mod lora_matmul;
pub mod numerics;
pub mod page_codec;
pub mod paged_attention;
pub mod rms_norm;
pub mod rope;
pub mod sample;
pub mod softcap;
pub mod swiglu;
pub mod weight;

pub use backend::{RefBackend, RefKernels};
