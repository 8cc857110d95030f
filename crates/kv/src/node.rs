//! One node of the tree: the root of an adapter's contexts, an adapter's weights, or a chunk. Plain data; what follows from
//! it is the manager's.

use interleaf_contract::CHUNK_TOKENS;

/// No node, or no list of pages.
pub const NONE: u32 = u32::MAX;

/// Tiers that there may be: a discrete GPU has its own memory, the host's and flash.
pub const MOST_TIERS: usize = 3;

/// The variant of the base; adapters are counted from 1.
pub const BASE: u16 = 0;

/// The form of pages as they were computed; others are counted from 1.
pub const EXACT: u8 = 0;

/// Forms that there may be besides the exact one: a byte says which of them a chunk was refused in.
pub const MOST_FORMS: usize = 127;

/// Which forms cost more than a chunk's users allow, as it turned out when it was encoded: those of as many bytes as one of
/// them, or fewer. That holds for as long as the chunk is in the tree, since it never gets more exact nor its users less
/// strict; but where the base's pages were not there, what would be decoded over them was not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(u8);

impl Refused {
    /// Nothing was tried in vain.
    pub const NOTHING: Self = Self(0);

    /// A form was, of at most [`MOST_FORMS`].
    pub const fn up_to(form: u8, had_base: bool) -> Self {
        Self(form << 1 | had_base as u8)
    }

    /// The form of most bytes.
    pub const fn form(self) -> Option<u8> {
        match self.0 >> 1 {
            EXACT => None,
            form => Some(form),
        }
    }

    /// Whether the base's pages were there.
    pub const fn had_base(self) -> bool {
        self.0 & 1 == 1
    }
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Not in use.
    Free,
    /// Where contexts of one variant and salt begin. Holds nothing.
    Root,
    /// An adapter's weights.
    Adapter,
    /// A chunk that any call may find.
    Shared,
    /// A chunk that only the sequence knows that is writing it.
    Private,
    /// A chunk that nobody can find any more, and whose pages a move still reads or writes.
    Gone,
}

/// A node. Ordered by size, so that there is no gap: there may be a hundred thousand.
#[derive(Debug, Clone)]
pub struct Node {
    /// A chunk's tokens, `len` of them.
    pub tokens: [u32; CHUNK_TOKENS],
    /// Apps that have used it, a bit each.
    pub apps: u64,
    /// When it was last used, in seconds.
    pub last_use: f64,
    /// The chunk before, or the root.
    pub parent: u32,
    /// Its place among its parent's children.
    pub left: u32,
    pub right: u32,
    /// The first of its children by which the others are found.
    pub children: u32,
    /// The chunk of the same tokens whose pages are those of the layers below `first`, which is the base's, or that this
    /// one's pages are decoded over.
    pub anchor: u32,
    /// Its pages in each tier, those that are on their way included.
    pub pages: [u32; MOST_TIERS],
    /// Its places in the queues of what may go from each tier.
    pub places: [u32; MOST_TIERS],
    /// How many nodes that cannot do without it are in each tier: children, followers, an adapter's chunks.
    pub below: [u32; MOST_TIERS],
    /// Chunks whose anchor it is, wherever they are.
    pub followers: u32,
    /// Of those, the ones in memory.
    pub resident_followers: u32,
    /// The request that last used it.
    pub last_request: u32,
    /// How often it was used.
    pub visits: f32,
    /// The same, each use counting half as much for every half-life that had passed since at the last one.
    pub lately: f32,
    /// Bound on the mean divergence of outputs that was accepted while it was computed; 0 for exact.
    pub drift: f32,
    /// The least divergence that a sequence which used it allows.
    pub least_budget: f32,
    /// Chunks of the longest context that it was part of.
    pub context_chunks: u16,
    /// Sequences that it is part of.
    pub pins: u16,
    /// Moves under way that read or write it.
    pub busy: u16,
    /// The base or the adapter that it was computed under.
    pub variant: u16,
    pub kind: Kind,
    pub len: u8,
    /// The first token of this chunk that the adapter acts on; 0 but where an activated one begins.
    pub from: u8,
    /// The first layer that has pages here and not at the anchor.
    pub first: u8,
    /// Of its layers, how many followers need at most.
    pub keep: u8,
    /// What its pages are kept in.
    pub form: u8,
    /// What it was tried in, in vain.
    pub refused: Refused,
    /// One past the last layer that has pages here, in each tier.
    pub top: [u8; MOST_TIERS],
    /// Whether its pages in memory have their contents.
    pub ready: bool,
    /// Whether it goes from memory once it is written.
    pub leaving: bool,
}

impl Node {
    /// A node of a kind that holds nothing.
    pub const fn new(kind: Kind, variant: u16) -> Self {
        Self {
            tokens: [0; CHUNK_TOKENS],
            apps: 0,
            last_use: 0.0,
            parent: NONE,
            left: NONE,
            right: NONE,
            children: NONE,
            anchor: NONE,
            pages: [NONE; MOST_TIERS],
            places: [NONE; MOST_TIERS],
            below: [0; MOST_TIERS],
            followers: 0,
            resident_followers: 0,
            pins: 0,
            last_request: 0,
            visits: 0.0,
            lately: 0.0,
            drift: 0.0,
            least_budget: f32::INFINITY,
            context_chunks: 0,
            busy: 0,
            variant,
            kind,
            len: 0,
            from: 0,
            first: 0,
            keep: 0,
            form: EXACT,
            refused: Refused::NOTHING,
            top: [0; MOST_TIERS],
            ready: false,
            leaving: false,
        }
    }

    /// The tokens that it has.
    pub fn text(&self) -> &[u32] {
        &self.tokens[..usize::from(self.len)]
    }

    /// Whether it has pages in a tier, or is getting them.
    pub const fn is_in(&self, tier: usize) -> bool {
        self.pages[tier] != NONE
    }

    /// The first tier below memory that has its pages.
    pub fn stored(&self) -> Option<usize> {
        (1..MOST_TIERS).find(|&tier| self.is_in(tier))
    }

    /// Whether it has pages anywhere.
    pub fn is_held(&self) -> bool {
        self.pages.iter().any(|list| *list != NONE)
    }
}
