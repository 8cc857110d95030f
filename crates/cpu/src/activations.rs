//! The activations of a step, in buffers that are kept from step to step.

use interleaf_contract::{BackendError, Step, Tensor};

/// One buffer per tensor index.
#[derive(Debug, Default)]
pub struct Activations(Vec<Vec<f32>>);

impl Activations {
    /// Makes room for a step's tensors. Contents are whatever the last step left.
    pub fn fit(&mut self, step: &Step) -> Result<(), BackendError> {
        let tensors = step.tensors();
        if self.0.len() < tensors.len() {
            self.0.resize_with(tensors.len(), Vec::new);
        }
        for (buffer, t) in self.0.iter_mut().zip(tensors) {
            let values = step.row_count(t.rows) * t.cols as usize;
            buffer.try_reserve(values.saturating_sub(buffer.len())).map_err(|e| {
                BackendError::OutOfMemory {
                    backend: "cpu",
                    what: "activations".into(),
                    bytes: (values * size_of::<f32>()) as u64,
                    reason: e.to_string(),
                }
            })?;
            buffer.resize(values, 0.0);
        }
        Ok(())
    }

    /// A tensor's values, rows × cols.
    pub fn get(&self, t: Tensor) -> &[f32] {
        &self.0[t.index as usize]
    }

    /// The same, to be written.
    pub fn get_mut(&mut self, t: Tensor) -> &mut [f32] {
        &mut self.0[t.index as usize]
    }

    /// Moves a tensor's buffer out, so that others can be read while it is written.
    pub fn take(&mut self, t: Tensor) -> Vec<f32> {
        std::mem::take(&mut self.0[t.index as usize])
    }

    /// Puts a buffer back.
    pub fn put(&mut self, t: Tensor, values: Vec<f32>) {
        self.0[t.index as usize] = values;
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|b| (b.capacity() * size_of::<f32>()) as u64).sum()
    }
}
