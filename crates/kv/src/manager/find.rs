//! What of a prompt is in the tree, exact or within a budget.

use interleaf_contract::CHUNK_TOKENS;

use super::{Manager, Pending};
use crate::SwitchCosts;
use crate::children::{self, Key};
use crate::node::{BASE, EXACT, Node};
use crate::sequence::variant_of;

/// What of a prompt is in the tree.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Whole chunks.
    pub path: Vec<u32>,
    /// A chunk that begins as the rest does, and in how many tokens.
    pub tail: Option<(u32, usize)>,
}

impl Found {
    pub fn tokens(&self) -> usize {
        self.path.len() * CHUNK_TOKENS + self.tail.map_or(0, |(_, tokens)| tokens)
    }
}

impl Manager {
    /// The longest beginning of some tokens that is there, exact or within a budget.
    pub(super) fn find(&self, root: u32, variant: u16, from: usize, tokens: &[u32], budget: f32) -> Found {
        let best = self.walk(root, Vec::new(), variant, from, tokens, false, budget);
        if budget > 0.0 {
            return self.branch_off(root, best, 0, variant, from, tokens, budget);
        }
        best
    }

    /// What is lossy branches off from what is found, and what is exact from that, at any depth: the longest of all.
    #[allow(clippy::too_many_arguments, reason = "a search's place and what it searches for")]
    fn branch_off(
        &self,
        root: u32,
        found: Found,
        depth: usize,
        variant: u16,
        from: usize,
        tokens: &[u32],
        budget: f32,
    ) -> Found {
        let mut best = Found { path: found.path.clone(), tail: found.tail };
        for depth in depth..=found.path.len() {
            let start = depth.checked_sub(1).map_or(root, |last| found.path[last]);
            let next = found.path.get(depth).map(|&next| self.nodes[next as usize].drift > 0.0);
            for is_lossy in [true, false].into_iter().filter(|kind| Some(*kind) != next) {
                if next.is_some() && !self.has_child(start, depth, variant, from, tokens, is_lossy) {
                    continue;
                }
                let path = found.path[..depth].to_vec();
                let other = self.walk(start, path, variant, from, tokens, is_lossy, budget);
                let other = match other.path.len() > depth {
                    true => self.branch_off(root, other, depth + 1, variant, from, tokens, budget),
                    false => other,
                };
                if other.tokens() > best.tokens() {
                    best = other;
                }
            }
        }
        best
    }

    /// Whether a node goes on with a whole chunk of these tokens, exact or lossy.
    fn has_child(
        &self,
        at: u32,
        depth: usize,
        variant: u16,
        from: usize,
        tokens: &[u32],
        is_lossy: bool,
    ) -> bool {
        let (variant, from) = variant_of(variant, from, depth);
        let chunk = tokens.get(depth * CHUNK_TOKENS..(depth + 1) * CHUNK_TOKENS);
        let key = |tokens| Key { variant, from, is_lossy, tokens };
        chunk.is_some_and(|chunk| {
            children::find(&self.nodes, self.nodes[at as usize].children, key(chunk)).is_some()
        })
    }

    /// Goes down from a node along some tokens, on exact chunks, or on lossy ones within a budget.
    #[allow(clippy::too_many_arguments, reason = "a search's place and what it searches for")]
    pub(super) fn walk(
        &self,
        start: u32,
        path: Vec<u32>,
        variant: u16,
        from: usize,
        tokens: &[u32],
        is_lossy: bool,
        budget: f32,
    ) -> Found {
        let mut found = Found { path, tail: None };
        let mut at = start;
        let is_usable = |node: &Node| self.is_usable(node) && node.drift <= budget;
        loop {
            let rest = &tokens[(found.path.len() * CHUNK_TOKENS).min(tokens.len())..];
            let (variant, from) = variant_of(variant, from, found.path.len());
            let chunk = &rest[..rest.len().min(CHUNK_TOKENS)];
            let key = Key { variant, from, is_lossy, tokens: chunk };
            let children = self.nodes[at as usize].children;
            let whole =
                (chunk.len() == CHUNK_TOKENS).then(|| children::find(&self.nodes, children, key)).flatten();
            match whole.filter(|&node| is_usable(&self.nodes[node as usize])) {
                Some(node) => {
                    found.path.push(node);
                    at = node;
                }
                None => {
                    found.tail = self.tail(children, key, &is_usable);
                    return found;
                }
            }
        }
    }

    /// The chunk among some children that begins as another would, and in how many tokens: of the same variant, or of others
    /// as far as neither acts. Only what is in memory is copied of; to read a chunk for a part of it does not pay, but one that
    /// is not full and goes on as a whole is read where that is faster than to compute it.
    fn tail(&self, children: u32, key: Key<'_>, is_usable: &impl Fn(&Node) -> bool) -> Option<(u32, usize)> {
        let is_ready =
            |node: &Node| is_usable(node) && node.is_in(0) && self.is_filled(node) && node.form == EXACT;
        if key.tokens.is_empty() {
            return None;
        }
        let is_read = |node: &Node| {
            let is_whole = key.tokens.starts_with(node.text()) && usize::from(node.len) < CHUNK_TOKENS;
            is_whole && is_usable(node) && !node.is_in(0) && node.form == EXACT && self.reads_sooner(node)
        };
        let own = children::longest(&self.nodes, children, key, &|node| is_ready(node) || is_read(node));
        if key.is_lossy || self.activated == 0 {
            return own;
        }
        let as_base = |key: Key<'_>| if key.variant == BASE { CHUNK_TOKENS } else { usize::from(key.from) };
        let most = as_base(key).min(key.tokens.len());
        let mut best = own;
        let mut group = children::first_group(&self.nodes, children);
        while let Some(of) = group {
            let had = best.map_or(0, |(_, common)| common);
            let most = most.min(as_base(of));
            if !of.is_lossy && most > had {
                let wanted = Key { tokens: &key.tokens[..most], ..of };
                let found = children::longest(&self.nodes, children, wanted, &is_ready);
                best = found.filter(|(_, common)| *common > had).or(best);
            }
            group = children::next_group(&self.nodes, children, of);
        }
        best
    }

    /// Whether the tokens of a chunk that is stored are sooner read than computed.
    fn reads_sooner(&self, node: &Node) -> bool {
        let Some(tier) = node.stored() else { return false };
        let bytes = self.tiers[tier].list_bytes(node.pages[tier]);
        let SwitchCosts { recompute, read, .. } = self.config.costs;
        read.of(bytes as f64) < recompute.each * f64::from(node.len) / CHUNK_TOKENS as f64
    }

    /// Whether a chunk has all its layers somewhere, with their contents there or on their way.
    fn is_usable(&self, node: &Node) -> bool {
        let layers = self.config.layers;
        let comes = |node: &Node| node.ready || self.is_coming(node);
        if self.is_at_rest(node) {
            // Whoever decodes it reads what it is decoded over, and who comes later waits for them.
            return self.is_filled(node);
        }
        if node.is_in(0) {
            return usize::from(node.top[0]) == layers
                && comes(node)
                && self.nodes.get(node.anchor as usize).is_none_or(comes);
        }
        // Where an anchor's contents were lost, and nothing brings them back, who follows would wait for ever.
        let is_no_wait = |anchor: &Node| !anchor.is_in(0) || comes(anchor);
        self.is_stored_whole(node) && self.nodes.get(node.anchor as usize).is_none_or(is_no_wait)
    }

    /// Whether a move brings a node's contents. Others may read it, or what it is an anchor of, while these are lost.
    fn is_coming(&self, node: &Node) -> bool {
        let is_it = |op: &Pending| op.brings() && std::ptr::eq(&raw const self.nodes[op.node as usize], node);
        node.busy > 0 && self.pending.values().any(is_it)
    }

    /// Whether a chunk in memory has the contents of all its layers, those at its anchor included.
    pub(super) fn is_filled(&self, node: &Node) -> bool {
        node.ready && self.nodes.get(node.anchor as usize).is_none_or(|anchor| anchor.ready)
    }
}
