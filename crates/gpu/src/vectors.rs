//! Norm weights and biases: all in one buffer, so that a kernel binds one, whichever of them it needs. It grows
//! as they come and never shrinks: where one was dropped, there is room for others.

use interleaf_contract::{BackendError, VectorId};

use crate::buffers::{Uploader, grown};
use crate::command::word;
use crate::device::Gpu;
use crate::error;
use crate::extents::{Extent, Extents};
use crate::tensors::padded;

/// The buffer's first size. It doubles from there.
const FIRST_BYTES: u64 = 64 << 10;

/// Bytes of an f32.
const WORD: u64 = size_of::<f32>() as u64;

/// Every vector.
#[derive(Debug, Default)]
pub(crate) struct Vectors {
    buffer: Option<wgpu::Buffer>,
    /// In f32, by multiples of 8.
    extents: Extents,
    /// Where each is and its length, by handle. What was dropped leaves its place empty, so that no handle is given twice.
    places: Vec<Option<(Extent, usize)>>,
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
        let length = padded(values.len());
        let extent = self.take(gpu, name, length as u64)?;
        // Something else may have been there.
        let mut wide = values.to_vec();
        wide.resize(length, 0.0);
        if let Err(e) = self.upload(gpu, name, extent, &wide) {
            self.extents.give(extent);
            return Err(e);
        }
        self.places.push(Some((extent, values.len())));
        Ok(VectorId(id))
    }

    /// Forgets a vector.
    pub(crate) fn drop_vector(&mut self, id: VectorId) {
        if let Some((extent, _)) = self.places.get_mut(id.0 as usize).and_then(Option::take) {
            self.extents.give(extent);
        }
    }

    /// Room for so many f32, in a larger copy of the buffer if need be.
    fn take(&mut self, gpu: &Gpu, name: &str, length: u64) -> Result<Extent, BackendError> {
        let end = self.extents.end_for(length);
        if end > self.extents.end() {
            let larger = grown(gpu, "vectors", self.buffer.as_ref(), end * WORD, FIRST_BYTES)?;
            self.extents.grow(larger.size() / WORD);
            self.buffer = Some(larger);
        }
        let full = || error::no_room(name, length * WORD, "the vectors' buffer is fragmented");
        self.extents.take(length).ok_or_else(full)
    }

    fn upload(&self, gpu: &Gpu, name: &str, extent: Extent, values: &[f32]) -> Result<(), BackendError> {
        let Some(buffer) = &self.buffer else { return Ok(()) };
        let mut uploader = Uploader::new(gpu);
        uploader.write(name, buffer, extent.start * WORD, bytemuck::cast_slice(values))?;
        uploader.finish(name)
    }

    /// Values of a vector.
    pub(crate) fn len(&self, id: VectorId) -> Result<usize, BackendError> {
        self.place(id).map(|(_, len)| len)
    }

    /// Where a vector is, in f32: a multiple of 8.
    pub(crate) fn at(&self, id: VectorId) -> Result<u32, BackendError> {
        self.place(id).map(|(extent, _)| word(extent.start))
    }

    fn place(&self, id: VectorId) -> Result<(Extent, usize), BackendError> {
        let place = self.places.get(id.0 as usize).copied().flatten();
        place.ok_or_else(|| error::unknown("vector", id.0.into()))
    }
}
