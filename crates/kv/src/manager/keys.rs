//! Exact keys beside encoded ones, for a sequence that reads them often: decoded once, and not at every read. They take no room
//! that anything else needs: only what is free becomes theirs, and they are given up before anything is taken.
//!
//! A sequence that has not asked for them reads what it would without them, whoever it shares chunks with.

use interleaf_contract::{ChunkEntry, PAGE_UNIT, PageCodec, PageEntry, PageHalf, PageRecode};

use super::{Manager, Pending, Second};
use crate::form::{LayerForm, Layers, PageForm};
use crate::node::Node;
use crate::op::{Op, OpId, OpKind};
use crate::sequence::Sequence;
use crate::{KvError, SequenceId};

impl Manager {
    /// From now on a sequence reads the keys of its chunks as exact pages where they are encoded, a chunk's as soon as the move
    /// that decodes them is done: the moves are returned, as many as there is free room for. Whatever needs that room takes it
    /// back, and the sequence reads encoded keys again.
    ///
    /// # Errors
    /// If the sequence is unknown or waits for pages.
    pub fn materialise_keys(&mut self, id: SequenceId) -> Result<Vec<Op>, KvError> {
        let sequence = self.sequence(id)?;
        if !sequence.unready.is_empty() {
            return Err(KvError::Waiting(id));
        }
        if sequence.is_lost || !self.tiers[0].is_striped() {
            return Ok(Vec::new());
        }
        let path = sequence.path[..sequence.shared].to_vec();
        self.set_reads_keys(id, true);
        let mut moves = Vec::new();
        for node in path {
            let keys = self.keys_of(node);
            if self.has_second(node) || keys.sum(0..self.config.layers) == 0 {
                continue;
            }
            let Some(list) = self.tiers[0].take(0..self.config.layers, &keys) else { break };
            let Node { form, anchor, .. } = self.nodes[node as usize];
            let kind = OpKind::Materialise { form };
            let pending = Pending { anchor, old: anchor, ..Pending::of(kind, node) };
            moves.push(self.begin_second(pending, list, true));
        }
        Ok(moves)
    }

    /// A sequence reads its keys where they are stored again, and what nobody else reads of exact ones goes.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn read_keys_in_place(&mut self, id: SequenceId) -> Result<(), KvError> {
        let path = self.sequence(id)?.path.clone();
        self.set_reads_keys(id, false);
        path.into_iter().for_each(|node| self.go_back(node));
        Ok(())
    }

    /// How many of a sequence's chunks have keys that are read where they are encoded, and how many have exact ones that are
    /// read in their place.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn keys_read(&self, id: SequenceId) -> Result<(usize, usize), KvError> {
        let sequence = self.sequence(id)?;
        let is_exact = |entry: &ChunkEntry| matches!(entry.k.codec, PageCodec::Exact(_));
        let (mut in_place, mut materialised) = (0, 0);
        for (chunk, &node) in sequence.path.iter().enumerate().take(sequence.shared) {
            let entries = (0..self.config.layers).filter_map(|layer| sequence.table.entry(layer, chunk));
            if !entries.clone().all(|entry| is_exact(&entry)) {
                in_place += 1;
            } else if self.seconds.get(&node).is_some_and(|second| second.is_keys) {
                materialised += 1;
            }
        }
        Ok((in_place, materialised))
    }

    fn set_reads_keys(&mut self, id: SequenceId, reads_keys: bool) {
        let Some(mut sequence) = self.sequences.remove(&id) else { return };
        sequence.reads_keys = reads_keys;
        for chunk in 0..sequence.shared {
            if self.has_second(sequence.path[chunk]) {
                self.renew_entry(&mut sequence, chunk);
            }
        }
        self.sequences.insert(id, sequence);
    }

    /// Exact keys of the layers of which a chunk's are not read as such, be they its own or its anchor's.
    fn keys_of(&self, node: u32) -> Layers {
        let of = |layer| match self.entry(node, layer).k.codec {
            PageCodec::Exact(_) => LayerForm { k: PageForm::Same, v: PageForm::Same },
            _ => self.layer_form(&self.exact_keys, layer),
        };
        Layers::Coded((0..self.config.layers).map(of).collect())
    }

    /// A chunk's pages as a sequence finds them that reads exact keys, or does not.
    pub(super) fn entry_read(&self, node: u32, layer: usize, with_keys: bool) -> ChunkEntry {
        let entry = self.entry(node, layer);
        let is_it = |second: &&Second| with_keys && second.is_keys && second.is_ready;
        let second = self.seconds.get(&node).filter(is_it);
        let k = second.and_then(|second| self.key_page(second.list, layer)).unwrap_or(entry.k);
        ChunkEntry { k, ..entry }
    }

    fn key_page(&self, list: u32, layer: usize) -> Option<PageEntry> {
        let place = self.tiers[0].offset(self.tiers[0].piece(list, layer)?, layer) / PAGE_UNIT as u64;
        Some(PageEntry::exact(self.config.element, u32::try_from(place).ok()?))
    }

    /// What a move that materialises keys reads and writes; nothing for any other.
    pub(super) fn keys_written(&self, op: OpId) -> Vec<PageRecode> {
        let Some(&Pending { kind: OpKind::Materialise { .. }, node, .. }) = self.pending.get(&op) else {
            return Vec::new();
        };
        let path = self.path_to(node);
        let second = self.seconds.get(&node).filter(|second| second.is_keys);
        let (Some(second), Some(chunk)) = (second, path.len().checked_sub(1)) else { return Vec::new() };
        let page = |layer: usize| {
            let (to, half) = (self.key_page(second.list, layer)?, PageHalf::K);
            let (from, layer, chunk) = (self.entry(node, layer).k, layer as u32, chunk as u32);
            Some(PageRecode { layer, half, chunk, from, to })
        };
        (0..self.config.layers).filter_map(page).collect()
    }

    /// Gives up one chunk's exact keys, which whoever reads them can do without. Returns whether there were any.
    pub(super) fn give_up_keys(&mut self) -> bool {
        let node = self.keys().filter(|(_, is_ready)| *is_ready).map(|(node, _)| node).max();
        node.inspect(|node| self.forget_second(*node)).is_some()
    }

    /// Whether there are any to be given up.
    pub(super) fn has_keys(&self) -> bool {
        self.keys().any(|(_, is_ready)| is_ready)
    }

    /// The lists of those that are on their way.
    pub(super) fn keys_coming(&self) -> Vec<u32> {
        let coming = self.keys().filter(|(_, is_ready)| !is_ready);
        coming.filter_map(|(node, _)| Some(self.seconds.get(&node)?.list)).collect()
    }

    /// Chunks that have exact keys beside encoded ones, and whether these are there.
    fn keys(&self) -> impl Iterator<Item = (u32, bool)> {
        let all = self.seconds.iter().filter(|(_, second)| second.is_keys);
        all.map(|(node, second)| (*node, second.is_ready))
    }

    /// Whether a sequence that reads exact keys has a chunk.
    pub(super) fn is_read_for_keys(&self, node: u32) -> bool {
        self.sequences.values().any(|sequence| sequence.reads_keys && sequence.path.contains(&node))
    }

    /// A sequence finds its keys where they are now, if some were given up since a number of them was.
    pub(super) fn renew_given_up(&self, sequence: &mut Sequence, forgotten: u64) {
        let all = if self.keys_forgotten > forgotten && sequence.reads_keys { sequence.shared } else { 0 };
        (0..all).for_each(|chunk| self.renew_entry(sequence, chunk));
    }

    /// Sequences find the keys of a chunk where they are now; one that an event is about does when that is over.
    pub(super) fn renew_entries(&mut self, node: u32) {
        let has = |sequence: &Sequence| sequence.reads_keys && sequence.path.contains(&node);
        let of: Vec<SequenceId> =
            self.sequences.iter().filter(|(_, sequence)| has(sequence)).map(|(id, _)| *id).collect();
        for id in of {
            let Some(mut sequence) = self.sequences.remove(&id) else { continue };
            let place = sequence.path.iter().position(|own| *own == node);
            place.into_iter().for_each(|chunk| self.renew_entry(&mut sequence, chunk));
            self.sequences.insert(id, sequence);
        }
    }
}
