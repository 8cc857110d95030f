//! Why a command could not be carried out.

use std::path::PathBuf;

use interleaf_calibrate::CalibrateError;
use interleaf_runtime::{EngineError, ServiceError};

/// A command that was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The service.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A line of a script that could not be carried out.
    #[error("{script}:{line}: {command}: {reason}")]
    Script {
        /// The script.
        script: String,
        /// The line's number, from 1 on.
        line: usize,
        /// What it says.
        command: String,
        /// What was expected, or why not.
        reason: String,
    },
    /// A calibration, or what it is measured by.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// A file that could not be read.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A golden set that is not as described.
    #[error("{}: {field}: {reason}", path.display())]
    Golden {
        /// The file.
        path: PathBuf,
        /// The tensor or field.
        field: String,
        /// What was expected and found.
        reason: String,
    },
    /// An adapter that there is nothing to measure on.
    #[error("{adapter}: {reason}; say what is read with --text")]
    NoWindows {
        /// The adapter.
        adapter: String,
        /// Why not.
        reason: &'static str,
    },
    /// A calibration that does not do, and that nobody has asked to be replaced.
    #[error(
        "{adapter}: its calibration in the store is not replaced unasked: {reason}; `interleaf calibrate` makes it anew"
    )]
    Kept {
        /// The adapter.
        adapter: String,
        /// Why it does not do, or is no other's place.
        reason: String,
    },
    /// A measurement that began on one device and ended on another.
    #[error("the {from} failed on the way and the {to} went on: what was measured is of neither")]
    Moved {
        /// The backend that failed.
        from: &'static str,
        /// The one that took over.
        to: &'static str,
    },
    /// Options that do not go together.
    #[error("{0}")]
    Usage(String),
    /// A workload, a policy or a machine that there is not, or that is not as described.
    #[error(transparent)]
    Settings(#[from] interleaf_simulate::SettingsError),
    /// A simulated run that could not be made.
    #[error(transparent)]
    Simulation(#[from] interleaf_simulate::SimulationError),
    /// Lines that are typed or piped in.
    #[error("standard input: {0}")]
    Input(String),
    /// Standard output is gone.
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    /// Whether there was no room for what was asked.
    #[must_use]
    pub fn is_context_full(&self) -> bool {
        matches!(self, Self::Engine(EngineError::ContextFull { .. }))
    }
}

impl From<interleaf_runtime::ModelError> for CliError {
    fn from(error: interleaf_runtime::ModelError) -> Self {
        Self::Engine(error.into())
    }
}
