//! Adapters of the pool: loaded when a sequence is opened under them, let go when the KV manager gives their blocks to others (EdgeLoRA,
//! arXiv 2507.01438, §3.2; one pool with pages as in ELORA, arXiv 2505.03756, §4.1). Who goes and when is the manager's to say.
//!
//! The blocks are an account: the backend keeps the factors in memory of its own, as many bytes as their blocks have.

use std::sync::Arc;

use interleaf_contract::BackendError;
use interleaf_kv::{KvError, Op, OpId, OpKind};
use interleaf_model::PeftAdapter;

use super::{Acting, Activation, Residence, attach};
use crate::{Engine, EngineError, SequenceHandle};

/// What has been done with adapters of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdapterStats {
    /// How many are registered.
    pub registered: usize,
    /// How many have their weights on the backend now.
    pub loaded: usize,
    /// How often weights of the pool were loaded.
    pub loads: u64,
    /// How often they were let go.
    pub unloads: u64,
}

impl Engine {
    /// Begins to load what moves are to load.
    ///
    /// # Errors
    /// If there is no thread for that. The moves have ended then.
    pub(crate) fn begin_loading(&mut self, moves: &[Op]) -> Result<(), EngineError> {
        let mut result = Ok(());
        for op in moves.iter().filter(|op| op.kind == OpKind::Load) {
            if result.is_ok() {
                result = self.begin_load(op.id);
            }
            if result.is_err() {
                self.cache.manager_mut().failed(op.id);
            }
        }
        result
    }

    fn begin_load(&mut self, op: OpId) -> Result<(), EngineError> {
        let Some(Acting(place)) = self.loaded_by(op) else { return Ok(()) };
        let resident = &mut self.adapters.resident[place];
        resident.failure = None;
        match (&resident.residence, resident.id) {
            (Residence::Pooled(origin), None) => {
                self.loader.begin(op, origin.clone(), &self.model).map_err(|source| {
                    let reason = format!("no thread to open its files: {source}");
                    BackendError::Device { backend: "engine", reason }.into()
                })
            }
            // It is there.
            _ => {
                self.cache.manager_mut().done(op);
                Ok(())
            }
        }
    }

    /// The adapter that a move loads.
    fn loaded_by(&self, op: OpId) -> Option<Acting> {
        self.cache.manager().adapter_of(op).and_then(|id| self.cache.acting(id))
    }

    /// Takes in what has been opened; with `waits`, one at least if any is under way. Returns whether there was any, which a device that
    /// is suspended may still have to be given.
    ///
    /// # Errors
    /// If the device fails and may not be left.
    pub(crate) fn take_loaded(&mut self, waits: bool) -> Result<bool, EngineError> {
        let mut loaded = self.loader.take(waits).into_iter();
        let was_any = loaded.len() > 0;
        while let Some((op, opened)) = loaded.next() {
            // Whoever was to have it may have gone with its device, or be registered no more.
            let Some(adapter) = self.loaded_by(op) else {
                self.cache.manager_mut().cancelled(op);
                continue;
            };
            let mut opened = Some(opened);
            let made = match &opened {
                Some(Ok(_)) => self.on_device(|engine| engine.make_loaded(adapter, opened.take())),
                // Nothing for the device.
                _ => self.make_loaded(adapter, opened.take()),
            };
            if let (Err(EngineError::GpuSuspended), Some(opened)) = (&made, opened) {
                self.loader.keep((op, opened));
                continue;
            }
            match made {
                Ok(()) => {
                    self.cache.manager_mut().done(op);
                    self.adapters.stats.loads += 1;
                }
                Err(error) if self.is_failure_of_device(&error) => {
                    self.cache.manager_mut().cancelled(op);
                    loaded.for_each(|loaded| self.loader.keep(loaded));
                    self.leave(error)?;
                    return Ok(true);
                }
                Err(error) => {
                    self.adapters.resident[adapter.0].failure = Some(Arc::new(error));
                    self.cache.manager_mut().failed(op);
                }
            }
        }
        Ok(was_any)
    }

    /// Whether an error is the device's own, of which another call would fail too or which there is another device for.
    fn is_failure_of_device(&self, error: &EngineError) -> bool {
        match error {
            EngineError::Backend(BackendError::DeviceLost { .. }) => true,
            error => self.fallback.as_ref().is_some_and(|fallback| fallback.is_for(error)),
        }
    }

    fn make_loaded(
        &mut self,
        Acting(place): Acting,
        opened: Option<Result<PeftAdapter, EngineError>>,
    ) -> Result<(), EngineError> {
        let Some(peft) = opened.transpose()? else { return Ok(()) };
        let _span = tracing::debug_span!("load_adapter", name = peft.name).entered();
        let adapter = attach(peft, &self.resident.modules)?;
        self.drop_unloaded()?;
        self.adapters.resident[place].id = Some(self.backend.create_adapter(adapter)?);
        Ok(())
    }

    /// Lets go of all that is loaded: its blocks are of a pool that is about to go.
    pub(crate) fn unload_all(&mut self) -> Result<(), EngineError> {
        let pooled = self.adapters.resident.iter_mut();
        let loaded = pooled.filter(|resident| matches!(resident.residence, Residence::Pooled(_)));
        let loaded: Vec<_> = loaded.filter_map(|resident| resident.id.take()).collect();
        self.adapters.stats.unloads += loaded.len() as u64;
        Ok(loaded.into_iter().try_for_each(|id| self.backend.drop_adapter(id))?)
    }

    /// Lets go what has lost its blocks, which others may have by now.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn drop_unloaded(&mut self) -> Result<(), EngineError> {
        for id in self.cache.manager_mut().take_unloaded() {
            // It may have been loaded again, or be about to be.
            if self.cache.manager().has_weights(id) {
                continue;
            }
            let Some(Acting(place)) = self.cache.acting(id) else { continue };
            if let Some(id) = self.adapters.resident[place].id.take() {
                self.adapters.stats.unloads += 1;
                self.backend.drop_adapter(id)?;
            }
        }
        Ok(())
    }

    /// Whether a sequence has its adapter's weights, or needs none.
    pub(crate) fn has_weights(&self, sequence: SequenceHandle) -> bool {
        sequence.activation.is_none_or(|a| self.adapters.id(a.adapter).is_some())
            && self.cache.manager().is_ready(sequence.id).unwrap_or(true)
    }

    /// Whether a sequence's adapter was to be loaded on a device that is lost, so that nothing is on its way any more.
    pub(crate) fn is_load_forgotten(&self, sequence: SequenceHandle) -> bool {
        let is_lacking = |a: Activation| self.adapters.id(a.adapter).is_none();
        sequence.activation.is_some_and(is_lacking)
            && !self.loader.is_busy()
            && self.cache.manager().is_ready(sequence.id).is_ok()
    }

    /// Why a sequence's adapter could not be loaded; `None` where it was, or is on its way.
    pub(crate) fn why_not_loaded(&self, sequence: SequenceHandle) -> Option<EngineError> {
        let adapter = sequence.activation?.adapter;
        let is_ready = self.cache.manager().is_ready(sequence.id);
        let error = match is_ready {
            Err(error @ KvError::NotLoaded(_)) => error,
            _ if self.is_load_forgotten(sequence) => KvError::NotLoaded(sequence.id),
            _ => return None,
        };
        let failure = self.adapters.resident[adapter.0].failure.clone();
        let name = self.adapters.summary(adapter).map(|summary| summary.name.clone()).unwrap_or_default();
        Some(failure.map_or(error.into(), |reason| EngineError::AdapterNotLoaded { name, reason }))
    }

    /// Waits until a sequence has its adapter's weights.
    ///
    /// # Errors
    /// If they are not to be had.
    pub(crate) fn await_weights(&mut self, sequence: SequenceHandle) -> Result<(), EngineError> {
        while !self.has_weights(sequence) {
            if let Some(error) = self.why_not_loaded(sequence) {
                return Err(error);
            }
            if self.is_suspended() {
                return Err(EngineError::GpuSuspended);
            }
            if !self.take_loaded(true)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether an adapter's weights are there, so that a call under it need not wait for them; `false` for one that is not registered.
    #[must_use]
    pub fn is_loaded(&self, adapter: &str) -> bool {
        self.adapters.is_resident(adapter)
    }

    /// What has been done with adapters so far.
    #[must_use]
    pub fn adapter_stats(&self) -> AdapterStats {
        let loaded = self.adapters.resident.iter().filter(|resident| resident.id.is_some()).count();
        AdapterStats { registered: self.adapters.by_name.len(), loaded, ..self.adapters.stats }
    }
}
