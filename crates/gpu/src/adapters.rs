//! What adapters there are, for whoever asks before opening one.

use interleaf_contract::Numerics;
use wgpu::{Features, Limits};

use crate::decide::Decisions;
use crate::faults::{self, Fault};
use crate::limits::{Caps, required};
use crate::options::GpuTier;

/// An adapter and what it offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuAdapter {
    /// Its name.
    pub name: String,
    /// `DiscreteGpu`, `IntegratedGpu`, `Cpu` and so on.
    pub kind: String,
    /// The API that it is reached by.
    pub api: String,
    /// The driver and its version.
    pub driver: String,
    /// The features that kernels or profiles have a use for.
    pub features: Vec<&'static str>,
    /// Limits by name.
    pub limits: Vec<(&'static str, u64)>,
    /// The smallest and the largest subgroup.
    pub subgroups: [u32; 2],
    /// Known faults that it may have.
    pub faults: Vec<Fault>,
    /// The kernels that suit it.
    pub suits: &'static str,
    /// Whether it is a CPU that poses as a GPU.
    pub is_software: bool,
}

impl GpuAdapter {
    /// What results on it are good for: they are not for another driver's, nor for other kernels.
    #[must_use]
    pub fn key(&self) -> String {
        key(&self.name, &self.api, &self.driver)
    }

    pub(crate) fn of(adapter: &wgpu::Adapter) -> Self {
        let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
        let faults = faults::of(&info);
        let caps = Caps::of(&required(&limits, GpuTier::Best), None).with(features, adapter);
        let (caps, _) = faults::avoid(&faults, caps, 0);
        Self {
            kind: format!("{:?}", info.device_type),
            api: info.backend.to_string(),
            driver: driver(&info),
            features: USEFUL.iter().filter(|(f, _)| features.contains(*f)).map(|(_, name)| *name).collect(),
            limits: limits_of(&limits),
            subgroups: [info.subgroup_min_size, info.subgroup_max_size],
            faults,
            suits: Decisions::of(caps, Numerics::ActQ8_0).name(),
            is_software: info.device_type == wgpu::DeviceType::Cpu,
            name: info.name,
        }
    }
}

fn driver(info: &wgpu::AdapterInfo) -> String {
    format!("{} {}", info.driver, info.driver_info).trim().to_owned()
}

fn key(name: &str, api: &str, driver: &str) -> String {
    format!("{name} | {api} | {driver} | interleaf {}", env!("CARGO_PKG_VERSION"))
}

/// The key of an adapter that is not described otherwise.
pub(crate) fn key_of(info: &wgpu::AdapterInfo) -> String {
    key(&info.name, info.backend.to_str(), &driver(info))
}

const USEFUL: [(Features, &str); 7] = [
    (Features::SHADER_F16, "shader-f16"),
    (Features::SUBGROUP, "subgroups"),
    (Features::TIMESTAMP_QUERY, "timestamp-query"),
    (Features::TIMESTAMP_QUERY_INSIDE_PASSES, "timestamp-query-inside-passes"),
    (Features::PIPELINE_CACHE, "pipeline-cache"),
    (Features::IMMEDIATES, "immediates"),
    (Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative-matrix"),
];

fn limits_of(limits: &Limits) -> Vec<(&'static str, u64)> {
    vec![
        ("storage buffers a stage", limits.max_storage_buffers_per_shader_stage.into()),
        ("bytes of a binding", limits.max_storage_buffer_binding_size),
        ("bytes of a buffer", limits.max_buffer_size),
        ("bytes of workgroup memory", limits.max_compute_workgroup_storage_size.into()),
        ("invocations of a workgroup", limits.max_compute_invocations_per_workgroup.into()),
        ("workgroups a dimension", limits.max_compute_workgroups_per_dimension.into()),
    ]
}

/// Every adapter, in the order in which drivers name them. Drivers are touched here.
#[must_use]
pub fn adapters() -> Vec<GpuAdapter> {
    let (_, adapters) = crate::device::enumerate();
    adapters.iter().map(GpuAdapter::of).collect()
}
