//! Pages: how K and V of 16 tokens lie in memory. How a sequence finds them is in `page_table`.
//!
//! A *chunk* is [`CHUNK_TOKENS`] tokens of one sequence, all layers. Its K, or its V, in one layer is a
//! *page*. An exact page is stored head-major, `[kv_head][token][head_dim]`, so that one head's keys are read
//! contiguously. Pages hold K as attention reads it: after the head norm and the rotary embedding.

use crate::{ChunkEntry, PAGE_UNIT, PageAddress, PageCodec, PageEntry, PageHalf};

/// Tokens in a chunk, the granule that LLMS compresses and swaps by.
pub const CHUNK_TOKENS: usize = 16;

/// Attention is computed over blocks of this many tokens, from position 0, each with its own online
/// softmax, merged in order. The block borders are fixed, so a row's bits depend neither on how a
/// prompt was cut into prefill pieces nor on how many workers share a long context.
pub const ATTENTION_SPLIT: usize = 256;

const _: () = assert!(ATTENTION_SPLIT.is_multiple_of(CHUNK_TOKENS));

/// How numbers are stored that stand for themselves: the elements of exact pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum PageElement {
    /// IEEE binary16, rounded to nearest even.
    F16 = 0,
    /// IEEE binary32.
    F32 = 1,
}

impl PageElement {
    /// Bytes of `elements` stored elements.
    #[must_use]
    pub const fn bytes(self, elements: usize) -> usize {
        match self {
            Self::F16 => 2 * elements,
            Self::F32 => 4 * elements,
        }
    }

    /// The name used in reports and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

impl std::fmt::Display for PageElement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The shape of a backend's page pool: a stripe of bytes for each layer, in which pages of any codec lie where their
/// entries say. As exact pages it is divided into slots: each holds a page of K and behind it one of V.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolGeometry {
    /// Layers of the model. The pool is striped by layer: a kernel binds one stripe.
    pub layers: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Slots: how many chunks fit as exact pages.
    pub slots: usize,
    /// How exact pages are stored, those that new rows are appended to among them.
    pub element: PageElement,
}

impl PoolGeometry {
    /// Elements of one page.
    #[must_use]
    pub const fn page_elements(&self) -> usize {
        CHUNK_TOKENS * self.kv_heads * self.head_dim
    }

    /// Bytes of one exact page (K or V).
    #[must_use]
    pub const fn page_bytes(&self) -> usize {
        self.element.bytes(self.page_elements())
    }

    /// Bytes of a page in a codec.
    #[must_use]
    pub const fn coded_bytes(&self, codec: PageCodec, half: PageHalf) -> usize {
        codec.page_bytes(half, self.kv_heads, self.head_dim)
    }

    /// Units of one layer's stripe.
    #[must_use]
    pub const fn stripe_units(&self) -> usize {
        2 * self.slots * self.page_units()
    }

    /// Units of one exact page.
    const fn page_units(&self) -> usize {
        self.page_bytes() / PAGE_UNIT
    }

    /// The exact pages of a slot. Those of a slot that is not in the pool are not in it either.
    #[must_use]
    pub fn slot(&self, slot: u32) -> ChunkEntry {
        let page = |half: usize| {
            let at = (2 * u64::from(slot) + half as u64) * self.page_units() as u64;
            PageEntry::exact(self.element, u32::try_from(at).unwrap_or(u32::MAX))
        };
        ChunkEntry { k: page(0), v: page(1) }
    }

    /// Where an exact page of a slot is in a layer.
    #[must_use]
    pub fn page(&self, layer: u32, slot: u32, half: PageHalf) -> PageAddress {
        self.address(layer, half, self.slot(slot).half(half))
    }

    /// Where a page of a table is in a layer.
    #[must_use]
    pub fn address(&self, layer: u32, half: PageHalf, entry: PageEntry) -> PageAddress {
        let units = self.coded_bytes(entry.codec, half) / PAGE_UNIT;
        PageAddress { layer, at: entry.at, units: u32::try_from(units).unwrap_or(u32::MAX) }
    }

    /// Bytes of one chunk in exact pages: K and V of all layers.
    #[must_use]
    pub const fn chunk_bytes(&self) -> usize {
        2 * self.layers * self.page_bytes()
    }

    /// Element offset of (head, token) within an exact page.
    #[must_use]
    pub const fn element_offset(&self, kv_head: usize, token: usize) -> usize {
        (kv_head * CHUNK_TOKENS + token) * self.head_dim
    }
}
