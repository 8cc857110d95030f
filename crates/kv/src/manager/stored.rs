//! Where chunks lie in tiers below memory, and what of the lowest one may outlive the manager: chunks are described for a file
//! that is read by the next one, which puts them into its tree where they lie.

use interleaf_contract::CHUNK_TOKENS;

use super::{Manager, Pending};
use crate::AdapterId;
use crate::blocks::Place;
use crate::children::{self, Key};
use crate::form::Over;
use crate::node::{BASE, EXACT, Kind, NONE, Node};
use crate::numbers::Numbered;
use crate::op::{OpId, OpKind};

/// Names what a chunk has of the lowest tier, until that is forgotten ([`Manager::take_forgotten`]); then it may name another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoredId(pub u32);

/// Where in a tier below memory a chunk lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAt {
    /// The tier.
    pub tier: usize,
    /// Its layers, each with what it has there, without those that are not stored with it.
    pub pages: Vec<StoredPage>,
}

/// K and V of a chunk in one layer, below memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoredPage {
    /// The layer.
    pub layer: usize,
    /// Where it begins, in bytes: from the beginning of the layer's stripe, or of the tier where that has none.
    pub at: u64,
    /// How long it is, without rounding.
    pub bytes: u64,
}

/// A chunk of the lowest tier, as the next manager can be told of it. Chunks of apps with a salt, of activated adapters, and in
/// forms that not every manager knows or that follow from what is in memory alone, are in none.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredChunk {
    /// Its name.
    pub id: StoredId,
    /// The chunk before; `None` for the first of a text.
    pub parent: Option<StoredId>,
    /// The base's chunk whose lower layers it shares, or that it is decoded over.
    pub anchor: Option<StoredId>,
    /// The adapter; `None` for the base.
    pub adapter: Option<AdapterId>,
    /// Its tokens.
    pub tokens: [u32; CHUNK_TOKENS],
    /// The first layer that it has itself, and one past the last.
    pub layers: (u8, u8),
    /// What its pages are kept in, [`Config::forms`](crate::Config::forms) being counted from 1.
    pub form: u8,
    /// A bound on what it has lost, in nats; 0 for exact.
    pub drift: f32,
    /// What those who used it allow.
    pub least_budget: f32,
    /// Where it lies, stripe by stripe: what only a manager of the same tier can read.
    pub places: Vec<u64>,
}

impl Manager {
    /// The same manager, which remembers what it forgets of its lowest tier ([`Manager::take_forgotten`]), for whoever keeps an
    /// account of that beyond its life.
    #[must_use]
    pub fn with_lasting_tier(mut self) -> Self {
        if let Some(lowest) = self.tiers.last_mut() {
            lowest.remember_given_back();
        }
        self
    }

    /// Where in a tier below memory a move reads or writes.
    #[must_use]
    pub fn stored_at(&self, op: OpId) -> Option<StoredAt> {
        let Pending { kind, node, list, top, .. } = *self.pending.get(&op)?;
        let at = &self.nodes[node as usize];
        match kind {
            OpKind::Read { from } => Some(self.pages_at(at, from, at.pages[from], at.top[from])),
            OpKind::Write { to, .. } => Some(self.pages_at(at, to, list, top)),
            OpKind::Copy
            | OpKind::Translate
            | OpKind::Encode { .. }
            | OpKind::Recompute
            | OpKind::Materialise { .. }
            | OpKind::Load => None,
        }
    }

    /// Where a write from one tier below memory to the next reads, as [`Manager::stored_at`] says where it writes.
    #[must_use]
    pub fn written_from(&self, op: OpId) -> Option<StoredAt> {
        let Pending { kind: OpKind::Write { from, .. }, node, .. } = *self.pending.get(&op)? else {
            return None;
        };
        let at = &self.nodes[node as usize];
        (from > 0).then(|| self.pages_at(at, from, at.pages[from], at.top[from]))
    }

    /// What names that chunk in the lowest tier, as long as it lies there; `None` for other tiers.
    #[must_use]
    pub fn stored_id(&self, op: OpId) -> Option<StoredId> {
        let Pending { kind, node, list, .. } = *self.pending.get(&op)?;
        let (tier, list) = match kind {
            OpKind::Read { from } => (from, self.nodes[node as usize].pages[from]),
            OpKind::Write { to, .. } => (to, list),
            _ => return None,
        };
        (tier + 1 == self.tiers.len() && list != NONE).then_some(StoredId(list))
    }

    fn pages_at(&self, node: &Node, tier: usize, list: u32, top: u8) -> StoredAt {
        let (of, stored) = (&self.tiers[tier], self.layers_of(node));
        let mut before = 0;
        let page = |layer: usize| {
            let bytes = stored.bytes(layer);
            let piece = of.piece(list, layer).filter(|_| bytes > 0)?;
            let within = if of.is_striped() { 0 } else { before };
            before += bytes;
            Some(StoredPage { layer, at: of.offset(piece, layer) + within, bytes })
        };
        let pages = (usize::from(node.first)..usize::from(top)).filter_map(page).collect();
        StoredAt { tier, pages }
    }

    /// The chunk that a move writes to the lowest tier, if the next manager can be told of it. What it depends on is there, or also on
    /// its way.
    #[must_use]
    pub fn lasting(&self, op: OpId) -> Option<StoredChunk> {
        let lowest = self.tiers.len() - 1;
        let Pending { kind: OpKind::Write { to, .. }, node, list, top, .. } = *self.pending.get(&op)? else {
            return None;
        };
        let at = &self.nodes[node as usize];
        let known = &self.adapters[usize::from(at.variant)];
        let is_form_known = match at.form {
            EXACT => true,
            form => self.config.forms.get(usize::from(form) - 1).is_some_and(|form| !form.by_density),
        };
        let is_lasting = to == lowest
            && at.kind == Kind::Shared
            && usize::from(at.len) == CHUNK_TOKENS
            && at.from == 0
            && !known.is_activated
            && is_form_known
            && !self.translated.contains(&node)
            && !self.losses.contains_key(&node)
            && !self.is_salted(node);
        let stored = |above: u32| {
            let list = self.nodes[above as usize].pages[lowest];
            if list != NONE {
                return Some(StoredId(list));
            }
            // It may be on its way there as well.
            let is_write =
                |op: &&Pending| op.node == above && op.kind == OpKind::Write { from: lowest - 1, to };
            self.pending.values().find(is_write).map(|op| StoredId(op.list))
        };
        // Without what it depends on it is of no use to anybody.
        let parent = if self.is_root(at.parent) { None } else { Some(stored(at.parent)?) };
        let anchor = match self.nodes.get(at.anchor as usize) {
            Some(anchor) if anchor.variant != BASE => return None,
            Some(_) => Some(stored(at.anchor)?),
            None => None,
        };
        is_lasting.then(|| StoredChunk {
            id: StoredId(list),
            parent,
            anchor,
            adapter: (at.variant != BASE)
                .then_some(AdapterId { index: at.variant, generation: known.generation }),
            tokens: at.tokens,
            layers: (at.first, top),
            form: at.form,
            drift: at.drift,
            least_budget: at.least_budget,
            places: self.tiers[to].places(list).into_iter().map(|Place(place)| place).collect(),
        })
    }

    /// Whether a chunk is of apps with a salt.
    fn is_salted(&self, node: u32) -> bool {
        let mut at = node;
        while self.nodes[at as usize].kind == Kind::Shared {
            at = self.nodes[at as usize].parent;
        }
        !self.roots.iter().any(|((salt, _), root)| *salt == 0 && *root == at)
    }

    /// Puts chunks into the tree that lie in the lowest tier from before this manager's life: as nobody's, until somebody comes
    /// with their tokens. Each comes after those that it depends on; one that is there already, where it is said to lie, stays as it
    /// is. Returns what each is named from now on, or `None` where one does not fit: its adapter is unknown, something else lies there,
    /// or is there under the same key, or what it depends on is not as it was.
    pub fn restore(&mut self, chunks: &[StoredChunk]) -> Vec<Option<StoredId>> {
        let mut nodes = Numbered::default();
        let restore = |chunk: &StoredChunk| {
            let (node, id) = self.restore_one(chunk, &nodes)?;
            nodes.insert(chunk.id.0, node);
            Some(id)
        };
        chunks.iter().map(restore).collect()
    }

    fn restore_one(&mut self, chunk: &StoredChunk, nodes: &Numbered<u32, u32>) -> Option<(u32, StoredId)> {
        let variant = chunk.adapter.map_or(Ok(BASE), |id| self.variant(id)).ok()?;
        let known = &self.adapters[usize::from(variant)];
        let lowest = self.tiers.len() - 1;
        let (first, top) = chunk.layers;
        let over = match chunk.form {
            EXACT => Over::Nothing,
            form => match self.config.forms.get(usize::from(form) - 1) {
                Some(form) => form.over,
                None => return None,
            },
        };
        let is_drift_told = (chunk.form == EXACT || chunk.drift > 0.0) && chunk.drift <= chunk.least_budget;
        let is_whole = variant == BASE || usize::from(top) == self.config.layers;
        if lowest == 0
            || known.is_activated
            || first > known.shared
            || variant == BASE && first > 0
            || first >= top
            || usize::from(top) > self.config.layers
            || !is_drift_told
            || !is_whole
            || (first > 0 || over != Over::Nothing) != chunk.anchor.is_some()
        {
            return None;
        }
        let named = |id: Option<StoredId>| match id {
            Some(StoredId(id)) => nodes.get(&id).copied(),
            None => Some(NONE),
        };
        let (parent, anchor) = (named(chunk.parent)?, named(chunk.anchor)?);
        let is_after = |parent: &Node| parent.variant == variant && usize::from(parent.len) == CHUNK_TOKENS;
        let is_under = |anchor: &Node| {
            let needed = if over == Over::Nothing { first } else { self.config.layers as u8 };
            let is_exact = anchor.form == EXACT && anchor.drift == 0.0;
            anchor.variant == BASE
                && anchor.tokens == chunk.tokens
                && anchor.top[lowest] >= needed
                && self.stands_alone(anchor)
                && (is_exact || first == 0 || chunk.drift > 0.0)
        };
        if !self.nodes.get(parent as usize).is_none_or(is_after)
            || !self.nodes.get(anchor as usize).is_none_or(is_under)
        {
            return None;
        }
        let parent = if parent == NONE { self.root(0, variant) } else { parent };
        let key = Key { variant, from: 0, is_lossy: chunk.drift > 0.0, tokens: &chunk.tokens };
        let places: Vec<Place> = chunk.places.iter().copied().map(Place).collect();
        if let Some(there) = children::find(&self.nodes, self.nodes[parent as usize].children, key) {
            let at = &self.nodes[there as usize];
            let list = at.pages[lowest];
            let is_it = list != NONE
                && (at.first, at.top[lowest], at.form, at.drift) == (first, top, chunk.form, chunk.drift)
                && at.anchor == anchor
                && self.tiers[lowest].places(list) == places;
            return is_it.then_some((there, StoredId(list)));
        }
        let stored = self.layers_in(variant, chunk.form).clone();
        let layers = usize::from(first)..usize::from(top);
        let list = self.tiers[lowest].take_again(layers, &stored, &places)?;
        let mut node = Node::new(Kind::Shared, variant);
        (node.tokens, node.len, node.first, node.form) =
            (chunk.tokens, CHUNK_TOKENS as u8, first, chunk.form);
        (node.drift, node.least_budget, node.last_use) =
            (chunk.drift, chunk.least_budget, self.situation.now);
        (node.parent, node.anchor) = (parent, anchor);
        (node.pages[lowest], node.top[lowest]) = (list, top);
        node.last_request = self.requests;
        let before = self.nodes.get(parent as usize).map_or(0, |parent| parent.context_chunks);
        node.context_chunks = before.saturating_add(1);
        let node = self.new_node(node);
        let of_parent = self.nodes[parent as usize].children;
        self.nodes[parent as usize].children = children::insert(&mut self.nodes, of_parent, node);
        let needs = self.needs(&self.nodes[node as usize]);
        if let Some(at) = self.nodes.get_mut(anchor as usize) {
            at.followers += 1;
            at.keep = at.keep.max(needs);
        }
        self.enter(node, lowest);
        self.consider(node, lowest);
        self.offer(node);
        Some((node, StoredId(list)))
    }

    /// What has gone from the lowest tier since this was last asked, and whatever was to be written there and was not: those names
    /// are given again. Nothing unless the manager was told to remember ([`Manager::with_lasting_tier`]).
    pub fn take_forgotten(&mut self) -> Vec<StoredId> {
        let lowest = self.tiers.last_mut();
        lowest.map_or(Vec::new(), |lowest| lowest.take_given_back().into_iter().map(StoredId).collect())
    }
}
