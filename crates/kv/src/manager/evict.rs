//! Making room: which nodes may go from a tier, in the policy's order, and what their going means to others.

use std::collections::HashMap;

use interleaf_contract::CHUNK_TOKENS;

use super::Manager;
use crate::children;
use crate::form::Layers;
use crate::node::{Kind, NONE, Node};
use crate::policy::{AppState, Candidate, Worth};

impl Manager {
    /// Room in a tier for some layers of a variant's chunk in a form, made if it must be.
    pub(super) fn make_room(
        &mut self,
        tier: usize,
        layers: std::ops::Range<usize>,
        variant: u16,
        form: u8,
    ) -> Option<u32> {
        let stored = self.layers_in(variant, form).clone();
        loop {
            match self.tiers[tier].take(layers.clone(), &stored) {
                Some(list) => return Some(list),
                None if tier == 0 && self.give_up_keys() => {}
                None if self.evict_one(tier) => {}
                None => return None,
            }
        }
    }

    /// Room in memory that is free, or held by what its readers can do without.
    pub(super) fn take_free(&mut self, layers: std::ops::Range<usize>, stored: &Layers) -> Option<u32> {
        loop {
            match self.tiers[0].take(layers.clone(), stored) {
                Some(list) => return Some(list),
                None if self.give_up_keys() => {}
                None => return None,
            }
        }
    }

    /// Takes what is missed least from a tier. Returns whether there was anything to take.
    pub(super) fn evict_one(&mut self, tier: usize) -> bool {
        let Some(node) = self.queues[tier].first() else { return false };
        self.evict(node, tier);
        true
    }

    /// Takes from tiers until each is within its budget, or nothing more may go: after whatever lets something go.
    pub(super) fn settle(&mut self) {
        while self.tiers[0].excess_bytes() > 0 && self.give_up_keys() {}
        for tier in 0..self.tiers.len() {
            while self.tiers[tier].excess_bytes() > 0 && self.evict_one(tier) {}
        }
    }

    /// Takes a node from a tier. It must be one that may go.
    pub(super) fn evict(&mut self, node: u32, tier: usize) {
        let Node { kind, variant, pages, below, keep, top, .. } = self.nodes[node as usize];
        if kind == Kind::Adapter {
            self.drop_weights(variant);
            self.offer(node);
            return;
        }
        if below[tier] > 0 {
            // Whoever is there needs the lower layers alone.
            self.tiers[tier].give_back_layers(pages[tier], usize::from(keep)..usize::from(top[tier]));
            self.nodes[node as usize].top[tier] = keep;
            self.consider(node, tier);
            self.consider_parent(node);
            return;
        }
        self.drop_pages(node, tier);
        if !self.nodes[node as usize].is_held() {
            self.remove_subtree(node);
        } else if tier == 0 {
            self.offer(node);
        }
    }

    /// Frees what a node of the tree has in a tier.
    pub(super) fn drop_pages(&mut self, node: u32, tier: usize) {
        let list = std::mem::replace(&mut self.nodes[node as usize].pages[tier], NONE);
        if list == NONE {
            return;
        }
        self.tiers[tier].give_back(list);
        self.queues[tier].take(&mut self.nodes, node);
        let at = &mut self.nodes[node as usize];
        at.top[tier] = 0;
        if tier == 0 {
            (at.ready, at.leaving) = (false, false);
            self.forget_second(node);
        }
        self.evicted[tier] += 1;
        self.leave(node, tier);
    }

    /// What a node depends on has one dependant more in a tier.
    pub(super) fn enter(&mut self, node: u32, tier: usize) {
        for above in self.above(node) {
            self.nodes[above as usize].below[tier] += 1;
        }
        let anchor = self.nodes[node as usize].anchor;
        if tier == 0 && anchor != NONE {
            self.nodes[anchor as usize].resident_followers += 1;
        }
        for above in self.above(node) {
            self.consider(above, tier);
        }
        if tier == 0 {
            self.frontier_take(node);
            // What is next on its way down may come now.
            for child in children::all(&self.nodes, self.nodes[node as usize].children) {
                self.offer(child);
            }
        }
    }

    /// What a node depended on has one dependant fewer in a tier.
    pub(super) fn leave(&mut self, node: u32, tier: usize) {
        for above in self.above(node) {
            self.nodes[above as usize].below[tier] -= 1;
        }
        let anchor = self.nodes[node as usize].anchor;
        if tier == 0 && anchor != NONE {
            self.nodes[anchor as usize].resident_followers -= 1;
        }
        for above in self.above(node) {
            self.consider(above, tier);
        }
    }

    /// All that a chunk depends on: the chunk before, its anchor, its adapter's weights.
    pub(super) fn above(&self, node: u32) -> impl Iterator<Item = u32> + use<> {
        let Node { parent, anchor, variant, .. } = self.nodes[node as usize];
        let parent = if self.is_root(parent) { NONE } else { parent };
        [parent, anchor, self.adapters[usize::from(variant)].node].into_iter().filter(|above| *above != NONE)
    }

    /// Whether all is in memory that a node depends on, of its anchor the layers that it needs.
    pub(super) fn is_supported(&self, node: u32) -> bool {
        self.above(node).all(|above| above == node || self.nodes[above as usize].is_in(0))
            && self.has_anchor(node)
    }

    /// Whether a chunk's anchor, if it has one, is in memory with the layers that the chunk needs of it.
    pub(super) fn has_anchor(&self, node: u32) -> bool {
        let at = &self.nodes[node as usize];
        let is_enough = |anchor: &Node| anchor.is_in(0) && anchor.top[0] >= self.needs(at);
        self.nodes.get(at.anchor as usize).is_none_or(is_enough)
    }

    pub(super) fn is_root(&self, node: u32) -> bool {
        self.nodes.get(node as usize).is_none_or(|node| node.kind == Kind::Root)
    }

    /// Puts a node into a tier's queue if it may go from there, with its worth as it is now, or takes it out.
    pub(super) fn consider(&mut self, node: u32, tier: usize) {
        if !self.nodes[node as usize].is_in(tier) {
            return;
        }
        if self.may_go(node, tier) {
            let worth = self.worth(node, tier);
            self.queues[tier].put(&mut self.nodes, node, worth);
        } else {
            self.queues[tier].take(&mut self.nodes, node);
        }
    }

    /// What may go of the chunk before depends on whether this one is whole.
    pub(super) fn consider_parent(&mut self, node: u32) {
        let parent = self.nodes[node as usize].parent;
        if !self.is_root(parent) {
            self.consider(parent, 0);
        }
    }

    pub(super) fn may_go(&self, node: u32, tier: usize) -> bool {
        let at = &self.nodes[node as usize];
        let is_free = match at.kind {
            Kind::Adapter | Kind::Shared => at.busy == 0 && (tier > 0 || at.pins == 0),
            Kind::Free | Kind::Root | Kind::Private | Kind::Gone => false,
        };
        is_free && (at.below[tier] == 0 || tier == 0 && self.has_more_than_followers_need(at))
    }

    /// Whether a chunk has layers that only its own variant reads, and nothing goes on from it there.
    fn has_more_than_followers_need(&self, at: &Node) -> bool {
        let is_whole = |child: &Node| usize::from(child.top[0]) == self.config.layers;
        at.kind == Kind::Shared
            && at.resident_followers > 0
            && at.top[0] > at.keep
            && !children::has(&self.nodes, at.children, &is_whole)
    }

    /// Bytes of the pieces that a chunk has in a tier.
    pub(super) fn chunk_bytes(&self, tier: usize, node: u32) -> u64 {
        let at = &self.nodes[node as usize];
        let layers = usize::from(at.first)..usize::from(at.top[tier].max(at.first));
        self.tiers[tier].chunk_bytes(layers, self.layers_of(at))
    }

    /// How much a node is worth keeping in a tier.
    pub(super) fn worth(&self, node: u32, tier: usize) -> Worth {
        self.config.policy.worth(&self.candidate(node, tier, tier), &self.situation)
    }

    /// What is decided of a node in a tier, its bytes being those that it has in another.
    fn candidate(&self, node: u32, tier: usize, held_in: usize) -> Candidate {
        let at = &self.nodes[node as usize];
        let is_adapter = at.kind == Kind::Adapter;
        let bytes = match is_adapter {
            true => self.adapters[usize::from(at.variant)].bytes,
            false => self.chunk_bytes(held_in, node),
        };
        let costs = &self.config.costs;
        let read = costs.read.each * bytes as f64;
        let computed = costs.recompute.each * f64::from(at.len) / CHUNK_TOKENS as f64;
        let (read_seconds, recompute_seconds) = match is_adapter {
            true => (read, f64::INFINITY),
            // From the lowest tier it goes for good.
            false if tier + 1 == self.tiers.len() => (computed, computed),
            false if usize::from(at.len) == CHUNK_TOKENS => (read, computed),
            // What is no whole chunk is only read where that is faster than to compute its tokens.
            false => (computed.min(read), computed),
        };
        Candidate {
            is_adapter,
            bytes,
            bits: self.form_of(at).map_or(8 * self.config.element.bytes(1) as u32, |form| form.bits),
            context_tokens: u32::from(at.context_chunks) * CHUNK_TOKENS as u32,
            visits: f64::from(at.visits),
            lately: f64::from(at.lately),
            idle_seconds: self.situation.now - at.last_use,
            idle_requests: u64::from(self.requests.wrapping_sub(at.last_request)),
            app: self.app_state(at.apps),
            read_seconds,
            recompute_seconds,
        }
    }

    /// The state of the one of some apps that is nearest to the user.
    fn app_state(&self, apps: u64) -> AppState {
        let (mut left, mut state) = (apps, AppState::Killed);
        while left != 0 {
            state = state.max(self.apps[left.trailing_zeros() as usize].state);
            left &= left - 1;
        }
        // Adapters, and chunks that stand for others, are nobody's.
        if apps == 0 { AppState::Background } else { state }
    }

    /// Puts a node among those that may come into memory, if it is one: it is stored, and all it depends on is there.
    pub(super) fn offer(&mut self, node: u32) {
        let at = &self.nodes[node as usize];
        let is_stored = match at.kind {
            Kind::Adapter => true,
            Kind::Shared => self.is_stored_whole(at),
            _ => false,
        };
        if at.is_in(0) || at.busy > 0 || !is_stored || self.config.tiers.len() == 1 {
            return;
        }
        if self.is_supported(node) {
            // What it would be worth in memory, by what it is where it is.
            let stored = self.nodes[node as usize].stored().unwrap_or(0);
            let candidate = self.candidate(node, 0, stored);
            let Worth(first, second) = self.config.policy.worth(&candidate, &self.situation);
            self.frontier.put(&mut self.nodes, node, Worth(-first, -second));
        }
    }

    /// Whether the copy that a chunk is read from has all its layers.
    pub(super) fn is_stored_whole(&self, at: &Node) -> bool {
        at.stored().is_some_and(|tier| usize::from(at.top[tier]) == self.config.layers)
    }

    pub(super) fn frontier_take(&mut self, node: u32) {
        self.frontier.take(&mut self.nodes, node);
    }

    /// Takes a node and all that depends on it out of the tree, none of which may be in use. What a move under way still
    /// reads or writes stays reserved until that has ended.
    pub(super) fn remove_subtree(&mut self, node: u32) {
        let mut followers = None;
        // A chunk goes when all that depends on it has gone: it is met twice.
        let mut next = vec![(node, false)];
        while let Some((node, is_last)) = next.pop() {
            let Node { kind, children, followers: count, .. } = self.nodes[node as usize];
            match (kind, is_last) {
                (Kind::Shared, true) => self.remove(node),
                (Kind::Shared, false) => {
                    next.push((node, true));
                    if count > 0 {
                        let all = followers.get_or_insert_with(|| self.followers());
                        next.extend(all.get(&node).into_iter().flatten().map(|&own| (own, false)));
                    }
                    next.extend(children::all(&self.nodes, children).into_iter().map(|child| (child, false)));
                }
                // One may have gone with another.
                _ => {}
            }
        }
    }

    /// The chunks that follow an anchor, by their anchors.
    pub(super) fn followers(&self) -> HashMap<u32, Vec<u32>> {
        let mut followers: HashMap<u32, Vec<u32>> = HashMap::new();
        for (index, node) in (0..).zip(&self.nodes) {
            if node.kind == Kind::Shared && node.anchor != NONE {
                followers.entry(node.anchor).or_default().push(index);
            }
        }
        followers
    }

    /// Takes a node out of the tree that nothing there depends on.
    fn remove(&mut self, node: u32) {
        if !self.nodes[node as usize].is_in(0) {
            self.frontier_take(node);
        }
        let is_busy = self.nodes[node as usize].busy > 0;
        for tier in 0..self.tiers.len() {
            if is_busy {
                // Its pages are another's to free, but nothing depends on it any more.
                if self.nodes[node as usize].is_in(tier) {
                    self.queues[tier].take(&mut self.nodes, node);
                    self.leave(node, tier);
                }
            } else {
                self.drop_pages(node, tier);
            }
        }
        self.detach(node);
        if is_busy {
            self.nodes[node as usize].kind = Kind::Gone;
        } else {
            self.free_node(node);
        }
    }

    /// Takes a node that is out of use out of the tree's links.
    pub(super) fn detach(&mut self, node: u32) {
        let Node { parent, anchor, .. } = self.nodes[node as usize];
        if parent != NONE {
            let first = self.nodes[parent as usize].children;
            self.nodes[parent as usize].children = children::remove(&mut self.nodes, first, node);
        }
        if anchor != NONE {
            let at = &mut self.nodes[anchor as usize];
            at.followers -= 1;
            if at.followers == 0 {
                at.keep = 0;
            }
        }
        self.consider_parent(node);
        self.nodes[node as usize].parent = NONE;
    }
}
