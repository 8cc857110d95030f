//! The checks of a page pool, of single pages in it, and of those that a step's tables name.

use std::collections::HashSet;

use super::{below, equal, positive};
use crate::{
    BackendError, Bands, ContractError, PageAddress, PageCopy, PageData, PageEntry, PageHalf, PoolGeometry,
    Step,
};

/// Checks that a pool's shape has no empty dimension and returns the bytes of one layer's K and V pages.
///
/// # Errors
/// If heads are empty, or the pool has more bytes or slots than can be addressed.
pub fn pool(geometry: &PoolGeometry, backend: &'static str) -> Result<usize, BackendError> {
    positive("page_codec", "kv_heads", geometry.kv_heads)?;
    positive("page_codec", "head_dim", geometry.head_dim)?;
    let factors = [geometry.kv_heads, geometry.head_dim, crate::CHUNK_TOKENS, 2, geometry.slots];
    let elements = factors.into_iter().try_fold(1usize, usize::checked_mul);
    // Four bytes are the most that an element takes; allocations end at `isize::MAX`.
    let stripe = elements.filter(|&n| n <= isize::MAX as usize / 4).map(|n| geometry.codec.bytes(n));
    let all = stripe.and_then(|bytes| bytes.checked_mul(geometry.layers));
    match (stripe, all, u32::try_from(geometry.slots)) {
        (Some(stripe), Some(_), Ok(_)) => Ok(stripe),
        _ => Err(BackendError::OutOfMemory {
            backend,
            what: format!("a page pool of {} chunks", geometry.slots),
            bytes: u64::MAX,
            reason: "more than can be addressed".into(),
        }),
    }
}

/// Checks that a page is in a pool.
///
/// # Errors
/// If its layer or slot is not.
pub fn page(address: PageAddress, pool: &PoolGeometry) -> Result<(), BackendError> {
    below("layer of a page", address.layer as usize, pool.layers)?;
    below("slot of a page", address.slot as usize, pool.slots)
}

/// Checks a page that is to be written.
///
/// # Errors
/// If it is not in the pool, or its bytes are not one page.
pub fn page_data(data: &PageData, pool: &PoolGeometry) -> Result<(), BackendError> {
    page(data.address, pool)?;
    equal("page_codec", "bytes of a page", pool.page_bytes(), data.bytes.len())
}

/// Checks pages that are to be copied.
///
/// # Errors
/// If one is not in the pool, a copy leaves its layer or half, or a page that is written is read or written once more.
pub fn copies(copies: &[PageCopy], pool: &PoolGeometry) -> Result<(), BackendError> {
    let mut written = HashSet::with_capacity(copies.len());
    for &PageCopy { from, to } in copies {
        page(from, pool)?;
        page(to, pool)?;
        if (from.layer, from.half) != (to.layer, to.half) {
            return Err(ContractError::CopyAcross { from, to }.into());
        }
        if !written.insert(to) {
            return Err(ContractError::CopyOverlap { page: to }.into());
        }
    }
    match copies.iter().find(|copy| written.contains(&copy.from)) {
        Some(copy) => Err(ContractError::CopyOverlap { page: copy.from }.into()),
        None => Ok(()),
    }
}

/// The pages of a step, which are checked once for all layers of a band.
pub(super) struct StepPages<'a> {
    step: &'a Step,
    pool: PoolGeometry,
    bands: Bands,
    /// Bands that were checked, by their first layer.
    sound: Vec<usize>,
}

impl<'a> StepPages<'a> {
    pub(super) fn new(step: &'a Step, pool: PoolGeometry) -> Self {
        Self { step, pool, bands: Bands::of(&step.batch().sequences), sound: Vec::new() }
    }

    /// Every chunk up to each sequence's last row must be in the pool, in the pool's codec.
    pub(super) fn layer(&mut self, layer: u32) -> Result<(), BackendError> {
        let batch = self.step.batch();
        let band = self.bands.first(layer as usize);
        if batch.rows.is_empty() || (layer as usize) < self.pool.layers && self.sound.contains(&band) {
            return Ok(());
        }
        for (sequence, first, rows) in batch.runs() {
            let last = batch.rows[first + rows - 1].position as usize;
            let table = &batch.sequences[sequence].pages;
            for chunk in 0..=last / crate::CHUNK_TOKENS {
                let Some(entry) = table.entry(layer as usize, chunk) else {
                    return below("chunk", chunk, table.chunks());
                };
                self.entry(layer, PageHalf::K, entry.k)?;
                self.entry(layer, PageHalf::V, entry.v)?;
            }
        }
        self.sound.push(band);
        Ok(())
    }

    fn entry(&self, layer: u32, half: PageHalf, entry: PageEntry) -> Result<(), BackendError> {
        page(PageAddress { layer, slot: entry.slot, half }, &self.pool)?;
        if entry.codec != self.pool.codec {
            return Err(BackendError::PageCodec { pool: self.pool.codec, found: entry.codec });
        }
        Ok(())
    }
}
