//! The doctor: which GPUs there are, which of their kernels are right, and whether they are faster than the CPU.
//!
//! A verdict belongs to a driver's version and is kept in the store. [`BackendChoice::Auto`](crate::BackendChoice::Auto)
//! takes the GPU only where a verdict says that it is right and faster.

#[cfg(feature = "gpu")]
mod checks;
#[cfg(feature = "gpu")]
mod examine;
#[cfg(feature = "gpu")]
mod race;

use serde::{Deserialize, Serialize};

#[cfg(feature = "gpu")]
pub use examine::examine;
#[cfg(feature = "gpu")]
pub(crate) use examine::first_right;

/// What the doctor found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Examination {
    /// Every adapter.
    pub adapters: Vec<AdapterReport>,
    /// What `auto` takes: `cpu`, or `gpu` with the adapter's name.
    pub auto: String,
    /// Why.
    pub because: String,
}

/// One adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterReport {
    /// Its name.
    pub name: String,
    /// Of a discrete GPU, an integrated one, or a CPU that poses as one.
    pub kind: String,
    /// Vulkan, Metal and so on.
    pub api: String,
    /// The driver and its version.
    pub driver: String,
    /// Features that kernels or profiles have a use for.
    pub features: Vec<String>,
    /// Limits by name.
    pub limits: Vec<(String, u64)>,
    /// The smallest and the largest subgroup.
    pub subgroups: [u32; 2],
    /// Known faults of its driver: symptom, source, and what is done.
    pub faults: Vec<[String; 3]>,
    /// Every variant of the kernels.
    pub variants: Vec<VariantReport>,
    /// The kernels that run, and why; `None` where none is right.
    pub chosen: Option<[String; 2]>,
    /// Times of the CPU's as a multiple of the GPU's: for a generated row, and for prompt rows.
    pub faster: Option<[f64; 2]>,
}

/// One variant of the kernels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VariantReport {
    /// Its name.
    pub name: String,
    /// Whether it is right here; `None` where the device cannot run it.
    pub right: Option<bool>,
    /// The largest error as a share of the largest value, or why there is none.
    pub detail: String,
}

/// What is kept of an examination of one driver's version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Adapter, API, driver and its version.
    pub key: String,
    /// The name of the kernels that suit the device, of which this is said: others are chosen under other numerics.
    pub kernels: String,
    /// The kernels that were right: those that suit the device where it is empty, else a variant; `None` where none is.
    pub variant: Option<String>,
    /// How many times as fast as the CPU it generated, where it was faster and no slower with prompts.
    pub faster: Option<f64>,
}
