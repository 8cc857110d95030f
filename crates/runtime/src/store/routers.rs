//! Routers, a file for each model by its digest: `routers/MODEL.safetensors`.

use std::path::{Path, PathBuf};

use interleaf_model::{Digest, RouterHead};

use super::whole::write_whole;
use crate::EngineError;

const FOLDER: &str = "routers";

/// Where a store's folder has a model's.
pub fn file(store: &Path, model: Digest) -> PathBuf {
    store.join(FOLDER).join(format!("{model}.safetensors"))
}

/// Writes a router to a file, whole: a reader sees this one or what was there before. Folders are made.
///
/// # Errors
/// If it cannot be written.
pub fn write(file: &Path, head: &RouterHead) -> Result<(), EngineError> {
    write_whole(file, &head.to_bytes()?)
}
