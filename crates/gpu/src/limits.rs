//! Limits of a device: the lowest tier, which every kernel can keep to, and the few that may be raised.

use wgpu::Features;

use crate::faults::{AMD, INTEL, NVIDIA};
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
    /// Whether four products of bytes are one instruction.
    pub dot: bool,
    /// Whether subgroups of 32 multiply 8 × 8 matrices of f32.
    pub matrix: bool,
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
        // Tiles of attention with large heads. More would leave a core too few workgroups.
        max_compute_workgroup_storage_size: offered
            .max_compute_workgroup_storage_size
            .clamp(lowest.max_compute_workgroup_storage_size, 32 << 10),
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
            dot: false,
            matrix: false,
        }
    }

    /// The same of an adapter's device with features.
    pub(crate) fn with(self, features: Features, adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let subgroups = features.contains(Features::SUBGROUP);
        let matrix = |m: &wgpu::CooperativeMatrixProperties| {
            let f32s = [m.ab_type, m.cr_type] == [wgpu::CooperativeScalarType::F32; 2];
            f32s && [m.m_size, m.n_size, m.k_size] == [8; 3]
        };
        Self {
            subgroup: if subgroups { info.subgroup_min_size } else { 0 },
            f16: features.contains(Features::SHADER_F16),
            dot: multiplies_bytes(info.vendor, info.backend),
            matrix: features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
                && [info.subgroup_min_size, info.subgroup_max_size] == [32; 2]
                && adapter.cooperative_matrix_properties().iter().any(matrix),
            ..self
        }
    }

    /// The lowest tier.
    #[cfg(test)]
    pub(crate) fn lowest() -> Self {
        Self::of(&wgpu::Limits::defaults(), None)
    }
}

/// Whether `dot4I8Packed` is an instruction that pays. No API tells; llama.cpp's WebGPU kernels use it on these vendors
/// only, and where WGSL becomes Metal's language it is four multiplications.
fn multiplies_bytes(vendor: u32, api: wgpu::Backend) -> bool {
    [AMD, INTEL, NVIDIA].contains(&vendor) && [wgpu::Backend::Vulkan, wgpu::Backend::Dx12].contains(&api)
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
    fn buffers_and_workgroup_memory_are_raised_and_nothing_else() {
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
        assert_eq!(raised.max_compute_workgroup_storage_size, 32 << 10);
        assert_eq!(raised.max_compute_invocations_per_workgroup, 256);
        assert_eq!(required(&offered, GpuTier::Lowest), wgpu::Limits::defaults());
    }

    #[test]
    fn bytes_are_multiplied_where_that_is_an_instruction() {
        assert!(
            multiplies_bytes(NVIDIA, wgpu::Backend::Vulkan) && multiplies_bytes(AMD, wgpu::Backend::Dx12)
        );
        assert!(
            !multiplies_bytes(AMD, wgpu::Backend::Metal) && !multiplies_bytes(0x5143, wgpu::Backend::Vulkan)
        );
    }
}
