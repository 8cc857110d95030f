//! The manager, the device that it decides for, and the plain account of what was computed.

mod device;
mod event;
mod refused;
mod setup;
pub mod stream;

use interleaf_contract::CHUNK_TOKENS;
use interleaf_kv::policy::AppState;
use interleaf_kv::{
    AdapterId, AdapterKey, AdapterSpec, AppId, ContentDigest, KvError, Manager, ModelKey, Op, OpKind, Open,
    RankRows, Salt, SequenceId, Translation, TrimLevel,
};

use self::device::{Device, Page, Under, contents};
pub use self::event::Event;
pub use self::setup::Setup;
use self::setup::{LAYERS, PAGE};

/// What a sequence may diverge that may at all.
const LOSSY_BUDGET: f32 = 2.0;
/// What tokens diverge that are computed with loss.
const LOSS: f32 = 0.25;

struct App {
    id: AppId,
    salt: Option<u8>,
    is_open: bool,
}

struct Adapter {
    id: AdapterId,
    digest: u8,
    shared: usize,
    is_activated: bool,
    /// Whether its weights come and go.
    is_pooled: bool,
}

struct Sequence {
    id: SequenceId,
    app: usize,
    adapter: Option<AdapterId>,
    under: Under,
    /// Its prompt, and what it is continued with.
    tokens: Vec<u32>,
    /// Whether it may read what was computed with loss.
    is_lossy: bool,
    is_kept: bool,
    /// Whether its pages were lost and not computed again.
    is_lost: bool,
    /// What its tokens diverge at most.
    drift: f32,
}

impl Sequence {
    /// What it may diverge.
    fn budget(&self) -> f32 {
        if self.is_lossy { LOSSY_BUDGET } else { 0.0 }
    }
}

/// What was computed and could be found: the plain account.
struct Record {
    under: Under,
    tokens: Vec<u32>,
}

pub struct World {
    manager: Manager,
    device: Device,
    setup: Setup,
    apps: Vec<App>,
    adapters: Vec<Adapter>,
    sequences: Vec<Sequence>,
    ops: Vec<Op>,
    /// Adapters whose weights are neither there nor on their way, as far as that can be known from outside.
    unloaded: Vec<AdapterId>,
    /// Those whose weights came back with a sequence, whatever becomes of a move that was to bring them.
    regained: Vec<AdapterId>,
    records: Vec<Record>,
    /// Whether something may have gone that was computed: then less can be found than was.
    has_lost: bool,
    /// Whether the device's memory was lost.
    has_lost_memory: bool,
    /// Sequences that had tokens when they were opened.
    found: usize,
    now: f64,
}

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
    pub fn new(setup: Setup) -> Self {
        let manager = Manager::new(setup.config()).expect("a lawful configuration");
        let mut world = Self {
            manager,
            device: Device::default(),
            setup,
            apps: Vec::new(),
            adapters: Vec::new(),
            sequences: Vec::new(),
            ops: Vec::new(),
            unloaded: Vec::new(),
            regained: Vec::new(),
            records: Vec::new(),
            has_lost: setup.has_forms,
            has_lost_memory: false,
            found: 0,
            now: 0.0,
        };
        world.open_app(None);
        world
    }

    fn open_app(&mut self, salt: Option<u8>) {
        let id = self.manager.open_app(salt.map(|byte| Salt([byte; 16]))).expect("few apps");
        self.apps.push(App { id, salt, is_open: true });
    }

    pub fn apply(&mut self, event: &Event) -> Result<(), String> {
        let held = self.held();
        self.happen(event)?;
        self.check_held(&held)?;
        self.check()
    }

    /// Bytes held of each tier.
    fn held(&self) -> Vec<u64> {
        (0..self.setup.tiers().len()).map(|tier| self.manager.held_bytes(tier)).collect()
    }

    /// Beyond a budget there is only what was there before, which may have been larger.
    fn check_held(&self, before: &[u64]) -> Result<(), String> {
        for (tier, (held, before)) in self.held().into_iter().zip(before).enumerate() {
            let budget = self.manager.budget_bytes(tier);
            if held > budget.max(*before) {
                return Err(format!("tier {tier} held {before} bytes and holds {held}, it may {budget}"));
            }
        }
        Ok(())
    }

    fn happen(&mut self, event: &Event) -> Result<(), String> {
        match *event {
            Event::Open { app, adapter, text, len, suffix, from, is_kept, is_lossy } => {
                self.open(app, adapter, (text, len, suffix), from, is_kept, is_lossy)?;
            }
            Event::Compute { sequence, tokens, text, is_lossy } => {
                self.compute(sequence, tokens, text, is_lossy)?;
            }
            Event::Truncate { sequence, tokens } => self.truncate(sequence, tokens)?,
            Event::Close { sequence } if !self.sequences.is_empty() => {
                let sequence = self.sequences.remove(sequence % self.sequences.len());
                self.close(sequence)?;
            }
            Event::Done { op } if !self.ops.is_empty() => {
                let op = self.ops.remove(op % self.ops.len());
                self.carry_out(op)?;
            }
            Event::Failed { op } | Event::Cancelled { op } if !self.ops.is_empty() => {
                let op = self.ops.remove(op % self.ops.len());
                self.has_lost = true;
                let unloaded = self.manager.adapter_of(op.id).filter(|id| !self.regained.contains(id));
                self.unloaded.extend(unloaded);
                let moves = match event {
                    Event::Failed { .. } => self.manager.failed(op.id),
                    _ => self.manager.cancelled(op.id),
                };
                self.plan(moves);
            }
            Event::AllDone => {
                self.all_done()?;
                self.check_ready()?;
            }
            Event::Tick { tenths } => {
                self.now += f64::from(tenths) / 10.0;
                let moves = self.manager.tick(self.now);
                self.plan(moves);
                self.has_lost |= self.is_tight();
            }
            Event::AppState { app, state } => {
                let app = &self.apps[app % self.apps.len()];
                let states = [
                    AppState::Killed,
                    AppState::Cached,
                    AppState::Background,
                    AppState::Visible,
                    AppState::Foreground,
                ];
                self.has_lost |= states[state] == AppState::Killed;
                match self.manager.set_app_state(app.id, states[state], self.now) {
                    Ok(moves) => self.plan(moves),
                    Err(e) => same(e, KvError::UnknownApp, !app.is_open)?,
                }
            }
            Event::Trim { level } => {
                self.has_lost = true;
                self.manager.trim([TrimLevel::UiHidden, TrimLevel::Background, TrimLevel::Warning][level]);
            }
            Event::Budget { tier, share } => {
                let tiers = self.setup.tiers();
                let tier = tier % tiers.len();
                self.has_lost = true;
                let all = u64::from(tiers[tier]) * LAYERS as u64 * PAGE;
                self.manager.set_budget(tier, all * u64::from(share) / 16);
            }
            Event::AddAdapter { digest, rank } => self.add_adapter(digest, rank)?,
            Event::RemoveAdapter { adapter } if !self.adapters.is_empty() => {
                let adapter = self.adapters.remove(adapter % self.adapters.len());
                self.has_lost = true;
                self.manager.remove_adapter(adapter.id).map_err(|e| e.to_string())?;
                let again = self.manager.remove_adapter(adapter.id);
                (again == Err(KvError::UnknownAdapter)).then_some(()).ok_or("removed twice")?;
            }
            Event::OpenApp { salt } if self.apps.len() < 6 => self.open_app((salt > 0).then_some(salt)),
            Event::CloseApp { app } => self.close_app(app)?,
            Event::LoseMemory => self.lose_memory()?,
            _ => {}
        }
        Ok(())
    }

    /// Moves are to be made from now on.
    fn plan(&mut self, moves: impl IntoIterator<Item = Op>) {
        for op in moves {
            let loaded = self.manager.adapter_of(op.id);
            self.unloaded.retain(|adapter| Some(*adapter) != loaded);
            self.regained.retain(|adapter| Some(*adapter) != loaded);
            self.spoil(op);
            self.ops.push(op);
        }
    }

    /// What a move writes has no contents from when it is planned until it is done, and none where it fails.
    fn spoil(&mut self, op: Op) {
        let places = match op.kind {
            OpKind::Read { .. } | OpKind::Recompute => self.manager.memory_places(op.id),
            OpKind::Encode { .. } => self.manager.encoded_places(op.id),
            OpKind::Copy | OpKind::Translate => {
                let copied = self.manager.copied_places(op.id);
                copied.into_iter().map(|(layer, _, place)| (layer, place)).collect()
            }
            OpKind::Write { .. } => {
                let at = self.manager.stored_at(op.id);
                at.into_iter().for_each(|at| self.device.set_stored(at, Vec::new()));
                Vec::new()
            }
            OpKind::Load => Vec::new(),
        };
        places.into_iter().for_each(|(layer, place)| self.device.set_page(layer, place, Page::default()));
    }

    /// Whether memory may not have room for all that was computed.
    fn is_tight(&self) -> bool {
        self.setup.chunks < 200
    }

    fn open(
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
        if is_kept && opened.reused > looked_up.clone().unwrap_or(0) {
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
    fn check_found(
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

    fn compute(&mut self, sequence: usize, tokens: usize, which: u8, is_lossy: bool) -> Result<(), String> {
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
            let lossy = contents(&under, layer, &tokens_now[..=position], true);
            read(&self.manager, &self.device, id, layer, position) == Some(lossy)
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
            }
            // What was found diverges, too.
            Err(KvError::Drift { .. }) if self.sequences[place].drift + drift > LOSSY_BUDGET => {}
            Err(e) => return Err(e.to_string()),
        }
        Ok(())
    }

    fn truncate(&mut self, sequence: usize, tokens: usize) -> Result<(), String> {
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

    fn close(&mut self, sequence: Sequence) -> Result<(), String> {
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

    fn add_adapter(&mut self, digest: u8, rank: u32) -> Result<(), String> {
        // One digest is one adapter: of these, one that changes nothing, and one that is activated.
        let (shared, is_activated) =
            [(0, false), (1, false), (LAYERS, false), (2, true)][usize::from(digest) % 4];
        let row = RankRows { rank, row_bytes: 700 };
        let spec = AdapterSpec {
            key: AdapterKey { digest: ContentDigest([digest; 32]), scale_bits: 1 },
            shared_layers: shared,
            is_activated,
            translation: (self.setup.has_forms && digest == 0)
                .then_some(Translation { drift: 0.3, most_tokens: 64 }),
            rank_rows: if rank == 0 { Vec::new() } else { vec![row; LAYERS] },
        };
        match self.manager.add_adapter(spec) {
            Ok(id) => {
                // One that changes nothing is never needed.
                let is_pooled = rank > 0 && shared < LAYERS;
                self.unloaded.extend(is_pooled.then_some(id));
                self.adapters.push(Adapter { id, digest, shared, is_activated, is_pooled });
            }
            Err(e) => same(e, KvError::DuplicateAdapter, self.adapters.iter().any(|a| a.digest == digest))?,
        }
        Ok(())
    }

    fn close_app(&mut self, app: usize) -> Result<(), String> {
        let place = app % self.apps.len();
        let has_open = self.sequences.iter().any(|s| s.app == place);
        let app = &mut self.apps[place];
        match self.manager.close_app(app.id) {
            Ok(()) => {
                self.has_lost = true;
                app.is_open = false;
                // Somebody must be there.
                if self.apps.iter().all(|app| !app.is_open) {
                    self.open_app(None);
                }
                Ok(())
            }
            Err(KvError::NotYours(_)) if has_open => Ok(()),
            Err(e) => same(e, KvError::UnknownApp, !app.is_open),
        }
    }

    fn carry_out(&mut self, op: Op) -> Result<(), String> {
        match op.kind {
            OpKind::Copy => self.device.copy(&self.manager.copied_places(op.id)),
            OpKind::Write { from, .. } => {
                let at = self.manager.stored_at(op.id).ok_or("a write to nowhere")?;
                if from == 0 {
                    self.device.store(at, &self.manager.memory_places(op.id));
                } else {
                    let from = self.manager.written_from(op.id).ok_or("a write from nowhere")?;
                    self.device.set_stored(at, self.device.stored(from)?);
                }
            }
            OpKind::Read { .. } => {
                let at = self.manager.stored_at(op.id).ok_or("a read from nowhere")?;
                self.device.load(at, &self.manager.memory_places(op.id))?;
            }
            OpKind::Recompute => self.recompute(op)?,
            OpKind::Encode { .. } => {
                let places = self.manager.encoded_places(op.id);
                self.write_chunk(op, &places, true);
            }
            OpKind::Translate => self.translate(op)?,
            OpKind::Load => {}
        }
        let moves = self.manager.done(op.id);
        self.plan(moves);
        Ok(())
    }

    /// A chunk of the base under the adapter of a sequence, which has the same tokens.
    fn translate(&mut self, op: Op) -> Result<(), String> {
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
                if read[token] != contents(&base, layer, tokens, false) {
                    return Err(format!("a translation of something else in layer {layer}"));
                }
                page[token] = contents(&sequence.under, layer, tokens, true);
            }
            self.device.set_page(layer, place, page);
        }
        Ok(())
    }

    fn recompute(&mut self, op: Op) -> Result<(), String> {
        let places = self.manager.memory_places(op.id);
        self.write_chunk(op, &places, false);
        Ok(())
    }

    /// Writes what a moved chunk is to some slots, as it is computed or as it is when that loses something.
    fn write_chunk(&mut self, op: Op, places: &[(usize, u64)], is_lossy: bool) {
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
                page[position - start] = contents(&under, layer, &key.tokens[..=position], is_lossy);
            }
            self.device.set_page(layer, place, page);
        }
    }

    /// The device fails: what it held is gone, and what was to be moved will not be. Open sequences are computed again.
    fn lose_memory(&mut self) -> Result<(), String> {
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
    fn regain(&mut self, place: usize) -> Result<(), String> {
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

    fn all_done(&mut self) -> Result<(), String> {
        while let Some(op) = self.ops.pop() {
            self.carry_out(op)?;
        }
        Ok(())
    }

    /// Whether an adapter's weights did not come, and nobody has asked for them since.
    fn is_unloaded(&self, adapter: Option<AdapterId>) -> bool {
        adapter.is_some_and(|adapter| self.unloaded.contains(&adapter))
    }

    /// Whether a sequence can go on. One whose adapter's weights did not come cannot, and may say why.
    fn is_ready(&self, sequence: &Sequence) -> Result<bool, String> {
        match (self.manager.is_ready(sequence.id), self.is_unloaded(sequence.adapter)) {
            (Ok(true), true) => Err(format!("{:?} is ready without its adapter", sequence.id)),
            (Err(_), true) => Ok(false),
            (ready, _) => ready.map_err(|e| e.to_string()),
        }
    }

    /// When no move is under way nobody waits, but for weights that did not come.
    fn check_ready(&self) -> Result<(), String> {
        for sequence in self.sequences.iter().filter(|s| !s.is_lost && !self.is_unloaded(s.adapter)) {
            if !self.is_ready(sequence)? {
                return Err(format!("{:?} waits for nothing", sequence.id));
            }
        }
        Ok(())
    }

    /// The manager's own rules, and every word that a sequence reads.
    fn check(&mut self) -> Result<(), String> {
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

    fn check_words(&self) -> Result<(), String> {
        for sequence in self.sequences.iter().filter(|sequence| !sequence.is_lost) {
            if !self.is_ready(sequence)? {
                continue;
            }
            for position in 0..sequence.tokens.len() {
                let is = |layer, lossy| {
                    let word = contents(&sequence.under, layer, &sequence.tokens[..=position], lossy);
                    read(&self.manager, &self.device, sequence.id, layer, position) == Some(word)
                };
                let is_right = |layer: &usize| is(*layer, false) || sequence.is_lossy && is(*layer, true);
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

/// The word that a sequence reads.
fn read(manager: &Manager, device: &Device, id: SequenceId, layer: usize, position: usize) -> Option<u64> {
    let place = manager.page_place(id, layer, position / CHUNK_TOKENS).ok().flatten()?;
    Some(device.page(layer, place)[position % CHUNK_TOKENS])
}

/// An error is the expected one, where one is expected.
fn same(found: KvError, expected: KvError, is_expected: bool) -> Result<(), String> {
    if is_expected && found == expected { Ok(()) } else { Err(found.to_string()) }
}
