//! Exact pages beside a chunk's own, for those who use it: all of a chunk at rest, which nobody could read else (`rest`), or
//! the keys of an encoded one, which are sooner read than decoded (`keys`). Nothing is moved when they are not needed any more:
//! the chunk's own pages are as they were all the time.

use super::keys::Reader;
use super::{Manager, Pending};
use crate::form::Layers;
use crate::node::{EXACT, Kind, NONE, Node};
use crate::op::Op;
use crate::sequence::Sequence;

/// Pages beside a chunk's own.
#[derive(Debug)]
pub(super) struct Second {
    pub list: u32,
    /// Whether they are keys alone, which the chunk can be read without.
    pub is_keys: bool,
    /// Whether they have their contents.
    pub is_ready: bool,
    /// Of keys, who reads them.
    pub readers: Vec<Reader>,
}

impl Manager {
    /// Whether a chunk has pages beside its own, or is getting them.
    pub(super) fn has_second(&self, node: u32) -> bool {
        self.seconds.contains_key(&node)
    }

    /// A chunk is getting pages beside its own.
    pub(super) fn begin_second(&mut self, pending: Pending, list: u32, is_keys: bool) -> Op {
        let second = Second { list, is_keys, is_ready: false, readers: Vec::new() };
        self.seconds.insert(pending.node, second);
        self.new_op(pending, self.tiers[0].list_bytes(list))
    }

    /// They have their contents.
    pub(super) fn fill_second(&mut self, node: u32) {
        if let Some(second) = self.seconds.get_mut(&node) {
            second.is_ready = true;
            let readers = second.readers.clone();
            self.renew_entries(node, &readers);
        }
    }

    /// What pages beside a chunk's own are stored as.
    pub(super) fn layers_beside(&self, second: &Second) -> &Layers {
        if second.is_keys { &self.exact_keys } else { &self.exact }
    }

    /// The list that a chunk's pages are read from by everybody, and what that has.
    pub(super) fn read_of<'a>(&'a self, node: u32, at: &'a Node) -> (u32, &'a Layers) {
        match self.seconds.get(&node) {
            Some(second) if !second.is_keys => (second.list, &self.exact),
            _ => (at.pages[0], self.layers_of(at)),
        }
    }

    /// Whether what is read of a chunk in memory has its contents.
    pub(super) fn is_readable(&self, node: u32) -> bool {
        let is_filled = |second: &Second| second.is_ready || second.is_keys;
        self.nodes[node as usize].ready && self.seconds.get(&node).is_none_or(is_filled)
    }

    /// A chunk whose other pages nobody uses any more has its own alone.
    pub(super) fn go_back(&mut self, node: u32) {
        let Some(second) = self.seconds.get(&node) else { return };
        let at = &self.nodes[node as usize];
        let is_used = match second.is_keys {
            true => !second.is_ready || !second.readers.is_empty(),
            false => at.pins > 0 || at.busy > 0,
        };
        if at.kind == Kind::Shared && !is_used {
            self.forget_second(node);
            self.consider(node, 0);
        }
    }

    /// What a chunk has beside its own pages goes; who read it reads those.
    pub(super) fn forget_second(&mut self, node: u32) {
        if let Some(Second { list, is_keys, readers, .. }) = self.seconds.remove(&node) {
            self.tiers[0].give_back(list);
            self.keys_forgotten += u64::from(is_keys);
            self.renew_entries(node, &readers);
        }
    }

    /// With memory all of it is lost. Chunks at rest that are in use are computed again where their exact pages were, and are
    /// over nothing then but the layers that they share; what was at rest is gone.
    pub(super) fn lose_seconds(&mut self) {
        let mut all: Vec<u32> = self.seconds.keys().copied().collect();
        all.sort_unstable();
        for node in all {
            if let Some(&Second { list, is_keys: false, .. }) = self.seconds.get(&node) {
                self.seconds.remove(&node);
                let at = &mut self.nodes[node as usize];
                at.form = EXACT;
                let resting = std::mem::replace(&mut at.pages[0], list);
                self.tiers[0].give_back(resting);
                let Node { first, anchor, kind, .. } = self.nodes[node as usize];
                if kind == Kind::Shared {
                    self.follow(node, if first > 0 { anchor } else { NONE });
                }
            } else {
                self.forget_second(node);
            }
        }
    }

    /// A sequence finds a chunk's pages where they are now.
    pub(super) fn renew_entry(&self, sequence: &mut Sequence, chunk: usize) {
        let (node, id) = (sequence.path[chunk], sequence.id);
        sequence.table.set(self.config.layers, chunk, |layer| self.entry_read(node, layer, id));
    }
}
