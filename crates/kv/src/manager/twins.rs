//! The chunks of the same tokens under other variants: what a chunk may be decoded over, and what may be decoded over it.

use super::Manager;
use crate::children::{self, Key};
use crate::form::Over;
use crate::node::{BASE, Kind, Node};
use crate::numbers::Numbered;

/// Twins of chunks, looked for on the way down and once for each chunk, however many of a path are asked for. They hold for as
/// long as nothing comes into the tree; what has gone from it since is no longer [`Kind::Shared`].
#[derive(Debug)]
pub(super) struct Twins {
    /// Whether a form is decoded over another variant's pages: else nobody asks for any.
    is_wanted: bool,
    of: Numbered<u32, Vec<u32>>,
}

impl Twins {
    /// Chunks that were looked at.
    pub fn looked_at(&self) -> usize {
        self.of.len()
    }
}

impl Manager {
    /// Nobody's twins yet.
    pub(super) fn no_twins(&self) -> Twins {
        Twins { is_wanted: self.has_forms_over(), of: Numbered::default() }
    }

    /// The chunks of a chunk's tokens from position 0 on, under every variant that has some, itself among them: the base's first,
    /// and of each variant's the exact ones before the lossy ones. One text may be there several times, after exact chunks and
    /// after lossy ones. Nothing where no form is decoded over another variant's pages.
    pub(super) fn twins<'a>(&self, node: u32, known: &'a mut Twins) -> &'a [u32] {
        if !known.is_wanted {
            return &[];
        }
        let (mut path, mut at) = (Vec::new(), node);
        while self.is_shared(at) && !known.of.contains_key(&at) {
            path.push(at);
            at = self.nodes[at as usize].parent;
        }
        for &chunk in path.iter().rev() {
            let before = match known.of.get(&self.nodes[chunk as usize].parent) {
                Some(before) => before,
                None => &self.roots_beside(self.nodes[chunk as usize].parent),
            };
            let mut twins: Vec<u32> =
                before.iter().flat_map(|&before| self.twins_after(before, chunk)).collect();
            let order =
                |twin: &u32| (self.nodes[*twin as usize].variant, self.nodes[*twin as usize].drift > 0.0);
            twins.sort_by_key(order);
            known.of.insert(chunk, twins);
        }
        known.of.get(&node).map_or(&[], Vec::as_slice)
    }

    /// The children of a node that have a chunk's tokens, exact and lossy.
    fn twins_after(&self, before: u32, chunk: u32) -> impl Iterator<Item = u32> {
        let Node { variant, children, .. } = self.nodes[before as usize];
        let tokens = self.nodes[chunk as usize].text();
        let find =
            |is_lossy| children::find(&self.nodes, children, Key { variant, from: 0, is_lossy, tokens });
        find(false).into_iter().chain(find(true))
    }

    /// The roots of all variants under the salt of one.
    fn roots_beside(&self, root: u32) -> Vec<u32> {
        let Some(salt) = self.salt_of(root) else { return Vec::new() };
        let variants = 0..self.adapters.len() as u16;
        variants.filter_map(|variant| self.roots.get(&(salt, variant)).copied()).collect()
    }

    /// The place of the salt that contexts from a root on are under.
    pub(super) fn salt_of(&self, root: u32) -> Option<u32> {
        self.roots.iter().find(|(_, own)| **own == root).map(|((salt, _), _)| *salt)
    }

    fn is_shared(&self, node: u32) -> bool {
        self.nodes.get(node as usize).is_some_and(|at| at.kind == Kind::Shared)
    }

    /// Whether there are forms that are decoded over another variant's.
    pub(super) fn has_forms_over(&self) -> bool {
        let own = self.adapters.iter().flat_map(|known| &known.forms);
        self.config.forms.iter().chain(own).any(|form| form.over != Over::Nothing)
    }

    /// Whether a chunk could be decoded over another of the same tokens: that is another variant's, whole, in memory, and
    /// not itself decoded over something; nor does it share its lower layers, of which it has no pages then. How much that
    /// has lost does not matter, since the difference is taken from what it decodes to. What shares its lower layers with the
    /// base stays with the base; where these are another of its chunks', which has lost something, the chunk loses that, too.
    pub(super) fn is_anchor_of(&self, anchor: u32, node: u32) -> bool {
        let own = &self.nodes[node as usize];
        let found = &self.nodes[anchor as usize];
        let is_other = found.variant != own.variant && (own.first == 0 || found.variant == BASE);
        self.is_decodable(found) && is_other
    }

    /// Whether all of a chunk's layers are in memory, none of them at an anchor of its own, and decoded over nothing else.
    pub(super) fn is_decodable(&self, at: &Node) -> bool {
        at.first == 0
            && usize::from(at.top[0]) == self.config.layers
            && at.is_in(0)
            && at.ready
            && self.stands_alone(at)
    }
}
