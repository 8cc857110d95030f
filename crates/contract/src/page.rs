//! Pages: how K and V of 16 tokens lie in memory. How a sequence finds them is in `page_table`.
//!
//! A *chunk* is [`CHUNK_TOKENS`] tokens of one sequence, all layers. Its K, or its V, in one layer is a
//! *page*. A page is stored head-major, `[kv_head][token][head_dim]`, so that one head's keys are read
//! contiguously. Pages hold K as attention reads it: after the head norm and the rotary embedding.

/// Tokens in a chunk, the granule that LLMS compresses and swaps by.
pub const CHUNK_TOKENS: usize = 16;

/// Attention is computed over blocks of this many tokens, from position 0, each with its own online
/// softmax, merged in order. The block borders are fixed, so a row's bits depend neither on how a
/// prompt was cut into prefill pieces nor on how many workers share a long context.
pub const ATTENTION_SPLIT: usize = 256;

const _: () = assert!(ATTENTION_SPLIT.is_multiple_of(CHUNK_TOKENS));

/// How a page's elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum PageCodec {
    /// IEEE binary16, rounded to nearest even.
    F16 = 0,
    /// IEEE binary32.
    F32 = 1,
}

impl PageCodec {
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

impl std::fmt::Display for PageCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The shape of a backend's page pool. Slot `s` of layer `l` holds one page of K and one of V.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolGeometry {
    /// Layers of the model. The pool is striped by layer: a kernel binds one stripe.
    pub layers: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Slots: how many chunks fit.
    pub slots: usize,
    /// What its pages are stored in.
    pub codec: PageCodec,
}

impl PoolGeometry {
    /// Elements of one page.
    #[must_use]
    pub const fn page_elements(&self) -> usize {
        CHUNK_TOKENS * self.kv_heads * self.head_dim
    }

    /// Bytes of one page (K or V).
    #[must_use]
    pub const fn page_bytes(&self) -> usize {
        self.codec.bytes(self.page_elements())
    }

    /// Bytes of one chunk: K and V of all layers.
    #[must_use]
    pub const fn chunk_bytes(&self) -> usize {
        2 * self.layers * self.page_bytes()
    }

    /// Element offset of (head, token) within a page.
    #[must_use]
    pub const fn element_offset(&self, kv_head: usize, token: usize) -> usize {
        (kv_head * CHUNK_TOKENS + token) * self.head_dim
    }
}
