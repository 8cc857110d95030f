//! What stays resident of the base: matrices, vectors and projections. Adapters are in `factors`.

use interleaf_contract::{BackendError, Dtype, Matrix, MatrixId, Projection, ProjectionId, VectorId};

use crate::buffers::{STORAGE, Uploader, create};
use crate::device::Gpu;
use crate::error;
use crate::pack::{RowLayout, codes, scales};

/// Bytes of rows that are packed at a time: bounds the host memory of an upload.
const PIECE_BYTES: usize = 4 << 20;

/// A matrix on the device.
#[derive(Debug)]
pub(crate) struct ResidentMatrix {
    pub dtype: Dtype,
    pub rows: usize,
    pub cols: usize,
    pub layout: RowLayout,
    /// Consecutive outputs; more than one where a single binding would not reach.
    pub parts: Vec<Part>,
}

/// Some outputs of a matrix: their codes, then their scales.
#[derive(Debug)]
pub(crate) struct Part {
    pub buffer: wgpu::Buffer,
    pub first: usize,
    pub rows: usize,
}

#[derive(Debug)]
struct ResidentVector {
    buffer: wgpu::Buffer,
    length: usize,
}

/// Everything of the base.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    matrices: Vec<ResidentMatrix>,
    vectors: Vec<ResidentVector>,
    projections: Vec<Projection>,
    bytes: u64,
}

impl Weights {
    /// Bytes held.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn create_matrix(&mut self, gpu: &Gpu, matrix: &Matrix) -> Result<MatrixId, BackendError> {
        let (dtype, rows, cols) = (matrix.dtype(), matrix.rows(), matrix.cols());
        let layout = RowLayout::of(dtype, cols);
        let name = matrix.name();
        let id = next_id(name, self.matrices.len())?;
        let binding = usize::try_from(gpu.caps.binding_bytes).unwrap_or(usize::MAX);
        // Rows without columns take nothing, however many there are.
        let rows_per_part = binding.checked_div(layout.bytes()).unwrap_or(usize::MAX);
        if rows_per_part == 0 {
            return Err(error::no_room(name, layout.bytes() as u64, "one row exceeds a binding"));
        }
        let mut uploader = Uploader::new(gpu);
        let mut parts = Vec::new();
        for first in (0..rows).step_by(rows_per_part) {
            let rows = rows_per_part.min(rows - first);
            let buffer = create(gpu, name, (rows * layout.bytes()) as u64, STORAGE)?;
            let part = Part { buffer, first, rows };
            upload(&mut uploader, matrix, layout, &part)?;
            parts.push(part);
        }
        uploader.finish(name)?;
        self.bytes += parts.iter().map(|p| p.buffer.size()).sum::<u64>();
        self.matrices.push(ResidentMatrix { dtype, rows, cols, layout, parts });
        Ok(MatrixId(id))
    }

    pub(crate) fn create_vector(
        &mut self,
        gpu: &Gpu,
        name: &str,
        values: &[f32],
    ) -> Result<VectorId, BackendError> {
        let id = next_id(name, self.vectors.len())?;
        let buffer = create(gpu, name, size_of_val(values) as u64, STORAGE)?;
        let mut uploader = Uploader::new(gpu);
        uploader.write(name, &buffer, 0, bytemuck::cast_slice(values))?;
        uploader.finish(name)?;
        self.bytes += buffer.size();
        self.vectors.push(ResidentVector { buffer, length: values.len() });
        Ok(VectorId(id))
    }

    /// Keeps a projection that has been checked.
    pub(crate) fn create_projection(&mut self, projection: Projection) -> Result<ProjectionId, BackendError> {
        let id = next_id(&projection.name, self.projections.len())?;
        self.projections.push(projection);
        Ok(ProjectionId(id))
    }

    pub(crate) fn matrix(&self, id: MatrixId) -> Result<&ResidentMatrix, BackendError> {
        self.matrices.get(id.0 as usize).ok_or_else(|| error::unknown("matrix", id.0.into()))
    }

    /// Values of a vector.
    pub(crate) fn vector_len(&self, id: VectorId) -> Result<usize, BackendError> {
        let vector = self.vectors.get(id.0 as usize);
        Ok(vector.ok_or_else(|| error::unknown("vector", id.0.into()))?.length)
    }

    /// A projection's matrix and bias.
    pub(crate) fn projection(
        &self,
        id: ProjectionId,
    ) -> Result<(&ResidentMatrix, Option<&wgpu::Buffer>), BackendError> {
        let found = self.projections.get(id.0 as usize);
        let projection = found.ok_or_else(|| error::unknown("projection", id.0.into()))?;
        let bias = projection.bias.and_then(|b| self.vectors.get(b.0 as usize)).map(|v| &v.buffer);
        Ok((self.matrix(projection.matrix)?, bias))
    }
}

fn next_id(name: &str, count: usize) -> Result<u32, BackendError> {
    u32::try_from(count).map_err(|_| error::unsupported(format!("{name}: more than 2³² handles")))
}

fn upload(
    uploader: &mut Uploader<'_>,
    matrix: &Matrix,
    layout: RowLayout,
    part: &Part,
) -> Result<(), BackendError> {
    let row_bytes = matrix.row_bytes();
    if row_bytes == 0 {
        return Ok(());
    }
    let scales_at = part.rows * layout.code_bytes();
    let stored = &matrix.data()[part.first * row_bytes..(part.first + part.rows) * row_bytes];
    let piece_rows = (PIECE_BYTES / row_bytes).max(1);
    for (i, piece) in stored.chunks(piece_rows * row_bytes).enumerate() {
        let row = i * piece_rows;
        let at = (row * layout.code_bytes()) as u64;
        uploader.write(matrix.name(), &part.buffer, at, &codes(matrix, piece))?;
        if layout.scale_words > 0 {
            let at = (scales_at + row * layout.scale_bytes()) as u64;
            uploader.write(matrix.name(), &part.buffer, at, &scales(matrix, piece))?;
        }
    }
    Ok(())
}
