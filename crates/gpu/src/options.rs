//! What an embedder may choose about the device. What kernels choose for themselves is in `decide`.

use std::path::PathBuf;

use interleaf_contract::{BackendError, Numerics};

use crate::error;

/// Which device to open, and how much of it to use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GpuOptions {
    /// Part of an adapter's name, in any case. Without it, wgpu's own `WGPU_ADAPTER_NAME` counts, and
    /// else the strongest kind of device is taken. `WGPU_BACKEND` restricts the choice either way.
    pub adapter: Option<String>,
    /// The key of the one adapter to open ([`GpuAdapter::key`](crate::GpuAdapter::key)), whatever others are called; its
    /// name does not matter then.
    pub key: Option<String>,
    /// What is asked of the device.
    pub tier: GpuTier,
    /// The kernels to run, where they are not to suit the device.
    pub variant: Option<GpuVariant>,
    /// Whether lesser kernels may run than those of `variant`, where the driver refuses one of them; those that suit the
    /// device always give way.
    pub gives_way: bool,
    /// Whether quantised weights may meet quantised activations, as they do where a device multiplies bytes faster.
    pub numerics: Numerics,
    /// Use at most so many bytes behind one binding, where the device offers more. Larger matrices are
    /// split; larger tensors, pages of a layer or adapters together are refused.
    pub binding_bytes: Option<u64>,
    /// Kernels in one command buffer; 0 for all of a step. Some drivers lose the device over large ones.
    pub dispatches_per_submit: usize,
    /// A folder where compiled pipelines are kept between runs, where the API offers that. Files in it are this crate's own
    /// and may be deleted at any time.
    pub pipeline_cache: Option<PathBuf>,
    /// What goes wrong on purpose, in tests of what happens then.
    pub failure: Option<GpuFailure>,
}

/// A failure that is made to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GpuFailure {
    /// Every kernel of a variant beyond the baseline is refused, as by a driver that cannot compile it.
    Pipelines,
    /// The same of the baseline too.
    AllPipelines,
    /// The device is lost after so many steps.
    Lost {
        /// Steps that still run.
        after: u64,
    },
}

/// How much is asked of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GpuTier {
    /// The features that kernels have variants for, and buffers as large as there are.
    #[default]
    Best,
    /// The lowest tier of WebGPU limits and no feature: 8 storage buffers, 16 KiB of workgroup memory, 256
    /// invocations, 128 MiB a binding. What runs so runs on every phone.
    Lowest,
}

/// A set of kernels, by what it uses of a device beyond the lowest tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GpuVariant {
    /// Nothing.
    Baseline,
    /// Lanes that share a dot product add their sums through subgroups.
    Subgroup,
    /// Halves are converted by the device and not by integers.
    Half,
    /// Weights of prompt kernels are staged as f16, as they are not exactly for quantised ones.
    StagedHalf,
    /// Quantised weights meet activations of act=q8_0, four bytes to a `dot4I8Packed`.
    Dot,
    /// Products of prompt rows go through cooperative matrices, which wgpu calls experimental: only by name.
    Matrix,
}

impl GpuVariant {
    /// Every variant.
    pub const ALL: [Self; 6] =
        [Self::Baseline, Self::Subgroup, Self::Half, Self::StagedHalf, Self::Dot, Self::Matrix];

    /// The name in reports and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Subgroup => "subgroup",
            Self::Half => "half",
            Self::StagedHalf => "staged-half",
            Self::Dot => "dot",
            Self::Matrix => "matrix",
        }
    }

    /// The variant of a name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Self, BackendError> {
        let found = Self::ALL.into_iter().find(|variant| variant.name() == name);
        let names = Self::ALL.map(Self::name).join(", ");
        found.ok_or_else(|| error::unsupported(format!("a variant named {name:?} (expected one of {names})")))
    }
}
