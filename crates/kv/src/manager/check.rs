//! Whether everything fits together: for tests, and for whoever doubts. Changes nothing.

use interleaf_contract::CHUNK_TOKENS;

use super::keys::Reader;
use super::{Manager, OpKind, Pending};
use crate::children;
use crate::node::{BASE, EXACT, Kind, NONE, Node};

/// Fails with what does not hold.
macro_rules! holds {
    ($condition:expr, $($message:tt)+) => {
        match $condition {
            true => {}
            false => return Err(format!($($message)+)),
        }
    };
}

impl Manager {
    /// Checks every rule that the manager keeps, over all it knows.
    ///
    /// # Errors
    /// Says what does not hold: a fault of the manager's.
    pub fn check(&self) -> Result<(), String> {
        self.check_memory()?;
        for (index, node) in self.nodes.iter().enumerate() {
            self.check_node(index as u32, node).map_err(|e| format!("node {index}: {e}; {node:?}"))?;
        }
        let encodings = self.pending.values().filter(|op| matches!(op.kind, OpKind::Encode { .. })).count();
        holds!(
            self.encodings == encodings,
            "{encodings} encodings are under way, counted {}",
            self.encodings
        );
        holds!(encodings > 0 || self.encoded.is_empty(), "something is to follow from encodings that ended");
        let activated = self.adapters.iter().filter(|known| known.is_activated).count();
        holds!(self.activated == activated, "{activated} adapters are activated, counted {}", self.activated);
        self.check_counts()?;
        self.check_sequences()
    }

    fn check_memory(&self) -> Result<(), String> {
        for (tier, held) in self.tiers.iter().enumerate() {
            let own = |node: &&Node| node.is_in(tier) && node.kind != Kind::Adapter;
            let lists: Vec<u32> = self.nodes.iter().filter(own).map(|node| node.pages[tier]).collect();
            let written: Vec<u32> = (self.pending.values())
                .filter(|pending| match pending.kind {
                    OpKind::Write { to, .. } => to == tier,
                    OpKind::Encode { .. } => tier == 0,
                    OpKind::Read { .. } | OpKind::Recompute => tier == 0 && pending.list != NONE,
                    _ => false,
                })
                .map(|pending| pending.list)
                .collect();
            let seconds = self.seconds.values().filter(|_| tier == 0).map(|second| second.list);
            let all: Vec<u32> = lists.into_iter().chain(written).chain(seconds).collect();
            let pieces: usize = all.iter().map(|&list| held.pieces_of(list)).sum();
            // Of adapters memory alone has something.
            let adapters = || self.adapters.iter().filter(|_| tier == 0);
            let slabs: usize = adapters().map(|known| known.pieces.len()).sum();
            holds!(
                pieces + slabs == held.pieces(),
                "tier {tier} has {} pieces, {pieces} and {slabs} are known",
                held.pieces()
            );
            holds!(
                all.len() == held.lists(),
                "tier {tier} has {} lists, {} are known",
                held.lists(),
                all.len()
            );
            let bytes = all.iter().map(|&list| held.list_bytes(list)).sum::<u64>()
                + adapters().map(|known| held.pieces_bytes(&known.pieces)).sum::<u64>();
            // Blocks are held for a piece at least.
            let most = held.pieces() as u64 * held.slab_bytes();
            holds!(
                (bytes..=most).contains(&held.held_bytes()),
                "tier {tier} holds {} bytes for pieces of {bytes}",
                held.held_bytes()
            );
            if held.excess_bytes() > 0 {
                holds!(self.queues[tier].len() == 0, "tier {tier} is over its budget, and something may go");
                holds!(tier > 0 || !self.has_keys(), "memory is over its budget, and holds keys twice");
            }
        }
        Ok(())
    }

    fn check_node(&self, index: u32, node: &Node) -> Result<(), String> {
        let busy = self.pending.values().flat_map(Pending::holds).filter(|held| *held == index).count();
        holds!(usize::from(node.busy) == busy, "{busy} moves are under way");
        let is_lossy = node.drift > 0.0 && node.variant != BASE;
        holds!(is_lossy || !self.translated.contains(&index), "translated, and said to be exact");
        for (tier, queue) in self.queues.iter().enumerate() {
            let is_queued = node.places[tier] != NONE && queue.at(node.places[tier] as usize) == Some(index);
            let may_go = node.is_in(tier) && self.may_go(index, tier);
            holds!(is_queued == may_go, "in the queue of tier {tier}: {is_queued}, may go: {may_go}");
        }
        match node.kind {
            Kind::Free => holds!(!node.is_held() && node.pins == 0, "free, and holds something"),
            Kind::Root => holds!(!node.is_held(), "a root holds nothing"),
            Kind::Adapter => {
                let known = &self.adapters[usize::from(node.variant)];
                holds!(node.is_in(0) != known.pieces.is_empty(), "its weights are elsewhere");
                let bytes = self.tiers[0].pieces_bytes(&known.pieces);
                holds!(
                    known.pieces.is_empty() || known.bytes == bytes,
                    "{} bytes of weights, counted {bytes}",
                    known.bytes
                );
            }
            Kind::Private => {
                let owners = self.sequences.values().filter(|s| s.path.contains(&index)).count();
                holds!(owners == 1, "private, of {owners} sequences");
                holds!(node.is_in(0) && usize::from(node.top[0]) == self.config.layers, "without all layers");
            }
            Kind::Gone => holds!(node.busy > 0, "gone, and waits for nothing"),
            Kind::Shared => self.check_shared(index, node)?,
        }
        Ok(())
    }

    fn check_shared(&self, index: u32, node: &Node) -> Result<(), String> {
        holds!(node.is_held(), "is nowhere");
        holds!(node.len > 0, "has no token");
        let parent = &self.nodes[node.parent as usize];
        let place = children::find(&self.nodes, parent.children, children::key(node));
        holds!(place == Some(index), "its parent has {place:?} in its place");
        holds!(
            usize::from(parent.len) == CHUNK_TOKENS || parent.kind == Kind::Root,
            "after a chunk that is not full"
        );
        holds!(usize::from(node.len) == CHUNK_TOKENS || node.children == NONE, "goes on and is not full");
        let is_resident = |above: u32| above == NONE || self.nodes[above as usize].is_in(0);
        if node.is_in(0) {
            let weights = self.adapters[usize::from(node.variant)].node;
            holds!(
                self.is_root(node.parent) || is_resident(node.parent),
                "in memory without the chunk before"
            );
            holds!(is_resident(node.anchor), "in memory without its anchor");
            holds!(is_resident(weights), "in memory without its adapter: invalid");
            let layers = usize::from(node.first)..usize::from(node.top[0]);
            let stored = self.layers_of(node);
            let own = || layers.clone().filter(|layer| stored.bytes(*layer) > 0);
            for layer in own().filter(|_| self.tiers[0].is_striped()) {
                holds!(self.tiers[0].piece(node.pages[0], layer).is_some(), "no page of layer {layer}");
            }
            let pieces = if self.tiers[0].is_striped() { own().count() } else { own().count().min(1) };
            holds!(self.tiers[0].pieces_of(node.pages[0]) == pieces, "pages of layers that it does not have");
        }
        if node.anchor != NONE {
            let anchor = &self.nodes[node.anchor as usize];
            let is_exact = anchor.form == EXACT && anchor.drift == 0.0;
            holds!(anchor.kind == Kind::Shared, "its anchor is nobody's");
            let is_told = is_exact || node.first == 0 || node.drift > 0.0;
            holds!(is_told, "its lower layers are not the base's to the bit, and it is said to be exact");
            holds!(self.stands_alone(anchor), "its anchor is itself decoded over something");
            holds!(anchor.first == 0, "its anchor has not all layers itself");
            holds!(anchor.variant == BASE || node.first == 0, "its lower layers are another adapter's");
            holds!(anchor.text() == node.text(), "its anchor is of other tokens");
            holds!(anchor.keep >= self.needs(node), "its anchor may lose what it needs");
            holds!(!node.is_in(0) || anchor.top[0] >= self.needs(node), "its anchor has lost what it needs");
        }
        holds!(node.anchor != NONE || node.first == 0, "has neither its lower layers nor an anchor");
        if let Some(second) = self.seconds.get(&index) {
            let is_used = match second.is_keys {
                true if second.is_ready => !second.readers.is_empty(),
                true => node.busy > 0,
                false => node.pins > 0 || node.busy > 0,
            };
            holds!(node.is_in(0) && is_used, "nobody uses it, and it has other pages beside its own");
            let has_it = |reader: &Reader| {
                self.sequences.get(&reader.id).is_some_and(|sequence| sequence.path.contains(&index))
            };
            holds!(
                second.readers.iter().all(has_it),
                "its exact keys are read by somebody who has not got it"
            );
        }
        let is_decodable = self.nodes.get(node.anchor as usize).is_some_and(|at| at.variant == BASE);
        holds!(!self.is_at_rest(node) || is_decodable, "at rest over nothing of the base's");
        let form = self.form_of(node);
        holds!(form.is_none() || node.drift > 0.0, "lossy, and does not say so");
        holds!(node.drift <= node.least_budget, "lossier than those who used it allow");
        Ok(())
    }

    /// Counts that are kept, counted anew.
    fn check_counts(&self) -> Result<(), String> {
        let mut below = vec![[0_u32; 3]; self.nodes.len()];
        let mut followers = vec![(0_u32, 0_u32); self.nodes.len()];
        for node in self.nodes.iter().filter(|node| node.kind == Kind::Shared) {
            let weights = self.adapters[usize::from(node.variant)].node;
            let parent = if self.is_root(node.parent) { NONE } else { node.parent };
            for above in [parent, node.anchor, weights].into_iter().filter(|above| *above != NONE) {
                for (tier, count) in below[above as usize].iter_mut().enumerate() {
                    *count += u32::from(node.is_in(tier));
                }
            }
            if node.anchor != NONE {
                followers[node.anchor as usize].0 += 1;
                followers[node.anchor as usize].1 += u32::from(node.is_in(0));
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            holds!(
                node.below == below[index],
                "node {index}: {:?} below, counted {:?}",
                node.below,
                below[index]
            );
            let kept = (node.followers, node.resident_followers);
            holds!(
                kept == followers[index],
                "node {index}: followers {kept:?}, counted {:?}",
                followers[index]
            );
        }
        Ok(())
    }

    fn check_sequences(&self) -> Result<(), String> {
        let mut pins = vec![0_u16; self.nodes.len()];
        for (id, sequence) in &self.sequences {
            let weights = self.adapters[usize::from(sequence.variant)].node;
            let shared = sequence.path.iter().filter(|&&node| self.nodes[node as usize].kind == Kind::Shared);
            shared
                .chain(std::iter::once(&weights).filter(|node| **node != NONE))
                .for_each(|&node| pins[node as usize] += 1);
            let chunks = sequence.room.div_ceil(CHUNK_TOKENS);
            holds!(
                sequence.path.len() == chunks,
                "{id:?}: {} chunks for {} tokens",
                sequence.path.len(),
                sequence.room
            );
            holds!(sequence.tokens <= sequence.room, "{id:?} has tokens without room");
            let mut before = NONE;
            for (place, &node) in sequence.path.iter().enumerate() {
                let at = &self.nodes[node as usize];
                let is_shared = at.kind == Kind::Shared;
                holds!(is_shared == (place < sequence.shared), "{id:?}: chunk {place} is {:?}", at.kind);
                holds!(
                    !is_shared || at.parent == before || self.is_root(at.parent) && place == 0,
                    "{id:?}: chunk {place} is not after the one before"
                );
                holds!(at.is_in(0), "{id:?}: chunk {place} is not in memory");
                holds!(at.drift <= sequence.budget, "{id:?}: chunk {place} is beyond its budget");
                let own = sequence.tokens.saturating_sub(place * CHUNK_TOKENS).min(CHUNK_TOKENS);
                holds!(usize::from(at.len) == own, "{id:?}: chunk {place} has {} of {own} tokens", at.len);
                holds!(
                    (at.variant, at.from) == sequence.variant_of(place),
                    "{id:?}: chunk {place} is another variant's"
                );
                for layer in (0..self.config.layers).filter(|_| self.tiers[0].is_striped()) {
                    let entry = sequence.table.entry(layer, place);
                    let is_woken = !self.is_at_rest(at) || self.has_second(node);
                    holds!(is_woken, "{id:?}: chunk {place} is at rest");
                    holds!(
                        entry == Some(self.entry_read(node, layer, *id)),
                        "{id:?}: chunk {place} is elsewhere in layer {layer}"
                    );
                    holds!(
                        entry.is_some_and(|entry| entry.k.at != NONE),
                        "{id:?}: chunk {place} is nowhere in layer {layer}"
                    );
                }
                before = node;
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            holds!(
                node.pins == pins[index],
                "node {index} is pinned {} times, and used {} times",
                node.pins,
                pins[index]
            );
        }
        Ok(())
    }
}
