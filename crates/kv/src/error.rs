//! What the manager refuses.

use crate::SequenceId;

/// Why an event was refused. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// No room for more tokens: all that may go has gone.
    #[error(
        "the KV pool is full: {needed} more chunks of 16 tokens are needed, {free} of {capacity} are free or may go"
    )]
    Full {
        /// Chunks that the tokens need beyond those the sequence has.
        needed: usize,
        /// Chunks that are free, or would be if all that nobody uses went.
        free: usize,
        /// Chunks within the budget.
        capacity: usize,
    },
    /// No room for an adapter's weights, of which everything that may go has gone.
    #[error("the pool is full: an adapter of {needed} bytes does not fit beside what is in use")]
    AdapterFull {
        /// Bytes of the adapter.
        needed: u64,
    },
    /// A sequence that was never opened or is closed.
    #[error("no sequence {0:?} in the KV cache")]
    UnknownSequence(SequenceId),
    /// A sequence whose adapter's weights could not be loaded.
    #[error("the adapter of sequence {0:?} could not be loaded")]
    NotLoaded(SequenceId),
    /// A sequence whose pages are on their way.
    #[error("sequence {0:?} waits for pages that are on their way")]
    Waiting(SequenceId),
    /// More tokens than there is room for.
    #[error("sequence {sequence:?} has room for {room} tokens, and {tokens} were computed")]
    NoRoom {
        /// The sequence.
        sequence: SequenceId,
        /// Tokens that it has room for.
        room: usize,
        /// Tokens that it would have.
        tokens: usize,
    },
    /// Tokens that diverge by more than their sequence may.
    #[error("sequence {sequence:?} may diverge by {budget} nats, and tokens came with {drift}")]
    Drift {
        /// The sequence.
        sequence: SequenceId,
        /// What it may.
        budget: f32,
        /// What the tokens have.
        drift: f32,
    },
    /// An app that was never opened or is closed.
    #[error("no such app")]
    UnknownApp,
    /// A sequence of another app.
    #[error("sequence {0:?} is not this app's")]
    NotYours(SequenceId),
    /// More apps than a chunk can tell apart.
    #[error("{most} apps are open, the most there may be")]
    TooManyApps {
        /// The most.
        most: usize,
    },
    /// More sequences than a chunk can count.
    #[error("{most} sequences are open, the most there may be")]
    TooManySequences {
        /// The most.
        most: usize,
    },
    /// An adapter that was never added, or was removed.
    #[error("no such adapter")]
    UnknownAdapter,
    /// More adapters than a chunk can tell apart.
    #[error("{most} adapters are there, the most there may be")]
    TooManyAdapters {
        /// The most.
        most: usize,
    },
    /// An adapter that is there already.
    #[error("this adapter is there already")]
    DuplicateAdapter,
    /// No widths for the chunks of a context.
    #[error(transparent)]
    Widths(#[from] crate::ToleranceError),
    /// A configuration that cannot be.
    #[error("{field} must be {expected}, found {found}")]
    Config {
        /// The field.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        found: String,
    },
}
