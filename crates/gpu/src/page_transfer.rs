//! Pages between host and device, and from slot to slot, in pieces: no transfer is bounded by what one buffer can hold,
//! and what a large one needs is freed with it.

use interleaf_contract::{BackendError, Bytes, PageAddress, PageCopy, PageData};

use crate::buffers::{BufferPool, READ_BACK, Uploader};
use crate::command::{Place, Recording, Submitter};
use crate::device::Gpu;
use crate::pages::PagePool;
use crate::readback::Pending;

/// Bytes of pages that are read through one buffer, unless a page is larger.
const PIECE_BYTES: usize = 16 << 20;

/// Bytes of pages that are copied by way of one buffer, unless a page is larger: those of a chunk of a model of 8B
/// parameters, twice.
const COPIED_BYTES: u64 = 4 << 20;

/// Writes pages straight into their stripes, before whatever is submitted later. Addresses and lengths
/// have been checked.
pub(crate) fn write(gpu: &Gpu, pool: &PagePool, pages: &[PageData]) -> Result<(), BackendError> {
    let mut uploader = Uploader::new(gpu);
    for page in pages {
        let (stripe, at) = pool.locate(page.address)?;
        uploader.write("pages", stripe, at, &page.bytes)?;
    }
    uploader.finish("pages")
}

/// Copies pages from slot to slot, after whatever was submitted so far. They have been checked: none of them reads what
/// another writes.
pub(crate) fn copy(
    gpu: &Gpu,
    submitter: &mut Submitter,
    scratch: &mut BufferPool,
    pool: &PagePool,
    copies: &[PageCopy],
) -> Result<(), BackendError> {
    if copies.is_empty() {
        return Ok(());
    }
    let page_bytes = pool.geometry.page_bytes() as u64;
    let most = (COPIED_BYTES.min(gpu.caps.binding_bytes) / page_bytes).max(1);
    // WebGPU copies no buffer to itself, not even to another place in it, so pages go by way of another one.
    let between = scratch.take(gpu, page_bytes * most.min(copies.len() as u64))?;
    scratch.give(&between);
    let mut recording = Recording::default();
    for round in copies.chunks(usize::try_from(most).unwrap_or(usize::MAX)) {
        let places =
            || (0..).step_by(pool.geometry.page_bytes()).map(|at| (Place::Buffer(between.clone()), at));
        for (copy, place) in round.iter().zip(places()) {
            let (stripe, at) = pool.locate(copy.from)?;
            recording.copy((Place::Buffer(stripe.clone()), at), place, page_bytes);
        }
        for (copy, place) in round.iter().zip(places()) {
            let (stripe, at) = pool.locate(copy.to)?;
            recording.copy(place, (Place::Buffer(stripe.clone()), at), page_bytes);
        }
    }
    submitter.submit(gpu, &recording, None, None, |_| ())?;
    Ok(())
}

/// A read under way.
#[derive(Debug)]
pub(crate) struct PageRead {
    pieces: Vec<(Pending, Vec<PageAddress>)>,
    page_bytes: usize,
    /// Freed with the read: a swap of everything must not hold its size for ever.
    buffers: BufferPool,
}

impl PageRead {
    /// A read of no pages.
    pub(crate) const fn none() -> Self {
        Self { pieces: Vec::new(), page_bytes: 0, buffers: BufferPool::new("pages", READ_BACK) }
    }

    /// Starts reading pages as whatever was submitted so far leaves them. Addresses have been checked.
    pub(crate) fn start(
        gpu: &Gpu,
        submitter: &mut Submitter,
        pool: &PagePool,
        pages: &[PageAddress],
    ) -> Result<Self, BackendError> {
        let mut read = Self::none();
        if pages.is_empty() {
            return Ok(read);
        }
        read.page_bytes = pool.geometry.page_bytes();
        for piece in pages.chunks((PIECE_BYTES / read.page_bytes).max(1)) {
            let mut recording = Recording::default();
            for page in piece {
                let (stripe, at) = pool.locate(*page)?;
                recording.read_back(Place::Buffer(stripe.clone()), at, read.page_bytes as u64);
            }
            let pending = Pending::submit(gpu, submitter, &mut read.buffers, &recording, None)?;
            read.pieces.push((pending, piece.to_vec()));
        }
        Ok(read)
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.buffers.bytes()
    }

    /// Waits, and returns the pages in the order asked.
    pub(crate) fn wait(mut self, gpu: &Gpu) -> Result<Vec<PageData>, BackendError> {
        let mut pages = Vec::new();
        for (pending, addresses) in self.pieces {
            let bytes = Bytes::from(pending.wait(gpu, &mut self.buffers)?);
            for (i, address) in addresses.into_iter().enumerate() {
                let bytes = bytes.slice(i * self.page_bytes..(i + 1) * self.page_bytes);
                pages.push(PageData { address, bytes });
            }
        }
        Ok(pages)
    }
}
