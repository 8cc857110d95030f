//! The few shapes of error that this crate returns. Not a type of its own: callers see `BackendError`.

use std::fmt::Display;

use interleaf_contract::BackendError;

/// What this backend calls itself.
pub(crate) const BACKEND: &str = "gpu";

pub(crate) fn unsupported(what: impl Into<String>) -> BackendError {
    BackendError::Unsupported { backend: BACKEND, what: what.into() }
}

pub(crate) fn device(reason: impl Display) -> BackendError {
    BackendError::Device { backend: BACKEND, reason: reason.to_string() }
}

pub(crate) fn lost(reason: impl Display) -> BackendError {
    BackendError::DeviceLost { backend: BACKEND, reason: reason.to_string() }
}

pub(crate) fn no_room(what: impl Into<String>, bytes: u64, reason: impl Display) -> BackendError {
    BackendError::OutOfMemory { backend: BACKEND, what: what.into(), bytes, reason: reason.to_string() }
}

pub(crate) fn unknown(kind: &'static str, handle: u64) -> BackendError {
    BackendError::UnknownHandle { backend: BACKEND, kind, handle }
}

/// The same, of something more particular.
pub(crate) fn of(name: &str, e: BackendError) -> BackendError {
    match e {
        BackendError::OutOfMemory { backend, what, bytes, reason } => {
            BackendError::OutOfMemory { backend, what: format!("{name} ({what})"), bytes, reason }
        }
        other => other,
    }
}
