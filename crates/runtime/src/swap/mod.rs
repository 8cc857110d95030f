//! Chunks below memory: a file of pages in the store, written when a call returns and read when its context comes back. Which chunk
//! lies where is the KV manager's to say; here are the file, its threads, and what the engine does for the manager's moves.
//!
//! | file of the store | holds |
//! |---|---|
//! | `swap/pages` | K and V in the codecs that they have in memory, a stripe for each layer |
//! | `swap/index` | which chunk lies where, of which tokens and adapter, and the check of each page |
//!
//! Both are caches. They are of one model, weight format, numerics, backend, kind of pages and size, whose digest the index begins
//! with; with any of these changed they are begun anew. What is damaged is found when it is read, and computed again.

mod arrivals;
mod bring;
mod costs;
mod files;
mod index;
mod measure;
mod options;
mod pages;
#[cfg(test)]
#[cfg(feature = "shuttle")]
mod shuttled;
mod write_back;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use interleaf_contract::PoolGeometry;
use interleaf_kv::{AdapterId, Manager, Op, OpKind, StoredChunk, StoredId};
use interleaf_model::Digest;

use self::files::Files;
use self::index::{Entry, Found, Index, Number};
use self::pages::PageFile;
use crate::cache::Below;
use crate::reserve::Reservation;
use crate::{Engine, EngineError};

pub use self::measure::SwitchMeasure;
pub use self::options::{FlashProfile, SwapOptions};

/// The folder in the store.
pub const FOLDER: &str = "swap";

/// What may wait to be written, in bytes, and what may have been read and not be in its place: who would hold more waits.
pub const MOST_UNDER_WAY: usize = 32 << 20;

/// For how long nothing is written once something could not be, so that a full disk is not tried for every chunk.
const PAUSE: Duration = Duration::from_secs(10);

/// What has been done between memory and the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SwapStats {
    /// Chunks written.
    pub written: u64,
    /// Chunks read.
    pub read: u64,
    /// Chunks computed again, because that was sooner or they could not be read.
    pub recomputed: u64,
    /// Chunks that could not be written.
    pub unwritten: u64,
    /// Chunks that could not be read, or were not what had been written.
    pub damaged: u64,
    /// Chunks of an earlier run that are there again.
    pub restored: u64,
}

/// An open file of pages with its index.
#[derive(Debug)]
pub struct Swap {
    files: Files,
    /// Bytes of each layer's stripe.
    stripe: u64,
    /// Checks of the pages of what lies there, and its number in the index if it has one.
    stored: HashMap<StoredId, Stored>,
    /// Of an earlier run, under adapters that are not registered yet, or the base's that these depend on.
    earlier: BTreeMap<Number, Entry>,
    /// The adapters of these.
    awaited: HashSet<([u8; 32], u32)>,
    last: u64,
    /// Since when nothing could be written.
    unwritable: Option<Instant>,
    has_warned: bool,
    has_warned_of_damage: bool,
    pub stats: SwapStats,
}

#[derive(Debug)]
struct Stored {
    checks: Vec<u64>,
    number: Option<Number>,
}

impl Swap {
    /// Opens the file in a folder, for pages of some digest, with so many bytes for each layer.
    ///
    /// # Errors
    /// If a file cannot be made, read or written; or another process has it open.
    pub fn open(folder: &Path, of: Digest, stripe: u64, profile: Option<FlashProfile>) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (index, found) = Index::open(&folder.join("index"), of)?;
        let pages = PageFile::open(&folder.join("pages"), profile)?;
        let Found { entries, last, damaged, was_other, is_header_damaged } = found;
        if is_header_damaged {
            let folder = folder.display();
            tracing::warn!(
                "{folder}: the index is damaged where it begins; what it was of is computed again"
            );
        }
        if was_other {
            pages.clear()?;
        }
        if damaged > 0 {
            tracing::warn!(
                "{}: the last {damaged} bytes of the index are no whole record; what they were of is computed again",
                folder.display()
            );
        }
        let awaited = entries.values().filter_map(|entry| entry.adapter).collect();
        Ok(Self {
            files: Files::start(pages, index)?,
            stripe,
            stored: HashMap::new(),
            earlier: entries,
            awaited,
            last,
            unwritable: None,
            has_warned: false,
            has_warned_of_damage: false,
            stats: SwapStats::default(),
        })
    }

    /// Copies of pages that wait to be written.
    pub fn bytes_under_way(&self) -> u64 {
        self.files.bytes_under_way() as u64
    }

    /// Where a page begins in the file.
    const fn position(&self, layer: usize, at: u64) -> u64 {
        layer as u64 * self.stripe + at
    }

    /// Takes in what of an earlier run the manager can use: the base's chunks, or those under an adapter that it has just been told
    /// of.
    pub fn restore(&mut self, manager: &mut Manager, of: Option<(AdapterId, [u8; 32], u32)>) {
        let adapter = of.map(|(_, digest, scale)| (digest, scale));
        if adapter.is_some_and(|adapter| !self.awaited.remove(&adapter)) {
            return;
        }
        // What is taken in may be named as something was that has gone.
        self.forget(manager);
        let is_meant = |entry: &Entry| entry.adapter.is_none() || entry.adapter == adapter;
        let meant: Vec<(Number, &Entry)> = (self.earlier.iter())
            .filter(|(_, entry)| is_meant(entry))
            .map(|(number, entry)| (*number, entry))
            .collect();
        // Numbers are unique, and less than 2³² in a file that a phone writes in its life.
        let id = |number: Number| StoredId(number.0 as u32);
        let chunk = |(number, entry): &(Number, &Entry)| StoredChunk {
            id: id(*number),
            parent: entry.parent.map(id),
            anchor: entry.anchor.map(id),
            adapter: entry.adapter.and(of.map(|(id, ..)| id)),
            tokens: entry.tokens,
            layers: entry.layers,
            form: entry.form,
            drift: entry.drift,
            least_budget: entry.least_budget,
            places: entry.places.clone(),
        };
        let chunks: Vec<StoredChunk> = meant.iter().map(chunk).collect();
        let restored = manager.restore(&chunks);
        let numbers: Vec<Number> = meant.iter().map(|(number, _)| *number).collect();
        for (number, id) in numbers.into_iter().zip(restored) {
            let Some(entry) = self.earlier.get(&number) else { continue };
            match id {
                // The base's may have been taken in before.
                Some(id) if self.stored.get(&id).is_none_or(|stored| stored.number != Some(number)) => {
                    self.stored.insert(id, Stored { checks: entry.checks.clone(), number: Some(number) });
                    self.stats.restored += 1;
                }
                Some(_) => {}
                None => {
                    self.earlier.remove(&number);
                    self.files.forgotten(number);
                }
            }
        }
        if self.awaited.is_empty() {
            self.earlier.clear();
        }
    }

    /// What the manager has forgotten is no longer in the index, before anything else lies there.
    fn forget(&mut self, manager: &mut Manager) {
        for id in manager.take_forgotten() {
            if let Some(number) = self.stored.remove(&id).and_then(|stored| stored.number) {
                self.earlier.remove(&number);
                self.files.forgotten(number);
            }
        }
    }

    /// Something could not be written. That is said once.
    fn was_not_written(&mut self, error: &io::Error) {
        self.stats.unwritten += 1;
        self.unwritable = Some(Instant::now());
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!("pages could not be swapped out: {error}; what leaves memory is computed again");
        }
    }

    fn is_writable(&mut self) -> bool {
        if self.unwritable.is_some_and(|since| since.elapsed() >= PAUSE) {
            self.unwritable = None;
        }
        self.unwritable.is_none()
    }
}

/// Bytes of a chunk of full precision, all layers.
pub fn chunk_bytes(geometry: &PoolGeometry) -> u64 {
    (2 * geometry.page_bytes() * geometry.layers) as u64
}

impl Engine {
    /// Refuses a file that has no room for a chunk of a pool.
    pub(crate) fn check_swap(&self, wanted: &Reservation) -> Result<(), EngineError> {
        let each = chunk_bytes(&wanted.geometry);
        match self.swap_options {
            Some(SwapOptions { bytes, .. }) if bytes < each => Err(EngineError::InvalidOption {
                option: "swap",
                expected: "room for a chunk of 16 tokens at least",
                found: format!("{bytes} bytes, where one takes {each}"),
            }),
            _ => Ok(()),
        }
    }

    /// The folder of the file below memory.
    fn swap_folder(&self) -> Option<PathBuf> {
        Some(self.swap_folder.as_deref().or(self.store.folder())?.join(FOLDER))
    }

    /// Opens the file below memory for the pool that is reserved, and says what the manager may put there. Where that cannot be done
    /// it is said, and what leaves memory is computed again.
    pub(crate) fn open_swap(&mut self) -> Option<Below> {
        let options = self.swap_options?;
        let geometry = self.reserved.geometry;
        let folder = self.swap_folder()?;
        let each = chunk_bytes(&geometry).max(1);
        let chunks = u32::try_from(options.bytes / each).unwrap_or(u32::MAX);
        let stripe = u64::from(chunks) * 2 * geometry.page_bytes() as u64;
        match Swap::open(&folder, self.pages_digest(chunks), stripe, options.profile) {
            Ok(swap) => {
                self.swap = Some(swap);
                Some(Below { chunks, costs: self.switch_costs(&folder) })
            }
            Err(error) => {
                let held = error.kind() == io::ErrorKind::WouldBlock;
                let why = if held { "another process uses it".into() } else { error.to_string() };
                tracing::warn!("{}: {why}; what leaves memory is computed again", folder.display());
                None
            }
        }
    }

    /// All that the bits of pages in the file, and their places, depend on besides tokens and adapters.
    fn pages_digest(&self, chunks: u32) -> Digest {
        let info = self.backend.info();
        let geometry = &self.reserved.geometry;
        let forms = &self.cache.manager().config().forms;
        let of = format!(
            "{:?} {:?} {} {} {:?} {geometry:?} {chunks} {forms:?} {:?}",
            self.model_digest(),
            self.weights,
            info.name,
            info.tier,
            info.numerics,
            self.model.config().ropes,
        );
        Digest::from_bytes(*blake3::hash(of.as_bytes()).as_bytes())
    }

    /// Takes in what an earlier run has left of the base's chunks and of those under adapters that are registered, or of one of them.
    pub(crate) fn restore_swapped(&mut self, of: Option<Digest>) {
        let Some(swap) = &mut self.swap else { return };
        let known: Vec<(AdapterId, [u8; 32], u32)> = (self.cache.known())
            .filter(|(_, key)| of.is_none_or(|of| key.digest.0 == *of.as_bytes()))
            .map(|(id, key)| (id, key.digest.0, key.scale_bits))
            .collect();
        let manager = self.cache.manager_mut();
        if of.is_none() {
            swap.restore(manager, None);
        }
        known.into_iter().for_each(|known| swap.restore(manager, Some(known)));
    }

    /// Carries out what nobody waits for: chunks are encoded and written, and read in advance, and so are adapters' weights.
    ///
    /// # Errors
    /// If the device is suspended, or fails and may not be left.
    pub(crate) fn carry_out(&mut self, moves: Vec<Op>) -> Result<(), EngineError> {
        if moves.is_empty() {
            return Ok(());
        }
        let (loads, moves): (Vec<Op>, Vec<Op>) = moves.into_iter().partition(|op| op.kind == OpKind::Load);
        let is_read = |op: &Op| matches!(op.kind, OpKind::Read { .. } | OpKind::Recompute);
        let (reads, others): (Vec<Op>, Vec<Op>) = moves.into_iter().partition(is_read);
        if let Err(error) = self.begin_loading(&loads) {
            reads.iter().chain(&others).for_each(|op| drop(self.cache.manager_mut().cancelled(op.id)));
            return Err(error);
        }
        if !reads.is_empty() {
            let ids: Vec<Op> = reads.clone();
            let brought = self.on_device(|engine| engine.bring(None, reads));
            if let Err(error) = brought {
                // Where the device was not asked at all nothing has ended yet.
                ids.iter().chain(&others).for_each(|op| drop(self.cache.manager_mut().cancelled(op.id)));
                return self.leave(error);
            }
        }
        self.encode_pages(others)
    }

    /// What went between memory and the file so far; `None` where there is none.
    #[must_use]
    pub fn swap_stats(&self) -> Option<SwapStats> {
        self.swap.as_ref().map(|swap| swap.stats)
    }

    /// What has gone from the file is in the index no more.
    pub(crate) fn forget_swapped(&mut self) {
        if let Some(swap) = &mut self.swap {
            swap.forget(self.cache.manager_mut());
        }
    }

    /// Waits until all that is to be written is.
    ///
    /// # Errors
    /// If the device fails.
    pub fn flush_swap(&mut self) -> Result<(), EngineError> {
        while self.await_write()? {}
        Ok(())
    }
}
