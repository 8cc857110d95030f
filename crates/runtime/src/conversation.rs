//! A conversation: turns whose common beginning is computed once.
//!
//! Each turn gives the whole prompt anew; what of it is in the cache from earlier turns, and belongs to the same
//! tokens under the same adapter, is not computed again. On a host backend it is what would come out again, bit for
//! bit; where generated rows have kernels of their own, to within the rounding in which those differ from a prompt's.

use std::time::Instant;

use crate::active::{Active, OnEvent};
use crate::generate::broken_off;
use crate::request::{Completion, Request};
use crate::{Engine, EngineError, SequenceHandle};

/// The cached past of a conversation. Dropping it without [`Engine::end_conversation`] keeps its pages until
/// [`Engine::reserve_kv`].
#[derive(Debug, Default)]
pub struct Conversation {
    /// The sequence of the last turn, and the tokens that it has in the cache.
    past: Option<(SequenceHandle, Vec<u32>)>,
}

impl Conversation {
    /// What holds the past, to read its K and V; `None` before the first turn.
    #[must_use]
    pub fn sequence(&self) -> Option<SequenceHandle> {
        self.past.as_ref().map(|(sequence, _)| *sequence)
    }

    /// Tokens whose K and V are cached.
    #[must_use]
    pub fn cached_tokens(&self) -> usize {
        self.past.as_ref().map_or(0, |(_, tokens)| tokens.len())
    }
}

impl Engine {
    /// Answers one more turn. [`Completion::reused_tokens`] says how much of the prompt was in the cache:
    /// its common beginning with what the conversation computed before, if the adapter is the same one, and
    /// where another adapter answers, as far as neither acts (before the invocation of an activated LoRA).
    /// The last token of a prompt is always computed, since its logits are needed.
    ///
    /// # Errors
    /// As [`Engine::generate`]; [`EngineError::DeviceFailed`] has the one answer as far as it came. The conversation then
    /// holds what was cached before the failure.
    pub fn converse(
        &mut self,
        conversation: &mut Conversation,
        request: &Request,
        on_event: OnEvent<'_>,
    ) -> Result<Completion, EngineError> {
        let start = Instant::now();
        self.check_request(0, request)?;
        let activation = match &request.adapter {
            Some(name) => self.adapters.activation(name, &request.prompt)?,
            None => None,
        };
        let (sequence, reused) = match conversation.past.take() {
            // A pool that was replaced since has closed the sequence.
            Some((past, tokens)) if self.kv.tokens(past.id).is_ok() => {
                // Nor has it pages that were lost with a device.
                let cached = if self.histories.is_lost(past.id) { 0 } else { request.prompt.len() - 1 };
                let lawful = past.shared_until(activation).min(cached);
                let reused = common_prefix(&tokens, &request.prompt).min(lawful);
                self.truncate_sequence(past, reused)?;
                (SequenceHandle { id: past.id, activation }, reused)
            }
            _ => (SequenceHandle { id: self.kv.open(), activation }, 0),
        };
        let stream = self.tokenizer("text").ok().map(|t| t.stream(true));
        let mut active = [Active::new(0, request, sequence, reused, stream)];
        let result = self.run(&mut active, false, on_event);
        let [active] = active;
        conversation.past = Some((sequence, active.cached().to_vec()));
        match result {
            Ok(()) => Ok(active.completion(start)),
            Err(error) => Err(broken_off(error, vec![active], start, on_event)),
        }
    }

    /// Forgets a conversation's past and frees its pages; the next turn begins anew.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn end_conversation(&mut self, conversation: &mut Conversation) -> Result<(), EngineError> {
        match conversation.past.take() {
            Some((past, _)) if self.kv.tokens(past.id).is_ok() => self.close_sequence(past),
            _ => Ok(()),
        }
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
