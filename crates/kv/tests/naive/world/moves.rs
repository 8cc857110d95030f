//! Moves: planned, carried out on the device, and lost with its memory.

use interleaf_contract::{CHUNK_TOKENS, PAGE_UNIT, PageHalf};
use interleaf_kv::{ContentDigest, ModelKey, Op, OpKind, Open};

use super::device::{Page, Under, contents, stored};
use super::setup::LAYERS;
use super::{Sequence, World};

impl World {
    /// Moves are to be made from now on.
    pub(super) fn plan(&mut self, moves: impl IntoIterator<Item = Op>) {
        for op in moves {
            let loaded = self.manager.adapter_of(op.id);
            self.unloaded.retain(|adapter| Some(*adapter) != loaded);
            self.regained.retain(|adapter| Some(*adapter) != loaded);
            self.spoil(op);
            self.ops.push(op);
        }
    }

    /// What a move writes has no contents from when it is planned until it is done, and none where it fails.
    pub(super) fn spoil(&mut self, op: Op) {
        let places = match op.kind {
            OpKind::Read { .. } | OpKind::Recompute | OpKind::Materialise { .. } => {
                self.manager.memory_places(op.id)
            }
            OpKind::Encode { .. } => self.manager.encoded_places(op.id),
            OpKind::Copy | OpKind::Translate => {
                let copied = self.manager.copied_places(op.id).into_iter().chain(self.copied_anchors(op));
                copied.map(|(layer, _, place)| (layer, place)).collect()
            }
            OpKind::Write { .. } => {
                let at = stored(self.manager.stored_at(op.id));
                at.into_iter().for_each(|at| self.device.set_stored(at, Vec::new()));
                Vec::new()
            }
            OpKind::Load => Vec::new(),
        };
        places.into_iter().for_each(|(layer, place)| self.device.set_page(layer, place, Page::default()));
    }

    /// The pages that a copy reads at an anchor, in layers of which the chunk that is copied stores nothing, and where each is
    /// written.
    fn copied_anchors(&self, op: Op) -> Vec<(usize, u64, u64)> {
        let own = self.manager.copied_places(op.id);
        let is_own = |layer: u32| own.iter().any(|(stored, ..)| *stored == layer as usize);
        // A page begins with its keys.
        let pages = self.manager.copied_pages(op.id).into_iter();
        let anchors = pages.filter(|page| page.half == PageHalf::K && !is_own(page.layer));
        let place = |at: u32| u64::from(at) * PAGE_UNIT as u64;
        anchors.map(|page| (page.layer as usize, place(page.from.at), place(page.to.at))).collect()
    }

    pub(super) fn carry_out(&mut self, op: Op) -> Result<(), String> {
        match op.kind {
            OpKind::Copy => {
                self.device.copy(&self.manager.copied_places(op.id));
                for (layer, from, to) in self.copied_anchors(op) {
                    let page = Page { are_anchors: [true; CHUNK_TOKENS], ..self.device.page(layer, from) };
                    self.device.set_page(layer, to, page);
                }
            }
            OpKind::Write { from, .. } => {
                let at = stored(self.manager.stored_at(op.id)).ok_or("a write to nowhere")?;
                if from == 0 {
                    self.device.store(at, &self.manager.memory_places(op.id));
                } else {
                    let from = stored(self.manager.written_from(op.id)).ok_or("a write from nowhere")?;
                    self.device.set_stored(at, self.device.stored(from)?);
                }
            }
            OpKind::Read { .. } => {
                let at = stored(self.manager.stored_at(op.id)).ok_or("a read from nowhere")?;
                self.device.load(at, &self.manager.memory_places(op.id))?;
            }
            OpKind::Recompute => self.recompute(op)?,
            OpKind::Encode { .. } => {
                let places = self.manager.encoded_places(op.id);
                self.write_chunk(op, &places, true);
            }
            OpKind::Translate => self.translate(op)?,
            OpKind::Materialise { .. } => self.materialise(op)?,
            OpKind::Load => {}
        }
        let moves = match op.kind {
            // Measured to cost less than anybody's budget, or more than most.
            OpKind::Encode { .. } if self.ops.len().is_multiple_of(2) => {
                let drift = if self.ops.len().is_multiple_of(4) { 0.9 } else { 1e-4 };
                self.manager.encoded(op.id, drift)
            }
            _ => self.manager.done(op.id),
        };
        self.plan(moves);
        Ok(())
    }

    /// What was translated and is there exact by now goes, and nothing that was to be found for calls that allow no loss.
    pub(super) fn replace_translated(&mut self) -> Result<(), String> {
        let Some((adapter, text, _)) = self.manager.translated_text() else { return Ok(()) };
        let exact = |world: &Self| {
            let found = world.apps.iter().filter(|app| app.is_open).map(|app| {
                let (adapter, now) = (Some((adapter, 0)), world.now);
                let open = Open {
                    app: app.id,
                    adapter,
                    tokens: &text,
                    most: text.len(),
                    budget: 0.0,
                    is_kept: true,
                    now,
                };
                world.manager.look_up(&open).unwrap_or(0)
            });
            found.collect::<Vec<_>>()
        };
        let before = exact(self);
        let gone = self.manager.replace_translated(adapter, &text).map_err(|e| e.to_string())?;
        if gone > text.len() || gone > before.iter().copied().max().unwrap_or(gone) || exact(self) != before {
            return Err(format!("{gone} of {} tokens replaced, {before:?} exact", text.len()));
        }
        Ok(())
    }

    /// A chunk of the base under the adapter of a sequence, which has the same tokens.
    pub(super) fn translate(&mut self, op: Op) -> Result<(), String> {
        let Some(id) = self.manager.sequence_of(op.id) else { return Ok(()) };
        let Some(sequence) = self.sequences.iter().find(|sequence| sequence.id == id) else { return Ok(()) };
        let base = Under { adapter: None, from: 0, shared_layers: LAYERS, ..sequence.under };
        for (layer, source, place) in self.manager.copied_places(op.id) {
            let is_it = |chunk: &usize| self.manager.page_place(id, layer, *chunk) == Ok(Some(place));
            // It may have been cut from the sequence since.
            let Some(chunk) = (0..sequence.tokens.len() / CHUNK_TOKENS).find(is_it) else { continue };
            let read = self.device.page(layer, source);
            let mut page = self.device.page(layer, place);
            for token in 0..CHUNK_TOKENS {
                let tokens = &sequence.tokens[..=chunk * CHUNK_TOKENS + token];
                let is_it = |is_lossy| read.words[token] == contents(&base, layer, tokens, is_lossy);
                if !is_it(false) && !is_it(true) {
                    return Err(format!("a translation of something else in layer {layer}"));
                }
                page.set(token, contents(&sequence.under, layer, tokens, true));
            }
            self.device.set_page(layer, place, page);
        }
        Ok(())
    }

    /// Exact keys of a chunk; or all of one at rest whose bytes are there, and the base's pages beneath them.
    fn materialise(&mut self, op: Op) -> Result<(), String> {
        // What was read where it was encoded, and what is not at rest has nothing else to be materialised.
        for page in self.manager.recodes(op.id) {
            let [from, to] = [page.from, page.to].map(|entry| u64::from(entry.at) * PAGE_UNIT as u64);
            self.device.copy(&[(page.layer as usize, from, to)]);
        }
        // With what came before it, it may have gone since.
        let Some(rest) = self.manager.rest_of(op.id) else { return Ok(()) };
        let digest = ContentDigest([0; 32]);
        let key = self.manager.chunk_key(op.id, ModelKey { weights: digest, config: digest });
        let key = key.ok_or("of no chunk")?;
        let places = self.manager.memory_places(op.id);
        self.write_chunk(op, &places, true);
        let page = |layer: usize, place: u64| self.device.page(layer, place);
        for &(layer, place, _) in &rest.parts {
            // The pages of a layer are written as its part was.
            let written = places.iter().find(|(own, _)| *own == layer).map(|(_, at)| page(layer, *at));
            if written != Some(page(layer, place)) {
                return Err(format!("its bytes in layer {layer} are something else's"));
            }
        }
        let base =
            Under { salt: key.salt.map(|salt| salt.0[0]), adapter: None, from: 0, shared_layers: LAYERS };
        for (layer, entry) in rest.base.iter().enumerate() {
            let read = page(layer, u64::from(entry.k.at) * PAGE_UNIT as u64);
            let last = key.tokens.len();
            let is = |is_lossy| {
                read.words[CHUNK_TOKENS - 1] == contents(&base, layer, &key.tokens[..last], is_lossy)
            };
            if !(is(false) || is(true)) {
                return Err(format!("the base's page in layer {layer} is something else's"));
            }
        }
        Ok(())
    }

    pub(super) fn recompute(&mut self, op: Op) -> Result<(), String> {
        let places = self.manager.memory_places(op.id);
        self.write_chunk(op, &places, false);
        Ok(())
    }

    /// Writes what a moved chunk is to some slots, as it is computed or as it is when that loses something.
    pub(super) fn write_chunk(&mut self, op: Op, places: &[(usize, u64)], is_lossy: bool) {
        let digest = ContentDigest([1; 32]);
        let Some(key) = self.manager.chunk_key(op.id, ModelKey { weights: digest, config: digest }) else {
            return;
        };
        let digest = key.adapter.map(|adapter| adapter.digest.0[0]);
        let known = self.adapters.iter().find(|a| Some(a.digest) == digest).map(|a| a.shared);
        let running =
            self.sequences.iter().find(|s| s.under.adapter == digest).map(|s| s.under.shared_layers);
        let under = Under {
            salt: key.salt.map(|salt| salt.0[0]),
            adapter: digest,
            from: key.from,
            shared_layers: known.or(running).unwrap_or(LAYERS),
        };
        let start = (key.tokens.len() - 1) / CHUNK_TOKENS * CHUNK_TOKENS;
        for &(layer, place) in places {
            let mut page = self.device.page(layer, place);
            for position in start..key.tokens.len() {
                page.set(position - start, contents(&under, layer, &key.tokens[..=position], is_lossy));
            }
            self.device.set_page(layer, place, page);
        }
    }

    /// The device fails: what it held is gone, and what was to be moved will not be. Open sequences are computed again.
    pub(super) fn lose_memory(&mut self) -> Result<(), String> {
        (self.has_lost, self.has_lost_memory) = (true, true);
        self.ops.clear();
        self.manager.lose_memory();
        self.device.forget_pages();
        self.regained.clear();
        self.unloaded = self.adapters.iter().filter(|a| a.is_pooled).map(|a| a.id).collect();
        // Some come back at once, others when they are used again, or never.
        for place in 0..self.sequences.len() {
            self.sequences[place].is_lost = true;
            if place % 2 == 0 {
                self.regain(place)?;
            }
        }
        Ok(())
    }

    /// Computes all that a sequence has again, where its pages are.
    pub(super) fn regain(&mut self, place: usize) -> Result<(), String> {
        let Sequence { id, adapter, under, tokens, is_lost, .. } = &mut self.sequences[place];
        if !std::mem::take(is_lost) {
            return Ok(());
        }
        self.unloaded.retain(|unloaded| Some(*unloaded) != *adapter);
        self.regained.extend(*adapter);
        let has = self.manager.tokens(*id).map_err(|e| e.to_string())?;
        for position in 0..has {
            for layer in 0..LAYERS {
                let word = contents(under, layer, &tokens[..=position], false);
                let at = self.manager.page_place(*id, layer, position / CHUNK_TOKENS).ok().flatten();
                let at = at.ok_or(format!("position {position} has no page in layer {layer}"))?;
                self.device.write(layer, at, position, word);
            }
        }
        self.manager.regained(*id).map_err(|e| e.to_string())
    }

    pub(super) fn all_done(&mut self) -> Result<(), String> {
        while let Some(op) = self.ops.pop() {
            self.carry_out(op)?;
        }
        Ok(())
    }
}
