//! The backends under test, by name. A device that is not there is skipped with its reason, and is a
//! failure where `INTERLEAF_REQUIRE_GPU` is set.

use interleaf_contract::{Backend, Numerics};
use interleaf_cpu::{CpuKernels, CpuOptions};
use interleaf_kernels_ref::RefKernels;

pub type Boxed = Box<dyn Backend>;

pub fn reference(numerics: Numerics) -> Boxed {
    Box::new(RefKernels::backend(numerics))
}

pub fn cpu(threads: usize, numerics: Numerics) -> Boxed {
    Box::new(CpuKernels::backend(CpuOptions { threads, numerics, tier: None }).expect("worker threads"))
}

/// The GPU, or `None` after printing why not.
#[cfg(feature = "gpu")]
pub fn gpu() -> Option<Boxed> {
    use interleaf_gpu::{GpuBackend, GpuOptions};
    match GpuBackend::new(GpuOptions::default()) {
        Ok(gpu) => Some(Box::new(gpu)),
        Err(reason) => {
            assert!(std::env::var_os("INTERLEAF_REQUIRE_GPU").is_none(), "no GPU: {reason}");
            println!("SKIPPED on gpu: {reason}");
            None
        }
    }
}

/// The GPU, or `None` after printing why not.
#[cfg(not(feature = "gpu"))]
pub fn gpu() -> Option<Boxed> {
    assert!(std::env::var_os("INTERLEAF_REQUIRE_GPU").is_none(), "built without the gpu feature");
    println!("SKIPPED on gpu: built without the gpu feature");
    None
}

/// Every backend that has the kernel at hand; `on_gpu` says whether the GPU does.
pub fn all(on_gpu: bool) -> Vec<Boxed> {
    let mut all = vec![cpu(2, Numerics::ActF32), cpu(2, Numerics::ActQ8_0)];
    if on_gpu {
        all.extend(gpu());
    }
    all
}

/// `cpu act=f32`, for messages.
pub fn label(backend: &dyn Backend) -> String {
    let info = backend.info();
    format!("{} {}", info.name, info.numerics.name())
}
