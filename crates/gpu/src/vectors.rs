//! Norm weights and biases: all in one buffer, so that a kernel binds one, whichever of them it needs. It grows
//! as they come; they stay as long as the backend does.

use interleaf_contract::{BackendError, VectorId};

use crate::buffers::{Uploader, grown};
use crate::command::word;
use crate::device::Gpu;
use crate::error;
use crate::tensors::padded;

/// The buffer's first size. It doubles from there.
const FIRST_BYTES: u64 = 64 << 10;

/// Every vector.
#[derive(Debug, Default)]
pub(crate) struct Vectors {
    buffer: Option<wgpu::Buffer>,
    /// Where each is, in f32, and its length.
    places: Vec<(u64, usize)>,
    end: u64,
}

impl Vectors {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.buffer.as_ref().map_or(0, wgpu::Buffer::size)
    }

    /// The buffer of all vectors; `None` before the first.
    pub(crate) const fn buffer(&self) -> Option<&wgpu::Buffer> {
        self.buffer.as_ref()
    }

    /// Makes a vector resident, with zeros behind it as behind a row of activations.
    pub(crate) fn create(&mut self, gpu: &Gpu, name: &str, values: &[f32]) -> Result<VectorId, BackendError> {
        let id = u32::try_from(self.places.len());
        let id = id.map_err(|_| error::unsupported(format!("{name}: more than 2³² handles")))?;
        let end = self.end + padded(values.len()) as u64;
        let buffer = grown(gpu, "vectors", self.buffer.as_ref(), end * size_of::<f32>() as u64, FIRST_BYTES)?;
        let mut uploader = Uploader::new(gpu);
        uploader.write(name, &buffer, self.end * size_of::<f32>() as u64, bytemuck::cast_slice(values))?;
        uploader.finish(name)?;
        self.buffer = Some(buffer);
        self.places.push((self.end, values.len()));
        self.end = end;
        Ok(VectorId(id))
    }

    /// Values of a vector.
    pub(crate) fn len(&self, id: VectorId) -> Result<usize, BackendError> {
        self.place(id).map(|(_, len)| len)
    }

    /// Where a vector is, in f32: a multiple of 8.
    pub(crate) fn at(&self, id: VectorId) -> Result<u32, BackendError> {
        self.place(id).map(|(at, _)| word(at))
    }

    fn place(&self, id: VectorId) -> Result<(u64, usize), BackendError> {
        let place = self.places.get(id.0 as usize);
        place.copied().ok_or_else(|| error::unknown("vector", id.0.into()))
    }
}
