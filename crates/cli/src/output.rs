//! Lines and JSON on standard output, where a reader that went away is no failure.

use std::fmt::Display;
use std::io::Write;

use serde::Serialize;

use crate::CliError;

/// Writes a line.
pub fn line(text: impl Display) -> Result<(), CliError> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

/// Writes one JSON object.
pub fn json(value: &impl Serialize) -> Result<(), CliError> {
    line(serde_json::to_string_pretty(value).map_err(std::io::Error::from)?)
}

/// Tells the user on standard error. If that is gone too there is nobody to tell.
pub fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Whether a command ended because nobody reads its output any more, as `head` does.
pub fn reader_went_away(error: &CliError) -> bool {
    matches!(error, CliError::Output(e) if e.kind() == std::io::ErrorKind::BrokenPipe)
}
