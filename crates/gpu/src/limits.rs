//! Limits of a device: the lowest tier, which every kernel keeps to, and the two that may be raised.

use crate::options::GpuTier;

/// What decisions and buffer plans depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caps {
    /// Bytes that one storage binding may reach.
    pub binding_bytes: u64,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Workgroups along one dimension of a dispatch.
    pub workgroups: u32,
    /// The smallest subgroup that the device may use; 0 where kernels may not rely on subgroups.
    pub subgroup: u32,
    /// Whether WGSL may use f16.
    pub f16: bool,
}

/// What is asked of a device that offers `offered`.
pub(crate) fn required(offered: &wgpu::Limits, tier: GpuTier) -> wgpu::Limits {
    let lowest = wgpu::Limits::defaults();
    if tier == GpuTier::Lowest {
        return lowest;
    }
    // A weight matrix, a layer's pages or the adapters may need more than 128 MiB behind one binding.
    wgpu::Limits {
        max_storage_buffer_binding_size: offered
            .max_storage_buffer_binding_size
            .max(lowest.max_storage_buffer_binding_size),
        max_buffer_size: offered.max_buffer_size.max(lowest.max_buffer_size),
        ..lowest
    }
}

impl Caps {
    /// What a device with these limits can do. Addresses in kernels are u32 words and vec4 counts, so no
    /// binding is used beyond 2 GiB even where one may be larger, nor beyond `binding_bytes` where given.
    pub(crate) fn of(limits: &wgpu::Limits, binding_bytes: Option<u64>) -> Self {
        const ADDRESSABLE: u64 = 1 << 31;
        let most = binding_bytes.unwrap_or(ADDRESSABLE).min(ADDRESSABLE);
        let binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(most);
        Self {
            // Whole vec4: some drivers offer 2³¹ − 1.
            binding_bytes: binding / 16 * 16,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroups: limits.max_compute_workgroups_per_dimension,
            subgroup: 0,
            f16: false,
        }
    }

    /// The same of a device with features: with subgroups, the smallest is given.
    pub(crate) fn with(self, features: wgpu::Features, subgroup: u32) -> Self {
        let subgroup = if features.contains(wgpu::Features::SUBGROUP) { subgroup } else { 0 };
        Self { subgroup, f16: features.contains(wgpu::Features::SHADER_F16), ..self }
    }

    /// The lowest tier.
    #[cfg(test)]
    pub(crate) fn lowest() -> Self {
        Self::of(&wgpu::Limits::defaults(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_tier_is_what_the_design_counts_on() {
        let lowest = wgpu::Limits::defaults();
        assert_eq!(lowest.max_storage_buffers_per_shader_stage, 8);
        assert_eq!(lowest.min_uniform_buffer_offset_alignment, 256);
        let caps = Caps::lowest();
        assert_eq!(caps.binding_bytes, 128 << 20);
        assert_eq!(Caps::of(&lowest, Some(100)).binding_bytes, 96);
        assert_eq!(caps.workgroup_bytes, 16 << 10);
        assert_eq!(lowest.max_compute_invocations_per_workgroup, 256);
        assert_eq!(caps.workgroups, 65_535);
    }

    #[test]
    fn only_buffer_sizes_are_raised() {
        let offered = wgpu::Limits {
            max_storage_buffer_binding_size: 1 << 30,
            max_buffer_size: 1 << 31,
            max_compute_workgroup_storage_size: 1 << 16,
            max_compute_invocations_per_workgroup: 1024,
            ..wgpu::Limits::defaults()
        };
        let raised = required(&offered, GpuTier::Best);
        assert_eq!(raised.max_storage_buffer_binding_size, 1 << 30);
        assert_eq!(raised.max_buffer_size, 1 << 31);
        assert_eq!(raised.max_compute_workgroup_storage_size, 16 << 10);
        assert_eq!(raised.max_compute_invocations_per_workgroup, 256);
        assert_eq!(required(&offered, GpuTier::Lowest), wgpu::Limits::defaults());
    }
}
