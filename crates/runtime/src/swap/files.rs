//! The threads that read and write the file of pages, so that nobody who computes waits for a file: one writes what was given to it
//! in its order and keeps the index, others read, a layer each.

use std::io;
use std::sync::{Arc, PoisonError};

use interleaf_contract::Bytes;
use interleaf_kv::OpId;
use xxhash_rust::xxh3::xxh3_64;

use super::MOST_UNDER_WAY;
use super::arrivals::{Arrivals, Wanted};
use super::index::{Entry, Index, Number};
use super::pages::{PageFile, runs};
use crate::sync::mpsc::{Receiver, Sender, channel};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Reads that the storage is given at a time: flash answers several as soon as one.
pub const READERS: usize = 4;

/// Something for the thread that writes.
#[derive(Debug)]
enum Write {
    /// Pages of a move, where each begins, and what the next run is told of them once they are there.
    Pages(OpId, Vec<(u64, Bytes)>, Option<(Number, Box<Entry>)>),
    Forgotten(Number),
}

/// A layer to be read.
#[derive(Debug)]
struct Read {
    layer: usize,
    is_read: bool,
    arrivals: Arc<Arrivals>,
}

impl Drop for Read {
    /// Of what nobody reads any more nothing comes, and nobody is to wait for it.
    fn drop(&mut self) {
        if !self.is_read {
            self.arrivals.arrived(self.layer, Vec::new());
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
        let to_read = Arc::new(Mutex::new(to_read));
        let readers = (0..READERS).map(|_| pages.again()).collect::<io::Result<Vec<PageFile>>>()?;
        let told = Arc::clone(&progress);
        let named = |name: &str| thread::Builder::new().name(name.into());
        let write = move || write_all(&to_write, &pages, index, &told);
        let mut threads = vec![named("interleaf-swap-out").spawn(write)?];
        for pages in readers {
            let to_read = Arc::clone(&to_read);
            threads.push(named("interleaf-swap-in").spawn(move || read_all(&to_read, &pages))?);
        }
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

    /// Has pages read, the first layer first.
    pub fn read(&self, arrivals: &Arc<Arrivals>) {
        for layer in 0..arrivals.layers() {
            let read = Read { layer, is_read: false, arrivals: Arc::clone(arrivals) };
            if let Some(reads) = &self.reads {
                // What is not taken is dropped, and has arrived thereby.
                let _ = reads.send(read);
            }
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
    for write in writes {
        let noted = match write {
            Write::Pages(op, parts, entry) => {
                let written = write_pages(pages, &parts);
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

fn write_pages(file: &PageFile, parts: &[(u64, Bytes)]) -> io::Result<Vec<u64>> {
    parts
        .iter()
        .map(|(at, bytes)| {
            file.write(*at, bytes)?;
            Ok(xxh3_64(bytes))
        })
        .collect()
}

fn read_all(reads: &Mutex<Receiver<Read>>, pages: &PageFile) {
    let next = || reads.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok(mut read) = next() {
        if !read.arrivals.make_room(read.layer, MOST_UNDER_WAY) {
            continue;
        }
        let layer = read_layer(pages, read.arrivals.wanted(read.layer));
        read.arrivals.arrived(read.layer, layer);
        read.is_read = true;
    }
}

/// Pages of one layer, without those that are not what was written.
fn read_layer(file: &PageFile, wanted: &[Wanted]) -> Vec<Option<Bytes>> {
    let places: Vec<(u64, u64)> = wanted.iter().map(|page| (page.at, page.to.bytes().len() as u64)).collect();
    let mut pages = vec![None; wanted.len()];
    let read = |at: u64, bytes: u64| {
        let mut read = vec![0; bytes as usize];
        file.read(at, &mut read).map(|()| Bytes::from(read)).ok()
    };
    for run in runs(&places) {
        let all = read(run.at, run.bytes);
        let of_parts: u64 = run.parts.iter().map(|part| places[*part].1).sum();
        // A part keeps all of its run; where that is mostly what is between, a copy is less.
        let is_sparse = run.bytes > 2 * of_parts;
        for &part in &run.parts {
            let (at, length) = places[part];
            let start = (at - run.at) as usize;
            // What cannot be read together may be there in part.
            let own = match &all {
                Some(all) if is_sparse => Some(Bytes::copy_from_slice(&all[start..start + length as usize])),
                Some(all) => Some(all.slice(start..start + length as usize)),
                None => read(at, length),
            };
            pages[part] = own.filter(|own| xxh3_64(own) == wanted[part].check);
        }
    }
    pages
}
