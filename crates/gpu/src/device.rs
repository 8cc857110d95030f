//! The open device: how it is found, and how its errors become typed ones. Nothing of kernels or steps.
//!
//! wgpu reports most errors through scopes and callbacks and treats what nobody catches as fatal. Here
//! every call that can fail is inside [`Gpu::guarded`], and the rest is recorded and returned by the next
//! call that checks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use interleaf_contract::{BackendError, Numerics, Waiter};
use wgpu::{ErrorFilter, Features, PollType};

use crate::adapters::{GpuAdapter, key_of};
use crate::choose::{Candidate, choose};
use crate::decide::Decisions;
use crate::error;
use crate::faults;
use crate::limits::{Caps, required};
use crate::options::{GpuFailure, GpuOptions, GpuTier, GpuVariant};
use crate::pipeline_cache::PipelineCache;

/// An open device and its queue.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub caps: Caps,
    /// Which variants of the kernels it runs.
    pub decisions: Decisions,
    /// Kernels in one command buffer; 0 for all of a step.
    pub dispatches: usize,
    /// What it was opened from.
    pub adapter: GpuAdapter,
    /// Where pipelines are kept between runs, if they are.
    pub pipelines: Option<PipelineCache>,
    /// What goes wrong on purpose.
    pub failure: Option<GpuFailure>,
    /// Adapter, API and driver, for reports.
    pub name: String,
    /// Where shaders count what they load, in tests that ask for it.
    #[cfg(test)]
    pub counters: Option<wgpu::Buffer>,
    /// The first error that no scope caught, or why the device was lost.
    fault: Arc<Mutex<Option<String>>>,
}

impl Gpu {
    /// Opens a device. The driver is first touched here.
    pub(crate) fn open(options: &GpuOptions) -> Result<Self, BackendError> {
        let (_instance, adapters) = enumerate();
        let candidates: Vec<Candidate> = adapters
            .iter()
            .map(|a| a.get_info())
            .map(|info| Candidate { key: key_of(&info), name: info.name, kind: info.device_type })
            .collect();
        let name = options.adapter.clone().or_else(|| std::env::var("WGPU_ADAPTER_NAME").ok());
        let Some(adapter) =
            choose(&candidates, options.key.as_deref(), name.as_deref()).and_then(|i| adapters.get(i))
        else {
            let found: Vec<&str> = candidates.iter().map(|c| c.name.as_str()).collect();
            let named = name.map(|n| format!(" named like {n:?}"));
            let wanted = options.key.as_ref().map(|key| format!(" {key:?}")).or(named).unwrap_or_default();
            return Err(error::device(format!("no adapter{wanted} among {found:?}")));
        };
        let info = adapter.get_info();
        let required_limits = required(&adapter.limits(), options.tier);
        #[cfg(test)]
        let required_limits = with_room_for_counters(required_limits, &adapter.limits());
        let mut required_features = match options.tier {
            GpuTier::Lowest => Features::empty(),
            GpuTier::Best => wanted(adapter.features()),
        };
        if options.variant != Some(GpuVariant::Matrix) {
            required_features.remove(Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        }
        let caps = Caps::of(&required_limits, options.binding_bytes).with(required_features, adapter);
        let (caps, dispatches) = faults::avoid(&faults::of(&info), caps, options.dispatches_per_submit);
        let decisions = match options.variant {
            None => Decisions::of(caps, options.numerics),
            Some(GpuVariant::Dot) if options.numerics == Numerics::ActF32 => {
                return Err(error::unsupported("variant dot under act=f32"));
            }
            Some(variant) => Decisions::forced(caps, variant).map_err(|missing| {
                let (variant, device) = (variant.name(), &info.name);
                error::unsupported(format!("variant {variant} on {device}, which has no {missing},"))
            })?,
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("interleaf"),
            required_limits,
            required_features,
            experimental_features: experimental(required_features),
            // Weights fill memory: large speculative blocks of the allocator would come on top.
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        }))
        .map_err(error::device)?;

        let fault = Arc::new(Mutex::new(None));
        let uncaptured = Arc::clone(&fault);
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| record(&uncaptured, e.to_string())));
        let lost = Arc::clone(&fault);
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the device ends here as well, and is nobody's fault.
            if reason != wgpu::DeviceLostReason::Destroyed {
                record(&lost, format!("the device was lost: {message}"));
            }
        });
        let folder = options.pipeline_cache.as_deref();
        let pipelines = folder.and_then(|folder| PipelineCache::open(&device, &info, folder));
        let name = format!("{} ({}, {} {})", info.name, info.backend, info.driver, info.driver_info);
        Ok(Self {
            device,
            queue,
            caps,
            decisions,
            dispatches,
            adapter: GpuAdapter::of(adapter),
            pipelines,
            failure: options.failure,
            name,
            #[cfg(test)]
            counters: None,
            fault,
        })
    }

    /// The layout of the group that counters are bound by.
    #[cfg(test)]
    pub(crate) fn counter_layout(&self) -> wgpu::BindGroupLayout {
        self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("counters"),
            entries: &[wgpu::BindGroupLayoutEntry {
                binding: 0,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: false },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            }],
        })
    }

    /// The group itself, where shaders count.
    #[cfg(test)]
    pub(crate) fn counter_group(&self) -> Option<wgpu::BindGroup> {
        let counters = self.counters.as_ref()?;
        Some(self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("counters"),
            layout: &self.counter_layout(),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: counters.as_entire_binding() }],
        }))
    }

    /// Loses the device on purpose: nothing runs on it any more.
    pub(crate) fn lose(&self) {
        self.device.destroy();
        record(&self.fault, "the device was lost: on purpose".to_owned());
    }

    /// Runs calls into wgpu and returns what they made, or the first error that they caused. `bytes` is
    /// what they allocate, for the message.
    pub(crate) fn guarded<T>(
        &self,
        what: &str,
        bytes: u64,
        make: impl FnOnce() -> T,
    ) -> Result<T, BackendError> {
        self.check()?;
        let filters = [ErrorFilter::OutOfMemory, ErrorFilter::Validation, ErrorFilter::Internal];
        let scopes = filters.map(|filter| self.device.push_error_scope(filter));
        let made = make();
        // A stack: the last scope is popped first. All are popped, whatever they hold.
        let errors = scopes.into_iter().rev().map(|scope| pollster::block_on(scope.pop()));
        match errors.fold(None, |first, found| first.or(found)) {
            None => Ok(made),
            Some(e @ wgpu::Error::OutOfMemory { .. }) => Err(error::no_room(what, bytes, e)),
            Some(e) => Err(error::device(format!("{what}: {e}"))),
        }
    }

    /// Returns what went wrong outside every scope, if anything did: the device counts as lost from then on.
    pub(crate) fn check(&self) -> Result<(), BackendError> {
        match &*self.fault.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(reason) => Err(error::lost(reason)),
        }
    }

    /// Waits until everything submitted has run, so that what was dropped since is free.
    pub(crate) fn wait_for_all(&self) -> Result<(), BackendError> {
        let last = self.guarded("submission", 0, || self.queue.submit([]))?;
        self.wait(last)
    }

    /// Waits until a submission has run and its buffers are mapped.
    pub(crate) fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<(), BackendError> {
        let wait = PollType::Wait { submission_index: Some(submission), timeout: None };
        poll(&self.device, &self.fault, wait)?;
        self.check()
    }

    /// What waits for everything submitted, from any thread.
    pub(crate) fn waiter(&self) -> Waiter {
        let (device, fault) = (self.device.clone(), Arc::clone(&self.fault));
        Waiter::new(move || {
            if let Err(e) = poll(&device, &fault, PollType::wait_indefinitely()) {
                record(&fault, e.to_string());
            }
        })
    }
}

/// Polls a device. wgpu 30 panics when it is lost meanwhile: no panic leaves this crate.
fn poll(device: &wgpu::Device, fault: &Mutex<Option<String>>, how: PollType) -> Result<(), BackendError> {
    match catch_unwind(AssertUnwindSafe(|| device.poll(how))) {
        Ok(done) => done.map(|_| ()).map_err(error::device),
        Err(_) => {
            record(fault, "the device was lost while waiting for it".to_owned());
            Ok(())
        }
    }
}

/// The instance and its adapters. Nothing before this touches a driver.
pub(crate) fn enumerate() -> (wgpu::Instance, Vec<wgpu::Adapter>) {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    // OpenGL only where it is asked for by name: its compute support varies most and is checked least.
    let backends = wgpu::Backends::from_env().unwrap_or(wgpu::Backends::PRIMARY);
    descriptor.backends = backends;
    let instance = wgpu::Instance::new(descriptor);
    let adapters = pollster::block_on(instance.enumerate_adapters(backends));
    (instance, adapters)
}

/// One storage buffer more than kernels have, for what tests count.
#[cfg(test)]
fn with_room_for_counters(required: wgpu::Limits, offered: &wgpu::Limits) -> wgpu::Limits {
    let buffers = required.max_storage_buffers_per_shader_stage + 1;
    wgpu::Limits {
        max_storage_buffers_per_shader_stage: buffers.min(offered.max_storage_buffers_per_shader_stage),
        ..required
    }
}

/// What kernels have variants for and what a profile needs, of what an adapter offers.
fn wanted(offered: Features) -> Features {
    let times = Features::TIMESTAMP_QUERY | Features::TIMESTAMP_QUERY_INSIDE_PASSES;
    let kernels = Features::SUBGROUP | Features::SHADER_F16 | Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    offered & (kernels | Features::PIPELINE_CACHE | times)
}

/// wgpu's leave to use features that it calls experimental: only for the kernels that are asked for by name.
#[allow(unsafe_code)]
fn experimental(required: Features) -> wgpu::ExperimentalFeatures {
    if !required.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: wgpu asks that its user expect bugs of such features; whoever names the variant does.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// Keeps the first reason: later ones are consequences.
fn record(fault: &Mutex<Option<String>>, reason: String) {
    fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
}
