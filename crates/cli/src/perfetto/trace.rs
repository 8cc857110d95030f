//! The file: events one after the other, each with a track and the time since the file was begun. It knows nothing of spans.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::CliError;

/// The track of kernels; threads are counted from the next one.
const KERNELS: u64 = 1;

/// All of them are of one process.
const PROCESS: u64 = 1;

type Arguments = Map<String, Value>;

/// A file that any thread writes to.
#[derive(Debug)]
pub struct Trace {
    path: PathBuf,
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: BufWriter<File>,
    threads: HashMap<ThreadId, u64>,
    /// When the last kernel ended, in microseconds: they follow each other.
    kernels_end: f64,
    is_empty: bool,
    /// It has its end, and nothing is written behind that.
    is_over: bool,
    failed: Option<io::Error>,
}

impl Trace {
    /// Begins a file.
    ///
    /// # Errors
    /// If it cannot be written, by its name.
    pub fn create(path: &Path) -> Result<Self, CliError> {
        let refused = |error: io::Error| CliError::File { path: path.into(), reason: error.to_string() };
        let mut inner = Inner {
            file: BufWriter::new(File::create(path).map_err(refused)?),
            threads: HashMap::new(),
            kernels_end: 0.0,
            is_empty: true,
            is_over: false,
            failed: None,
        };
        inner.name("process_name", 0, "interleaf");
        inner.name("thread_name", KERNELS, "kernels");
        Ok(Self { path: path.into(), began: Instant::now(), inner: Mutex::new(inner) })
    }

    /// Something begins on this thread.
    pub fn begin(&self, name: &str) {
        self.on_thread(|ts, tid| json!({"ph": "B", "name": name, "ts": ts, "pid": PROCESS, "tid": tid}));
    }

    /// What began last on this thread ends.
    pub fn end(&self, name: &str, arguments: Arguments) {
        self.on_thread(|ts, tid| {
            json!({"ph": "E", "name": name, "ts": ts, "pid": PROCESS, "tid": tid, "args": arguments})
        });
    }

    /// Something happens on this thread.
    pub fn instant(&self, name: &str, arguments: Arguments) {
        self.on_thread(|ts, tid| {
            json!({"ph": "i", "s": "t", "name": name, "ts": ts, "pid": PROCESS, "tid": tid, "args": arguments})
        });
    }

    /// A kernel began so many microseconds ago and took so many, none before the last one ended.
    pub fn kernel(&self, name: &str, ago: f64, took: f64, arguments: Arguments) {
        let mut inner = self.lock();
        let ts = (self.now() - ago).max(inner.kernels_end);
        inner.kernels_end = ts + took;
        inner.write(&json!({
            "ph": "X", "name": name, "ts": ts, "dur": took, "pid": PROCESS, "tid": KERNELS, "args": arguments
        }));
    }

    /// Ends the file.
    ///
    /// # Errors
    /// If some of it could not be written.
    pub fn finish(&self) -> Result<(), CliError> {
        let mut inner = self.lock();
        inner.is_over = true;
        let ended = inner.file.write_all(b"\n]\n").and_then(|()| inner.file.flush());
        let failed = inner.failed.take().or(ended.err());
        failed.map_or(Ok(()), |error| {
            Err(CliError::File { path: self.path.clone(), reason: error.to_string() })
        })
    }

    /// Writes an event of this thread's. The time is taken under the lock, so that times ascend in the file.
    fn on_thread(&self, event: impl FnOnce(f64, u64) -> Value) {
        let mut inner = self.lock();
        let tid = inner.thread();
        inner.write(&event(self.now(), tid));
    }

    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64() * 1e6
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// This thread's track, with its name when it first comes.
    fn thread(&mut self) -> u64 {
        let thread = std::thread::current();
        if let Some(tid) = self.threads.get(&thread.id()) {
            return *tid;
        }
        let tid = KERNELS + 1 + self.threads.len() as u64;
        self.threads.insert(thread.id(), tid);
        self.name("thread_name", tid, thread.name().unwrap_or("thread"));
        tid
    }

    fn name(&mut self, what: &str, tid: u64, name: &str) {
        self.write(&json!({"ph": "M", "name": what, "pid": PROCESS, "tid": tid, "args": {"name": name}}));
    }

    fn write(&mut self, event: &Value) {
        if self.is_over || self.failed.is_some() {
            return;
        }
        let before = if std::mem::take(&mut self.is_empty) { "[\n" } else { ",\n" };
        self.failed = write!(self.file, "{before}{event}").err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_an_array_whose_times_ascend_and_whose_kernels_follow_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        let trace = Trace::create(&path).unwrap();
        trace.begin("outer");
        trace.kernel("embed", 1e9, 5.0, Arguments::new());
        trace.kernel("rope", 1e9, 7.0, Arguments::new());
        std::thread::scope(|scope| {
            scope.spawn(|| trace.instant("\"quoted\"", Arguments::new()));
        });
        trace.end("outer", Arguments::new());
        trace.finish().unwrap();
        trace.begin("too late");
        let events: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let kinds: Vec<&str> = events.iter().filter_map(|event| event["ph"].as_str()).collect();
        assert_eq!(kinds, ["M", "M", "M", "B", "X", "X", "M", "i", "E"]);
        assert_eq!((events[4]["ts"].as_f64(), events[5]["ts"].as_f64()), (Some(0.0), Some(5.0)));
        assert_ne!(events[3]["tid"], events[7]["tid"]);
        assert!(events[3]["ts"].as_f64() <= events[8]["ts"].as_f64());
    }

    #[test]
    fn a_file_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        // A folder is no file, whoever asks.
        let refused = Trace::create(folder.path()).unwrap_err();
        assert!(matches!(&refused, CliError::File { path, .. } if path == folder.path()), "{refused}");
    }
}
