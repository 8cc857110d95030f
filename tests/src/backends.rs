//! The backends under test, by name. A device that is not there is skipped with its reason, and is a
//! failure where `INTERLEAF_REQUIRE_GPU` is set.

use interleaf_contract::{Backend, Numerics};
use interleaf_cpu::{CpuKernels, CpuOptions, Tier};
use interleaf_kernels_ref::RefKernels;

pub type Boxed = Box<dyn Backend>;

pub fn reference(numerics: Numerics) -> Boxed {
    Box::new(RefKernels::backend(numerics))
}

pub fn cpu(threads: usize, numerics: Numerics) -> Boxed {
    Box::new(
        CpuKernels::backend(CpuOptions { threads, numerics, ..CpuOptions::default() })
            .expect("worker threads"),
    )
}

/// The CPU on every tier that this machine has; the others are skipped with their reason.
pub fn cpu_tiers(threads: usize, numerics: Numerics) -> Vec<Boxed> {
    let mut tiers: Vec<Boxed> = Vec::new();
    for tier in Tier::ALL {
        match tier.missing() {
            None => {
                let options = CpuOptions { threads, numerics, tier: Some(tier), ..CpuOptions::default() };
                tiers.push(Box::new(CpuKernels::backend(options).expect("worker threads")));
            }
            Some(reason) => println!("SKIPPED on cpu {tier}: {reason}"),
        }
    }
    tiers
}

/// The reference, then the CPU on every tier and the GPU.
pub fn reference_and_others() -> Vec<Boxed> {
    let mut backends = vec![reference(Numerics::ActF32)];
    backends.extend(cpu_tiers(2, Numerics::ActF32));
    backends.extend(gpu());
    backends
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

/// Every backend under test, under every numerics that it has.
pub fn all() -> Vec<Boxed> {
    let mut all = cpu_tiers(2, Numerics::ActF32);
    all.extend(cpu_tiers(2, Numerics::ActQ8_0));
    all.extend(gpu());
    all
}

/// `cpu avx2 act=f32`, for messages.
pub fn label(backend: &dyn Backend) -> String {
    let info = backend.info();
    format!("{} {} {}", info.name, info.tier, info.numerics.name())
}
