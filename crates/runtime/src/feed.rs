//! The engine's one primitive: new tokens of several sequences through one step.

use interleaf_contract::{AdapterId, Batch, Output, Row, RowKind, Sampler, Sequence, Step};
use interleaf_kv::SequenceId;

use crate::adapters::Activation;
use crate::engine::Engine;
use crate::{EngineError, forward};

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

    /// The same on the device at hand, of sequences whose pages it has.
    pub(crate) fn step(&mut self, feeds: &[Feed<'_>]) -> Result<Vec<Fed>, EngineError> {
        for (i, feed) in feeds.iter().enumerate() {
            if feeds[..i].iter().any(|other| other.sequence.id == feed.sequence.id) {
                return Err(EngineError::DuplicateSequence { feed: i });
            }
        }
        let before: Vec<usize> =
            feeds.iter().map(|f| self.kv.tokens(f.sequence.id)).collect::<Result<_, _>>()?;
        let result = self.make_room_for(feeds, &before).and_then(|()| self.compute(feeds, &before));
        for (feed, &tokens) in feeds.iter().zip(&before) {
            if result.is_err() {
                self.kv.truncate(feed.sequence.id, tokens)?;
            } else if self.fallback.is_some() {
                self.histories.grow(feed.sequence.id, feed.tokens);
            }
        }
        result
    }

    fn make_room_for(&mut self, feeds: &[Feed<'_>], before: &[usize]) -> Result<(), EngineError> {
        for (feed, &start) in feeds.iter().zip(before) {
            self.check(feed, start)?;
            self.kv.append(feed.sequence.id, feed.tokens.len())?;
        }
        Ok(())
    }

    /// Computes tokens that there are pages for, those of each feed from a position on.
    pub(crate) fn compute(&mut self, feeds: &[Feed<'_>], starts: &[usize]) -> Result<Vec<Fed>, EngineError> {
        let mut batch = Batch::default();
        // The feed and kind of want behind each output row.
        let mut wanted = Vec::new();
        for (index, (feed, &start)) in feeds.iter().zip(starts).enumerate() {
            let sequence = u32::try_from(index).unwrap_or(u32::MAX);
            let activation = feed.sequence.activation;
            let end = start + feed.tokens.len();
            // An adapter that acts on none of these rows is not in the batch.
            let acting = activation.filter(|a| a.from < end);
            let slot = acting.map_or(-1, |a| slot(&mut batch.adapters, self.adapters.id(a.adapter)));
            for (i, &token) in feed.tokens.iter().enumerate() {
                let row = u32::try_from(batch.rows.len()).unwrap_or(u32::MAX);
                let position = u32::try_from(start + i).unwrap_or(u32::MAX);
                let adapter = if activation.is_some_and(|a| a.from <= start + i) { slot } else { -1 };
                batch.rows.push(Row { token, position, sequence, adapter, kind: feed.kind });
                let last = i + 1 == feed.tokens.len();
                let sampler = match &feed.want {
                    Want::Token(sampler) if last => Some(sampler.clone()),
                    Want::Logits => None,
                    Want::Nothing | Want::Token(_) => continue,
                };
                batch.outputs.push(Output { row, sampler });
                wanted.push(index);
            }
        }
        for feed in feeds {
            batch.sequences.push(Sequence { pages: self.kv.page_table(feed.sequence.id)? });
        }
        if batch.rows.is_empty() {
            return Ok(vec![Fed::default(); feeds.len()]);
        }

        let probe = feeds.iter().any(|f| f.want == Want::Logits);
        let sample = batch.outputs.iter().any(|o| o.sampler.is_some());
        let mut step = Step::new(batch)?;
        let logits = forward::record(&mut step, &self.resident, &self.ropes, self.model.config());
        if let Some(logits) = logits {
            if sample {
                step.push(interleaf_contract::Op::Sample { logits });
            }
            if probe {
                step.probe(logits);
            }
        }
        let ticket = self.backend.submit(step)?;
        let output = self.backend.wait(ticket)?;

        let mut fed = vec![Fed::default(); feeds.len()];
        for sampled in output.tokens {
            fed[wanted[sampled.output as usize]].token = Some(sampled.token.ok_or(EngineError::NotANumber)?);
        }
        if let Some(logits) = output.probes.first() {
            let rows = logits.chunks_exact(self.model.config().vocab_size);
            for (row, &index) in rows.zip(&wanted).filter(|(_, index)| feeds[**index].want == Want::Logits) {
                fed[index].logits.extend_from_slice(row);
            }
        }
        Ok(fed)
    }

    fn check(&self, feed: &Feed<'_>, start: usize) -> Result<(), EngineError> {
        let vocabulary = self.model.config().vocab_size;
        if let Some(&token) = feed.tokens.iter().find(|&&t| t as usize >= vocabulary) {
            return Err(EngineError::UnknownToken { token, vocabulary });
        }
        let needed = start + feed.tokens.len();
        if needed > self.context {
            return Err(EngineError::ContextFull { needed, limit: self.context });
        }
        Ok(())
    }
}

/// The adapter's index in the batch, added if it is new there.
fn slot(adapters: &mut Vec<AdapterId>, id: AdapterId) -> i32 {
    let at = adapters.iter().position(|a| *a == id).unwrap_or_else(|| {
        adapters.push(id);
        adapters.len() - 1
    });
    i32::try_from(at).unwrap_or(i32::MAX)
}
