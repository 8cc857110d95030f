//! Where a step's activations are. A tensor gets a buffer when it is first used and gives it back after
//! its last use, so that layers share memory; a device runs operations in order, so that is safe.
//!
//! **Rows are padded to a multiple of 8 columns and the padding is zero.** Kernels may then read whole
//! units of any dtype without a guard; every kernel that writes a tensor keeps it so. The results of a matmul
//! that is one dispatch stand side by side in the rows of one buffer, because a kernel binds one.

use interleaf_contract::{BackendError, ContractError, Op, Step, Tensor};

use crate::command::{Recorder, word};
use crate::fuse::{Work, uses};

/// Columns of the largest unit whose padding differs from that of its row of weights: 8 halves. Quantised
/// units are longer, but their rows are whole blocks of 32.
const PADDED: usize = 8;

/// f32 of a row with the zeros behind it.
pub(crate) const fn padded(cols: usize) -> usize {
    cols.next_multiple_of(PADDED)
}

/// A tensor with its buffer. Places and strides are multiples of 8 f32.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub tensor: Tensor,
    pub buffer: wgpu::Buffer,
    pub rows: usize,
    /// Where row 0 is, in f32.
    pub at: usize,
    /// f32 from a row to the next.
    pub stride: usize,
}

impl Placed {
    /// f32 of a row with the zeros behind it.
    pub(crate) const fn columns(&self) -> usize {
        padded(self.tensor.cols as usize)
    }

    /// The place of row 0 in vec4, as kernels that read vec4 count.
    pub(crate) fn quad_at(&self) -> u32 {
        word(self.at / 4)
    }

    /// vec4 from a row to the next.
    pub(crate) fn quad_stride(&self) -> u32 {
        word(self.stride / 4)
    }

    /// vec4 of a row with the zeros behind it.
    pub(crate) fn quads(&self) -> u32 {
        word(self.columns() / 4)
    }
}

/// Tensors that share the rows of a buffer.
#[derive(Debug)]
struct Group {
    buffer: Option<wgpu::Buffer>,
    stride: usize,
    last_use: Option<usize>,
}

/// The tensors of one step.
#[derive(Debug)]
pub(crate) struct Tensors<'a> {
    step: &'a Step,
    groups: Vec<Group>,
    /// The group of each tensor and where it begins in its rows.
    places: Vec<(usize, usize)>,
}

impl<'a> Tensors<'a> {
    /// The tensors of a step whose work has been decided; `together` as in [`crate::fuse::fuse`].
    pub(crate) fn new(
        step: &'a Step,
        works: &[(Work<'_>, usize)],
        together: impl Fn(&[(interleaf_contract::ProjectionId, Tensor)]) -> bool,
    ) -> Self {
        let last_uses = last_uses(step.tensors().len(), step.ops());
        let mut groups = Vec::new();
        let mut places = vec![None; step.tensors().len()];
        let mut group = |members: &[Tensor], places: &mut Vec<Option<(usize, usize)>>| {
            let mut stride = 0;
            let mut last_use = None;
            for member in members {
                let index = member.index as usize;
                places[index] = Some((groups.len(), stride));
                stride += padded(member.cols as usize);
                last_use = last_use.max(last_uses[index]);
            }
            groups.push(Group { buffer: None, stride, last_use });
        };
        for (work, _) in works {
            if let Work::Matmul { projections, gate: None, .. } = work
                && projections.len() > 1
                && together(projections)
            {
                let results: Vec<Tensor> = projections.iter().map(|(_, y)| *y).collect();
                if results.iter().all(|y| places.get(y.index as usize) == Some(&None)) {
                    group(&results, &mut places);
                }
            }
        }
        for tensor in step.tensors() {
            if places[tensor.index as usize].is_none() {
                group(&[*tensor], &mut places);
            }
        }
        Self { step, groups, places: places.into_iter().flatten().collect() }
    }

    /// A tensor's place.
    pub(crate) fn place(
        &mut self,
        recorder: &mut Recorder<'_>,
        tensor: Tensor,
    ) -> Result<Placed, BackendError> {
        let index = tensor.index as usize;
        if self.step.tensors().get(index) != Some(&tensor) {
            let len = self.step.tensors().len();
            return Err(ContractError::OutOfRange { what: "tensor", index, len }.into());
        }
        let rows = self.step.row_count(tensor.rows);
        let (group, at) = self.places[index];
        let group = &mut self.groups[group];
        let buffer = match &group.buffer {
            Some(buffer) => buffer.clone(),
            None => {
                let bytes = rows.saturating_mul(group.stride).saturating_mul(size_of::<f32>()) as u64;
                let buffer = recorder.scratch.take(recorder.gpu, bytes)?;
                group.buffer.insert(buffer).clone()
            }
        };
        Ok(Placed { tensor, buffer, rows, at, stride: group.stride })
    }

    /// Whether a tensor has the rows of its buffer to itself.
    pub(crate) fn is_alone(&self, tensor: Tensor) -> bool {
        let group = self.places[tensor.index as usize].0;
        self.places.iter().filter(|(other, _)| *other == group).count() == 1
    }

    /// Another buffer for a tensor that is alone, which from now on is its place. The present one is returned with
    /// the place that it was, and is for the caller to give back.
    pub(crate) fn renew(
        &mut self,
        recorder: &mut Recorder<'_>,
        tensor: Tensor,
    ) -> Result<(Placed, Placed), BackendError> {
        let old = self.place(recorder, tensor)?;
        self.groups[self.places[tensor.index as usize].0].buffer = None;
        let new = self.place(recorder, tensor)?;
        Ok((old, new))
    }

    /// Gives back the buffers of tensors that no operation after number `op` uses.
    pub(crate) fn release(&mut self, recorder: &mut Recorder<'_>, op: usize) {
        for group in &mut self.groups {
            if group.last_use.is_some_and(|last| last <= op)
                && let Some(buffer) = group.buffer.take()
            {
                recorder.scratch.give(&buffer);
            }
        }
    }
}

/// The last operation that uses each tensor.
fn last_uses(count: usize, ops: &[Op]) -> Vec<Option<usize>> {
    let mut last = vec![None; count];
    for (i, op) in ops.iter().enumerate() {
        let (read, written) = uses(op);
        for tensor in read.iter().chain(&written) {
            if let Some(use_of) = last.get_mut(tensor.index as usize) {
                *use_of = Some(i);
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use interleaf_contract::{Batch, ProjectionId, RowSet};

    use super::*;
    use crate::fuse::fuse;

    #[test]
    fn results_of_one_dispatch_share_their_rows() {
        let mut step = Step::new(Batch::default()).unwrap();
        let [a, b, c, d] = [8, 12, 8, 8].map(|cols| step.tensor(RowSet::All, cols));
        step.push(Op::Load { out: a, data: [].into() });
        step.push(Op::LoraMatmul { x: a, projections: vec![(ProjectionId(0), b), (ProjectionId(1), c)] });
        step.probe(b);
        step.push(Op::LoraMatmul { x: c, projections: vec![(ProjectionId(0), b)] });
        let works = fuse(step.ops(), 8, |_| true);
        let tensors = Tensors::new(&step, &works, |_| true);
        assert_eq!(tensors.places[1], (tensors.places[2].0, 0));
        assert_eq!(tensors.places[2].1, 16);
        assert!(!tensors.is_alone(b) && tensors.is_alone(a) && tensors.is_alone(d));
        let group = |t: Tensor| &tensors.groups[tensors.places[t.index as usize].0];
        assert_eq!((group(b).stride, group(b).last_use), (24, Some(3)));
        assert_eq!((group(a).last_use, group(d).last_use), (Some(1), None));
        assert!(Tensors::new(&step, &works, |_| false).is_alone(b));
    }

    #[test]
    fn rows_are_whole_units() {
        assert_eq!([0, 1, 8, 9].map(padded), [0, 8, 8, 16]);
    }
}
