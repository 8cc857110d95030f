//! A context comes back: what of it lies in the file is read, and what is sooner computed is, at the same time: a layer attends as
//! soon as its own pages are there, while those of the next ones are still being read (LLMS, arXiv 2403.11805, §3.3). Which is which
//! the KV manager has said by the machine's costs.

use std::collections::BTreeSet;
use std::sync::Arc;

use interleaf_contract::{Arrival, CHUNK_TOKENS, PageData};
use interleaf_kv::{Op, OpId, OpKind};

use super::arrivals::{Arrivals, Wanted};
use super::write_back::address;
use crate::{Engine, EngineError, SequenceHandle};

/// Nobody takes anything any more, however that ended: who reads ahead waits for it.
struct Close<'a>(&'a Arrivals);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Engine {
    /// Brings chunks to memory: of a sequence that was just opened and begins with some tokens, or of nobody's. What can neither be read
    /// nor computed such a sequence has not got after all.
    ///
    /// # Errors
    /// If the device fails. The moves have ended then, and the sequence has what was there before.
    pub(crate) fn bring(
        &mut self,
        sequence: Option<(SequenceHandle, &[u32])>,
        moves: Vec<Op>,
    ) -> Result<(), EngineError> {
        let is_read = |op: &Op| matches!(op.kind, OpKind::Read { .. });
        let (mut reads, mut computed): (Vec<Op>, Vec<Op>) = moves.into_iter().partition(is_read);
        while !(reads.is_empty() && computed.is_empty()) {
            let arrivals = self.begin_reading(&reads);
            let bytes = arrivals.bytes();
            let span =
                tracing::debug_span!("swap_in", chunks = reads.len(), computed = computed.len(), bytes)
                    .entered();
            let put = {
                let _close = Close(&arrivals);
                self.put_all(sequence, &arrivals, &computed)
            };
            drop(span);
            if let Err(error) = put {
                reads.iter().chain(&computed).for_each(|op| drop(self.cache.manager_mut().cancelled(op.id)));
                return Err(error);
            }
            let failed = arrivals.failed();
            self.count_read(reads.len() - failed.len(), failed.len());
            let manager = self.cache.manager_mut();
            let ended = |op: &Op| match failed.contains(&op.id) {
                true => manager.failed(op.id),
                false => manager.done(op.id),
            };
            let again: Vec<Op> = reads.iter().flat_map(ended).collect();
            if failed.is_empty() {
                break;
            }
            // What was computed has looked at what had not come.
            let more: Vec<Op>;
            (reads, more) = again.into_iter().partition(is_read);
            computed.extend(more);
        }
        let manager = self.cache.manager_mut();
        for op in &computed {
            let follow = if sequence.is_some() { manager.done(op.id) } else { manager.cancelled(op.id) };
            debug_assert!(follow.is_empty(), "nothing follows from what was computed");
        }
        if let Some(swap) = &mut self.swap {
            swap.stats.recomputed += if sequence.is_some() { computed.len() as u64 } else { 0 };
            swap.forget(manager);
        }
        Ok(())
    }

    /// Puts what arrives in its places, and computes chunks of the sequence meanwhile, at their true positions among what is there.
    fn put_all(
        &mut self,
        sequence: Option<(SequenceHandle, &[u32])>,
        arrivals: &Arc<Arrivals>,
        computed: &[Op],
    ) -> Result<(), EngineError> {
        let arrival = Arrival(Arc::<Arrivals>::clone(arrivals));
        if let Some((sequence, tokens)) = sequence
            && let positions = self.positions(sequence, computed)?
            && !positions.is_empty()
        {
            // For what could not be read nobody has waited yet.
            self.await_weights(sequence)?;
            return self.compute_at(sequence, tokens, &positions, Some(&arrival));
        }
        for layer in 0..arrivals.layers() as u32 {
            let mut pages = Vec::new();
            let put = arrival.put(layer, |address, bytes| {
                pages.push(PageData { address, bytes });
                Ok::<(), EngineError>(())
            });
            put.and_then(|()| Ok(self.backend.write_pages(&pages)?))?;
        }
        Ok(())
    }

    /// The tokens of chunks that a sequence has, ascending.
    fn positions(&self, sequence: SequenceHandle, computed: &[Op]) -> Result<Vec<usize>, EngineError> {
        let manager = self.cache.manager();
        let has = manager.tokens(sequence.id)? / CHUNK_TOKENS;
        let mut chunks: Vec<usize> = computed.iter().filter_map(|op| manager.chunk_of(op.id)).collect();
        chunks.retain(|chunk| *chunk < has);
        chunks.sort_unstable();
        chunks.dedup();
        Ok(chunks.iter().flat_map(|chunk| chunk * CHUNK_TOKENS..(chunk + 1) * CHUNK_TOKENS).collect())
    }

    /// Has the pages of some moves read.
    fn begin_reading(&self, reads: &[Op]) -> Arc<Arrivals> {
        let mut wanted: Vec<Vec<Wanted>> = vec![Vec::new(); self.reserved.geometry.layers];
        let mut failed = BTreeSet::new();
        for op in reads {
            match self.wanted(op.id) {
                Some(pages) => pages.into_iter().for_each(|(layer, page)| wanted[layer].push(page)),
                // Nobody knows what it should be.
                None => _ = failed.insert(op.id),
            }
        }
        let arrivals = Arc::new(Arrivals::new(wanted, failed));
        match &self.swap {
            Some(swap) => swap.files.read(&arrivals),
            None => (0..arrivals.layers()).for_each(|layer| arrivals.arrived(layer, Vec::new())),
        }
        arrivals
    }

    /// The pages that a move reads, by layer.
    fn wanted(&self, op: OpId) -> Option<Vec<(usize, Wanted)>> {
        let (manager, swap) = (self.cache.manager(), self.swap.as_ref()?);
        let checks = &swap.stored.get(&manager.stored_id(op)?)?.checks;
        let stored = manager.stored_at(op)?.pages;
        let memory = manager.memory_places(op);
        if checks.len() != stored.len() {
            return None;
        }
        let page = |(page, check): (&interleaf_kv::StoredPage, &u64)| {
            let (_, to) = memory.iter().find(|(layer, _)| *layer == page.layer)?;
            let to = address(page.layer, *to, page.bytes);
            let at = swap.position(page.layer, page.at);
            Some((page.layer, Wanted { op, at, check: *check, to }))
        };
        stored.iter().zip(checks).map(page).collect()
    }

    fn count_read(&mut self, read: usize, damaged: usize) {
        let Some(swap) = &mut self.swap else { return };
        swap.stats.read += read as u64;
        swap.stats.damaged += damaged as u64;
        if damaged > 0 && !std::mem::replace(&mut swap.has_warned_of_damage, true) {
            tracing::warn!(
                "{damaged} chunks could not be read back as they were written; they are computed again"
            );
        }
    }
}
