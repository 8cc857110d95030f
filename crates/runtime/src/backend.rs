//! Which device runs the model at first. Never a silent substitute: what is asked for runs or is refused. What comes
//! after a GPU that fails is in `fallback`.

use interleaf_contract::{Backend, BackendError};
use interleaf_cpu::{CpuKernels, CpuOptions};
use interleaf_kernels_ref::RefKernels;

#[cfg(feature = "gpu")]
use crate::Store;
use crate::{EngineError, EngineOptions};

/// The backend to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendChoice {
    /// The GPU where the doctor has found it right and faster than the CPU; else the CPU, and no driver is touched. Where
    /// that GPU fails later on, the CPU takes over with everything, answers under way included, and that is said.
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
    match options.backend {
        BackendChoice::Auto => match faster_gpu(options) {
            Some(gpu) => Ok(gpu),
            None => Ok(open_cpu(cpu_options(options))?),
        },
        BackendChoice::Cpu => Ok(open_cpu(cpu_options(options))?),
        BackendChoice::Ref => Ok(Box::new(RefKernels::backend(options.numerics))),
        BackendChoice::Gpu => boxed_gpu(options),
    }
}

/// How the CPU runs by the engine's options.
pub(crate) fn cpu_options(options: &EngineOptions) -> CpuOptions {
    let &EngineOptions { threads, performance_threads, numerics, .. } = options;
    CpuOptions { threads, performance_threads, numerics, tier: None }
}

/// A CPU with nothing on it.
pub(crate) fn open_cpu(options: CpuOptions) -> Result<Box<dyn Backend>, BackendError> {
    Ok(Box::new(CpuKernels::backend(options)?))
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
        gives_way: false,
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

/// The fastest of the GPUs at hand that kept verdicts prefer to the CPU, unless something has changed since: then it is
/// said, and the CPU runs. No driver is touched where no verdict does.
#[cfg(feature = "gpu")]
fn faster_gpu(options: &EngineOptions) -> Option<Box<dyn Backend>> {
    let store = Store::new(options.store.clone());
    let faster: Vec<_> = store.verdicts().into_iter().filter(|verdict| verdict.faster.is_some()).collect();
    if faster.is_empty() {
        return None;
    }
    let named = options.gpu.adapter.as_deref().unwrap_or_default().to_lowercase();
    let at_hand: Vec<String> = interleaf_gpu::adapters()
        .iter()
        .filter(|adapter| adapter.name.to_lowercase().contains(&named))
        .map(interleaf_gpu::GpuAdapter::key)
        .collect();
    let fastest = faster
        .into_iter()
        .filter(|verdict| at_hand.contains(&verdict.key))
        .max_by(|a, b| a.faster.unwrap_or_default().total_cmp(&b.faster.unwrap_or_default()));
    let opened = match fastest {
        Some(verdict) => gpu(options, Some(verdict.key)).map_err(|e| e.to_string()),
        None => Err(format!("none of those found faster is among {at_hand:?}")),
    };
    match opened {
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
