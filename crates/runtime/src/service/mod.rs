//! The engine as a service of the system: many apps, many contexts, many adapters, one model.
//!
//! An [`App`] has [`Context`]s, which go on from call to call and, with a store, from one run to the next. A call is answered as a
//! [`Generation`], a stream that a thread waits for or an executor polls. All that is under way is one batch on the service's own
//! thread: prompts in pieces beside answers token by token, each under its own adapter, apps in the foreground first. Handles may
//! be used from any thread.
//!
//! ```no_run
//! use interleaf_runtime::{CallOptions, Engine, EngineOptions, Progress, Prompt, Service, ServiceOptions, Source};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut engine = Engine::open(Source::Dir("model".into()), &EngineOptions::default(), &mut |_| ())?;
//! engine.reserve_kv(4, 2048)?;
//! engine.register_adapter("polite", &Source::Dir("adapters/polite".into()))?;
//! let service = Service::start(engine, ServiceOptions::default())?;
//!
//! let mail = service.app("org.example.mail", None)?;
//! let context = mail.new_context()?;
//! let options = CallOptions { adapter: "polite".into(), ..CallOptions::default() };
//! let answer = context.call(&Prompt::Text("Dear Ada,".into()), &options)?;
//! while let Some(progress) = answer.next() {
//!     if let Progress::Text { text, .. } = progress {
//!         print!("{text}");
//!     }
//! }
//! let answer = answer.wait()?;
//! println!(" ({} tokens of the prompt were in the cache)", answer.completion.reused_tokens);
//! # Ok(())
//! # }
//! ```

mod app;
mod error;
mod fit;
mod generation;
mod journal;
mod queue;
mod scribe;
mod shared;
#[cfg(test)]
#[cfg(feature = "shuttle")]
mod shuttled;
mod stats;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use interleaf_kv::policy::AppState;
use interleaf_kv::{Salt, TrimLevel};
use interleaf_model::{ChatMessage, Source};

use self::journal::Journal;
use self::shared::{AppEntry, Facts, Shared};
use self::worker::Core;
use crate::{AdapterChoice, AdapterSummary, Engine, MemoryUse, SamplingOptions};

pub use self::app::{App, Context};
pub use self::error::{ServiceError, Whose};
pub use self::generation::{Answer, Generation, Progress};
pub use self::stats::ServiceStats;

/// The folder in the store that has the contexts.
const CONTEXTS: &str = "contexts";

/// Names a context. No two of a store have had the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId(pub u64);

impl std::fmt::Display for ContextId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "context {}", self.0)
    }
}

/// Names a call of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u64);

/// How a service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceOptions {
    /// The most calls that are in the batch at one time.
    pub most_under_way: usize,
    /// The most that may wait for a place in it; one more is refused ([`ServiceError::Overloaded`]).
    pub most_waiting: usize,
    /// The same of one app's, so that none leaves no room for others.
    pub most_waiting_of_app: usize,
    /// While nobody calls, idle work is done about so many tokens at a time ([`Engine::tend`]), which is how long a call may then
    /// have to wait; 0 for none.
    pub tend: usize,
    /// Whether contexts outlive the service, in the engine's store if it has one: of services that do, one at a time has a store, and
    /// another is not started.
    pub keeps_contexts: bool,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            most_under_way: 16,
            most_waiting: 64,
            most_waiting_of_app: 16,
            tend: 128,
            keeps_contexts: true,
        }
    }
}

/// What a call goes on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Tokens behind the context's.
    Tokens(Vec<u32>),
    /// Text behind the context's. The first of a context begins as the tokenizer begins a text.
    Text(String),
    /// A whole conversation, through the model's chat template. What of it the context has already stays, and the rest of the
    /// context is given up.
    Chat(Vec<ChatMessage>),
}

/// What becomes of a context that has no room for a prompt and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The call is refused ([`ServiceError::ContextFull`]); an answer that does not fit ends early.
    #[default]
    Refuse,
    /// The first tokens stay, rounded up to whole chunks of 16, and the most recent; what is between goes, and what stays behind it
    /// is computed again.
    KeepFirstAndRecent {
        /// The first tokens, such as those of a system prompt.
        first: usize,
    },
}

/// How a call is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct CallOptions {
    /// Who answers.
    pub adapter: AdapterChoice,
    /// The longest answer, in tokens.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
    /// The answer ends at any of these; `None` for those of the model.
    pub end_tokens: Option<Vec<u32>>,
    /// The drift budget, in nats ([`Request::drift`](crate::Request::drift)); 0 for exact.
    pub drift: f32,
    /// What becomes of the context if it is full.
    pub when_full: WhenFull,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            adapter: AdapterChoice::Base,
            max_tokens: 256,
            sampling: SamplingOptions::default(),
            stop: Vec::new(),
            end_tokens: None,
            drift: 0.0,
            when_full: WhenFull::Refuse,
        }
    }
}

/// What was found on disk when a service was started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// Contexts that are there again.
    pub contexts: usize,
    /// Those of them whose file ended with what is no whole record, and how many bytes that was: of a write that a crash broke off,
    /// whose call had not ended, or of damage, for which the bytes are kept beside the file.
    pub cut: Vec<(ContextId, u64)>,
    /// Files that are no contexts, damaged where they begin, or not to be read. They stay as they are.
    pub unreadable: Vec<PathBuf>,
    /// Contexts of other models, which stay as they are.
    pub of_other_models: usize,
}

/// A model that answers many apps at once, on a thread of its own. When it is dropped, calls under way are cancelled and what they
/// have is kept.
#[derive(Debug)]
pub struct Service {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Engine>>,
    restored: Restored,
}

impl Service {
    /// Starts to serve with an engine whose pool is reserved. Contexts that its store has are there again.
    ///
    /// # Errors
    /// If an option is 0 that may not be, contexts cannot be read or are another service's, or there is no thread to be had.
    pub fn start(engine: Engine, options: ServiceOptions) -> Result<Self, ServiceError> {
        let at_least_one = [
            ("most_under_way", options.most_under_way),
            ("most_waiting", options.most_waiting),
            ("most_waiting_of_app", options.most_waiting_of_app),
        ];
        if let Some((option, found)) = at_least_one.into_iter().find(|(_, found)| *found == 0) {
            let found = found.to_string();
            return Err(ServiceError::InvalidOption { option, expected: "at least 1", found });
        }
        let folder = engine.store.folder().filter(|_| options.keeps_contexts);
        let folder = folder.map(|folder| folder.join(CONTEXTS));
        let opened = folder.map(|folder| Journal::open(folder, engine.model_digest())).transpose();
        let (journal, found) = opened.map_err(ServiceError::journal)?.unzip();
        let found = found.unwrap_or_default();
        let restored = Restored {
            contexts: found.contexts.len(),
            cut: found.contexts.iter().filter(|at| at.damaged > 0).map(|at| (at.id, at.damaged)).collect(),
            unreadable: found.unreadable,
            of_other_models: found.of_others,
        };
        for file in &restored.unreadable {
            tracing::warn!("{}: no context, or damaged where it begins; it stays as it is", file.display());
        }
        for (id, bytes) in &restored.cut {
            tracing::warn!(
                "{id}: the last {bytes} bytes of its file are no whole record, and were put aside"
            );
        }
        let facts = Facts {
            tokenizer: engine.tokenizer("text").ok().cloned(),
            no_tokenizer: engine.tokenizer("a prompt in text").err().map(Into::into),
            template: engine.chat_template().cloned(),
            end_tokens: engine.model().generation_defaults().eos.clone(),
            context: engine.context(),
            gate: engine.gpu_gate(),
            options,
        };
        let shared = Arc::new(Shared::new(facts, journal, found.contexts));
        let core = Core::new(engine, Arc::clone(&shared))?;
        let thread = std::thread::Builder::new().name("interleaf".into()).spawn(move || core.run());
        let thread = thread.map_err(ServiceError::thread)?;
        Ok(Self { shared, thread: Some(thread), restored })
    }

    /// What was found on disk.
    #[must_use]
    pub const fn restored(&self) -> &Restored {
        &self.restored
    }

    /// An app, by its name, which says whose the contexts on disk are. It comes to the foreground. Apps share what is in the cache of
    /// tokens that each of them comes with itself; under a salt, a secret of the app's own, it shares nothing with others.
    ///
    /// # Errors
    /// If the service has stopped, the name is longer than 4096 bytes, or the app is there under another salt.
    pub fn app(&self, name: &str, salt: Option<[u8; 16]>) -> Result<App, ServiceError> {
        if name.len() > journal::MOST_NAME {
            let found = format!("{} bytes", name.len());
            return Err(ServiceError::InvalidOption {
                option: "name",
                expected: "at most 4096 bytes",
                found,
            });
        }
        let salt = salt.map(Salt);
        let mut state = self.shared.lock();
        let known = state.apps.iter().position(|app| app.name == name);
        let key = match known {
            Some(key) if state.apps[key].salt != salt => {
                let is_fresh = !state.apps[key].was_started;
                if !is_fresh {
                    let (expected, found) = ("the one that the app was started with", "another".into());
                    return Err(ServiceError::InvalidOption { option: "salt", expected, found });
                }
                key
            }
            Some(key) => key,
            None => {
                state.apps.push(AppEntry::new(name));
                state.apps.len() - 1
            }
        };
        state.apps[key].salt = salt;
        state.apps[key].was_started = true;
        drop(state);
        let app = App { key: key as u64, name: name.into(), shared: Arc::clone(&self.shared) };
        app.set_state(AppState::Foreground)?;
        Ok(app)
    }

    /// Registers an adapter between two steps ([`Engine::register_adapter`]).
    ///
    /// # Errors
    /// As there; or if the service has stopped.
    pub fn register_adapter(&self, name: &str, source: Source) -> Result<AdapterSummary, ServiceError> {
        let name = name.to_owned();
        Ok(self.shared.ask(move |core| core.engine().register_adapter(&name, &source))??)
    }

    /// Registers another adapter under the name of one that is there ([`Engine::replace_adapter`]): calls that were taken before keep
    /// the one they had.
    ///
    /// # Errors
    /// As there; or if the service has stopped.
    pub fn replace_adapter(&self, name: &str, source: Source) -> Result<AdapterSummary, ServiceError> {
        let name = name.to_owned();
        Ok(self.shared.ask(move |core| core.engine().replace_adapter(&name, &source))??)
    }

    /// Opens the router by which calls' adapters are chosen from now on, between two steps ([`Engine::open_router`]).
    ///
    /// # Errors
    /// As there; or if the service has stopped.
    pub fn open_router(&self, file: Option<PathBuf>) -> Result<(), ServiceError> {
        Ok(self.shared.ask(move |core| core.engine().open_router(file.as_deref()).map(drop))??)
    }

    /// The registered adapters, by name.
    ///
    /// # Errors
    /// If the service has stopped.
    pub fn adapters(&self) -> Result<Vec<AdapterSummary>, ServiceError> {
        self.shared.ask(|core| core.engine().adapters().cloned().collect())
    }

    /// Gives memory of the cache back, as far as nobody uses it.
    ///
    /// # Errors
    /// If the service has stopped.
    pub fn trim_memory(&self, level: TrimLevel) -> Result<(), ServiceError> {
        Ok(self.shared.ask(move |core| core.engine().trim_memory(level))??)
    }

    /// What the cache may take of its pool from now on, in bytes, whole blocks: when this returns no more is held. Calls under way that
    /// have no room any more make way, those who came last first, and go on where they were once there is; one that has no room alone
    /// ends with [`FinishReason::ContextFull`](crate::FinishReason::ContextFull).
    ///
    /// # Errors
    /// If the service has stopped.
    pub fn set_budget(&self, bytes: u64) -> Result<(), ServiceError> {
        Ok(self.shared.ask(move |core| core.set_budget(bytes))??)
    }

    /// Returns once nothing runs on the GPU; answers wait until [`Service::resume_gpu`]. Nothing happens where the model runs on the
    /// host.
    pub fn suspend_gpu(&self) {
        if let Some(gate) = &self.shared.facts.gate {
            gate.suspend();
        }
    }

    /// Lets the GPU go on.
    pub fn resume_gpu(&self) {
        if let Some(gate) = &self.shared.facts.gate {
            gate.resume();
            self.shared.tell(self.shared.lock());
        }
    }

    /// Bytes held now.
    ///
    /// # Errors
    /// If the service has stopped.
    pub fn memory(&self) -> Result<MemoryUse, ServiceError> {
        self.shared.ask(|core| core.engine().memory())
    }

    /// Whether all that the engine knows of pages fits together, between two steps: for tests, and for whoever doubts.
    ///
    /// # Errors
    /// If the service has stopped.
    #[doc(hidden)]
    pub fn check_pages(&self) -> Result<Result<(), String>, ServiceError> {
        self.shared.ask(|core| core.engine().check_pages())
    }

    /// What it has done so far.
    ///
    /// # Errors
    /// If it has stopped.
    pub fn stats(&self) -> Result<ServiceStats, ServiceError> {
        self.shared.ask(|core| core.stats())
    }

    /// Stops, and gives the engine back: calls under way are cancelled, those that wait end with [`ServiceError::Stopped`], and what
    /// was to be made durable is.
    ///
    /// # Errors
    /// If the service's thread has panicked.
    pub fn stop(mut self) -> Result<Engine, ServiceError> {
        self.end().ok_or(ServiceError::Stopped)
    }

    fn end(&mut self) -> Option<Engine> {
        let mut state = self.shared.lock();
        state.is_stopping = true;
        self.shared.tell(state);
        let ended = self.thread.take()?.join();
        self.shared.close_journal();
        ended.ok()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}
