//! Which device runs the model. Never a silent substitute: what is asked for runs or is refused.

use interleaf_contract::Backend;
use interleaf_cpu::{CpuKernels, CpuOptions};
use interleaf_kernels_ref::RefKernels;

use crate::{EngineError, EngineOptions, Store};

/// The backend to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendChoice {
    /// The GPU where the doctor has found it right and faster than the CPU; else the CPU, and no driver is touched.
    Auto,
    /// The CPU, on the best tier of instructions that it has.
    Cpu,
    /// wgpu.
    Gpu,
    /// The plain-Rust reference.
    Ref,
}

/// How the GPU is used, where it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GpuSettings {
    /// Part of an adapter's name, in any case; `None` for the strongest kind of device.
    pub adapter: Option<String>,
    /// Ask for the lowest tier of WebGPU limits and no feature, whatever the device offers.
    pub lowest_tier: bool,
    /// Run these kernels rather than those that suit the device.
    pub variant: Option<String>,
    /// Kernels in one command buffer; 0 for all of a step. Some drivers lose the device over large ones.
    pub dispatches_per_submit: usize,
    /// The device is lost on purpose after so many steps, in tests of what happens then.
    pub lost_after: Option<u64>,
}

/// Opens the backend that the options ask for.
pub(crate) fn open(options: &EngineOptions) -> Result<Box<dyn Backend>, EngineError> {
    let &EngineOptions { threads, performance_threads, numerics, .. } = options;
    match options.backend {
        BackendChoice::Auto => {
            if let Some(gpu) = faster_gpu(options) {
                return Ok(gpu);
            }
            let options = CpuOptions { threads, performance_threads, numerics, tier: None };
            Ok(Box::new(CpuKernels::backend(options)?))
        }
        BackendChoice::Cpu => {
            let options = CpuOptions { threads, performance_threads, numerics, tier: None };
            Ok(Box::new(CpuKernels::backend(options)?))
        }
        BackendChoice::Ref => Ok(Box::new(RefKernels::backend(numerics))),
        BackendChoice::Gpu => boxed_gpu(options),
    }
}

#[cfg(feature = "gpu")]
fn boxed_gpu(options: &EngineOptions) -> Result<Box<dyn Backend>, EngineError> {
    Ok(Box::new(gpu(options, None)?))
}

/// The GPU as options say, or the one with a key.
#[cfg(feature = "gpu")]
fn gpu(options: &EngineOptions, key: Option<String>) -> Result<interleaf_gpu::GpuBackend, EngineError> {
    use interleaf_gpu::{GpuFailure, GpuOptions, GpuTier, GpuVariant};
    let store = Store::new(options.store.clone());
    let numerics = options.numerics;
    let GpuSettings { adapter, lowest_tier, variant, dispatches_per_submit, lost_after } =
        options.gpu.clone();
    let options = GpuOptions {
        adapter,
        key,
        tier: if lowest_tier { GpuTier::Lowest } else { GpuTier::Best },
        variant: variant.as_deref().map(GpuVariant::named).transpose()?,
        numerics,
        binding_bytes: None,
        dispatches_per_submit,
        pipeline_cache: store.folder().map(|folder| folder.join("pipelines")),
        failure: lost_after.map(|after| GpuFailure::Lost { after }),
    };
    Ok(crate::doctor::first_right(options, &store)?)
}

#[cfg(not(feature = "gpu"))]
fn boxed_gpu(_options: &EngineOptions) -> Result<Box<dyn Backend>, EngineError> {
    Err(EngineError::BackendMissing { backend: "gpu" })
}

/// Whether `auto` tries a GPU first.
pub(crate) fn prefers_gpu(options: &EngineOptions) -> bool {
    options.backend == BackendChoice::Auto
        && Store::new(options.store.clone()).verdicts().iter().any(|verdict| verdict.faster)
}

/// The GPU that a kept verdict prefers to the CPU, unless something has changed since: then it is said, and the CPU runs.
#[cfg(feature = "gpu")]
fn faster_gpu(options: &EngineOptions) -> Option<Box<dyn Backend>> {
    let store = Store::new(options.store.clone());
    let verdict = store.verdicts().into_iter().find(|verdict| verdict.faster)?;
    match gpu(options, Some(verdict.key)) {
        Ok(gpu) => Some(Box::new(gpu)),
        Err(e) => {
            tracing::warn!("the CPU runs instead of the GPU: {e}; `interleaf doctor` examines what there is");
            None
        }
    }
}

#[cfg(not(feature = "gpu"))]
fn faster_gpu(_options: &EngineOptions) -> Option<Box<dyn Backend>> {
    None
}
