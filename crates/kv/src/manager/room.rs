//! What is held of memory, and how much of it could be had.

use std::collections::BTreeMap;

use interleaf_contract::PageCodec;

use super::{Manager, Pending, Usage};
use crate::form::{LayerForm, PageForm};
use crate::node::{EXACT, Kind, NONE, Node};
use crate::numbers::Numbers;
use crate::tier::Tier;

impl Manager {
    /// Bytes held in memory, by kind.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for ((index, node), is_used) in (0..).zip(&self.nodes).zip(self.used_nodes()) {
            if !node.is_in(0) || node.kind == Kind::Adapter {
                continue;
            }
            let own = self.tiers[0].list_bytes(node.pages[0]);
            let second = self.seconds.get(&index).map_or(0, |second| self.tiers[0].list_bytes(second.list));
            let bytes = own + second;
            *(if is_used { &mut usage.in_use } else { &mut usage.cached }) += bytes;
            usage.encoded += if self.form_of(node).is_none() { 0 } else { own };
            usage.keys +=
                if self.seconds.get(&index).is_some_and(|second| second.is_keys) { second } else { 0 };
            if node.resident_followers > 0 {
                usage.shared_layers += own;
            }
            let weights = self.adapters[usize::from(node.variant)].node;
            let is_missing = |&above: &u32| {
                self.nodes
                    .get(above as usize)
                    .is_some_and(|above| above.kind != Kind::Root && !above.is_in(0))
            };
            if [node.parent, node.anchor, weights].iter().any(is_missing) {
                usage.invalid += own;
            }
        }
        let resident = self.adapters.iter().filter(|known| !known.pieces.is_empty());
        usage.adapters = resident.map(|known| known.bytes).sum();
        usage
    }

    /// Bytes of pages in memory, by the codec that they are stored in. What a piece is rounded up by counts with the larger of
    /// its two pages. What is at rest is in no page, and in [`Manager::usage_at_rest`].
    #[must_use]
    pub fn usage_by_codec(&self) -> BTreeMap<PageCodec, u64> {
        let mut by_codec = BTreeMap::new();
        let nodes = (0..).zip(&self.nodes).filter(|(_, node)| node.is_in(0) && node.kind != Kind::Adapter);
        let lists = nodes.flat_map(|(index, node)| {
            let second = self.seconds.get(&index).map(|second| (second.list, self.layers_beside(second)));
            [Some((node.pages[0], self.layers_of(node))), second].into_iter().flatten()
        });
        for (list, layers) in lists.filter(|(_, layers)| !layers.is_at_rest()) {
            for layer in 0..self.config.layers {
                let Some(piece) = self.tiers[0].piece(list, layer) else { continue };
                let form = self.layer_form(layers, layer);
                let rounding = self.tiers[0].piece_bytes(piece, layer).saturating_sub(form.bytes());
                let LayerForm { k, v } = form;
                let (most, least) = if k.bytes() >= v.bytes() { (k, v) } else { (v, k) };
                for (form, more) in [(most, rounding), (least, 0)] {
                    if let PageForm::Stored { codec, bytes, .. } = form {
                        *by_codec.entry(codec).or_default() += u64::from(bytes) + more;
                    }
                }
            }
        }
        by_codec
    }

    /// How many chunks and adapters were taken from a tier so far, for whatever reason; what an adapter or an app took with
    /// it counts too.
    #[must_use]
    pub fn evicted(&self, tier: usize) -> u64 {
        self.evicted.get(tier).copied().unwrap_or(0)
    }

    /// Bytes of a block of memory: of what places in a layer's stripe are multiples for pages of full precision.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        self.tiers[0].block_bytes()
    }

    /// Bytes held of a tier's blocks, rounding included.
    #[must_use]
    pub fn held_bytes(&self, tier: usize) -> u64 {
        self.tiers.get(tier).map_or(0, Tier::held_bytes)
    }

    /// Bytes that may be held of a tier.
    #[must_use]
    pub fn budget_bytes(&self, tier: usize) -> u64 {
        self.tiers.get(tier).map_or(0, Tier::budget_bytes)
    }

    /// Bytes held of a tier beyond what may be, after that was cut: all of them are in use.
    #[must_use]
    pub fn excess_bytes(&self, tier: usize) -> u64 {
        self.tiers.get(tier).map_or(0, Tier::excess_bytes)
    }

    /// Chunks in the tree and those being written.
    #[must_use]
    pub fn chunks(&self) -> usize {
        let is_chunk = |node: &&Node| matches!(node.kind, Kind::Shared | Kind::Private);
        self.nodes.iter().filter(is_chunk).count()
    }

    /// Chunks of full precision that memory has room for, or would have if what nobody uses went; counts no further than
    /// to `enough` where there are as many.
    #[must_use]
    pub fn available_chunks(&self, enough: usize) -> usize {
        self.available_beside(&[], enough)
    }

    pub(super) fn available_beside(&self, beside: &[u32], enough: usize) -> usize {
        let soon = self.soon_available(enough);
        if soon >= enough { soon } else { self.available_blocks(beside).into_iter().min().unwrap_or(0) }
    }

    /// The same, but counts only adapters and whole chunks that may go now, and what may go as soon as they have: seldom
    /// more than some steps, and at least so many there are.
    pub(super) fn soon_available(&self, enough: usize) -> usize {
        let mut found = self.tiers[0].free_chunks();
        let places = 0..self.queues[0].len().min(enough.saturating_mul(4));
        for first in places.map_while(|place| self.queues[0].at(place)) {
            let (mut at, mut kept) = (first, 0);
            while found < enough && self.is_freed_whole(at, kept) {
                found += 1;
                (at, kept) = (self.nodes[at as usize].parent, 1);
            }
            if found < enough && self.nodes[first as usize].kind == Kind::Adapter {
                let rows = &self.adapters[usize::from(self.nodes[first as usize].variant)].rank_rows;
                found += self.tiers[0].whole_blocks(rows).into_iter().min().unwrap_or(0);
            }
            if found >= enough {
                break;
            }
        }
        found
    }

    /// Whether a chunk that nobody uses frees all that a chunk needs, and only so many others keep it.
    fn is_freed_whole(&self, node: u32, kept: u32) -> bool {
        self.nodes.get(node as usize).is_some_and(|at| {
            let is_whole = at.first == 0 && usize::from(at.top[0]) == self.config.layers && at.form == EXACT;
            is_whole && at.kind == Kind::Shared && at.pins == 0 && at.busy == 0 && at.below[0] == kept
        })
    }

    /// Blocks of each of memory's stripes that are free or would be if all went that nobody uses: neither an open sequence,
    /// nor a move, nor whoever uses `beside`. At most so many can be had: pieces of several owners may share one.
    pub(super) fn available_blocks(&self, beside: &[u32]) -> Vec<usize> {
        let mut used = self.tiers[0].nothing_used();
        let mut anchors = Vec::new();
        let mut count = |node: u32, among: u16| {
            let at = &self.nodes[node as usize];
            let Node { kind, first, top, anchor, pages, .. } = *at;
            if pages[0] == NONE || kind == Kind::Adapter {
                return;
            }
            used.add_layers(
                &self.tiers[0],
                usize::from(first)..usize::from(top[0]),
                self.layers_of(at),
                among,
            );
            if self.seconds.get(&node).is_some_and(|second| !second.is_keys) {
                let layers = usize::from(first)..self.config.layers;
                used.add_layers(&self.tiers[0], layers, &self.exact, among);
            }
            // One that is in use itself is counted where it is.
            let is_idle = |at: &Node| at.pins == 0 && at.busy == 0;
            if kind != Kind::Gone && self.nodes.get(anchor as usize).is_some_and(is_idle) {
                anchors.push(anchor);
            }
        };
        for &node in self.sequences.values().flat_map(|sequence| &sequence.path).chain(beside) {
            let Node { kind, pins, .. } = self.nodes[node as usize];
            // Whoever uses it counts his part of it.
            count(node, if kind == Kind::Private { 1 } else { pins });
        }
        let mut kept: Numbers<u32> = Numbers::default();
        for node in self.pending.values().flat_map(Pending::holds) {
            let Node { kind, pins, busy, .. } = self.nodes[node as usize];
            if pins == 0 && kind != Kind::Private {
                count(node, busy);
            }
            // What a move keeps in memory keeps what is before it there.
            let mut before = node;
            while kind == Kind::Shared && self.nodes[node as usize].is_in(0) {
                before = self.nodes[before as usize].parent;
                let Node { pins, busy, .. } = self.nodes[before as usize];
                if self.is_root(before) || !kept.insert(before) {
                    break;
                }
                if pins == 0 && busy == 0 {
                    count(before, 1);
                }
            }
        }
        anchors.sort_unstable();
        anchors.dedup();
        for anchor in anchors {
            // Those who follow it need the lower layers alone.
            let at = &self.nodes[anchor as usize];
            let layers = 0..usize::from(at.keep.min(at.top[0]));
            used.add_layers(&self.tiers[0], layers, self.layers_of(at), 1);
        }
        // Keys that are there are given up for whatever else needs their room; those on their way are not.
        for list in self.keys_coming() {
            used.add_list(&self.tiers[0], list);
        }
        for known in self.adapters.iter().filter(|known| !known.pieces.is_empty()) {
            let Node { pins, busy, .. } = self.nodes[known.node as usize];
            if pins > 0 || busy > 0 {
                used.add_pieces(&self.tiers[0], &known.pieces);
            }
        }
        used.blocks_beside(&self.tiers[0])
    }

    /// Which nodes' pages open sequences read or write, those of anchors included.
    fn used_nodes(&self) -> Vec<bool> {
        let mut is_used = vec![false; self.nodes.len()];
        for &node in self.sequences.values().flat_map(|sequence| &sequence.path) {
            is_used[node as usize] = true;
            if let Some(is_used) = is_used.get_mut(self.nodes[node as usize].anchor as usize) {
                *is_used = true;
            }
        }
        is_used
    }
}
