//! Where lines go: one at a time, from any thread, above a status line or above what is being typed.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustyline::ExternalPrinter;

use crate::{CliError, output};

/// Prints lines. Clones are the same printer.
#[derive(Clone)]
pub struct Printer {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    /// Where a line may be being typed.
    typing: Option<Box<dyn ExternalPrinter + Send>>,
    status: Option<ProgressBar>,
    /// What a line was lost to; the rest are, too.
    failed: Option<CliError>,
}

impl Printer {
    /// To standard output, by way of the editor where there is one.
    pub fn new(typing: Option<Box<dyn ExternalPrinter + Send>>) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { typing, status: None, failed: None })) }
    }

    /// Prints a line, unless one could not be printed before: [`Printer::check`] says so.
    pub fn line(&self, text: impl Display) {
        let mut inner = self.lock();
        if inner.failed.is_some() {
            return;
        }
        let Inner { typing, status, failed } = &mut *inner;
        let mut print = || match typing.as_mut() {
            Some(editor) => editor.print(format!("{text}\n")).map_err(|e| CliError::Input(e.to_string())),
            None => output::line(&text),
        };
        let printed = match status {
            Some(bar) => bar.suspend(print),
            None => print(),
        };
        *failed = printed.err();
    }

    /// What lines were lost to.
    ///
    /// # Errors
    /// If there are any.
    pub fn check(&self) -> Result<(), CliError> {
        self.lock().failed.take().map_or(Ok(()), Err)
    }

    /// Shows a status line on standard error until [`Printer::hide`]; nothing where that is no terminal.
    pub fn show(&self, text: String) {
        let mut inner = self.lock();
        let bar = inner.status.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{spinner} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        bar.set_message(text);
    }

    /// Takes the status line away.
    pub fn hide(&self) {
        if let Some(bar) = self.lock().status.take() {
            bar.finish_and_clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
