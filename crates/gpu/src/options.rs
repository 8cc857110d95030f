//! What an embedder may choose about the device. Not what kernels choose for themselves: see `decide`.

/// Which device to open, and how much of it to use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GpuOptions {
    /// Part of an adapter's name, in any case. Without it, wgpu's own `WGPU_ADAPTER_NAME` counts, and
    /// else the strongest kind of device is taken. `WGPU_BACKEND` restricts the choice either way.
    pub adapter: Option<String>,
    /// Keep to the lowest tier for buffer sizes too: 128 MiB a binding, 256 MiB a buffer. Without it these
    /// two limits are raised to what the device offers; no other limit ever is.
    pub lowest_tier: bool,
    /// Use at most so many bytes behind one binding, where the device offers more. Larger matrices are
    /// split; larger tensors, pages of a layer or adapters together are refused.
    pub binding_bytes: Option<u64>,
}
