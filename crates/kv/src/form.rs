//! The forms that a chunk's pages may be kept in besides the exact one: what each takes, what it costs in fidelity, and
//! what it is decoded over. Codecs themselves are kernels'.

/// What a form is decoded over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Over {
    /// Nothing: it stands alone.
    Nothing,
    /// The pages of the same tokens under the base.
    Base,
    /// The pages of the same tokens under any variant: the base where there are any, else another adapter's.
    Any,
}

/// A form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Form {
    /// Bytes of one layer's K and V of a chunk, scales included.
    pub page_bytes: u64,
    /// Bits of an element.
    pub bits: u32,
    /// Bound on the mean divergence of outputs that reading it costs, in nats.
    pub drift: f32,
    /// What it is decoded over.
    pub over: Over,
    /// Whether only chunks get it whose density says so ([`Manager::narrow`](crate::Manager::narrow)); else each gets the
    /// smallest that its users allow when its call returns.
    pub by_density: bool,
}

/// How good an adapter's translation of the base's pages is, as it was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Translation {
    /// Bound on the mean divergence of outputs, in nats.
    pub drift: f32,
    /// The longest prefix that this was measured of, in tokens.
    pub most_tokens: usize,
}

/// Where a layer of a chunk comes from, the cheapest lawful way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Its own page, exact.
    Own,
    /// The base's page, which is the same to the bit.
    Shared,
    /// Its own page in a form that stands alone, by its place in the configuration.
    Form(u8),
    /// Its own page in a form that is decoded over another variant's page.
    OverAnchor(u8),
    /// The base's page, translated.
    Translated,
    /// The forward pass.
    Recomputed,
}
