//! Reading the cache back, for checks: what attention reads, as numbers.

use interleaf_contract::{BackendError, CHUNK_TOKENS, PageEntry, PageHalf, PoolGeometry};
use interleaf_kernels_ref::page_codec::{PageContext, decode_page};

use crate::{Engine, EngineError, SequenceHandle};

impl Engine {
    /// K and V of a sequence in one layer, each `[kv_head][token][head_dim]`: keys after the rotary
    /// embedding, as the pages hold them.
    ///
    /// # Errors
    /// If the sequence is not open, the GPU is suspended, or the device fails.
    pub fn read_kv(
        &mut self,
        sequence: SequenceHandle,
        layer: usize,
    ) -> Result<(Vec<f32>, Vec<f32>), EngineError> {
        self.on_some_device(&[sequence], |engine| {
            let keys = engine.read_half(sequence, layer, PageHalf::K)?;
            Ok((keys, engine.read_half(sequence, layer, PageHalf::V)?))
        })
    }

    fn read_half(
        &mut self,
        sequence: SequenceHandle,
        layer: usize,
        half: PageHalf,
    ) -> Result<Vec<f32>, EngineError> {
        let tokens = self.cache.manager().tokens(sequence.id)?;
        let table = self.cache.manager().page_table(sequence.id)?;
        let entries: Vec<PageEntry> = (0..table.chunks())
            .filter_map(|chunk| table.entry(layer, chunk))
            .map(|entry| entry.half(half))
            .collect();
        let config = self.model.config();
        let (dim, kv_heads) = (config.head_dim, config.kv_heads);
        let mut values = vec![0.0; kv_heads * tokens * dim];
        for (chunk, entry) in entries.into_iter().enumerate() {
            let page = self.read_page(layer, half, entry)?;
            let first = chunk * CHUNK_TOKENS;
            let count = CHUNK_TOKENS.min(tokens - first);
            for head in 0..kv_heads {
                let out = (head * tokens + first) * dim;
                let of_head = &page[head * CHUNK_TOKENS * dim..][..count * dim];
                values[out..out + count * dim].copy_from_slice(of_head);
            }
        }
        Ok(values)
    }

    /// A page's elements, `[kv_head][token][head_dim]`, those of its anchor read before.
    fn read_page(&mut self, layer: usize, half: PageHalf, entry: PageEntry) -> Result<Vec<f32>, EngineError> {
        let anchor = match entry.anchor {
            Some(anchor) => self.read_page(layer, half, anchor.into())?,
            None => Vec::new(),
        };
        if entry.constants.is_some() {
            let what = format!("reading pages back in {}", entry.codec);
            return Err(BackendError::Unsupported { backend: "engine", what }.into());
        }
        let geometry = self.reserved.geometry;
        let address = geometry.address(u32::try_from(layer).unwrap_or(u32::MAX), half, entry);
        let ticket = self.backend.read_pages(&[address])?;
        let pages = self.backend.wait_pages(ticket)?;
        let mut values = vec![0.0; geometry.page_elements()];
        let PoolGeometry { kv_heads, head_dim, .. } = geometry;
        let (position, constants, rope) = (0, &[][..], None);
        let context = PageContext { half, kv_heads, head_dim, position, anchor: &anchor, constants, rope };
        for page in pages {
            // A page's bytes come as they are stored; only a copy is aligned for its elements.
            let mut words = vec![0u32; page.bytes.len().div_ceil(4)];
            let bytes: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut words)[..page.bytes.len()];
            bytes.copy_from_slice(&page.bytes);
            decode_page(entry.codec, &context, bytes, &mut values);
        }
        Ok(values)
    }
}
