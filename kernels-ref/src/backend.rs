//! The reference as a [`Backend`](interleaf_contract::Backend): each operation calls its kernel, one
//! after another, on the calling thread.

use interleaf_contract::host::{HostBackend, HostKernels, HostSite, Pool, Resident};
use interleaf_contract::{
    BackendError, BackendInfo, Batch, MassSample, Matrix, Numerics, Op, PageCodec, PageLoss, PageRecode,
    ProjectionId, RowSet, Sampled, Step, StepOutput, Tensor,
};

use crate::add::add;
use crate::attention_mass::{Attended, attention_mass, chunk_sums};
use crate::kv_append::kv_append;
use crate::kv_read::kv_read;
use crate::lora_matmul::lora_matmul;
use crate::paged_attention::paged_attention;
use crate::{
    embed::embed, page_codec, rms_norm, rope::rope, sample::sample, softcap::softcap, swiglu::swiglu,
};

/// The reference backend.
pub type RefBackend = HostBackend<RefKernels>;

/// The reference kernels under one numerics.
#[derive(Debug)]
pub struct RefKernels {
    numerics: Numerics,
    scratch_bytes: u64,
}

impl RefKernels {
    /// A reference backend that multiplies quantised weights under `numerics`.
    #[must_use]
    pub fn backend(numerics: Numerics) -> RefBackend {
        HostBackend::new(Self { numerics, scratch_bytes: 0 })
    }
}

/// The activations of one step.
struct Activations(Vec<Vec<f32>>);

impl Activations {
    fn new(step: &Step) -> Result<Self, BackendError> {
        let buffer = |t: &Tensor| {
            let values = step.row_count(t.rows) * t.cols as usize;
            let mut buffer = Vec::new();
            buffer.try_reserve_exact(values).map_err(|e| BackendError::OutOfMemory {
                backend: "ref",
                what: "activations".into(),
                bytes: (values * size_of::<f32>()) as u64,
                reason: e.to_string(),
            })?;
            buffer.resize(values, 0.0);
            Ok(buffer)
        };
        step.tensors().iter().map(buffer).collect::<Result<_, _>>().map(Self)
    }

    fn get(&self, t: Tensor) -> &[f32] {
        &self.0[t.index as usize]
    }

    /// Moves a tensor out, so that others can be read while it is written.
    fn take(&mut self, t: Tensor) -> Vec<f32> {
        std::mem::take(&mut self.0[t.index as usize])
    }

    fn put(&mut self, t: Tensor, values: Vec<f32>) {
        self.0[t.index as usize] = values;
    }
}

impl HostKernels for RefKernels {
    type Matrix = Matrix;

    fn weights(&self, matrix: Matrix) -> Result<Matrix, BackendError> {
        Ok(matrix)
    }

    fn factors(&self, sites: Vec<[Matrix; 2]>) -> Result<Vec<[Matrix; 2]>, BackendError> {
        Ok(sites)
    }

    fn info(&self) -> BackendInfo {
        let device = "scalar reference, f64 accumulation".into();
        BackendInfo { name: "ref", device, tier: "reference", numerics: self.numerics, threads: 1 }
    }

    fn run(
        &mut self,
        step: &Step,
        resident: &Resident<Matrix>,
        pool: &mut Pool,
    ) -> Result<StepOutput, BackendError> {
        let mut activations = Activations::new(step)?;
        self.scratch_bytes = activations.0.iter().map(|v| size_of_val(&**v) as u64).sum();
        let mut output = StepOutput::default();
        for op in step.ops() {
            self.op(op, step, resident, pool, &mut activations, &mut output)?;
        }
        Ok(output)
    }

    fn reads(&self, codec: PageCodec) -> bool {
        !matches!(codec, PageCodec::Exact(_))
    }

    fn recode(
        &mut self,
        pages: &[PageRecode],
        resident: &Resident<Matrix>,
        pool: &mut Pool,
    ) -> Result<(), BackendError> {
        pages.iter().try_for_each(|page| page_codec::recode(page, pool, resident))
    }

    fn compare(
        &mut self,
        pages: &[PageRecode],
        resident: &Resident<Matrix>,
        pool: &Pool,
    ) -> Result<Vec<PageLoss>, BackendError> {
        pages.iter().map(|page| page_codec::compare(page, pool, resident)).collect()
    }

    fn scratch_bytes(&self) -> u64 {
        self.scratch_bytes
    }
}

impl RefKernels {
    fn op(
        &self,
        op: &Op,
        step: &Step,
        resident: &Resident<Matrix>,
        pool: &mut Pool,
        activations: &mut Activations,
        output: &mut StepOutput,
    ) -> Result<(), BackendError> {
        let batch = step.batch();
        match op {
            Op::Load { out, data } => activations.put(*out, data.to_vec()),
            Op::Embed { table, scale, out } => {
                let tokens: Vec<u32> = batch.rows.iter().map(|r| r.token).collect();
                embed(resident.matrix(*table)?, &tokens, *scale, &mut activations.0[out.index as usize]);
            }
            Op::RmsNorm { x, add, weight, epsilon, heads: _, out } => {
                let mut values = activations.take(*x);
                if let Some(delta) = add {
                    rms_norm::add(&mut values, activations.get(*delta));
                }
                let packed = match (x.rows, out.rows) {
                    (RowSet::All, RowSet::Outputs) => {
                        let cols = x.cols as usize;
                        let rows = batch.outputs.iter().map(|o| o.row as usize);
                        rows.flat_map(|r| values[r * cols..(r + 1) * cols].iter().copied()).collect()
                    }
                    _ => values.clone(),
                };
                activations.put(*x, values);
                let mut normed = activations.take(*out);
                rms_norm::rms_norm(&packed, resident.vector(*weight)?, *epsilon, &mut normed);
                activations.put(*out, normed);
            }
            Op::LoraMatmul { x, projections } => {
                for (id, out) in projections {
                    let mut y = activations.take(*out);
                    let projection = resident.projection(*id)?;
                    let bias = projection.bias.map(|b| resident.vector(b)).transpose()?;
                    let sites = sites(step, x.rows, *id, resident)?;
                    let w = resident.matrix(projection.matrix)?;
                    lora_matmul(activations.get(*x), w, bias, &sites, self.numerics, &mut y);
                    activations.put(*out, y);
                }
            }
            Op::Rope { x, head_dim, table } => {
                let positions: Vec<u32> = step.rows(x.rows).map(|r| r.position).collect();
                let values = &mut activations.0[x.index as usize];
                rope(values, *head_dim as usize, &positions, resident.rope(*table)?);
            }
            Op::KvAppend { layer, k, v } => {
                kv_append(batch, *layer, activations.get(*k), activations.get(*v), pool)?;
            }
            Op::KvRead { layer, rope, out, at } => {
                let table = rope.map(|table| resident.rope(table)).transpose()?;
                let values = &mut activations.0[out.index as usize];
                kv_read(batch, *layer, table, pool, (values, out.cols as usize), *at as usize)?;
            }
            Op::Arrive { layer, pages } => pages.put(*layer, |place, bytes| {
                pool.page_mut(place)?.copy_from_slice(&bytes);
                Ok::<(), BackendError>(())
            })?,
            Op::Add { x, from, at } => {
                let mut values = activations.take(*x);
                let (cols, from_cols) = (x.cols as usize, from.cols as usize);
                add(&mut values, cols, activations.get(*from), from_cols, *at as usize);
                activations.put(*x, values);
            }
            Op::PagedAttention { layer, shape, q, out } => {
                let queries = activations.get(*q).to_vec();
                let held = (&*pool, resident);
                let values = &mut activations.0[out.index as usize];
                let log_sums = paged_attention(batch, *layer, *shape, &queries, held, values)?;
                if let Some(sample) = step.mass().filter(|sample| sample.has_layer(*layer)) {
                    let attended =
                        Attended { layer: *layer, shape: *shape, q: &queries, log_sums: &log_sums };
                    add_mass(&mut output.mass, batch, &attended, sample, held)?;
                }
            }
            Op::SwiGlu { activation, gate, up, out } => {
                let gates = activations.get(*gate).to_vec();
                let mut values = activations.take(*out);
                swiglu(*activation, &gates, activations.get(*up), &mut values);
                activations.put(*out, values);
            }
            Op::Softcap { x, cap } => softcap(&mut activations.0[x.index as usize], *cap),
            Op::Sample { logits } => {
                let vocabulary = logits.cols as usize;
                let rows = activations.get(*logits).chunks_exact(vocabulary).zip(&batch.outputs);
                for (i, (logits, wanted)) in rows.enumerate() {
                    if let Some(sampler) = &wanted.sampler {
                        output.tokens.push(Sampled { output: i as u32, token: sample(logits, sampler) });
                    }
                }
            }
            Op::Probe { x } => output.probes.push(activations.get(*x).to_vec()),
            other => {
                let what = other.stem().into();
                return Err(BackendError::Unsupported { backend: "ref", what });
            }
        }
        Ok(())
    }
}

/// Adds a layer's part of the mean over all measured layers.
fn add_mass(
    mass: &mut Vec<Vec<f32>>,
    batch: &Batch,
    attended: &Attended<'_>,
    sample: &MassSample,
    held: (&Pool, &Resident<Matrix>),
) -> Result<(), BackendError> {
    mass.resize(batch.sequences.len(), Vec::new());
    for (sequence, all) in mass.iter_mut().enumerate() {
        let sums = chunk_sums(&attention_mass(batch, sequence, attended, sample, held)?);
        all.resize(sums.len(), 0.0);
        let part = sums.iter().map(|sum| (sum / sample.layers.len() as f64) as f32);
        all.iter_mut().zip(part).for_each(|(all, part)| *all += part);
    }
    Ok(())
}

/// The site of each row's adapter on a projection.
fn sites<'a>(
    step: &Step,
    rows: RowSet,
    projection: ProjectionId,
    resident: &'a Resident<Matrix>,
) -> Result<Vec<Option<&'a HostSite<Matrix>>>, BackendError> {
    step.rows(rows)
        .map(|row| match usize::try_from(row.adapter) {
            Ok(slot) => Ok(resident.adapter(step.batch().adapters[slot])?.get(&projection)),
            Err(_) => Ok(None),
        })
        .collect()
}
