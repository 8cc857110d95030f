//! K and V rows back from the pages that they were appended to.

use interleaf_contract::host::Pool;
use interleaf_contract::{BackendError, Batch, PageHalf, RopeTable};

use crate::kv_append::place;
use crate::page_codec::decode;
use crate::rope::unrope;

/// Into columns `at ..` of `out`, rows × `cols`, row i gets the K of its own position in its sequence and, behind it, the V:
/// `kv_heads · head_dim` each. K is turned back by the angles of `table`, if there is one. Pages are exact.
///
/// # Errors
/// If a page is outside the pool.
pub fn kv_read(
    batch: &Batch,
    layer: u32,
    table: Option<&RopeTable>,
    pool: &Pool,
    (out, cols): (&mut [f32], usize),
    at: usize,
) -> Result<(), BackendError> {
    let geometry = *pool.geometry();
    let width = geometry.kv_heads * geometry.head_dim;
    for (row, out) in batch.rows.iter().zip(out.chunks_exact_mut(cols)) {
        let Some((entry, token)) = place(batch, layer, row) else { continue };
        let (keys, values) = out[at..at + 2 * width].split_at_mut(width);
        for (half, entry, values) in [(PageHalf::K, entry.k, &mut *keys), (PageHalf::V, entry.v, values)] {
            let page = pool.page(geometry.address(layer, half, entry))?;
            for (head, values) in values.chunks_exact_mut(geometry.head_dim).enumerate() {
                decode(geometry.element, page, geometry.element_offset(head, token), values);
            }
        }
        if let Some(table) = table {
            unrope(keys, geometry.head_dim, &[row.position], table);
        }
    }
    Ok(())
}
