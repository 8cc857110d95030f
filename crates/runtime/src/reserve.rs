//! The KV pool, and the rotary tables that reach as far as the longest sequence in it.

use interleaf_contract::{Backend, CHUNK_TOKENS, PageElement, PoolGeometry, RopeId};
use interleaf_model::ModelConfig;

use crate::adapters::Loader;
use crate::store::Loading;
use crate::{Engine, EngineError};

/// What there is room for.
#[derive(Debug, Clone, Copy)]
pub struct Reservation {
    /// The pool.
    pub geometry: PoolGeometry,
    /// Positions of the rotary tables: up to the longest sequence that a pool has had room for.
    pub positions: usize,
}

impl Reservation {
    /// No room yet.
    pub fn none(config: &ModelConfig, element: PageElement) -> Self {
        let (layers, kv_heads, head_dim) = (config.layers, config.kv_heads, config.head_dim);
        Self { geometry: PoolGeometry { layers, kv_heads, head_dim, slots: 0, element }, positions: 0 }
    }

    /// Room for so many chunks, in sequences of at most `context` tokens.
    fn with_slots(self, slots: usize, context: usize) -> Self {
        // One sequence may take the whole pool. Growing by doubling keeps tables few.
        let longest = slots.saturating_mul(CHUNK_TOKENS).min(context);
        let doubled = longest.checked_next_power_of_two().unwrap_or(longest).min(context);
        let positions = if longest > self.positions { doubled } else { self.positions };
        Self { geometry: PoolGeometry { slots, ..self.geometry }, positions }
    }
}

impl Engine {
    /// Replaces the KV pool by one with room for `sequences` sequences of `tokens` tokens each. Open
    /// sequences are closed. Under [`BackendChoice::Auto`](crate::BackendChoice::Auto) a pool that the GPU has no room for
    /// takes the model to the CPU, if that has.
    ///
    /// # Errors
    /// If there is no room for it, it does not fit into the memory budget ([`EngineError::DoesNotFit`]), the file below memory is to have
    /// no room for a chunk, or the last process that reserved as much ended meanwhile ([`EngineError::LastLoadFailed`]); or, with
    /// nothing changed and nothing given to the GPU, while that is suspended ([`EngineError::GpuSuspended`]).
    pub fn reserve_kv(&mut self, sequences: usize, tokens: usize) -> Result<(), EngineError> {
        let slots = sequences.saturating_mul(tokens.div_ceil(CHUNK_TOKENS));
        let wanted = self.reserved.with_slots(slots, self.context);
        self.check_pool(&wanted)?;
        self.check_swap(&wanted)?;
        let what = format!("{} with a KV pool of {} tokens", self.what_it_is, slots * CHUNK_TOKENS);
        let _loading = Loading::mark(self.store.folder(), "reserving", &what, self.retry_load)?;
        if let Err(error) = self.on_device(|engine| engine.make_room(wanted)) {
            self.leave_for_pool(error, wanted.geometry)?;
            self.on_device(|engine| engine.make_room(wanted))?;
        }
        self.reserved = wanted;
        // Moves are counted anew, and what is being opened for one of before is nobody's.
        self.loader = Loader::default();
        // What was to be written is, before the file is opened again.
        self.swap = None;
        let below = self.open_swap();
        self.cache = self.cache.replaced(&wanted.geometry, below)?;
        self.restore_swapped(None);
        self.histories.clear();
        Ok(())
    }

    fn make_room(&mut self, wanted: Reservation) -> Result<(), EngineError> {
        if wanted.positions > self.reserved.positions {
            self.ropes = ropes(self.model.config(), wanted.positions, &mut *self.backend)?;
            self.reserved.positions = wanted.positions;
        }
        self.unload_all()?;
        self.backend.create_pool(wanted.geometry)?;
        // Calibrated keys are turned by tables of another length now; they are read again when they are needed.
        Ok(self.calibrated.clear(&mut *self.backend)?)
    }
}

/// The tables of every rope that layers of the model turn by.
pub fn ropes(
    config: &ModelConfig,
    positions: usize,
    backend: &mut dyn Backend,
) -> Result<Vec<RopeId>, EngineError> {
    config.ropes.iter().map(|rope| Ok(backend.create_rope(rope.table(positions))?)).collect()
}
