//! Sequences and the chunks they own.

use std::collections::HashMap;

use interleaf_contract::{CHUNK_TOKENS, PageCodec, PageTable, PoolGeometry};

use crate::slots::Slots;

/// Names a sequence of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// What the cache can refuse. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// No room for more tokens.
    #[error(
        "the KV pool is full: {needed} more chunks of 16 tokens are needed, {free} of {capacity} are free"
    )]
    Full {
        /// Chunks that the tokens need beyond those owned.
        needed: usize,
        /// Chunks that are free.
        free: usize,
        /// Chunks in the pool.
        capacity: usize,
    },
    /// A sequence that was never opened or is closed.
    #[error("no sequence {0:?} in the KV cache")]
    UnknownSequence(SequenceId),
}

#[derive(Debug, Default)]
struct Sequence {
    tokens: usize,
    slots: Vec<u32>,
}

/// Which slots each sequence owns, over one pool.
#[derive(Debug)]
pub struct KvCache {
    codec: PageCodec,
    chunk_bytes: usize,
    slots: Slots,
    sequences: HashMap<SequenceId, Sequence>,
    opened: u64,
}

impl KvCache {
    /// An empty cache over a pool of this shape.
    #[must_use]
    pub fn new(geometry: &PoolGeometry) -> Self {
        Self {
            codec: geometry.codec,
            chunk_bytes: geometry.chunk_bytes(),
            slots: Slots::new(u32::try_from(geometry.slots).unwrap_or(u32::MAX)),
            sequences: HashMap::new(),
            opened: 0,
        }
    }

    /// The same cache, its sequences named from another number on: so that two caches of one process have no name
    /// in common.
    #[must_use]
    pub fn counting_from(self, first: u64) -> Self {
        Self { opened: first, ..self }
    }

    /// An empty cache over another pool. It names its sequences apart from this one's, which are closed: an
    /// old name never means a new sequence.
    #[must_use]
    pub fn replaced(&self, geometry: &PoolGeometry) -> Self {
        Self { opened: self.opened, ..Self::new(geometry) }
    }

    /// Opens an empty sequence.
    pub fn open(&mut self) -> SequenceId {
        self.opened += 1;
        let id = SequenceId(self.opened);
        self.sequences.insert(id, Sequence::default());
        id
    }

    /// Makes room for `tokens` more tokens at the end of a sequence.
    ///
    /// # Errors
    /// If the pool has too few free chunks, or the sequence is unknown.
    pub fn append(&mut self, id: SequenceId, tokens: usize) -> Result<(), KvError> {
        let sequence = self.sequences.get_mut(&id).ok_or(KvError::UnknownSequence(id))?;
        let needed = (sequence.tokens + tokens).div_ceil(CHUNK_TOKENS) - sequence.slots.len();
        let taken = self.slots.take(needed).ok_or(KvError::Full {
            needed,
            free: self.slots.free(),
            capacity: self.slots.capacity(),
        })?;
        sequence.slots.extend(taken);
        sequence.tokens += tokens;
        Ok(())
    }

    /// Cuts a sequence back to its first `tokens` tokens; a longer length changes nothing.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn truncate(&mut self, id: SequenceId, tokens: usize) -> Result<(), KvError> {
        let sequence = self.sequences.get_mut(&id).ok_or(KvError::UnknownSequence(id))?;
        sequence.tokens = sequence.tokens.min(tokens);
        let kept = sequence.tokens.div_ceil(CHUNK_TOKENS).min(sequence.slots.len());
        self.slots.give_back(sequence.slots.drain(kept..));
        Ok(())
    }

    /// Closes a sequence and frees its chunks.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn close(&mut self, id: SequenceId) -> Result<(), KvError> {
        let sequence = self.sequences.remove(&id).ok_or(KvError::UnknownSequence(id))?;
        self.slots.give_back(sequence.slots);
        Ok(())
    }

    /// Tokens that a sequence has room for.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn tokens(&self, id: SequenceId) -> Result<usize, KvError> {
        self.sequences.get(&id).map(|s| s.tokens).ok_or(KvError::UnknownSequence(id))
    }

    /// Where a sequence's pages are.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn page_table(&self, id: SequenceId) -> Result<PageTable, KvError> {
        let sequence = self.sequences.get(&id).ok_or(KvError::UnknownSequence(id))?;
        Ok(PageTable::uniform(self.codec, sequence.slots.iter().copied()))
    }

    /// Bytes of the chunks that sequences own, whole chunks counted.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        (self.slots.used() * self.chunk_bytes) as u64
    }

    /// Tokens that would still fit if every free chunk went to one sequence.
    #[must_use]
    pub fn free_tokens(&self) -> usize {
        self.slots.free() * CHUNK_TOKENS
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn cache(slots: usize) -> KvCache {
        KvCache::new(&PoolGeometry { layers: 2, kv_heads: 1, head_dim: 4, slots, codec: PageCodec::F16 })
    }

    #[test]
    fn a_full_pool_refuses_and_changes_nothing() {
        let mut cache = cache(2);
        let id = cache.open();
        cache.append(id, 17).unwrap();
        assert_eq!(cache.append(id, 16), Err(KvError::Full { needed: 1, free: 0, capacity: 2 }));
        assert_eq!(cache.tokens(id), Ok(17));
        cache.append(id, 15).unwrap();
        assert_eq!(cache.page_table(id).unwrap().chunks(), 2);
        assert_eq!(cache.bytes_held(), 2 * 2 * 2 * 16 * 4 * 2);
    }

    #[test]
    fn unknown_sequences_are_named() {
        let mut cache = cache(1);
        let id = cache.open();
        cache.close(id).unwrap();
        assert_eq!(cache.close(id), Err(KvError::UnknownSequence(id)));
        assert_eq!(cache.append(id, 0), Err(KvError::UnknownSequence(id)));
    }

    #[derive(Debug, Clone)]
    enum Event {
        Open,
        Append(usize, usize),
        Truncate(usize, usize),
        Close(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Open),
            (0usize..6, 0usize..70).prop_map(|(s, n)| Event::Append(s, n)),
            (0usize..6, 0usize..70).prop_map(|(s, n)| Event::Truncate(s, n)),
            (0usize..6).prop_map(Event::Close),
        ]
    }

    proptest! {
        #[test]
        fn no_slot_has_two_owners_and_none_is_lost(events in prop::collection::vec(event(), 0..120)) {
            const SLOTS: usize = 12;
            let mut cache = cache(SLOTS);
            let mut model: HashMap<SequenceId, usize> = HashMap::new();
            let mut open: Vec<SequenceId> = Vec::new();
            for event in events {
                match event {
                    Event::Open => {
                        let id = cache.open();
                        prop_assert!(model.insert(id, 0).is_none());
                        open.push(id);
                    }
                    Event::Append(s, n) if s < open.len() => {
                        let used: usize = model.values().map(|t| t.div_ceil(CHUNK_TOKENS)).sum();
                        let had = model[&open[s]];
                        let more = (had + n).div_ceil(CHUNK_TOKENS) - had.div_ceil(CHUNK_TOKENS);
                        let fits = used + more <= SLOTS;
                        prop_assert_eq!(cache.append(open[s], n).is_ok(), fits);
                        if fits {
                            model.insert(open[s], had + n);
                        }
                    }
                    Event::Truncate(s, n) if s < open.len() => {
                        cache.truncate(open[s], n).unwrap();
                        model.entry(open[s]).and_modify(|t| *t = (*t).min(n));
                    }
                    Event::Close(s) if s < open.len() => {
                        let id = open.swap_remove(s);
                        cache.close(id).unwrap();
                        model.remove(&id);
                    }
                    _ => {}
                }
                let mut seen = HashSet::new();
                for (id, tokens) in &model {
                    prop_assert_eq!(cache.tokens(*id), Ok(*tokens));
                    let table = cache.page_table(*id).unwrap();
                    prop_assert_eq!(table.chunks(), tokens.div_ceil(CHUNK_TOKENS));
                    for chunk in 0..table.chunks() {
                        prop_assert!(seen.insert(table.entry(0, chunk).unwrap().k.slot));
                    }
                }
                prop_assert_eq!(cache.free_tokens(), (SLOTS - seen.len()) * CHUNK_TOKENS);
            }
        }
    }
}
