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
    /// Adapters of `--adapters` that the golden set does not have.
    pub unused: Vec<String>,
}

/// Registers the adapters of the golden's targets and drops the targets that `--adapters` leaves out.
pub fn adapters(args: &VerifyArgs, golden: &mut Golden, engine: &mut Engine) -> Result<Selection, CliError> {
    let mut selection = Selection { adapters: Vec::new(), skipped: Vec::new(), unused: Vec::new() };
    let given = args.adapters.as_deref().map(given).transpose()?.unwrap_or_default();
    let names: Vec<String> = golden.targets.iter().map(|t| t.name.clone()).filter(|n| n != BASE).collect();
    for name in names {
        match locate(args, golden, &given, &name)? {
            Some(source) => selection.adapters.push(Located { name, source }),
            None => selection.skipped.push(name),
        }
    }
    golden.targets.retain(|t| !selection.skipped.contains(&t.name));
    let runs = |folder: &Path| {
        let taken = |a: &Located| matches!(&a.source, Source::Dir(used) if used == folder);
        selection.adapters.iter().any(taken)
    };
    selection.unused =
        given.iter().filter(|(_, folder)| !runs(folder)).map(|(name, _)| name.clone()).collect();
    if let (Some(folder), false) = (&args.adapters, given.iter().any(|(_, folder)| runs(folder))) {
        let had = if selection.skipped.is_empty() { "none".into() } else { selection.skipped.join(", ") };
        let reason = format!("holds no adapter that the golden set has; the golden set's adapters: {had}");
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

/// The adapters in a folder: itself if it is one, else those in it, by name.
fn given(folder: &Path) -> Result<Vec<(String, PathBuf)>, CliError> {
    if is_adapter(folder) {
        return Ok(vec![(load::model_name(Some(folder)), folder.to_owned())]);
    }
    let entries = std::fs::read_dir(folder)
        .map_err(|e| CliError::File { path: folder.to_owned(), reason: e.to_string() })?;
    let folders = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_adapter(path));
    let mut named: Vec<(String, PathBuf)> =
        folders.map(|path| (load::model_name(Some(&path)), path)).collect();
    named.sort();
    Ok(named)
}

fn locate(
    args: &VerifyArgs,
    golden: &Golden,
    given: &[(String, PathBuf)],
    name: &str,
) -> Result<Option<Source>, CliError> {
    let only = golden.targets.iter().filter(|t| t.name != BASE).count() == 1;
    if args.adapters.is_some() {
        // An adapter is the target of its name; where there is one of each, they are each other's.
        let named = given.iter().find(|(n, _)| n == name);
        let sole = given.first().filter(|_| only && given.len() == 1);
        return Ok(named.or(sole).map(|(_, folder)| Source::dir(folder)));
    }
    let embedded = load::demo_adapters().find(|(n, _)| args.model.is_none() && *n == name);
    if let Some((_, source)) = embedded {
        return Ok(Some(source));
    }
    let beside = |folder: &Path| folder.parent().unwrap_or(folder).join("adapters").join(name);
    let mut candidates: Vec<PathBuf> = golden.adapter_folder.iter().cloned().collect();
    candidates.extend(args.golden.iter().chain(&args.model).map(|folder| beside(folder)));
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
