//! The CPU kernels behind the `Backend` trait: a step runs operation by operation inside the engine's
//! own rayon pool.

use interleaf_contract::host::{HostBackend, HostKernels, Pool, Resident};
use interleaf_contract::{
    BackendError, BackendInfo, Batch, ContractError, LoraSite, Numerics, Op, ProjectionId, RowSet, Sampled,
    Step, StepOutput, Tensor,
};
use rayon::prelude::*;

use crate::activations::Activations;
use crate::lora_matmul::{Group, Job, lora_matmul};
use crate::{embed, kv_append, paged_attention, rms_norm, rope, sample, softcap, swiglu};

/// The CPU backend.
pub type CpuBackend = HostBackend<CpuKernels>;

/// More threads than any phone or desktop has cores; starting thousands takes minutes.
const MOST_THREADS: usize = 256;

/// How the CPU backend runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuOptions {
    /// Worker threads; 0 for one per available core.
    pub threads: usize,
    /// How quantised weights are multiplied.
    pub numerics: Numerics,
}

impl Default for CpuOptions {
    fn default() -> Self {
        Self { threads: 0, numerics: Numerics::ActQ8_0 }
    }
}

/// The portable CPU kernels and the threads they run on.
#[derive(Debug)]
pub struct CpuKernels {
    workers: rayon::ThreadPool,
    numerics: Numerics,
    activations: Activations,
}

impl CpuKernels {
    /// A CPU backend with a rayon pool of its own.
    ///
    /// # Errors
    /// If more than 256 threads are asked for, or they cannot be started.
    pub fn backend(options: CpuOptions) -> Result<CpuBackend, BackendError> {
        if options.threads > MOST_THREADS {
            let found = options.threads as f64;
            return Err(
                ContractError::Value { op: "cpu", what: "threads", expected: "at most 256", found }.into()
            );
        }
        let workers = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .thread_name(|i| format!("interleaf-cpu-{i}"))
            .build()
            .map_err(|e| BackendError::Device {
                backend: "cpu",
                reason: format!("cannot start threads: {e}"),
            })?;
        let kernels = Self { workers, numerics: options.numerics, activations: Activations::default() };
        Ok(HostBackend::new(kernels))
    }
}

impl HostKernels for CpuKernels {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            name: "cpu",
            device: format!("portable loops, {}", std::env::consts::ARCH),
            tier: "portable",
            numerics: self.numerics,
            threads: self.workers.current_num_threads(),
        }
    }

    fn run(&mut self, step: &Step, resident: &Resident, pool: &mut Pool) -> Result<StepOutput, BackendError> {
        let (numerics, activations) = (self.numerics, &mut self.activations);
        activations.fit(step)?;
        self.workers.install(|| {
            let mut run = Run { step, resident, numerics, activations, output: StepOutput::default() };
            step.ops().iter().try_for_each(|op| run.op(op, pool))?;
            Ok(run.output)
        })
    }

    fn scratch_bytes(&self) -> u64 {
        self.activations.bytes()
    }
}

struct Run<'a> {
    step: &'a Step,
    resident: &'a Resident,
    numerics: Numerics,
    activations: &'a mut Activations,
    output: StepOutput,
}

impl Run<'_> {
    fn op(&mut self, op: &Op, pool: &mut Pool) -> Result<(), BackendError> {
        let (batch, resident) = (self.step.batch(), self.resident);
        match op {
            Op::Load { out, data } => self.activations.get_mut(*out).copy_from_slice(data),
            Op::Embed { table, scale, out } => {
                let tokens: Vec<u32> = batch.rows.iter().map(|r| r.token).collect();
                embed::embed(resident.matrix(*table)?, &tokens, *scale, self.activations.get_mut(*out));
            }
            Op::RmsNorm { x, add, weight, epsilon, heads: _, out } => {
                self.rms_norm(*x, *add, resident.vector(*weight)?, *epsilon, *out);
            }
            Op::LoraMatmul { x, projections } => self.lora_matmul(*x, projections)?,
            Op::Rope { x, head_dim, table } => {
                let positions: Vec<u32> = self.step.rows(x.rows).map(|r| r.position).collect();
                let table = resident.rope(*table)?;
                rope::rope(self.activations.get_mut(*x), *head_dim as usize, &positions, table);
            }
            Op::KvAppend { layer, k, v } => {
                kv_append::kv_append(
                    batch,
                    *layer,
                    self.activations.get(*k),
                    self.activations.get(*v),
                    pool,
                )?;
            }
            Op::PagedAttention { layer, shape, q, out } => {
                let mut values = self.activations.take(*out);
                let queries = self.activations.get(*q);
                let result =
                    paged_attention::paged_attention(batch, *layer, *shape, queries, pool, &mut values);
                self.activations.put(*out, values);
                result?;
            }
            Op::SwiGlu { activation, gate, up, out } => {
                let mut values = self.activations.take(*out);
                if gate.index != out.index {
                    values.copy_from_slice(self.activations.get(*gate));
                }
                swiglu::swiglu(*activation, &mut values, self.activations.get(*up));
                self.activations.put(*out, values);
            }
            Op::Softcap { x, cap } => softcap::softcap(self.activations.get_mut(*x), *cap),
            Op::Sample { logits } => self.sample(*logits, batch),
            Op::Probe { x } => self.output.probes.push(self.activations.get(*x).to_vec()),
            other => {
                let what = other.stem().into();
                return Err(BackendError::Unsupported { backend: "cpu", what });
            }
        }
        Ok(())
    }

    fn rms_norm(&mut self, x: Tensor, add: Option<Tensor>, weight: &[f32], epsilon: f32, out: Tensor) {
        let mut values = self.activations.take(x);
        if let Some(delta) = add {
            rms_norm::add(&mut values, self.activations.get(delta));
        }
        if (x.rows, out.rows) == (RowSet::All, RowSet::Outputs) {
            let cols = x.cols as usize;
            let rows = self.step.batch().outputs.iter().map(|o| o.row as usize * cols);
            let packed: Vec<f32> =
                rows.flat_map(|first| values[first..first + cols].iter().copied()).collect();
            rms_norm::rms_norm(&packed, weight, epsilon, self.activations.get_mut(out));
        } else if out.index == x.index {
            let source = values.clone();
            rms_norm::rms_norm(&source, weight, epsilon, &mut values);
        } else {
            rms_norm::rms_norm(&values, weight, epsilon, self.activations.get_mut(out));
        }
        self.activations.put(x, values);
    }

    fn lora_matmul(&mut self, x: Tensor, projections: &[(ProjectionId, Tensor)]) -> Result<(), BackendError> {
        let adapters = &self.step.batch().adapters;
        let mut groups: Vec<Group> = adapters.iter().map(|_| Group { rows: Vec::new() }).collect();
        for (i, row) in self.step.rows(x.rows).enumerate() {
            if let Ok(slot) = usize::try_from(row.adapter) {
                groups[slot].rows.push(i);
            }
        }
        let resident = self.resident;
        let mut jobs = Vec::new();
        for (id, y) in projections {
            let projection = resident.projection(*id)?;
            let bias = projection.bias.map(|b| resident.vector(b)).transpose()?;
            let sites: Vec<Option<&LoraSite>> = adapters
                .iter()
                .map(|adapter| Ok(resident.adapter(*adapter)?.get(id)))
                .collect::<Result<_, BackendError>>()?;
            jobs.push(Job {
                w: resident.matrix(projection.matrix)?,
                bias,
                sites,
                y: self.activations.take(*y),
            });
        }
        let rows = self.step.row_count(x.rows);
        lora_matmul(self.activations.get(x), rows, self.numerics, &groups, &mut jobs);
        for ((_, y), job) in projections.iter().zip(jobs) {
            self.activations.put(*y, job.y);
        }
        Ok(())
    }

    fn sample(&mut self, logits: Tensor, batch: &Batch) {
        let rows = self.activations.get(logits).par_chunks_exact(logits.cols as usize);
        let tokens = rows.zip(&batch.outputs).enumerate().filter_map(|(i, (logits, wanted))| {
            let token = sample::sample(logits, wanted.sampler.as_ref()?);
            Some(Sampled { output: i as u32, token })
        });
        self.output.tokens.par_extend(tokens);
    }
}
