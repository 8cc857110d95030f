//! Pages on their way from the file, layer by layer: who waits for a layer gets it as soon as it is there, while the next ones are
//! still being read.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use interleaf_contract::{ArrivingPages, Bytes, PageAddress};
use interleaf_kv::OpId;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// A page that is to be read.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// For which move.
    pub op: OpId,
    /// Where in the file.
    pub at: u64,
    /// What it must be.
    pub check: u64,
    /// Where it goes.
    pub to: PageAddress,
}

/// One layer's pages.
#[derive(Debug, Clone, Default)]
enum Layer {
    /// On their way.
    #[default]
    Coming,
    /// There, but for those that could not be read or are not what was written.
    There(Vec<Option<Bytes>>),
    /// Somebody has taken them.
    Taken,
}

#[derive(Debug, Default)]
struct State {
    layers: Vec<Layer>,
    /// Bytes of layers that are being read, or there and not taken.
    held: usize,
    /// Nobody takes anything any more.
    is_closed: bool,
    /// Moves of which something has not come.
    failed: BTreeSet<OpId>,
}

/// Pages of some moves.
#[derive(Debug)]
pub struct Arrivals {
    /// By layer.
    wanted: Vec<Vec<Wanted>>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Arrivals {
    /// Pages of each layer, none of which is there. Of some moves nothing will come at all.
    pub fn new(wanted: Vec<Vec<Wanted>>, failed: BTreeSet<OpId>) -> Self {
        let layers = vec![Layer::Coming; wanted.len()];
        let state = State { layers, failed, ..State::default() };
        Self { wanted, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// How many layers there are.
    pub fn layers(&self) -> usize {
        self.wanted.len()
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> usize {
        (0..self.layers()).map(|layer| self.bytes_of(layer)).sum()
    }

    fn bytes_of(&self, layer: usize) -> usize {
        self.wanted(layer).iter().map(|wanted| wanted.to.bytes().len()).sum()
    }

    /// Waits until there is room for a layer to be read to, of so many bytes in all: whoever takes layers in their order gets each,
    /// and those after it are not read far ahead. Says whether anybody is to take it.
    pub fn make_room(&self, layer: usize, most: usize) -> bool {
        let bytes = self.bytes_of(layer);
        let mut state = self.lock();
        let is_next = |state: &State| {
            let is_taken = |before| matches!(state.layers.get(before), Some(Layer::Taken));
            (0..layer).all(|before| self.wanted(before).is_empty() || is_taken(before))
        };
        while !state.is_closed && state.held > 0 && state.held + bytes > most && !is_next(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.held += bytes;
        !state.is_closed
    }

    /// Nobody takes anything any more.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// The pages of a layer.
    pub fn wanted(&self, layer: usize) -> &[Wanted] {
        self.wanted.get(layer).map_or(&[], |wanted| wanted)
    }

    /// A layer is there, in the order of what is wanted of it; what is missing at the end has not come.
    pub fn arrived(&self, layer: usize, mut pages: Vec<Option<Bytes>>) {
        let wanted = self.wanted(layer);
        pages.resize(wanted.len(), None);
        let mut state = self.lock();
        let missing = wanted.iter().zip(&pages).filter(|(_, page)| page.is_none());
        state.failed.extend(missing.map(|(wanted, _)| wanted.op));
        if let Some(place) = state.layers.get_mut(layer) {
            *place = Layer::There(pages);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Once all layers are there: the moves that have failed.
    pub fn failed(&self) -> BTreeSet<OpId> {
        self.lock().failed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ArrivingPages for Arrivals {
    fn places(&self, layer: u32) -> Vec<PageAddress> {
        self.wanted(layer as usize).iter().map(|wanted| wanted.to).collect()
    }

    fn wait(&self, layer: u32) -> Vec<Option<Bytes>> {
        let mut state = self.lock();
        loop {
            // Of layers that there are not, nothing comes.
            let Some(place) = state.layers.get_mut(layer as usize) else { return Vec::new() };
            match std::mem::replace(place, Layer::Taken) {
                Layer::There(pages) => {
                    state.held = state.held.saturating_sub(self.bytes_of(layer as usize));
                    drop(state);
                    self.changed.notify_all();
                    return pages;
                }
                Layer::Taken => return Vec::new(),
                Layer::Coming => *place = Layer::Coming,
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
