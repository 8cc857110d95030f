//! A chunk that has been computed becomes one that others can find: alone, or as what is there already.

use interleaf_contract::CHUNK_TOKENS;

use super::Manager;
use crate::children::{self, Key};
use crate::node::{BASE, EXACT, Kind, NONE, Node};
use crate::sequence::Sequence;

impl Manager {
    /// Puts a sequence's full chunk into the tree, all before it being there. It stays the sequence's own where the tree
    /// cannot take it now.
    pub(super) fn share(&mut self, sequence: &mut Sequence, chunk: usize) {
        let node = sequence.path[chunk];
        let parent = self.parent_of(sequence, chunk);
        let twin = children::find(
            &self.nodes,
            self.nodes[parent as usize].children,
            children::key(&self.nodes[node as usize]),
        );
        let shared = match twin {
            Some(twin) => self.join_twin(node, twin),
            None => {
                self.share_low_layers(node, parent);
                self.attach(node, parent);
                self.inherit(node, sequence.found_narrowed);
                Some(node)
            }
        };
        let Some(shared) = shared else { return };
        sequence.path[chunk] = shared;
        sequence.shared = chunk + 1;
        self.pin(shared);
        self.use_by(shared, sequence);
        if self.tiers[0].is_striped() {
            self.renew_entry(sequence, chunk);
        }
    }

    /// Puts a sequence's last chunk into the tree, which is not full: whoever comes with the same tokens goes on with it.
    pub(super) fn share_tail(&mut self, sequence: &mut Sequence) {
        let chunk = sequence.shared;
        let node = sequence.path[chunk];
        let parent = self.parent_of(sequence, chunk);
        let children = self.nodes[parent as usize].children;
        let own = children::key(&self.nodes[node as usize]);
        let is_there =
            |other: &Node| other.is_in(0) && other.ready && other.top[0] == self.config.layers as u8;
        if children::find(&self.nodes, children, own).is_some()
            || children::longest(&self.nodes, children, own, &is_there)
                .is_some_and(|(_, common)| common == own.tokens.len())
        {
            // Another has all of it.
            return;
        }
        self.attach(node, parent);
        self.inherit(node, sequence.found_narrowed);
        self.pin(node);
        sequence.shared = chunk + 1;
        self.use_by(node, sequence);
    }

    fn parent_of(&mut self, sequence: &Sequence, chunk: usize) -> u32 {
        match chunk.checked_sub(1) {
            Some(before) => sequence.path[before],
            None => self.root(self.apps[sequence.app as usize].salt, sequence.variant),
        }
    }

    /// A private chunk becomes one of the tree.
    fn attach(&mut self, node: u32, parent: u32) {
        self.nodes[node as usize].kind = Kind::Shared;
        self.nodes[node as usize].parent = parent;
        let first = self.nodes[parent as usize].children;
        self.nodes[parent as usize].children = children::insert(&mut self.nodes, first, node);
        self.enter(node, 0);
    }

    /// A private chunk goes into one that is there under the same key, which thereby gets what it lacks. `None` where that
    /// one cannot be used now.
    fn join_twin(&mut self, node: u32, twin: u32) -> Option<u32> {
        let layers = self.config.layers;
        let Node { first, anchor, top, drift, form, .. } = self.nodes[twin as usize];
        let is_in = self.nodes[twin as usize].is_in(0);
        if drift > self.nodes[node as usize].drift
            || form != EXACT && !is_in
            || self.is_at_rest(&self.nodes[twin as usize]) && !self.has_second(twin)
        {
            return None;
        }
        let own = self.nodes[node as usize].pages[0];
        if self.nodes[twin as usize].is_in(0) {
            if !self.is_readable(twin) || !self.is_filled(&self.nodes[twin as usize]) {
                return None;
            }
            let has = usize::from(top[0]);
            if has < layers {
                self.tiers[0].hand_over(own, self.nodes[twin as usize].pages[0], has..layers);
                self.extend(twin, layers);
            }
            self.free_private(node);
            return Some(twin);
        }
        // It has gone from memory; its anchor may have, too. What has lost more than it did is not its contents.
        let is_busy = self.nodes[twin as usize].busy > 0;
        let is_anchored = anchor == NONE || self.has_anchor(twin) && self.nodes[anchor as usize].ready;
        if is_busy || !is_anchored || self.nodes[node as usize].drift > drift {
            return None;
        }
        if self.translated.contains(&node) {
            self.translated.insert(twin);
        }
        self.frontier_take(twin);
        self.tiers[0].give_back_layers(own, 0..usize::from(first));
        let at = &mut self.nodes[twin as usize];
        (at.pages[0], at.top[0], at.ready) = (own, layers as u8, true);
        self.nodes[node as usize].pages[0] = NONE;
        self.free_private(node);
        self.enter(twin, 0);
        Some(twin)
    }

    /// A chunk of the tree has got more layers in memory; what was written of it below is no longer all of it.
    fn extend(&mut self, node: u32, top: usize) {
        self.nodes[node as usize].top[0] = top as u8;
        for tier in 1..self.tiers.len() {
            if self.nodes[node as usize].top[tier] < top as u8 && self.nodes[node as usize].busy == 0 {
                self.drop_pages(node, tier);
            }
        }
        self.consider(node, 0);
        self.consider_parent(node);
    }

    /// The layers of a private chunk that are the base's go to the base's chunk of the same tokens, which is made if there
    /// is none, and are given back if that has them. The chunk keeps them where the base's cannot be used now.
    fn share_low_layers(&mut self, node: u32, parent: u32) {
        let Node { variant, len, drift, .. } = self.nodes[node as usize];
        let shared = self.adapters[usize::from(variant)].shared;
        if variant == BASE || shared == 0 || usize::from(len) < CHUNK_TOKENS || drift > 0.0 {
            return;
        }
        let Some(above) = self.base_of(parent) else { return };
        let tokens = self.nodes[node as usize].tokens;
        let key = Key { variant: BASE, from: 0, is_lossy: false, tokens: &tokens };
        let own = self.nodes[node as usize].pages[0];
        let anchor = match children::find(&self.nodes, self.nodes[above as usize].children, key) {
            Some(anchor) => {
                let Node { ready, busy, top, pages, .. } = self.nodes[anchor as usize];
                if pages[0] != NONE {
                    if !ready {
                        return;
                    }
                    let has = top[0].min(shared);
                    self.tiers[0].give_back_layers(own, 0..usize::from(has));
                    if has < shared {
                        self.tiers[0].hand_over(own, pages[0], usize::from(has)..usize::from(shared));
                        self.extend(anchor, usize::from(shared));
                    }
                } else {
                    if busy > 0 {
                        return;
                    }
                    self.frontier_take(anchor);
                    let list = self.tiers[0].new_list();
                    self.tiers[0].hand_over(own, list, 0..usize::from(shared));
                    let at = &mut self.nodes[anchor as usize];
                    (at.pages[0], at.top[0], at.ready) = (list, shared, true);
                    self.enter(anchor, 0);
                }
                anchor
            }
            None => {
                let mut base = Node::new(Kind::Private, BASE);
                (base.tokens, base.len, base.ready) = (tokens, len, true);
                let list = self.tiers[0].new_list();
                self.tiers[0].hand_over(own, list, 0..usize::from(shared));
                (base.pages[0], base.top[0]) = (list, shared);
                (base.last_use, base.last_request) = (self.situation.now, self.requests);
                let base = self.new_node(base);
                self.attach(base, above);
                base
            }
        };
        let at = &mut self.nodes[anchor as usize];
        at.followers += 1;
        at.keep = at.keep.max(shared);
        let at = &mut self.nodes[node as usize];
        (at.first, at.anchor) = (shared, anchor);
    }

    /// The base's node at the place of another variant's.
    fn base_of(&mut self, node: u32) -> Option<u32> {
        let Node { kind, variant, anchor, .. } = self.nodes[node as usize];
        if variant == BASE {
            return Some(node);
        }
        if kind == Kind::Root {
            let salt = self.roots.iter().find(|(_, root)| **root == node).map(|((salt, _), _)| *salt)?;
            return Some(self.root(salt, BASE));
        }
        self.nodes.get(anchor as usize).filter(|anchor| anchor.variant == BASE).map(|_| anchor)
    }
}
