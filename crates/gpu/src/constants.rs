//! Constants of pages on the device: all in one buffer, so that a kernel binds one, whatever pages it reads. They come
//! and go in it through a free list.

use std::collections::HashMap;

use interleaf_contract::check::ConstantsShape;
use interleaf_contract::{BackendError, ConstantsId, PageConstants};

use crate::buffers::{Uploader, grown};
use crate::command::{Place, word};
use crate::device::Gpu;
use crate::error;
use crate::extents::{Extent, Extents};

/// The buffer's first size. It doubles from there.
const FIRST_BYTES: u64 = 64 << 10;

/// Bytes of a word.
const WORD: u64 = size_of::<u32>() as u64;

/// Constants that are resident.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResidentConstants {
    pub shape: ConstantsShape,
    /// Dimensions of a head that keys are turned in.
    pub rotary_dim: usize,
    extent: Extent,
}

impl ResidentConstants {
    /// The first of their words.
    pub(crate) fn at(&self) -> u32 {
        word(self.extent.start)
    }
}

/// All that are resident.
#[derive(Debug, Default)]
pub(crate) struct Constants {
    buffer: Option<wgpu::Buffer>,
    extents: Extents,
    resident: HashMap<ConstantsId, ResidentConstants>,
    created: u32,
}

impl Constants {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.buffer.as_ref().map_or(0, wgpu::Buffer::size)
    }

    /// The buffer of all constants. Where there are none, what is never read is bound.
    pub(crate) fn place(&self) -> Place {
        self.buffer.as_ref().map_or(Place::Tables, |buffer| Place::Buffer(buffer.clone()))
    }

    pub(crate) fn get(&self, id: ConstantsId) -> Result<&ResidentConstants, BackendError> {
        self.resident.get(&id).ok_or_else(|| error::unknown("constants of pages", id.0.into()))
    }

    /// Makes constants resident that have been checked; keys are turned in so many dimensions of a head.
    pub(crate) fn create(
        &mut self,
        gpu: &Gpu,
        constants: &PageConstants,
        rotary_dim: usize,
    ) -> Result<ConstantsId, BackendError> {
        let PageConstants { name, rows, .. } = constants;
        let words = rows.words();
        let length = words.len() as u64;
        let end = self.extents.end_for(length);
        if end > self.extents.end() {
            let larger = grown(gpu, "constants of pages", self.buffer.as_ref(), end * WORD, FIRST_BYTES)
                .map_err(|e| error::of(name, e))?;
            self.extents.grow(larger.size() / WORD);
            self.buffer = Some(larger);
        }
        let full = || error::no_room(name, length * WORD, "the buffer of constants is fragmented");
        let extent = self.extents.take(length).ok_or_else(full)?;
        if let Err(e) = self.upload(gpu, name, extent, words) {
            self.extents.give(extent);
            return Err(e);
        }
        let id = ConstantsId(self.created);
        self.created += 1;
        let shape = ConstantsShape::of(constants);
        self.resident.insert(id, ResidentConstants { shape, rotary_dim, extent });
        Ok(id)
    }

    fn upload(&self, gpu: &Gpu, name: &str, extent: Extent, words: &[u32]) -> Result<(), BackendError> {
        let Some(buffer) = self.buffer.as_ref().filter(|_| !words.is_empty()) else { return Ok(()) };
        let mut uploader = Uploader::new(gpu);
        uploader.write(name, buffer, extent.start * WORD, bytemuck::cast_slice(words))?;
        uploader.finish(name)
    }

    pub(crate) fn drop_constants(&mut self, id: ConstantsId) -> Result<(), BackendError> {
        let found = self.resident.remove(&id);
        let resident = found.ok_or_else(|| error::unknown("constants of pages", id.0.into()))?;
        self.extents.give(resident.extent);
        Ok(())
    }
}
