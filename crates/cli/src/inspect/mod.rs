//! `interleaf inspect`: what a model or an adapter is, without running it. Weights are mapped and never held;
//! of a model they are read for its digest, and for `--check`.

mod adapter;
mod groups;
mod model;
mod positions;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use interleaf_runtime::{Model, Source, Store};
use serde::Serialize;

use crate::args::InspectArgs;
use crate::{CliError, load, output};

const ADAPTER: &str = "adapter_config.json";
const MODEL: &str = "config.json";

/// What was found.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Report {
    Model(Box<model::Report>),
    Adapter(Box<adapter::Report>),
}

/// Shows what a folder is. What is refused ends with exit code 1 and nothing on standard output.
pub fn run(args: &InspectArgs) -> Result<ExitCode, CliError> {
    let report = match inspect(args) {
        Err(error) if !matches!(error, CliError::Usage(_)) => {
            output::note(format_args!("interleaf: {error}"));
            return Ok(ExitCode::from(1));
        }
        report => report?,
    };
    match &report {
        _ if args.json => output::json(&report)?,
        Report::Model(model) => model.lines().into_iter().try_for_each(output::line)?,
        Report::Adapter(adapter) => adapter.lines().into_iter().try_for_each(output::line)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn inspect(args: &InspectArgs) -> Result<Report, CliError> {
    let store = Store::new(args.store.folder());
    let Some(folder) = &args.folder else {
        return describe(load::demo_base(), args, &store);
    };
    let refuse = |reason: &str| Err(CliError::File { path: folder.clone(), reason: reason.into() });
    // A folder of both is an adapter's: transformers takes it for one, too.
    if folder.join(ADAPTER).is_file() {
        let (base, found) = base(folder, args.model.as_deref())?;
        let model = Model::open(Source::dir(&base))?;
        if args.check {
            model.check_finite()?;
        }
        let base = adapter::Base::new(&base, found, &model, args.check);
        return Ok(Report::Adapter(Box::new(adapter::Report::read(folder, base, &model, &store)?)));
    }
    if folder.join(MODEL).is_file() {
        if args.model.is_some() {
            let message = format!("--model is an adapter's base, and {} is a model", folder.display());
            return Err(CliError::Usage(message));
        }
        return describe(Source::dir(folder), args, &store);
    }
    if !folder.is_dir() {
        return refuse("no such folder");
    }
    refuse("holds neither config.json, as a model does, nor adapter_config.json, as an adapter does")
}

fn describe(model: Source, args: &InspectArgs, store: &Store) -> Result<Report, CliError> {
    Ok(Report::Model(Box::new(model::Report::read(model, args.check, store)?)))
}

/// The base model of an adapter, and who named it.
fn base(adapter: &Path, given: Option<&Path>) -> Result<(PathBuf, &'static str), CliError> {
    const FIELD: &str = "base_model_name_or_path";
    if let Some(given) = given {
        return Ok((given.to_owned(), "--model"));
    }
    let text = Source::dir(adapter).read_text(ADAPTER)?;
    let config: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| CliError::File { path: adapter.join(ADAPTER), reason: e.to_string() })?;
    let named = config[FIELD].as_str().filter(|name| !name.is_empty());
    // As PEFT has it: from the current folder, not from the adapter's.
    if let Some(folder) = named.map(PathBuf::from).filter(|folder| folder.join(MODEL).is_file()) {
        return Ok((folder, FIELD));
    }
    let but =
        named.map(|name| format!("; its {FIELD}, {name:?}, is no model folder here")).unwrap_or_default();
    let reason = format!("an adapter can only be checked against its base: say which with --model{but}");
    Err(CliError::File { path: adapter.to_owned(), reason })
}
