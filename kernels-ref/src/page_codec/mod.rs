//! Pages as numbers: encode and decode of each codec. Where the parts of a page lie is the contract's; which page is in
//! which codec is decided elsewhere.

pub(crate) mod codes;
mod exact;
mod low_rank;
mod steps;
mod stored;
#[cfg(test)]
mod tests;

use interleaf_contract::{CHUNK_TOKENS, PageCodec, PageHalf, RopeTable};

pub use self::exact::{decode, encode};
pub use self::low_rank::encode_coefficients;
pub use self::steps::width as steps_width;
pub use self::stored::{PageOf, compare, read_page, recode};

/// What a page is encoded and decoded with, besides its bytes.
#[derive(Debug, Clone, Copy)]
pub struct PageContext<'a> {
    /// K or V.
    pub half: PageHalf,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// The position of its first token.
    pub position: usize,
    /// What the anchor decodes to, `(kv_head, token, head_dim)`; empty for codecs that stand alone.
    pub anchor: &'a [f32],
    /// The constants, [`PageCodec::constant_rows`] × (kv_heads · head_dim); empty for codecs that have none.
    pub constants: &'a [f32],
    /// The embedding that keys were turned by, where constants are of keys before it.
    pub rope: Option<&'a RopeTable>,
}

impl PageContext<'_> {
    /// Elements of a token.
    const fn channels(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Where an element is in a page's values.
    const fn element(&self, kv_head: usize, token: usize, channel: usize) -> usize {
        (kv_head * CHUNK_TOKENS + token) * self.head_dim + channel
    }
}

/// Encodes a page: `values` are `(kv_head, token, head_dim)`, `page` is [`PageCodec::page_bytes`] long and aligned to 4
/// bytes. Values are finite and, as their differences from the anchor, within the range of f16.
pub fn encode_page(codec: PageCodec, context: &PageContext<'_>, values: &[f32], page: &mut [u8]) {
    match codec {
        PageCodec::Exact(element) => encode(element, page, 0, values),
        PageCodec::Quantised(_) | PageCodec::Profiled(_) | PageCodec::Grouped(_) => {
            codes::encode(codec, context, values, page);
        }
        PageCodec::Delta(_) => codes::encode(codec, context, &difference(values, context.anchor), page),
        PageCodec::Steps(width) => steps::encode(width, values, context.anchor, page),
        PageCodec::LowRank { .. } => low_rank::encode(codec, context, values, page),
    }
}

/// Decodes a page to `values`, `(kv_head, token, head_dim)`.
pub fn decode_page(codec: PageCodec, context: &PageContext<'_>, page: &[u8], values: &mut [f32]) {
    match codec {
        PageCodec::Exact(element) => decode(element, page, 0, values),
        PageCodec::Quantised(_) | PageCodec::Profiled(_) | PageCodec::Grouped(_) => {
            codes::decode(codec, context, page, values);
        }
        PageCodec::Delta(_) => {
            codes::decode(codec, context, page, values);
            add(values, context.anchor);
        }
        PageCodec::Steps(width) => {
            steps::decode(width, page, values);
            add(values, context.anchor);
        }
        PageCodec::LowRank { .. } => low_rank::decode(codec, context, page, values),
    }
}

/// From `[outer][inner][element]` to `[inner][outer][element]`: pages have heads before tokens, what is computed of tokens has
/// them the other way.
#[must_use]
pub fn transpose(values: &[f32], outer: usize, inner: usize) -> Vec<f32> {
    let element = values.len().checked_div(outer * inner).unwrap_or(0);
    let mut out = Vec::with_capacity(values.len());
    for i in 0..inner {
        for o in 0..outer {
            let at = (o * inner + i) * element;
            out.extend_from_slice(&values[at..at + element]);
        }
    }
    out
}

fn difference(values: &[f32], anchor: &[f32]) -> Vec<f32> {
    values.iter().zip(anchor).map(|(v, a)| v - a).collect()
}

fn add(values: &mut [f32], anchor: &[f32]) {
    for (v, a) in values.iter_mut().zip(anchor) {
        *v += a;
    }
}
