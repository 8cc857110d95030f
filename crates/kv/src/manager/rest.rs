//! Chunks at rest: encoded in idle time, woken by the call that opens them, and back at rest as soon as nobody uses them any
//! more, for which nothing has to be moved: their bytes stay beside the pages that were decoded from them.
//!
//! So a chunk loses once, however often it wakes; and it is over the base's pages all the time, which stay as they are.

use std::collections::BTreeMap;

use interleaf_contract::{CHUNK_TOKENS, ChunkEntry, JointCodec};

use super::find::Found;
use super::{Manager, Pending};
use crate::AdapterId;
use crate::form::Layers;
use crate::node::{BASE, EXACT, Node};
use crate::op::{Op, OpId, OpKind};

/// What a chunk's way to rest or back reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    /// The adapter that the chunk was computed under.
    pub adapter: AdapterId,
    /// Its form at rest, as moves count forms.
    pub form: u8,
    /// What that is.
    pub codec: JointCodec,
    /// The chunk's tokens.
    pub tokens: [u32; CHUNK_TOKENS],
    /// Which chunk of its sequence it is.
    pub chunk: u32,
    /// The first layer that has pages of its own: those below are read elsewhere whatever its form.
    pub first: usize,
    /// The base's pages, by layer.
    pub base: Vec<ChunkEntry>,
    /// Its own, by layer: what is encoded, or what is written.
    pub own: Vec<ChunkEntry>,
    /// Where the bytes at rest lie, one part behind the other: layers, where in a layer's stripe each part begins, and how long
    /// it is.
    pub parts: Vec<(usize, u64, u32)>,
}

impl Manager {
    /// Puts chunks to rest that nobody uses, at most so many, or into whatever else their users allow that takes less: for
    /// whoever has the time. The moves are returned, no more than can be tried; where there are none there is nothing to do.
    pub fn rest(&mut self, most: usize) -> Vec<Op> {
        let mut moves = Vec::new();
        let mut known = self.no_twins();
        let newest = self.kept_newest();
        for _ in 0..self.nodes.len() {
            if moves.len() == most {
                break;
            }
            self.rested = (self.rested + 1) % self.nodes.len();
            let node = self.rested as u32;
            let at = &self.nodes[node as usize];
            let may_rest = at.variant != BASE && !newest.contains(&node) && self.may_rest(at.variant);
            if may_rest && self.may_change(node) {
                let twins = self.twins(node, &mut known);
                moves.extend(self.encode_behind(node, twins, true));
            }
        }
        moves
    }

    /// What a move to rest or back reads and writes; `None` for any other, and of a chunk that nobody can find any more.
    #[must_use]
    pub fn rest_of(&self, op: OpId) -> Option<Rest> {
        let Pending { kind, node, list, anchor, .. } = *self.pending.get(&op)?;
        let at = self.nodes.get(node as usize)?;
        let (form, list) = match kind {
            OpKind::Encode { form } => (form, list),
            OpKind::Materialise { form } => (form, at.pages[0]),
            _ => return None,
        };
        let Layers::AtRest { codec, bytes } = self.layers_in(at.variant, form) else { return None };
        let layers = 0..self.config.layers;
        let part = |layer: usize| {
            let piece = self.tiers[0].piece(list, layer)?;
            Some((layer, self.tiers[0].offset(piece, layer), *bytes.get(layer)?))
        };
        let generation = self.adapters[usize::from(at.variant)].generation;
        Some(Rest {
            adapter: AdapterId { index: at.variant, generation },
            form,
            codec: *codec,
            tokens: at.tokens,
            chunk: u32::try_from(self.path_to(node).len().checked_sub(1)?).ok()?,
            first: usize::from(at.first),
            base: layers.clone().map(|layer| self.entry(anchor, layer)).collect(),
            own: layers.clone().map(|layer| self.entry(node, layer)).collect(),
            parts: layers.filter_map(part).collect(),
        })
    }

    /// Bytes of memory that hold chunks at rest, or would be all of them if nobody used these now, rounding included.
    #[must_use]
    pub fn usage_at_rest(&self) -> BTreeMap<JointCodec, u64> {
        let mut by_codec = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| node.is_in(0)) {
            if let Layers::AtRest { codec, .. } = self.layers_of(node) {
                *by_codec.entry(*codec).or_default() += self.tiers[0].list_bytes(node.pages[0]);
            }
        }
        by_codec
    }

    /// Whether a chunk is in a form that nobody reads in place, whether or not it was decoded for those who use it.
    pub(super) fn is_at_rest(&self, at: &Node) -> bool {
        self.form_of(at).is_some_and(|form| form.layers.is_at_rest())
    }

    /// Whether there are such forms of a variant's chunks.
    fn may_rest(&self, variant: u16) -> bool {
        let own = &self.adapters[usize::from(variant)].forms;
        self.config.forms.iter().chain(own).any(|form| form.layers.is_at_rest())
    }

    /// Those at rest among what was found get exact pages that are to be written before they are read, as far as there is room.
    pub(super) fn wake(&mut self, found: &mut Found, moves: &mut Vec<Op>) {
        for place in 0..found.path.len() {
            let node = found.path[place];
            let Node { first, anchor, form, .. } = self.nodes[node as usize];
            if !self.is_at_rest(&self.nodes[node as usize]) || self.has_second(node) {
                continue;
            }
            let layers = usize::from(first)..self.config.layers;
            let Some(list) = self.make_room(0, layers, BASE, EXACT) else {
                self.let_go(found, place);
                return;
            };
            let top = self.config.layers as u8;
            let pending =
                Pending { top, anchor, old: anchor, ..Pending::of(OpKind::Materialise { form }, node) };
            moves.push(self.begin_second(pending, list, false));
        }
    }
}
