//! Why nothing was calibrated or measured.

use interleaf_model::ModelError;
use interleaf_runtime::EngineError;

/// A calibration or a measurement that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Windows that are not as they must be.
    #[error("{text}: {field} must be {expected}, found {found}")]
    Windows {
        /// Where they are from.
        text: String,
        /// What of them.
        field: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A file of prompts that is not as it must be.
    #[error("{data}, line {line}: {field} must be {expected}, found {found}")]
    Prompts {
        /// The file.
        data: String,
        /// The line, from 1 on.
        line: usize,
        /// The field.
        field: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Prompts that nothing can be measured on.
    #[error("{data}: {reason}")]
    Untestable {
        /// Where they are from.
        data: String,
        /// Why not.
        reason: String,
    },
    /// A codec that there is not.
    #[error("no codec {name:?}; there are: {known}")]
    UnknownCodec {
        /// What was asked for.
        name: String,
        /// Every name.
        known: String,
    },
    /// A codec that needs what the calibration does not have.
    #[error("{codec} needs {needed}, which the calibration of {adapter} does not have")]
    NotCalibrated {
        /// The codec.
        codec: String,
        /// What it needs.
        needed: &'static str,
        /// The adapter.
        adapter: String,
    },
    /// A codec of the adapter's own products, of which there are none.
    #[error("no products of {adapter}'s own: {reason}")]
    NoProducts {
        /// The adapter.
        adapter: String,
        /// Why not.
        reason: String,
    },
    /// Numbers that nothing can be fitted to.
    #[error("{what} cannot be fitted: {reason}")]
    Fit {
        /// What was to be fitted.
        what: String,
        /// Why not.
        reason: String,
    },
}

impl From<ModelError> for CalibrateError {
    fn from(error: ModelError) -> Self {
        Self::Engine(error.into())
    }
}
