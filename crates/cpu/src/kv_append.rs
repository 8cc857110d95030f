//! New K and V rows into the pages of their sequences.

use interleaf_contract::host::Pool;
use interleaf_contract::{BackendError, Batch, CHUNK_TOKENS, ChunkEntry, PageHalf, Row};

use crate::page_codec::encode;

/// `k` and `v` are rows × (kv_heads · head_dim); row i goes to token `position % 16` of chunk
/// `position / 16` of its sequence.
pub fn kv_append(
    batch: &Batch,
    layer: u32,
    k: &[f32],
    v: &[f32],
    pool: &mut Pool,
) -> Result<(), BackendError> {
    let geometry = *pool.geometry();
    let cols = geometry.kv_heads * geometry.head_dim;
    for (i, row) in batch.rows.iter().enumerate() {
        let (entry, token) = place(batch, layer, row);
        for (half, entry, rows) in [(PageHalf::K, entry.k, k), (PageHalf::V, entry.v, v)] {
            let page = pool.page_mut(geometry.address(layer, half, entry))?;
            for (head, values) in rows[i * cols..(i + 1) * cols].chunks_exact(geometry.head_dim).enumerate() {
                encode(geometry.element, page, geometry.element_offset(head, token), values);
            }
        }
    }
    Ok(())
}

/// The pages of a row's own chunk, and which of their tokens it is.
pub fn place(batch: &Batch, layer: u32, row: &Row) -> (ChunkEntry, usize) {
    let position = row.position as usize;
    let table = &batch.sequences[row.sequence as usize].pages;
    let Some(entry) = table.entry(layer as usize, position / CHUNK_TOKENS) else {
        unreachable!("position {position} is in no page of its sequence")
    };
    (entry, position % CHUNK_TOKENS)
}
