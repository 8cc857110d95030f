//! Where a step's activations are. A tensor gets a buffer when it is first used and gives it back after
//! its last use, so that layers share memory; a device runs operations in order, so that is safe.
//!
//! **Rows are padded to a multiple of 8 columns and the padding is zero.** Kernels may then read whole
//! units of any dtype without a guard; every kernel that writes a tensor keeps it so.

use interleaf_contract::{BackendError, ContractError, Op, Step, Tensor};

use crate::command::Recorder;

/// Columns of the largest unit whose padding differs from that of its row of weights: 8 halves. Quantised
/// units are longer, but their rows are whole blocks of 32.
const PADDED: usize = 8;

/// f32 in a row of a tensor.
pub(crate) const fn stride(cols: usize) -> usize {
    cols.next_multiple_of(PADDED)
}

/// A tensor with its buffer.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub tensor: Tensor,
    pub buffer: wgpu::Buffer,
    pub rows: usize,
    /// f32 in a row.
    pub stride: usize,
}

/// The tensors of one step.
#[derive(Debug)]
pub(crate) struct Tensors<'a> {
    step: &'a Step,
    buffers: Vec<Option<wgpu::Buffer>>,
    last_uses: Vec<Option<usize>>,
}

impl<'a> Tensors<'a> {
    pub(crate) fn new(step: &'a Step) -> Self {
        let count = step.tensors().len();
        Self { step, buffers: vec![None; count], last_uses: last_uses(count, step.ops()) }
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
        let stride = stride(tensor.cols as usize);
        let buffer = match &self.buffers[index] {
            Some(buffer) => buffer.clone(),
            None => {
                let bytes = rows.saturating_mul(stride).saturating_mul(size_of::<f32>()) as u64;
                let buffer = recorder.scratch.take(recorder.gpu, bytes)?;
                self.buffers[index].insert(buffer).clone()
            }
        };
        Ok(Placed { tensor, buffer, rows, stride })
    }

    /// Gives back the buffers of tensors that no operation after number `op` uses.
    pub(crate) fn release(&mut self, recorder: &mut Recorder<'_>, op: usize) {
        for (buffer, last) in self.buffers.iter_mut().zip(&self.last_uses) {
            if *last == Some(op)
                && let Some(buffer) = buffer.take()
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
        for tensor in tensors_of(op) {
            if let Some(use_of) = last.get_mut(tensor.index as usize) {
                *use_of = Some(i);
            }
        }
    }
    last
}

/// Every tensor that an operation of this backend names.
fn tensors_of(op: &Op) -> Vec<Tensor> {
    match op {
        Op::Load { out, .. } => vec![*out],
        Op::LoraMatmul { x, projections } => {
            std::iter::once(*x).chain(projections.iter().map(|(_, y)| *y)).collect()
        }
        Op::KvAppend { k, v, .. } => vec![*k, *v],
        Op::PagedAttention { q, out, .. } => vec![*q, *out],
        Op::Probe { x } => vec![*x],
        // Refused, so that nothing is placed for it.
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use interleaf_contract::{Batch, ProjectionId, RowSet};

    use super::*;

    #[test]
    fn a_buffer_is_free_after_its_last_use() {
        let mut step = Step::new(Batch::default()).unwrap();
        let [a, b, unused] = [8, 8, 8].map(|cols| step.tensor(RowSet::All, cols));
        step.push(Op::Load { out: a, data: [].into() });
        step.push(Op::LoraMatmul { x: a, projections: vec![(ProjectionId(0), b)] });
        step.probe(b);
        assert_eq!(unused.index, 2);
        assert_eq!(last_uses(3, step.ops()), [Some(1), Some(2), None]);
    }

    #[test]
    fn rows_are_whole_units() {
        assert_eq!([0, 1, 8, 9].map(stride), [0, 8, 8, 16]);
    }
}
