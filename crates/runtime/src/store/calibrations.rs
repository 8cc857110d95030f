//! Calibrations of adapters, a file each: `calibrations/MODEL/ADAPTER.safetensors`, by their digests.

use std::path::{Path, PathBuf};

use interleaf_model::{Calibration, Digest, ModelConfig, ModelError, Source};

use super::Warned;
use super::whole::write_whole;
use crate::EngineError;

const FOLDER: &str = "calibrations";

/// The folder of calibrations.
#[derive(Debug)]
pub struct Calibrations {
    folder: PathBuf,
    damaged: Warned,
}

impl Calibrations {
    /// In a store's folder.
    pub fn new(store: PathBuf) -> Self {
        Self { folder: store.join(FOLDER), damaged: Warned::default() }
    }

    /// Where one is, or would be.
    pub fn file(&self, model: Digest, adapter: Digest) -> PathBuf {
        self.folder.join(model.to_string()).join(format!("{adapter}.safetensors"))
    }

    /// One that is there; `None` where there is none.
    ///
    /// # Errors
    /// If it is damaged, or not for these.
    pub fn read(
        &self,
        config: &ModelConfig,
        model: Digest,
        adapter: Digest,
    ) -> Result<Option<Calibration>, ModelError> {
        let file = self.file(model, adapter);
        let Some((folder, name)) = file.parent().zip(file.file_name().and_then(|name| name.to_str())) else {
            return Ok(None);
        };
        match Calibration::read(&Source::dir(folder), name, config, model, adapter) {
            Ok(calibration) => Ok(Some(calibration)),
            Err(ModelError::MissingFile { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One that is there and whole.
    pub fn find(&self, config: &ModelConfig, model: Digest, adapter: Digest) -> Option<Calibration> {
        self.read(config, model, adapter).unwrap_or_else(|error| {
            if self.damaged.first() {
                tracing::warn!(%error, "a calibration is not read, and has to be made anew");
            }
            None
        })
    }
}

/// Writes a calibration to a file, whole: a reader sees this one or what was there before. Folders are made.
///
/// # Errors
/// If it cannot be written.
pub fn write(file: &Path, calibration: &Calibration) -> Result<(), EngineError> {
    write_whole(file, &calibration.to_bytes()?)
}
