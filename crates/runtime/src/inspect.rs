//! Reading the cache back, for checks: what attention reads, as numbers.

use interleaf_contract::{CHUNK_TOKENS, PageAddress, PageHalf};
use interleaf_kernels_ref::page_codec;

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
        let layer_index = u32::try_from(layer).unwrap_or(u32::MAX);
        let geometry = self.reserved.geometry;
        let addresses: Vec<PageAddress> = (0..table.chunks())
            .filter_map(|chunk| table.entry(layer, chunk))
            .map(|entry| geometry.address(layer_index, half, entry.half(half)))
            .collect();
        let ticket = self.backend.read_pages(&addresses)?;
        let pages = self.backend.wait_pages(ticket)?;

        let config = self.model.config();
        let dim = config.head_dim;
        let mut values = vec![0.0; config.kv_heads * tokens * dim];
        for (chunk, page) in pages.iter().enumerate() {
            let first = chunk * CHUNK_TOKENS;
            let count = CHUNK_TOKENS.min(tokens - first);
            // A page's bytes come as they are stored; only a copy is aligned for its elements.
            let mut words = vec![0u32; page.bytes.len().div_ceil(4)];
            let bytes: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut words)[..page.bytes.len()];
            bytes.copy_from_slice(&page.bytes);
            for head in 0..config.kv_heads {
                let out = (head * tokens + first) * dim;
                let offset = head * CHUNK_TOKENS * dim;
                page_codec::decode(geometry.element, bytes, offset, &mut values[out..out + count * dim]);
            }
        }
        Ok(values)
    }
}
