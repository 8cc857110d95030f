//! Which device runs the model. Never a silent substitute: what is asked for runs or is refused.

use interleaf_contract::Backend;
use interleaf_cpu::{CpuKernels, CpuOptions};
use interleaf_kernels_ref::RefKernels;

use crate::{EngineError, EngineOptions};

/// The backend to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendChoice {
    /// The best backend that can run a whole model here: the CPU.
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
}

/// Opens the backend that the options ask for.
pub(crate) fn open(options: &EngineOptions) -> Result<Box<dyn Backend>, EngineError> {
    let &EngineOptions { threads, performance_threads, numerics, .. } = options;
    match options.backend {
        BackendChoice::Auto | BackendChoice::Cpu => {
            let options = CpuOptions { threads, performance_threads, numerics, tier: None };
            Ok(Box::new(CpuKernels::backend(options)?))
        }
        BackendChoice::Ref => Ok(Box::new(RefKernels::backend(numerics))),
        BackendChoice::Gpu => gpu(&options.gpu),
    }
}

#[cfg(feature = "gpu")]
fn gpu(settings: &GpuSettings) -> Result<Box<dyn Backend>, EngineError> {
    use interleaf_gpu::{GpuBackend, GpuOptions, GpuTier, GpuVariant};
    let GpuSettings { adapter, lowest_tier, variant, dispatches_per_submit } = settings.clone();
    let options = GpuOptions {
        adapter,
        tier: if lowest_tier { GpuTier::Lowest } else { GpuTier::Best },
        variant: variant.as_deref().map(GpuVariant::named).transpose()?,
        binding_bytes: None,
        dispatches_per_submit,
    };
    Ok(Box::new(GpuBackend::new(options)?))
}

#[cfg(not(feature = "gpu"))]
fn gpu(_settings: &GpuSettings) -> Result<Box<dyn Backend>, EngineError> {
    Err(EngineError::BackendMissing { backend: "gpu" })
}
