//! The [`Backend`](interleaf_contract::Backend) on a GPU: WGSL kernels from `shaders/`, through wgpu.
//!
//! Base weights, adapters and pages live in device buffers; a step becomes one command buffer, submitted
//! without waiting. Every kernel runs within the lowest tier of WebGPU limits and without any feature: 8 storage
//! buffers, 16 KiB of workgroup memory, 256 invocations, no subgroups, no f16. What a device has beyond that chooses
//! among variants ([`GpuVariant`]). No driver is touched before [`GpuBackend::new`] or [`adapters`].
//!
//! Numerics are `act=f32`, or `act=q8_0` where it is allowed and the device multiplies bytes. What a kernel computes
//! is defined in `kernels-ref`, not here.

mod adapters;
mod add;
mod attention_mass;
mod backend;
mod buffers;
mod chain;
mod choose;
mod command;
mod constants;
mod cost;
mod decide;
mod device;
mod embed;
mod error;
mod extents;
mod factors;
mod faults;
mod fuse;
#[cfg(test)]
mod instrument;
mod kernel;
mod kv_append;
mod kv_read;
mod limits;
mod lora_matmul;
mod options;
mod pack;
mod page_codec;
mod page_transfer;
mod paged_attention;
mod pages;
mod parts;
mod peaks;
mod pipeline_cache;
mod quantise;
mod readback;
mod rms_norm;
mod roofline;
mod rope;
mod rows;
mod sample;
mod shader;
mod softcap;
mod sources;
mod step;
mod swiglu;
mod tensors;
mod vectors;
mod weights;
mod work;

pub use adapters::{GpuAdapter, adapters};
pub use backend::GpuBackend;
pub use faults::Fault;
pub use options::{GpuFailure, GpuOptions, GpuTier, GpuVariant};
