//! A call begins: what of its prompt is there already, under which variant and how exact, and what must be moved for it.

use interleaf_contract::{CHUNK_TOKENS, PageTable};

use super::find::Found;
use super::{MOST_SEQUENCES, Manager, Pending};
use crate::node::{BASE, EXACT, Kind, NONE, Node};
use crate::op::{Op, OpKind};
use crate::policy::HALF_LIFE;
use crate::sequence::Sequence;
use crate::{AdapterId, AppId, FirstTouch, KvError, Missing, SequenceId, SwitchCosts, plan_switch};

/// How long the recent past is that a batch's size is taken from, in seconds (ELORA, §4.2).
const RECENT: f64 = 5.0;

/// A call.
#[derive(Debug, Clone, Copy)]
pub struct Open<'a> {
    /// Whose it is.
    pub app: AppId,
    /// The adapter that answers and the first position that it acts on; `None` for the base.
    pub adapter: Option<(AdapterId, usize)>,
    /// The prompt.
    pub tokens: &'a [u32],
    /// How many of its tokens may be found: the logits of the last one are needed, so that it is computed in any case.
    pub most: usize,
    /// Bound on the mean divergence of what is read, in nats; 0 for exact.
    pub budget: f32,
    /// Whether others may find what it computes.
    pub is_kept: bool,
    /// Seconds on the caller's clock, which never goes back.
    pub now: f64,
}

/// An open sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// Its name.
    pub sequence: SequenceId,
    /// Tokens of the prompt that are there, or will be once the moves have ended well.
    pub reused: usize,
    /// What must be moved first.
    pub moves: Vec<Op>,
}

impl Manager {
    /// Opens a sequence. Nothing that it finds is taken from it until it is closed.
    ///
    /// # Errors
    /// If the app or the adapter is unknown, the adapter's weights find no room, or [`MOST_SEQUENCES`] are open.
    pub fn open(&mut self, open: &Open<'_>) -> Result<Opened, KvError> {
        self.open_within(open, open.budget)
    }

    /// The same, reading what is exact alone: what it computes is exact, too, and may be encoded within its budget once it is
    /// closed.
    ///
    /// # Errors
    /// Likewise.
    pub fn open_exact(&mut self, open: &Open<'_>) -> Result<Opened, KvError> {
        self.open_within(open, 0.0)
    }

    /// Opens a sequence that reads what has lost no more than a bound.
    fn open_within(&mut self, open: &Open<'_>, most_drift: f32) -> Result<Opened, KvError> {
        let app = self.app(open.app)?;
        if self.sequences.len() >= MOST_SEQUENCES {
            return Err(KvError::TooManySequences { most: MOST_SEQUENCES });
        }
        let (variant, from) = self.under(open)?;
        self.clock(open.now);

        let root = self.root(app.salt, variant);
        let mut found = match open.is_kept {
            true => {
                self.find(root, variant, from, &open.tokens[..open.most.min(open.tokens.len())], most_drift)
            }
            false => Found::default(),
        };
        // What it has found must not be taken to make room for its adapter, nor room for one chunk be made of what another
        // shares, which would take that chunk with it.
        let anchors = found.path.iter().map(|&node| self.nodes[node as usize].anchor);
        let anchors: Vec<u32> = anchors.filter(|anchor| *anchor != NONE).collect();
        let tail = found.tail.map(|(node, _)| node);
        let pinned: Vec<u32> = found.path.iter().copied().chain(tail).collect();
        let pinned: Vec<u32> = pinned.into_iter().chain(anchors.iter().copied()).collect();
        pinned.iter().for_each(|&node| self.pin(node));
        let weights = match self.bring_adapter(variant, &pinned) {
            Ok(weights) => weights,
            Err(error) => {
                pinned.iter().for_each(|&node| self.unpin(node));
                return Err(error);
            }
        };
        self.count_request(variant);
        self.opened += 1;
        let id = SequenceId(self.opened);
        let mut sequence = Sequence {
            id,
            app: open.app.place,
            variant,
            from,
            is_kept: open.is_kept,
            budget: open.budget,
            found_drift: 0.0,
            found_narrowed: 0.0,
            own_drift: 0.0,
            path: Vec::new(),
            shared: 0,
            tokens: 0,
            room: 0,
            table: PageTable::default(),
            is_lost: false,
            unready: Vec::new(),
            attention: Vec::new(),
            first_touch: FirstTouch::Nothing,
        };
        let mut moves = Vec::new();
        let node = self.adapters[usize::from(variant)].node;
        if node != NONE {
            self.pin(node);
            if !self.nodes[node as usize].ready {
                sequence.unready.push(node);
            }
        }
        self.bring(&mut found, weights.as_ref(), &mut moves);
        self.wake(&mut found, &mut moves);
        anchors.iter().for_each(|&anchor| self.unpin(anchor));
        moves.extend(weights);
        for &node in &found.path {
            self.join(&mut sequence, node);
        }
        sequence.shared = sequence.path.len();
        sequence.tokens = sequence.path.len() * CHUNK_TOKENS;
        sequence.room = sequence.tokens;
        if let Some((node, tokens)) = found.tail {
            self.unpin(node);
            moves.extend(self.begin_chunk_as(id, &mut sequence, node, tokens));
        }
        if sequence.path.len() == sequence.shared && sequence.tokens == sequence.path.len() * CHUNK_TOKENS {
            let (found, base) =
                self.touch(&Open { budget: most_drift, ..*open }, variant, from, sequence.path.len());
            sequence.first_touch = match found {
                FirstTouch::Translated { prefix, drift, .. } => {
                    let chunks = self.translate(id, &mut sequence, &base, drift, &mut moves);
                    FirstTouch::Translated { prefix, tokens: chunks * CHUNK_TOKENS, drift }
                }
                refused => refused,
            };
        }
        let drifts = sequence.path.iter().map(|&node| self.nodes[node as usize].drift);
        sequence.found_drift = drifts.fold(0.0, f32::max);
        sequence.found_narrowed = self.narrowed(&sequence.path);
        let reused = sequence.tokens;
        self.sequences.insert(id, sequence);
        self.settle();
        Ok(Opened { sequence: id, reused, moves })
    }

    /// How many tokens of a prompt a call would find now, those below memory and those that would be translated included.
    /// Nothing changes.
    ///
    /// # Errors
    /// If the app or the adapter is unknown.
    pub fn look_up(&self, open: &Open<'_>) -> Result<usize, KvError> {
        let (variant, from) = self.under(open)?;
        let tokens = &open.tokens[..open.most.min(open.tokens.len())];
        let found = match self.start(open)? {
            Some((root, variant, from)) if open.is_kept => {
                self.find(root, variant, from, tokens, open.budget)
            }
            _ => Found::default(),
        };
        let translated = match found.tail {
            None => self.touch(open, variant, from, found.path.len()).1.len(),
            Some(_) => 0,
        };
        Ok(found.tokens() + translated * CHUNK_TOKENS)
    }

    /// Forgets what is there of a prompt for an app, from its end as far as nobody else has used it and nothing else goes on
    /// from it; what a move still reads goes when that has ended.
    ///
    /// # Errors
    /// If the app or the adapter is unknown.
    pub fn forget(&mut self, open: &Open<'_>) -> Result<(), KvError> {
        let Some((root, variant, from)) = self.start(open)? else { return Ok(()) };
        let found = self.find(root, variant, from, open.tokens, open.budget);
        let whole = |&(node, tokens): &(u32, usize)| usize::from(self.nodes[node as usize].len) == tokens;
        let tail = found.tail.filter(whole).map(|(node, _)| node);
        let bit = 1 << open.app.place;
        for node in found.path.into_iter().chain(tail).rev() {
            let anchor = self.nodes[node as usize].anchor;
            for own in [node, anchor].into_iter().filter(|own| *own != NONE) {
                let at = &mut self.nodes[own as usize];
                at.apps &= !bit;
                if at.apps == 0 && at.pins == 0 && at.children == NONE && at.followers == 0 {
                    self.remove_subtree(own);
                }
            }
        }
        self.settle();
        Ok(())
    }

    /// Where a call's contexts begin, and under what; `None` if there is nothing yet.
    pub(super) fn start(&self, open: &Open<'_>) -> Result<Option<(u32, u16, usize)>, KvError> {
        let app = self.app(open.app)?;
        let (variant, from) = self.under(open)?;
        let of_root = if self.adapters[usize::from(variant)].is_activated { BASE } else { variant };
        Ok(self.roots.get(&(app.salt, of_root)).map(|&root| (root, variant, from)))
    }

    /// What a call is computed under, and the first position that it acts on. Where an adapter leaves every layer, its
    /// contexts are the base's.
    pub(super) fn under(&self, open: &Open<'_>) -> Result<(u16, usize), KvError> {
        let Some((id, from)) = open.adapter else { return Ok((BASE, 0)) };
        let variant = self.variant(id)?;
        let is_base = usize::from(self.adapters[usize::from(variant)].shared) == self.config.layers;
        Ok(if is_base { (BASE, 0) } else { (variant, from) })
    }

    /// Makes what was found come to memory, as far as there is room for it.
    fn bring(&mut self, found: &mut Found, weights: Option<&Op>, moves: &mut Vec<Op>) {
        let first = found.path.iter().position(|&node| !self.nodes[node as usize].is_in(0));
        let Some(first) = first else { return };
        for place in first..found.path.len() {
            let node = found.path[place];
            let Node { first: low, form, variant, .. } = self.nodes[node as usize];
            let list = match self.bring_anchor(node, moves) {
                true => self.make_room(0, usize::from(low)..self.config.layers, variant, form),
                false => None,
            };
            let Some(list) = list else {
                self.let_go(found, place);
                break;
            };
            let layers = self.config.layers as u8;
            let at = &mut self.nodes[node as usize];
            (at.pages[0], at.top[0], at.ready) = (list, layers, false);
            self.enter(node, 0);
        }
        let missing = &found.path[first..];
        let drifts = found.path[..first].iter().map(|&node| self.nodes[node as usize].drift);
        let mut drift = drifts.fold(0.0, f32::max);
        let mut stored = |&node: &u32| {
            let at = &self.nodes[node as usize];
            // Computed over what has lost more, it would be another.
            // The base's lower layers are others' to read, and not computed under an adapter.
            let is_computed = at.form == EXACT && at.first == 0 && drift <= at.drift;
            drift = drift.max(at.drift);
            let Some(tier) = at.stored() else { return Missing::Lost };
            let bytes = self.tiers[tier].list_bytes(at.pages[tier]);
            if is_computed { Missing::Stored(bytes) } else { Missing::Encoded(bytes) }
        };
        let recomputed = match self.config.can_recompute {
            true => {
                let mut costs: SwitchCosts = self.config.costs;
                costs.recompute.fixed += weights.map_or(0.0, |op| costs.read.of(op.bytes as f64));
                plan_switch(&missing.iter().map(&mut stored).collect::<Vec<_>>(), costs).recompute
            }
            false => Vec::new(),
        };
        for (index, node) in missing.iter().copied().enumerate() {
            let at = &self.nodes[node as usize];
            let bytes = self.chunk_bytes(0, node);
            let kind = match at.stored() {
                Some(from) if recomputed.binary_search(&index).is_err() => OpKind::Read { from },
                _ => OpKind::Recompute,
            };
            let pending = Pending { top: self.config.layers as u8, ..Pending::of(kind, node) };
            moves.push(self.new_op(pending, bytes));
        }
    }

    /// What was found from a chunk on is not used after all.
    pub(super) fn let_go(&mut self, found: &mut Found, place: usize) {
        let tail = found.tail.take().map(|(tail, _)| tail);
        found.path.drain(place..).chain(tail).for_each(|node| self.unpin(node));
    }

    /// Sees to it that a chunk's anchor is in memory, or on its way there, with the layers that the chunk needs of it. Returns
    /// whether that is so.
    fn bring_anchor(&mut self, node: u32, moves: &mut Vec<Op>) -> bool {
        let Node { anchor, .. } = self.nodes[node as usize];
        if anchor == NONE {
            return true;
        }
        if self.nodes[anchor as usize].is_in(0) {
            return self.has_anchor(node);
        }
        let Some(from) = self.nodes[anchor as usize].stored() else { return false };
        let top = self.nodes[anchor as usize].top[from];
        let Node { form, variant, .. } = self.nodes[anchor as usize];
        if top < self.needs(&self.nodes[node as usize]) || !self.is_supported(anchor) {
            return false;
        }
        // Nothing else may stand on what it stands on itself: room for it is not to be made of that.
        let above: Vec<u32> = self.above(anchor).collect();
        above.iter().for_each(|&node| self.pin(node));
        let list = self.make_room(0, 0..usize::from(top), variant, form);
        above.iter().for_each(|&node| self.unpin(node));
        let Some(list) = list else { return false };
        self.frontier_take(anchor);
        let at = &mut self.nodes[anchor as usize];
        (at.pages[0], at.top[0], at.ready) = (list, top, false);
        self.enter(anchor, 0);
        let bytes = self.chunk_bytes(0, anchor);
        let kind = OpKind::Read { from };
        moves.push(self.new_op(Pending { top, ..Pending::of(kind, anchor) }, bytes));
        true
    }

    /// A sequence goes on with a chunk of the tree, which is pinned.
    pub(super) fn join(&mut self, sequence: &mut Sequence, node: u32) {
        self.use_by(node, sequence);
        if !self.is_readable(node) {
            sequence.unready.push(node);
        }
        let anchor = self.nodes[node as usize].anchor;
        if anchor != NONE {
            // It is needed as long as this one is there, and used only by its own variant: what that alone reads may go.
            let at = &self.nodes[anchor as usize];
            if !at.ready {
                sequence.unready.push(anchor);
            }
        }
        self.push(sequence, node);
    }

    /// A sequence has one chunk more, in the tree or its own.
    pub(super) fn push(&mut self, sequence: &mut Sequence, node: u32) {
        sequence.path.push(node);
        if self.tiers[0].is_striped() {
            let id = sequence.id;
            sequence.table.push(self.config.layers, |layer| self.entry_read(node, layer, id));
        }
    }

    /// A sequence begins its next chunk as another begins: it takes that over if nobody else can want it, else it copies
    /// what it needs. Without room for a copy it has less.
    pub(super) fn begin_chunk_as(
        &mut self,
        id: SequenceId,
        sequence: &mut Sequence,
        node: u32,
        tokens: usize,
    ) -> Option<Op> {
        let Node { len, pins, busy, children, followers, first, variant, from, anchor, form, .. } =
            self.nodes[node as usize];
        let is_same = (variant, from) == sequence.variant_of(sequence.path.len());
        let is_there = self.nodes[node as usize].is_in(0);
        let stored = self.nodes[node as usize].stored().filter(|_| !is_there);
        let is_free = is_same
            && is_there
            && form == EXACT
            && pins == 0
            && busy == 0
            && children == NONE
            && followers == 0
            && first == 0;
        if is_free && usize::from(len) == tokens && tokens < CHUNK_TOKENS {
            self.take_over(node);
            sequence.tokens += tokens;
            sequence.room += tokens;
            self.push(sequence, node);
            return None;
        }
        // Of sequences that were closed copies may still be under way.
        if usize::from(busy) >= MOST_SEQUENCES {
            return None;
        }
        self.pin(node);
        let list = self.make_room(0, 0..self.config.layers, BASE, EXACT);
        self.unpin(node);
        let list = list?;
        let private = self.private(sequence, list);
        let at = &mut self.nodes[private as usize];
        at.len = tokens as u8;
        at.ready = false;
        let text = self.nodes[node as usize].tokens;
        self.nodes[private as usize].tokens[..tokens].copy_from_slice(&text[..tokens]);
        self.nodes[private as usize].drift = self.nodes[node as usize].drift;
        sequence.unready.push(private);
        sequence.tokens += tokens;
        sequence.room += tokens;
        // It supplied these tokens itself.
        self.nodes[node as usize].apps |= 1 << sequence.app;
        let kind = stored.map_or(OpKind::Copy, |from| OpKind::Read { from });
        let bytes = self.chunk_bytes(0, private);
        let pending = Pending { copy: Some((id, private)), anchor, ..Pending::of(kind, node) };
        Some(self.new_op(pending, bytes))
    }

    /// Takes a chunk of the tree that nobody uses out of it, for a sequence to go on writing.
    fn take_over(&mut self, node: u32) {
        for tier in 1..self.tiers.len() {
            // What is written of it will not be what it is.
            self.drop_pages(node, tier);
        }
        self.queues[0].take(&mut self.nodes, node);
        self.leave(node, 0);
        self.detach(node);
        let at = &mut self.nodes[node as usize];
        (at.kind, at.anchor, at.least_budget) = (Kind::Private, NONE, f32::INFINITY);
    }

    /// A chunk of a sequence's own, over pages that it has got.
    pub(super) fn private(&mut self, sequence: &mut Sequence, list: u32) -> u32 {
        let (variant, from) = sequence.variant_of(sequence.path.len());
        let mut node = Node::new(Kind::Private, variant);
        node.from = from;
        node.pages[0] = list;
        node.top[0] = self.config.layers as u8;
        node.ready = true;
        let node = self.new_node(node);
        self.push(sequence, node);
        node
    }

    pub(super) fn pin(&mut self, node: u32) {
        self.nodes[node as usize].pins += 1;
        // Whoever uses it wants it to stay.
        self.nodes[node as usize].leaving = false;
        if self.nodes[node as usize].is_in(0) {
            self.queues[0].take(&mut self.nodes, node);
        }
    }

    pub(super) fn unpin(&mut self, node: u32) {
        self.nodes[node as usize].pins -= 1;
        self.consider(node, 0);
    }

    /// A sequence uses a chunk.
    pub(super) fn use_by(&mut self, node: u32, sequence: &Sequence) {
        self.visit(node);
        let at = &mut self.nodes[node as usize];
        at.apps |= 1 << sequence.app;
        at.least_budget = at.least_budget.min(sequence.budget);
    }

    /// Something is used.
    fn visit(&mut self, node: u32) {
        let now = self.situation.now;
        let at = &mut self.nodes[node as usize];
        at.visits += 1.0;
        at.lately = at.lately * ((at.last_use - now) / HALF_LIFE).exp2() as f32 + 1.0;
        (at.last_use, at.last_request) = (now, self.requests);
    }

    /// Time goes on.
    pub(super) fn clock(&mut self, now: f64) {
        let beginning = *self.beginning.get_or_insert(now);
        self.situation.now = self.situation.now.max(now - beginning);
    }

    fn count_request(&mut self, variant: u16) {
        self.requests = self.requests.wrapping_add(1);
        let now = self.situation.now;
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|at| now - at > RECENT) {
            self.recent.pop_front();
        }
        let weights = self.adapters[usize::from(variant)].node;
        if weights != NONE {
            self.visit(weights);
        }
    }
}
