//! What the tensors in a model's files are, by their headers: nothing of a weight is read.

/// A tensor in a model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its element type, as safetensors calls it, in small letters: `f16`, `i64`.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub bytes: u64,
    /// Whether the model is computed with it. Others, such as a vision tower's, are left alone.
    pub used: bool,
}

impl TensorInfo {
    /// Its elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        // A tensor that is not used is not checked for sense.
        self.shape.iter().fold(1, |elements, &dim| elements.saturating_mul(dim as u64))
    }
}
