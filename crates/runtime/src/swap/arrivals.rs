//! Pages on their way from the file, layer by layer: who waits for a layer gets it as soon as it is there, while the next ones are
//! still being read.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use interleaf_contract::PageData;
use interleaf_kv::OpId;

use crate::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug, Default)]
struct State {
    /// By layer; `None` for those that are not there yet.
    layers: Vec<Option<Vec<PageData>>>,
    /// Moves of which something could not be read, or is not what was written.
    failed: BTreeSet<OpId>,
}

/// Layers of some moves.
#[derive(Debug)]
pub struct Arrivals {
    state: Mutex<State>,
    changed: Condvar,
}

impl Arrivals {
    /// So many layers, none of which is there.
    pub fn new(layers: usize) -> Self {
        let state = State { layers: vec![None; layers], failed: BTreeSet::new() };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// A layer is there, but for the moves of which it is not.
    pub fn arrived(&self, layer: usize, pages: Vec<PageData>, failed: impl IntoIterator<Item = OpId>) {
        let mut state = self.lock();
        state.failed.extend(failed);
        if let Some(place) = state.layers.get_mut(layer) {
            *place = Some(pages);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Of a move nothing will come.
    pub fn cannot(&self, op: OpId) {
        self.lock().failed.insert(op);
    }

    /// Waits for a layer's pages, and takes them.
    pub fn wait(&self, layer: usize) -> Vec<PageData> {
        let mut state = self.lock();
        loop {
            // Of layers that there are not, nothing comes.
            let Some(place) = state.layers.get_mut(layer) else { return Vec::new() };
            if let Some(pages) = place {
                return std::mem::take(pages);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Once all layers are there: the moves that have failed.
    pub fn failed(&self) -> BTreeSet<OpId> {
        self.lock().failed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
