//! Turns a checked step into a recording: every operation is recorded in order, before any runs.

use std::sync::Arc;

use interleaf_contract::{BackendError, Bands, Op, ProjectionId, Step, StepOutput, Tensor};

use crate::attention_mass::{Masses, Paid};
use crate::chain::Chosen;
use crate::command::{Place, Recorder, word};
use crate::constants::Constants;
use crate::factors::Factors;
use crate::fuse::{Norm, Work, fuse};
use crate::pack::widen_rows;
use crate::pages::PagePool;
use crate::parts::PartTables;
use crate::rows::RowTables;
use crate::sample::Choices;
use crate::tensors::{Placed, Tensors};
use crate::weights::Weights;
use crate::{
    add, embed, error, kv_append, kv_read, lora_matmul, paged_attention, rms_norm, rope, sample, softcap,
    swiglu,
};

/// What operations are recorded against.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub step: &'a Step,
    pub weights: &'a Weights,
    pub factors: &'a Factors,
    pub tensors: Tensors<'a>,
    pub rows: RowTables,
    /// What rows pay to chunks, where that is measured.
    pub paid: Paid,
    held: Held<'a>,
    bands: Bands,
    /// Where the directory of each band is, by its first layer.
    directories: Vec<(usize, u32)>,
    /// The coded pages of each band that attention has read, and where their directory is.
    coded: Vec<(usize, Option<CodedBand>)>,
}

/// What a step finds on the device besides weights and adapters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held<'a> {
    pub pool: Option<&'a PagePool>,
    /// What coded pages are decoded with.
    pub constants: &'a Constants,
    /// What the step before chose.
    pub chosen: &'a Chosen,
}

/// A band whose layers have coded pages.
#[derive(Debug, Clone)]
pub(crate) struct CodedBand {
    pub parts: Arc<PartTables>,
    pub directory_at: u32,
    /// The table that expanded keys are turned by.
    pub rope: Place,
}

/// Where a probe's values are in what is read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    at: usize,
    rows: usize,
    cols: usize,
    stride: usize,
}

/// Where a step's results are in what is read back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Results {
    probes: Vec<Probe>,
    choices: Vec<Choices>,
    mass: Option<Masses>,
    /// The tokens of the last choice, on the device.
    chosen: Option<wgpu::Buffer>,
}

impl Results {
    /// Takes what the step leaves on the device for the next one.
    pub(crate) fn take_chosen(&mut self) -> Option<wgpu::Buffer> {
        self.chosen.take()
    }

    /// The results, from all that was read back.
    pub(crate) fn output(&self, read_back: &[u8]) -> StepOutput {
        StepOutput {
            tokens: self.choices.iter().flat_map(|choices| choices.tokens(read_back)).collect(),
            probes: self.probes.iter().map(|probe| probe.values(read_back)).collect(),
            mass: self.mass.as_ref().map_or_else(Vec::new, |mass| mass.values(read_back)),
        }
    }
}

impl<'a> Plan<'a> {
    /// Records a step that has been checked ([`interleaf_contract::check::step`]) and returns where its results
    /// will be.
    pub(crate) fn record(
        step: &'a Step,
        weights: &'a Weights,
        factors: &'a Factors,
        held: Held<'a>,
        recorder: &mut Recorder<'_>,
    ) -> Result<Results, BackendError> {
        let head_dim = held.pool.map_or(0, |pool| word(pool.geometry.head_dim));
        let together = |projections: &[(ProjectionId, Tensor)]| {
            weights.are_together(projections.iter().map(|(id, _)| *id))
        };
        let works = fuse(step.ops(), head_dim, together);
        let tensors = Tensors::new(step, &works, together);
        let (rows, paid) = (RowTables::default(), Paid::default());
        let bands = Bands::of(&step.batch().sequences);
        let (directories, coded) = (Vec::new(), Vec::new());
        let mut plan = Self { step, weights, factors, tensors, rows, paid, held, bands, directories, coded };
        let mut results = Results::default();
        let mut done = 0;
        for (work, used) in &works {
            plan.work(recorder, work, &mut results)?;
            done += used;
            plan.tensors.release(recorder, done - 1);
        }
        results.mass = plan.paid.finish(step, &mut plan.rows, recorder)?;
        Ok(results)
    }

    fn work(
        &mut self,
        recorder: &mut Recorder<'_>,
        work: &Work<'_>,
        results: &mut Results,
    ) -> Result<(), BackendError> {
        match work {
            Work::Op(op) => self.op(recorder, op, results),
            Work::Norm(norm) => rms_norm::record(self, recorder, norm),
            Work::Matmul { norm, x, projections, gate } => {
                lora_matmul::record(self, recorder, norm.as_ref(), *x, projections, *gate)
            }
            Work::Append { layer, k, v, roped, ops } => {
                if kv_append::record_roped(self, recorder, *layer, [*k, *v], roped)? {
                    return Ok(());
                }
                ops.iter().try_for_each(|op| self.op(recorder, op, results))
            }
        }
    }

    fn op(
        &mut self,
        recorder: &mut Recorder<'_>,
        op: &Op,
        results: &mut Results,
    ) -> Result<(), BackendError> {
        match op {
            Op::Load { out, data } => self.load(recorder, *out, data)?,
            Op::Embed { table, scale, out } => embed::record(self, recorder, *table, *scale, *out)?,
            &Op::RmsNorm { x, add, weight, epsilon, heads, out } => {
                let keeps_sum = add.is_some() && out != x;
                let norm = Norm { x, add, after: None, weight, epsilon, heads, out, keeps_sum };
                rms_norm::record(self, recorder, &norm)?;
            }
            Op::LoraMatmul { x, projections } => {
                lora_matmul::record(self, recorder, None, *x, projections, None)?;
            }
            Op::Rope { x, head_dim, table } => rope::record(self, recorder, *x, *head_dim, *table)?,
            Op::KvAppend { layer, k, v } => kv_append::record(self, recorder, *layer, *k, *v)?,
            &Op::KvRead { layer, rope, out, at } => kv_read::record(self, recorder, layer, rope, out, at)?,
            Op::Arrive { layer, pages } => {
                if let Some(pool) = self.held.pool {
                    recorder.recording.arrive(*layer, pages.clone(), pool.stripe(*layer)?.clone());
                }
            }
            &Op::Add { x, from, at } => add::record(self, recorder, x, from, at)?,
            Op::PagedAttention { layer, shape, q, out } => {
                paged_attention::record(self, recorder, *layer, shape, *q, *out)?;
            }
            &Op::SwiGlu { activation, gate, up, out } => {
                swiglu::record(self, recorder, activation, [gate, up, out])?;
            }
            Op::Softcap { x, cap } => softcap::record(self, recorder, *x, *cap)?,
            Op::Sample { logits } => {
                if let Some((choices, tokens)) = sample::record(self, recorder, *logits)? {
                    results.choices.push(choices);
                    results.chosen = Some(tokens);
                }
            }
            Op::Probe { x } => results.probes.push(self.probe(recorder, *x)?),
            // Nothing has run yet: all is recorded before any is sent.
            other => return Err(error::unsupported(other.stem())),
        }
        Ok(())
    }

    /// The buffer of all vectors. A model without any binds what is never read.
    pub(crate) fn vectors(&self) -> Place {
        self.weights.vectors.buffer().map_or(Place::Tables, |buffer| Place::Buffer(buffer.clone()))
    }

    pub(crate) fn pool(&self) -> Result<&'a PagePool, BackendError> {
        self.held.pool.ok_or_else(|| error::unknown("page pool", 0))
    }

    /// The buffer of all constants of pages.
    pub(crate) fn constants(&self) -> Place {
        self.held.constants.place()
    }

    /// Where the token of each row is. What the step before chose is copied to its place there, and was not read by
    /// the host.
    pub(crate) fn tokens(&mut self, recorder: &mut Recorder<'_>) -> Result<u32, BackendError> {
        let recording = &mut recorder.recording;
        let at = self.rows.tokens(self.step, &mut recording.tables);
        self.held.chosen.copy_to(recording, &self.step.batch().chained, at)?;
        Ok(at)
    }

    /// The first layer whose pages are where this one's are, in every sequence.
    pub(crate) fn band(&self, layer: u32) -> usize {
        self.bands.first(layer as usize)
    }

    /// Where a layer's page tables are. Layers with the same pages share them.
    pub(crate) fn directory(&mut self, recorder: &mut Recorder<'_>, pool: &PagePool, layer: u32) -> u32 {
        let band = self.band(layer);
        if let Some((_, at)) = self.directories.iter().find(|(of, _)| *of == band) {
            return *at;
        }
        let tables = &mut recorder.recording.tables;
        let at = word(tables.len());
        tables.extend(pool.directory(self.step, band));
        self.directories.push((band, at));
        at
    }

    /// The coded pages of a layer, if it has any. Layers with the same pages share them.
    pub(crate) fn coded(
        &mut self,
        recorder: &mut Recorder<'_>,
        layer: u32,
    ) -> Result<Option<CodedBand>, BackendError> {
        let band = self.band(layer);
        if let Some((_, coded)) = self.coded.iter().find(|(of, _)| *of == band) {
            return Ok(coded.clone());
        }
        let coded = match PartTables::of(self.step, band, self.held.constants)? {
            None => None,
            Some(parts) => {
                let rope = parts.rope.map(|rope| self.weights.rope(rope)).transpose()?;
                let half = rope.map_or(0, |rope| word(rope.rotary_dim / 2));
                let sines_at = rope.map_or(0, |rope| word(rope.positions)) * half;
                let tables = &mut recorder.recording.tables;
                let (words, before) = parts.directory(half, sines_at);
                let directory_at = word(tables.len() + before);
                tables.extend(words);
                let rope = rope.map_or(Place::Tables, |rope| Place::Buffer(rope.buffer.clone()));
                Some(CodedBand { parts: Arc::new(parts), directory_at, rope })
            }
        };
        self.coded.push((band, coded.clone()));
        Ok(coded)
    }

    fn load(&mut self, recorder: &mut Recorder<'_>, out: Tensor, data: &[f32]) -> Result<(), BackendError> {
        let placed = self.tensors.place(recorder, out)?;
        let row_bytes = placed.columns() * size_of::<f32>();
        let values = bytemuck::cast_slice(data);
        let wide = widen_rows(values, out.cols as usize * size_of::<f32>(), row_bytes);
        let from = recorder.recording.upload(&wide);
        for (at, bytes) in stretches(&placed) {
            let to = (Place::Buffer(placed.buffer.clone()), at.place);
            recorder.recording.copy((Place::Uploads, from + at.packed), to, bytes);
        }
        Ok(())
    }

    fn probe(&mut self, recorder: &mut Recorder<'_>, x: Tensor) -> Result<Probe, BackendError> {
        let placed = self.tensors.place(recorder, x)?;
        let at = recorder.recording.read_back_bytes() as usize;
        for (place, bytes) in stretches(&placed) {
            recorder.recording.read_back(Place::Buffer(placed.buffer.clone()), place.place, bytes);
        }
        Ok(Probe { at, rows: placed.rows, cols: x.cols as usize, stride: placed.columns() })
    }
}

/// Where a stretch of a tensor is, in bytes: in its buffer, and with its rows packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub place: u64,
    pub packed: u64,
}

/// The whole tensor where it has its rows to itself, else row by row.
pub(crate) fn stretches(placed: &Placed) -> impl Iterator<Item = (Stretch, u64)> {
    let size = size_of::<f32>();
    let (at, stride, columns) = (placed.at * size, placed.stride * size, placed.columns() * size);
    let (count, length) = if stride == columns { (1, placed.rows * columns) } else { (placed.rows, columns) };
    (0..count).map(move |i| {
        let stretch = Stretch { place: (at + i * stride) as u64, packed: (i * columns) as u64 };
        (stretch, length as u64)
    })
}

impl Probe {
    /// The probe's values, row-major and without padding, from all that was read back.
    pub(crate) fn values(self, read_back: &[u8]) -> Vec<f32> {
        let row_bytes = self.stride * size_of::<f32>();
        let bytes = read_back.get(self.at..self.at + self.rows * row_bytes).unwrap_or_default();
        let rows = bytes.chunks_exact(row_bytes.max(1));
        rows.flat_map(|row| &row.as_chunks::<4>().0[..self.cols]).map(|b| f32::from_le_bytes(*b)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_leave_the_padding_behind() {
        let floats: Vec<f32> = (0_u8..20).map(f32::from).collect();
        let bytes: &[u8] = bytemuck::cast_slice(&floats);
        let probe = Probe { at: 16, rows: 2, cols: 3, stride: 8 };
        assert_eq!(probe.values(bytes), [4.0, 5.0, 6.0, 12.0, 13.0, 14.0]);
        assert!(Probe { at: 0, rows: 5, cols: 0, stride: 0 }.values(bytes).is_empty());
    }
}
