//! What holds after every event, and when all is over.

use interleaf_kv::AdapterId;

use super::device::{Under, contents};
use super::setup::LAYERS;
use super::{Record, Sequence, Word, World, read};

impl World {
    /// Bytes held of each tier.
    pub(super) fn held(&self) -> Vec<u64> {
        (0..self.setup.tiers().len()).map(|tier| self.manager.held_bytes(tier)).collect()
    }

    /// Beyond a budget there is only what was there before, which may have been larger.
    pub(super) fn check_held(&self, before: &[u64]) -> Result<(), String> {
        for (tier, (held, before)) in self.held().into_iter().zip(before).enumerate() {
            let budget = self.manager.budget_bytes(tier);
            if held > budget.max(*before) {
                return Err(format!("tier {tier} held {before} bytes and holds {held}, it may {budget}"));
            }
        }
        Ok(())
    }

    /// Whether an adapter's weights did not come, and nobody has asked for them since.
    pub(super) fn is_unloaded(&self, adapter: Option<AdapterId>) -> bool {
        adapter.is_some_and(|adapter| self.unloaded.contains(&adapter))
    }

    /// Whether a sequence can go on. One whose adapter's weights did not come cannot, and may say why.
    pub(super) fn is_ready(&self, sequence: &Sequence) -> Result<bool, String> {
        match (self.manager.is_ready(sequence.id), self.is_unloaded(sequence.adapter)) {
            (Ok(true), true) => Err(format!("{:?} is ready without its adapter", sequence.id)),
            (Err(_), true) => Ok(false),
            (ready, _) => ready.map_err(|e| e.to_string()),
        }
    }

    /// When no move is under way nobody waits, but for weights that did not come.
    pub(super) fn check_ready(&self) -> Result<(), String> {
        for sequence in self.sequences.iter().filter(|s| !s.is_lost && !self.is_unloaded(s.adapter)) {
            if !self.is_ready(sequence)? {
                return Err(format!("{:?} waits for nothing", sequence.id));
            }
        }
        Ok(())
    }

    /// The manager's own rules, and every word that a sequence reads.
    pub(super) fn check(&mut self) -> Result<(), String> {
        self.manager.check()?;
        for sequence in &mut self.sequences {
            let tokens = self.manager.tokens(sequence.id).map_err(|e| e.to_string())?;
            if sequence.is_kept && tokens < sequence.tokens.len() {
                // Whole chunks of what it had can be found all the same.
                self.records.push(Record { under: sequence.under, tokens: sequence.tokens.clone() });
            }
            sequence.tokens.truncate(tokens);
            if sequence.tokens.len() < tokens {
                return Err(format!(
                    "{:?} has {tokens} tokens, {} are known",
                    sequence.id,
                    sequence.tokens.len()
                ));
            }
        }
        self.check_words()
    }

    pub(super) fn check_words(&self) -> Result<(), String> {
        for sequence in self.sequences.iter().filter(|sequence| !sequence.is_lost) {
            if !self.is_ready(sequence)? {
                continue;
            }
            for position in 0..sequence.tokens.len() {
                let is_right = |layer: &usize| {
                    let read = read(&self.manager, &self.device, sequence.id, *layer, position);
                    read.is_some_and(|Word { word, keys, is_anchors }| {
                        self.is_read_of(sequence, *layer, position, word, is_anchors)
                            && (keys == word || self.is_read_of(sequence, *layer, position, keys, true))
                    })
                };
                if let Some(layer) = (0..LAYERS).find(|layer| !is_right(layer)) {
                    return Err(format!(
                        "{:?} reads something else at {position} in layer {layer}",
                        sequence.id
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether a word is what a sequence may read at a position in a layer, be it its anchor's or not.
    fn is_read_of(
        &self,
        sequence: &Sequence,
        layer: usize,
        position: usize,
        word: u64,
        is_anchors: bool,
    ) -> bool {
        let is = |under: &Under, lossy| word == contents(under, layer, &sequence.tokens[..=position], lossy);
        let either = |under: &Under| is(under, false) || is(under, true);
        is(&sequence.under, false)
            || sequence.is_lossy && is(&sequence.under, true)
            || sequence.is_lossy && is_anchors && self.variants(&sequence.under).iter().any(either)
    }

    /// What else the same tokens may have been computed under: anchors are the base's or an adapter's, of the same salt.
    fn variants(&self, under: &Under) -> Vec<Under> {
        let base = Under { adapter: None, from: 0, shared_layers: LAYERS, ..*under };
        // An adapter whose weights are no longer known may still have pages, under the digests that there are.
        let digests = (0..8).flat_map(|digest| (0..=LAYERS).map(move |shared| (digest, shared)));
        let adapters =
            digests.map(|(digest, shared_layers)| Under { adapter: Some(digest), shared_layers, ..base });
        adapters.chain([base]).collect()
    }

    /// Everything is closed, and nothing is left.
    pub fn release_everything(&mut self) -> Result<(), String> {
        self.all_done()?;
        self.check_ready()?;
        while let Some(sequence) = self.sequences.pop() {
            self.close(sequence)?;
        }
        self.all_done()?;
        while let Some(adapter) = self.adapters.pop() {
            self.manager.remove_adapter(adapter.id).map_err(|e| e.to_string())?;
        }
        for app in self.apps.iter().filter(|app| app.is_open) {
            self.manager.close_app(app.id).map_err(|e| e.to_string())?;
        }
        (0..self.setup.tiers().len()).for_each(|tier| self.manager.set_budget(tier, 0));
        self.manager.check()?;
        let held = self.held();
        if held.iter().any(|bytes| *bytes > 0) || self.manager.chunks() > 0 {
            return Err(format!("{held:?} bytes and {} chunks are left", self.manager.chunks()));
        }
        Ok(())
    }
}
