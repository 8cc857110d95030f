//! Pages between host and device, and from place to place, in pieces: no transfer is bounded by what one buffer can hold,
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

/// Copies pages from place to place, after whatever was submitted so far. They have been checked: none of them reads what
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
    let most = COPIED_BYTES.min(gpu.caps.binding_bytes) as usize;
    let rounds = pieces(copies, most, |copy| copy.from);
    let length = |copy: &PageCopy| copy.from.bytes().len();
    let longest = rounds.iter().map(|round| round.iter().map(length).sum::<usize>()).max().unwrap_or(0);
    // WebGPU copies no buffer to itself, not even to another place in it, so pages go by way of another one.
    let between = scratch.take(gpu, longest as u64)?;
    scratch.give(&between);
    let mut recording = Recording::default();
    for round in rounds {
        let places = || {
            round.iter().scan(0, |next, copy| {
                let at = *next;
                *next += length(copy) as u64;
                Some((copy, (Place::Buffer(between.clone()), at), length(copy) as u64))
            })
        };
        for (copy, place, bytes) in places() {
            let (stripe, at) = pool.locate(copy.from)?;
            recording.copy((Place::Buffer(stripe.clone()), at), place, bytes);
        }
        for (copy, place, bytes) in places() {
            let (stripe, at) = pool.locate(copy.to)?;
            recording.copy(place, (Place::Buffer(stripe.clone()), at), bytes);
        }
    }
    submitter.submit(gpu, &recording, None, None, |_| ())?;
    Ok(())
}

/// Parts of a list, in order, whose pages are as many bytes together at most, or one page each.
fn pieces<T>(all: &[T], most: usize, page: impl Fn(&T) -> PageAddress) -> Vec<&[T]> {
    let mut pieces = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (i, one) in all.iter().enumerate() {
        let length = page(one).bytes().len();
        if i > first && bytes + length > most {
            pieces.push(&all[first..i]);
            (first, bytes) = (i, 0);
        }
        bytes += length;
    }
    pieces.push(&all[first..]);
    pieces
}

/// A read under way.
#[derive(Debug)]
pub(crate) struct PageRead {
    pieces: Vec<(Pending, Vec<PageAddress>)>,
    /// Freed with the read: a swap of everything must not hold its size for ever.
    buffers: BufferPool,
}

impl PageRead {
    /// A read of no pages.
    pub(crate) const fn none() -> Self {
        Self { pieces: Vec::new(), buffers: BufferPool::new("pages", READ_BACK) }
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
        for piece in pieces(pages, PIECE_BYTES, |page| *page) {
            let mut recording = Recording::default();
            for page in piece {
                let (stripe, at) = pool.locate(*page)?;
                recording.read_back(Place::Buffer(stripe.clone()), at, page.bytes().len() as u64);
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
            let mut at = 0;
            for address in addresses {
                let end = at + address.bytes().len();
                pages.push(PageData { address, bytes: bytes.slice(at..end) });
                at = end;
            }
        }
        Ok(pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_in_order_and_no_longer_than_they_may_be() {
        let pages: Vec<PageAddress> =
            [1, 2, 3, 9, 1, 1].map(|units| PageAddress { layer: 0, at: 0, units }).into();
        let units = |piece: &&[PageAddress]| piece.iter().map(|page| page.units).collect::<Vec<_>>();
        let found: Vec<_> = pieces(&pages, 3 * 16, |page| *page).iter().map(units).collect();
        assert_eq!(found, [vec![1, 2], vec![3], vec![9], vec![1, 1]]);
    }
}
