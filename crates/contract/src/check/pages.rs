//! The checks of a page pool, of single pages in it, and of those that a step's tables name.

use super::{ConstantsShape, Inventory, below, equal, positive};
use crate::{
    BackendError, Bands, CHUNK_TOKENS, ContractError, PAGE_UNIT, PageAddress, PageCodec, PageConstants,
    PageCopy, PageData, PageEntry, PageHalf, PagePlace, PageRecode, PoolGeometry, Step,
};

/// Checks that a pool's shape has no empty dimension and returns the bytes of one layer's stripe.
///
/// # Errors
/// If heads are empty, or the pool has more bytes or slots than can be addressed.
pub fn pool(geometry: &PoolGeometry, backend: &'static str) -> Result<usize, BackendError> {
    positive("page_codec", "kv_heads", geometry.kv_heads)?;
    positive("page_codec", "head_dim", geometry.head_dim)?;
    let factors = [geometry.kv_heads, geometry.head_dim, CHUNK_TOKENS, 2, geometry.slots];
    let elements = factors.into_iter().try_fold(1usize, usize::checked_mul);
    // Four bytes are the most that an element takes; allocations end at `isize::MAX`.
    let stripe = elements.filter(|&n| n <= isize::MAX as usize / 4).map(|n| geometry.element.bytes(n));
    let all = stripe.and_then(|bytes| bytes.checked_mul(geometry.layers));
    match (stripe, all) {
        (Some(stripe), Some(_)) if stripe / PAGE_UNIT <= u32::MAX as usize => Ok(stripe),
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
/// If its layer or bytes are not.
pub fn page(address: PageAddress, pool: &PoolGeometry) -> Result<(), BackendError> {
    below("layer of a page", address.layer as usize, pool.layers)?;
    positive("page_codec", "bytes of a page", address.units as usize)?;
    below("last unit of a page", address.at as usize + address.units as usize - 1, pool.stripe_units())
}

/// Checks a page that is to be written.
///
/// # Errors
/// If it is not in the pool, or its bytes are not as many as the page has.
pub fn page_data(data: &PageData, pool: &PoolGeometry) -> Result<(), BackendError> {
    page(data.address, pool)?;
    equal("page_codec", "bytes of a page", data.address.bytes().len(), data.bytes.len())
}

/// Checks pages that are to be copied.
///
/// # Errors
/// If one is not in the pool, a copy leaves its layer or is of two lengths, or bytes that are written are read or written
/// once more.
pub fn copies(copies: &[PageCopy], pool: &PoolGeometry) -> Result<(), BackendError> {
    for &PageCopy { from, to } in copies {
        page(from, pool)?;
        page(to, pool)?;
        if (from.layer, from.units) != (to.layer, to.units) {
            return Err(ContractError::CopyAcross { from, to }.into());
        }
    }
    let written = copies.iter().map(|copy| copy.to).collect();
    apart(written, copies.iter().map(|copy| copy.from))
}

/// Checks that what is written is written once, and not read.
fn apart(mut written: Vec<PageAddress>, read: impl Iterator<Item = PageAddress>) -> Result<(), BackendError> {
    let end = |page: &PageAddress| u64::from(page.at) + u64::from(page.units);
    written.sort_unstable_by_key(|page| (page.layer, page.at));
    let overlap = |page| Err(ContractError::CopyOverlap { page }.into());
    for pair in written.windows(2) {
        if pair[0].layer == pair[1].layer && end(&pair[0]) > u64::from(pair[1].at) {
            return overlap(pair[1]);
        }
    }
    for page in read {
        // They do not overlap: the last that begins before the page ends is the last that could reach into it.
        let before = written.partition_point(|w| (w.layer, u64::from(w.at)) < (page.layer, end(&page)));
        let last = before.checked_sub(1).map(|last| written[last]);
        if let Some(last) = last.filter(|last| last.layer == page.layer && end(last) > u64::from(page.at)) {
            return overlap(last);
        }
    }
    Ok(())
}

/// Checks constants against what is resident.
///
/// # Errors
/// If the rope is unknown.
pub fn constants(constants: &PageConstants, held: &impl Inventory) -> Result<(), BackendError> {
    constants.rope.map_or(Ok(()), |rope| held.rope_shape(rope).map(drop))
}

/// Checks pages that are to be stored in other codecs.
///
/// # Errors
/// If one of them, or an anchor, cannot be read here; or bytes that are written are read or written once more.
pub fn recodes(recodes: &[PageRecode], held: &impl Inventory) -> Result<(), BackendError> {
    let pool = held.pool();
    let mut written = Vec::new();
    let mut read = Vec::new();
    compared(recodes, held)?;
    for &PageRecode { layer, half, from, to, .. } in recodes {
        written.push(pool.address(layer, half, to));
        let anchors = [from, to].into_iter().filter_map(|entry| entry.anchor).map(PageEntry::from);
        read.extend(anchors.chain([from]).map(|entry| pool.address(layer, half, entry)));
    }
    apart(written, read.into_iter())
}

/// Checks pages that are to be compared with others.
///
/// # Errors
/// If one of them, or an anchor, cannot be read here.
pub fn compared(pages: &[PageRecode], held: &impl Inventory) -> Result<(), BackendError> {
    let pool = held.pool();
    for &PageRecode { layer, half, chunk, from, to } in pages {
        let pages = Pages { held, pool, layer, half, tokens: (chunk as usize + 1) * CHUNK_TOKENS };
        pages.entry(from)?;
        pages.entry(to)?;
    }
    Ok(())
}

/// Pages of one layer and half, and how far their sequence reaches.
struct Pages<'a, I> {
    held: &'a I,
    pool: PoolGeometry,
    layer: u32,
    half: PageHalf,
    tokens: usize,
}

impl<I: Inventory> Pages<'_, I> {
    /// A page must be in the pool, in a codec that is read here, over an anchor if it needs one, with its constants.
    fn entry(&self, entry: PageEntry) -> Result<(), BackendError> {
        self.place(entry.place())?;
        let PageEntry { codec, anchor, .. } = entry;
        let expected = if codec.stands_alone() { "no anchor" } else { "an anchor that stands alone" };
        match anchor {
            None if codec.stands_alone() => Ok(()),
            Some(anchor) if !codec.stands_alone() && anchor.codec.stands_alone() => self.place(anchor),
            found => {
                let found = found.map_or("none".into(), |anchor| format!("one in {}", anchor.codec));
                Err(ContractError::Anchor { codec, expected, found }.into())
            }
        }
    }

    fn place(&self, PagePlace { codec, at, constants }: PagePlace) -> Result<(), BackendError> {
        let Self { held, pool, layer, half, .. } = *self;
        if !codec.is_sound(half) {
            return Err(ContractError::NoSuchCodec { codec, half }.into());
        }
        page(pool.address(layer, half, PageEntry::alone(codec, at)), &pool)?;
        if !held.reads(codec) {
            let expected = format!("{} numbers", pool.element);
            let (backend, used) = (held.name(), "read");
            return Err(BackendError::PageCodec { backend, used, expected, found: codec });
        }
        match constants {
            None if codec.constant_rows() == 0 => Ok(()),
            Some(id) if codec.constant_rows() > 0 => {
                let ConstantsShape { rows, kv_heads, head_dim, rope } = held.constants_shape(id)?;
                equal("page_codec", "kv_heads of constants", pool.kv_heads, kv_heads)?;
                equal("page_codec", "head_dim of constants", pool.head_dim, head_dim)?;
                below("row of constants", codec.constant_rows() - 1, rows)?;
                let Some(rope) = rope.filter(|_| half == PageHalf::K) else { return Ok(()) };
                let (rotated, positions) = held.rope_shape(rope)?;
                below("last position of a chunk", self.tokens - 1, positions)?;
                below("rotated dimensions", rotated, pool.head_dim + 1)
            }
            _ => {
                let expected = if codec.constant_rows() == 0 { "no constants" } else { "constants" };
                Err(ContractError::Constants { codec, expected }.into())
            }
        }
    }
}

/// The pages of a step, which are checked once for all layers of a band.
pub(super) struct StepPages<'a, I> {
    step: &'a Step,
    held: &'a I,
    pool: PoolGeometry,
    bands: Bands,
    /// Bands that were checked, by their first layer.
    sound: Vec<usize>,
}

impl<'a, I: Inventory> StepPages<'a, I> {
    pub(super) fn new(step: &'a Step, held: &'a I) -> Self {
        let bands = Bands::of(&step.batch().sequences);
        Self { step, held, pool: held.pool(), bands, sound: Vec::new() }
    }

    /// Every chunk up to each sequence's last row must be in the pool, and what rows are appended to is exact.
    pub(super) fn layer(&mut self, layer: u32) -> Result<(), BackendError> {
        let batch = self.step.batch();
        let band = self.bands.first(layer as usize);
        if batch.rows.is_empty() || (layer as usize) < self.pool.layers && self.sound.contains(&band) {
            return Ok(());
        }
        for (sequence, first, rows) in batch.runs() {
            let rows = &batch.rows[first..first + rows];
            let last = rows.last().map_or(0, |row| row.position as usize);
            let table = &batch.sequences[sequence].pages;
            for chunk in 0..=last / CHUNK_TOKENS {
                let Some(entry) = table.entry(layer as usize, chunk) else {
                    return below("chunk", chunk, table.chunks());
                };
                for half in [PageHalf::K, PageHalf::V] {
                    let (held, pool, tokens) = (self.held, self.pool, (chunk + 1) * CHUNK_TOKENS);
                    Pages { held, pool, layer, half, tokens }.entry(entry.half(half))?;
                }
            }
            for row in rows {
                let entry = table.entry(layer as usize, row.position as usize / CHUNK_TOKENS);
                entry.map_or(Ok(()), |entry| {
                    [entry.k, entry.v].into_iter().try_for_each(|e| self.is_exact(e))
                })?;
            }
        }
        self.sound.push(band);
        Ok(())
    }

    fn is_exact(&self, entry: PageEntry) -> Result<(), BackendError> {
        if entry.codec == PageCodec::Exact(self.pool.element) {
            return Ok(());
        }
        let expected = format!("{} numbers", self.pool.element);
        let (backend, used) = (self.held.name(), "appended to");
        Err(BackendError::PageCodec { backend, used, expected, found: entry.codec })
    }
}
