//! The page pool in host memory, striped by layer, and the placing of bytes in it.

use crate::{BackendError, Bytes, PageAddress, PageCopy, PageData, PageElement, PoolGeometry, check};

/// Pages of every layer.
///
/// Stripes are kept in words of 32 bits, so that a page can be viewed as f32 or f16 in place.
#[derive(Debug)]
pub struct Pool {
    backend: &'static str,
    geometry: PoolGeometry,
    stripes: Vec<Box<[u32]>>,
}

impl Pool {
    pub(super) fn empty(backend: &'static str) -> Self {
        let geometry =
            PoolGeometry { layers: 0, kv_heads: 0, head_dim: 0, slots: 0, element: PageElement::F16 };
        Self { backend, geometry, stripes: Vec::new() }
    }

    pub(super) fn resize(&mut self, geometry: PoolGeometry) -> Result<(), BackendError> {
        let stripe = check::pool(&geometry, self.backend)?;
        let stripes = (0..geometry.layers)
            .map(|_| bytemuck::allocation::try_zeroed_slice_box(stripe.div_ceil(4)))
            .collect::<Result<_, ()>>()
            .map_err(|()| BackendError::OutOfMemory {
                backend: self.backend,
                what: format!("a page pool of {} chunks", geometry.slots),
                bytes: (stripe * geometry.layers) as u64,
                reason: "the allocator refused".into(),
            })?;
        self.stripes = stripes;
        self.geometry = geometry;
        Ok(())
    }

    /// The pool's shape.
    #[must_use]
    pub fn geometry(&self) -> &PoolGeometry {
        &self.geometry
    }

    pub(super) fn bytes(&self) -> u64 {
        self.stripes.iter().map(|s| size_of_val(&**s) as u64).sum()
    }

    fn place(&self, address: PageAddress) -> Result<std::ops::Range<usize>, BackendError> {
        check::page(address, &self.geometry)?;
        Ok(address.bytes())
    }

    /// The stored bytes of a page, aligned to 4 bytes.
    ///
    /// # Errors
    /// If the address is outside the pool.
    pub fn page(&self, address: PageAddress) -> Result<&[u8], BackendError> {
        let place = self.place(address)?;
        Ok(&bytemuck::cast_slice(&self.stripes[address.layer as usize])[place])
    }

    /// The same, to be written.
    ///
    /// # Errors
    /// If the address is outside the pool.
    pub fn page_mut(&mut self, address: PageAddress) -> Result<&mut [u8], BackendError> {
        let place = self.place(address)?;
        Ok(&mut bytemuck::cast_slice_mut(&mut self.stripes[address.layer as usize])[place])
    }

    pub(super) fn read(&self, address: PageAddress) -> Result<PageData, BackendError> {
        Ok(PageData { address, bytes: Bytes::copy_from_slice(self.page(address)?) })
    }

    pub(super) fn write(&mut self, page: &PageData) -> Result<(), BackendError> {
        self.page_mut(page.address)?.copy_from_slice(&page.bytes);
        Ok(())
    }

    /// Copies a page within its layer.
    pub(super) fn copy(&mut self, PageCopy { from, to }: PageCopy) -> Result<(), BackendError> {
        let (source, target) = (self.place(from)?, self.place(to)?);
        let stripe: &mut [u8] = bytemuck::cast_slice_mut(&mut self.stripes[to.layer as usize]);
        stripe.copy_within(source, target.start);
        Ok(())
    }
}
