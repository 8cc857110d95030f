//! The manager: one pool of pages and adapters in tiers, and a tree that knows what depends on what. Events are its
//! methods; what they want moved, they return. Nothing here moves a byte or asks what time it is.
//!
//! | rule | from |
//! |---|---|
//! | what is in memory has all it depends on in memory: the chunk before, its adapter, its anchor; so leaves go first and roots come first | ELORA (FASTLIBRA, arXiv 2505.03756, §4.1) |
//! | the chunks of a call under way are not taken | LLMS (arXiv 2403.11805, §3.4), EdgeLoRA's authors' code lacks it |
//! | what a call has changed is written when it returns, so that taking it from memory is free | LLMS, §3.4 |
//! | what layers of two variants have in common is stored once, at the base's chunk | ours; see [`shared_layers`](crate::shared_layers) |
//!
//! Submodules have one kind of event each: `open` begins a call with what `find` can use again, `grow` adds and takes tokens,
//! `share` puts chunks into the tree, `moves` hears how moves ended, `lifecycle` what apps and the system do, `adapters` who
//! may answer; `encode` changes the forms of chunks, over those that `twins` finds, `narrow` those of a context by its chunks'
//! densities, `evict` makes room for all of them. `rest` wakes chunks that no kernel reads and `keys` has others read sooner,
//! both by pages that `second` holds. `check` says whether everything still fits together, `places` where pages are, `stored` where
//! they lie below memory, and `room` what is held.

mod adapters;
mod check;
mod encode;
mod evict;
mod find;
mod grow;
mod keys;
mod lifecycle;
mod moves;
mod narrow;
mod open;
mod places;
mod rest;
mod room;
mod second;
mod share;
mod stored;
mod translate;
mod twins;

use std::collections::VecDeque;

use interleaf_contract::{CHUNK_TOKENS, PageElement, PageTable, PoolGeometry};

pub use self::adapters::AdapterSpec;
use self::adapters::Known;
pub use self::keys::KeySet;
pub use self::lifecycle::TrimLevel;
use self::narrow::Losses;
pub use self::open::{Open, Opened};
pub use self::rest::Rest;
use self::second::Second;
pub use self::stored::{StoredAt, StoredChunk, StoredId, StoredPage};
use crate::attention::Attention;
use crate::form::{Form, Layers};
use crate::heap::Heap;
use crate::node::{BASE, Kind, MOST_FORMS, MOST_TIERS, NONE, Node};
use crate::numbers::{Numbered, Numbers};
use crate::op::{Op, OpId, OpKind};
use crate::policy::{AppState, Policy, Situation};
use crate::sequence::Sequence;
use crate::tier::Tier;
use crate::{AdapterId, AppId, KvError, LinearCost, Salt, SequenceId, SwitchCosts, TierConfig};

/// Apps that there may be at one time: a chunk has a bit for each.
pub const MOST_APPS: usize = 64;

/// Sequences that may be open at one time: a chunk counts those that it is part of, and the copies that they make of it.
pub const MOST_SEQUENCES: usize = 1 << 15;

/// How a manager is set up.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Layers of the model.
    pub layers: usize,
    /// Bytes of one layer's K and V of a chunk.
    pub page_bytes: u64,
    /// How pages are stored.
    pub element: PageElement,
    /// From memory, where kernels read, down: one to three.
    pub tiers: Vec<TierConfig>,
    /// What goes first.
    pub policy: Policy,
    /// What bringing a chunk back takes.
    pub costs: SwitchCosts,
    /// Whether whoever carries moves out can compute chunks again among others that are there.
    pub can_recompute: bool,
    /// Forms that chunks may be kept in besides the exact one; [`MOST_FORMS`] at most. Which are lawful for a chunk, those who used it
    /// decide by their budgets.
    pub forms: Vec<Form>,
    /// Share of the budget below which memory is idle and is filled by a tick (ELORA: 0.7).
    pub idle_below: f64,
    /// Share above which it is busy and is emptied by a tick (FASTLIBRA v1: 0.95).
    pub busy_above: f64,
    /// Tokens of the longest context.
    pub longest_context: u32,
}

impl Config {
    /// Memory alone, of a backend's pool, under the policy `Combined`: what cannot be kept is computed again.
    #[must_use]
    pub fn in_memory(geometry: &PoolGeometry, longest_context: u32) -> Self {
        let chunks = u32::try_from(geometry.slots).unwrap_or(u32::MAX);
        let [idle_below, busy_above] = [0.70, 0.95];
        Self {
            layers: geometry.layers,
            page_bytes: 2 * geometry.page_bytes() as u64,
            element: geometry.element,
            tiers: vec![TierConfig { striped: true, chunks }],
            policy: Policy::Combined(crate::policy::Combined::default()),
            // Nothing is read here, and what recomputing takes is the same for all chunks: only the ratios count.
            costs: SwitchCosts {
                recompute: LinearCost { fixed: 0.0, each: 1.0 },
                read: LinearCost { fixed: 0.0, each: 1.0 },
                least_saved: 0.0,
            },
            can_recompute: false,
            forms: Vec::new(),
            idle_below,
            busy_above,
            longest_context,
        }
    }

    /// Checks forms that are counted behind others.
    fn check_forms(&self, forms: &[Form], before: usize) -> Result<(), KvError> {
        let refuse = |field, expected, found: String| Err(KvError::Config { field, expected, found });
        if forms.len() + before > MOST_FORMS {
            return refuse("forms", "at most 127", format!("{} and {before} for all", forms.len()));
        }
        for form in forms {
            let is_all = |layers: &Layers| match layers {
                Layers::Alike(_) => true,
                Layers::Coded(layers) => layers.len() == self.layers,
                Layers::AtRest { bytes, .. } => bytes.len() == self.layers,
            };
            if !is_all(&form.layers)
                || (0..self.layers).any(|layer| form.layers.bytes(layer) > self.page_bytes)
            {
                let expected = "every layer, and none larger than the exact one";
                return refuse("layers of a form", expected, format!("{:?}", form.layers));
            }
            if !form.layers.are_sound(form.over) {
                let expected = "codecs that there are, over an anchor where one is needed";
                return refuse("layers of a form", expected, format!("{:?}", form.layers));
            }
            if form.layers.is_at_rest() && (self.tiers.len() > 1 || form.by_density) {
                let expected = "none at rest by density, nor above a lower tier";
                return refuse("layers of a form", expected, format!("{:?}", form.layers));
            }
            if !(form.drift > 0.0 && form.drift.is_finite()) {
                return refuse("drift of a form", "finite and above 0", form.drift.to_string());
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), KvError> {
        let refuse = |field, expected, found: String| Err(KvError::Config { field, expected, found });
        if !(1..=255).contains(&self.layers) {
            return refuse("layers", "1 to 255", self.layers.to_string());
        }
        if !(1..=u64::from(u32::MAX)).contains(&self.page_bytes) {
            return refuse("page_bytes", "at least 1 and less than 4 GiB", self.page_bytes.to_string());
        }
        if !(1..=MOST_TIERS).contains(&self.tiers.len()) {
            return refuse("tiers", "one to three", self.tiers.len().to_string());
        }
        self.check_forms(&self.forms, 0)?;
        let SwitchCosts { recompute, read, least_saved } = self.costs;
        let costs = [recompute.fixed, recompute.each, read.fixed, read.each, least_saved];
        if !costs.iter().all(|cost| *cost >= 0.0 && cost.is_finite()) {
            return refuse("costs", "finite and not negative", format!("{costs:?}"));
        }
        if !(0.0 <= self.idle_below && self.idle_below <= self.busy_above && self.busy_above <= 1.0) {
            let found = format!("{} and {}", self.idle_below, self.busy_above);
            return refuse("idle_below and busy_above", "shares, the first at most the second", found);
        }
        Ok(())
    }
}

/// An app.
#[derive(Debug, Clone, Copy)]
struct App {
    state: AppState,
    /// The place of its salt; 0 for none.
    salt: u32,
    generation: u32,
    is_open: bool,
}

/// A move under way.
#[derive(Debug, Clone, Copy)]
struct Pending {
    kind: OpKind,
    /// What it reads or brings.
    node: u32,
    /// The pages that it writes, where they are not their node's yet.
    list: u32,
    /// Of a copy, the private chunk and the tokens that it gets.
    copy: Option<(SequenceId, u32)>,
    /// Of a write, one past the last layer it has.
    top: u8,
    /// Of a copy, the anchor that it reads lower layers of; of an encoding, the one that it encodes over.
    anchor: u32,
    /// Of an encoding, the anchor that it decodes over.
    old: u32,
    /// Of an encoding, what it costs, if that was measured.
    drift: Option<f32>,
    /// Of an encoding, whether the base's pages were there to encode over.
    had_base: bool,
    /// Of an encoding, whether it is for the chunk's density.
    is_narrowing: bool,
}

impl Pending {
    /// A move of a node that writes where that has its pages.
    const fn of(kind: OpKind, node: u32) -> Self {
        let (list, anchor, old) = (NONE, NONE, NONE);
        Self {
            kind,
            node,
            list,
            copy: None,
            top: 0,
            anchor,
            old,
            drift: None,
            had_base: false,
            is_narrowing: false,
        }
    }

    /// Whether it brings its node's contents to memory, and somebody waits for that.
    const fn brings(&self) -> bool {
        let is_read = matches!(self.kind, OpKind::Read { .. } | OpKind::Recompute | OpKind::Load);
        is_read && self.copy.is_none() && self.list == NONE
    }

    /// The nodes whose pages are reserved for it.
    fn holds(&self) -> impl Iterator<Item = u32> + use<> {
        let copy = self.copy.map_or(NONE, |(_, to)| to);
        // One that is encoded over what it is decoded over holds that once.
        let old = if self.old == self.anchor { NONE } else { self.old };
        [self.node, self.anchor, old, copy].into_iter().filter(|node| *node != NONE)
    }
}

/// How an encoding has ended, where something may follow from that.
#[derive(Debug, Clone, Copy)]
struct Encoded {
    node: u32,
    /// Whether it cost more than the chunk's users allow.
    is_refused: bool,
}

/// Bytes held in memory, by kind, rounding included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Pages of open sequences.
    pub in_use: u64,
    /// Pages that nobody uses now, kept for whoever comes with the same tokens.
    pub cached: u64,
    /// Of these two, pages that stand for several chunks' layers at once.
    pub shared_layers: u64,
    /// Of the first two, pages of chunks that are in another form than the exact one.
    pub encoded: u64,
    /// Of the first, exact keys that are held beside encoded ones and read in their place; nothing is taken to make room for
    /// them.
    pub keys: u64,
    /// Adapters' weights, where they are in the pool.
    pub adapters: u64,
    /// Of pages, those that nobody could use as they lie: without their adapter, the chunk before or the base's layers in
    /// memory. None, by the rule that leaves go first; ELORA found 48 % in a cache without it.
    pub invalid: u64,
}

/// The manager.
#[derive(Debug)]
pub struct Manager {
    config: Config,
    /// What the layers of exact chunks are stored as.
    exact: Layers,
    /// What the layers of exact keys without values are.
    exact_keys: Layers,
    nodes: Vec<Node>,
    free_nodes: Vec<u32>,
    tiers: Vec<Tier>,
    /// What may go from each tier.
    queues: Vec<Heap>,
    /// What may come into memory, by its worth turned round. A node is here or in memory's queue, never in both.
    frontier: Heap,
    /// By variant; the base is the first.
    adapters: Vec<Known>,
    /// Whose weights have gone from the pool since that was last asked.
    unloaded: Vec<AdapterId>,
    /// How many of them are leaving.
    leaving: usize,
    /// How many act only from their invocation on.
    activated: usize,
    generations: u32,
    /// Of a salt's place and a variant.
    roots: Numbered<(u32, u16), u32>,
    salts: Vec<Option<Salt>>,
    apps: Vec<App>,
    sequences: Numbered<SequenceId, Sequence>,
    /// Chunks that were translated from the base's, and not computed.
    translated: Numbers<u32>,
    /// How much chunks were attended to in sequences that are closed, where that was measured.
    attention: Numbered<u32, Attention>,
    /// What narrowed chunks and those computed over such have lost, by node.
    losses: Numbered<u32, Losses>,
    opened: u64,
    pending: Numbered<OpId, Pending>,
    /// How many of them are encodings.
    encodings: usize,
    /// Encodings that have ended while others are under way.
    encoded: Vec<Encoded>,
    moves: u64,
    requests: u32,
    /// When the last requests came, for the size of a batch.
    recent: VecDeque<f64>,
    situation: Situation,
    /// The number of requests by which the situation's adapters were last expected.
    expected_at: Option<u32>,
    /// Where the next tick goes on, in each tier.
    ticked: [usize; MOST_TIERS],
    /// Where the next tick looks for what is to be written on, in each tier.
    written: [usize; MOST_TIERS],
    /// Where the next tick looks for better anchors.
    rearranged: usize,
    /// Pages that chunks in use have beside their own, by node.
    seconds: Numbered<u32, Second>,
    /// How often keys beside a chunk's own have gone.
    keys_forgotten: u64,
    /// How many of the newest chunks of a call stay exact when it returns.
    newest: usize,
    /// Where the next look for what may go to rest goes on.
    rested: usize,
    /// What the caller's clock showed first: times are counted from there, so that they keep their digits.
    beginning: Option<f64>,
    last_tick: f64,
    /// Nodes taken from each tier so far.
    evicted: [u64; MOST_TIERS],
}

impl Manager {
    /// A manager of empty tiers.
    ///
    /// # Errors
    /// If the configuration names what cannot be.
    pub fn new(config: Config) -> Result<Self, KvError> {
        config.check()?;
        let tier = |t: &TierConfig| Tier::new(*t, config.layers, config.page_bytes);
        let mut manager = Self {
            exact: Layers::Alike(config.page_bytes),
            exact_keys: Layers::exact_keys(config.layers, config.element, config.page_bytes),
            nodes: Vec::new(),
            free_nodes: Vec::new(),
            tiers: config.tiers.iter().map(tier).collect(),
            queues: (0..config.tiers.len()).map(Heap::new).collect(),
            frontier: Heap::new(0),
            adapters: Vec::new(),
            unloaded: Vec::new(),
            leaving: 0,
            activated: 0,
            generations: 0,
            roots: Numbered::default(),
            salts: vec![None],
            apps: Vec::new(),
            sequences: Numbered::default(),
            translated: Numbers::default(),
            attention: Numbered::default(),
            losses: Numbered::default(),
            opened: 0,
            pending: Numbered::default(),
            encodings: 0,
            encoded: Vec::new(),
            moves: 0,
            requests: 0,
            recent: VecDeque::new(),
            situation: Situation {
                now: 0.0,
                adapters: 0,
                expected_adapters: 0.0,
                longest_context: config.longest_context,
            },
            expected_at: None,
            ticked: [0; MOST_TIERS],
            written: [0; MOST_TIERS],
            rearranged: 0,
            seconds: Numbered::default(),
            keys_forgotten: 0,
            newest: 0,
            rested: 0,
            beginning: None,
            last_tick: 0.0,
            evicted: [0; MOST_TIERS],
            config,
        };
        manager.adapters.push(Known::base(manager.config.layers));
        Ok(manager)
    }

    /// The same manager, its sequences named from another number on: so that two managers of one process have no name in
    /// common.
    #[must_use]
    pub fn counting_from(self, first: u64) -> Self {
        Self { opened: first, ..self }
    }

    /// How it was set up.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The number that the next sequence's name comes after.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Lets an app in. Under a salt it shares pages with nobody who has another one or none.
    ///
    /// # Errors
    /// If there are [`MOST_APPS`].
    pub fn open_app(&mut self, salt: Option<Salt>) -> Result<AppId, KvError> {
        let place = self.apps.iter().position(|app| !app.is_open).unwrap_or(self.apps.len());
        if place == MOST_APPS {
            return Err(KvError::TooManyApps { most: MOST_APPS });
        }
        let salt = match salt {
            None => 0,
            Some(_) => self.place_of_salt(salt),
        };
        self.generations += 1;
        let generation = self.generations;
        let app = App { state: AppState::Foreground, salt, generation, is_open: true };
        match self.apps.get_mut(place) {
            Some(old) => *old = app,
            None => self.apps.push(app),
        }
        Ok(AppId { place: place as u32, generation })
    }

    /// Where a salt is among those of open apps, behind the place of none.
    fn place_of_salt(&mut self, salt: Option<Salt>) -> u32 {
        let known = self.salts.iter().position(|known| *known == salt);
        let unused = || (1..self.salts.len()).find(|&place| self.salts[place].is_none());
        let place = known.or_else(unused).unwrap_or(self.salts.len());
        match self.salts.get_mut(place) {
            Some(old) => *old = salt,
            None => self.salts.push(salt),
        }
        place as u32
    }

    /// The tokens of a sequence whose K and V are there.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn tokens(&self, id: SequenceId) -> Result<usize, KvError> {
        self.sequence(id).map(|sequence| sequence.tokens)
    }

    /// Whether others can find a sequence's pages, while it is open or after.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn is_kept(&self, id: SequenceId) -> Result<bool, KvError> {
        self.sequence(id).map(|sequence| sequence.is_kept)
    }

    /// Tokens of a sequence's first chunks that are in the tree. What follows is its own alone: the chunk that is being written,
    /// and where the tree had other chunks of the same tokens that could not be joined then, all from there on.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn shared_tokens(&self, id: SequenceId) -> Result<usize, KvError> {
        self.sequence(id).map(|sequence| sequence.tokens.min(sequence.shared * CHUNK_TOKENS))
    }

    /// The tokens that a sequence has room for, those that are there included.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn room(&self, id: SequenceId) -> Result<usize, KvError> {
        self.sequence(id).map(|sequence| sequence.room)
    }

    /// Whether everything that a sequence has is in memory.
    ///
    /// # Errors
    /// If the sequence is unknown, or its adapter's weights could not be loaded: it can only be closed then, unless another
    /// call under this adapter has them loaded.
    pub fn is_ready(&self, id: SequenceId) -> Result<bool, KvError> {
        let sequence = self.sequence(id)?;
        let weights = self.adapters[usize::from(sequence.variant)].node;
        let is_coming = |node: &Node| node.ready || node.busy > 0;
        match self.nodes.get(weights as usize).is_none_or(is_coming) || sequence.is_lost {
            true => Ok(sequence.unready.is_empty()),
            false => Err(KvError::NotLoaded(id)),
        }
    }

    /// What a sequence's output may diverge by for what it reads and was computed with, in nats; 0 for exact.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn drift(&self, id: SequenceId) -> Result<f32, KvError> {
        self.sequence(id).map(|sequence| sequence.drift_with(0.0))
    }

    /// Where a sequence's pages are, in each layer.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn page_table(&self, id: SequenceId) -> Result<&PageTable, KvError> {
        self.sequence(id).map(|sequence| &sequence.table)
    }

    /// Says whose a sequence is not.
    ///
    /// # Errors
    /// If the app or the sequence is unknown, or the sequence another app's.
    pub fn check_owner(&self, id: SequenceId, app: AppId) -> Result<(), KvError> {
        self.app(app)?;
        if self.sequence(id)?.app == app.place { Ok(()) } else { Err(KvError::NotYours(id)) }
    }

    fn app(&self, id: AppId) -> Result<App, KvError> {
        let app = self.apps.get(id.place as usize).copied();
        app.filter(|app| app.is_open && app.generation == id.generation).ok_or(KvError::UnknownApp)
    }

    fn sequence(&self, id: SequenceId) -> Result<&Sequence, KvError> {
        self.sequences.get(&id).ok_or(KvError::UnknownSequence(id))
    }

    fn new_node(&mut self, node: Node) -> u32 {
        match self.free_nodes.pop() {
            Some(place) => {
                self.nodes[place as usize] = node;
                place
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        }
    }

    fn free_node(&mut self, node: u32) {
        self.translated.remove(&node);
        self.attention.remove(&node);
        self.losses.remove(&node);
        self.nodes[node as usize] = Node::new(Kind::Free, BASE);
        self.free_nodes.push(node);
    }

    /// Where contexts of a variant begin.
    fn root(&mut self, salt: u32, variant: u16) -> u32 {
        let variant = if self.adapters[usize::from(variant)].is_activated { BASE } else { variant };
        if let Some(&root) = self.roots.get(&(salt, variant)) {
            return root;
        }
        let root = self.new_node(Node::new(Kind::Root, variant));
        self.roots.insert((salt, variant), root);
        root
    }

    fn new_op(&mut self, pending: Pending, bytes: u64) -> Op {
        self.moves += 1;
        let id = OpId(self.moves);
        self.encodings += usize::from(matches!(pending.kind, OpKind::Encode { .. }));
        self.pending.insert(id, pending);
        for node in pending.holds() {
            self.nodes[node as usize].busy += 1;
            (0..self.tiers.len()).for_each(|tier| self.consider(node, tier));
        }
        Op { id, kind: pending.kind, bytes }
    }
}
