//! Chunks change their form: encoded when nobody uses them, decoded when what they are decoded over should go, encoded anew
//! over the base's once there is one.
//!
//! What something is decoded over is never encoded itself, nor taken, while that is so.

use interleaf_contract::CHUNK_TOKENS;

use super::narrow::Narrowed;
use super::{Encoded, Manager, Pending};
use crate::children::{self, Key};
use crate::form::{Form, Layers, Over, Source};
use crate::node::{BASE, EXACT, Kind, NONE, Node, Refused};
use crate::op::{Op, OpKind};
use crate::{KvError, Open};

/// Nodes that a tick looks at for better anchors, those on the way to them included.
const TICK_NODES: usize = 1024;

/// A bound for what has lost twice: divergences grow with the square of errors, and errors add up.
pub(super) fn both(first: f32, second: f32) -> f32 {
    if first == 0.0 || second == 0.0 { first + second } else { (first.sqrt() + second.sqrt()).powi(2) }
}

/// What a budget leaves beside a loss.
pub(super) fn rest(budget: f32, drift: f32) -> f32 {
    if drift == 0.0 { budget } else { (budget.sqrt() - drift.sqrt()).max(0.0).powi(2) }
}

impl Manager {
    /// Where each layer of each chunk of a prompt would come from for a call now: chunks × layers, the chunk that is not
    /// full left out.
    ///
    /// # Errors
    /// If the app or the adapter is unknown.
    pub fn sources(&self, open: &Open<'_>) -> Result<Vec<Vec<Source>>, KvError> {
        let layers = self.config.layers;
        let (variant, from) = self.under(open)?;
        let tokens = &open.tokens[..open.most.min(open.tokens.len())];
        let found = match self.start(open)? {
            Some((root, variant, from)) if open.is_kept => {
                self.find(root, variant, from, tokens, open.budget).path
            }
            _ => Vec::new(),
        };
        let of = |&node: &u32| -> Vec<Source> {
            let Node { first, form, variant, .. } = self.nodes[node as usize];
            let own = match self.form(variant, form) {
                None => Source::Own,
                Some(Form { over: Over::Nothing, .. }) => Source::Form(form - 1),
                Some(_) => Source::OverAnchor(form - 1),
            };
            (0..layers).map(|layer| if layer < usize::from(first) { Source::Shared } else { own }).collect()
        };
        let mut sources: Vec<Vec<Source>> = found.iter().map(of).collect();
        let (_, translated) = self.touch(open, variant, from, found.len());
        sources.resize(found.len() + translated.len(), vec![Source::Translated; layers]);
        sources.resize(open.tokens.len() / CHUNK_TOKENS, vec![Source::Recomputed; layers]);
        Ok(sources)
    }

    /// A form that is not the exact one, of chunks of a variant: those that all have are counted first, then its own.
    pub(super) fn form(&self, variant: u16, form: u8) -> Option<&Form> {
        let place = usize::from(form).checked_sub(1)?;
        let own = || self.adapters[usize::from(variant)].forms.get(place - self.config.forms.len());
        self.config.forms.get(place).or_else(own)
    }

    /// The form that a chunk is in; `None` for the exact one.
    pub(super) fn form_of(&self, node: &Node) -> Option<&Form> {
        self.form(node.variant, node.form)
    }

    /// What the layers of a variant's chunks are stored as in a form.
    pub(super) fn layers_in(&self, variant: u16, form: u8) -> &Layers {
        self.form(variant, form).map_or(&self.exact, |form| &form.layers)
    }

    /// What the layers of a chunk are stored as.
    pub(super) fn layers_of(&self, node: &Node) -> &Layers {
        self.layers_in(node.variant, node.form)
    }

    /// A chunk that nobody uses is to be encoded in the smallest form that all its users allow, alone or over one of its twins,
    /// if that saves anything and was not tried in vain. What is decoded over something stays as it is.
    ///
    /// What would be at rest waits for time that is idle, as it is: it cannot lose twice for the sake of the time until then.
    pub(super) fn encode_behind(&mut self, node: u32, twins: &[u32], is_idle: bool) -> Option<Op> {
        let at = &self.nodes[node as usize];
        let forms = self.config.forms.len() + self.adapters[usize::from(at.variant)].forms.len();
        if forms == 0 || !self.may_change(node) || !self.stands_alone(at) || self.has_lossy_twin(at) {
            return None;
        }
        let bytes_in =
            |layers: &Layers| self.tiers[0].chunk_bytes(usize::from(at.first)..self.config.layers, layers);
        let (left, now) = (rest(at.least_budget, at.drift), bytes_in(self.layers_of(at)));
        let any = twins.iter().copied().find(|&twin| self.is_anchor_of(twin, node));
        // It comes first.
        let base = any.filter(|&any| self.nodes[any as usize].variant == BASE);
        let mut best: Option<(u64, u8, u32)> = None;
        for number in 1..=forms as u8 {
            let Some(form) = self.form(at.variant, number) else { continue };
            let &Form { drift, over, by_density, .. } = form;
            let bytes = bytes_in(&form.layers);
            let is_smallest = bytes < best.map_or(now, |(bytes, ..)| bytes);
            if by_density || drift > left || !is_smallest || self.is_refused(node, number, base.is_some()) {
                continue;
            }
            let anchor = match over {
                Over::Nothing => Some(NONE),
                Over::Base => base,
                Over::Any => any,
            };
            if let Some(anchor) = anchor {
                best = Some((bytes, number, anchor));
            }
        }
        let (_, form, anchor) = best?;
        if !is_idle && self.layers_in(self.nodes[node as usize].variant, form).is_at_rest() {
            return None;
        }
        self.encode(node, form, anchor, base.is_some())
    }

    /// Whether there is a lossy chunk in the place that an exact one would take once it is encoded.
    pub(super) fn has_lossy_twin(&self, at: &Node) -> bool {
        let key = Key { is_lossy: true, ..children::key(at) };
        let siblings = self.nodes[at.parent as usize].children;
        at.drift == 0.0 && children::find(&self.nodes, siblings, key).is_some()
    }

    /// Whether a form was found to cost more than a chunk's users allow.
    pub(super) fn is_refused(&self, node: u32, form: u8, has_base: bool) -> bool {
        let at = &self.nodes[node as usize];
        let Some(largest) = at.refused.form() else { return false };
        let is_alone = self.form(at.variant, form).is_none_or(|form| form.over == Over::Nothing);
        let is_same = is_alone || at.refused.had_base() || !has_base;
        is_same && self.bytes_in(node, form) <= self.bytes_in(node, largest)
    }

    /// A chunk is as it will stay: if it is the base's, twins that stand alone may be smaller over it.
    pub(super) fn encode_over(&mut self, node: u32, twins: &[u32]) -> Vec<Op> {
        if self.nodes[node as usize].variant != BASE {
            return Vec::new();
        }
        let is_others = |twin: &u32| self.nodes[*twin as usize].variant != BASE;
        let others: Vec<u32> = twins.iter().copied().filter(is_others).collect();
        others.into_iter().filter_map(|twin| self.encode_behind(twin, &[node], false)).collect()
    }

    /// Tokens of which pages under adapters, with the base's that there are none of, would take less than they do alone: the
    /// longest such prefix, and what its users allow. For whoever has the time to compute the base's.
    #[must_use]
    pub fn lacking_base(&self) -> Option<(Vec<u32>, f32)> {
        if !self.has_forms_over() {
            return None;
        }
        // The last chunk of a prefix stands for those before it.
        let is_last = |node: u32, at: &Node| {
            let after = children::all(&self.nodes, at.children);
            self.could_be_smaller(node) && !after.iter().any(|&next| self.could_be_smaller(next))
        };
        let lasts = (0..).zip(&self.nodes).filter(|(node, at)| is_last(*node, at));
        let mut known = self.no_twins();
        let lacking = lasts.filter_map(|(node, at)| {
            let path = self.path_to(node);
            let root = self.nodes[*path.first()? as usize].parent;
            let is_open = self.salt_of(root) == Some(0);
            (is_open && self.pays_with_base(self.twins(node, &mut known))).then_some((path, at.least_budget))
        });
        let (path, budget) = lacking.max_by_key(|(path, _)| path.len())?;
        Some((path.iter().flat_map(|&chunk| self.nodes[chunk as usize].text()).copied().collect(), budget))
    }

    /// Whether an adapter's chunk stands alone that its users would allow over another's pages, from its prompt's start on.
    fn could_be_smaller(&self, node: u32) -> bool {
        let at = &self.nodes[node as usize];
        at.variant != BASE
            && at.from == 0
            && !self.adapters[usize::from(at.variant)].is_activated
            && at.least_budget > at.drift
            && self.may_change(node)
            && self.stands_alone(at)
    }

    /// Whether the base's pages, which are not there, and what adapters would keep over them take less than the adapters' do
    /// now, by the twins that are the last chunks of a prefix. Where some of the base's layers are there, for who shares them,
    /// the others will stay exact with these.
    fn pays_with_base(&self, twins: &[u32]) -> bool {
        let mut of_base =
            twins.iter().map(|&twin| &self.nodes[twin as usize]).filter(|at| at.variant == BASE).peekable();
        let has_some = of_base.peek().is_some();
        if of_base.any(|at| self.is_decodable(at)) {
            return false;
        }
        let held = |layers: &Layers| self.tiers[0].chunk_bytes(0..self.config.layers, layers);
        let least = |variant: u16, left: f32, is_over: bool, is_refused: &dyn Fn(u8) -> bool| {
            let forms = self.config.forms.iter().chain(&self.adapters[usize::from(variant)].forms);
            let lawful = (1..).zip(forms).filter(|(number, form)| {
                let is_kind = !form.by_density && (form.over != Over::Nothing) == is_over;
                is_kind && form.drift <= left && !is_refused(*number)
            });
            lawful.map(|(_, form)| held(&form.layers)).min()
        };
        let (mut now, mut then, mut budget) = (0, 0, f32::INFINITY);
        for twin in twins.iter().copied().filter(|&twin| self.could_be_smaller(twin)) {
            let at = &self.nodes[twin as usize];
            let own = held(self.layers_of(at));
            now += own;
            let is_refused = |form| self.is_refused(twin, form, true);
            let less = least(at.variant, rest(at.least_budget, at.drift), true, &is_refused);
            then += less.map_or(own, |less| less.min(own));
            budget = budget.min(at.least_budget);
        }
        let encoded = least(BASE, budget, false, &|_| false).filter(|_| !has_some);
        let base = encoded.unwrap_or(u64::MAX).min(held(&self.exact));
        then + base < now
    }

    /// Whether a chunk's pages may be put into another form: they are there, and nobody uses or depends on them.
    pub(super) fn may_change(&self, node: u32) -> bool {
        let at = &self.nodes[node as usize];
        at.kind == Kind::Shared
            && at.is_in(0)
            && self.is_filled(at)
            && usize::from(at.top[0]) == self.config.layers
            && usize::from(at.len) == CHUNK_TOKENS
            && at.pins == 0
            && at.busy == 0
            && at.followers == 0
            && !self.is_at_rest(at)
    }

    /// Whether a chunk's form is decoded over nothing else.
    pub(super) fn stands_alone(&self, at: &Node) -> bool {
        self.form_of(at).is_none_or(|form| form.over == Over::Nothing)
    }

    /// Of a chunk's anchor, how many layers it needs: those below its first, or all where it is decoded over them.
    pub(super) fn needs(&self, at: &Node) -> u8 {
        if self.stands_alone(at) { at.first } else { self.config.layers as u8 }
    }

    /// Plans the encoding of a chunk, over an anchor or alone, where there is room for it beside what it has.
    pub(super) fn encode(&mut self, node: u32, form: u8, anchor: u32, had_base: bool) -> Option<Op> {
        let Node { first, variant, .. } = self.nodes[node as usize];
        let layers = self.layers_in(variant, form).clone();
        let list = self.take_free(usize::from(first)..self.config.layers, &layers)?;
        let bytes = self.tiers[0].list_bytes(list);
        let top = self.config.layers as u8;
        // What it is decoded over now is read, too.
        let old = self.nodes[node as usize].anchor;
        let anchor = if anchor == NONE { old } else { anchor };
        let kind = OpKind::Encode { form };
        let pending = Pending { list, top, anchor, old, had_base, ..Pending::of(kind, node) };
        Some(self.new_op(pending, bytes))
    }

    /// The divergence of a chunk once it is in a form: what it lost before it has lost for good, and a form adds its own.
    pub(super) fn drift_in(&self, node: u32, form: u8) -> f32 {
        let at = &self.nodes[node as usize];
        both(at.drift, self.form(at.variant, form).map_or(0.0, |form| form.drift))
    }

    /// What follows from encodings, once none is under way: what was refused is tried in the next larger form, and twins are
    /// encoded over what the base's chunks are now. For all at once, so that each chunk's twins are looked for once.
    pub(super) fn after_encodings(&mut self, moves: &mut Vec<Op>) {
        let mut known = self.no_twins();
        for Encoded { node, is_refused } in std::mem::take(&mut self.encoded) {
            // It may have gone since.
            if self.nodes[node as usize].kind != Kind::Shared {
                continue;
            }
            let twins = self.twins(node, &mut known);
            if is_refused {
                // The next larger one is asked for where this one was: at rest, if that is what was refused.
                let Node { variant, refused, .. } = self.nodes[node as usize];
                let is_idle = refused.form().is_some_and(|form| self.layers_in(variant, form).is_at_rest());
                if let Some(op) = self.encode_behind(node, twins, is_idle) {
                    moves.push(op);
                    continue;
                }
                moves.extend(self.write_behind(node, 0));
            }
            moves.extend(self.encode_over(node, twins));
        }
    }

    /// An encoding has ended: the chunk takes its new form, unless somebody has begun to use it. Returns whether it cost more
    /// than its users allow, and another form may do.
    pub(super) fn end_encode(&mut self, pending: Pending, form: u8, is_done: bool) -> bool {
        let Pending { node, list, anchor, .. } = pending;
        let at = &self.nodes[node as usize];
        let over = self.nodes.get(anchor as usize).filter(|_| at.first > 0 && anchor != at.anchor);
        let shared = over.map_or(0.0, |over| over.drift);
        let narrowed = pending.is_narrowing.then(|| self.narrowed_to(node, form, pending.drift));
        let drift = match (narrowed, pending.drift) {
            (Some(Narrowed { drift, .. }), _) => both(drift, shared),
            (None, Some(drift)) => both(at.drift, drift),
            (None, None) => both(self.drift_in(node, form), shared),
        };
        // Others may have used it meanwhile, who allow less.
        let is_more = drift > at.least_budget || narrowed.is_some_and(|narrowed| !narrowed.is_lawful);
        let is_refused = is_done && at.kind == Kind::Shared && is_more;
        match narrowed {
            Some(_) if is_refused => self.refuse_narrow(node, form),
            None if is_refused => self.nodes[node as usize].refused = Refused::up_to(form, pending.had_base),
            _ => {}
        }
        let at = &self.nodes[node as usize];
        // Of each key there is one chunk.
        let is_lawful = at.kind == Kind::Shared && !is_refused && {
            let own = children::key(at);
            let key = Key { is_lossy: drift > 0.0, ..own };
            own == key || children::find(&self.nodes, self.nodes[at.parent as usize].children, key).is_none()
        };
        let needs_anchor = self.form(at.variant, form).is_some_and(|form| form.over != Over::Nothing);
        // What it is decoded over may have gone from the tree with its adapter.
        let is_anchored = !needs_anchor
            || self
                .nodes
                .get(anchor as usize)
                .is_some_and(|at| at.kind == Kind::Shared && self.is_decodable(at));
        if !is_done || !is_lawful || !is_anchored || !self.may_change(node) {
            self.tiers[0].give_back(list);
            // What is too dear by density says nothing of other forms.
            return is_refused && narrowed.is_none();
        }
        if let Some(narrowed) = narrowed {
            self.keep_narrowed(node, narrowed);
        }
        for tier in 1..self.tiers.len() {
            // What was written is of the old form.
            self.drop_pages(node, tier);
        }
        let parent = self.nodes[node as usize].parent;
        let first = self.nodes[parent as usize].children;
        self.nodes[parent as usize].children = children::remove(&mut self.nodes, first, node);
        let old = std::mem::replace(&mut self.nodes[node as usize].pages[0], list);
        self.tiers[0].give_back(old);
        let at = &mut self.nodes[node as usize];
        (at.form, at.drift) = (form, drift);
        let low = at.first;
        let first = self.nodes[parent as usize].children;
        self.nodes[parent as usize].children = children::insert(&mut self.nodes, first, node);
        let mut left = self.nodes[node as usize].anchor;
        self.follow(node, if needs_anchor || low > 0 { anchor } else { NONE });
        // Those before it may have waited for it.
        while left != NONE && self.is_left_behind(left) {
            let before = self.nodes[left as usize].parent;
            self.evict(left, 0);
            left = before;
        }
        false
    }

    /// Whether a chunk of the base that has some layers only, for those who shared them, is of no use to anybody any more.
    fn is_left_behind(&self, node: u32) -> bool {
        let at = &self.nodes[node as usize];
        let is_used =
            at.pins > 0 || at.busy > 0 || at.followers > 0 || at.below[0] > 0 || at.children != NONE;
        at.kind == Kind::Shared && at.is_in(0) && usize::from(at.top[0]) < self.config.layers && !is_used
    }

    /// A chunk in memory follows another anchor, or none.
    pub(super) fn follow(&mut self, node: u32, anchor: u32) {
        let old = std::mem::replace(&mut self.nodes[node as usize].anchor, NONE);
        if old != NONE {
            let at = &mut self.nodes[old as usize];
            at.followers -= 1;
            at.resident_followers -= 1;
            at.below[0] -= 1;
            if at.followers == 0 {
                at.keep = 0;
            }
        }
        if anchor != NONE {
            let needs = self.needs(&self.nodes[node as usize]);
            let at = &mut self.nodes[anchor as usize];
            at.followers += 1;
            at.resident_followers += 1;
            at.below[0] += 1;
            at.keep = at.keep.max(needs);
        }
        self.nodes[node as usize].anchor = anchor;
        for anchor in [old, anchor].into_iter().filter(|anchor| *anchor != NONE) {
            self.consider(anchor, 0);
        }
    }

    /// Looks at some chunks for better anchors: over the base's, once there are any, where they are decoded over another
    /// adapter's; and where nobody else needs the anchor and it was not used since, the follower is decoded, so that the
    /// anchor may go.
    pub(super) fn rearrange(&mut self, is_busy: bool, moves: &mut Vec<Op>) {
        let all = self.nodes.len();
        let has_forms =
            !self.config.forms.is_empty() || self.adapters.iter().any(|known| !known.forms.is_empty());
        let mut left = if has_forms { TICK_NODES } else { 0 };
        let mut known = self.no_twins();
        for _ in 0..all {
            if left == 0 {
                return;
            }
            left -= 1;
            self.rearranged = (self.rearranged + 1) % all;
            let node = self.rearranged as u32;
            let Node { form, anchor, last_use, first, least_budget, .. } = self.nodes[node as usize];
            if form == EXACT || anchor == NONE || !self.may_change(node) {
                continue;
            }
            let base = match self.nodes[anchor as usize].variant {
                // Encoded anew it loses again.
                variant
                    if variant != BASE
                        && self.drift_in(node, form) <= least_budget
                        && !self.is_refused(node, form, true) =>
                {
                    let before = known.looked_at();
                    let twins = self.twins(node, &mut known).iter().copied();
                    let mut of_base = twins.filter(|&twin| self.nodes[twin as usize].variant == BASE);
                    let base = of_base.find(|&base| self.is_anchor_of(base, node));
                    left = left.saturating_sub(known.looked_at() - before);
                    base
                }
                _ => None,
            };
            let above = &self.nodes[anchor as usize];
            let is_alone = above.followers == 1 && above.children == NONE && above.pins == 0 && first == 0;
            let op = match base {
                Some(base) => self.encode(node, form, base, true),
                None if is_busy && is_alone && above.last_use < last_use => {
                    self.encode(node, EXACT, NONE, false)
                }
                None => None,
            };
            moves.extend(op);
        }
    }

    /// The chunks up to one, from the root on.
    pub(super) fn path_to(&self, node: u32) -> Vec<u32> {
        let mut path = Vec::new();
        let mut at = node;
        while self.nodes.get(at as usize).is_some_and(|node| node.kind == Kind::Shared) {
            path.push(at);
            at = self.nodes[at as usize].parent;
        }
        path.reverse();
        path
    }
}
