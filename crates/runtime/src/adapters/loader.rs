//! Opens the files of adapters on a thread of its own, so that no step waits for them. What is done with their weights is the
//! engine's.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use interleaf_kv::OpId;
use interleaf_model::{Model, PeftAdapter};

use crate::EngineError;
use crate::origin::Origin;

/// An adapter that was opened for a move, or is not to be had.
pub type Loaded = (OpId, Result<PeftAdapter, EngineError>);

#[derive(Debug)]
struct Thread {
    jobs: Option<Sender<(OpId, Origin)>>,
    loaded: Receiver<Loaded>,
    handle: Option<JoinHandle<()>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.jobs = None;
        self.handle.take().map(JoinHandle::join);
    }
}

/// The thread, once there is something to open.
#[derive(Debug, Default)]
pub struct Loader {
    thread: Option<Thread>,
    /// Opened, and to be taken another time.
    kept: Vec<Loaded>,
    /// These included.
    under_way: usize,
}

impl Loader {
    /// Has an adapter opened for a move.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn begin(&mut self, op: OpId, origin: Origin, model: &Arc<Model>) -> io::Result<()> {
        let thread = match &mut self.thread {
            Some(thread) => thread,
            none => none.insert(Thread::start(Arc::clone(model))?),
        };
        if let Some(jobs) = &thread.jobs {
            // The thread lives as long as this does.
            let _ = jobs.send((op, origin));
            self.under_way += 1;
        }
        Ok(())
    }

    /// Whether something is being opened.
    pub const fn is_busy(&self) -> bool {
        self.under_way > 0
    }

    /// What has been opened by now; with `waits`, at least one, if any is under way.
    pub fn take(&mut self, waits: bool) -> Vec<Loaded> {
        let Some(thread) = &self.thread else { return Vec::new() };
        let mut loaded = std::mem::take(&mut self.kept);
        if waits && loaded.is_empty() && self.under_way > 0 {
            loaded.extend(thread.loaded.recv());
        }
        loaded.extend(thread.loaded.try_iter());
        self.under_way -= loaded.len();
        loaded
    }

    /// What was taken and could not be used now.
    pub fn keep(&mut self, loaded: Loaded) {
        self.under_way += 1;
        self.kept.push(loaded);
    }
}

impl Thread {
    fn start(model: Arc<Model>) -> io::Result<Self> {
        let (jobs, to_open) = channel::<(OpId, Origin)>();
        let (opened, loaded) = channel();
        let open = move || {
            for (op, origin) in to_open {
                let read = tracing::debug_span!("read_adapter").in_scope(|| origin.open(&model));
                if opened.send((op, read)).is_err() {
                    return;
                }
            }
        };
        let handle = std::thread::Builder::new().name("interleaf-adapters".into()).spawn(open)?;
        Ok(Self { jobs: Some(jobs), loaded, handle: Some(handle) })
    }
}
