//! The engine's one primitive: new tokens of several sequences through one step.

use interleaf_contract::{RowKind, Sampler};
use interleaf_kv::SequenceId;

use crate::EngineError;
use crate::adapters::Activation;
use crate::engine::Engine;

/// A sequence of the engine: its tokens so far are in the KV cache, under one adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceHandle {
    pub(crate) id: SequenceId,
    pub(crate) activation: Option<Activation>,
}

impl SequenceHandle {
    /// The first position that its adapter acts on; `None` where the base answers.
    #[must_use]
    pub fn adapter_from(&self) -> Option<usize> {
        self.activation.map(|a| a.from)
    }

    /// How many of this sequence's first tokens have the K and V that they would have under another
    /// activation: all if it is the same one, else those on which neither acts.
    pub(crate) fn shared_until(self, other: Option<Activation>) -> usize {
        let from = |a: Option<Activation>| a.map_or(usize::MAX, |a| a.from);
        if self.activation == other { usize::MAX } else { from(self.activation).min(from(other)) }
    }
}

/// What is wanted of the rows of a [`Feed`].
#[derive(Debug, Clone, PartialEq)]
pub enum Want {
    /// Only their K and V.
    Nothing,
    /// A token chosen from the last row's logits.
    Token(Sampler),
    /// Every row's logits.
    Logits,
}

/// New tokens of one sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Feed<'a> {
    /// The sequence.
    pub sequence: SequenceHandle,
    /// The tokens that follow those it has.
    pub tokens: &'a [u32],
    /// Prompt or generated.
    pub kind: RowKind,
    /// What comes back.
    pub want: Want,
}

/// What came back of a [`Feed`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fed {
    /// The chosen token.
    pub token: Option<u32>,
    /// Logits, rows × vocabulary.
    pub logits: Vec<f32>,
}

impl Engine {
    /// Opens an empty sequence under an adapter, or under the base model. `prompt` is what it will begin
    /// with: an activated LoRA acts from its invocation in it on, and nowhere if it has none; other adapters
    /// act on every token whatever it is.
    ///
    /// # Errors
    /// If no adapter of that name is registered.
    pub fn open_sequence(
        &mut self,
        adapter: Option<&str>,
        prompt: &[u32],
    ) -> Result<SequenceHandle, EngineError> {
        let activation = adapter.map(|name| self.adapters.activation(name, prompt)).transpose()?.flatten();
        Ok(SequenceHandle { id: self.kv.open(), activation })
    }

    /// Cuts a sequence back to its first tokens, and frees the pages of the others; one that is no longer than
    /// that stays as it is.
    ///
    /// # Errors
    /// If the sequence is not open.
    pub fn truncate_sequence(&mut self, sequence: SequenceHandle, tokens: usize) -> Result<(), EngineError> {
        self.kv.truncate(sequence.id, tokens)?;
        self.histories.truncate(sequence.id, tokens);
        Ok(())
    }

    /// Closes a sequence and frees its pages.
    ///
    /// # Errors
    /// If the sequence is not open.
    pub fn close_sequence(&mut self, sequence: SequenceHandle) -> Result<(), EngineError> {
        self.kv.close(sequence.id)?;
        self.histories.forget(sequence.id);
        Ok(())
    }

    /// Runs new tokens of any sequences, each under its own adapter, in one step. Each sequence may
    /// appear once. Results are in the order of `feeds`.
    ///
    /// # Errors
    /// If a sequence appears twice, a token is not in the vocabulary, a sequence would exceed the context, the KV pool is
    /// full, no logit is a number, the GPU is suspended, or the device fails. The sequences then have the tokens they had
    /// before.
    pub fn feed(&mut self, feeds: &[Feed<'_>]) -> Result<Vec<Fed>, EngineError> {
        let sequences: Vec<SequenceHandle> = feeds.iter().map(|feed| feed.sequence).collect();
        self.on_some_device(&sequences, |engine| engine.step(feeds))
    }
}
