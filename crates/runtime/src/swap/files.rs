//! The threads that read and write the file of pages, so that nobody who computes waits for a file: one writes what was given to it
//! in its order and keeps the index, the other reads.

use std::io;
use std::sync::{Arc, PoisonError};

use interleaf_contract::{Bytes, PageAddress, PageData};
use interleaf_kv::OpId;
use xxhash_rust::xxh3::xxh3_64;

use super::arrivals::Arrivals;
use super::index::{Entry, Index, Number};
use super::pages::{Clock, PageFile, runs};
use crate::sync::mpsc::{Receiver, Sender, channel};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Something for the thread that writes.
#[derive(Debug)]
enum Write {
    /// Pages of a move, where each begins, and what the next run is told of them once they are there.
    Pages(OpId, Vec<(u64, Bytes)>, Option<(Number, Box<Entry>)>),
    Forgotten(Number),
}

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

/// Layers to be read, the first one first.
#[derive(Debug)]
struct Read {
    layers: std::vec::IntoIter<(usize, Vec<Wanted>)>,
    arrivals: Arc<Arrivals>,
}

impl Drop for Read {
    /// Of what nobody reads any more nothing comes, and nobody is to wait for it.
    fn drop(&mut self) {
        for (layer, wanted) in self.layers.by_ref() {
            self.arrivals.arrived(layer, Vec::new(), wanted.iter().map(|page| page.op));
        }
    }
}

/// How a write has ended: the checks of its pages.
pub type Written = (OpId, io::Result<Vec<u64>>);

#[derive(Debug, Default)]
struct Outcome {
    written: Vec<Written>,
    /// Moves that have been given and have not ended.
    under_way: usize,
    /// Their bytes.
    bytes: usize,
}

#[derive(Debug, Default)]
struct Progress {
    outcome: Mutex<Outcome>,
    changed: Condvar,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files of a store, and their threads.
#[derive(Debug)]
pub struct Files {
    writes: Option<Sender<Write>>,
    reads: Option<Sender<Read>>,
    progress: Arc<Progress>,
    threads: Vec<JoinHandle<()>>,
}

impl Files {
    /// # Errors
    /// If there are no threads to be had.
    pub fn start(pages: PageFile, index: Index) -> io::Result<Self> {
        let progress = Arc::new(Progress::default());
        let (writes, to_write) = channel();
        let (reads, to_read) = channel();
        let reader = pages.again()?;
        let told = Arc::clone(&progress);
        let named = |name: &str| thread::Builder::new().name(name.into());
        let threads = vec![
            named("interleaf-swap-out").spawn(move || write_all(&to_write, &pages, index, &told))?,
            named("interleaf-swap-in").spawn(move || read_all(&to_read, &reader))?,
        ];
        Ok(Self { writes: Some(writes), reads: Some(reads), progress, threads })
    }

    /// Gives pages of a move to be written, and what is to be in the index then; their checks are put in.
    pub fn write(&self, op: OpId, pages: Vec<(u64, Bytes)>, entry: Option<(Number, Entry)>) {
        let mut outcome = self.progress.lock();
        outcome.under_way += 1;
        outcome.bytes += pages.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        drop(outcome);
        self.send(Write::Pages(op, pages, entry.map(|(number, entry)| (number, Box::new(entry)))));
    }

    pub fn forgotten(&self, number: Number) {
        self.send(Write::Forgotten(number));
    }

    fn send(&self, write: Write) {
        if let Some(writes) = &self.writes {
            // The thread lives as long as this does.
            let _ = writes.send(write);
        }
    }

    /// Has layers read, in the order in which they are given.
    pub fn read(&self, layers: Vec<(usize, Vec<Wanted>)>, arrivals: &Arc<Arrivals>) {
        let read = Read { layers: layers.into_iter(), arrivals: Arc::clone(arrivals) };
        if let Some(reads) = &self.reads {
            // What is not taken is dropped, and has arrived thereby.
            let _ = reads.send(read);
        }
    }

    /// Bytes that are held until they are written.
    pub fn bytes_under_way(&self) -> usize {
        self.progress.lock().bytes
    }

    /// Writes that have ended since this was last asked.
    pub fn take_written(&self) -> Vec<Written> {
        std::mem::take(&mut self.progress.lock().written)
    }

    /// Waits until a write has ended, unless none is under way.
    pub fn wait(&self) {
        let mut outcome = self.progress.lock();
        while outcome.written.is_empty() && outcome.under_way > 0 {
            outcome = self.progress.changed.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Files {
    /// What was given to be written is.
    fn drop(&mut self) {
        (self.writes, self.reads) = (None, None);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn write_all(writes: &Receiver<Write>, pages: &PageFile, mut index: Index, progress: &Progress) {
    let mut clock = Clock::new();
    for write in writes {
        let noted = match write {
            Write::Pages(op, parts, entry) => {
                clock.begin();
                let written = write_pages(pages, &parts, &mut clock);
                let noted = match (&written, entry) {
                    (Ok(checks), Some((number, entry))) => {
                        index.stored(number, Entry { checks: checks.clone(), ..*entry })
                    }
                    _ => Ok(()),
                };
                let mut outcome = progress.lock();
                outcome.under_way -= 1;
                outcome.bytes -= parts.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
                outcome.written.push((op, written));
                drop(outcome);
                progress.changed.notify_all();
                noted
            }
            Write::Forgotten(number) => index.forgotten(number),
        };
        if let Err(error) = noted {
            // The next run does without.
            tracing::debug!(%error, "the index of swapped pages was not written");
        }
    }
}

fn write_pages(file: &PageFile, parts: &[(u64, Bytes)], clock: &mut Clock) -> io::Result<Vec<u64>> {
    parts
        .iter()
        .map(|(at, bytes)| {
            file.write(*at, bytes, clock)?;
            Ok(xxh3_64(bytes))
        })
        .collect()
}

fn read_all(reads: &Receiver<Read>, pages: &PageFile) {
    for mut read in reads {
        let mut clock = Clock::new();
        let arrivals = Arc::clone(&read.arrivals);
        for (layer, wanted) in read.layers.by_ref() {
            let (pages, failed) = read_layer(pages, &wanted, &mut clock);
            arrivals.arrived(layer, pages, failed);
        }
    }
}

/// Pages of one layer that are what was written, and the moves of the others.
fn read_layer(file: &PageFile, wanted: &[Wanted], clock: &mut Clock) -> (Vec<PageData>, Vec<OpId>) {
    let places: Vec<(u64, u64)> = wanted.iter().map(|page| (page.at, page.to.bytes().len() as u64)).collect();
    let (mut pages, mut failed) = (Vec::with_capacity(wanted.len()), Vec::new());
    let mut read = |at: u64, bytes: u64| {
        let mut read = vec![0; bytes as usize];
        file.read(at, &mut read, clock).map(|()| Bytes::from(read)).ok()
    };
    for run in runs(&places) {
        let all = read(run.at, run.bytes);
        for page in run.parts.iter().map(|&part| &wanted[part]) {
            let (start, length) = ((page.at - run.at) as usize, page.to.bytes().len());
            // What cannot be read together may be there in part.
            let own = match &all {
                Some(all) => Some(all.slice(start..start + length)),
                None => read(page.at, length as u64),
            };
            match own.filter(|own| xxh3_64(own) == page.check) {
                Some(bytes) => pages.push(PageData { address: page.to, bytes }),
                None => failed.push(page.op),
            }
        }
    }
    (pages, failed)
}
