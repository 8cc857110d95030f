//! A conversation: turns whose common beginning is computed once.
//!
//! Each turn gives the whole prompt anew; what of it is in the cache, of earlier turns or of anybody's under the same
//! adapter, is not computed again. On a host backend it is what would come out again, bit for bit; where generated rows
//! have kernels of their own, to within the rounding in which those differ from a prompt's. Between turns nothing is
//! held: what the room is needed for by others is computed again.

use std::time::Instant;

use crate::active::{Active, OnEvent};
use crate::adapters::Activation;
use crate::cache::Caller;
use crate::generate::broken_off;
use crate::request::{Completion, Request};
use crate::{Engine, EngineError};

/// A conversation's past.
#[derive(Debug, Default)]
pub struct Conversation {
    past: Option<Past>,
}

/// The last turn.
#[derive(Debug)]
struct Past {
    adapter: Option<String>,
    /// The prompt and the answer, as far as they were computed.
    tokens: Vec<u32>,
    /// How many of them the prompt had.
    prompt: usize,
    /// The budget that it was answered within.
    drift: f32,
}

impl Conversation {
    /// The tokens that the last turn has computed or found: the prompt and all of the answer but its last token.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        self.past.as_ref().map_or(&[], |past| &past.tokens)
    }
}

impl Engine {
    /// Answers one more turn. [`Completion::reused_tokens`] says how much of the prompt was in the cache. The last token of
    /// a prompt is always computed, since its logits are needed.
    ///
    /// # Errors
    /// As [`Engine::generate`]; [`EngineError::DeviceFailed`] has the one answer as far as it came. The conversation then
    /// has what was computed before the failure.
    pub fn converse(
        &mut self,
        conversation: &mut Conversation,
        request: &Request,
        on_event: OnEvent<'_>,
    ) -> Result<Completion, EngineError> {
        let start = Instant::now();
        self.check_request(0, request)?;
        let sequence = self.open_kept(self.cache.own(), request)?;
        let stream = self.tokenizer("text").ok().map(|t| t.stream(true));
        let caller = self.cache.own();
        let mut active = [Active::new(0, request.clone(), caller, sequence, stream)];
        let result = self.run(&mut active, false, on_event);
        let [active] = active;
        self.end_sequence(active.sequence)?;
        let (adapter, prompt, drift) = (request.adapter.clone(), request.prompt.len(), request.drift);
        conversation.past = Some(Past { adapter, tokens: active.cached().to_vec(), prompt, drift });
        match result {
            Ok(()) => Ok(active.completion(start)),
            Err(error) => Err(broken_off(error, vec![active], start, on_event)),
        }
    }

    /// How many of a conversation's tokens are in the cache now.
    #[must_use]
    pub fn cached_tokens(&self, conversation: &Conversation) -> usize {
        let Some(past) = &conversation.past else { return 0 };
        self.past_activation(past).map_or(0, |activation| {
            self.cache.look_up(self.cache.own(), activation, &past.tokens, past.drift)
        })
    }

    /// Forgets a conversation's past and frees those of its pages that nobody else goes on from; the next turn begins anew.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn end_conversation(&mut self, conversation: &mut Conversation) -> Result<(), EngineError> {
        let Some(past) = conversation.past.take() else { return Ok(()) };
        match self.past_activation(&past) {
            Some(activation) => {
                Ok(self.cache.forget(self.cache.own(), activation, &past.tokens, past.drift)?)
            }
            None => Ok(()),
        }
    }

    /// Forgets what is in the cache of a text, under the base and every adapter, as far as nobody else uses it.
    pub(crate) fn forget_text(&mut self, caller: Caller, tokens: &[u32]) -> Result<(), EngineError> {
        if let Some(router) = &mut self.router {
            router.forget(caller, Some(tokens));
        }
        let under = |name: &String| self.adapters.activation(name, tokens).ok().flatten();
        let names: Vec<String> = self.adapters.summaries().map(|adapter| adapter.name.clone()).collect();
        let activations: Vec<Activation> = names.iter().filter_map(under).collect();
        for activation in activations.into_iter().map(Some).chain([None]) {
            self.cache.forget(caller, activation, tokens, f32::MAX)?;
        }
        self.forget_swapped();
        Ok(())
    }

    /// Under what a past was computed; `None` where this engine does not know its adapter.
    fn past_activation(&self, past: &Past) -> Option<Option<Activation>> {
        let Some(name) = &past.adapter else { return Some(None) };
        let prompt = past.tokens.get(..past.prompt).unwrap_or(&past.tokens);
        self.adapters.activation(name, prompt).ok()
    }
}
