//! What callers' threads and the service's own have in common, under one lock that nobody holds while anything is computed,
//! read or written.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use interleaf_kv::Salt;
use interleaf_kv::policy::AppState;
use interleaf_model::{ChatTemplate, Tokenizer};

use super::generation::{Answer, Channel};
use super::journal::{self, Journal};
use super::queue::{AppKey, Full, Queue};
use super::worker::Core;
use super::{CallId, ContextId, ServiceError, ServiceOptions};
use crate::sync::mpsc::{Receiver, sync_channel};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::{GpuGate, Request};

/// Something to be done between two steps.
pub type Job = Box<dyn FnOnce(&mut Core) + Send>;

/// A call that waits or is answered.
#[derive(Debug)]
pub struct Call {
    pub id: CallId,
    pub app: AppKey,
    pub context: ContextId,
    pub request: Request,
    /// From how many of the likeliest adapters the request's is to be chosen; `None` where the request says which.
    pub to_route: Option<usize>,
    pub channel: Arc<Channel>,
    pub asked: Instant,
}

#[derive(Debug)]
pub struct AppEntry {
    pub name: String,
    pub salt: Option<Salt>,
    pub state: AppState,
    /// Whether anybody has come for it, or there are only contexts of its.
    pub was_started: bool,
}

impl AppEntry {
    /// One that has not been started.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), salt: None, state: AppState::Killed, was_started: false }
    }
}

#[derive(Debug)]
pub struct ContextEntry {
    pub app: AppKey,
    pub tokens: Arc<[u32]>,
    /// The call that it is answering.
    pub busy: Option<CallId>,
}

pub struct State {
    pub queue: Queue<Call>,
    pub jobs: VecDeque<Job>,
    /// Somebody wants the service's thread to look.
    has_news: bool,
    /// By [`AppKey`].
    pub apps: Vec<AppEntry>,
    pub contexts: BTreeMap<ContextId, ContextEntry>,
    pub last_call: u64,
    pub last_context: u64,
    /// Calls that were cancelled before they had a place in the batch.
    pub left: u64,
    /// Calls that were refused because too many waited.
    pub overloaded: u64,
    pub is_stopping: bool,
    /// Nobody answers any more.
    pub is_dead: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("waiting", &self.queue.len())
            .field("apps", &self.apps)
            .finish_non_exhaustive()
    }
}

/// What of the engine never changes while it serves.
#[derive(Debug)]
pub struct Facts {
    pub tokenizer: Option<Tokenizer>,
    pub template: Option<ChatTemplate>,
    /// Why there is none.
    pub no_tokenizer: Option<ServiceError>,
    /// The model's own.
    pub end_tokens: Vec<u32>,
    /// The longest context, in tokens.
    pub context: usize,
    pub gate: Option<GpuGate>,
    pub options: ServiceOptions,
}

#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    pub facts: Facts,
    /// `None` where contexts live no longer than the service.
    journal: Option<Mutex<Option<Journal>>>,
}

impl Shared {
    pub fn new(facts: Facts, journal: Option<Journal>, restored: Vec<journal::Restored>) -> Self {
        let mut apps: Vec<AppEntry> = Vec::new();
        let mut contexts = BTreeMap::new();
        for journal::Restored { id, app, tokens, .. } in restored {
            let key = apps.iter().position(|known| known.name == app).unwrap_or_else(|| {
                apps.push(AppEntry::new(&app));
                apps.len() - 1
            });
            contexts.insert(id, ContextEntry { app: key as AppKey, tokens: tokens.into(), busy: None });
        }
        // Those of other models have numbers, too.
        let last_context = journal.as_ref().map_or(0, Journal::last);
        let ServiceOptions { most_waiting, most_waiting_of_app, .. } = facts.options;
        let state = State {
            queue: Queue::new(most_waiting, most_waiting_of_app),
            jobs: VecDeque::new(),
            has_news: false,
            apps,
            contexts,
            last_call: 0,
            last_context,
            left: 0,
            overloaded: 0,
            is_stopping: false,
            is_dead: false,
        };
        let journal = journal.map(|journal| Mutex::new(Some(journal)));
        Self { state: Mutex::new(state), changed: Condvar::new(), facts, journal }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service's thread looks at what has changed.
    pub fn tell(&self, mut state: MutexGuard<'_, State>) {
        state.has_news = true;
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until there is news, at most so long; `None` for as long as it takes, where nobody has a place in the batch and a call
    /// that waits for one is news. Returns at once if there has been some since this was last asked.
    pub fn wait(&self, most: Option<Duration>) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let end = most.map(|most| Instant::now() + most);
        while !state.has_news {
            if end.is_none() && state.queue.len() > 0 {
                break;
            }
            state = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => {
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.has_news = false;
        state
    }

    /// Has something done by the service's thread, and waits for what comes of it.
    pub fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<T, ServiceError> {
        self.ask_under(self.lock(), job)?.recv().map_err(|_| ServiceError::Stopped)
    }

    /// The same together with what has been changed under the lock; what comes of it is there later, unless the service stops.
    pub fn ask_under<T: Send + 'static>(
        &self,
        mut state: MutexGuard<'_, State>,
        job: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<Receiver<T>, ServiceError> {
        if state.is_dead || state.is_stopping {
            return Err(ServiceError::Stopped);
        }
        let (sender, receiver) = sync_channel(1);
        state.jobs.push_back(Box::new(move |core| drop(sender.send(job(core)))));
        self.tell(state);
        Ok(receiver)
    }

    /// Does something with contexts' files; `None` where there are none.
    ///
    /// # Errors
    /// As whatever is done; or if the service has stopped.
    pub fn journal<T>(
        &self,
        act: impl FnOnce(&mut Journal) -> Result<T, (PathBuf, io::Error)>,
    ) -> Result<Option<T>, ServiceError> {
        let Some(journal) = &self.journal else { return Ok(None) };
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        let journal = journal.as_mut().ok_or(ServiceError::Stopped)?;
        act(journal).map(Some).map_err(ServiceError::journal)
    }

    /// Contexts' files are no longer this service's, whoever still has handles.
    pub fn close_journal(&self) {
        let journal =
            self.journal.as_ref().map(|journal| journal.lock().unwrap_or_else(PoisonError::into_inner));
        journal.into_iter().for_each(|mut journal| *journal = None);
    }

    /// Takes a call that nobody wants any more out of the queue; if it is not there, whoever answers it looks.
    pub fn cancel(&self, call: CallId) {
        let mut state = self.lock();
        let waiting = state.take_waiting(|waiting| waiting.id == call);
        self.tell(state);
        waiting.iter().for_each(Call::end_with_nothing);
    }
}

impl Call {
    /// What events name it by.
    pub const fn index(&self) -> usize {
        self.id.0 as usize
    }

    /// It never had a place in the batch. Not under the lock: whoever is woken may ask for more at once.
    pub fn end_with_nothing(&self) {
        self.channel.end(Ok(Answer::nothing(&self.request)));
    }
}

impl Drop for Call {
    /// Nobody answers it any more.
    fn drop(&mut self) {
        self.channel.end(Err(ServiceError::Stopped));
    }
}

impl State {
    pub fn app(&self, key: AppKey) -> Option<&AppEntry> {
        self.apps.get(usize::try_from(key).ok()?)
    }

    /// The state that an app is in, as ranks go.
    pub fn rank(&self, key: AppKey) -> u8 {
        self.app(key).map_or(0, |app| app.state as u8)
    }

    /// Whether one more call of an app may wait; where it may not, that is counted.
    pub fn check_queue(&mut self, app: AppKey) -> Result<(), ServiceError> {
        let overloaded = |Full { whose, waiting, most }| ServiceError::Overloaded { whose, waiting, most };
        self.queue.check(app).inspect_err(|_| self.overloaded += 1).map_err(overloaded)
    }

    /// Takes calls that nobody wants any more out of the queue, which are then to be ended.
    pub fn take_waiting(&mut self, is_unwanted: impl Fn(&Call) -> bool) -> Vec<Call> {
        let waiting = self.queue.take_if(is_unwanted);
        waiting.iter().for_each(|call| self.release(call));
        self.left += waiting.len() as u64;
        waiting
    }

    /// A call has ended, and its context can be called again.
    pub fn release(&mut self, call: &Call) {
        if let Some(context) = self.contexts.get_mut(&call.context).filter(|at| at.busy == Some(call.id)) {
            context.busy = None;
        }
    }
}
