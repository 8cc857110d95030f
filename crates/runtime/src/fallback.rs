//! From a GPU that failed to the CPU, with everything: the base, the adapters, the pool, and sequences, whose pages are
//! computed again from their tokens. Only `auto` goes that way; a GPU that was asked for by name fails by name.
//!
//! Handles of callers outlive the move: sequences keep their names and adapters their places. It is said once.

use interleaf_contract::{Backend, BackendError, CHUNK_TOKENS, PoolGeometry, RowKind};
use interleaf_cpu::CpuOptions;

use crate::reserve::ropes;
use crate::{
    BackendChoice, Engine, EngineError, EngineOptions, Feed, GpuGate, SequenceHandle, Want, backend, resident,
};

/// What is left to an engine whose device fails.
#[derive(Debug)]
pub struct Fallback {
    pub cpu: CpuOptions,
    /// The device is given up and the CPU does not have everything yet: that comes before anything else.
    due: bool,
}

impl Fallback {
    /// `None` for an engine that stays where it is.
    pub fn new(options: &EngineOptions, backend: &dyn Backend) -> Option<Self> {
        let may_leave = options.backend == BackendChoice::Auto && backend.info().name != "cpu";
        may_leave.then(|| Self { cpu: backend::cpu_options(options), due: false })
    }

    /// Whether an error is one of the device's own, which another might not have.
    pub fn is_for(&self, error: &EngineError) -> bool {
        let EngineError::Backend(error) = error else { return false };
        !self.due
            && match error {
                BackendError::DeviceLost { .. }
                | BackendError::OutOfMemory { .. }
                | BackendError::Device { .. } => true,
                // The engine itself refuses adapters by this.
                BackendError::Unsupported { backend, .. } => *backend != "engine",
                _ => false,
            }
    }
}

impl Engine {
    /// Does something with the device, unless that is suspended; who suspends it meanwhile waits for the end. What is done may do so
    /// itself.
    pub(crate) fn on_device<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        if self.is_on_device {
            return act(self);
        }
        self.settle()?;
        let gate = self.gate.clone();
        let _open = gate.as_ref().map(|gate| gate.enter().ok_or(EngineError::GpuSuspended)).transpose()?;
        self.is_on_device = true;
        let done = act(self);
        self.is_on_device = false;
        done
    }

    /// Whether nothing may be given to the device now.
    pub(crate) fn is_suspended(&self) -> bool {
        !self.is_on_device && self.gate.as_ref().is_some_and(GpuGate::is_suspended)
    }

    /// The same with the pages of sequences, and once more on the CPU where the device fails and may be left.
    pub(crate) fn on_some_device<T>(
        &mut self,
        sequences: &[SequenceHandle],
        mut act: impl FnMut(&mut Self) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        loop {
            let regained = sequences.iter().try_for_each(|sequence| self.regain(*sequence));
            match regained.and_then(|()| self.on_device(&mut act)) {
                Err(error) => self.leave(error)?,
                done => return done,
            }
        }
    }

    /// Leaves the device for what it failed with. Once this returns the CPU has everything but the pages of sequences.
    ///
    /// # Errors
    /// `error` itself where it is nothing to leave a device for, there is no other, or something is being done with this one, which is
    /// to come to its end first; else what the CPU failed with.
    pub(crate) fn leave(&mut self, error: EngineError) -> Result<(), EngineError> {
        if self.is_on_device {
            return Err(error);
        }
        if let Some(fallback) = self.fallback.as_mut().filter(|fallback| fallback.is_for(&error)) {
            tracing::warn!("the CPU runs from here on: {error}");
            fallback.due = true;
            self.histories.lose_pages();
            self.cache.lose_pages();
            // What another device computed is not what this one would.
            self.swap = None;
            return self.settle();
        }
        Err(error)
    }

    /// The same for a pool that the device has no room for, if the CPU has: what nobody has room for is nothing to leave
    /// a device for.
    ///
    /// # Errors
    /// Likewise.
    pub(crate) fn leave_for_pool(
        &mut self,
        error: EngineError,
        geometry: PoolGeometry,
    ) -> Result<(), EngineError> {
        if let Some(fallback) = self.fallback.as_ref().filter(|fallback| fallback.is_for(&error)) {
            let pool = backend::open_cpu(fallback.cpu).and_then(|mut cpu| cpu.create_pool(geometry));
            if pool.is_err() {
                return Err(error);
            }
        }
        self.leave(error)
    }

    /// Takes everything to the CPU if the device has been given up. What fails here is tried again by the next call.
    fn settle(&mut self) -> Result<(), EngineError> {
        let Some(&Fallback { cpu, due: true }) = self.fallback.as_ref() else { return Ok(()) };
        self.move_to(cpu).map_err(|e| match e {
            EngineError::Backend(e) => e,
            e => BackendError::Device { backend: "cpu", reason: format!("it cannot take over: {e}") },
        })?;
        self.fallback = None;
        self.calibrated.forget_origins();
        Ok(())
    }

    fn move_to(&mut self, cpu: CpuOptions) -> Result<(), EngineError> {
        // What was there before, the device or half a move, is freed first: there may not be room for both.
        self.backend = backend::open_cpu(cpu)?;
        self.gate = None;
        let backend = &mut *self.backend;
        backend.create_pool(self.reserved.geometry)?;
        self.resident = resident::upload(&self.model, self.weights, backend, &mut |_| ())?;
        self.ropes = ropes(self.model.config(), self.reserved.positions, backend)?;
        self.calibrated.make_resident_again(&self.ropes, backend)?;
        self.adapters.make_resident_again(&self.model, &self.resident.modules, backend)
    }

    /// Computes all the pages again that a sequence has lost. Where they do not fit any more, since some were smaller, it
    /// has those that do, and the next call tries again.
    fn regain(&mut self, sequence: SequenceHandle) -> Result<(), EngineError> {
        while self.histories.is_lost(sequence.id) {
            self.regain_some(sequence)?;
        }
        Ok(())
    }

    /// Computes pages of one step again: where they were, or, from the first on that were kept in another form than a
    /// forward pass computes, in new ones. Returns for how many tokens there are pages now, and how many there are.
    pub(crate) fn regain_some(&mut self, sequence: SequenceHandle) -> Result<(usize, usize), EngineError> {
        let Some((start, tokens)) = self.histories.lost(sequence.id, self.prefill_rows) else {
            return Ok((0, 0));
        };
        let places = self.cache.manager().tokens(sequence.id)?.saturating_sub(start);
        let rows = if places == 0 { tokens.len() } else { tokens.len().min(places) };
        let tokens = tokens[..rows].to_vec();
        // The CPU computes generated tokens as it does a prompt's, to the bit.
        let feed = Feed { sequence, tokens: &tokens, kind: RowKind::Prompt, want: Want::Nothing };
        if places == 0 {
            self.on_device(|engine| engine.compute_new(&feed))?;
        } else {
            self.on_device(|engine| engine.compute(&feed, start))?;
        }
        let regained = self.histories.regain(sequence.id, rows);
        if rows == places {
            self.cache.regained(sequence.id)?;
        }
        Ok(regained)
    }

    /// Chunks that a sequence lacks for what it is to compute again in new ones.
    pub(crate) fn chunks_lost(&self, sequence: SequenceHandle) -> usize {
        let room = self.cache.manager().room(sequence.id).unwrap_or(0);
        let tokens = self.histories.tokens(sequence.id);
        tokens.div_ceil(CHUNK_TOKENS).saturating_sub(room.div_ceil(CHUNK_TOKENS))
    }
}
