//! What an engine does while nobody asks it anything: the pass of what was translated for adapters, so that later turns read exact
//! pages; pages of the base for texts that only adapters have read, so that theirs can be kept as what differs; what nobody uses
//! goes to rest; and contexts get narrower.

use interleaf_contract::CHUNK_TOKENS;
use interleaf_kv::KvError;

use crate::adapters::Activation;
use crate::{Engine, EngineError, Feed, RowKind, SequenceHandle, Want};

impl Engine {
    /// Does some idle work, on at most `tokens` tokens, whole chunks. First what is worth most of what was swapped out comes back as
    /// long as memory has much room and was not trimmed since the last call, and memory that is nearly full is emptied. Then computes
    /// what adapters' calls with a drift budget have read by translation of the base's pages, the longest text before others, and
    /// forgets the translation of what is there exact. Then computes the base's pages of the longest text that such calls have left in
    /// the cache without them, and encodes theirs over these. Where there are neither, puts as many tokens of adapters' to rest, if
    /// they may ([`EngineOptions::at_rest`](crate::EngineOptions::at_rest)); and where there is nothing of that either, narrows
    /// contexts by how much their chunks are attended to ([`EngineOptions::widths`](crate::EngineOptions::widths)). Returns how many
    /// tokens something was done about; 0 where there is nothing to do, or no room to do it in. Apps that go to the background call it
    /// until then.
    ///
    /// # Errors
    /// If the GPU is suspended, or the device fails. What is there stays.
    pub fn tend(&mut self, tokens: usize) -> Result<usize, EngineError> {
        let _span = tracing::debug_span!("tend", tokens).entered();
        self.take_loaded(false)?;
        if self.swap.is_some() {
            self.take_written()?;
            // What was given back is the system's until somebody calls.
            let moves = if self.is_trimmed { Vec::new() } else { self.cache.tick() };
            let moved = moves.len() * CHUNK_TOKENS;
            self.carry_out(moves)?;
            if moved > 0 {
                return Ok(moved);
            }
        }
        let replaced = self.replace_translated(tokens)?;
        let computed = if replaced > 0 { replaced } else { self.compute_lacking(tokens)? };
        let rested = match computed {
            0 if self.at_rest => self.rest((tokens / CHUNK_TOKENS).max(1))? * CHUNK_TOKENS,
            computed => computed,
        };
        if rested > 0 { Ok(rested) } else { self.narrow(tokens) }
    }

    /// Computes under an adapter what was translated for it.
    fn replace_translated(&mut self, tokens: usize) -> Result<usize, EngineError> {
        let Some((id, text, budget)) = self.cache.manager().translated_text() else { return Ok(0) };
        let Some(adapter) = self.cache.acting(id) else { return Ok(0) };
        // What acts from later on is never translated.
        let activation = Some(Activation { adapter, from: 0 });
        let (sequence, reused) = self.on_some_device(&[], |engine| {
            let opened = engine.cache.open_exact(activation, &text, budget)?;
            engine.move_in(opened, activation, &text)
        })?;
        let at = self.compute_some(sequence, &text, reused, tokens)?;
        // As it was computed: it is encoded once somebody has read it.
        self.close_unchanged(sequence.id)?;
        let forgotten = self.cache.replace_translated(id, &text)?;
        let is_further = self.cache.look_up(self.cache.own(), activation, &text, 0.0) > reused;
        Ok(if is_further { at - reused } else { forgotten })
    }

    /// Computes pages of the base.
    fn compute_lacking(&mut self, tokens: usize) -> Result<usize, EngineError> {
        let Some((text, drift)) = self.cache.lacking_base() else { return Ok(0) };
        let (sequence, reused) = self.resume_sequence(None, &text, drift)?;
        let at = self.compute_some(sequence, &text, reused, tokens)?;
        self.close_sequence(sequence)?;
        // What finds no place among what is there is not computed for ever.
        let is_further = self.cache.look_up(self.cache.own(), None, &text, drift) > reused;
        Ok(if is_further { at - reused } else { 0 })
    }

    /// Computes at most so many tokens of a text behind those that a sequence has, as far as there is room, and returns how many it
    /// has then. Where that fails it is closed.
    fn compute_some(
        &mut self,
        sequence: SequenceHandle,
        text: &[u32],
        reused: usize,
        tokens: usize,
    ) -> Result<usize, EngineError> {
        // Whole chunks alone are read by others, but for the last one.
        let start = reused / CHUNK_TOKENS * CHUNK_TOKENS;
        let most = (tokens / CHUNK_TOKENS).max(1) * CHUNK_TOKENS;
        let end = text.len().min(start + most);
        let mut at = reused;
        while at < end {
            let piece = &text[at..end.min(at + self.prefill_rows)];
            let feed = Feed { sequence, tokens: piece, kind: RowKind::Prompt, want: Want::Nothing };
            match self.feed(&[feed]) {
                Ok(_) => at += piece.len(),
                Err(EngineError::Kv(KvError::Full { .. })) => break,
                Err(error) => {
                    self.close_sequence(sequence)?;
                    return Err(error);
                }
            }
        }
        Ok(at)
    }
}
