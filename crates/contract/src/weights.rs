//! What stays resident on a backend: matrices, vectors, projections and rope tables.

use crate::{Bytes, ContractError, Dtype};

/// A weight matrix of `rows` outputs by `cols` inputs, row-major, rows stored back to back.
///
/// `data` is shared: a mapped file, an embedded file or an allocation. A backend that reads it in
/// place keeps the handle; one that copies it to a device drops the handle, so no second copy stays.
#[derive(Debug, Clone)]
pub struct Matrix {
    name: String,
    dtype: Dtype,
    rows: usize,
    cols: usize,
    data: Bytes,
}

impl Matrix {
    /// Describes a matrix.
    ///
    /// # Errors
    /// If `data` is not exactly `rows × cols` elements of `dtype`, a row does not fill whole
    /// quantised blocks, or the bytes are not aligned for `dtype`.
    pub fn new(
        name: impl Into<String>,
        dtype: Dtype,
        rows: usize,
        cols: usize,
        data: Bytes,
    ) -> Result<Self, ContractError> {
        let name = name.into();
        if !cols.is_multiple_of(dtype.block_len()) {
            return Err(ContractError::PartialBlock { name, cols, dtype });
        }
        let row_bytes = dtype.row_bytes(cols).unwrap_or(usize::MAX);
        let expected = row_bytes.saturating_mul(rows);
        if data.len() != expected {
            return Err(ContractError::MatrixBytes { name, rows, cols, dtype, expected, found: data.len() });
        }
        if !data.is_empty() && !(data.as_ptr() as usize).is_multiple_of(dtype.alignment()) {
            return Err(ContractError::Misaligned { name, dtype });
        }
        Ok(Self { name, dtype, rows, cols, data })
    }

    /// The tensor's name in its file, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How elements are stored.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.data.len().checked_div(self.rows).unwrap_or(0)
    }

    /// The stored bytes of all rows, aligned for [`Matrix::dtype`].
    #[must_use]
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The stored bytes of one row; empty if there is no such row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[u8] {
        if row >= self.rows {
            return &[];
        }
        let n = self.row_bytes();
        &self.data[row * n..(row + 1) * n]
    }
}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);
    };
}
pub(crate) use handle;

handle! {
    /// A [`Matrix`] on a backend.
    MatrixId
}
handle! {
    /// A vector of f32 on a backend: norm weights, biases.
    VectorId
}
handle! {
    /// A [`Projection`] on a backend: what adapters attach to.
    ProjectionId
}
handle! {
    /// A [`RopeTable`] on a backend.
    RopeId
}

/// A linear layer of the base model: `y = x·Wᵀ (+ bias)`. Adapters attach to it by its handle.
#[derive(Debug, Clone)]
pub struct Projection {
    /// The module's path, for messages.
    pub name: String,
    /// W, `out × in`.
    pub matrix: MatrixId,
    /// One value per output.
    pub bias: Option<VectorId>,
}

/// Rotary embedding factors per position: `cos` and `sin` are `positions × rotary_dim/2`.
///
/// The pair rotated together is `(x[i], x[i + rotary_dim/2])` (the rotate-half form of Hugging Face
/// checkpoints); dimensions from `rotary_dim` on pass through.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// Dimensions of each head that are rotated.
    pub rotary_dim: usize,
    /// Positions that the table covers, from 0.
    pub positions: usize,
    /// cos(position · frequency), times the attention factor where a scaling has one.
    pub cos: Vec<f32>,
    /// sin(position · frequency), likewise.
    pub sin: Vec<f32>,
}
