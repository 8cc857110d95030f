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

/// Opens the backend that the options ask for.
pub(crate) fn open(options: &EngineOptions) -> Result<Box<dyn Backend>, EngineError> {
    let &EngineOptions { threads, performance_threads, numerics, .. } = options;
    match options.backend {
        BackendChoice::Auto | BackendChoice::Cpu => {
            let options = CpuOptions { threads, performance_threads, numerics, tier: None };
            Ok(Box::new(CpuKernels::backend(options)?))
        }
        BackendChoice::Ref => Ok(Box::new(RefKernels::backend(numerics))),
        BackendChoice::Gpu => gpu(),
    }
}

#[cfg(feature = "gpu")]
fn gpu() -> Result<Box<dyn Backend>, EngineError> {
    Ok(Box::new(interleaf_gpu::GpuBackend::new(interleaf_gpu::GpuOptions::default())?))
}

#[cfg(not(feature = "gpu"))]
fn gpu() -> Result<Box<dyn Backend>, EngineError> {
    Err(EngineError::BackendMissing { backend: "gpu" })
}
