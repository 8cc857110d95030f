//! What a cached page is of. Keys are typed and hold contents, never a name or a path, so that neither a name that is
//! used again nor text that looks like a key can make one page answer for another.

/// A digest of contents, such as a file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentDigest(pub [u8; 32]);

/// The model that pages are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelKey {
    /// Its weights, the format that they are kept in and the numerics that they are multiplied by.
    pub weights: ContentDigest,
    /// What else decides a page's bits: the rotary embedding and the rest of the configuration.
    pub config: ContentDigest,
}

/// An adapter by what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AdapterKey {
    /// Its factors and its own scales.
    pub digest: ContentDigest,
    /// The bits of the factor that all of its scales are multiplied by (f32).
    pub scale_bits: u32,
}

/// A secret of an app. Pages computed under it answer only calls under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Salt(pub [u8; 16]);

/// Names an app. One that comes after another was closed has another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppId {
    pub(crate) place: u32,
    pub(crate) generation: u32,
}

/// Names an adapter of a manager. One that was removed and added again has another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterId {
    pub(crate) index: u16,
    pub(crate) generation: u32,
}

/// Names an open sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// All that a chunk's pages depend on, and where they lie in what that makes: a chunk of a store that outlives the
/// manager is looked up by this.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChunkKey {
    /// The model.
    pub model: ModelKey,
    /// The app's secret; `None` where it shares.
    pub salt: Option<Salt>,
    /// The adapter; `None` for the base.
    pub adapter: Option<AdapterKey>,
    /// The first position that the adapter acts on; 0 for the base.
    pub from: usize,
    /// Every token up to the chunk's last.
    pub tokens: Vec<u32>,
}
