//! Answers that ended because the device failed: shown like any others, and the failure told after them.

use interleaf_runtime::{Completion, EngineError};

/// The answers there are, and what the device failed with if it did.
///
/// # Errors
/// Where there are no answers.
pub fn kept(
    answers: Result<Vec<Completion>, EngineError>,
) -> Result<(Vec<Completion>, Option<EngineError>), EngineError> {
    match answers {
        Ok(answers) => Ok((answers, None)),
        Err(EngineError::DeviceFailed { cause, completions }) => Ok((completions, Some(cause.into()))),
        Err(error) => Err(error),
    }
}
