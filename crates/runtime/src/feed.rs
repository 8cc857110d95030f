//! The engine's one primitive: new tokens of several sequences through one step.

use interleaf_contract::{CHUNK_TOKENS, PageCodec, PageCopy, PageRecode, RowKind, Sampler};
use interleaf_kv::{FirstTouch, KvError, Op, OpKind, Opened, SequenceId};

use crate::EngineError;
use crate::adapters::Activation;
use crate::cache::{Caller, Ended};
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
    /// The weight that its rows gave each chunk's tokens, as a mean over what is measured ([`Engine::measure_mass`]): every row
    /// gives one in all. Empty where nothing is.
    pub mass: Vec<f32>,
    /// No token could be chosen.
    pub(crate) is_broken: bool,
}

/// A drift budget is a divergence.
///
/// # Errors
/// If it is not.
pub(crate) fn check_budget(drift: f32) -> Result<(), EngineError> {
    if drift >= 0.0 && drift.is_finite() {
        return Ok(());
    }
    let (option, expected) = ("drift", "0, or a divergence in nats");
    Err(EngineError::InvalidOption { option, expected, found: drift.to_string() })
}

impl Engine {
    /// Opens an empty sequence under an adapter, or under the base model, whose pages are nobody else's and are freed with
    /// it: for measurements, and for checks from nothing. `prompt` is what it will begin
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
        let opened = self.cache.open_own(activation)?;
        let sequence = SequenceHandle { id: opened.sequence, activation };
        let loaded = self.begin_loading(&opened.moves).and_then(|()| self.await_weights(sequence));
        loaded.or_else(|error| self.close_unchanged(sequence.id).and(Err(error)))?;
        Ok(sequence)
    }

    /// Opens a sequence that begins with what is cached of a prompt, and says how many of its tokens that is; the last one is
    /// never among them, since its logits are wanted. What it computes can be found by others, while it is open and after.
    /// `drift` is its budget as [`Request::drift`](crate::Request::drift) is a request's.
    ///
    /// # Errors
    /// If no adapter of that name is registered, the budget is none, the GPU is suspended, or the device fails.
    pub fn resume_sequence(
        &mut self,
        adapter: Option<&str>,
        prompt: &[u32],
        drift: f32,
    ) -> Result<(SequenceHandle, usize), EngineError> {
        check_budget(drift)?;
        let activation = adapter.map(|name| self.adapters.activation(name, prompt)).transpose()?.flatten();
        self.find_calibration(activation, drift);
        self.on_some_device(&[], |engine| {
            let (sequence, reused) = engine.resume(engine.cache.own(), activation, prompt, drift)?;
            if let Err(error) =
                engine.await_weights(sequence).and_then(|()| engine.choose_keys(sequence.id, None))
            {
                engine.close_unchanged(sequence.id)?;
                return Err(error);
            }
            Ok((sequence, reused))
        })
    }

    /// The same on the device at hand, once [`Engine::find_calibration`] has looked; keys are read in place until
    /// [`Engine::choose_keys`] says otherwise.
    pub(crate) fn resume(
        &mut self,
        caller: Caller,
        activation: Option<Activation>,
        prompt: &[u32],
        drift: f32,
    ) -> Result<(SequenceHandle, usize), EngineError> {
        let span = tracing::debug_span!("open", tokens = prompt.len(), reused = tracing::field::Empty);
        let _entered = span.enter();
        self.is_trimmed = false;
        self.take_forms(activation, drift)?;
        // What is being written cannot go yet, and may be in the way of what is to come back.
        let chunks = prompt.len().div_ceil(CHUNK_TOKENS);
        while self.cache.manager().available_chunks(chunks) < chunks && self.await_write()? {}
        let opened = loop {
            match self.cache.open(caller, activation, prompt, drift) {
                // Nor can weights that are on their way.
                Err(KvError::AdapterFull { .. }) if self.await_write()? || self.take_loaded(true)? => {}
                opened => break opened?,
            }
        };
        let moved = self.move_in(opened, activation, prompt)?;
        span.record("reused", moved.1);
        Ok(moved)
    }

    /// Carries out what a sequence that was just opened needs moved, and says how many tokens it then has.
    pub(crate) fn move_in(
        &mut self,
        opened: Opened,
        activation: Option<Activation>,
        prompt: &[u32],
    ) -> Result<(SequenceHandle, usize), EngineError> {
        let sequence = SequenceHandle { id: opened.sequence, activation };
        let of = |kind: OpKind| opened.moves.iter().copied().filter(move |op| op.kind == kind);
        let [copies, translations]: [Vec<Op>; 2] =
            [OpKind::Copy, OpKind::Translate].map(|kind| of(kind).collect());
        let is_waking = |op: &Op| matches!(op.kind, OpKind::Materialise { .. });
        let waking: Vec<Op> = opened.moves.iter().copied().filter(is_waking).collect();
        let is_brought = |op: &Op| matches!(op.kind, OpKind::Read { .. } | OpKind::Recompute);
        let brought: Vec<Op> = opened.moves.iter().copied().filter(is_brought).collect();
        let others = copies.iter().chain(&translations);
        // What is computed again needs the adapter; else others go on while it is loaded.
        let needs_weights = brought.iter().any(|op| op.kind == OpKind::Recompute);
        let loading = self.begin_loading(&opened.moves);
        let loading =
            if needs_weights { loading.and_then(|()| self.await_weights(sequence)) } else { loading };
        if loading.is_err() {
            brought.iter().for_each(|op| drop(self.cache.manager_mut().cancelled(op.id)));
        }
        let there = loading
            .and_then(|()| self.bring(Some((sequence, prompt)), brought))
            .inspect_err(|_| waking.iter().for_each(|op| self.cache.woken(*op, Ended::Cancelled)));
        let woken = there
            .and_then(|()| self.wake(&waking))
            .inspect_err(|_| others.for_each(|op| self.cache.copied(*op, false)));
        let moved = woken.and_then(|()| {
            self.copy_pages(&copies)?;
            self.translate(sequence, prompt, &translations)
        });
        if let Err(error) = moved {
            self.close_unchanged(sequence.id)?;
            return Err(error);
        }
        // What could not be woken is not there after all.
        let reused = self.cache.manager().tokens(sequence.id)?;
        if self.fallback.is_some() {
            self.histories.grow(sequence.id, &prompt[..reused]);
        }
        Ok((sequence, reused))
    }

    /// Closes a sequence so that nothing of it is encoded, as where the device has just failed.
    pub(crate) fn close_unchanged(&mut self, id: SequenceId) -> Result<(), EngineError> {
        let moves = self.cache.close(id)?;
        self.histories.forget(id);
        self.let_go_of_replaced()?;
        moves.into_iter().for_each(|op| drop(self.cache.encoded(op, None)));
        Ok(())
    }

    /// A bound on the mean divergence of outputs, in nats, that what a sequence reads costs.
    ///
    /// # Errors
    /// If the sequence is not open.
    pub fn sequence_drift(&self, sequence: SequenceHandle) -> Result<f32, EngineError> {
        Ok(self.cache.manager().drift(sequence.id)?)
    }

    /// What became of a prefix that the base had in the cache and the sequence's adapter had not, when it was resumed.
    ///
    /// # Errors
    /// If the sequence is not open.
    pub fn first_touch(&self, sequence: SequenceHandle) -> Result<FirstTouch, EngineError> {
        Ok(self.cache.manager().first_touch(sequence.id)?)
    }

    /// Carries copies out. They take effect before any step that is submitted later.
    fn copy_pages(&mut self, copies: &[Op]) -> Result<(), EngineError> {
        let mut result = Ok(());
        for &op in copies {
            if result.is_ok() {
                result = self.copy(self.cache.manager().copied_pages(op.id));
            }
            self.cache.copied(op, result.is_ok());
        }
        result
    }

    /// Copies pages into exact ones.
    pub(crate) fn copy(&mut self, pages: Vec<PageRecode>) -> Result<(), EngineError> {
        let geometry = self.reserved.geometry;
        // A sequence may go on from a chunk that it reads in codes: what it goes on in is exact.
        let is_exact = |page: &PageRecode| matches!(page.from.codec, PageCodec::Exact(_));
        let (exact, coded): (Vec<_>, Vec<_>) = pages.into_iter().partition(is_exact);
        let copy = |PageRecode { layer, half, from, to, .. }| {
            let [from, to] = [from, to].map(|entry| geometry.address(layer, half, entry));
            PageCopy { from, to }
        };
        let exact: Vec<PageCopy> = exact.into_iter().map(copy).collect();
        self.backend.copy_pages(&exact)?;
        if !coded.is_empty() {
            self.backend.recode_pages(&coded)?;
        }
        Ok(())
    }

    /// Cuts a sequence back to its first tokens, and frees the pages of the others; one that is no longer than
    /// that stays as it is.
    ///
    /// # Errors
    /// If the sequence is not open, or a page that others use cannot be copied: for want of room, or because the GPU is
    /// suspended or failed. The sequence is then shorter, by the part of a chunk that was to be copied.
    pub fn truncate_sequence(&mut self, sequence: SequenceHandle, tokens: usize) -> Result<(), EngineError> {
        let had = self.cache.manager().tokens(sequence.id).unwrap_or(tokens);
        let truncated = self.cache.truncate(sequence.id, tokens);
        let copied = match &truncated {
            Ok(Some(op)) => {
                let copied = self.on_device(|engine| engine.copy_pages(&[*op]));
                // Where the device was not asked at all nothing was copied either.
                self.cache.copied(*op, copied.is_ok());
                copied
            }
            _ => Ok(()),
        };
        // What could not be copied is cut, too. Where nothing was, there may be less than was lost with a device.
        let left = self.cache.manager().tokens(sequence.id).ok().filter(|_| tokens < had);
        self.histories.truncate(sequence.id, left.unwrap_or(tokens));
        truncated?;
        copied
    }

    /// Closes a sequence. Its pages are freed, or kept for others as long as there is room, as it was opened: in a smaller
    /// form, if it has a budget for that.
    ///
    /// # Errors
    /// If the sequence is not open. Or if its pages cannot be encoded, because the GPU is suspended or the device fails; it
    /// is closed then, and they stay as they are.
    pub fn close_sequence(&mut self, sequence: SequenceHandle) -> Result<(), EngineError> {
        let moves = self.cache.close(sequence.id)?;
        self.histories.forget(sequence.id);
        self.encode_pages(moves)?;
        self.let_go_of_replaced()
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
