//! Codecs by their names, as reports and files have them.

use crate::{Bits, Coefficients, PageCodec, PageElement, Width};

/// What names of codecs with coefficients begin with.
const LOW_RANK: &str = "low-rank-";

/// What they end with where the first token is kept.
const FIRST: &str = "-first";

/// Codecs that have no other parameter than one of a few.
const PLAIN: [PageCodec; 17] = [
    PageCodec::Exact(PageElement::F16),
    PageCodec::Exact(PageElement::F32),
    PageCodec::Quantised(Bits::Two),
    PageCodec::Quantised(Bits::Four),
    PageCodec::Quantised(Bits::Eight),
    PageCodec::Profiled(Bits::Two),
    PageCodec::Profiled(Bits::Four),
    PageCodec::Profiled(Bits::Eight),
    PageCodec::Grouped(Bits::Two),
    PageCodec::Grouped(Bits::Four),
    PageCodec::Grouped(Bits::Eight),
    PageCodec::Delta(Bits::Two),
    PageCodec::Delta(Bits::Four),
    PageCodec::Delta(Bits::Eight),
    PageCodec::Steps(Width::One),
    PageCodec::Steps(Width::Two),
    PageCodec::Steps(Width::Four),
];

impl std::fmt::Display for PageCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(element) => element.fmt(f),
            Self::Quantised(bits) => write!(f, "q{}", bits.count()),
            Self::Profiled(bits) => write!(f, "q{}-profiled", bits.count()),
            Self::Grouped(bits) => write!(f, "q{}-grouped", bits.count()),
            Self::Delta(bits) => write!(f, "delta-{}", bits.count()),
            Self::Steps(width) => write!(f, "steps-{}", 8 * *width as usize),
            Self::LowRank { rank, coefficients, keeps_first } => {
                write!(f, "{LOW_RANK}{rank}-{coefficients}{}", if *keeps_first { FIRST } else { "" })
            }
        }
    }
}

impl std::fmt::Display for Coefficients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::F16 => f.write_str("f16"),
            Self::Codes(bits) => write!(f, "int{}", bits.count()),
        }
    }
}

impl PageCodec {
    /// The codec of a name; `None` where there is none.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let Some(parameters) = name.strip_prefix(LOW_RANK) else {
            return PLAIN.into_iter().find(|codec| codec.to_string() == name);
        };
        let (parameters, keeps_first) = match parameters.strip_suffix(FIRST) {
            Some(parameters) => (parameters, true),
            None => (parameters, false),
        };
        let (rank, stored) = parameters.split_once('-')?;
        let all = [Bits::Two, Bits::Four, Bits::Eight].map(Coefficients::Codes);
        let coefficients = std::iter::once(Coefficients::F16).chain(all).find(|c| c.to_string() == stored)?;
        Some(Self::LowRank { rank: rank.parse().ok()?, coefficients, keeps_first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let coefficients = [Coefficients::F16, Coefficients::Codes(Bits::Four)];
        let low_rank = coefficients.into_iter().flat_map(|coefficients| {
            [false, true].map(|keeps_first| PageCodec::LowRank { rank: 16, coefficients, keeps_first })
        });
        for codec in PLAIN.into_iter().chain(low_rank) {
            assert_eq!(PageCodec::named(&codec.to_string()), Some(codec), "{codec}");
        }
        for name in
            ["", "q3", "delta-16", "low-rank-", "low-rank-300-int4", "low-rank-16-int3", "low-rank-x-f16"]
        {
            assert_eq!(PageCodec::named(name), None, "{name}");
        }
    }
}
