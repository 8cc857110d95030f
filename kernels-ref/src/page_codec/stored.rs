//! Pages in a pool: read as numbers, whatever they are stored in, and stored in another codec.

use interleaf_contract::host::{HostMatrix, Pool, Resident};
use interleaf_contract::{BackendError, PageEntry, PageHalf, PageLoss, PageRecode};

use super::{PageContext, decode_page, encode_page};

/// Which page of a sequence.
#[derive(Debug, Clone, Copy)]
pub struct PageOf {
    /// The layer.
    pub layer: u32,
    /// K or V.
    pub half: PageHalf,
    /// The chunk.
    pub chunk: usize,
}

/// A page's elements, `(kv_head, token, head_dim)`.
///
/// # Errors
/// If the page, its anchor or its constants are not there.
pub fn read_page<M: HostMatrix>(
    of: PageOf,
    entry: PageEntry,
    pool: &Pool,
    resident: &Resident<M>,
) -> Result<Vec<f32>, BackendError> {
    let anchor = anchor(of, entry, pool, resident)?;
    let geometry = pool.geometry();
    let mut values = vec![0.0; geometry.page_elements()];
    let page = pool.page(geometry.address(of.layer, of.half, entry))?;
    with_context(of, entry, &anchor, pool, resident, |context| {
        decode_page(entry.codec, context, page, &mut values);
    })?;
    Ok(values)
}

/// Stores a page in another codec.
///
/// # Errors
/// If a page, an anchor or constants are not there.
pub fn recode<M: HostMatrix>(
    recode: &PageRecode,
    pool: &mut Pool,
    resident: &Resident<M>,
) -> Result<(), BackendError> {
    let PageRecode { layer, half, chunk, from, to } = *recode;
    let of = PageOf { layer, half, chunk: chunk as usize };
    let values = read_page(of, from, pool, resident)?;
    let anchor = anchor(of, to, pool, resident)?;
    // Words, since a page is aligned to them.
    let address = pool.geometry().address(layer, half, to);
    let mut words = vec![0u32; address.bytes().len() / size_of::<u32>()];
    let page: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    with_context(of, to, &anchor, pool, resident, |context| encode_page(to.codec, context, &values, page))?;
    pool.page_mut(address)?.copy_from_slice(page);
    Ok(())
}

/// What a page has lost by being stored in another codec.
///
/// # Errors
/// If a page, an anchor or constants are not there.
pub fn compare<M: HostMatrix>(
    recode: &PageRecode,
    pool: &Pool,
    resident: &Resident<M>,
) -> Result<PageLoss, BackendError> {
    let PageRecode { layer, half, chunk, from, to } = *recode;
    let of = PageOf { layer, half, chunk: chunk as usize };
    let (before, after) = (read_page(of, from, pool, resident)?, read_page(of, to, pool, resident)?);
    let square = |value: f32| f64::from(value).powi(2);
    let error: f64 = before.iter().zip(&after).map(|(b, a)| square(b - a)).sum();
    let norm: f64 = before.iter().map(|b| square(*b)).sum();
    Ok(PageLoss { error: error as f32, norm: norm as f32 })
}

/// What a page's anchor decodes to; nothing of a page that stands alone.
fn anchor<M: HostMatrix>(
    of: PageOf,
    entry: PageEntry,
    pool: &Pool,
    resident: &Resident<M>,
) -> Result<Vec<f32>, BackendError> {
    match entry.anchor {
        Some(anchor) => read_page(of, anchor.into(), pool, resident),
        None => Ok(Vec::new()),
    }
}

fn with_context<M: HostMatrix>(
    of: PageOf,
    entry: PageEntry,
    anchor: &[f32],
    pool: &Pool,
    resident: &Resident<M>,
    then: impl FnOnce(&PageContext<'_>),
) -> Result<(), BackendError> {
    let constants = entry.constants.map(|id| resident.constants(id)).transpose()?;
    let rope = constants.and_then(|constants| constants.rope).map(|id| resident.rope(id)).transpose()?;
    let values = constants.map_or_else(Vec::new, |constants| constants.rows.values());
    let geometry = pool.geometry();
    then(&PageContext {
        half: of.half,
        kv_heads: geometry.kv_heads,
        head_dim: geometry.head_dim,
        position: of.chunk * interleaf_contract::CHUNK_TOKENS,
        anchor,
        constants: &values,
        rope,
    });
    Ok(())
}
