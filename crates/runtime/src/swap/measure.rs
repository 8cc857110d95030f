//! What bringing chunks back takes on this machine: measured once for a model, and kept in the store. LLMS fits both lines when it is
//! installed (arXiv 2403.11805, §3.3).

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::Instant;

use interleaf_contract::{CHUNK_TOKENS, RowKind};
use interleaf_kv::{LinearCost, SwitchCosts};
use interleaf_model::{Digest, ModelError};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::costs::LEAST_SAVED;
use super::files::READERS;
use super::pages::PageFile;
use super::{FlashProfile, costs};
use crate::store::write_whole;
use crate::{Engine, EngineError, Feed, Want};

/// Chunks of the context that some are computed of again.
const CONTEXT_CHUNKS: usize = 32;

/// How many are, at a time.
const COMPUTED: [usize; 5] = [1, 2, 4, 8, 16];

/// Bytes that one reader reads at a time: a layer of one chunk, up to one of a long context.
const READ: [usize; 5] = [8 << 10, 32 << 10, 128 << 10, 512 << 10, 2 << 20];

/// Bytes between two reads, more than a system reads at once unasked.
const APART: usize = 256 << 10;

/// How often each is done. The median counts.
const TIMES: usize = 5;

/// What bringing chunks back takes: straight lines through what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchMeasure {
    /// Seconds that computing any chunks takes, and for each more.
    pub recompute: (f64, f64),
    /// Seconds that any reads at the same time take, and for each byte of them more.
    pub read: (f64, f64),
    /// Chunks computed, and the seconds that took.
    pub computed: Vec<(f64, f64)>,
    /// Bytes read, and the seconds that took.
    pub bytes_read: Vec<(f64, f64)>,
}

impl SwitchMeasure {
    pub(super) fn costs(&self) -> SwitchCosts {
        let line = |(fixed, each)| LinearCost { fixed, each };
        SwitchCosts { recompute: line(self.recompute), read: line(self.read), least_saved: LEAST_SAVED }
    }

    /// Whether these are costs.
    fn is_sound(&self) -> bool {
        [self.recompute.0, self.recompute.1, self.read.0, self.read.1]
            .iter()
            .all(|cost| *cost >= 0.0 && cost.is_finite())
    }
}

impl Engine {
    /// Measures what it takes to compute chunks again and to read them, keeps it in the store, and goes by it once the pool is reserved
    /// again ([`Engine::reserve_kv`]). Takes some seconds; the pool must have room for 512 tokens.
    ///
    /// # Errors
    /// If the pool has no room, a file cannot be written or read, there is no store, or the device fails.
    pub fn measure_switch(&mut self) -> Result<SwitchMeasure, EngineError> {
        let Some(folder) = self.swap_folder() else {
            let (option, expected) = ("store", "a folder to measure the storage of");
            return Err(EngineError::InvalidOption { option, expected, found: "none".into() });
        };
        let computed = self.measure_recompute()?;
        let file = folder.join("probe");
        let profile = self.swap_options.and_then(|swap| swap.profile);
        let read = std::fs::create_dir_all(&folder).and_then(|()| measure_read(&file, profile));
        let removed = std::fs::remove_file(&file);
        let read = read
            .and_then(|read| removed.map(|()| read))
            .map_err(|source| ModelError::Io { file: file.display().to_string(), source })?;
        let measure =
            SwitchMeasure { recompute: line(&computed), read: line(&read), computed, bytes_read: read };
        let bytes = serde_json::to_vec_pretty(&measure)
            .map_err(|error| ModelError::Io { file: file.display().to_string(), source: error.into() })?;
        write_whole(&self.measure_file(&folder), &bytes)?;
        Ok(measure)
    }

    fn measure_recompute(&mut self) -> Result<Vec<(f64, f64)>, EngineError> {
        let vocabulary = self.config().vocab_size as u32;
        let tokens: Vec<u32> = (0..(CONTEXT_CHUNKS * CHUNK_TOKENS) as u32)
            .map(|i| i.wrapping_mul(2_654_435_761) % vocabulary)
            .collect();
        let sequence = self.open_sequence(None, &tokens)?;
        let mut measure = || {
            for piece in tokens.chunks(self.prefill_rows) {
                let feed = Feed { sequence, tokens: piece, kind: RowKind::Prompt, want: Want::Nothing };
                self.feed(&[feed])?;
            }
            let mut points = Vec::new();
            for chunks in COMPUTED {
                // Spread over the context, as what is missing is.
                let positions: Vec<usize> = (0..chunks)
                    .map(|chunk| {
                        (chunk * CONTEXT_CHUNKS / chunks + CONTEXT_CHUNKS / chunks - 1) * CHUNK_TOKENS
                    })
                    .flat_map(|first| first..first + CHUNK_TOKENS)
                    .collect();
                let mut seconds = Vec::with_capacity(TIMES);
                for _ in 0..TIMES {
                    let start = Instant::now();
                    self.recompute(sequence, &tokens, &positions)?;
                    seconds.push(start.elapsed().as_secs_f64());
                }
                points.push((chunks as f64, median(&mut seconds)));
            }
            Ok(points)
        };
        let measured = measure();
        self.close_unchanged(sequence.id)?;
        measured
    }

    /// What was measured on this machine, if anything was; else what takes no less.
    pub(super) fn switch_costs(&self, folder: &Path) -> SwitchCosts {
        let profile = self.swap_options.and_then(|swap| swap.profile);
        let kept = std::fs::read(self.measure_file(folder)).ok();
        let kept = kept.and_then(|bytes| serde_json::from_slice::<SwitchMeasure>(&bytes).ok());
        kept.filter(SwitchMeasure::is_sound)
            .map_or_else(|| costs::unmeasured(profile, &self.resident.bytes), |kept| kept.costs())
    }

    /// Where that is kept: one for each model, backend and kind of storage.
    fn measure_file(&self, folder: &Path) -> std::path::PathBuf {
        let info = self.backend.info();
        let profile = self.swap_options.and_then(|swap| swap.profile);
        let of = format!(
            "{:?} {:?} {} {} {} {} {profile:?}",
            self.model_digest(),
            self.weights,
            info.name,
            info.device,
            info.tier,
            info.threads
        );
        folder.join(format!("costs-{}.json", Digest::from_bytes(*blake3::hash(of.as_bytes()).as_bytes())))
    }
}

/// Reads from a file that was just written and is not in memory, where the system forgets what it is asked to: by as many readers as
/// there are when contexts come back, and each page looked at as it is then. Returns the bytes of all of them.
fn measure_read(path: &Path, profile: Option<FlashProfile>) -> io::Result<Vec<(f64, f64)>> {
    let all: usize = READ.iter().map(|bytes| (bytes + APART) * READERS * TIMES).sum();
    let mut file = File::create(path)?;
    let block: Vec<u8> = (0..1_u32 << 18).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for _ in 0..all.div_ceil(block.len()) {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    forget_cached(&file);
    drop(file);
    let file = PageFile::open(path, profile)?;
    let readers = (0..READERS).map(|_| file.again()).collect::<io::Result<Vec<PageFile>>>()?;
    let mut at = all;
    let mut points = Vec::new();
    for bytes in READ {
        let mut seconds = Vec::with_capacity(TIMES);
        for _ in 0..TIMES {
            // From the end to the beginning, so that nothing is read ahead.
            at -= (bytes + APART) * READERS;
            let start = Instant::now();
            read_at_once(&readers, at, bytes)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        points.push(((bytes * READERS) as f64, median(&mut seconds)));
    }
    Ok(points)
}

/// Each reader reads as many bytes, the last one first.
fn read_at_once(readers: &[PageFile], first: usize, bytes: usize) -> io::Result<()> {
    let read = |place: usize, file: &PageFile| {
        let mut page = vec![0; bytes];
        file.read((first + place * (bytes + APART)) as u64, &mut page)?;
        Ok(std::hint::black_box(xxh3_64(&page)))
    };
    thread::scope(|scope| {
        let reading: Vec<_> = readers
            .iter()
            .enumerate()
            .rev()
            .map(|(place, file)| scope.spawn(move || read(place, file)))
            .collect();
        let ended = |reading: thread::ScopedJoinHandle<'_, io::Result<u64>>| match reading.join() {
            Ok(read) => read.map(drop),
            Err(_) => Err(io::Error::other("a reader has panicked")),
        };
        reading.into_iter().try_for_each(ended)
    })
}

/// What was written to a file is read from the storage next.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn forget_cached(file: &File) {
    // Where the system does not, what is measured is its memory, which is faster.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

/// Other systems have no such call.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn forget_cached(_: &File) {}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_unstable_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(0.0)
}

/// The straight line that is nearest to some points, in parts of their seconds, neither part of it below 0.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let weighted = |of: fn(f64, f64) -> f64| -> f64 {
        points.iter().map(|&(x, y)| of(x, y) / (y * y).max(f64::MIN_POSITIVE)).sum()
    };
    let [w, wx, wy, wxx, wxy] = [
        weighted(|_, _| 1.0),
        weighted(|x, _| x),
        weighted(|_, y| y),
        weighted(|x, _| x * x),
        weighted(|x, y| x * y),
    ];
    let each = (w * wxy - wx * wy) / (w * wxx - wx * wx);
    let fixed = (wy - each * wx) / w;
    match (fixed >= 0.0, each >= 0.0) {
        (true, true) => (fixed, each),
        // Through nothing, or level: whichever of them does not fall.
        (false, _) => (0.0, wxy / wxx),
        _ => (wy / w, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_through_what_was_measured() {
        let near = |(a, b): (f64, f64), (c, d): (f64, f64)| (a - c).abs() < 1e-9 && (b - d).abs() < 1e-9;
        let on = |fixed: f64, each: f64| COMPUTED.map(|n| (n as f64, fixed + each * n as f64));
        assert!(near(line(&on(0.5, 0.25)), (0.5, 0.25)));
        let (fixed, each) = line(&on(-0.1, 0.25));
        assert!(fixed == 0.0 && each > 0.1, "{fixed} {each}");
        let (fixed, each) = line(&[(1.0, 2.0), (2.0, 1.0)]);
        assert!(each == 0.0 && (1.0..2.0).contains(&fixed), "{fixed} {each}");
        // What takes long counts no more than what does not.
        let (fixed, each) = line(&[(1.0, 1.0), (2.0, 2.0), (4.0, 4.0), (8.0, 16.0)]);
        assert!(fixed + each < 1.3, "{fixed} {each}");
    }

    #[test]
    fn slow_storage_is_measured_as_slow() {
        let folder = tempfile::tempdir().unwrap();
        let profile = FlashProfile { read: 1e9, write: 1e9, latency: std::time::Duration::from_millis(1) };
        let points = measure_read(&folder.path().join("probe"), Some(profile)).unwrap();
        assert_eq!(points.len(), READ.len());
        let slower = points.iter().all(|&(bytes, seconds)| seconds >= 1e-3 + bytes / 1e9);
        assert!(slower, "{points:?}");
    }
}
