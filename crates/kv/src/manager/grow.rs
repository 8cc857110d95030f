//! A sequence grows, is cut back, and is closed.

use interleaf_contract::CHUNK_TOKENS;

use super::{Manager, Pending};
use crate::node::{BASE, EXACT, Kind, NONE, Node};
use crate::op::{Op, OpKind};
use crate::sequence::Sequence;
use crate::{KvError, SequenceId};

impl Manager {
    /// Makes room for `tokens` more tokens at the end of a sequence, those of rows under way included.
    ///
    /// # Errors
    /// If too little is free or may go, the sequence is unknown, or it waits for pages.
    pub fn append(&mut self, id: SequenceId, tokens: usize) -> Result<(), KvError> {
        let mut sequence = self.take_sequence(id)?;
        let forgotten = self.keys_forgotten;
        let result = self.make_room_for(id, &mut sequence, tokens);
        self.renew_given_up(&mut sequence, forgotten);
        self.sequences.insert(id, sequence);
        result
    }

    fn make_room_for(
        &mut self,
        id: SequenceId,
        sequence: &mut Sequence,
        tokens: usize,
    ) -> Result<(), KvError> {
        if !sequence.unready.is_empty() {
            return Err(KvError::Waiting(id));
        }
        let had = sequence.path.len();
        let needed = sequence.room.saturating_add(tokens).div_ceil(CHUNK_TOKENS).saturating_sub(had);
        // What cannot be had anyway is not to empty the cache first.
        let available = if needed == 0 { 0 } else { self.available_beside(&sequence.path, needed) };
        if needed > available {
            return Err(KvError::Full { needed, free: available, capacity: self.capacity() });
        }
        for _ in 0..needed {
            let Some(list) = self.make_room(0, 0..self.config.layers, BASE, EXACT) else {
                self.drop_own(sequence, had);
                // All that may go has gone.
                let (free, capacity) = (self.tiers[0].free_chunks(), self.capacity());
                return Err(KvError::Full { needed, free, capacity });
            };
            self.private(sequence, list);
        }
        sequence.room += tokens;
        Ok(())
    }

    /// The next tokens of a sequence have been computed over all that came before them, with so much divergence of their
    /// own: 0 where that was exact. It comes on top of that of what the sequence had found. Chunks that are full can be found from now on, and where one is there already the
    /// sequence goes on with that.
    ///
    /// # Errors
    /// If there is no room for so many, they diverge by more than the sequence may, or it is unknown or waits for pages.
    /// Nothing has changed then.
    pub fn commit(&mut self, id: SequenceId, tokens: &[u32], drift: f32) -> Result<(), KvError> {
        let mut sequence = self.take_sequence(id)?;
        let result = match () {
            () if !sequence.unready.is_empty() => Err(KvError::Waiting(id)),
            () if sequence.tokens + tokens.len() > sequence.room => {
                let tokens = sequence.tokens + tokens.len();
                Err(KvError::NoRoom { sequence: id, room: sequence.room, tokens })
            }
            () if !(drift >= 0.0 && sequence.drift_with(drift) <= sequence.budget) => {
                let drift = sequence.drift_with(drift);
                Err(KvError::Drift { sequence: id, budget: sequence.budget, drift })
            }
            () => {
                self.write(&mut sequence, tokens, drift);
                Ok(())
            }
        };
        self.sequences.insert(id, sequence);
        self.settle();
        result
    }

    fn write(&mut self, sequence: &mut Sequence, tokens: &[u32], drift: f32) {
        sequence.own_drift = sequence.own_drift.max(drift);
        let drift = sequence.drift_with(drift);
        let mut left = tokens;
        while !left.is_empty() {
            let (chunk, had) = (sequence.tokens / CHUNK_TOKENS, sequence.tokens % CHUNK_TOKENS);
            let (here, after) = left.split_at(left.len().min(CHUNK_TOKENS - had));
            let node = sequence.path[chunk];
            let at = &mut self.nodes[node as usize];
            at.tokens[had..had + here.len()].copy_from_slice(here);
            at.len = (had + here.len()) as u8;
            at.drift = at.drift.max(drift);
            sequence.tokens += here.len();
            left = after;
            if usize::from(at.len) == CHUNK_TOKENS
                && sequence.is_kept
                && !sequence.is_lost
                && sequence.shared == chunk
            {
                self.share(sequence, chunk);
            }
        }
    }

    /// Cuts a sequence back to its first `tokens` tokens, and its room to as many; a longer length changes nothing. What
    /// is cut within a chunk that others use is copied: such a move is returned.
    ///
    /// # Errors
    /// If the sequence is unknown or waits for pages, or has no room for a copy; it then has fewer tokens, up to the chunk.
    pub fn truncate(&mut self, id: SequenceId, tokens: usize) -> Result<Option<Op>, KvError> {
        let mut sequence = self.take_sequence(id)?;
        let forgotten = self.keys_forgotten;
        let result = match sequence.unready.is_empty() {
            true => self.cut(id, &mut sequence, tokens),
            false => Err(KvError::Waiting(id)),
        };
        self.renew_given_up(&mut sequence, forgotten);
        self.sequences.insert(id, sequence);
        self.settle();
        result
    }

    /// Chunks of full precision within memory's budget.
    fn capacity(&self) -> usize {
        let whole = self.tiers[0].chunk_bytes(0..self.config.layers, &self.exact);
        (self.tiers[0].budget_bytes() / whole.max(1)) as usize
    }

    fn cut(&mut self, id: SequenceId, sequence: &mut Sequence, tokens: usize) -> Result<Option<Op>, KvError> {
        sequence.room = sequence.room.min(tokens);
        let had = sequence.tokens;
        sequence.tokens = had.min(tokens);
        let kept = sequence.room.div_ceil(CHUNK_TOKENS);
        let within = sequence.tokens % CHUNK_TOKENS;
        let last = sequence.tokens / CHUNK_TOKENS;
        // A chunk of the tree is cut in the middle: the sequence goes on in one of its own.
        if within > 0 && last < sequence.shared && sequence.tokens < had {
            let node = sequence.path[last];
            self.pin(node);
            self.drop_own(sequence, last);
            (sequence.tokens, sequence.room) = (last * CHUNK_TOKENS, last * CHUNK_TOKENS);
            self.unpin(node);
            let op = match sequence.is_lost {
                true => {
                    self.begin_chunk_lost(sequence, node, within);
                    None
                }
                false => self.begin_chunk_as(id, sequence, node, within),
            };
            self.go_back(node);
            if sequence.tokens == last * CHUNK_TOKENS {
                let capacity = self.capacity();
                return Err(KvError::Full { needed: 1, free: self.tiers[0].free_chunks(), capacity });
            }
            return Ok(op);
        }
        self.drop_own(sequence, kept);
        if sequence.tokens < had
            && let Some(&node) = sequence.path.get(last)
        {
            self.nodes[node as usize].len = within as u8;
        }
        Ok(None)
    }

    /// A sequence whose pages are lost goes on in a chunk of its own, into which it will be computed again: there is nothing
    /// to copy. Without room it has less.
    fn begin_chunk_lost(&mut self, sequence: &mut Sequence, node: u32, tokens: usize) {
        let Node { tokens: text, drift, .. } = self.nodes[node as usize];
        let Some(list) = self.make_room(0, 0..self.config.layers, BASE, EXACT) else { return };
        let private = self.private(sequence, list);
        let at = &mut self.nodes[private as usize];
        at.tokens[..tokens].copy_from_slice(&text[..tokens]);
        (at.len, at.drift, at.ready) = (tokens as u8, drift, false);
        sequence.tokens += tokens;
        sequence.room += tokens;
    }

    /// A sequence has no chunk any more from one on.
    pub(super) fn drop_own(&mut self, sequence: &mut Sequence, from: usize) {
        while sequence.path.len() > from {
            let Some(node) = sequence.path.pop() else { break };
            if self.nodes[node as usize].kind == Kind::Private {
                self.free_private(node);
            } else {
                self.unpin(node);
                self.stop_reading_keys(node, sequence.id);
                self.go_back(node);
            }
        }
        sequence.shared = sequence.shared.min(from);
        sequence.table.truncate(from);
        sequence.attention.truncate(from);
    }

    pub(super) fn free_private(&mut self, node: u32) {
        let list = self.nodes[node as usize].pages[0];
        if self.nodes[node as usize].busy > 0 {
            self.nodes[node as usize].kind = Kind::Gone;
            return;
        }
        if list != NONE {
            self.tiers[0].give_back(list);
        }
        self.free_node(node);
    }

    /// Closes a sequence. What others may find of it stays as long as there is room, and what is not in a lower tier yet is
    /// to be written there: those moves are returned.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn close(&mut self, id: SequenceId, now: f64) -> Result<Vec<Op>, KvError> {
        let mut sequence = self.take_sequence(id)?;
        self.clock(now);
        sequence.unready.clear();
        let chunks = sequence.tokens.div_ceil(CHUNK_TOKENS);
        self.drop_own(&mut sequence, chunks);
        if sequence.is_kept
            && !sequence.is_lost
            && sequence.shared + 1 == chunks
            && self.nodes[sequence.path[chunks - 1] as usize].ready
        {
            self.share_tail(&mut sequence);
        }
        let mut moves = Vec::new();
        for place in 0..sequence.shared {
            let node = sequence.path[place];
            let at = &mut self.nodes[node as usize];
            let chunks = u16::try_from(chunks).unwrap_or(u16::MAX);
            at.context_chunks = at.context_chunks.max(chunks);
            at.last_use = self.situation.now;
            if let Some(attention) = sequence.attention.get(place) {
                self.attention.entry(node).or_default().join(*attention);
            }
        }
        let path = sequence.path[..sequence.shared].to_vec();
        self.drop_own(&mut sequence, 0);
        for &node in path.iter().rev().filter(|_| sequence.is_lost) {
            // What nobody computes again only stands in the way.
            if !self.nodes[node as usize].ready && self.may_go(node, 0) {
                self.evict(node, 0);
            }
        }
        let path = if sequence.is_lost { Vec::new() } else { path };
        let mut known = self.no_twins();
        let whole =
            path.iter().filter(|&&node| usize::from(self.nodes[node as usize].len) == CHUNK_TOKENS).count();
        let old = whole.saturating_sub(self.newest);
        for (place, &node) in path.iter().enumerate() {
            let twins = self.twins(node, &mut known);
            if place < old
                && let Some(op) = self.encode_behind(node, twins, false)
            {
                // It is written in its new form.
                moves.push(op);
                continue;
            }
            moves.extend(self.encode_over(node, twins));
            let anchor = self.nodes[node as usize].anchor;
            for node in [anchor, node].into_iter().filter(|node| *node != NONE) {
                moves.extend(self.write_behind(node, 0));
            }
        }
        let weights = self.adapters[usize::from(sequence.variant)].node;
        if weights != NONE {
            self.unpin(weights);
        }
        self.forget_leaving();
        self.settle();
        Ok(moves)
    }

    /// A chunk is to be written one tier down, if it is not there yet nor on its way.
    pub(super) fn write_behind(&mut self, node: u32, from: usize) -> Option<Op> {
        let to = from + 1;
        let at = &self.nodes[node as usize];
        let is_new = at.is_in(from) && !at.is_in(to) && at.busy == 0;
        // Where its contents in memory are still to come, being busy means that they do.
        if to >= self.tiers.len() || !is_new || at.is_in(0) && !at.ready {
            return None;
        }
        let layers = usize::from(at.first)..usize::from(at.top[from]);
        let (top, variant, form) = (at.top[from], at.variant, at.form);
        let list = self.make_room(to, layers.clone(), variant, form)?;
        let bytes = self.tiers[to].chunk_bytes(layers, self.layers_in(variant, form));
        Some(self.new_op(Pending { list, top, ..Pending::of(OpKind::Write { from, to }, node) }, bytes))
    }

    fn take_sequence(&mut self, id: SequenceId) -> Result<Sequence, KvError> {
        self.sequences.remove(&id).ok_or(KvError::UnknownSequence(id))
    }
}
