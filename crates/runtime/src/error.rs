//! Everything that can go wrong between a request and its answer.

use std::sync::Arc;

use crate::Completion;
use interleaf_contract::{BackendError, ContractError};
use interleaf_kv::KvError;
use interleaf_model::ModelError;

/// Why the engine refused or failed. What was loaded before stays loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A file of a model or adapter.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The page pool.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A backend that this build leaves out.
    #[error("the {backend} backend is not built in: expected the feature {backend:?}")]
    BackendMissing {
        /// The backend, which is the feature's name.
        backend: &'static str,
    },
    /// The device failed while answers were under way. What they have is kept. After [`BackendError::DeviceLost`] nothing
    /// of the engine's is usable any more, and another can be opened; after other causes the engine can be asked again,
    /// for less where there was no room.
    #[error("{cause}; {} answers under way have {} tokens", .completions.len(), .completions.iter().map(|c| c.tokens.len()).sum::<usize>())]
    DeviceFailed {
        /// What the device failed with.
        cause: BackendError,
        /// The answers with the tokens that they had, in the order of the requests. Those that were not over end with
        /// [`FinishReason::DeviceLost`](crate::FinishReason::DeviceLost),
        /// [`FinishReason::OutOfMemory`](crate::FinishReason::OutOfMemory) or
        /// [`FinishReason::DeviceFailed`](crate::FinishReason::DeviceFailed).
        completions: Vec<Completion>,
    },
    /// The GPU is suspended.
    #[error("the GPU is suspended: nothing runs until it is resumed")]
    GpuSuspended,
    /// An adapter whose files were to be read again, for another backend, and are no longer what was registered.
    #[error("adapter {0:?}: its files have changed since it was registered")]
    AdapterChanged(String),
    /// More than the engine's memory budget ([`EngineOptions::memory_budget`](crate::EngineOptions::memory_budget)). Nothing was
    /// allocated for it.
    #[error("{what} would hold {needed} bytes, and the memory budget is {budget}")]
    DoesNotFit {
        /// What was to be held.
        what: String,
        /// Bytes that the engine would hold then, in all.
        needed: u64,
        /// Bytes that it may hold.
        budget: u64,
    },
    /// The last process that loaded this model, or reserved such a pool, did not come to an end of its own while it did: the system may
    /// have ended it for the memory that it took. [`EngineOptions::retry_load`](crate::EngineOptions::retry_load) tries all the same.
    #[error(
        "{mark}: the last time {what} was loaded the process ended before it was, perhaps for want of memory; retry_load tries again"
    )]
    LastLoadFailed {
        /// The mark that was left.
        mark: String,
        /// What was being loaded, and how.
        what: String,
    },
    /// An adapter whose weights were to be loaded for a call.
    #[error("adapter {name:?} could not be loaded: {reason}")]
    AdapterNotLoaded {
        /// Its name.
        name: String,
        /// What its files, or the device, were refused with.
        reason: Arc<EngineError>,
    },
    /// An adapter name that was never registered.
    #[error("no adapter named {name:?} is registered; there are: {}", if .known.is_empty() { "none".into() } else { .known.join(", ") })]
    UnknownAdapter {
        /// The name that was asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// Two adapters of one name.
    #[error("an adapter named {0:?} is already registered")]
    DuplicateAdapter(String),
    /// A prompt that was to be routed without a router.
    #[error("no router is open, or none is kept for this model")]
    NoRouter,
    /// A prompt without tokens.
    #[error("request {request}: the prompt has no tokens")]
    EmptyPrompt {
        /// The request's index.
        request: usize,
    },
    /// Logits of which none can be chosen.
    #[error(
        "no token can be chosen: the logits are not numbers, which damaged weights of the model or of an \
         adapter cause, or the request's biases ban every token"
    )]
    NotANumber,
    /// A sequence that was fed twice in one step.
    #[error("feed {feed}: its sequence is already fed in this step")]
    DuplicateSequence {
        /// The second feed's index.
        feed: usize,
    },
    /// Keys or values that are not one for each element of a sequence's layer.
    #[error(
        "layer {layer}: {found} keys or values, expected {expected}: heads × tokens × elements of a head"
    )]
    KvElements {
        /// The layer.
        layer: usize,
        /// Elements of the sequence in it.
        expected: usize,
        /// Elements that were given.
        found: usize,
    },
    /// Pages that other sequences read, or may, and that are therefore not overwritten.
    #[error("the sequence's pages can be found by others: expected one of open_sequence")]
    SharedPages,
    /// A position is not one of a sequence's.
    #[error("position {position} of a sequence of {tokens} tokens")]
    NoSuchPosition {
        /// The position.
        position: usize,
        /// How many tokens it has.
        tokens: usize,
    },
    /// A token that the vocabulary does not have.
    #[error("token {token} is not in the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Tokens in the vocabulary.
        vocabulary: usize,
    },
    /// A sequence that would be longer than the model or the engine allows.
    #[error("the context is full: {needed} tokens are needed, {limit} fit")]
    ContextFull {
        /// Tokens that the sequence would have.
        needed: usize,
        /// The most it may have.
        limit: usize,
    },
    /// An option outside its range.
    #[error("{option} must be {expected}, found {found}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        found: String,
    },
    /// A request that needs the tokenizer, of a model that has none.
    #[error("{file}: not found; {needed_for} needs it")]
    NoTokenizer {
        /// The file that is not there.
        file: String,
        /// What was asked.
        needed_for: &'static str,
    },
}

impl From<ContractError> for EngineError {
    fn from(error: ContractError) -> Self {
        Self::Backend(error.into())
    }
}
