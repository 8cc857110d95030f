//! What the manager wants done: moves of pages that somebody else carries out and reports the end of.

/// Names a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// A move. What it reads and what it writes stay reserved until it is reported done, failed or cancelled, in whatever
/// order that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// Its name in reports.
    pub id: OpId,
    /// What to do.
    pub kind: OpKind,
    /// Bytes that it writes.
    pub bytes: u64,
}

/// Kinds of moves. Tiers are counted from memory, 0, down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    /// The beginning of a chunk that others use is copied, for a sequence that goes on differently.
    Copy,
    /// A chunk is written to a lower tier.
    Write {
        /// From which.
        from: usize,
        /// To which.
        to: usize,
    },
    /// A chunk is read into memory.
    Read {
        /// From which tier.
        from: usize,
    },
    /// A chunk is computed again, where reading it would take longer or failed.
    Recompute,
    /// An adapter's weights are brought into memory.
    Load,
    /// A chunk's pages are put into another form, [`Config::forms`](crate::Config::forms) being counted from 1, 0 the exact
    /// one.
    Encode {
        /// Which form.
        form: u8,
    },
    /// A chunk in a form, counted likewise, gets exact pages that are read in place of its own: all of them where it is at
    /// rest, for those who have opened it, else its keys ([`Manager::materialise_keys`](crate::Manager::materialise_keys)). Its
    /// own stay as they are, and are all there is again once nobody uses the others.
    Materialise {
        /// Which form.
        form: u8,
    },
    /// A chunk of the base is translated into one under a sequence's adapter.
    Translate,
}
