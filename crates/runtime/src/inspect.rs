//! The cache as numbers: reading back what attention reads and what its projections are given, for checks, and putting other
//! numbers in its place, to measure what they would cost.

use interleaf_contract::{
    BackendError, Bytes, CHUNK_TOKENS, PageAddress, PageCodec, PageData, PageEntry, PageHalf, PoolGeometry,
    RowKind,
};
use interleaf_kernels_ref::page_codec::{PageContext, decode_page, encode};

use crate::{Engine, EngineError, Feed, SequenceHandle, Want};

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

    /// The information density of each chunk of some tokens that is in the cache and may be read within a drift budget: the mean
    /// attention that a token of it got from those that see it, in sequences that are closed, of the layers and heads that
    /// [`EngineOptions::widths`](crate::EngineOptions::widths) has measured; `None` where nothing was.
    ///
    /// # Errors
    /// If no adapter of that name is registered.
    pub fn chunk_densities(
        &self,
        adapter: Option<&str>,
        tokens: &[u32],
        drift: f32,
    ) -> Result<Vec<Option<f64>>, EngineError> {
        let activation = adapter.map(|name| self.adapters.activation(name, tokens)).transpose()?.flatten();
        Ok(self.cache.densities(activation, tokens, drift)?)
    }

    /// Gives a sequence new tokens of a prompt, as [`Engine::feed`] does, and returns what the attention of each layer is
    /// given of them: the normed hidden states that queries, keys and values are projected from, tokens × hidden.
    ///
    /// # Errors
    /// As of [`Engine::feed`].
    pub fn attention_inputs(
        &mut self,
        sequence: SequenceHandle,
        tokens: &[u32],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let layers: Vec<usize> = (0..self.model.config().layers).collect();
        self.hidden_states(sequence, tokens, &layers)
    }

    /// The same of some layers, ascending: by the number of layers, what the model's head is given of each token. Tokens ×
    /// hidden, by layer.
    ///
    /// # Errors
    /// As of [`Engine::feed`]; or if the layers are not ascending, or there are not so many.
    pub fn hidden_states(
        &mut self,
        sequence: SequenceHandle,
        tokens: &[u32],
        layers: &[usize],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let is_ascending = layers.windows(2).all(|pair| pair[0] < pair[1]);
        if !is_ascending || layers.last().is_some_and(|last| *last > self.model.config().layers) {
            let (option, expected) = ("layers", "ascending, and at most the number of layers");
            return Err(EngineError::InvalidOption { option, expected, found: format!("{layers:?}") });
        }
        let feed = Feed { sequence, tokens, kind: RowKind::Prompt, want: Want::Nothing };
        self.on_some_device(&[sequence], |engine| engine.tapped_step(&feed, layers))
    }

    /// Puts other keys and values in the place of a sequence's own in one layer, as [`Engine::read_kv`] returns them, for all
    /// its tokens. What is computed after that reads them; tokens themselves stay. Other sequences see nothing of it: only
    /// pages of [`Engine::open_sequence`] are written. They are lost with a device that fails, and are then its own again.
    ///
    /// # Errors
    /// If the sequence is not open or its pages can be found by others, the values are not one for each element, the GPU is
    /// suspended, or the device fails.
    pub fn write_kv(
        &mut self,
        sequence: SequenceHandle,
        layer: usize,
        keys: &[f32],
        values: &[f32],
    ) -> Result<(), EngineError> {
        if self.cache.manager().is_kept(sequence.id)? {
            return Err(EngineError::SharedPages);
        }
        let mut pages = self.half_pages(sequence, layer, PageHalf::K, keys)?;
        pages.extend(self.half_pages(sequence, layer, PageHalf::V, values)?);
        self.on_some_device(&[sequence], |engine| Ok(engine.backend.write_pages(&pages)?))
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
        for page in pages {
            values = decoded(&geometry, half, entry.codec, &anchor, &page.bytes);
        }
        Ok(values)
    }

    /// Pages that hold these values. Behind the last token is nothing that attention reads.
    fn half_pages(
        &self,
        sequence: SequenceHandle,
        layer: usize,
        half: PageHalf,
        values: &[f32],
    ) -> Result<Vec<PageData>, EngineError> {
        let tokens = self.cache.manager().tokens(sequence.id)?;
        let config = self.model.config();
        let (heads, dim) = (config.kv_heads, config.head_dim);
        let expected = heads * tokens * dim;
        if values.len() != expected {
            return Err(EngineError::KvElements { layer, expected, found: values.len() });
        }
        let (element, page_bytes) = (self.reserved.geometry.element, self.reserved.geometry.page_bytes());
        let addresses = self.addresses(sequence, layer, half)?;
        let pages = addresses.into_iter().enumerate().map(|(chunk, address)| {
            let first = chunk * CHUNK_TOKENS;
            let count = CHUNK_TOKENS.min(tokens - first);
            let mut words = vec![0u32; page_bytes.div_ceil(4)];
            let bytes: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut words)[..page_bytes];
            for head in 0..heads {
                let from = (head * tokens + first) * dim;
                let offset = head * CHUNK_TOKENS * dim;
                encode(element, bytes, offset, &values[from..from + count * dim]);
            }
            PageData { address, bytes: Bytes::copy_from_slice(bytes) }
        });
        Ok(pages.collect())
    }

    /// Where a sequence's tokens are in one layer; empty where there is no such layer.
    fn addresses(
        &self,
        sequence: SequenceHandle,
        layer: usize,
        half: PageHalf,
    ) -> Result<Vec<PageAddress>, EngineError> {
        let chunks = self.cache.manager().tokens(sequence.id)?.div_ceil(CHUNK_TOKENS);
        let table = self.cache.manager().page_table(sequence.id)?;
        let layer_index = u32::try_from(layer).unwrap_or(u32::MAX);
        let entries = (0..table.chunks().min(chunks)).filter_map(|chunk| table.entry(layer, chunk));
        let geometry = self.reserved.geometry;
        Ok(entries.map(|entry| geometry.address(layer_index, half, entry.half(half))).collect())
    }
}

/// A page of a codec without constants as numbers, `[kv_head][token][head_dim]`, over what its anchor decodes to.
pub(crate) fn decoded(
    geometry: &PoolGeometry,
    half: PageHalf,
    codec: PageCodec,
    anchor: &[f32],
    bytes: &[u8],
) -> Vec<f32> {
    let &PoolGeometry { kv_heads, head_dim, .. } = geometry;
    let (position, constants, rope) = (0, &[][..], None);
    let context = PageContext { half, kv_heads, head_dim, position, anchor, constants, rope };
    // A page's bytes come as they are stored; only a copy is aligned for its elements.
    let mut words = vec![0u32; bytes.len().div_ceil(4)];
    let page: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut words)[..bytes.len()];
    page.copy_from_slice(bytes);
    let mut values = vec![0.0; geometry.page_elements()];
    decode_page(codec, &context, page, &mut values);
    values
}
