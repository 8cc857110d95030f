//! `interleaf verify --suite`: every golden set below a folder, on every backend, in one table.
//!
//! Each run is `verify` of one set on one backend. One that is refused does not keep the
//! others from running.

mod find;
mod report;

use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;

pub use report::{Run, SuiteReport, Worst};

use super::verify;
use crate::args::{BackendArg, VerifyArgs};
use crate::{CliError, output};
use find::Set;

/// Runs the suite and prints it; exit code 1 if a bound is exceeded, else 2 if a set is refused.
pub fn run(folder: &Path, args: &VerifyArgs) -> Result<ExitCode, CliError> {
    let report = suite(folder, args)?;
    let printed = if args.json { output::json(&report) } else { report.print() };
    // The verdict stands even if nobody reads it.
    printed.or_else(|e| if output::reader_went_away(&e) { Ok(()) } else { Err(e) })?;
    Ok(report.exit_code())
}

/// Runs the suite.
///
/// # Errors
/// If a folder cannot be listed, or there is no golden set below it.
pub fn suite(folder: &Path, args: &VerifyArgs) -> Result<SuiteReport, CliError> {
    let sets = find::sets(folder)?;
    let mut runs = Vec::with_capacity(sets.len() * args.backends.len());
    for set in &sets {
        for &backend in &args.backends {
            let outcome = verify(&one(args, set, backend));
            runs.push(Run::new(&set.name, &name(backend), outcome));
        }
    }
    Ok(SuiteReport::new(runs))
}

/// The options of one run.
fn one(args: &VerifyArgs, set: &Set, backend: BackendArg) -> VerifyArgs {
    let mut args = args.clone();
    (args.suite, args.model, args.golden) = (None, Some(set.model.clone()), Some(set.golden.clone()));
    args.engine.backend = backend;
    args
}

/// As on the command line.
fn name(backend: BackendArg) -> String {
    backend.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
