//! The `interleaf` command as a library, so that tests can run its parts without a process.
//!
//! Exit codes: 0 for success, 1 when `verify` finds a bound exceeded, `inspect` a folder that is refused or `doctor` a
//! kernel that is wrong, 2 for anything else refused or failed.

mod answers;
pub mod args;
mod bench;
mod calibrate;
mod chat;
mod demo;
#[cfg(feature = "gpu")]
mod doctor;
mod error;
mod first_touch;
mod generate;
mod inspect;
mod interrupt;
mod keys;
mod lines;
mod load;
mod memory;
mod output;
mod perfetto;
mod perplexity;
mod prompt;
mod quality;
mod router;
mod sampling;
mod save;
mod service;
mod simulate;
mod table;
pub mod verify;
mod windows;

use std::process::ExitCode;

use clap::Parser;

pub use error::CliError;

/// Parses the command line, runs it and maps the outcome to an exit code.
#[must_use]
pub fn main() -> ExitCode {
    let args = args::Args::parse();
    recorded(args).unwrap_or_else(|error| {
        if output::reader_went_away(&error) {
            return ExitCode::SUCCESS;
        }
        output::note(format_args!("interleaf: {error}"));
        ExitCode::from(2)
    })
}

/// Runs a command, and records it if that is wanted.
fn recorded(args: args::Args) -> Result<ExitCode, CliError> {
    let recording = args.perfetto().map(perfetto::Recording::create).transpose()?;
    output::listen(recording.as_ref());
    let outcome = run(args);
    let finished = recording.map_or(Ok(()), perfetto::Recording::finish);
    let code = outcome?;
    finished.map(|()| code)
}

fn run(args: args::Args) -> Result<ExitCode, CliError> {
    match args.command {
        None => match &args.demo.save {
            Some(folder) => save::run(folder),
            None => demo::run(&args.demo),
        },
        Some(args::Command::Generate(args)) => generate::run(&args),
        Some(args::Command::Chat(args)) => chat::run(&args),
        Some(args::Command::Service(args)) => service::run(&args),
        Some(args::Command::Verify(args)) => verify::run(&args),
        Some(args::Command::Perplexity(args)) => perplexity::run(&args),
        Some(args::Command::Inspect(args)) => inspect::run(&args),
        Some(args::Command::Bench(args)) => bench::run(&args),
        Some(args::Command::Calibrate(args)) => calibrate::run(&args),
        Some(args::Command::Quality(args)) => quality::run(&args),
        Some(args::Command::Router(command)) => router::run(&command),
        Some(args::Command::Simulate(args)) => simulate::run(&args),
        #[cfg(feature = "gpu")]
        Some(args::Command::Doctor(args)) => doctor::run(&args),
        #[cfg(not(feature = "gpu"))]
        Some(args::Command::Doctor(_)) => {
            Err(interleaf_runtime::EngineError::BackendMissing { backend: "gpu" }.into())
        }
    }
}
