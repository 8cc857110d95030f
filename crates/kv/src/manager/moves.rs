//! How moves end: done, failed or cancelled, in any order.

use std::collections::HashSet;

use interleaf_contract::CHUNK_TOKENS;

use super::{Encoded, Manager, Pending};
use crate::children;
use crate::node::{BASE, EXACT, Kind, NONE, Node};
use crate::op::{Op, OpId, OpKind};
use crate::sequence::Sequence;
use crate::{KvError, SequenceId};

/// How a move ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Failed,
    Cancelled,
}

impl Manager {
    /// A move has been carried out. Moves that follow from that are returned; of one that is not under way nothing follows.
    pub fn done(&mut self, op: OpId) -> Vec<Op> {
        self.end(op, End::Done)
    }

    /// A move has failed. What could not be read is dropped, and computed again where a sequence waits for it and the
    /// runtime can; else those sequences have only the tokens before it, which [`Manager::tokens`] says.
    pub fn failed(&mut self, op: OpId) -> Vec<Op> {
        self.end(op, End::Failed)
    }

    /// A move was not carried out, for no fault of what it reads. Sequences that waited for it have only the tokens before
    /// it.
    pub fn cancelled(&mut self, op: OpId) -> Vec<Op> {
        self.end(op, End::Cancelled)
    }

    /// An encoding has been carried out, and what it costs was measured: a bound on the mean divergence of outputs, in nats,
    /// that counts in place of its form's. Where those who used the chunk allow less it stays as it is, and the next larger
    /// form is asked for, if there is one that saves anything: once no other encoding is under way, as for all that follows
    /// from them.
    pub fn encoded(&mut self, op: OpId, drift: f32) -> Vec<Op> {
        let Some(pending) = self.pending.get_mut(&op) else { return Vec::new() };
        // Nothing that loses costs nothing, or less; and what cannot be told may cost anything.
        pending.drift = Some(if drift.is_nan() { f32::INFINITY } else { drift.max(f32::MIN_POSITIVE) });
        self.end(op, End::Done)
    }

    fn end(&mut self, op: OpId, end: End) -> Vec<Op> {
        let Some(pending) = self.pending.remove(&op) else { return Vec::new() };
        let node = pending.node;
        pending.holds().for_each(|held| self.nodes[held as usize].busy -= 1);
        let mut moves = Vec::new();
        let is_unwritable = matches!(pending.kind, OpKind::Write { .. }) && end == End::Failed;
        match pending.kind {
            OpKind::Copy | OpKind::Translate => self.end_copy(pending, end),
            OpKind::Read { from } if pending.copy.is_some() => {
                // Another move may be reading the same, and is to find out for itself.
                let Node { kind, busy, .. } = self.nodes[node as usize];
                if end == End::Failed && kind == Kind::Shared && busy == 0 {
                    // What is there cannot be read.
                    self.drop_pages(node, from);
                }
                self.end_copy(pending, end);
                if self.nodes[node as usize].kind == Kind::Shared && !self.nodes[node as usize].is_held() {
                    self.remove_subtree(node);
                }
            }
            OpKind::Encode { form } => {
                self.encodings -= 1;
                let is_refused = self.end_encode(pending, form, end == End::Done);
                // In whatever form it is now: it was not written before for the sake of this one, or is not of another.
                if !is_refused && end != End::Cancelled && self.nodes[node as usize].kind == Kind::Shared {
                    moves.extend(self.write_behind(node, 0));
                }
                if is_refused || end == End::Done && self.nodes[node as usize].variant == BASE {
                    self.encoded.push(Encoded { node, is_refused });
                }
            }
            OpKind::Read { .. } | OpKind::Recompute if pending.list != NONE => {
                // Nobody waited for it any more.
                self.tiers[0].give_back(pending.list);
            }
            OpKind::Write { from, to } => self.end_write(pending, from, to, end),
            OpKind::Read { from } => moves.extend(self.end_read(pending, from, end)),
            OpKind::Recompute => self.end_recompute(node, end),
            OpKind::Materialise { .. } => self.end_materialise(node, end),
            OpKind::Load => self.end_load(node, end),
        }
        for held in pending.holds() {
            let Node { kind, busy, .. } = self.nodes[held as usize];
            if kind == Kind::Gone && busy == 0 {
                self.free_gone(held);
            } else if matches!(kind, Kind::Shared | Kind::Adapter) {
                self.go_back(held);
                (0..self.tiers.len()).for_each(|tier| self.consider(held, tier));
                self.offer(held);
                if self.nodes[held as usize].leaving {
                    // What else kept it has ended; it is written before it goes, if that was not possible then.
                    match self.nodes[held as usize].stored() {
                        Some(_) => self.evict_leaving(held),
                        None if is_unwritable => {}
                        None => moves.extend(self.write_behind(held, 0)),
                    }
                }
            }
        }
        match end {
            _ if self.encodings > 0 || self.encoded.is_empty() => {}
            // Who takes moves back does not want others.
            End::Cancelled => self.encoded.clear(),
            End::Done | End::Failed => self.after_encodings(&mut moves),
        }
        self.forget_leaving();
        self.settle();
        moves
    }

    fn end_copy(&mut self, pending: Pending, end: End) {
        let Some((id, private)) = pending.copy else { return };
        if self.nodes[private as usize].kind == Kind::Gone {
            // The sequence was closed; its chunk waited for the copy to end.
            return;
        }
        if end == End::Done {
            self.arrived(private);
            if let Some(mut sequence) = self.sequences.remove(&id) {
                self.share_arrived(&mut sequence);
                self.sequences.insert(id, sequence);
            }
            return;
        }
        if let Some(mut sequence) = self.sequences.remove(&id) {
            let chunk = sequence.path.iter().position(|&node| node == private).unwrap_or(0);
            self.cut_at(&mut sequence, chunk);
            // What did not come has cost nothing.
            let drifts = sequence.path.iter().map(|&node| self.nodes[node as usize].drift);
            sequence.found_drift = sequence.found_drift.min(drifts.fold(0.0, f32::max));
            self.sequences.insert(id, sequence);
        }
    }

    fn end_write(&mut self, pending: Pending, from: usize, to: usize, end: End) {
        let Pending { node, list, top, .. } = pending;
        let at = &mut self.nodes[node as usize];
        // What it wrote is no longer all there is where the chunk has got more layers meanwhile.
        let is_all = at.kind == Kind::Shared && at.top[from] == top && !at.is_in(to);
        if end == End::Done && is_all {
            (at.pages[to], at.top[to]) = (list, top);
            self.enter(node, to);
            self.evict_leaving(node);
        } else {
            // What cannot be written goes all the same if it was to go: it is computed again.
            at.leaving &= end == End::Failed;
            self.tiers[to].give_back(list);
            self.evict_leaving(node);
        }
    }

    fn end_read(&mut self, pending: Pending, from: usize, end: End) -> Option<Op> {
        let node = pending.node;
        if self.nodes[node as usize].kind == Kind::Gone {
            return None;
        }
        if end == End::Done {
            self.arrived(node);
            return None;
        }
        if end == End::Failed {
            // What is there cannot be read; another move that reads the same finds out for itself.
            if self.nodes[node as usize].busy == 0 {
                self.drop_pages(node, from);
            }
            let at = &self.nodes[node as usize];
            // Further down there may be another copy.
            let lower =
                (from + 1..self.tiers.len()).find(|&tier| at.is_in(tier) && at.top[tier] >= pending.top);
            let can_recompute = self.config.can_recompute
                && at.pins > 0
                && at.form == EXACT
                && at.first == 0
                && self.drift_before(node) <= at.drift;
            let again = match lower {
                Some(from) => Some(OpKind::Read { from }),
                None => can_recompute.then_some(OpKind::Recompute),
            };
            let is_awaited = |sequence: &Sequence| sequence.unready.contains(&node);
            if let Some(kind) = again.filter(|_| self.sequences.values().any(is_awaited)) {
                let bytes = self.chunk_bytes(0, node);
                return Some(self.new_op(Pending { kind, ..pending }, bytes));
            }
        }
        self.not_arrived(node);
        None
    }

    /// The largest drift of the chunks before one: what is computed over them has lost as much.
    fn drift_before(&self, node: u32) -> f32 {
        let (mut at, mut drift) = (self.nodes[node as usize].parent, 0.0_f32);
        while let Some(before) = self.nodes.get(at as usize).filter(|before| before.kind == Kind::Shared) {
            drift = drift.max(before.drift);
            at = before.parent;
        }
        drift
    }

    /// A chunk has pages beside its own, or has none and is as it was. What was at rest and cannot be decoded is of no use any
    /// more; what is read where it is stays.
    fn end_materialise(&mut self, node: u32, end: End) {
        let is_keys = self.seconds.get(&node).is_some_and(|second| second.is_keys);
        match end {
            _ if self.nodes[node as usize].kind == Kind::Gone => {}
            End::Done => {
                self.fill_second(node);
                if !is_keys {
                    self.arrived(node);
                }
            }
            End::Failed | End::Cancelled if is_keys => self.forget_second(node),
            End::Failed => self.not_arrived(node),
            End::Cancelled => self.cut_before(|_, own| own == node),
        }
    }

    fn end_recompute(&mut self, node: u32, end: End) {
        match end {
            _ if self.nodes[node as usize].kind == Kind::Gone => {}
            End::Done => self.arrived(node),
            End::Failed | End::Cancelled => self.not_arrived(node),
        }
    }

    fn end_load(&mut self, node: u32, end: End) {
        if end == End::Done {
            self.arrived(node);
            // What was computed under it may come to memory again.
            let variant = self.nodes[node as usize].variant;
            let roots: Vec<u32> =
                self.roots.iter().filter(|((_, of), _)| *of == variant).map(|(_, root)| *root).collect();
            for root in roots {
                for child in children::all(&self.nodes, self.nodes[root as usize].children) {
                    self.offer(child);
                }
            }
        }
        // Else it has its room and not its weights: whoever waits is told, and the next one that needs them asks again.
    }

    /// What a node was to get is there.
    fn arrived(&mut self, node: u32) {
        self.nodes[node as usize].ready = true;
        for sequence in self.sequences.values_mut() {
            // A sequence waits for a node once.
            if let Some(place) = sequence.unready.iter().position(|waited| *waited == node) {
                sequence.unready.swap_remove(place);
            }
        }
    }

    /// What a chunk was to get in memory will not come: nobody goes on past it, and what came after it goes.
    fn not_arrived(&mut self, node: u32) {
        let going = self.standing_on(node);
        self.cut_before(|_, own| going.contains(&own));
        self.unload(node);
    }

    /// A chunk and all that cannot do without it.
    fn standing_on(&self, node: u32) -> HashSet<u32> {
        let (mut found, mut next, mut followers) = (HashSet::new(), vec![node], None);
        while let Some(node) = next.pop() {
            if !found.insert(node) {
                continue;
            }
            let at = &self.nodes[node as usize];
            next.extend(children::all(&self.nodes, at.children));
            if at.followers > 0 {
                let all = followers.get_or_insert_with(|| self.followers());
                next.extend(all.get(&node).into_iter().flatten());
            }
        }
        found
    }

    /// Sequences have only what comes before the first chunk of theirs of which something is so.
    fn cut_before(&mut self, is_so: impl Fn(&Self, u32) -> bool) {
        let with: Vec<(SequenceId, usize)> = (self.sequences.iter())
            .filter_map(|(id, sequence)| Some((*id, sequence.path.iter().position(|&own| is_so(self, own))?)))
            .collect();
        for (id, chunk) in with {
            if let Some(mut sequence) = self.sequences.remove(&id) {
                self.cut_at(&mut sequence, chunk);
                self.sequences.insert(id, sequence);
            }
        }
    }

    /// A chunk and all that depends on it go from memory, none of them in use; what is nowhere else goes altogether.
    fn unload(&mut self, node: u32) {
        // What goes on from a chunk goes before it: it is met twice.
        let mut next = vec![(node, false)];
        while let Some((node, is_last)) = next.pop() {
            let at = &self.nodes[node as usize];
            if !at.is_held() {
                continue;
            }
            if !is_last {
                next.push((node, true));
                let resident = |child: &u32| self.nodes[*child as usize].is_in(0);
                let children = children::all(&self.nodes, at.children);
                next.extend(children.into_iter().filter(resident).map(|child| (child, false)));
            } else if at.below[0] > 0 || at.stored().is_none() {
                self.remove_subtree(node);
            } else if at.busy > 0 {
                if !self.abandon(node) {
                    self.remove_subtree(node);
                }
            } else {
                self.drop_pages(node, 0);
            }
        }
    }

    /// A chunk that is on its way to memory stays where it is stored: what the move writes is nobody's from now on, and goes
    /// when it has ended. Returns whether that is all that keeps it busy.
    fn abandon(&mut self, node: u32) -> bool {
        let is_coming = |op: &&mut Pending| op.node == node && op.brings();
        let Node { busy: 1, ready: false, pages: [list, ..], .. } = self.nodes[node as usize] else {
            return false;
        };
        let Some(op) = self.pending.values_mut().find(is_coming) else { return false };
        op.list = list;
        let at = &mut self.nodes[node as usize];
        (at.pages[0], at.top[0], at.leaving) = (NONE, 0, false);
        self.leave(node, 0);
        true
    }

    /// A sequence has only the chunks before one.
    fn cut_at(&mut self, sequence: &mut Sequence, chunk: usize) {
        for place in chunk..sequence.path.len() {
            let node = sequence.path[place];
            let anchor = self.nodes[node as usize].anchor;
            sequence.unready.retain(|waited| *waited != node && *waited != anchor);
        }
        self.drop_own(sequence, chunk);
        let tokens = chunk * CHUNK_TOKENS;
        (sequence.tokens, sequence.room) = (sequence.tokens.min(tokens), sequence.room.min(tokens));
    }

    /// Frees what moves had reserved of a chunk that nobody can find.
    fn free_gone(&mut self, node: u32) {
        for tier in 0..self.tiers.len() {
            let list = self.nodes[node as usize].pages[tier];
            if list != NONE {
                self.tiers[tier].give_back(list);
            }
        }
        self.forget_second(node);
        self.free_node(node);
    }

    /// The pages of memory are lost with the device that had them, and those of the sequences that are open will be
    /// computed again where they were ([`Manager::regained`]). Nothing else can be found any more.
    ///
    /// A forward pass computes exact pages, which have no room where others were: a sequence has only the tokens before
    /// the first of its chunks that is kept in another form, or shares layers with one that is ([`Manager::tokens`]). Those
    /// behind come back like new ones.
    pub fn lose_memory(&mut self) {
        // Nothing is written any more for the sake of going.
        self.nodes.iter_mut().for_each(|node| node.leaving = false);
        self.encoded.clear();
        let mut moves: Vec<OpId> = self.pending.keys().copied().collect();
        moves.sort_unstable();
        moves.into_iter().for_each(|op| drop(self.cancelled(op)));
        for node in self.nodes.iter_mut().filter(|node| matches!(node.kind, Kind::Shared | Kind::Adapter)) {
            node.ready = false;
        }
        self.lose_seconds();
        self.cut_before(|manager, own| manager.is_read_coded(own));
        for sequence in self.sequences.values_mut() {
            // Who has nothing has lost nothing, unless it be weights.
            sequence.is_lost =
                sequence.tokens > 0 || self.adapters[usize::from(sequence.variant)].is_pooled();
            // What comes is computed over what it still has, and over nothing that it had besides.
            let drifts = sequence.path.iter().map(|&own| self.nodes[own as usize].drift);
            (sequence.found_drift, sequence.own_drift) = (drifts.fold(0.0, f32::max), 0.0);
        }
        while self.evict_one(0) {}
        self.keep_what_is_followed();
    }

    /// Whether some of what is read for a chunk, its own or layers that it shares, is in another form than the exact one.
    fn is_read_coded(&self, node: u32) -> bool {
        let Node { form, first, anchor, .. } = self.nodes[node as usize];
        let shared = self.nodes.get(anchor as usize).filter(|_| first > 0);
        form != EXACT || shared.is_some_and(|anchor| anchor.form != EXACT)
    }

    /// Of chunks that stay for others alone only the layers stay that these need, which are what comes back with them.
    fn keep_what_is_followed(&mut self) {
        let mut needed = vec![0; self.nodes.len()];
        for node in self.nodes.iter().filter(|node| node.is_in(0) && node.anchor != NONE) {
            let most = &mut needed[node.anchor as usize];
            *most = self.needs(node).max(*most);
        }
        for (index, needed) in needed.into_iter().enumerate() {
            let at = &mut self.nodes[index];
            if at.kind == Kind::Shared && at.is_in(0) && at.pins == 0 && at.top[0] > needed {
                let layers = usize::from(needed)..usize::from(at.top[0]);
                at.top[0] = needed;
                self.tiers[0].give_back_layers(at.pages[0], layers);
                self.consider(index as u32, 0);
            }
        }
    }

    /// All pages of a sequence are there again, and its adapter's weights.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn regained(&mut self, id: SequenceId) -> Result<(), KvError> {
        let sequence = self.sequence(id)?;
        let weights = self.adapters[usize::from(sequence.variant)].node;
        // Of an anchor the sequence has computed what it needs; where others need more it is theirs to bring back.
        let anchors = sequence.path.iter().filter_map(|&node| {
            let at = &self.nodes[node as usize];
            let anchor = self.nodes.get(at.anchor as usize);
            anchor.filter(|anchor| anchor.top[0] <= self.needs(at)).map(|_| at.anchor)
        });
        let all = sequence.path.iter().copied().chain(anchors).chain([weights]);
        for node in all.filter(|node| *node != NONE).collect::<Vec<u32>>() {
            self.arrived(node);
        }
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.is_lost = false;
        }
        Ok(())
    }
}
