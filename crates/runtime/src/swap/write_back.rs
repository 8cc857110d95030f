//! Chunks are written when the call that computed them returns, so that taking them from memory later is free (LLMS, arXiv
//! 2403.11805, §3.4). Their pages are copied at once; the file is written by a thread of its own.

use std::io;

use interleaf_contract::{Bytes, PAGE_UNIT, PageAddress};
use interleaf_kv::{Op, OpId, OpKind, StoredId, StoredPage};
use tracing::field::Empty;

use super::{Entry, MOST_UNDER_WAY, Number, Stored};
use crate::{Engine, EngineError};

impl Engine {
    /// Gives chunks to be written. Where the device cannot be asked for them now they are not.
    ///
    /// # Errors
    /// If the device fails and may not be left.
    pub(crate) fn write_out(&mut self, ops: &[Op]) -> Result<(), EngineError> {
        debug_assert!(ops.iter().all(|op| matches!(op.kind, OpKind::Write { from: 0, .. })));
        let is_writable = self.swap.as_mut().is_some_and(super::Swap::is_writable);
        if !is_writable {
            return self.give_up_writes(ops);
        }
        if ops.is_empty() {
            return self.take_written();
        }
        let span = tracing::debug_span!("swap_out", chunks = ops.len(), bytes = Empty);
        let _entered = span.enter();
        let mut bytes = 0;
        for (place, op) in ops.iter().enumerate() {
            while self.swap.as_ref().is_some_and(|swap| swap.files.bytes_under_way() > MOST_UNDER_WAY) {
                self.await_write()?;
            }
            let pages = self.written_pages(op.id);
            let addresses: Vec<PageAddress> = pages.iter().map(|(_, from)| *from).collect();
            let read = self.on_device(|engine| {
                let ticket = engine.backend.read_pages(&addresses)?;
                Ok(engine.backend.wait_pages(ticket)?)
            });
            match read {
                Ok(read) => {
                    let parts: Vec<(u64, Bytes)> =
                        pages.iter().zip(read).map(|((at, _), page)| (*at, page.bytes)).collect();
                    bytes += parts.iter().map(|(_, page)| page.len()).sum::<usize>();
                    self.write_pages(op.id, parts);
                }
                Err(EngineError::GpuSuspended) => return self.give_up_writes(&ops[place..]),
                Err(error) => {
                    let given_up = self.give_up_writes(&ops[place..]);
                    return self.leave(error).and(given_up);
                }
            }
        }
        span.record("bytes", bytes);
        self.take_written()
    }

    fn write_pages(&mut self, op: OpId, parts: Vec<(u64, Bytes)>) {
        if let Some(swap) = &mut self.swap {
            // What lay there is forgotten before something else does.
            swap.forget(self.cache.manager_mut());
        }
        let noted = self.noted(op);
        if let Some(swap) = &self.swap {
            swap.files.write(op, parts, noted);
        }
    }

    /// Where the pages of a chunk go in the file, and where they are in memory.
    fn written_pages(&self, op: OpId) -> Vec<(u64, PageAddress)> {
        let (Some(at), Some(swap)) = (self.cache.manager().stored_at(op), &self.swap) else {
            return Vec::new();
        };
        let memory = self.cache.manager().memory_places(op);
        let page = |page: &StoredPage| {
            let (_, from) = memory.iter().find(|(layer, _)| *layer == page.layer)?;
            Some((swap.position(page.layer, page.at), address(page.layer, *from, page.bytes)))
        };
        at.pages.iter().filter_map(page).collect()
    }

    /// Nobody writes these now. What was to leave memory does all the same, and is computed again.
    fn give_up_writes(&mut self, ops: &[Op]) -> Result<(), EngineError> {
        let manager = self.cache.manager_mut();
        let follow = ops.iter().flat_map(|op| manager.failed(op.id)).collect();
        self.carry_out(follow)
    }

    /// Waits for a write, if one is under way, and says whether there was one.
    ///
    /// # Errors
    /// As [`Engine::write_out`].
    pub(crate) fn await_write(&mut self) -> Result<bool, EngineError> {
        let Some(swap) = &self.swap else { return Ok(false) };
        swap.files.wait();
        let written = swap.files.take_written();
        let was_any = !written.is_empty();
        self.ended_writes(written)?;
        Ok(was_any)
    }

    /// Tells the manager of writes that have ended.
    ///
    /// # Errors
    /// As [`Engine::write_out`].
    pub(crate) fn take_written(&mut self) -> Result<(), EngineError> {
        let written = self.swap.as_ref().map(|swap| swap.files.take_written()).unwrap_or_default();
        self.ended_writes(written)
    }

    fn ended_writes(&mut self, written: Vec<(OpId, io::Result<Vec<u64>>)>) -> Result<(), EngineError> {
        let mut follow = Vec::new();
        for (op, ended) in written {
            follow.extend(self.ended_write(op, ended));
        }
        self.carry_out(follow)
    }

    fn ended_write(&mut self, op: OpId, ended: io::Result<Vec<u64>>) -> Vec<Op> {
        let Some(swap) = &mut self.swap else { return Vec::new() };
        let manager = self.cache.manager_mut();
        let follow = match ended {
            Ok(checks) => {
                if let Some(stored) = manager.stored_id(op).and_then(|id| swap.stored.get_mut(&id)) {
                    stored.checks = checks;
                    swap.stats.written += 1;
                }
                manager.done(op)
            }
            Err(error) => {
                swap.was_not_written(&error);
                manager.failed(op)
            }
        };
        // The manager may have had no more use for it.
        swap.forget(manager);
        follow
    }

    /// A chunk is about to be written: what the next run is told of it, if it can be told.
    fn noted(&mut self, op: OpId) -> Option<(Number, Entry)> {
        let (Some(swap), manager) = (&mut self.swap, self.cache.manager()) else { return None };
        let chunk = manager.lasting(op);
        let number_of = |of: Option<StoredId>| match of {
            // What depends on something that is in no index is in none either.
            Some(of) => Some(Some(swap.stored.get(&of)?.number?)),
            None => Some(None),
        };
        let entry = chunk.and_then(|chunk| {
            let adapter = match chunk.adapter {
                Some(adapter) => {
                    let key = manager.adapter_key(adapter).ok()?;
                    Some((key.digest.0, key.scale_bits))
                }
                None => None,
            };
            Some(Entry {
                parent: number_of(chunk.parent)?,
                anchor: number_of(chunk.anchor)?,
                adapter,
                tokens: chunk.tokens,
                layers: chunk.layers,
                form: chunk.form,
                drift: chunk.drift,
                least_budget: chunk.least_budget,
                places: chunk.places,
                checks: Vec::new(),
            })
        });
        let noted = entry.map(|entry| {
            swap.last += 1;
            (Number(swap.last), entry)
        });
        if let Some(id) = manager.stored_id(op) {
            let number = noted.as_ref().map(|(number, _)| *number);
            swap.stored.insert(id, Stored { checks: Vec::new(), number });
        }
        noted
    }
}

/// Bytes of a layer's stripe in memory.
pub(super) fn address(layer: usize, at: u64, bytes: u64) -> PageAddress {
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let unit = PAGE_UNIT as u64;
    PageAddress { layer: number(layer as u64), at: number(at / unit), units: number(bytes / unit) }
}
