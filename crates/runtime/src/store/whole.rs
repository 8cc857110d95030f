//! Files that are written whole: a reader sees one writer's file or what was there before.

use std::path::Path;

use interleaf_model::ModelError;
use tempfile::NamedTempFile;

use crate::EngineError;

/// Writes a file beside its place and renames it into it. Folders are made.
///
/// # Errors
/// If it cannot be written.
pub fn write_whole(file: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    // The empty parent of a bare name is no folder that could be made.
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = || {
        std::fs::create_dir_all(folder)?;
        let beside = NamedTempFile::new_in(folder)?;
        std::fs::write(beside.path(), bytes)?;
        beside.persist(file)?;
        Ok(())
    };
    written().map_err(|source| ModelError::Io { file: file.display().to_string(), source }.into())
}
