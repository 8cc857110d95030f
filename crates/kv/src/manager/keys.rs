//! Exact keys beside encoded ones, for a sequence that reads them often: decoded once, and not at every read. They take no room
//! that anything else needs: only what is free becomes theirs, and they are given up before anything is taken.
//!
//! A sequence reads of them what it has asked for and got then, whoever it shares chunks with: what is made later for others, it
//! does not come to read, and what was given up, it does not read again.

use std::collections::BTreeMap;

use interleaf_contract::{ChunkEntry, PAGE_UNIT, PageCodec, PageEntry, PageHalf, PageRecode};

use super::{Manager, Pending, Second};
use crate::form::{LayerForm, Layers, PageForm};
use crate::node::{NONE, Node};
use crate::op::{Op, OpId, OpKind};
use crate::sequence::Sequence;
use crate::{KvError, SequenceId};

/// Which keys of a sequence's chunks are read as exact pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySet {
    /// All that are encoded.
    All,
    /// The same, but where another open sequence reads another chunk over the same anchor, or that itself: rows of both together
    /// decode the anchor once as long as both read it, so that only keys whose own part is dear to decode are read otherwise,
    /// those of [`PageCodec::LowRank`].
    Apart,
}

/// Who reads a chunk's exact keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader {
    pub id: SequenceId,
    /// Whether it reads those alone that are dear to decode.
    pub dear_alone: bool,
}

/// Whether decoding what a key is over its anchor takes more than adding codes to it: it is summed from directions and turned.
const fn is_dear(codec: PageCodec) -> bool {
    matches!(codec, PageCodec::LowRank { .. })
}

impl Manager {
    /// A sequence reads these keys of its chunks as exact pages, a chunk's as soon as the move that decodes them is done: the
    /// moves are returned, as many as there is free room for. What others have had decoded is read at once. Whatever needs that
    /// room takes it back, and the sequence reads encoded keys again, as it does of chunks that no room was found for.
    ///
    /// # Errors
    /// If the sequence is unknown or waits for pages.
    pub fn materialise_keys(&mut self, id: SequenceId, set: KeySet) -> Result<Vec<Op>, KvError> {
        self.ask_for_keys(id, set, true)
    }

    /// The same of those that are there already, or on their way for others.
    ///
    /// # Errors
    /// Likewise.
    pub fn join_keys(&mut self, id: SequenceId, set: KeySet) -> Result<(), KvError> {
        self.ask_for_keys(id, set, false).map(drop)
    }

    fn ask_for_keys(&mut self, id: SequenceId, set: KeySet, are_made: bool) -> Result<Vec<Op>, KvError> {
        let sequence = self.sequence(id)?;
        if !sequence.unready.is_empty() {
            return Err(KvError::Waiting(id));
        }
        if sequence.is_lost || !self.tiers[0].is_striped() {
            return Ok(Vec::new());
        }
        let path = sequence.path[..sequence.shared].to_vec();
        let mut has_room = are_made;
        let mut moves = Vec::new();
        for (chunk, node) in path.into_iter().enumerate() {
            let dear_alone = set == KeySet::Apart && self.is_anchor_shared(id, chunk, node);
            let keys = self.keys_of(node, dear_alone);
            if keys.sum(0..self.config.layers) == 0 {
                continue;
            }
            if !self.has_second(node) {
                let list = has_room.then(|| self.tiers[0].take(0..self.config.layers, &keys)).flatten();
                has_room = list.is_some();
                let Some(list) = list else { continue };
                let Node { form, anchor, .. } = self.nodes[node as usize];
                let kind = OpKind::Materialise { form };
                let pending = Pending { anchor, old: anchor, ..Pending::of(kind, node) };
                moves.push(self.begin_second(pending, list, true));
            }
            self.begin_reading_keys(node, Reader { id, dear_alone });
        }
        Ok(moves)
    }

    /// A sequence reads its keys where they are stored again, and what nobody else reads of exact ones goes.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn read_keys_in_place(&mut self, id: SequenceId) -> Result<(), KvError> {
        let path = self.sequence(id)?.path.clone();
        for (chunk, node) in path.into_iter().enumerate() {
            if self.stop_reading_keys(node, id) {
                self.renew_entry_of(id, chunk);
                self.go_back(node);
            }
        }
        Ok(())
    }

    /// Other sequences read those keys in place again that they share an anchor of with this one from now on, as if they had
    /// asked for [`KeySet::Apart`] now.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn share_anchors(&mut self, id: SequenceId) -> Result<(), KvError> {
        let sequence = self.sequence(id)?;
        let own = sequence.path[..sequence.shared].iter().map(|&node| (self.anchor_or_self(node), node));
        let own: BTreeMap<u32, u32> = own.collect();
        let is_beside = |node: &u32| own.get(&self.anchor_or_self(*node)).is_some_and(|own| own != node);
        let mut nodes: Vec<u32> = self.keys().map(|(node, _)| node).filter(is_beside).collect();
        nodes.sort_unstable();
        nodes.into_iter().for_each(|node| self.read_dear_alone(node));
        Ok(())
    }

    fn read_dear_alone(&mut self, node: u32) {
        let has_dear = self.keys_of(node, true).sum(0..self.config.layers) > 0;
        let Some(second) = self.seconds.get_mut(&node) else { return };
        let readers = second.readers.clone();
        second.readers.retain(|_| has_dear);
        second.readers.iter_mut().for_each(|reader| reader.dear_alone = true);
        self.renew_entries(node, &readers);
        self.go_back(node);
    }

    /// How many of a sequence's chunks have keys that are read where they are encoded, and how many have exact ones that are
    /// read in their place, in some layers at least.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn keys_read(&self, id: SequenceId) -> Result<(usize, usize), KvError> {
        let sequence = self.sequence(id)?;
        let (mut in_place, mut materialised) = (0, 0);
        for (chunk, &node) in sequence.path.iter().enumerate().take(sequence.shared) {
            let layers = 0..self.config.layers;
            let entries = layers.filter_map(|layer| Some((layer, sequence.table.entry(layer, chunk)?)));
            let encoded: Vec<bool> = entries
                .filter(|(layer, _)| !is_exact(self.entry(node, *layer).k.codec))
                .map(|(_, entry)| is_exact(entry.k.codec))
                .collect();
            match encoded.contains(&true) {
                true => materialised += 1,
                false => in_place += usize::from(!encoded.is_empty()),
            }
        }
        Ok((in_place, materialised))
    }

    /// How many pages of keys a sequence reads where they are encoded, layers times chunks, by codec, and of how many of these
    /// [`Manager::materialise_keys`] would have exact ones made, had it room.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn keys_in_place(
        &self,
        id: SequenceId,
        set: KeySet,
    ) -> Result<BTreeMap<PageCodec, [usize; 2]>, KvError> {
        let sequence = self.sequence(id)?;
        let mut found = BTreeMap::<PageCodec, [usize; 2]>::new();
        for (chunk, &node) in sequence.path.iter().enumerate().take(sequence.shared) {
            let dear_alone = set == KeySet::Apart && self.is_anchor_shared(id, chunk, node);
            let entries = (0..self.config.layers).filter_map(|layer| sequence.table.entry(layer, chunk));
            for codec in entries.map(|entry| entry.k.codec).filter(|codec| !is_exact(*codec)) {
                let is_wanted = !self.has_second(node) && (!dear_alone || is_dear(codec));
                let [all, wanted] = found.entry(codec).or_default();
                *all += 1;
                *wanted += usize::from(is_wanted);
            }
        }
        Ok(found)
    }

    /// Whether another open sequence reads another chunk over the same anchor as one of a sequence's, or that anchor. Who reads
    /// the very same chunk takes nothing from sharing: its rows read the same pages, whichever these are.
    fn is_anchor_shared(&self, id: SequenceId, chunk: usize, node: u32) -> bool {
        let anchor = self.anchor_or_self(node);
        let others = self.sequences.values().filter(|other| other.id != id);
        let mut beside = others.filter_map(|other| other.path[..other.shared].get(chunk));
        beside.any(|&other| other != node && self.anchor_or_self(other) == anchor)
    }

    fn anchor_or_self(&self, node: u32) -> u32 {
        Some(self.nodes[node as usize].anchor).filter(|anchor| *anchor != NONE).unwrap_or(node)
    }

    fn begin_reading_keys(&mut self, node: u32, reader: Reader) {
        let Some(second) = self.seconds.get_mut(&node).filter(|second| second.is_keys) else { return };
        second.readers.retain(|other| other.id != reader.id);
        second.readers.push(reader);
        self.renew_entries(node, &[reader]);
    }

    /// A sequence reads a chunk's exact keys no longer; its table is renewed by whoever calls this, if it still has the chunk.
    /// Returns whether it did.
    pub(super) fn stop_reading_keys(&mut self, node: u32, id: SequenceId) -> bool {
        let Some(second) = self.seconds.get_mut(&node) else { return false };
        let had = second.readers.len();
        second.readers.retain(|reader| reader.id != id);
        second.readers.len() < had
    }

    /// Exact keys of the layers of which a chunk's are not read as such, be they its own or its anchor's; of all of these, or of
    /// those alone that are dear to decode.
    fn keys_of(&self, node: u32, dear_alone: bool) -> Layers {
        let of = |layer| match self.entry(node, layer).k.codec {
            codec if is_exact(codec) || dear_alone && !is_dear(codec) => {
                LayerForm { k: PageForm::Same, v: PageForm::Same }
            }
            _ => self.layer_form(&self.exact_keys, layer),
        };
        Layers::Coded((0..self.config.layers).map(of).collect())
    }

    /// A chunk's pages as a sequence finds them, which may read exact keys.
    pub(super) fn entry_read(&self, node: u32, layer: usize, id: SequenceId) -> ChunkEntry {
        let entry = self.entry(node, layer);
        let second = self.seconds.get(&node).filter(|second| second.is_keys && second.is_ready);
        let reads = |second: &&Second| {
            let reader = second.readers.iter().find(|reader| reader.id == id);
            reader.is_some_and(|reader| !reader.dear_alone || is_dear(entry.k.codec))
        };
        let k = second.filter(reads).and_then(|second| self.key_page(second.list, layer)).unwrap_or(entry.k);
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

    /// A sequence finds its keys where they are now, if some were given up since a number of them was.
    pub(super) fn renew_given_up(&self, sequence: &mut Sequence, forgotten: u64) {
        let all = if self.keys_forgotten > forgotten { sequence.shared } else { 0 };
        (0..all).for_each(|chunk| self.renew_entry(sequence, chunk));
    }

    /// Readers find the keys of a chunk where they are now; one that an event is about does when that is over.
    pub(super) fn renew_entries(&mut self, node: u32, readers: &[Reader]) {
        for reader in readers {
            let place = self.sequences.get(&reader.id);
            let place = place.and_then(|sequence| sequence.path.iter().position(|own| *own == node));
            place.into_iter().for_each(|chunk| self.renew_entry_of(reader.id, chunk));
        }
    }

    fn renew_entry_of(&mut self, id: SequenceId, chunk: usize) {
        let Some(mut sequence) = self.sequences.remove(&id) else { return };
        if chunk < sequence.shared {
            self.renew_entry(&mut sequence, chunk);
        }
        self.sequences.insert(id, sequence);
    }
}

const fn is_exact(codec: PageCodec) -> bool {
    matches!(codec, PageCodec::Exact(_))
}
