//! `interleaf router`: what chooses adapters for prompts, fitted, kept and measured.

mod eval;
mod train;

use std::path::Path;
use std::process::ExitCode;

use interleaf_calibrate::{Prompts, read_prompts};
use interleaf_demo_model as demo_model;
use interleaf_runtime::{BackendChoice, Engine, EngineError, EngineOptions, RouterHead, Source};

use crate::args::{RouterCommand, RouterDataArgs};
use crate::{CliError, load};

/// Does what is asked.
pub fn run(command: &RouterCommand) -> Result<ExitCode, CliError> {
    match command {
        RouterCommand::Train(args) => train::run(args),
        RouterCommand::Eval(args) => eval::run(args),
    }
}

/// Opens the model on the CPU, as it answers, with the adapters that prompts name, and reads the prompts.
fn open(args: &RouterDataArgs) -> Result<(Engine, Prompts), CliError> {
    let prompts = match &args.data {
        Some(path) => {
            let unread = |e: std::io::Error| CliError::File { path: path.clone(), reason: e.to_string() };
            read_prompts(&path.display().to_string(), &std::fs::read(path).map_err(unread)?)?
        }
        None => {
            let (name, bytes) = demo_model::ROUTING;
            read_prompts(&format!("the demo model's {name}"), bytes)?
        }
    };
    let options = EngineOptions {
        backend: BackendChoice::Cpu,
        threads: args.threads,
        store: args.store.folder(),
        ..EngineOptions::default()
    };
    let mut engine = load::open(args.model.as_deref().map_or_else(load::demo_base, Source::dir), &options)?;
    for adapter in &args.adapters {
        engine.register_adapter(&adapter.name, &Source::dir(&adapter.folder))?;
    }
    if args.model.is_none() {
        for (name, source) in load::demo_adapters() {
            if !args.adapters.iter().any(|adapter| adapter.name == name) {
                engine.register_adapter(name, &source)?;
            }
        }
    }
    Ok((engine, prompts))
}

/// Opens a router: a file, or the one that is kept for the model.
pub fn open_head<'a>(engine: &'a mut Engine, file: Option<&Path>) -> Result<&'a RouterHead, CliError> {
    engine.open_router(file).map_err(|error| match error {
        EngineError::NoRouter => {
            CliError::Usage("no router is kept for this model: `interleaf router train` makes one".into())
        }
        error => error.into(),
    })
}

/// `97.5 %`.
fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
