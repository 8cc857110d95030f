//! Single pages, as they are read, written, copied and stored in another codec between steps.

use crate::{Bytes, PAGE_UNIT, PageEntry};

/// K or V.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageHalf {
    /// Keys.
    K,
    /// Values.
    V,
}

/// One page of the pool: bytes of a layer's stripe, counted in units of [`PAGE_UNIT`](crate::PAGE_UNIT).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageAddress {
    /// The layer's stripe.
    pub layer: u32,
    /// Where in it the page begins.
    pub at: u32,
    /// How long it is.
    pub units: u32,
}

impl PageAddress {
    /// The bytes of the stripe.
    #[must_use]
    pub const fn bytes(&self) -> std::ops::Range<usize> {
        let (at, units) = (self.at as usize, self.units as usize);
        at * PAGE_UNIT..(at + units) * PAGE_UNIT
    }
}

impl std::fmt::Display for PageAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.bytes();
        write!(f, "{} bytes at {} of layer {}", bytes.len(), bytes.start, self.layer)
    }
}

/// A page that is to hold what another one does, in the same layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageCopy {
    /// What is copied.
    pub from: PageAddress,
    /// Where to; as long.
    pub to: PageAddress,
}

/// A page's stored bits, in its codec's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageData {
    /// Which page.
    pub address: PageAddress,
    /// Its bytes.
    pub bytes: Bytes,
}

/// What a page has lost by being stored in another codec, as sums over its elements in f32.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PageLoss {
    /// Squared differences from what it was.
    pub error: f32,
    /// Squares of what it was.
    pub norm: f32,
}

/// A page that is to be stored in another codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRecode {
    /// The layer.
    pub layer: u32,
    /// K or V.
    pub half: PageHalf,
    /// Which chunk of its sequence it is of: keys are turned by their positions.
    pub chunk: u32,
    /// What is read.
    pub from: PageEntry,
    /// What is written.
    pub to: PageEntry,
}
