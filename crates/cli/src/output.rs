//! Lines and JSON on standard output, where a reader that went away is no failure.

use std::fmt::Display;
use std::io::Write;

use serde::Serialize;

use crate::CliError;
use crate::perfetto::Recording;

/// Shows what the library warns of on standard error; `RUST_LOG` asks for more or less. Writes what it tells of to a recording, if there
/// is one.
pub fn listen(recording: Option<&Recording>) {
    use tracing_subscriber::filter::{EnvFilter, LevelFilter};
    use tracing_subscriber::layer::{Layer, SubscriberExt};
    use tracing_subscriber::util::SubscriberInitExt;
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time();
    let lines = lines.with_target(false).with_ansi(console::colors_enabled_stderr()).with_filter(filter);
    // Tests run several commands in one process; the first one's is enough.
    let _ = tracing_subscriber::registry().with(lines).with(recording.map(Recording::layer)).try_init();
}

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
