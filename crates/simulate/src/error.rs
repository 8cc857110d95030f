//! Everything that can be wrong with a workload or a machine that is read.

use std::io;

/// Why a workload or a machine was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A file cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not TOML.
    #[error("{file}: not TOML: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// Where and why.
        reason: String,
    },
    /// A field is missing, unknown, of another type or out of bounds.
    #[error("{file}: {field}: {reason}")]
    Field {
        /// The file, and the variant of it that was asked for.
        file: String,
        /// The field, with the tables that it is in.
        field: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// No workload, machine or variant has this name.
    #[error("no {what} is called {name:?}, expected one of {known}")]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        known: String,
    },
}
