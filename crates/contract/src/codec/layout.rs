//! Where the parts of an encoded page lie: codes first, packed into little-endian words from the lowest bit up, then
//! scales, f16 each, then what else the codec keeps.
//!
//! Scores take one channel of many tokens at a time, sums of values one token's many channels. So a token's words of keys lie
//! beside those of the other tokens, where one load brings a word of each, and codes of values lie one behind the other.

use super::{Bits, Coefficients, GROUP_CHANNELS, PageCodec};
use crate::{CHUNK_TOKENS, PageHalf};

/// A page whose elements are codes: of keys `(kv_head, word of a token, token)`, of values `(kv_head, token, head_dim)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeLayout {
    /// Bits of a code.
    pub bits: Bits,
    /// Bytes of one head's codes.
    pub head_bytes: usize,
    /// Words of a token whose other words are [`CHUNK_TOKENS`] words on each: whole ones, of keys. `None` of values.
    pub token_words: Option<usize>,
    /// Channels of a token that share a scale; `None` where every token of a channel has the same.
    pub group: Option<usize>,
    /// Whether codes are shaped over the tokens: see [`PageCodec::Quantised`]. No matter to whoever decodes.
    pub is_shaped: bool,
    /// Where the scales begin: `(kv_head, token, group)`, or one for each head.
    pub scales_at: usize,
    /// Scales of one head.
    pub head_scales: usize,
    /// Where 8 bits of each channel's own scale begin, `(kv_head, head_dim)`, if the page has them.
    pub channels_at: Option<usize>,
    /// The first byte behind.
    pub end: usize,
}

impl CodeLayout {
    /// The layout of a codec's pages; `None` where their elements are no codes.
    #[must_use]
    pub const fn new(codec: PageCodec, half: PageHalf, kv_heads: usize, head_dim: usize) -> Option<Self> {
        let (bits, group, has_channels) = match (codec, half) {
            (PageCodec::Quantised(bits), PageHalf::V) => (bits, Some(head_dim), false),
            (PageCodec::Quantised(bits), PageHalf::K) => (bits, None, true),
            (PageCodec::Profiled(bits), _) => (bits, None, false),
            (PageCodec::Grouped(bits) | PageCodec::Delta(bits), _) => (bits, Some(GROUP_CHANNELS), false),
            (PageCodec::Exact(_) | PageCodec::Steps(_) | PageCodec::LowRank { .. }, _) => return None,
        };
        let is_shaped =
            matches!((codec, half), (PageCodec::Quantised(_), PageHalf::V)) && bits.shaped_clip().is_some();
        let word = u32::BITS as usize;
        let (token_words, head_bytes) = match half {
            PageHalf::K => {
                let words = (head_dim * bits.count()).div_ceil(word);
                (Some(words), CHUNK_TOKENS * words * word / 8)
            }
            PageHalf::V => (None, CHUNK_TOKENS * head_dim * bits.count() / 8),
        };
        let head_scales = match group {
            Some(group) => CHUNK_TOKENS * head_dim.div_ceil(group),
            None => 1,
        };
        let scales_at = kv_heads * head_bytes;
        let behind = scales_at + 2 * kv_heads * head_scales;
        let (channels_at, end) =
            if has_channels { (Some(behind), behind + kv_heads * head_dim) } else { (None, behind) };
        Some(Self {
            bits,
            head_bytes,
            token_words,
            group,
            is_shaped,
            scales_at,
            head_scales,
            channels_at,
            end,
        })
    }

    /// The clip of all its steps, where codes are shaped.
    #[must_use]
    pub const fn shaped_clip(&self) -> Option<f32> {
        if self.is_shaped { self.bits.shaped_clip() } else { None }
    }

    /// Which of a head's codes a token's channel has, in the order in which they are packed.
    #[must_use]
    pub const fn code_of(&self, token: usize, channel: usize, head_dim: usize) -> usize {
        match self.token_words {
            Some(_) => {
                let of_word = u32::BITS as usize / self.bits.count();
                (channel / of_word * CHUNK_TOKENS + token) * of_word + channel % of_word
            }
            None => token * head_dim + channel,
        }
    }
}

/// A page of coefficients, `(token, rank)`, of all heads together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoefficientLayout {
    /// Bytes of one token's coefficients.
    pub token_bytes: usize,
    /// Coefficients of a token that share a scale, all of them where there are fewer than a group.
    pub group: usize,
    /// Where the scales begin, `(token, group)`; there are none of f16 coefficients.
    pub scales_at: usize,
    /// Scales of one token.
    pub token_scales: usize,
    /// Where the first token's elements begin, `(kv_head, head_dim)` in f16, if they are kept.
    pub first_at: Option<usize>,
    /// The first byte behind.
    pub end: usize,
}

impl CoefficientLayout {
    /// The layout of a [`PageCodec::LowRank`] page.
    #[must_use]
    pub const fn new(
        rank: u8,
        coefficients: Coefficients,
        keeps_first: bool,
        kv_heads: usize,
        head_dim: usize,
    ) -> Self {
        let rank = rank as usize;
        let token_bytes = rank * coefficients.bits() / 8;
        let group = match rank {
            0 => 1,
            1..GROUP_CHANNELS => rank,
            _ => GROUP_CHANNELS,
        };
        let token_scales = match coefficients {
            Coefficients::F16 => 0,
            Coefficients::Codes(_) => rank.div_ceil(group),
        };
        let scales_at = CHUNK_TOKENS * token_bytes;
        let behind = scales_at + 2 * CHUNK_TOKENS * token_scales;
        let (first_at, end) =
            if keeps_first { (Some(behind), behind + 2 * kv_heads * head_dim) } else { (None, behind) };
        Self { token_bytes, group, scales_at, token_scales, first_at, end }
    }
}
