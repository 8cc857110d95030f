//! What is asked and what is answered: a request, the events while it runs, its completion. No engine.

use std::time::Duration;

use interleaf_contract::BackendError;
use interleaf_kv::FirstTouch;

use crate::{KeyReads, Routed, SamplingOptions};

/// A prompt and how to answer it.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// The adapter's name; `None` for the base model.
    pub adapter: Option<String>,
    /// The longest answer.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
    /// The answer ends at any of these.
    pub end_tokens: Vec<u32>,
    /// The drift budget: what the mean divergence of its output from the exact answer's may be, in nats (Kullback-Leibler).
    /// 0 is exact: nothing that has lost anything is read for it, and what it computes is kept as it is.
    pub drift: f32,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model chose one of the end tokens.
    EndToken,
    /// A stop string appeared.
    Stop,
    /// It has as many tokens as were asked for.
    Length,
    /// The context or the KV pool has no more room.
    ContextFull,
    /// The caller broke off.
    Cancelled,
    /// No token could be chosen, since logits were not numbers: [`EngineError::NotANumber`](crate::EngineError::NotANumber),
    /// of one answer of several.
    NotANumber,
    /// The device was lost.
    DeviceLost,
    /// The device had no room for the next step.
    OutOfMemory,
    /// The device or its driver failed at the next step.
    DeviceFailed,
}

impl FinishReason {
    /// The name used in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EndToken => "end",
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContextFull => "context_full",
            Self::Cancelled => "cancelled",
            Self::NotANumber => "not_a_number",
            Self::DeviceLost => "device_lost",
            Self::OutOfMemory => "out_of_memory",
            Self::DeviceFailed => "device_failed",
        }
    }

    /// How an answer ends where a device fails; `None` where it was not the device.
    pub(crate) const fn of_failure(error: &BackendError) -> Option<Self> {
        match error {
            BackendError::DeviceLost { .. } => Some(Self::DeviceLost),
            BackendError::OutOfMemory { .. } => Some(Self::OutOfMemory),
            BackendError::Device { .. } => Some(Self::DeviceFailed),
            _ => None,
        }
    }
}

/// What happens while requests are answered, by the request's index.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More of the prompt is in the cache. Where the CPU has taken over from a GPU that failed this comes again, of the
    /// prompt and the answer so far, whose text does not.
    Prefill {
        /// The request.
        request: usize,
        /// Tokens done.
        done: usize,
        /// Tokens to do.
        total: usize,
    },
    /// More of the answer.
    Text {
        /// The request.
        request: usize,
        /// Whole characters.
        text: String,
        /// Tokens generated so far.
        tokens: usize,
    },
    /// The GPU was suspended; answers go on once it is resumed. Breaking off ends them instead.
    Suspended,
    /// The answer is complete.
    Finished {
        /// The request.
        request: usize,
        /// Why.
        reason: FinishReason,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The text, without the end token or stop string. Empty for a model without a tokenizer.
    pub text: String,
    /// The generated tokens, an end token left out.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were in the cache already: of earlier requests under the same adapter, or of any others on whose
    /// tokens no adapter acted.
    pub reused_tokens: usize,
    /// What its output may diverge by for the pages that were read, in nats, as it was estimated when they were encoded; 0
    /// for an exact answer.
    pub drift: f32,
    /// What became of a prefix that the base had in the cache and the adapter had not. What was translated of it is among the
    /// reused tokens.
    pub first_touch: FirstTouch,
    /// How the keys of those pages were read.
    pub keys: KeyReads,
    /// Why it ended.
    pub reason: FinishReason,
    /// The first position that the adapter acted on; `None` where the base answered, as it does where a
    /// prompt does not have the invocation of an activated LoRA.
    pub adapter_from: Option<usize>,
    /// How its adapter was chosen, where that was left to the router.
    pub routed: Option<Routed>,
    /// From the call to the first token.
    pub first_token: Option<Duration>,
    /// From the first token to the last.
    pub decode: Duration,
}

impl Completion {
    /// Of a request that ended before it began.
    pub(crate) fn cancelled(prompt_tokens: usize) -> Self {
        Self {
            text: String::new(),
            tokens: Vec::new(),
            prompt_tokens,
            reused_tokens: 0,
            drift: 0.0,
            first_touch: FirstTouch::Nothing,
            keys: KeyReads::default(),
            reason: FinishReason::Cancelled,
            adapter_from: None,
            routed: None,
            first_token: None,
            decode: Duration::ZERO,
        }
    }

    /// Tokens after the first per second of decoding; 0 if there is no second token.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        let seconds = self.decode.as_secs_f64();
        if seconds > 0.0 { self.tokens.len().saturating_sub(1) as f64 / seconds } else { 0.0 }
    }
}
