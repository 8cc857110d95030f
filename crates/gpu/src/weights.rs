//! What stays resident of the base: matrices, projections and rope tables. Vectors are in `vectors`, adapters in
//! `factors`.

use interleaf_contract::{
    BackendError, Dtype, Matrix, MatrixId, Projection, ProjectionId, Projections, RopeId, RopeTable, VectorId,
};

use crate::buffers::{STORAGE, Uploader, create};
use crate::command::word;
use crate::device::Gpu;
use crate::error;
use crate::pack::{RowLayout, UNIT_BYTES, codes, scales};
use crate::vectors::Vectors;

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

/// Some outputs of a matrix: their codes, then their scales, somewhere in a buffer.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub buffer: wgpu::Buffer,
    /// Where the codes of the first output are, in units.
    pub codes_at: u32,
    /// Where its scales are, in u32.
    pub scales_at: u32,
    pub first: usize,
    pub rows: usize,
}

/// Rotary factors on the device: the cosines of all positions, then the sines.
#[derive(Debug)]
pub(crate) struct ResidentRope {
    pub buffer: wgpu::Buffer,
    pub rotary_dim: usize,
    pub positions: usize,
}

/// Everything of the base.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    pub vectors: Vectors,
    /// By handle. What was dropped leaves its place empty, so that no handle is given twice.
    matrices: Vec<Option<ResidentMatrix>>,
    projections: Projections,
    ropes: Vec<ResidentRope>,
}

impl Weights {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        let parts = self.matrices.iter().flatten().flat_map(|matrix| &matrix.parts);
        // Matrices of one buffer, which have consecutive handles, count it once.
        let mut buffers: Vec<&wgpu::Buffer> = parts.map(|part| &part.buffer).collect();
        buffers.dedup();
        buffers.extend(self.ropes.iter().map(|rope| &rope.buffer));
        buffers.into_iter().map(wgpu::Buffer::size).sum::<u64>() + self.vectors.bytes()
    }

    /// Makes matrices resident: side by side in one buffer where one binding reaches all of them, else apart,
    /// each in as many parts as it needs.
    pub(crate) fn create_matrices(
        &mut self,
        gpu: &Gpu,
        matrices: &[Matrix],
    ) -> Result<Vec<MatrixId>, BackendError> {
        let whole = |m: &Matrix| part_bytes(RowLayout::of(m.dtype(), m.cols()), m.rows());
        let bytes = matrices.iter().map(whole).try_fold(0_usize, usize::checked_add);
        let created = match bytes {
            Some(bytes) if bytes as u64 <= gpu.caps.binding_bytes => together(gpu, matrices, bytes)?,
            _ => matrices.iter().map(|matrix| apart(gpu, matrix)).collect::<Result<_, _>>()?,
        };
        let first = self.matrices.len();
        self.matrices.extend(created.into_iter().map(Some));
        let name = matrices.first().map_or("matrix", Matrix::name);
        (first..self.matrices.len()).map(|at| Ok(MatrixId(next_id(name, at)?))).collect()
    }

    /// Keeps a projection that has been checked.
    pub(crate) fn create_projection(&mut self, projection: Projection) -> ProjectionId {
        self.projections.add(projection)
    }

    /// Drops projections that have been checked, with what none of the others uses. A buffer goes with the last matrix
    /// in it, and once no step under way reads it.
    pub(crate) fn drop_projections(&mut self, ids: &[ProjectionId]) {
        let unused = self.projections.remove(ids);
        unused.matrices.iter().for_each(|id| self.matrices[id.0 as usize] = None);
        unused.vectors.iter().for_each(|id| self.vectors.drop_vector(*id));
    }

    /// Makes a rope table resident that has been checked.
    pub(crate) fn create_rope(&mut self, gpu: &Gpu, table: &RopeTable) -> Result<RopeId, BackendError> {
        let id = next_id("rope table", self.ropes.len())?;
        let plane = size_of_val(table.cos.as_slice()) as u64;
        let buffer = create(gpu, "rope table", 2 * plane, STORAGE)?;
        let mut uploader = Uploader::new(gpu);
        for (values, at) in [(&table.cos, 0), (&table.sin, plane)] {
            uploader.write("rope table", &buffer, at, bytemuck::cast_slice(values))?;
        }
        uploader.finish("rope table")?;
        let RopeTable { rotary_dim, positions, .. } = *table;
        self.ropes.push(ResidentRope { buffer, rotary_dim, positions });
        Ok(RopeId(id))
    }

    pub(crate) fn matrix(&self, id: MatrixId) -> Result<&ResidentMatrix, BackendError> {
        let matrix = self.matrices.get(id.0 as usize).and_then(Option::as_ref);
        matrix.ok_or_else(|| error::unknown("matrix", id.0.into()))
    }

    pub(crate) fn rope(&self, id: RopeId) -> Result<&ResidentRope, BackendError> {
        self.ropes.get(id.0 as usize).ok_or_else(|| error::unknown("rope table", id.0.into()))
    }

    /// A projection's matrix and bias.
    pub(crate) fn projection(
        &self,
        id: ProjectionId,
    ) -> Result<(&ResidentMatrix, Option<VectorId>), BackendError> {
        let found = self.projections.get(id);
        let projection = found.ok_or_else(|| error::unknown("projection", id.0.into()))?;
        Ok((self.matrix(projection.matrix)?, projection.bias))
    }

    /// Whether projections can be one dispatch: their matrices are of one dtype, in one buffer.
    pub(crate) fn are_together(&self, ids: impl IntoIterator<Item = ProjectionId>) -> bool {
        let mut seen: Option<(Dtype, &wgpu::Buffer)> = None;
        ids.into_iter().all(|id| match self.projection(id) {
            Ok((matrix, _)) => match matrix.parts.as_slice() {
                [part] => {
                    let own = (matrix.dtype, &part.buffer);
                    *seen.get_or_insert(own) == own
                }
                _ => false,
            },
            Err(_) => false,
        })
    }
}

fn next_id(name: &str, count: usize) -> Result<u32, BackendError> {
    u32::try_from(count).map_err(|_| error::unsupported(format!("{name}: more than 2³² handles")))
}

/// Bytes of some outputs, so that what follows begins at a whole unit.
fn part_bytes(layout: RowLayout, rows: usize) -> usize {
    layout.bytes().saturating_mul(rows).checked_next_multiple_of(UNIT_BYTES).unwrap_or(usize::MAX)
}

fn together(gpu: &Gpu, matrices: &[Matrix], bytes: usize) -> Result<Vec<ResidentMatrix>, BackendError> {
    let name = matrices.first().map_or("matrix", Matrix::name);
    let buffer = create(gpu, name, bytes as u64, STORAGE)?;
    let mut at = 0;
    matrices
        .iter()
        .map(|matrix| {
            let layout = RowLayout::of(matrix.dtype(), matrix.cols());
            let part = part(&buffer, at, layout, 0, matrix.rows());
            at += part_bytes(layout, matrix.rows());
            upload(gpu, matrix, layout, &part)?;
            Ok(resident(matrix, layout, vec![part]))
        })
        .collect()
}

fn apart(gpu: &Gpu, matrix: &Matrix) -> Result<ResidentMatrix, BackendError> {
    let layout = RowLayout::of(matrix.dtype(), matrix.cols());
    let (name, rows) = (matrix.name(), matrix.rows());
    let binding = usize::try_from(gpu.caps.binding_bytes).unwrap_or(usize::MAX);
    // Rows without columns take nothing, however many there are.
    let rows_per_part = binding.checked_div(layout.bytes()).unwrap_or(usize::MAX);
    if rows_per_part == 0 {
        return Err(error::no_room(name, layout.bytes() as u64, "one row exceeds a binding"));
    }
    let mut parts = Vec::new();
    for first in (0..rows).step_by(rows_per_part) {
        let rows = rows_per_part.min(rows - first);
        let buffer = create(gpu, name, (rows * layout.bytes()) as u64, STORAGE)?;
        let part = part(&buffer, 0, layout, first, rows);
        upload(gpu, matrix, layout, &part)?;
        parts.push(part);
    }
    Ok(resident(matrix, layout, parts))
}

fn resident(matrix: &Matrix, layout: RowLayout, parts: Vec<Part>) -> ResidentMatrix {
    ResidentMatrix { dtype: matrix.dtype(), rows: matrix.rows(), cols: matrix.cols(), layout, parts }
}

fn part(buffer: &wgpu::Buffer, at: usize, layout: RowLayout, first: usize, rows: usize) -> Part {
    let scales_at = at + rows * layout.code_bytes();
    Part {
        buffer: buffer.clone(),
        codes_at: word(at / UNIT_BYTES),
        scales_at: word(scales_at / size_of::<u32>()),
        first,
        rows,
    }
}

fn upload(gpu: &Gpu, matrix: &Matrix, layout: RowLayout, part: &Part) -> Result<(), BackendError> {
    let row_bytes = matrix.row_bytes();
    if row_bytes == 0 {
        return Ok(());
    }
    let mut uploader = Uploader::new(gpu);
    let codes_at = part.codes_at as usize * UNIT_BYTES;
    let scales_at = part.scales_at as usize * size_of::<u32>();
    let stored = &matrix.data()[part.first * row_bytes..(part.first + part.rows) * row_bytes];
    let piece_rows = (PIECE_BYTES / row_bytes).max(1);
    for (i, piece) in stored.chunks(piece_rows * row_bytes).enumerate() {
        let row = i * piece_rows;
        let at = (codes_at + row * layout.code_bytes()) as u64;
        uploader.write(matrix.name(), &part.buffer, at, &codes(matrix, piece))?;
        if layout.scale_words > 0 {
            let at = (scales_at + row * layout.scale_bytes()) as u64;
            uploader.write(matrix.name(), &part.buffer, at, &scales(matrix, piece))?;
        }
    }
    uploader.finish(matrix.name())
}
