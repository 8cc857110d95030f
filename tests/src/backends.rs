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

/// Those that read and store pages in every codec: the reference, then the CPU on every tier and the GPU.
pub fn of_every_codec() -> Vec<Boxed> {
    let mut backends = vec![reference(Numerics::ActF32)];
    backends.extend(cpu_tiers(2, Numerics::ActF32));
    backends.extend(gpu());
    backends
}

/// The GPU, or `None` after printing why not.
#[cfg(feature = "gpu")]
pub fn gpu() -> Option<Boxed> {
    gpu_with(interleaf_gpu::GpuOptions::default())
}

/// The GPU as options say, or `None` after printing why not.
#[cfg(feature = "gpu")]
fn gpu_with(options: interleaf_gpu::GpuOptions) -> Option<Boxed> {
    match interleaf_gpu::GpuBackend::new(options) {
        Ok(gpu) => Some(Box::new(gpu)),
        Err(reason) => {
            assert!(std::env::var_os("INTERLEAF_REQUIRE_GPU").is_none(), "no GPU: {reason}");
            println!("SKIPPED on gpu: {reason}");
            None
        }
    }
}

/// The GPU by every variant of its kernels that the device can run, each forced by name, and on the lowest tier; the
/// others are skipped with their reason. A tensor's bytes are kept small on that tier, so that matrices are split.
pub fn gpu_variants() -> Vec<Boxed> {
    gpu_variants_within(Some(1 << 20))
}

/// The same with so many bytes behind a binding on the lowest tier, or as many as it has.
#[cfg(feature = "gpu")]
pub fn gpu_variants_within(binding_bytes: Option<u64>) -> Vec<Boxed> {
    use interleaf_gpu::{GpuBackend, GpuOptions, GpuTier, GpuVariant};
    let Some(_) = gpu() else { return Vec::new() };
    let mut variants: Vec<Boxed> = Vec::new();
    for variant in GpuVariant::ALL {
        let numerics = Numerics::ActQ8_0;
        match GpuBackend::new(GpuOptions { variant: Some(variant), numerics, ..GpuOptions::default() }) {
            Ok(gpu) => variants.push(Box::new(gpu)),
            Err(reason @ interleaf_contract::BackendError::Unsupported { .. }) => {
                println!("SKIPPED on gpu: {reason}")
            }
            Err(reason) => panic!("{}: {reason}", variant.name()),
        }
    }
    let lowest = GpuOptions {
        tier: GpuTier::Lowest,
        binding_bytes,
        dispatches_per_submit: 2,
        ..GpuOptions::default()
    };
    variants.extend(gpu_with(lowest));
    variants
}

/// The GPU by every variant of its kernels.
#[cfg(not(feature = "gpu"))]
pub fn gpu_variants_within(_: Option<u64>) -> Vec<Boxed> {
    gpu().into_iter().collect()
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
