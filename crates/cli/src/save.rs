//! `interleaf --save DIR`: the embedded model and its adapters as folders, for programs that open folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use interleaf_demo_model as demo_model;

use crate::{CliError, output};

/// Writes `DIR/base` and `DIR/adapters/NAME`. What is there already is not touched, and refused before anything is written.
pub fn run(folder: &Path) -> Result<ExitCode, CliError> {
    let base = (folder.join("base"), demo_model::BASE);
    let adapters =
        demo_model::ADAPTERS.iter().map(|(name, files)| (folder.join("adapters").join(name), *files));
    let folders: Vec<(PathBuf, &[demo_model::File])> = std::iter::once(base).chain(adapters).collect();
    if let Some((path, _)) = folders.iter().find(|(path, _)| path.exists()) {
        return Err(CliError::File { path: path.clone(), reason: "exists already".into() });
    }
    for (path, files) in &folders {
        fs::create_dir_all(path).map_err(|error| failed(path, &error))?;
        for (name, bytes) in *files {
            let path = path.join(name);
            fs::write(&path, bytes).map_err(|error| failed(&path, &error))?;
        }
        output::line(path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(path: &Path, error: &std::io::Error) -> CliError {
    CliError::File { path: path.to_owned(), reason: error.to_string() }
}
