//! Everything that a call of the service can be refused for or fail with.

use std::path::PathBuf;
use std::sync::Arc;

use super::ContextId;
use crate::EngineError;

/// Why the service refused or failed. What other calls do is not touched by it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The engine; where the device failed, all calls under way end with the same.
    #[error(transparent)]
    Engine(Arc<EngineError>),
    /// More calls wait than may: ask again once some have ended.
    #[error("{waiting} calls of {whose} wait, and no more than {most} may")]
    Overloaded {
        /// Of how many: all apps' calls, or the app's own.
        whose: Whose,
        /// Calls that wait.
        waiting: usize,
        /// The most that may.
        most: usize,
    },
    /// A context answers one call at a time.
    #[error("{0} is being called")]
    ContextBusy(ContextId),
    /// A context that was deleted, or another app's, or of another model.
    #[error("there is no {0}")]
    UnknownContext(ContextId),
    /// The context's tokens and the prompt are more than fit.
    #[error("the context is full: {needed} tokens are needed, {limit} fit")]
    ContextFull {
        /// Tokens that there would be.
        needed: usize,
        /// The most that there may be.
        limit: usize,
    },
    /// The app was killed; it can call again once it is in another state.
    #[error("the app {0:?} was killed: expected it to be started again")]
    AppKilled(String),
    /// An app that the engine has no place for.
    #[error("{most} apps have a place in the cache, and none of them was killed that could make way")]
    TooManyApps {
        /// The places that there are.
        most: usize,
    },
    /// An option outside its range.
    #[error("{option} must be {expected}, found {found}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        found: String,
    },
    /// The model has no chat template, which messages are written by.
    #[error("the model has no chat template: expected tokens or text")]
    NoChatTemplate,
    /// A context's file that cannot be written or read.
    #[error("{}: {error}", file.display())]
    Journal {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// The system starts no thread.
    #[error("no thread can be started: {0}")]
    NoThread(Arc<std::io::Error>),
    /// The service was stopped, or its thread has ended.
    #[error("the service has stopped")]
    Stopped,
}

/// Whose calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Everybody's.
    AllApps,
    /// The caller's.
    ThisApp,
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AllApps => "all apps",
            Self::ThisApp => "this app",
        })
    }
}

impl ServiceError {
    /// Of a context's file, or of their folder.
    pub(super) fn journal((file, error): (PathBuf, std::io::Error)) -> Self {
        Self::Journal { file, error: Arc::new(error) }
    }

    /// A thread that the system does not start.
    pub(super) fn thread(error: std::io::Error) -> Self {
        Self::NoThread(Arc::new(error))
    }
}

impl From<EngineError> for ServiceError {
    fn from(error: EngineError) -> Self {
        Self::Engine(Arc::new(error))
    }
}
