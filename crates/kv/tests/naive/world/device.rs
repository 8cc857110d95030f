//! A device whose memory holds words instead of K and V: for each token of a page a digest of all that its contents depend
//! on.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use interleaf_contract::CHUNK_TOKENS;
use interleaf_kv::StoredAt;

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

/// What the tokens of a page are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Page {
    pub words: [u64; CHUNK_TOKENS],
    /// Which of them were copied of an anchor's page, for a chunk that is read there.
    pub are_anchors: [bool; CHUNK_TOKENS],
}

impl Page {
    pub fn set(&mut self, token: usize, word: u64) {
        (self.words[token], self.are_anchors[token]) = (word, false);
    }
}

/// Where something is stored: a tier, a layer, and where in that.
pub type Place = (usize, usize, u64);

/// What is stored together is found by its first page.
pub fn stored(at: Option<StoredAt>) -> Option<Place> {
    let StoredAt { tier, pages } = at?;
    pages.first().map(|page| (tier, page.layer, page.at))
}

/// Pages of memory by layer and place, and what is stored below.
#[derive(Debug, Default)]
pub struct Device {
    pages: HashMap<(usize, u64), Page>,
    stored: HashMap<Place, Vec<(usize, Page)>>,
}

impl Device {
    pub fn write(&mut self, layer: usize, place: u64, position: usize, word: u64) {
        self.pages.entry((layer, place)).or_default().set(position % CHUNK_TOKENS, word);
    }

    pub fn page(&self, layer: usize, place: u64) -> Page {
        self.pages.get(&(layer, place)).copied().unwrap_or_default()
    }

    pub fn set_page(&mut self, layer: usize, place: u64, page: Page) {
        self.pages.insert((layer, place), page);
    }

    pub fn copy(&mut self, places: &[(usize, u64, u64)]) {
        for &(layer, from, to) in places {
            self.set_page(layer, to, self.page(layer, from));
        }
    }

    /// The memory is lost.
    pub fn forget_pages(&mut self) {
        self.pages.clear();
    }

    pub fn store(&mut self, at: Place, places: &[(usize, u64)]) {
        let pages = places.iter().map(|&(layer, place)| (layer, self.page(layer, place))).collect();
        self.set_stored(at, pages);
    }

    /// Pages that are stored together, with their layers.
    pub fn stored(&self, at: Place) -> Result<Vec<(usize, Page)>, String> {
        Ok(self.stored.get(&at).ok_or("nothing is stored there")?.clone())
    }

    pub fn set_stored(&mut self, at: Place, pages: Vec<(usize, Page)>) {
        self.stored.insert(at, pages);
    }

    pub fn load(&mut self, at: Place, places: &[(usize, u64)]) -> Result<(), String> {
        let pages = self.stored(at)?;
        for &(layer, place) in places {
            let page = pages.iter().find(|(stored, _)| *stored == layer).ok_or("a layer is not stored")?.1;
            self.set_page(layer, place, page);
        }
        Ok(())
    }
}
