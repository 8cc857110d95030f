//! What moves are of, and where the pages are that they and kernels read and write.

use interleaf_contract::{CHUNK_TOKENS, ChunkEntry, PAGE_UNIT, PageEntry, PageHalf, PageRecode};

use super::{Manager, Pending};
use crate::form::{LayerForm, Layers, PageForm};
use crate::node::{BASE, Kind, NONE};
use crate::op::{OpId, OpKind};
use crate::{AdapterId, ChunkKey, KvError, ModelKey, SequenceId};

impl Manager {
    /// What the pages of a chunk that is moved depend on, for whoever computes it again or stores it beyond this manager's
    /// life; `None` for a move of something else, or one that is not under way. A manager has pages of one model, which
    /// its owner knows.
    #[must_use]
    pub fn chunk_key(&self, op: OpId, model: ModelKey) -> Option<ChunkKey> {
        let node = self.pending.get(&op)?.node;
        let (mut path, mut at) = (Vec::new(), node);
        while let Some(chunk) = self.nodes.get(at as usize).filter(|node| node.kind == Kind::Shared) {
            path.push(chunk);
            at = chunk.parent;
        }
        path.reverse();
        let root = self.roots.iter().find(|(_, root)| **root == at);
        let variant = self.nodes[node as usize].variant;
        let first = path.iter().position(|chunk| chunk.variant == variant)?;
        Some(ChunkKey {
            model,
            salt: root.and_then(|((salt, _), _)| self.salts[*salt as usize]),
            adapter: self.adapters[usize::from(variant)].key,
            from: if variant == BASE { 0 } else { first * CHUNK_TOKENS + usize::from(path[first].from) },
            tokens: path.iter().flat_map(|chunk| chunk.text()).copied().collect(),
        })
    }

    /// The pages of memory that a move reads or, where it brings something, writes: layers, and where in a layer's stripe
    /// each begins, in bytes. Layers that a chunk shares with others are not moved with it.
    #[must_use]
    pub fn memory_places(&self, op: OpId) -> Vec<(usize, u64)> {
        let (node, top) = match self.pending.get(&op).copied() {
            // Between lower tiers memory has no part ([`Manager::written_from`]).
            Some(Pending { kind: OpKind::Write { from: 1.., .. }, .. }) => return Vec::new(),
            // Nobody waits for it any more.
            Some(Pending { kind: OpKind::Read { .. } | OpKind::Recompute, list, copy: None, .. })
                if list != NONE =>
            {
                return self.places_in(list);
            }
            // What it writes lies beside the chunk's own.
            Some(Pending { kind: OpKind::Materialise { .. }, node, .. }) => {
                return self.seconds.get(&node).map_or(Vec::new(), |second| self.places_in(second.list));
            }
            Some(Pending { node, copy: None, top, .. }) => (node, top),
            // A chunk that is not full is read into one that goes on with it.
            Some(Pending { kind: OpKind::Read { .. }, copy: Some((_, to)), .. }) => {
                (to, self.config.layers as u8)
            }
            _ => return Vec::new(),
        };
        let layers = usize::from(self.nodes[node as usize].first)..usize::from(top);
        layers.filter_map(|layer| Some((layer, self.place(node, layer)?))).collect()
    }

    /// The pages that an encoding writes, as [`Manager::memory_places`], which says what it reads besides the anchor.
    #[must_use]
    pub fn encoded_places(&self, op: OpId) -> Vec<(usize, u64)> {
        let Some(Pending { kind: OpKind::Encode { .. }, list, .. }) = self.pending.get(&op).copied() else {
            return Vec::new();
        };
        self.places_in(list)
    }

    /// Layers of a list in memory, and where in a layer's stripe each begins.
    fn places_in(&self, list: u32) -> Vec<(usize, u64)> {
        let place = |layer| Some(self.tiers[0].offset(self.tiers[0].piece(list, layer)?, layer));
        (0..self.config.layers).filter_map(|layer| Some((layer, place(layer)?))).collect()
    }

    /// What a copy or a translation reads and writes: layers, and where in a layer's stripe the page that is read and the
    /// one that is written begin, in bytes.
    #[must_use]
    pub fn copied_places(&self, op: OpId) -> Vec<(usize, u64, u64)> {
        let Some(Pending { node, copy: Some((_, to)), .. }) = self.pending.get(&op).copied() else {
            return Vec::new();
        };
        let places = |layer| Some((layer, self.place(node, layer)?, self.place(to, layer)?));
        (0..self.config.layers).filter_map(places).collect()
    }

    /// The same page by page, with what is read as it is stored: what is written is exact. Nothing where the sequence that it
    /// is for has gone.
    #[must_use]
    pub fn copied_pages(&self, op: OpId) -> Vec<PageRecode> {
        let Some(Pending { node, copy: Some((id, to)), .. }) = self.pending.get(&op).copied() else {
            return Vec::new();
        };
        let place = self.sequences.get(&id).and_then(|of| of.path.iter().position(|own| *own == to));
        let (layers, chunk) = place.map_or((0, 0), |place| (self.config.layers, place as u32));
        let of_layer = |layer: usize| {
            let (from, to) = (self.entry(node, layer), self.entry(to, layer));
            [PageHalf::K, PageHalf::V].map(|half| {
                let (from, to, layer) = (from.half(half), to.half(half), layer as u32);
                PageRecode { layer, half, chunk, from, to }
            })
        };
        (0..layers).flat_map(of_layer).collect()
    }

    /// Where in a layer's stripe a chunk of a sequence has its page, in bytes.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn page_place(&self, id: SequenceId, layer: usize, chunk: usize) -> Result<Option<u64>, KvError> {
        Ok(self.sequence(id)?.path.get(chunk).and_then(|&node| self.place(node, layer)))
    }

    /// Which chunk of its sequences a move is of, counted from 0; `None` if it is not one of the tree, any more.
    #[must_use]
    pub fn chunk_of(&self, op: OpId) -> Option<usize> {
        self.path_to(self.pending.get(&op)?.node).len().checked_sub(1)
    }

    /// The adapter that is loaded.
    #[must_use]
    pub fn adapter_of(&self, op: OpId) -> Option<AdapterId> {
        let node = self.pending.get(&op).filter(|pending| pending.kind == OpKind::Load)?.node;
        let variant = self.nodes[node as usize].variant;
        Some(AdapterId { index: variant, generation: self.adapters[usize::from(variant)].generation })
    }

    /// The sequence that a copy or a translation is for.
    #[must_use]
    pub fn sequence_of(&self, op: OpId) -> Option<SequenceId> {
        self.pending.get(&op)?.copy.map(|(id, _)| id)
    }

    /// Where in a layer's stripe a chunk has its page in memory, at the chunk itself or at its anchor; of one at rest, the page
    /// that it was decoded into.
    pub(super) fn place(&self, node: u32, layer: usize) -> Option<u64> {
        let at = &self.nodes[node as usize];
        let node = if layer < usize::from(at.first) { at.anchor } else { node };
        let at = self.nodes.get(node as usize).filter(|at| at.is_in(0))?;
        let piece = self.tiers[0].piece(self.read_of(node, at).0, layer)?;
        Some(self.tiers[0].offset(piece, layer))
    }

    /// What an encoding reads and writes, page by page, or a move that materialises keys. What is the same as its anchor's is
    /// not stored, hence not in it.
    #[must_use]
    pub fn recodes(&self, op: OpId) -> Vec<PageRecode> {
        let keys = self.keys_written(op);
        if !keys.is_empty() {
            return keys;
        }
        self.recoded(op).filter(|(_, form)| *form != PageForm::Same).map(|(page, _)| page).collect()
    }

    /// The same, and of what is the same as its anchor's where that is read, lower layers that are shared with another chunk
    /// from then on included: for whoever measures what the encoding loses.
    #[must_use]
    pub fn comparisons(&self, op: OpId) -> Vec<PageRecode> {
        let shared =
            self.pending.get(&op).copied().into_iter().flat_map(|Pending { node, anchor, old, .. }| {
                let at = &self.nodes[node as usize];
                let place = self.path_to(node).len().checked_sub(1);
                let shared = if old == anchor { 0 } else { usize::from(at.first) };
                let (layers, chunk) = place.map_or((0, 0), |place| (shared, place as u32));
                (0..layers).flat_map(move |layer| {
                    let [from, to] = [old, anchor].map(|anchor| self.entry(anchor, layer));
                    [PageHalf::K, PageHalf::V].map(|half| {
                        let (from, to, layer) = (from.half(half), to.half(half), layer as u32);
                        PageRecode { layer, half, chunk, from, to }
                    })
                })
            });
        shared.chain(self.recoded(op).map(|(page, _)| page)).collect()
    }

    fn recoded(&self, op: OpId) -> impl Iterator<Item = (PageRecode, PageForm)> {
        let pending = self.pending.get(&op).copied();
        let pending = pending.and_then(|pending| match pending.kind {
            OpKind::Encode { form } => Some((pending, form)),
            _ => None,
        });
        pending.into_iter().flat_map(move |(Pending { node, list, anchor, old, .. }, form)| {
            let at = &self.nodes[node as usize];
            let (before, after) = (self.layers_of(at), self.layers_in(at.variant, form));
            let place = self.path_to(node).len().checked_sub(1);
            let (last, chunk) = place.map_or((0, 0), |place| (self.config.layers, place as u32));
            (usize::from(at.first)..last).flat_map(move |layer| {
                let alone = |anchor: u32| {
                    let anchor = self.nodes.get(anchor as usize)?;
                    Some(self.stored_entry(anchor.pages[0], self.layers_of(anchor), layer, None))
                };
                let from = self.stored_entry(at.pages[0], before, layer, alone(old));
                let to = self.stored_entry(list, after, layer, alone(anchor));
                let form = self.layer_form(after, layer);
                [PageHalf::K, PageHalf::V].map(|half| {
                    let (from, to, layer) = (from.half(half), to.half(half), layer as u32);
                    (PageRecode { layer, half, chunk, from, to }, form.half(half))
                })
            })
        })
    }

    /// A chunk's pages as kernels find them: those of K begin with its piece, those of V behind them. Of one at rest, those that
    /// it was decoded into.
    pub(super) fn entry(&self, node: u32, layer: usize) -> ChunkEntry {
        let at = &self.nodes[node as usize];
        let anchor = self.nodes.get(at.anchor as usize);
        let anchor = anchor.map(|at| self.stored_entry(at.pages[0], self.layers_of(at), layer, None));
        match anchor {
            Some(anchor) if layer < usize::from(at.first) => anchor,
            anchor => {
                let (list, layers) = self.read_of(node, at);
                self.stored_entry(list, layers, layer, anchor)
            }
        }
    }

    /// The pages of a list in memory, by what they are stored as: decoded over an anchor's where that needs one.
    pub(super) fn stored_entry(
        &self,
        list: u32,
        layers: &Layers,
        layer: usize,
        anchor: Option<ChunkEntry>,
    ) -> ChunkEntry {
        let piece = (list != NONE).then(|| self.tiers[0].piece(list, layer)).flatten();
        let place = piece.map(|piece| self.tiers[0].offset(piece, layer));
        let LayerForm { k, v } = self.layer_form(layers, layer);
        let page = |form: PageForm, from: u32, anchor: Option<PageEntry>| match form {
            PageForm::Same => anchor.unwrap_or(PageEntry::exact(self.config.element, NONE)),
            PageForm::Stored { codec, constants, .. } => {
                let at = place.map(|place| (place + u64::from(from)) / PAGE_UNIT as u64);
                let at = at.and_then(|at| u32::try_from(at).ok()).unwrap_or(NONE);
                let anchor = anchor.map(PageEntry::place).filter(|_| !codec.stands_alone());
                PageEntry { codec, at, constants, anchor }
            }
        };
        let [over_k, over_v] = [PageHalf::K, PageHalf::V].map(|half| anchor.map(|anchor| anchor.half(half)));
        ChunkEntry { k: page(k, 0, over_k), v: page(v, k.bytes(), over_v) }
    }

    /// How one of a chunk's layers is stored.
    pub(super) fn layer_form(&self, layers: &Layers, layer: usize) -> LayerForm {
        let coded = match layers {
            Layers::Coded(layers) => layers.get(layer).copied(),
            Layers::Alike(_) => None,
            // There is nothing to be read.
            Layers::AtRest { .. } => Some(LayerForm { k: PageForm::Same, v: PageForm::Same }),
        };
        coded.unwrap_or_else(|| {
            let (codec, bytes) = (self.config.element.into(), (self.config.page_bytes / 2) as u32);
            let page = PageForm::Stored { codec, constants: None, bytes };
            LayerForm { k: page, v: page }
        })
    }

    /// Whether a chunk is encoded for its density ([`Manager::narrow`]).
    #[must_use]
    pub fn is_by_density(&self, op: OpId) -> bool {
        self.pending.get(&op).is_some_and(|pending| pending.is_narrowing)
    }

    /// The variant of the chunk that is encoded, `None` for the base, and its new form.
    #[must_use]
    pub fn encoding(&self, op: OpId) -> Option<(Option<AdapterId>, u8)> {
        let pending = self.pending.get(&op)?;
        let OpKind::Encode { form } = pending.kind else { return None };
        let variant = self.nodes[pending.node as usize].variant;
        let generation = self.adapters[usize::from(variant)].generation;
        Some(((variant != BASE).then_some(AdapterId { index: variant, generation }), form))
    }
}
