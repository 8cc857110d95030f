//! A device whose memory holds words instead of K and V: for each token of a page a digest of all that its contents depend
//! on.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use interleaf_contract::{CHUNK_TOKENS, PageTable};

/// Under what a sequence is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Under {
    /// The app's salt.
    pub salt: Option<u8>,
    /// The adapter's contents; `None` for the base.
    pub adapter: Option<u8>,
    /// The first position that it acts on.
    pub from: usize,
    /// Leading layers whose K and V it leaves alone.
    pub shared_layers: usize,
}

/// What a token's K and V in a layer are.
pub fn contents(under: &Under, layer: usize, tokens: &[u32], is_lossy: bool) -> u64 {
    let acts = tokens.len() > under.from && layer >= under.shared_layers;
    let adapter = under.adapter.filter(|_| acts).map(|adapter| (adapter, under.from));
    let mut hasher = DefaultHasher::new();
    (under.salt, adapter, layer, tokens, is_lossy).hash(&mut hasher);
    hasher.finish()
}

/// Pages of memory, and what is stored below.
#[derive(Debug, Default)]
pub struct Device {
    pages: HashMap<(usize, u32), [u64; CHUNK_TOKENS]>,
    stored: HashMap<(usize, u64), Vec<(usize, [u64; CHUNK_TOKENS])>>,
}

impl Device {
    pub fn write(
        &mut self,
        table: &PageTable,
        layer: usize,
        position: usize,
        word: u64,
    ) -> Result<(), String> {
        let entry = table.entry(layer, position / CHUNK_TOKENS).ok_or("no page to write")?;
        if entry.k.slot == u32::MAX {
            return Err(format!("position {position} has no page in layer {layer}"));
        }
        self.pages.entry((layer, entry.k.slot)).or_default()[position % CHUNK_TOKENS] = word;
        Ok(())
    }

    pub fn read(&self, table: &PageTable, layer: usize, position: usize) -> Option<u64> {
        let entry = table.entry(layer, position / CHUNK_TOKENS)?;
        Some(self.pages.get(&(layer, entry.k.slot))?[position % CHUNK_TOKENS])
    }

    pub fn page(&self, layer: usize, slot: u32) -> [u64; CHUNK_TOKENS] {
        self.pages.get(&(layer, slot)).copied().unwrap_or_default()
    }

    pub fn set_page(&mut self, layer: usize, slot: u32, page: [u64; CHUNK_TOKENS]) {
        self.pages.insert((layer, slot), page);
    }

    pub fn store(&mut self, at: (usize, u64), slots: &[(usize, u32)]) {
        let pages = slots.iter().map(|&(layer, slot)| (layer, self.page(layer, slot))).collect();
        self.stored.insert(at, pages);
    }

    pub fn load(&mut self, at: (usize, u64), slots: &[(usize, u32)]) -> Result<(), String> {
        let pages = self.stored.get(&at).ok_or("nothing is stored there")?.clone();
        for &(layer, slot) in slots {
            let page = pages.iter().find(|(stored, _)| *stored == layer).ok_or("a layer is not stored")?.1;
            self.set_page(layer, slot, page);
        }
        Ok(())
    }
}
