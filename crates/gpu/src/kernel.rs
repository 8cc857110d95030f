//! Kernels as values, and the pipelines compiled from them on first use. The key says everything that the
//! WGSL depends on; what a kernel is for is in the module of its stem.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use interleaf_contract::BackendError;

use crate::device::Gpu;
use crate::options::GpuFailure;
use crate::shader::{ComposeError, compose};
use crate::sources::FILES;
use crate::{
    add, attention_mass, embed, error, kv_append, kv_read, lora_matmul, page_codec, paged_attention,
    quantise, rms_norm, roofline, rope, sample, softcap, swiglu,
};

/// One pipeline. Small and hashable: the key of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kernel {
    AttentionMass(attention_mass::Variant),
    Embed(embed::Variant),
    RmsNorm(rms_norm::Variant),
    LoraMatmul(lora_matmul::Variant),
    Rope(rope::Variant),
    KvAppend(kv_append::Variant),
    KvRead(kv_read::Variant),
    Add(add::Variant),
    PageCodec(page_codec::Variant),
    PagedAttention(paged_attention::Variant),
    Quantise(quantise::Variant),
    SwiGlu(swiglu::Variant),
    Softcap(softcap::Variant),
    Sample(sample::Variant),
    Roofline(roofline::Variant),
}

/// How a kernel uses a storage buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    Read,
    Write,
}

/// What a kernel is compiled from. Binding 0 is its uniform parameters; `bindings` follow from 1.
#[derive(Debug)]
pub(crate) struct Template {
    /// The file in `shaders/`, without its extension, and the entry point in it.
    pub name: &'static str,
    pub constants: Vec<(&'static str, String)>,
    pub bindings: &'static [Access],
    /// Bytes of the parameters.
    pub params: usize,
    pub needs: Needs,
}

/// What WGSL must be told that a kernel uses beyond its core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    F16,
    Matrices,
}

impl Needs {
    const fn directive(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::F16 => "enable f16;\n",
            Self::Matrices => "enable wgpu_cooperative_matrix;\n",
        }
    }
}

impl Template {
    /// The WGSL.
    pub(crate) fn compose(&self) -> Result<String, ComposeError> {
        let body = compose(FILES, &format!("{}.wgsl", self.name), &self.constants)?;
        Ok(format!("{}{body}", self.needs.directive()))
    }
}

impl Kernel {
    pub(crate) fn template(self) -> Template {
        match self {
            Self::AttentionMass(variant) => variant.template(),
            Self::Embed(variant) => variant.template(),
            Self::RmsNorm(variant) => variant.template(),
            Self::LoraMatmul(variant) => variant.template(),
            Self::Rope(variant) => variant.template(),
            Self::KvAppend(variant) => variant.template(),
            Self::KvRead(variant) => variant.template(),
            Self::Add(variant) => variant.template(),
            Self::PageCodec(variant) => variant.template(),
            Self::PagedAttention(variant) => variant.template(),
            Self::Quantise(variant) => variant.template(),
            Self::SwiGlu(variant) => variant.template(),
            Self::Softcap(variant) => variant.template(),
            Self::Sample(variant) => variant.template(),
            Self::Roofline(variant) => variant.template(),
        }
    }
}

/// A compiled kernel.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    /// Bytes of the parameters.
    pub params: NonZeroU64,
    pub bindings: &'static [Access],
    pub name: &'static str,
}

/// The pipelines compiled so far, and those that a driver refused.
#[derive(Debug, Default)]
pub(crate) struct Kernels {
    compiled: HashMap<Kernel, Result<Arc<Compiled>, BackendError>>,
    refused: bool,
}

impl Kernels {
    /// A kernel's pipeline, compiled now if this is its first use. What a driver refuses to compile is not
    /// tried again: whoever needs it gets the same error, and [`Kernels::take_refused`] says so.
    pub(crate) fn get(&mut self, gpu: &Gpu, kernel: Kernel) -> Result<Arc<Compiled>, BackendError> {
        if let Some(compiled) = self.compiled.get(&kernel) {
            return compiled.clone();
        }
        let refused = match gpu.failure {
            Some(GpuFailure::AllPipelines) => true,
            Some(GpuFailure::Pipelines) => gpu.decisions.next().is_some(),
            _ => false,
        };
        let template = kernel.template();
        let compiled = if refused {
            Err(error::device(format!("{}: refused on purpose", template.name)))
        } else {
            compile(gpu, &template).map(Arc::new)
        };
        // Memory may be there the next time.
        if !matches!(compiled, Err(BackendError::OutOfMemory { .. })) {
            self.compiled.insert(kernel, compiled.clone());
        }
        self.refused |= matches!(compiled, Err(BackendError::Device { .. })) && gpu.check().is_ok();
        compiled
    }

    /// Whether a driver that otherwise works refused a pipeline since this was last asked. All are forgotten then.
    pub(crate) fn take_refused(&mut self) -> bool {
        let refused = std::mem::take(&mut self.refused);
        if refused {
            self.compiled.clear();
        }
        refused
    }
}

fn compile(gpu: &Gpu, template: &Template) -> Result<Compiled, BackendError> {
    let name = template.name;
    let source = template.compose().map_err(|e| error::device(format!("{name}: {e}")))?;
    let params = NonZeroU64::new(template.params as u64)
        .ok_or_else(|| error::device(format!("{name}: a kernel has parameters")))?;
    let device = &gpu.device;
    #[cfg(test)]
    let (source, counters) = match gpu.counters {
        Some(_) => (crate::instrument::counting(name, &source), Some(gpu.counter_layout())),
        None => (source, None),
    };
    gpu.guarded(name, 0, || {
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(name),
            entries: &layout_entries(template.bindings, params),
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(name),
            #[cfg(not(test))]
            bind_group_layouts: &[Some(&layout)],
            #[cfg(test)]
            bind_group_layouts: &[Some(&layout), counters.as_ref()][..1 + usize::from(counters.is_some())],
            immediate_size: 0,
        });
        let module = module(device, name, source);
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(name),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                // Kernels write workgroup memory before they read it; zeroing it costs a barrier and
                // was once miscompiled.
                zero_initialize_workgroup_memory: false,
            },
            cache: gpu.pipelines.as_ref().map(|pipelines| &pipelines.cache),
        });
        Compiled { pipeline, layout, params, bindings: template.bindings, name }
    })
}

/// The one place where shaders are trusted: their loops end by themselves, which is not bounded once more, and their
/// divisors are not zero. Indices stay checked: on most devices that costs nothing, and some punish mistakes.
#[allow(unsafe_code)]
fn module(device: &wgpu::Device, name: &str, source: String) -> wgpu::ShaderModule {
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(name), source: wgpu::ShaderSource::Wgsl(source.into()) };
    let checks = wgpu::ShaderRuntimeChecks {
        force_loop_bounding: false,
        int_div_checks: false,
        ..wgpu::ShaderRuntimeChecks::checked()
    };
    // SAFETY: the source is this crate's own. Every loop counts towards a bound of its parameters or tables, and what is
    // divided by is a tile size, a stride or a count that is at least 1 where its kernel is dispatched.
    unsafe { device.create_shader_module_trusted(descriptor, checks) }
}

fn layout_entries(bindings: &[Access], params: NonZeroU64) -> Vec<wgpu::BindGroupLayoutEntry> {
    let entry = |binding, ty, has_dynamic_offset, min_binding_size| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size },
        count: None,
    };
    let uniform = entry(0, wgpu::BufferBindingType::Uniform, true, Some(params));
    let storage = bindings.iter().zip(1..).map(|(access, binding)| {
        let read_only = *access == Access::Read;
        entry(binding, wgpu::BufferBindingType::Storage { read_only }, false, None)
    });
    std::iter::once(uniform).chain(storage).collect()
}

#[cfg(test)]
mod tests {
    //! Every variant of every kernel, composed and translated without a device.

    use naga::back::{glsl, hlsl, msl, spv};
    use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
    use naga::{AddressSpace, Module, TypeInner};

    use super::*;
    use crate::limits::Caps;

    fn every_kernel() -> Vec<Kernel> {
        let mut all = Vec::new();
        all.extend(attention_mass::Variant::all().into_iter().map(Kernel::AttentionMass));
        all.extend(embed::Variant::all().into_iter().map(Kernel::Embed));
        all.extend(rms_norm::Variant::all().into_iter().map(Kernel::RmsNorm));
        all.extend(lora_matmul::Variant::all().into_iter().map(Kernel::LoraMatmul));
        all.extend(rope::Variant::all().into_iter().map(Kernel::Rope));
        all.extend(kv_append::Variant::all().into_iter().map(Kernel::KvAppend));
        all.extend(kv_read::Variant::all().into_iter().map(Kernel::KvRead));
        all.extend(add::Variant::all().into_iter().map(Kernel::Add));
        all.extend(page_codec::Variant::all().into_iter().map(Kernel::PageCodec));
        all.extend(paged_attention::Variant::all().into_iter().map(Kernel::PagedAttention));
        all.extend(quantise::Variant::all().into_iter().map(Kernel::Quantise));
        all.extend(swiglu::Variant::all().into_iter().map(Kernel::SwiGlu));
        all.extend(softcap::Variant::all().into_iter().map(Kernel::Softcap));
        all.extend(sample::Variant::all().into_iter().map(Kernel::Sample));
        all.extend(roofline::Variant::all().into_iter().map(Kernel::Roofline));
        all
    }

    fn parse(kernel: Kernel) -> (Template, Module, ModuleInfo) {
        let template = kernel.template();
        let source = template.compose().unwrap_or_else(|e| panic!("{kernel:?}: {e}"));
        let options = naga::front::wgsl::Options {
            capabilities: Capabilities::all(),
            ..naga::front::wgsl::Options::new()
        };
        let module = naga::front::wgsl::Frontend::new_with_options(options)
            .parse(&source)
            .unwrap_or_else(|e| panic!("{kernel:?}: {}", e.emit_to_string(&source)));
        // Nothing beyond core WebGPU but what the variant asks for.
        let mut needs = match template.needs {
            Needs::Nothing => Capabilities::empty(),
            Needs::F16 => Capabilities::SHADER_FLOAT16,
            Needs::Matrices => Capabilities::COOPERATIVE_MATRIX,
        };
        if source.contains("unpack2x16float") {
            needs |= Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        }
        if source.contains("subgroup") {
            needs |= Capabilities::SUBGROUP;
        }
        let info = Validator::new(ValidationFlags::all(), needs)
            .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
            .subgroup_operations(naga::valid::SubgroupOperationSet::all())
            .validate(&module)
            .unwrap_or_else(|e| panic!("{kernel:?}: {}", e.emit_to_string(&source)));
        (template, module, info)
    }

    #[test]
    fn every_variant_is_valid_and_within_the_lowest_tier() {
        let caps = Caps::lowest();
        for kernel in every_kernel() {
            let (template, module, _) = parse(kernel);
            let entry = &module.entry_points[0];
            assert_eq!(module.entry_points.len(), 1, "{kernel:?}");
            assert_eq!(entry.name, template.name);
            let [x, y, z] = entry.workgroup_size;
            assert!(x <= 256 && y == 1 && z == 1, "{kernel:?}: workgroups have one dimension");

            let size = |global: &naga::GlobalVariable| module.types[global.ty].inner.size(module.to_ctx());
            let mut workgroup = 0;
            let mut storage = Vec::new();
            for (_, global) in module.global_variables.iter() {
                match global.space {
                    AddressSpace::WorkGroup => workgroup += size(global),
                    AddressSpace::Uniform => {
                        assert_eq!(global.binding.map(|b| b.binding), Some(0), "{kernel:?}");
                        let TypeInner::Struct { span, .. } = module.types[global.ty].inner else {
                            panic!("{kernel:?}: parameters are a struct")
                        };
                        assert_eq!(span as usize, template.params, "{kernel:?}: size of the parameters");
                    }
                    AddressSpace::Storage { access } => {
                        let written = access.contains(naga::StorageAccess::STORE);
                        storage.push((global.binding.map(|b| b.binding), written));
                    }
                    _ => {}
                }
            }
            assert!(workgroup <= caps.workgroup_bytes, "{kernel:?}: {workgroup} bytes of workgroup memory");
            storage.sort_unstable();
            let declared = template.bindings.iter().zip(1..);
            let declared: Vec<_> = declared.map(|(a, i)| (Some(i), *a == Access::Write)).collect();
            assert_eq!(storage, declared, "{kernel:?}: bindings");
            assert!(storage.len() <= 8, "{kernel:?}");
        }
    }

    /// What spirv-val says of SPIR-V that naga writes, and is known: workgroup arrays have a stride, which they may not
    /// have (wgpu #7696). Without their strides modules must be valid.
    const KNOWN: &str = "VUID-StandaloneSpirv-None-10684";

    /// What a spirv-val says that is older than cooperative matrices.
    const TOO_OLD: &str = "Invalid capability operand: 6022";

    /// Whether spirv-val is installed.
    fn has_spirv_val() -> bool {
        let asked = std::process::Command::new("spirv-val").arg("--version").output();
        let has = asked.is_ok_and(|output| output.status.success());
        if !has {
            assert!(
                std::env::var_os("INTERLEAF_REQUIRE_GPU").is_none(),
                "expected spirv-val, of spirv-tools"
            );
            println!("SKIPPED: spirv-val, which is not installed");
        }
        has
    }

    fn spirv_val(kernel: Kernel, words: &[u32], folder: &std::path::Path) {
        let file = folder.join("kernel.spv");
        let run = |words: &[u32]| {
            std::fs::write(&file, bytemuck::cast_slice(words)).unwrap();
            let checked = std::process::Command::new("spirv-val")
                .args(["--target-env", "vulkan1.3"])
                .arg(&file)
                .output()
                .unwrap();
            (checked.status.success(), String::from_utf8_lossy(&checked.stderr).into_owned())
        };
        let (valid, said) = run(words);
        if kernel.template().needs == Needs::Matrices && said.contains(TOO_OLD) {
            println!("SKIPPED: {kernel:?}, which this spirv-val is too old for");
            return;
        }
        assert!(valid || said.contains(KNOWN), "{kernel:?}: {said}");
        let (valid, said) = run(&without_workgroup_strides(words));
        assert!(valid, "{kernel:?}: {said}");
    }

    /// A module whose workgroup arrays have no stride.
    fn without_workgroup_strides(words: &[u32]) -> Vec<u32> {
        const HEADER: usize = 5;
        const TYPE_POINTER: u32 = 32;
        const DECORATE: u32 = 71;
        const ARRAY_STRIDE: u32 = 6;
        const WORKGROUP: u32 = 4;
        let instructions = || {
            let mut rest = &words[HEADER..];
            std::iter::from_fn(move || {
                let (instruction, after) = rest.split_at((*rest.first()? >> 16) as usize);
                rest = after;
                Some(instruction)
            })
        };
        let arrays: Vec<u32> = instructions()
            .filter(|i| i[0] & 0xffff == TYPE_POINTER && i[2] == WORKGROUP)
            .map(|i| i[3])
            .collect();
        let is_stride =
            |i: &&[u32]| i[0] & 0xffff == DECORATE && i[2] == ARRAY_STRIDE && arrays.contains(&i[1]);
        words[..HEADER].iter().chain(instructions().filter(|i| !is_stride(i)).flatten()).copied().collect()
    }

    #[test]
    fn every_variant_translates_for_every_api() {
        let folder = tempfile::tempdir().unwrap();
        let validated = has_spirv_val();
        let mut seen = std::collections::HashSet::new();
        let (mut spirv, mut glsl_written) = (0, 0);
        for kernel in every_kernel() {
            if !seen.insert(kernel.template().compose().unwrap()) {
                continue;
            }
            let (template, module, info) = parse(kernel);
            let uses_subgroups = template.compose().unwrap().contains("subgroupShuffle");
            let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
            let words =
                spv::write_vec(&module, &info, &options, None).unwrap_or_else(|e| panic!("{kernel:?}: {e}"));
            if validated {
                spirv_val(kernel, &words, folder.path());
            }
            spirv += 1;

            let options =
                msl::Options { fake_missing_bindings: true, lang_version: (2, 4), ..msl::Options::default() };
            msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
                .unwrap_or_else(|e| panic!("{kernel:?}: {e}"));

            if template.needs == Needs::Matrices {
                continue;
            }
            let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_4, ..hlsl::Options::default() };
            let pipeline = hlsl::PipelineOptions { entry_point: None };
            let mut text = String::new();
            hlsl::Writer::new(&mut text, &options, &pipeline)
                .write(&module, &info, None)
                .unwrap_or_else(|e| panic!("{kernel:?}: {e}"));

            // GLSL has no f16 and no matrices, and its embedded form no subgroups.
            if template.needs != Needs::Nothing || uses_subgroups {
                continue;
            }
            let options = glsl::Options::default();
            let pipeline = glsl::PipelineOptions {
                shader_stage: naga::ShaderStage::Compute,
                entry_point: template.name.into(),
                multiview: None,
            };
            let policies = naga::proc::BoundsCheckPolicies::default();
            let mut text = String::new();
            let mut writer = glsl::Writer::new(&mut text, &module, &info, &options, &pipeline, policies)
                .unwrap_or_else(|e| panic!("{kernel:?}: {e}"));
            writer.write().unwrap_or_else(|e| panic!("{kernel:?}: {e}"));
            glsl_written += 1;
        }
        assert!(spirv > 200 && glsl_written > 100, "{spirv} and {glsl_written}");
    }
}
