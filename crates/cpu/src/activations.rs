//! The activations and scratch of a step, in buffers that are kept from step to step.

use interleaf_contract::{BackendError, Step};

use crate::region::Shared;

/// A buffer that grows and never shrinks.
#[derive(Debug, Default)]
pub struct Buffer<T>(Vec<T>);

impl<T: Copy + Default> Buffer<T> {
    /// Makes room for `n` values, whose contents are whatever was there.
    pub fn fit(&mut self, n: usize) -> Result<Shared<'_, T>, BackendError> {
        if self.0.len() < n {
            let more = n - self.0.len();
            self.0.try_reserve_exact(more).map_err(|e| BackendError::OutOfMemory {
                backend: "cpu",
                what: "activations".into(),
                bytes: (n * size_of::<T>()) as u64,
                reason: e.to_string(),
            })?;
            self.0.resize(n, T::default());
        }
        Ok(Shared::new(&mut self.0[..n]))
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        (self.0.capacity() * size_of::<T>()) as u64
    }
}

/// One buffer per tensor index.
#[derive(Debug, Default)]
pub struct Activations(Vec<Buffer<f32>>);

impl Activations {
    /// Makes room for a step's tensors.
    pub fn fit(&mut self, step: &Step) -> Result<Vec<Shared<'_, f32>>, BackendError> {
        let tensors = step.tensors();
        if self.0.len() < tensors.len() {
            self.0.resize_with(tensors.len(), Buffer::default);
        }
        let buffers = self.0.iter_mut().zip(tensors);
        buffers.map(|(buffer, t)| buffer.fit(step.row_count(t.rows) * t.cols as usize)).collect()
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(Buffer::bytes).sum()
    }
}
