//! Turns a checked step into a recording: every operation is recorded in order, before any runs.

use interleaf_contract::{BackendError, Op, Step, Tensor};

use crate::command::{Place, Recorder, word};
use crate::error;
use crate::factors::Factors;
use crate::kv_append;
use crate::lora_matmul;
use crate::pack::widen_rows;
use crate::paged_attention;
use crate::pages::PagePool;
use crate::rows::RowTables;
use crate::tensors::{Placed, Tensors};
use crate::weights::Weights;

/// Stems that have a kernel here. A step with any other computing operation is refused whole.
const KERNELS: [&str; 3] = ["lora_matmul", "kv_append", "paged_attention"];

/// Whether this backend has a kernel for a stem of `kernels-ref`.
#[must_use]
pub fn supports(stem: &str) -> bool {
    KERNELS.contains(&stem)
}

/// What operations are recorded against.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub step: &'a Step,
    pub weights: &'a Weights,
    pub factors: &'a Factors,
    pub tensors: Tensors<'a>,
    pub rows: RowTables,
    pool: Option<&'a PagePool>,
    /// The last layer's directory and where it is.
    directory: Option<(Vec<u32>, u32)>,
}

/// Where a probe's values are in what is read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    at: usize,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a> Plan<'a> {
    /// A plan for a step that has been checked ([`interleaf_contract::check::step`]).
    pub(crate) fn new(
        step: &'a Step,
        weights: &'a Weights,
        factors: &'a Factors,
        pool: Option<&'a PagePool>,
    ) -> Self {
        let (tensors, rows) = (Tensors::new(step), RowTables::default());
        Self { step, weights, factors, tensors, rows, pool, directory: None }
    }

    /// Records all operations and returns where the probes will be.
    pub(crate) fn record(mut self, recorder: &mut Recorder<'_>) -> Result<Vec<Probe>, BackendError> {
        let mut probes = Vec::new();
        for (i, op) in self.step.ops().iter().enumerate() {
            match op {
                Op::Load { out, data } => self.load(recorder, *out, data)?,
                Op::LoraMatmul { x, projections } => {
                    lora_matmul::record(&mut self, recorder, *x, projections)?;
                }
                Op::KvAppend { layer, k, v } => kv_append::record(&mut self, recorder, *layer, *k, *v)?,
                Op::PagedAttention { layer, shape, q, out } => {
                    paged_attention::record(&mut self, recorder, *layer, shape, *q, *out)?;
                }
                Op::Probe { x } => probes.push(self.probe(recorder, *x)?),
                // Nothing has run yet: all is recorded before any is sent.
                other => return Err(error::unsupported(other.stem())),
            }
            self.tensors.release(recorder, i);
        }
        Ok(probes)
    }

    pub(crate) fn pool(&self) -> Result<&'a PagePool, BackendError> {
        self.pool.ok_or_else(|| error::unknown("page pool", 0))
    }

    /// Where a layer's page tables are. Layers with the same pages share them.
    pub(crate) fn directory(&mut self, recorder: &mut Recorder<'_>, pool: &PagePool, layer: u32) -> u32 {
        let words = pool.directory(self.step, layer);
        if let Some((last, at)) = &self.directory
            && *last == words
        {
            return *at;
        }
        let at = word(recorder.recording.tables.len());
        recorder.recording.tables.extend_from_slice(&words);
        self.directory = Some((words, at));
        at
    }

    fn load(&mut self, recorder: &mut Recorder<'_>, out: Tensor, data: &[f32]) -> Result<(), BackendError> {
        let Placed { buffer, rows, stride, .. } = self.tensors.place(recorder, out)?;
        let row_bytes = stride * size_of::<f32>();
        let values = bytemuck::cast_slice(data);
        let at =
            recorder.recording.upload(&widen_rows(values, out.cols as usize * size_of::<f32>(), row_bytes));
        let bytes = (rows * row_bytes) as u64;
        recorder.recording.copy((Place::Uploads, at), (Place::Buffer(buffer), 0), bytes);
        Ok(())
    }

    fn probe(&mut self, recorder: &mut Recorder<'_>, x: Tensor) -> Result<Probe, BackendError> {
        let Placed { buffer, rows, stride, .. } = self.tensors.place(recorder, x)?;
        let bytes = (rows * stride * size_of::<f32>()) as u64;
        let at = recorder.recording.read_back(Place::Buffer(buffer), 0, bytes) as usize;
        Ok(Probe { at, rows, cols: x.cols as usize, stride })
    }
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
    fn what_has_a_shader_is_supported() {
        let templates = crate::sources::FILES.iter().filter(|(name, _)| !name.starts_with("lib/"));
        for (name, _) in templates.clone() {
            assert!(KERNELS.iter().any(|stem| name.starts_with(stem)), "{name}");
        }
        for stem in KERNELS {
            assert!(templates.clone().any(|(name, _)| name.starts_with(stem)) && supports(stem));
        }
        assert!(!supports("rms_norm") && !supports(""));
    }

    #[test]
    fn probes_leave_the_padding_behind() {
        let floats: Vec<f32> = (0_u8..20).map(f32::from).collect();
        let bytes: &[u8] = bytemuck::cast_slice(&floats);
        let probe = Probe { at: 16, rows: 2, cols: 3, stride: 8 };
        assert_eq!(probe.values(bytes), [4.0, 5.0, 6.0, 12.0, 13.0, 14.0]);
        assert!(Probe { at: 0, rows: 5, cols: 0, stride: 0 }.values(bytes).is_empty());
    }
}
