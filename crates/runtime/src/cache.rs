//! The engine's pages: the KV manager, and what it must know of this engine. It decides; who copies pages is in `feed`.

use std::collections::HashMap;
use std::time::Instant;

use interleaf_contract::PoolGeometry;
use interleaf_kv::policy::AppState;
use interleaf_kv::{
    AdapterId, AdapterKey, AdapterSpec, AppId, Config, ContentDigest, Form, KeySet, KvError, Manager, Op,
    Open, Opened, RankRows, Salt, SequenceId, SwitchCosts, TierConfig, Tolerance, Translation, TrimLevel,
};
use interleaf_model::Digest;

use crate::adapters::{Acting, Activation};
use crate::{forms, widths};

/// An adapter as the manager knows it.
#[derive(Debug)]
struct Known {
    spec: AdapterSpec,
    id: AdapterId,
    /// Nobody asks for it any more, and the manager has forgotten it.
    is_gone: bool,
}

/// Who asks for pages: an app, and the salt that keeps its pages from others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub app: AppId,
    pub salt: Option<Salt>,
}

/// How a move ended.
#[derive(Debug, Clone, Copy)]
pub enum Ended {
    Done,
    /// What was to be moved cannot be read.
    Failed,
    /// It can, another time.
    Cancelled,
}

/// Which forms pages may take besides the exact one.
#[derive(Debug, Clone, Copy)]
pub struct Kinds {
    /// Whether the backend stores pages in any.
    pub encodes: bool,
    /// How chunks get narrower by how much they are attended to, if they do.
    pub narrows: Option<Tolerance>,
    /// What lies below memory, if anything does.
    pub below: Option<Below>,
}

/// A file below memory.
#[derive(Debug, Clone, Copy)]
pub struct Below {
    /// Chunks of full precision that it has room for.
    pub chunks: u32,
    /// What bringing a chunk back takes.
    pub costs: SwitchCosts,
}

/// Pages of one pool.
#[derive(Debug)]
pub struct Cache {
    manager: Manager,
    /// Who asks where the engine is asked itself.
    own: Caller,
    /// Other apps, by name and salt: they are who they were whichever service they come by.
    apps: Vec<(String, Caller)>,
    /// By [`Acting`]. Adapters of the same contents are one.
    adapters: Vec<Known>,
    /// Under which adapters open sequences are.
    under: HashMap<SequenceId, Acting>,
    /// Whether pages of answers that are over answer for others.
    is_kept: bool,
    context: usize,
    kinds: Kinds,
    /// The clock that pages' ages are counted by.
    start: Instant,
}

impl Cache {
    /// An empty cache over a pool. Sequences are named from a number on, so that those of two engines have no name in
    /// common.
    pub fn new(
        geometry: &PoolGeometry,
        context: usize,
        is_kept: bool,
        first: u64,
        kinds: Kinds,
    ) -> Result<Self, KvError> {
        let longest = u32::try_from(context).unwrap_or(u32::MAX);
        let mut forms = if kinds.encodes { forms::uncalibrated(geometry) } else { Vec::new() };
        if kinds.encodes && kinds.narrows.is_some() {
            forms.extend(widths::forms(geometry));
        }
        let mut config = Config { forms, ..Config::in_memory(geometry, longest) };
        if let Some(Below { chunks, costs }) = kinds.below {
            config.tiers.push(TierConfig { striped: true, chunks });
            (config.costs, config.can_recompute) = (costs, true);
        }
        let mut manager = Manager::new(config)?.counting_from(first).with_lasting_tier();
        if let Some(tolerance) = kinds.narrows.filter(|_| kinds.encodes) {
            // A share that there is no room for is refused before anybody waits for it.
            manager.narrow(&tolerance, 0)?;
            manager.keep_newest(tolerance.newest);
        }
        let own = Caller { app: manager.open_app(None)?, salt: None };
        let (apps, adapters, under) = (Vec::new(), Vec::new(), HashMap::new());
        Ok(Self { manager, own, apps, adapters, under, is_kept, context, kinds, start: Instant::now() })
    }

    /// An empty cache over another pool. It names its sequences apart from this one's, which are closed: an old name never
    /// means a new sequence.
    pub fn replaced(&self, geometry: &PoolGeometry, below: Option<Below>) -> Result<Self, KvError> {
        let kinds = Kinds { below, ..self.kinds };
        let mut new = Self::new(geometry, self.context, self.is_kept, self.manager.opened(), kinds)?;
        for known in &self.adapters {
            // Each keeps its place.
            match known.is_gone {
                true => new.adapters.push(Known { spec: known.spec.clone(), ..*known }),
                false => new.add(known.spec.clone())?,
            }
        }
        Ok(new)
    }

    /// Who asks where the engine is asked itself.
    pub const fn own(&self) -> Caller {
        self.own
    }

    /// Another app, which finds others' pages of tokens that it comes with itself, unless a salt keeps them apart.
    pub fn open_app(&mut self, name: &str, salt: Option<Salt>) -> Result<Caller, KvError> {
        if let Some(known) = self.known_app(name, salt) {
            return Ok(known);
        }
        let caller = Caller { app: self.manager.open_app(salt)?, salt };
        self.apps.push((name.to_owned(), caller));
        Ok(caller)
    }

    /// An app that has come before.
    pub fn known_app(&self, name: &str, salt: Option<Salt>) -> Option<Caller> {
        let known = self.apps.iter().find(|(known, at)| known == name && at.salt == salt);
        known.map(|(_, caller)| *caller)
    }

    /// Apps that have come so far, and are not gone.
    pub fn apps(&self) -> impl Iterator<Item = Caller> {
        self.apps.iter().map(|(_, caller)| *caller)
    }

    /// An app is gone, with all that no other has used.
    pub fn close_app(&mut self, caller: Caller) -> Result<(), KvError> {
        self.manager.close_app(caller.app)?;
        self.apps.retain(|(_, known)| *known != caller);
        Ok(())
    }

    /// An app is another thing to its user. What is to be written for that is returned.
    pub fn set_app_state(&mut self, caller: Caller, state: AppState) -> Result<Vec<Op>, KvError> {
        let now = self.now();
        self.manager.set_app_state(caller.app, state, now)
    }

    /// Time has passed. What is to be moved between memory and what is below is returned.
    pub fn tick(&mut self) -> Vec<Op> {
        let now = self.now();
        self.manager.tick(now)
    }

    /// Gives memory back, as far as nobody uses it.
    pub fn trim(&mut self, level: TrimLevel) {
        self.manager.trim(level);
    }

    /// What the pages may take from now on.
    pub fn set_budget(&mut self, bytes: u64) {
        self.manager.set_budget(0, bytes);
    }

    /// Tells of the next adapter that acts; `pooled` is what its weights take of each layer in the pool, or empty where they are elsewhere and
    /// always there. Returns one of the same contents, if there is one; of the pool there is then only that.
    pub fn add_adapter(
        &mut self,
        digest: Digest,
        shared_layers: usize,
        is_activated: bool,
        pooled: &[u64],
    ) -> Result<Option<Acting>, KvError> {
        let key = AdapterKey { digest: ContentDigest(*digest.as_bytes()), scale_bits: 1.0_f32.to_bits() };
        let twin = self.adapters.iter().position(|known| known.spec.key == key && !known.is_gone).map(Acting);
        if !pooled.is_empty() && twin.is_some() {
            return Ok(twin);
        }
        // Whole blocks: nothing else lies in what the backend has elsewhere.
        let block = self.manager.block_bytes();
        let rows = |bytes: &u64| RankRows {
            rank: u32::try_from(bytes.div_ceil(block)).unwrap_or(u32::MAX),
            row_bytes: block,
        };
        let rank_rows = pooled.iter().map(rows).collect();
        self.add(AdapterSpec { key, shared_layers, is_activated, translation: None, rank_rows })?;
        Ok(twin)
    }

    fn add(&mut self, spec: AdapterSpec) -> Result<(), KvError> {
        let is_twin = |known: &&Known| known.spec.key == spec.key && !known.is_gone;
        let twin = self.adapters.iter().find(is_twin).map(|known| known.id);
        let id = match twin {
            Some(id) => id,
            None => self.manager.add_adapter(spec.clone())?,
        };
        self.adapters.push(Known { spec, id, is_gone: false });
        Ok(())
    }

    /// Opens an empty sequence whose pages are nobody else's and go with it.
    pub fn open_own(&mut self, activation: Option<Activation>) -> Result<Opened, KvError> {
        let open = Open { is_kept: false, ..self.call(self.own, activation, &[], 0, 0.0) };
        let opened = self.manager.open(&open)?;
        self.hold(opened.sequence, activation);
        Ok(opened)
    }

    /// A sequence is under an adapter as long as it is open.
    pub fn hold(&mut self, id: SequenceId, activation: Option<Activation>) {
        self.under.extend(activation.map(|a| (id, a.adapter)));
    }

    /// Whether open sequences are under an adapter.
    pub fn is_used(&self, adapter: Acting) -> bool {
        self.under.values().any(|under| *under == adapter)
    }

    /// Nobody asks for an adapter any more: what was computed under it goes, unless another one has the same contents.
    pub fn remove_adapter(&mut self, Acting(place): Acting) -> Result<(), KvError> {
        let id = self.adapters[place].id;
        self.adapters[place].is_gone = true;
        match self.acting(id) {
            Some(_) => Ok(()),
            None => self.manager.remove_adapter(id),
        }
    }

    /// Opens one for a request that waits: it has nothing, and keeps nobody's weights in the pool.
    pub fn open_empty(
        &mut self,
        caller: Caller,
        activation: Option<Activation>,
    ) -> Result<SequenceId, KvError> {
        let id = self.manager.open(&self.call(caller, None, &[], 0, 0.0))?.sequence;
        self.hold(id, activation);
        Ok(id)
    }

    /// Opens a sequence with what is there of a prompt but its last token, whose logits are wanted. What it computes can be
    /// found by others. Nothing is read that has lost more than the budget.
    pub fn open(
        &mut self,
        caller: Caller,
        activation: Option<Activation>,
        prompt: &[u32],
        budget: f32,
    ) -> Result<Opened, KvError> {
        let open = self.prompt(caller, activation, prompt, budget);
        let opened = self.manager.open(&open)?;
        self.hold(opened.sequence, activation);
        Ok(opened)
    }

    /// The same, reading what is exact alone; what it computes may be encoded within the budget.
    pub fn open_exact(
        &mut self,
        activation: Option<Activation>,
        prompt: &[u32],
        budget: f32,
    ) -> Result<Opened, KvError> {
        let open = self.prompt(self.own, activation, prompt, budget);
        let opened = self.manager.open_exact(&open)?;
        self.hold(opened.sequence, activation);
        Ok(opened)
    }

    /// How many of some tokens are there within a budget.
    pub fn look_up(
        &self,
        caller: Caller,
        activation: Option<Activation>,
        tokens: &[u32],
        budget: f32,
    ) -> usize {
        let most = if self.is_kept { tokens.len() } else { 0 };
        self.manager.look_up(&self.call(caller, activation, tokens, most, budget)).unwrap_or(0)
    }

    /// Whether pages of one request answer for another.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Forgets what is there of some tokens, within a budget, and nobody else's.
    pub fn forget(
        &mut self,
        caller: Caller,
        activation: Option<Activation>,
        tokens: &[u32],
        budget: f32,
    ) -> Result<(), KvError> {
        let open = self.call(caller, activation, tokens, tokens.len(), budget);
        self.manager.forget(&open)
    }

    /// A call that may find all of its prompt but the last token.
    fn prompt<'a>(
        &self,
        caller: Caller,
        activation: Option<Activation>,
        prompt: &'a [u32],
        budget: f32,
    ) -> Open<'a> {
        let most = if self.is_kept { prompt.len().saturating_sub(1) } else { 0 };
        self.call(caller, activation, prompt, most, budget)
    }

    fn call<'a>(
        &self,
        caller: Caller,
        activation: Option<Activation>,
        tokens: &'a [u32],
        most: usize,
        budget: f32,
    ) -> Open<'a> {
        let adapter =
            activation.map(|Activation { adapter: Acting(place), from }| (self.adapters[place].id, from));
        let (app, is_kept) = (caller.app, self.is_kept);
        Open { app, adapter, tokens, most, budget, is_kept, now: self.now() }
    }

    /// Makes room for more tokens of a sequence.
    pub fn append(&mut self, id: SequenceId, tokens: usize) -> Result<(), KvError> {
        self.manager.append(id, tokens)
    }

    /// The next tokens of a sequence have been computed.
    pub fn commit(&mut self, id: SequenceId, tokens: &[u32]) -> Result<(), KvError> {
        self.manager.commit(id, tokens, 0.0)
    }

    /// Cuts a sequence back, its room too. Pages that are then to be copied are returned.
    pub fn truncate(&mut self, id: SequenceId, tokens: usize) -> Result<Option<Op>, KvError> {
        self.manager.truncate(id, tokens)
    }

    /// Closes a sequence. What is to be encoded or written is returned.
    pub fn close(&mut self, id: SequenceId) -> Result<Vec<Op>, KvError> {
        self.under.remove(&id);
        self.manager.close(id, self.now())
    }

    /// A chunk has been encoded, at a cost, or not at all. What is to be encoded instead is returned.
    pub fn encoded(&mut self, op: Op, drift: Option<f32>) -> Vec<Op> {
        match drift {
            Some(drift) => self.manager.encoded(op.id, drift),
            None => self.manager.cancelled(op.id),
        }
    }

    /// Tokens of which adapters' pages would take less over the base's, which are not there, and what their users allow.
    pub fn lacking_base(&self) -> Option<(Vec<u32>, f32)> {
        self.manager.lacking_base().filter(|_| self.is_kept)
    }

    /// Whether pages may take other forms than the exact one.
    pub fn encodes(&self) -> bool {
        self.kinds.encodes
    }

    /// How good an adapter's translation is, if there is one.
    pub fn set_translation(
        &mut self,
        adapter: AdapterId,
        translation: Option<Translation>,
    ) -> Result<(), KvError> {
        self.manager.set_translation(adapter, translation)
    }

    /// A text has been computed that an adapter had read in part by translation: what is there of that no longer has to be.
    pub fn replace_translated(&mut self, adapter: AdapterId, text: &[u32]) -> Result<usize, KvError> {
        self.manager.replace_translated(adapter, text)
    }

    /// What the manager knows an adapter by.
    pub fn id(&self, Acting(place): Acting) -> AdapterId {
        self.adapters[place].id
    }

    /// The first adapter that the manager knows by an id.
    pub fn acting(&self, id: AdapterId) -> Option<Acting> {
        self.adapters.iter().position(|known| known.id == id && !known.is_gone).map(Acting)
    }

    /// Pages of an adapter may take these forms, too. Returns the number of the first.
    pub fn add_forms(&mut self, adapter: Acting, forms: Vec<Form>) -> Result<usize, KvError> {
        let id = self.id(adapter);
        let first = self.manager.forms_of(Some(id))? + 1;
        self.manager.add_forms(Some(id), forms)?;
        Ok(first)
    }

    /// Chunks go to rest that nobody uses, at most so many: what is to be encoded is returned.
    pub fn rest(&mut self, most: usize) -> Vec<Op> {
        self.manager.rest(most)
    }

    /// Takes in how much rows of a sequence attended to its chunks. Of one that is over nobody wants to know.
    pub fn attended(
        &mut self,
        id: SequenceId,
        mass: &[f32],
        first: usize,
        rows: usize,
        window: Option<usize>,
    ) {
        let _ = self.manager.attended(id, mass, first, rows, window);
    }

    /// How much each chunk of some tokens that is there within a budget was attended to.
    pub fn densities(
        &self,
        activation: Option<Activation>,
        tokens: &[u32],
        budget: f32,
    ) -> Result<Vec<Option<f64>>, KvError> {
        self.manager.densities(&self.call(self.own, activation, tokens, tokens.len(), budget))
    }

    /// Contexts that nobody uses get narrower, at most so many chunks: what is to be encoded is returned.
    pub fn narrow(&mut self, most: usize) -> Result<Vec<Op>, KvError> {
        match self.kinds.narrows.filter(|_| self.kinds.encodes) {
            Some(tolerance) => self.manager.narrow(&tolerance, most),
            None => Ok(Vec::new()),
        }
    }

    /// A chunk at rest has got exact pages, or has not.
    pub fn woken(&mut self, op: Op, ended: Ended) {
        let moves = match ended {
            Ended::Done => self.manager.done(op.id),
            Ended::Failed => self.manager.failed(op.id),
            Ended::Cancelled => self.manager.cancelled(op.id),
        };
        debug_assert!(moves.is_empty(), "nothing follows from waking");
    }

    /// Layers of an adapter that are the base's, counted from the first.
    pub fn shared_layers(&self, Acting(place): Acting) -> usize {
        self.adapters[place].spec.shared_layers
    }

    /// A copy has been made, or keys have been materialised, or not.
    pub fn copied(&mut self, op: Op, is_done: bool) {
        let moves = if is_done { self.manager.done(op.id) } else { self.manager.cancelled(op.id) };
        debug_assert!(moves.is_empty(), "nothing follows from a copy");
    }

    /// A sequence reads exact keys as far as there is room for them: what is to be decoded for that is returned.
    pub fn materialise_keys(&mut self, id: SequenceId, set: KeySet) -> Result<Vec<Op>, KvError> {
        self.manager.materialise_keys(id, set)
    }

    /// The same as far as they are there already.
    pub fn join_keys(&mut self, id: SequenceId, set: KeySet) -> Result<(), KvError> {
        self.manager.join_keys(id, set)
    }

    /// Others read keys in place again where that lets rows decode an anchor once for them and for this sequence.
    pub fn share_anchors(&mut self, id: SequenceId) -> Result<(), KvError> {
        self.manager.share_anchors(id)
    }

    /// It reads them where they are encoded again.
    pub fn read_keys_in_place(&mut self, id: SequenceId) -> Result<(), KvError> {
        self.manager.read_keys_in_place(id)
    }

    /// The pages are lost with their device, and computed again for the sequences that are open.
    pub fn lose_pages(&mut self) {
        self.manager.lose_memory();
    }

    /// All pages of a sequence have been computed again.
    pub fn regained(&mut self, id: SequenceId) -> Result<(), KvError> {
        self.manager.regained(id)
    }

    /// What decides and is asked.
    pub fn manager(&self) -> &Manager {
        &self.manager
    }

    /// The same, to be told how moves between memory and what is below have ended.
    pub fn manager_mut(&mut self) -> &mut Manager {
        &mut self.manager
    }

    /// Each adapter that acts, as the manager knows it.
    pub fn known(&self) -> impl Iterator<Item = (AdapterId, AdapterKey)> {
        self.adapters.iter().filter(|known| !known.is_gone).map(|known| (known.id, known.spec.key))
    }

    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}
