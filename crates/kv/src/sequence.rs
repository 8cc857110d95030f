//! An open sequence: a call's working set, which nothing is taken of. Plain data.

use interleaf_contract::{CHUNK_TOKENS, PageTable};

use crate::attention::Attention;
use crate::node::BASE;
use crate::{FirstTouch, SequenceId};

/// A sequence.
#[derive(Debug)]
pub struct Sequence {
    /// Its name.
    pub id: SequenceId,
    /// The app's place.
    pub app: u32,
    /// The base or an adapter.
    pub variant: u16,
    /// The first position that the adapter acts on.
    pub from: usize,
    /// Whether its chunks can be found by others, while it is open and after.
    pub is_kept: bool,
    /// Divergence that it may read.
    pub budget: f32,
    /// That of what it has found.
    pub found_drift: f32,
    /// That of it which is for chunks that were narrowed.
    pub found_narrowed: f32,
    /// That of its own tokens beyond what they were computed over.
    pub own_drift: f32,
    /// Its chunks, those without tokens included that there is only room for.
    pub path: Vec<u32>,
    /// How many of them, from the first on, are in the tree.
    pub shared: usize,
    /// Tokens whose K and V are there, or on their way.
    pub tokens: usize,
    /// Tokens that there is room for.
    pub room: usize,
    /// Where its pages are; empty where the memory's pages are of no use to kernels.
    pub table: PageTable,
    /// Whether its pages were lost with their device and have not been computed again: nobody else may find them.
    pub is_lost: bool,
    /// Nodes that it waits for.
    pub unready: Vec<u32>,
    /// How much its rows attended to its chunks, as far as that was measured.
    pub attention: Vec<Attention>,
    /// What became of a prefix that only the base had.
    pub first_touch: FirstTouch,
}

impl Sequence {
    /// Under what a chunk is computed, and the first of its tokens that this acts on.
    pub fn variant_of(&self, chunk: usize) -> (u16, u8) {
        variant_of(self.variant, self.from, chunk)
    }

    /// Divergence of tokens that come with so much of their own. What was found was measured as if all were so, and so are
    /// a sequence's own tokens: of each kind the largest counts, and both together.
    pub fn drift_with(&self, own: f32) -> f32 {
        self.found_drift + self.own_drift.max(own)
    }
}

/// Under what a chunk is computed where an adapter acts from a position on, and the first of the chunk's tokens that it
/// acts on.
pub fn variant_of(variant: u16, from: usize, chunk: usize) -> (u16, u8) {
    let start = chunk * CHUNK_TOKENS;
    if variant == BASE || start + CHUNK_TOKENS <= from {
        return (BASE, 0);
    }
    (variant, from.saturating_sub(start) as u8)
}
