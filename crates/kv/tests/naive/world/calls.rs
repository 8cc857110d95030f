//! Calls: sequences are opened, computed, cut and closed, and what they find is what was computed.

use interleaf_contract::CHUNK_TOKENS;
use interleaf_kv::{KeySet, KvError, OpKind, Open, Tolerance, ToleranceError};

use super::device::{Under, contents};
use super::setup::LAYERS;
use super::{LOSS, LOSSY_BUDGET, Record, Sequence, World, read, same};

/// What a chunk is computed under, as the tree tells chunks apart.
fn class(under: &Under, chunk: usize) -> Option<(u8, usize)> {
    let acts = under.shared_layers < LAYERS && (chunk + 1) * CHUNK_TOKENS > under.from;
    under.adapter.filter(|_| acts).map(|adapter| (adapter, under.from.saturating_sub(chunk * CHUNK_TOKENS)))
}

/// Tokens that two sequences have in common, under the same.
fn common(a: &Under, a_tokens: &[u32], b: &Under, b_tokens: &[u32]) -> usize {
    if a.salt != b.salt {
        return 0;
    }
    let acts =
        |under: &Under, i: usize| under.adapter.is_some() && under.shared_layers < LAYERS && i >= under.from;
    let alike = |(i, (x, y)): &(usize, (&u32, &u32))| {
        let is_base = !acts(a, *i) && !acts(b, *i);
        x == y && (is_base || class(a, i / CHUNK_TOKENS) == class(b, i / CHUNK_TOKENS))
    };
    a_tokens.iter().zip(b_tokens).enumerate().take_while(alike).count()
}

fn text(text: u8, position: usize) -> u32 {
    // A few texts that begin alike and part at different places.
    let parts = [80, 33, 16, 5][usize::from(text) % 4];
    if position < parts { position as u32 % 7 } else { 100 + u32::from(text) }
}

impl World {
    pub(super) fn open(
        &mut self,
        app: usize,
        adapter: usize,
        (which, len, suffix): (u8, usize, u8),
        from: usize,
        is_kept: bool,
        is_lossy: bool,
    ) -> Result<(), String> {
        let app_index = app % self.apps.len();
        let app = &self.apps[app_index];
        let adapter = match adapter % (self.adapters.len() + 1) {
            0 => None,
            n => self.adapters.get(n - 1),
        };
        let under = Under {
            salt: app.salt,
            adapter: adapter.map(|a| a.digest),
            from: adapter.filter(|a| a.is_activated).map_or(0, |_| from),
            shared_layers: adapter.map_or(LAYERS, |a| a.shared),
        };
        let tokens: Vec<u32> =
            (0..len).map(|i| text(which, i)).chain((0..usize::from(suffix)).map(|i| 7 + i as u32)).collect();
        let adapter = adapter.map(|a| a.id);
        let open = Open {
            app: app.id,
            adapter: adapter.map(|id| (id, under.from)),
            tokens: &tokens,
            most: tokens.len().saturating_sub(1),
            budget: if is_lossy { LOSSY_BUDGET } else { 0.0 },
            is_kept,
            now: self.now,
        };
        let is_open = app.is_open;
        let looked_up = self.manager.look_up(&open);
        let opened = match self.manager.open(&open) {
            Ok(opened) => opened,
            Err(KvError::AdapterFull { .. }) => {
                self.has_lost = true;
                return Ok(());
            }
            Err(e) => return same(e, KvError::UnknownApp, !is_open),
        };
        self.check_found(&under, &tokens, is_kept, is_lossy, opened.reused)?;
        // Room that was made for the adapter may have cut the base's prefix to what a translation reaches.
        let is_translated = opened.moves.iter().any(|op| op.kind == OpKind::Translate);
        if is_kept && !is_translated && opened.reused > looked_up.clone().unwrap_or(0) {
            return Err(format!("found {}, looked up {looked_up:?}", opened.reused));
        }
        self.has_lost |= self.is_tight();
        self.found += usize::from(opened.reused > 0);
        self.plan(opened.moves);
        self.sequences.push(Sequence {
            id: opened.sequence,
            app: app_index,
            adapter,
            under,
            tokens: tokens[..opened.reused].to_vec(),
            is_lossy,
            is_kept,
            is_lost: false,
            // What it has found may diverge by as much as it allows.
            drift: if opened.reused > 0 { open.budget } else { 0.0 },
        });
        match self.is_unloaded(adapter) {
            true => Err("nobody loads the adapter".into()),
            false => Ok(()),
        }
    }

    /// What was found was computed before; and as long as nothing has gone, all whole chunks that were are found.
    pub(super) fn check_found(
        &self,
        under: &Under,
        tokens: &[u32],
        is_kept: bool,
        is_lossy: bool,
        reused: usize,
    ) -> Result<(), String> {
        if !is_kept {
            return (reused == 0).then_some(()).ok_or("found what it did not ask for".into());
        }
        let most = tokens.len().saturating_sub(1);
        let open = self
            .sequences
            .iter()
            .filter(|s| s.is_kept)
            .map(|s| Record { under: s.under, tokens: s.tokens.clone() });
        let best = |whole: bool| {
            let records = self.records.iter().map(|r| (&r.under, &r.tokens));
            let open: Vec<Record> = open.clone().collect();
            let all = records.chain(open.iter().map(|r| (&r.under, &r.tokens)));
            let found = all.map(|(u, t)| {
                // Of what is being written only whole chunks can be found.
                let common = common(under, tokens, u, t).min(most);
                if whole { common / CHUNK_TOKENS * CHUNK_TOKENS } else { common }
            });
            found.max().unwrap_or(0)
        };
        let is_translated = is_lossy && under.adapter == Some(0) && self.setup.has_forms;
        if reused > best(false) && !is_translated {
            return Err(format!("found {reused} tokens, {} were computed", best(false)));
        }
        if !self.has_lost && !is_lossy && reused < best(true) {
            return Err(format!("found {reused} tokens, {} were computed and are there", best(true)));
        }
        Ok(())
    }

    pub(super) fn compute(
        &mut self,
        sequence: usize,
        tokens: usize,
        which: u8,
        is_lossy: bool,
    ) -> Result<(), String> {
        if self.sequences.is_empty() {
            return Ok(());
        }
        let place = sequence % self.sequences.len();
        self.regain(place)?;
        let Sequence { id, adapter, under, is_lossy: may, .. } = self.sequences[place];
        let is_ready = self.is_ready(&self.sequences[place])?;
        match self.attempt(place, |manager, id| manager.append(id, tokens))? {
            Ok(()) if is_ready => {}
            Err(KvError::Full { .. }) if is_ready => {
                self.has_lost = true;
                return Ok(());
            }
            Err(e) if !is_ready && (e == KvError::Waiting(id) || self.is_unloaded(adapter)) => return Ok(()),
            result => return Err(format!("{result:?}, and it is ready: {is_ready}")),
        }
        self.attempt_wrong_commits(place)?;
        let had = self.manager.tokens(id).map_err(|e| e.to_string())?;
        let is_lossy = is_lossy && may;
        let sequence = &mut self.sequences[place];
        let new: Vec<u32> = (had..had + tokens).map(|position| text(which, position)).collect();
        let tokens_now = [&sequence.tokens[..had], &new].concat();
        // What is computed with loss, or over what was, is something else than the exact.
        let over_loss = (0..had * LAYERS).any(|i| {
            let (layer, position) = (i % LAYERS, i / LAYERS);
            let exact = contents(&under, layer, &tokens_now[..=position], false);
            read(&self.manager, &self.device, id, layer, position).is_none_or(|read| read.word != exact)
        });
        for position in had..had + tokens {
            for layer in 0..LAYERS {
                let word = contents(&under, layer, &tokens_now[..=position], is_lossy || over_loss);
                let place = self.manager.page_place(id, layer, position / CHUNK_TOKENS).ok().flatten();
                let place = place.ok_or(format!("position {position} has no page in layer {layer}"))?;
                self.device.write(layer, place, position, word);
            }
        }
        self.has_lost |= self.is_tight() || is_lossy || over_loss;
        let drift = if is_lossy { LOSS } else { 0.0 };
        match self.attempt(place, |manager, id| manager.commit(id, &new, drift))? {
            Ok(()) => {
                let sequence = &mut self.sequences[place];
                sequence.tokens = tokens_now;
                sequence.drift += drift;
                let chunks = (had + tokens).div_ceil(CHUNK_TOKENS);
                let mass: Vec<f32> = (0..chunks).map(|chunk| ((chunk * 5 + had) % 7) as f32).collect();
                let id = sequence.id;
                self.manager.attended(id, &mass, had, tokens, None).map_err(|e| e.to_string())?;
            }
            // What was found diverges, too.
            Err(KvError::Drift { .. }) if self.sequences[place].drift + drift > LOSSY_BUDGET => {}
            Err(e) => return Err(e.to_string()),
        }
        Ok(())
    }

    /// The base answers a text, then an adapter, twice; all of them allow a loss.
    pub(super) fn follow(&mut self, app: usize, adapter: usize, which: u8, len: usize) -> Result<(), String> {
        for adapter in [0, adapter, adapter] {
            let before = self.sequences.len();
            self.open(app, adapter, (which, len, 0), 0, true, true)?;
            self.all_done()?;
            if self.sequences.len() > before {
                // Of half of all it is read with exact keys, as far as what is computed leaves these.
                if which.is_multiple_of(2) {
                    self.read_keys(before, true)?;
                    self.all_done()?;
                }
                let had = self.sequences[before].tokens.len();
                self.compute(before, len.saturating_sub(had).max(1), which, false)?;
                // What is read is right while it is open, too.
                self.check()?;
                let sequence = self.sequences.remove(before);
                self.close(sequence)?;
            }
            self.all_done()?;
            // Some of it has time to go to rest.
            let moves = self.manager.rest(len % 3);
            self.plan(moves);
            self.all_done()?;
            self.narrow(len)?;
        }
        Ok(())
    }

    /// There is time to narrow what was attended to least.
    pub(super) fn narrow(&mut self, choice: usize) -> Result<(), String> {
        if !self.setup.has_forms {
            return Ok(());
        }
        let ratio = [0.3, 0.4, 0.6, 1.0][choice % 4];
        let tolerance = Tolerance { errors: [0.01, 0.1, 1.0], ratio, newest: choice % 3 };
        match self.manager.narrow(&tolerance, choice % 5) {
            Ok(moves) => self.plan(moves),
            Err(KvError::Widths(ToleranceError::TooTight { .. })) => {}
            Err(e) => return Err(e.to_string()),
        }
        Ok(())
    }

    /// A sequence reads exact keys from now on, for which nothing is taken from anybody; or no longer.
    pub(super) fn read_keys(&mut self, place: usize, are_exact: bool) -> Result<(), String> {
        let Sequence { id, adapter, .. } = self.sequences[place];
        let evicted = (0..self.setup.tiers().len()).map(|tier| self.manager.evicted(tier)).sum::<u64>();
        // Every other one leaves keys where rows share an anchor, and others then do, too.
        let set = if place.is_multiple_of(2) { KeySet::All } else { KeySet::Apart };
        if are_exact {
            match self.manager.materialise_keys(id, set) {
                Ok(moves) => self.plan(moves),
                Err(KvError::Waiting(_)) => {}
                Err(_) if self.is_unloaded(adapter) => {}
                Err(e) => return Err(e.to_string()),
            }
        } else {
            self.manager.read_keys_in_place(id).map_err(|e| e.to_string())?;
        }
        if set == KeySet::Apart {
            self.manager.share_anchors(id).map_err(|e| e.to_string())?;
        }
        let now = (0..self.setup.tiers().len()).map(|tier| self.manager.evicted(tier)).sum::<u64>();
        (now == evicted).then_some(()).ok_or("something was taken for exact keys".into())
    }

    pub(super) fn truncate(&mut self, sequence: usize, tokens: usize) -> Result<(), String> {
        if self.sequences.is_empty() {
            return Ok(());
        }
        let place = sequence % self.sequences.len();
        let Sequence { id, adapter, .. } = self.sequences[place];
        // What it had can be found no longer where nobody else has it.
        self.has_lost = true;
        match self.manager.truncate(id, tokens) {
            Ok(op) => self.plan(op),
            Err(KvError::Waiting(_) | KvError::Full { .. }) => {}
            Err(_) if self.is_unloaded(adapter) => {}
            Err(e) => return Err(e.to_string()),
        }
        Ok(())
    }

    pub(super) fn close(&mut self, sequence: Sequence) -> Result<(), String> {
        let tokens = self.manager.tokens(sequence.id).map_err(|e| e.to_string())?;
        let moves = self.manager.close(sequence.id, self.now).map_err(|e| e.to_string())?;
        self.plan(moves);
        if sequence.is_kept {
            let tokens = sequence.tokens[..tokens.min(sequence.tokens.len())].to_vec();
            self.records.push(Record { under: sequence.under, tokens });
        }
        let gone = self.manager.close(sequence.id, self.now);
        (gone == Err(KvError::UnknownSequence(sequence.id))).then_some(()).ok_or("closed twice".into())
    }
}
