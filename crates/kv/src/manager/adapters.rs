//! Who may answer: adapters by what they do, and their weights in the pool.

use super::{Manager, Pending};
use crate::node::{BASE, Kind, NONE, Node, Refused};
use crate::op::{Op, OpKind};
use crate::tier::RankRows;
use crate::{AdapterId, AdapterKey, Form, KvError, Translation};

/// What the manager is told of an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterSpec {
    /// What it is.
    pub key: AdapterKey,
    /// Leading layers whose K and V it leaves as the base's ([`shared_layers`](crate::shared_layers)); all of them for one
    /// that changes nothing, whose contexts are the base's.
    pub shared_layers: usize,
    /// Whether it acts only from its invocation on.
    pub is_activated: bool,
    /// How good a translation of the base's pages is for it, if there is one.
    pub translation: Option<Translation>,
    /// What its weights take of each layer's blocks; empty where they are kept elsewhere, and are then always there.
    pub rank_rows: Vec<RankRows>,
}

/// An adapter, or the base.
#[derive(Debug)]
pub(super) struct Known {
    pub key: Option<AdapterKey>,
    pub generation: u32,
    pub shared: u8,
    pub is_activated: bool,
    pub translation: Option<Translation>,
    /// Forms that its chunks may be kept in besides those of all.
    pub forms: Vec<Form>,
    /// What its weights take; empty for one that is always there.
    pub rank_rows: Vec<RankRows>,
    /// What they have of memory, by stripe.
    pub pieces: Vec<(u16, crate::blocks::Piece)>,
    /// Bytes that they take of it when they are there, rounding included.
    pub bytes: u64,
    /// Its weights in the tree.
    pub node: u32,
    /// Whether nobody may open sequences under it any more.
    pub is_leaving: bool,
}

impl Known {
    pub const fn base(layers: usize) -> Self {
        Self {
            key: None,
            generation: 0,
            shared: layers as u8,
            is_activated: false,
            translation: None,
            forms: Vec::new(),
            rank_rows: Vec::new(),
            pieces: Vec::new(),
            bytes: 0,
            node: NONE,
            is_leaving: false,
        }
    }

    /// Whether its weights come and go.
    pub fn is_pooled(&self) -> bool {
        !self.rank_rows.is_empty()
    }
}

impl Manager {
    /// Tells of forms that an adapter's chunks, or the base's for `None`, may be kept in besides those of all: as they were
    /// measured of it. They stay, since chunks are in them; those told of before are counted first.
    ///
    /// # Errors
    /// If the adapter is unknown, there would be more than [`MOST_FORMS`](crate::MOST_FORMS) with those of all, or one cannot be.
    pub fn add_forms(&mut self, adapter: Option<AdapterId>, forms: Vec<Form>) -> Result<(), KvError> {
        let variant = adapter.map_or(Ok(BASE), |id| self.variant(id))?;
        let known = &self.adapters[usize::from(variant)].forms;
        self.config.check_forms(&forms, self.config.forms.len() + known.len())?;
        self.adapters[usize::from(variant)].forms.extend(forms);
        // What has fewer bytes may lose less all the same.
        for node in self.nodes.iter_mut().filter(|node| node.variant == variant) {
            node.refused = Refused::NOTHING;
        }
        Ok(())
    }

    /// How many forms besides the exact one an adapter's chunks, or the base's for `None`, may be kept in; those told of next
    /// are counted from one more.
    ///
    /// # Errors
    /// If the adapter is unknown.
    pub fn forms_of(&self, adapter: Option<AdapterId>) -> Result<usize, KvError> {
        let variant = adapter.map_or(Ok(BASE), |id| self.variant(id))?;
        Ok(self.config.forms.len() + self.adapters[usize::from(variant)].forms.len())
    }

    /// Tells of an adapter. Its weights, if they are in the pool, are loaded once a sequence is opened under it.
    ///
    /// # Errors
    /// If it is there already, its layers are not the model's, or there are too many.
    pub fn add_adapter(&mut self, spec: AdapterSpec) -> Result<AdapterId, KvError> {
        let layers = self.config.layers;
        if self.adapters.iter().any(|known| known.key == Some(spec.key) && !known.is_leaving) {
            return Err(KvError::DuplicateAdapter);
        }
        if spec.shared_layers > layers || !matches!(spec.rank_rows.len(), 0) && spec.rank_rows.len() != layers
        {
            let found = format!("{} and {}", spec.shared_layers, spec.rank_rows.len());
            let (field, expected) =
                ("shared_layers and rank_rows", "at most and as many as the model's layers");
            return Err(KvError::Config { field, expected, found });
        }
        let place = self.adapters.iter().position(|known| known.key.is_none() && known.generation > 0);
        let place = place.unwrap_or(self.adapters.len());
        let Ok(variant) = u16::try_from(place) else {
            return Err(KvError::TooManyAdapters { most: usize::from(u16::MAX) });
        };
        if let Some(translation) = &spec.translation {
            translation.check()?;
        }
        self.generations += 1;
        // Where a chunk is one piece of all layers it is shared whole or not at all.
        let shared = match self.tiers[0].is_striped() {
            true => spec.shared_layers,
            false => spec.shared_layers / layers * layers,
        };
        let generation = self.generations;
        let is_pooled = !spec.rank_rows.is_empty();
        let bytes = self.tiers[0].ranks_bytes(&spec.rank_rows);
        let node = if is_pooled { self.new_node(Node::new(Kind::Adapter, variant)) } else { NONE };
        let known = Known {
            key: Some(spec.key),
            generation,
            shared: shared as u8,
            is_activated: spec.is_activated,
            translation: spec.translation,
            forms: Vec::new(),
            rank_rows: spec.rank_rows,
            pieces: Vec::new(),
            bytes,
            node,
            is_leaving: false,
        };
        self.activated += usize::from(spec.is_activated);
        match self.adapters.get_mut(place) {
            Some(old) => *old = known,
            None => self.adapters.push(known),
        }
        Ok(AdapterId { index: variant, generation })
    }

    /// What an adapter is.
    ///
    /// # Errors
    /// If there is none.
    pub fn adapter_key(&self, id: AdapterId) -> Result<AdapterKey, KvError> {
        let variant = self.variant(id)?;
        self.adapters[usize::from(variant)].key.ok_or(KvError::UnknownAdapter)
    }

    /// Takes an adapter's leave: nothing is opened under it any more, and what was computed under it goes, at once or with
    /// the last sequence that uses it.
    ///
    /// # Errors
    /// If there is none.
    pub fn remove_adapter(&mut self, id: AdapterId) -> Result<(), KvError> {
        let variant = self.variant(id)?;
        self.adapters[usize::from(variant)].is_leaving = true;
        self.leaving += 1;
        self.forget_leaving();
        self.settle();
        Ok(())
    }

    /// The variant of an adapter that may answer.
    pub(super) fn variant(&self, id: AdapterId) -> Result<u16, KvError> {
        let known =
            self.adapters.get(usize::from(id.index)).filter(|known| known.generation == id.generation);
        match known {
            Some(known) if known.key.is_some() && !known.is_leaving => Ok(id.index),
            _ => Err(KvError::UnknownAdapter),
        }
    }

    /// Adapters that have left and whom no sequence uses are forgotten with all that was computed under them.
    pub(super) fn forget_leaving(&mut self) {
        if self.leaving == 0 {
            return;
        }
        for place in 1..self.adapters.len() {
            let variant = place as u16;
            let known = &self.adapters[place];
            if !known.is_leaving
                || self.sequences.values().any(|sequence| sequence.variant == variant)
                || self.nodes.get(known.node as usize).is_some_and(|node| node.busy > 0)
                || self.is_read(variant)
            {
                continue;
            }
            let node = known.node;
            // The topmost of its chunks take the others with them.
            for chunk in 0..self.nodes.len() {
                let Node { kind, variant: own, parent, .. } = self.nodes[chunk];
                let is_topmost = || {
                    self.nodes
                        .get(parent as usize)
                        .is_some_and(|p| p.variant != variant || p.kind == Kind::Root)
                };
                if kind == Kind::Shared && own == variant && is_topmost() {
                    self.remove_subtree(chunk as u32);
                }
            }
            self.roots.retain(|(_, own), root| {
                let goes = *own == variant;
                if goes {
                    self.nodes[*root as usize] = Node::new(Kind::Free, BASE);
                    self.free_nodes.push(*root);
                }
                !goes
            });
            if node != NONE {
                self.drop_weights(variant);
                self.frontier_take(node);
                self.free_node(node);
            }
            self.leaving -= 1;
            self.activated -= usize::from(self.adapters[place].is_activated);
            self.expected_at = None;
            let Self { adapters, .. } = self;
            adapters[place] = Known { generation: adapters[place].generation, ..Known::base(0) };
        }
    }

    /// Whether open sequences read chunks of a variant that their own are decoded over.
    fn is_read(&self, variant: u16) -> bool {
        let of = |node: &Node| self.nodes.get(node.anchor as usize).map(|anchor| anchor.variant);
        self.nodes.iter().any(|node| node.pins > 0 && of(node) == Some(variant))
    }

    /// Brings an adapter's weights into memory for a sequence that is about to use some nodes. Returns the move, if there is
    /// one to make.
    pub(super) fn bring_adapter(&mut self, variant: u16, beside: &[u32]) -> Result<Option<Op>, KvError> {
        let known = &self.adapters[usize::from(variant)];
        let node = known.node;
        if node == NONE || self.nodes[node as usize].ready || self.nodes[node as usize].busy > 0 {
            return Ok(None);
        }
        if !self.nodes[node as usize].is_in(0) {
            let rows = known.rank_rows.clone();
            let full = KvError::AdapterFull { needed: known.bytes };
            let needed = self.tiers[0].whole_blocks(&rows);
            let most = needed.iter().copied().max().unwrap_or(0);
            let is_short =
                |there: Vec<usize>| needed.iter().zip(there).any(|(needed, there)| *needed > there);
            // What cannot be had anyway is not to empty the cache first.
            if self.soon_available(most) < most && is_short(self.available_blocks(beside)) {
                return Err(full);
            }
            let pieces = loop {
                match self.tiers[0].take_ranks(&rows) {
                    Some(pieces) => break pieces,
                    None if self.give_up_keys() || self.evict_one(0) => {}
                    None => return Err(full),
                }
            };
            self.frontier.take(&mut self.nodes, node);
            self.adapters[usize::from(variant)].pieces = pieces;
            // It has pieces in a list of its own; the node only says that it is there.
            self.nodes[node as usize].pages[0] = 0;
            self.situation.adapters += 1;
        }
        let bytes = self.adapters[usize::from(variant)].bytes;
        Ok(Some(self.new_op(Pending::of(OpKind::Load, node), bytes)))
    }

    /// Frees the memory of an adapter's weights, if they are there.
    pub(super) fn drop_weights(&mut self, variant: u16) {
        let known = &mut self.adapters[usize::from(variant)];
        let node = known.node;
        if self.nodes[node as usize].is_in(0) {
            let pieces = std::mem::take(&mut known.pieces);
            self.tiers[0].give_back_ranks(pieces);
            self.queues[0].take(&mut self.nodes, node);
            let weights = &mut self.nodes[node as usize];
            (weights.pages[0], weights.ready) = (NONE, false);
            self.situation.adapters -= 1;
            self.evicted[0] += 1;
            let generation = self.adapters[usize::from(variant)].generation;
            self.unloaded.push(AdapterId { index: variant, generation });
        }
    }

    /// Adapters whose weights have gone from the pool since this was last asked: whoever has them lets them go, unless they are
    /// loaded again by now.
    pub fn take_unloaded(&mut self) -> Vec<AdapterId> {
        std::mem::take(&mut self.unloaded)
    }

    /// Whether an adapter's weights have room in the pool, there or on their way, or need none.
    #[must_use]
    pub fn has_weights(&self, id: AdapterId) -> bool {
        let known =
            self.adapters.get(usize::from(id.index)).filter(|known| known.generation == id.generation);
        known.is_some_and(|known| self.nodes.get(known.node as usize).is_none_or(|node| node.is_in(0)))
    }
}

#[cfg(test)]
mod tests {
    use interleaf_contract::{PageElement, PoolGeometry};

    use super::*;
    use crate::{Config, ContentDigest};

    /// Its number would be the base's.
    #[test]
    fn no_adapter_gets_the_number_of_another() {
        let digest = ContentDigest([0; 32]);
        let key = AdapterKey { digest, scale_bits: 0 };
        let geometry =
            PoolGeometry { layers: 2, kv_heads: 1, head_dim: 32, element: PageElement::F16, slots: 1 };
        let mut manager = Manager::new(Config::in_memory(&geometry, 16)).unwrap();
        let other = AdapterKey { scale_bits: 1, ..key };
        let known = || Known { key: Some(other), ..Known::base(2) };
        manager.adapters.resize_with(usize::from(u16::MAX), known);
        let spec = |scale_bits| AdapterSpec {
            key: AdapterKey { scale_bits, ..key },
            shared_layers: 0,
            is_activated: false,
            translation: None,
            rank_rows: Vec::new(),
        };
        assert_eq!(manager.add_adapter(spec(2)).unwrap().index, u16::MAX);
        assert_eq!(manager.add_adapter(spec(3)), Err(KvError::TooManyAdapters { most: 65535 }));
    }
}
