//! Page codecs: how K or V of a chunk may be stored in a layer, and how many bytes each takes. Where each part of an
//! encoded page lies is in `layout`; what the numbers mean is defined by `page_codec` of the reference.

use crate::{CHUNK_TOKENS, PageElement, PageHalf};

mod constants;
mod joint;
mod layout;
mod name;

pub use constants::{ConstantRows, ConstantsId, PageConstants};
pub use joint::JointCodec;
pub use layout::{CodeLayout, CoefficientLayout};

/// Where a page begins is counted in units of this many bytes, so that 32 bits reach far enough and every load is aligned.
pub const PAGE_UNIT: usize = 16;

/// Channels that share a scale in [`PageCodec::Grouped`] and [`PageCodec::Delta`], and coefficients that do in
/// [`PageCodec::LowRank`]: the grouping under which the codecs were first compared.
pub const GROUP_CHANNELS: usize = 32;

/// Bits of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Bits {
    /// Codes 0 to 3, for −1.5, −0.5, 0.5 and 1.5 steps.
    Two = 2,
    /// Codes 0 to 15, for −8 to 7 steps.
    Four = 4,
    /// Codes 0 to 255, for −128 to 127 steps.
    Eight = 8,
}

impl Bits {
    /// How many.
    #[must_use]
    pub const fn count(self) -> usize {
        self as usize
    }

    /// The value of code 0 in steps: a code `c` stands for `c + lowest()` steps.
    #[must_use]
    pub const fn lowest(self) -> f32 {
        match self {
            Self::Two => -1.5,
            Self::Four => -8.0,
            Self::Eight => -128.0,
        }
    }

    /// The largest magnitude, in steps, that both signs have a code for.
    #[must_use]
    pub const fn reach(self) -> f32 {
        match self {
            Self::Two => 1.5,
            Self::Four => 7.0,
            Self::Eight => 127.0,
        }
    }

    /// Shares of a group's largest magnitude that its largest code may stand for: the one with the least squared error is
    /// taken, the first of equals. With few codes it pays to clip (`kv_similarity`'s definitions; ours to measure).
    #[must_use]
    pub const fn clips(self) -> &'static [f32] {
        match self {
            Self::Two => &[1.0, 0.85, 0.7, 0.55, 0.42, 0.32],
            Self::Four => &[1.0, 0.9, 0.8],
            Self::Eight => &[1.0],
        }
    }

    /// The one such share where codes are shaped ([`PageCodec::Quantised`] says why); `None` of eight bits, whose rounding is
    /// far below what attention tells. There is no search: what one token clips, the next ones make up for (ours to measure).
    #[must_use]
    pub const fn shaped_clip(self) -> Option<f32> {
        match self {
            Self::Two => Some(0.85),
            Self::Four => Some(1.0),
            Self::Eight => None,
        }
    }
}

/// How coefficients of a [`PageCodec::LowRank`] page are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Coefficients {
    /// IEEE binary16.
    F16,
    /// Codes with an f16 scale for each [`GROUP_CHANNELS`] of a token.
    Codes(Bits),
}

impl Coefficients {
    /// Bits of one, scales not counted.
    #[must_use]
    pub const fn bits(self) -> usize {
        match self {
            Self::F16 => 16,
            Self::Codes(bits) => bits.count(),
        }
    }
}

/// Bytes of a code of [`PageCodec::Steps`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Width {
    /// 8-bit integers.
    One = 1,
    /// 16-bit integers.
    Two = 2,
    /// 32-bit integers.
    Four = 4,
}

impl Width {
    /// The smallest whose integers reach from `−most` to `most`.
    #[must_use]
    pub fn reaching(most: f32) -> Self {
        if most <= f32::from(i8::MAX) {
            Self::One
        } else if most <= f32::from(i16::MAX) {
            Self::Two
        } else {
            Self::Four
        }
    }
}

/// How K or V of a chunk is stored in one layer.
///
/// A page that another one is decoded over is its *anchor*. Anchors stand alone ([`PageCodec::stands_alone`]), and a
/// difference is taken against what the anchor decodes to, not against what it was encoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PageCodec {
    /// Every element as a number.
    Exact(PageElement),
    /// Codes. V has a scale for each token and head; K, whose channels differ in size and keep that from token to token
    /// (KIVI, arXiv 2402.02750, §3), one for each channel: the head's scale times 8 bits of the channel's own.
    ///
    /// V's codes of 2 and 4 bits are *shaped*: what rounding took from a channel is added to it in the page's next token,
    /// one step at most. The nearest codes err alike in many tokens, as a channel's mean is rounded the same way in each, and
    /// attention, which averages tokens, averages none of that away; shaped, a channel's sum over the page is kept to about a
    /// step. Of a trained model this took the divergence (KL) under V of 2 bits from 2.8·10⁻³ to 2.6·10⁻⁴, of 4 bits from
    /// 9.0·10⁻⁵ to 1.7·10⁻⁵, although squared errors are half as large again. It is the error feedback of sigma-delta
    /// modulation (Inose, Yasuda and Murakami, 1962) and of error diffusion (Floyd and Steinberg, 1976); that it runs along
    /// the tokens of a page is ours. How a page is decoded does not depend on it.
    Quantised(Bits),
    /// K only: codes whose channels' scales are the page's one scale for a head times a profile that all pages of the
    /// layer share, the first row of the page's [constants](crate::PageConstants).
    Profiled(Bits),
    /// Codes with a scale for each [`GROUP_CHANNELS`] of a token and head.
    Grouped(Bits),
    /// The anchor plus [`PageCodec::Grouped`] codes of the difference.
    Delta(Bits),
    /// The anchor plus multiples of one step, integers of the smallest width that all of the page's fit: MobiLoRA's delta
    /// (ACL 2025, long 1140; Δ = 2·ln(1+ε) by its re-implementations).
    Steps(Width),
    /// The anchor plus `mean + z·directions` of the page's [constants](crate::PageConstants): `rank` coefficients for each
    /// token, all heads in one. K is expanded before the rotary embedding and then turned.
    ///
    /// With the adapter's own factors for constants, mean 0 and `z = x·A`, these are the low-rank products that ForkKV
    /// (arXiv 2604.06370) keeps.
    LowRank {
        /// Coefficients of a token.
        rank: u8,
        /// How they are stored.
        coefficients: Coefficients,
        /// Whether the first token is kept as f16 numbers besides. The first of a prompt is like no other.
        keeps_first: bool,
    },
}

impl PageCodec {
    /// Whether pages are decoded over nothing else.
    #[must_use]
    pub const fn stands_alone(self) -> bool {
        matches!(self, Self::Exact(_) | Self::Quantised(_) | Self::Profiled(_) | Self::Grouped(_))
    }

    /// Rows of the constants that pages are decoded with; 0 for none.
    #[must_use]
    pub const fn constant_rows(self) -> usize {
        match self {
            Self::Profiled(_) => 1,
            Self::LowRank { rank, .. } => 1 + rank as usize,
            Self::Exact(_) | Self::Quantised(_) | Self::Grouped(_) | Self::Delta(_) | Self::Steps(_) => 0,
        }
    }

    /// Whether there are such pages: profiles are of keys, and a token's coefficients fill whole words.
    #[must_use]
    pub const fn is_sound(self, half: PageHalf) -> bool {
        match self {
            Self::Profiled(_) => matches!(half, PageHalf::K),
            Self::LowRank { rank, coefficients, .. } => {
                rank > 0 && (rank as usize * coefficients.bits()).is_multiple_of(u32::BITS as usize)
            }
            Self::Exact(_) | Self::Quantised(_) | Self::Grouped(_) | Self::Delta(_) | Self::Steps(_) => true,
        }
    }

    /// Bytes of a page, scales and the rounding to whole [`PAGE_UNIT`]s included; constants are not, which all pages of an
    /// adapter's layer share.
    #[must_use]
    pub const fn page_bytes(self, half: PageHalf, kv_heads: usize, head_dim: usize) -> usize {
        let elements = CHUNK_TOKENS * kv_heads * head_dim;
        let bytes = match self {
            Self::Exact(element) => element.bytes(elements),
            Self::Steps(width) => PAGE_UNIT + elements * width as usize,
            Self::LowRank { rank, coefficients, keeps_first } => {
                CoefficientLayout::new(rank, coefficients, keeps_first, kv_heads, head_dim).end
            }
            Self::Quantised(_) | Self::Profiled(_) | Self::Grouped(_) | Self::Delta(_) => {
                match CodeLayout::new(self, half, kv_heads, head_dim) {
                    Some(layout) => layout.end,
                    None => 0,
                }
            }
        };
        bytes.next_multiple_of(PAGE_UNIT)
    }
}

impl From<PageElement> for PageCodec {
    fn from(element: PageElement) -> Self {
        Self::Exact(element)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn low_rank(rank: u8, coefficients: Coefficients, keeps_first: bool) -> PageCodec {
        PageCodec::LowRank { rank, coefficients, keeps_first }
    }

    #[test]
    fn bytes_of_a_page_count_its_scales() {
        let bytes = |codec: PageCodec, half| codec.page_bytes(half, 2, 64);
        let elements = 16 * 128;
        for (codec, k, v) in [
            (PageElement::F16.into(), 2 * elements, 2 * elements),
            (PageElement::F32.into(), 4 * elements, 4 * elements),
            // A scale for each head and a byte for each channel; one for each token and head.
            (PageCodec::Quantised(Bits::Eight), elements + 2 * 2 + 128 + 12, elements + 2 * 32),
            (PageCodec::Grouped(Bits::Four), elements / 2 + 2 * 64, elements / 2 + 2 * 64),
            (PageCodec::Delta(Bits::Two), elements / 4 + 2 * 64, elements / 4 + 2 * 64),
            (PageCodec::Steps(Width::One), 16 + elements, 16 + elements),
            // 16 coefficients of 4 bits and a scale for each token.
            (low_rank(16, Coefficients::Codes(Bits::Four), false), 160, 160),
            (low_rank(16, Coefficients::Codes(Bits::Four), true), 160 + 256, 160 + 256),
            (low_rank(64, Coefficients::Codes(Bits::Eight), false), 16 * 68, 16 * 68),
            (low_rank(8, Coefficients::F16, false), 16 * 16, 16 * 16),
        ] {
            assert_eq!([bytes(codec, PageHalf::K), bytes(codec, PageHalf::V)], [k, v], "{codec}");
        }
        assert_eq!(bytes(PageCodec::Profiled(Bits::Eight), PageHalf::K), elements + 16);
    }

    #[test]
    fn values_of_few_bits_are_shaped_and_nothing_else() {
        for bits in [Bits::Two, Bits::Four, Bits::Eight] {
            for codec in [
                PageCodec::Quantised(bits),
                PageCodec::Profiled(bits),
                PageCodec::Grouped(bits),
                PageCodec::Delta(bits),
            ] {
                for half in [PageHalf::K, PageHalf::V] {
                    let is_shaped = matches!(codec, PageCodec::Quantised(_))
                        && half == PageHalf::V
                        && bits != Bits::Eight;
                    let layout = CodeLayout::new(codec, half, 2, 64).unwrap();
                    assert_eq!(layout.is_shaped, is_shaped, "{half:?} in {codec}");
                    assert_eq!(layout.shaped_clip().is_some(), is_shaped, "{half:?} in {codec}");
                }
            }
        }
    }

    #[test]
    fn what_there_is_no_page_of_is_not_sound() {
        for half in [PageHalf::K, PageHalf::V] {
            assert!(PageCodec::Quantised(Bits::Two).is_sound(half));
            assert!(low_rank(8, Coefficients::Codes(Bits::Four), false).is_sound(half));
            assert!(!low_rank(4, Coefficients::Codes(Bits::Four), false).is_sound(half));
            assert!(low_rank(4, Coefficients::F16, false).is_sound(half));
            assert!(!low_rank(0, Coefficients::F16, false).is_sound(half));
        }
        assert!(PageCodec::Profiled(Bits::Four).is_sound(PageHalf::K));
        assert!(!PageCodec::Profiled(Bits::Four).is_sound(PageHalf::V));
    }

    #[test]
    fn widths_are_the_smallest_that_reach() {
        assert_eq!(
            [0.0, 127.0, 127.5, 32767.0, 32768.0].map(Width::reaching),
            [Width::One, Width::One, Width::Two, Width::Two, Width::Four]
        );
    }
}
