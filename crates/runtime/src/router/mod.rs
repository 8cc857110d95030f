//! The adapter that suits a prompt, where a caller leaves the choice to the engine: adaptive adapter selection as in EdgeLoRA
//! (MobiSys 2025, arXiv 2507.01438), by a head over the base model's pooled hidden states. What a head is and its file are
//! [`RouterHead`]'s; fitting one is `interleaf-calibrate`'s.
//!
//! Scoring a prompt is a pass of the base over its first tokens, in an ordinary sequence of the caller's, so that its pages are
//! there for whoever comes next: for the base all of them, for an adapter the layers below the first that it changes and, of an
//! activated one, what comes before its invocation; and where a call's drift budget allows a translation, for that.
//!
//! Hidden states are not cached, pages alone: so the pass always begins with the first token, whatever is in the cache, and a
//! prompt's score does not depend on who came before. What it computes anew of chunks that were there is let go. So that a
//! context does not pay for that with every call, the last few scores are kept, each for the caller whose tokens they are of.

mod choice;
mod memo;

use std::path::Path;

use interleaf_contract::RowKind;
use interleaf_model::{RouterHead, RouterLabel, Source};

pub use self::choice::{AdapterChoice, AdapterScore, Routed};

use self::choice::select;
use self::memo::Memo;
use crate::cache::Caller;
use crate::{Engine, EngineError, Feed, SequenceHandle, Want};

/// A head, and what it scored last.
#[derive(Debug)]
pub struct Router {
    head: RouterHead,
    memo: Memo,
}

impl Router {
    /// Forgets the scores of a caller's: of what a text begins with, or all.
    pub fn forget(&mut self, caller: Caller, text: Option<&[u32]>) {
        self.memo.forget(caller, text);
    }
}

impl Engine {
    /// Opens the head by which prompts are routed from now on: a file, or the one that the store keeps for this model.
    ///
    /// # Errors
    /// If there is none, it is damaged, or it is for another model. The one that was open stays open.
    pub fn open_router(&mut self, file: Option<&Path>) -> Result<&RouterHead, EngineError> {
        let model = self.model_digest();
        let file = match file {
            Some(file) => file.to_owned(),
            None => {
                let kept = self.store.router_file(model).filter(|file| file.exists());
                kept.ok_or(EngineError::NoRouter)?
            }
        };
        let (folder, name) = (file.parent().unwrap_or(Path::new("")), file.file_name());
        let name = name.map(|name| name.to_string_lossy()).unwrap_or_default();
        let head = RouterHead::read(&Source::dir(folder), &name, self.model.config(), model)?;
        Ok(self.set_router(head))
    }

    /// The same with a head that is in memory.
    ///
    /// # Errors
    /// If it is for another model.
    pub fn use_router(&mut self, head: RouterHead) -> Result<&RouterHead, EngineError> {
        let model = self.model_digest();
        if head.model != model {
            let (expected, found) = ("the head of this model", format!("that of {}", head.model));
            return Err(EngineError::InvalidOption { option: "router", expected, found });
        }
        Ok(self.set_router(head))
    }

    fn set_router(&mut self, head: RouterHead) -> &RouterHead {
        &self.router.insert(Router { head, memo: Memo::default() }).head
    }

    /// The head that is open.
    #[must_use]
    pub fn router(&self) -> Option<&RouterHead> {
        self.router.as_ref().map(|router| &router.head)
    }

    /// Scores the adapters for a prompt and chooses one ([`Routed`]): of the `k` likeliest that are registered the first that is
    /// resident, else the likeliest. The pages of the scored tokens can be found under the base from then on.
    ///
    /// # Errors
    /// If no router is open ([`EngineError::NoRouter`]), `k` is 0, the prompt has no tokens or one that is not in the vocabulary,
    /// the pool has no room for the scored tokens, the GPU is suspended, or the device fails.
    pub fn route(&mut self, prompt: &[u32], k: usize) -> Result<Routed, EngineError> {
        let own = self.cache.own();
        self.on_some_device(&[], |engine| engine.route_for(own, prompt, k))
    }

    /// The same for a caller, on the device at hand.
    pub(crate) fn route_for(
        &mut self,
        caller: Caller,
        prompt: &[u32],
        k: usize,
    ) -> Result<Routed, EngineError> {
        choice::check(k)?;
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt { request: 0 });
        }
        let router = self.router.as_ref().ok_or(EngineError::NoRouter)?;
        let tokens = &prompt[..prompt.len().min(router.head.looks.tokens)];
        let (probabilities, computed) = match router.memo.find(caller, tokens) {
            Some(known) => (known.to_vec(), 0),
            None => (self.score(caller, tokens)?, tokens.len()),
        };
        let labels = self.router.as_ref().map_or(&[][..], |router| &router.head.labels);
        let mut scores: Vec<AdapterScore> = labels
            .iter()
            .zip(&probabilities)
            .map(|(label, &probability)| self.scored(label, probability))
            .collect();
        // Stable: of equals the first label goes first.
        scores.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        let adapter = select(&scores, k).map(str::to_owned);
        Ok(Routed { adapter, scores, scored_tokens: tokens.len(), computed_tokens: computed })
    }

    /// What a label's score means here.
    fn scored(&self, label: &RouterLabel, probability: f32) -> AdapterScore {
        let is_meant = |name: &str, digest| match label.adapter {
            Some(fitted) => fitted == digest,
            None => name == label.name,
        };
        let mut meant = self.adapters().filter(|adapter| is_meant(&adapter.name, adapter.digest));
        let first = meant.next();
        let named = first.filter(|first| first.name == label.name);
        let named = named.or_else(|| meant.find(|adapter| adapter.name == label.name)).or(first);
        let adapter = named.map(|adapter| adapter.name.clone());
        let is_resident = adapter.as_ref().is_some_and(|name| self.adapters.is_resident(name));
        AdapterScore { label: label.name.clone(), probability, adapter, is_resident }
    }

    /// The probability of each label, and keeps it.
    fn score(&mut self, caller: Caller, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        // Exact, for whoever comes: nobody has allowed a loss yet.
        let sequence = self.open_empty(caller, None)?;
        let features = match self.pooled(sequence, tokens) {
            Ok(features) => features,
            Err(error) => {
                self.close_unchanged(sequence.id)?;
                return Err(error);
            }
        };
        self.end_sequence(sequence)?;
        let router = self.router.as_mut().ok_or(EngineError::NoRouter)?;
        let probabilities = router.head.score(&features);
        if probabilities.iter().any(|probability| !probability.is_finite()) {
            return Err(EngineError::NotANumber);
        }
        router.memo.keep(caller, tokens, &probabilities);
        Ok(probabilities)
    }

    /// Gives tokens to an empty sequence, and pools their hidden states.
    fn pooled(&mut self, sequence: SequenceHandle, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        let looks = self.router.as_ref().ok_or(EngineError::NoRouter)?.head.looks.clone();
        let mut states = vec![Vec::new(); looks.layers.len()];
        for piece in tokens.chunks(self.prefill_rows) {
            let feed = Feed { sequence, tokens: piece, kind: RowKind::Prompt, want: Want::Nothing };
            let of_piece = self.tapped_step(&feed, &looks.layers)?;
            states.iter_mut().zip(of_piece).for_each(|(states, piece)| states.extend(piece));
        }
        let hidden = self.model.config().hidden_size;
        let mut features = Vec::with_capacity(looks.features(hidden));
        states.iter().for_each(|layer| looks.pooling.pool(layer, hidden, &mut features));
        Ok(features)
    }
}

#[cfg(test)]
mod tests;
