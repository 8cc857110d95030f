//! What an engine does while nobody asks it anything: pages of the base for texts that only adapters have read, so that theirs
//! can be kept as what differs; and what nobody uses goes to rest.

use interleaf_contract::CHUNK_TOKENS;
use interleaf_kv::KvError;

use crate::{Engine, EngineError, Feed, RowKind, Want};

impl Engine {
    /// Does some idle work: computes the base's pages of at most `tokens` tokens, whole chunks, of the longest text that
    /// adapters' calls with a drift budget have left in the cache without them, and encodes theirs over these. Where there are
    /// no such, puts as many tokens of adapters' to rest, if they may ([`EngineOptions::at_rest`](crate::EngineOptions::at_rest)).
    /// Returns how many tokens something was done about; 0 where there is nothing to do, or no room to do it in. Apps that go
    /// to the background call it until then.
    ///
    /// # Errors
    /// If the GPU is suspended, or the device fails. What is there stays.
    pub fn tend(&mut self, tokens: usize) -> Result<usize, EngineError> {
        match self.compute_lacking(tokens)? {
            0 if self.at_rest => Ok(self.rest((tokens / CHUNK_TOKENS).max(1))? * CHUNK_TOKENS),
            computed => Ok(computed),
        }
    }

    /// Computes pages of the base.
    fn compute_lacking(&mut self, tokens: usize) -> Result<usize, EngineError> {
        let Some((text, drift)) = self.cache.lacking_base() else { return Ok(0) };
        let (sequence, reused) = self.resume_sequence(None, &text, drift)?;
        // Whole chunks alone are read by others.
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
        self.close_sequence(sequence)?;
        // What finds no place among what is there is not computed for ever.
        let is_further = self.cache.look_up(None, &text, drift) > reused;
        Ok(if is_further { at - reused } else { 0 })
    }
}
