//! `--perfetto FILE`: what the library tells of in spans, as a file that ui.perfetto.dev and chrome://tracing open (the JSON array of the
//! Chrome trace event format). A track for each thread, whose spans nest, and one for the kernels.

mod layer;
mod trace;

use std::path::Path;
use std::sync::Arc;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;

use crate::CliError;
use layer::Spans;
use trace::Trace;

/// A file that is being written, to its end when [`Recording::finish`] is called.
#[derive(Debug)]
pub struct Recording(Arc<Trace>);

impl Recording {
    /// Begins a file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path) -> Result<Self, CliError> {
        Trace::create(path).map(|trace| Self(Arc::new(trace)))
    }

    /// What writes there.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        // The library's own, whose targets begin so.
        let ours = Targets::new().with_target("interleaf", LevelFilter::TRACE);
        Spans(Arc::clone(&self.0)).with_filter(ours)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// If some of it could not be written.
    pub fn finish(self) -> Result<(), CliError> {
        self.0.finish()
    }
}
