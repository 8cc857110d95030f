//! A context comes back: what of it lies in the file is read, layer by layer, and what is sooner computed is (LLMS, arXiv
//! 2403.11805, §3.3). Which is which the KV manager has said by the machine's costs.

use std::sync::Arc;

use interleaf_contract::CHUNK_TOKENS;
use interleaf_kv::{Op, OpId, OpKind};

use super::arrivals::Arrivals;
use super::files::Wanted;
use super::write_back::address;
use crate::{Engine, EngineError, SequenceHandle};

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
        while !reads.is_empty() {
            let arrivals = self.begin_reading(&reads);
            let layers = 0..self.reserved.geometry.layers;
            let put =
                layers.into_iter().try_for_each(|layer| self.backend.write_pages(&arrivals.wait(layer)));
            if let Err(error) = put {
                reads.iter().chain(&computed).for_each(|op| drop(self.cache.manager_mut().cancelled(op.id)));
                return Err(error.into());
            }
            let failed = arrivals.failed();
            self.count_read(reads.len() - failed.len(), failed.len());
            let ended = |engine: &mut Self, op: &Op| match failed.contains(&op.id) {
                true => engine.cache.manager_mut().failed(op.id),
                false => engine.cache.manager_mut().done(op.id),
            };
            let again: Vec<Op> = reads.iter().flat_map(|op| ended(self, op)).collect();
            let (more, others): (Vec<Op>, Vec<Op>) = again.into_iter().partition(is_read);
            computed.extend(others);
            reads = more;
        }
        let recomputed = match sequence {
            // What could not be read is computed after all, for which nobody has waited yet.
            Some((sequence, tokens)) if !computed.is_empty() => {
                self.await_weights(sequence).and_then(|()| self.recompute_chunks(sequence, tokens, &computed))
            }
            _ => Ok(()),
        };
        let is_computed = recomputed.is_ok() && sequence.is_some();
        let manager = self.cache.manager_mut();
        for op in computed {
            let follow = if is_computed { manager.done(op.id) } else { manager.cancelled(op.id) };
            debug_assert!(follow.is_empty(), "nothing follows from what was computed");
        }
        if let Some(swap) = &mut self.swap {
            swap.forget(manager);
        }
        recomputed
    }

    /// Has the pages of some moves read.
    fn begin_reading(&self, reads: &[Op]) -> Arc<Arrivals> {
        let layers = self.reserved.geometry.layers;
        let mut wanted: Vec<(usize, Vec<Wanted>)> = (0..layers).map(|layer| (layer, Vec::new())).collect();
        let arrivals = Arc::new(Arrivals::new(layers));
        for op in reads {
            match self.wanted(op.id) {
                Some(pages) => pages.into_iter().for_each(|(layer, page)| wanted[layer].1.push(page)),
                // Nobody knows what it should be.
                None => arrivals.cannot(op.id),
            }
        }
        match &self.swap {
            Some(swap) => swap.files.read(wanted, &arrivals),
            None => (0..layers).for_each(|layer| arrivals.arrived(layer, Vec::new(), [])),
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

    /// Computes chunks of a sequence again, at their true positions among those that are there.
    fn recompute_chunks(
        &mut self,
        sequence: SequenceHandle,
        prompt: &[u32],
        computed: &[Op],
    ) -> Result<(), EngineError> {
        let manager = self.cache.manager();
        let has = manager.tokens(sequence.id)?;
        let mut chunks: Vec<usize> = computed
            .iter()
            .filter_map(|op| manager.chunk_of(op.id))
            .filter(|chunk| chunk * CHUNK_TOKENS < has)
            .collect();
        chunks.sort_unstable();
        chunks.dedup();
        let positions: Vec<usize> =
            chunks.iter().flat_map(|chunk| chunk * CHUNK_TOKENS..(chunk + 1) * CHUNK_TOKENS).collect();
        if let Some(swap) = &mut self.swap {
            swap.stats.recomputed += chunks.len() as u64;
        }
        self.compute_at(sequence, prompt, &positions)
    }
}
