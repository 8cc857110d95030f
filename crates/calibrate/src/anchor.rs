//! How the base's pages are stored that others are read over.

use std::fmt;

use interleaf_contract::{Bits, PageCodec, PageElement};

/// A way of storing the base's pages: they stand alone, and need nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Anchor {
    /// As half-precision numbers.
    F16,
    /// In 8 bits, keys by the page's channel and values by the token.
    Q8,
}

impl Anchor {
    /// The codec of such a page.
    pub(crate) const fn codec(self) -> PageCodec {
        match self {
            Self::F16 => PageCodec::Exact(PageElement::F16),
            Self::Q8 => PageCodec::Quantised(Bits::Eight),
        }
    }
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.codec().fmt(f)
    }
}
