//! What a service counts, for whoever asks: how much it did, how long that took, and what its engine moved for it.

use std::time::Duration;

use crate::{AdapterStats, Completion, FinishReason, Histogram, SwapStats};

/// What a service has done since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceStats {
    /// Calls that wait for a place in the batch now.
    pub waiting: usize,
    /// Calls in the batch now, and those whose end is not told yet since their context is being written.
    pub under_way: usize,
    /// Calls that have ended with an answer, cancelled ones included.
    pub answered: u64,
    /// Of them, cancelled ones.
    pub cancelled: u64,
    /// Calls that have ended with an error.
    pub failed: u64,
    /// Calls that were refused because too many waited ([`ServiceError::Overloaded`](super::ServiceError::Overloaded)).
    pub overloaded: u64,
    /// Tokens of prompts, those of contexts included.
    pub prompt_tokens: u64,
    /// How many of them were in the cache.
    pub reused_tokens: u64,
    /// Tokens of answers.
    pub generated_tokens: u64,
    /// From a call to its first token, of each call that had one.
    pub first_token: Histogram,
    /// From one token to the next, the mean of each call that had two.
    pub per_token: Histogram,
    /// What the engine has done with adapters, since it was opened.
    pub adapters: AdapterStats,
    /// What went between memory and flash, since the engine was opened; `None` where there is no file for that.
    pub swap: Option<SwapStats>,
}

impl ServiceStats {
    /// Tokens of prompts that were not in the cache.
    #[must_use]
    pub const fn computed_tokens(&self) -> u64 {
        self.prompt_tokens.saturating_sub(self.reused_tokens)
    }

    /// A call has ended with an answer.
    pub(super) fn count(&mut self, answer: &Completion) {
        self.answered += 1;
        self.cancelled += u64::from(answer.reason == FinishReason::Cancelled);
        self.prompt_tokens += answer.prompt_tokens as u64;
        self.reused_tokens += answer.reused_tokens as u64;
        self.generated_tokens += answer.tokens.len() as u64;
        answer.first_token.into_iter().for_each(|took| self.first_token.record(took));
        if let Some(steps) = answer.tokens.len().checked_sub(1).filter(|steps| *steps > 0) {
            self.per_token.record(Duration::from_secs_f64(answer.decode.as_secs_f64() / steps as f64));
        }
    }
}
