//! Which adapters a golden set is run with, and where they are. What is left out is said.

use std::path::{Path, PathBuf};

use interleaf_runtime::{Engine, Source};

use super::golden::{BASE, Golden};
use crate::args::VerifyArgs;
use crate::{CliError, load};

/// An adapter to register under the name of its golden target.
#[derive(Debug)]
pub struct Located {
    /// The target's name.
    pub name: String,
    /// Its files.
    pub source: Source,
}

/// What was chosen.
#[derive(Debug)]
pub struct Selection {
    /// The adapters that run.
    pub adapters: Vec<Located>,
    /// Golden targets that do not, because `--adapters` does not have them.
    pub skipped: Vec<String>,
}

/// Registers the adapters of the golden's targets and drops the targets that `--adapters` leaves out.
pub fn adapters(args: &VerifyArgs, golden: &mut Golden, engine: &mut Engine) -> Result<Selection, CliError> {
    let mut selection = Selection { adapters: Vec::new(), skipped: Vec::new() };
    let names: Vec<String> = golden.targets.iter().map(|t| t.name.clone()).filter(|n| n != BASE).collect();
    for name in names {
        match locate(args, golden, &name)? {
            Some(source) => selection.adapters.push(Located { name, source }),
            None => selection.skipped.push(name),
        }
    }
    golden.targets.retain(|t| !selection.skipped.contains(&t.name));
    if let (Some(folder), true) = (&args.adapters, selection.adapters.is_empty()) {
        let reason =
            format!("holds no adapter that the golden set has; it has: {}", selection.skipped.join(", "));
        return Err(CliError::File { path: folder.clone(), reason });
    }
    register(&selection.adapters, engine)?;
    Ok(selection)
}

/// Registers adapters on an engine.
pub fn register(adapters: &[Located], engine: &mut Engine) -> Result<(), CliError> {
    for adapter in adapters {
        engine.register_adapter(&adapter.name, &adapter.source)?;
    }
    Ok(())
}

fn locate(args: &VerifyArgs, golden: &Golden, name: &str) -> Result<Option<Source>, CliError> {
    let only = golden.targets.iter().filter(|t| t.name != BASE).count() == 1;
    if let Some(folder) = &args.adapters {
        if is_adapter(folder) {
            // A single adapter is the target of its name, or the only one there is.
            return Ok((only || load::model_name(Some(folder)) == name).then(|| Source::dir(folder)));
        }
        if !folder.is_dir() {
            let reason = "expected an adapter folder or a folder of them".to_owned();
            return Err(CliError::File { path: folder.clone(), reason });
        }
        let named = folder.join(name);
        return Ok(is_adapter(&named).then(|| Source::dir(&named)));
    }
    let embedded = load::demo_adapters().find(|(n, _)| args.model.is_none() && *n == name);
    if let Some((_, source)) = embedded {
        return Ok(Some(source));
    }
    let beside = |folder: &Path| folder.parent().unwrap_or(folder).join("adapters").join(name);
    let mut candidates: Vec<PathBuf> = golden.adapter_folder.iter().cloned().collect();
    candidates.extend([beside(&args.golden)].into_iter().chain(args.model.as_deref().map(beside)));
    match candidates.iter().find(|c| is_adapter(c)) {
        Some(folder) => Ok(Some(Source::dir(folder))),
        None => {
            let looked: Vec<String> = candidates.iter().map(|c| c.display().to_string()).collect();
            let message = format!("no adapter {name:?} in {}; say where with --adapters", looked.join(", "));
            Err(CliError::Usage(message))
        }
    }
}

fn is_adapter(folder: &Path) -> bool {
    folder.join("adapter_config.json").is_file()
}
