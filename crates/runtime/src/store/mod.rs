//! The store: what an engine keeps on disk between runs, in a folder of its own
//! ([`EngineOptions::store`](crate::EngineOptions::store)) and never in a model's.
//!
//! Everything in it follows from the user's files and may be deleted at any time; nothing that is right with
//! a store is wrong without one. A store that is damaged or cannot be written is said in a warning and
//! never fails a run. Today it holds digests, verdicts on GPUs, calibrations of adapters, and routers.

mod calibrations;
mod digests;
mod loading;
mod routers;
mod stamp;
mod verdicts;
mod whole;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use interleaf_model::{Calibration, Digest, Model, ModelConfig, PeftAdapter, Source};

use calibrations::Calibrations;
use digests::{Digests, Entry, Key, Kind};
use stamp::Stamp;
use verdicts::Verdicts;

use crate::EngineError;
use crate::doctor::Verdict;

pub use calibrations::write as write_calibration;
pub use loading::Loading;
pub use routers::write as write_router;
pub use whole::write_whole;

/// Where a digest is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestOrigin {
    /// An earlier run computed it, and the files have not changed since.
    Cached,
    /// Every byte was read now.
    Computed,
}

/// A folder's files as they were when it was opened: what is kept is kept for these, whatever the folder's path
/// means later.
#[derive(Debug)]
pub struct Seen {
    folder: PathBuf,
    files: Vec<String>,
    opening: SystemTime,
    /// `None` where the files cannot be told from what they may become.
    stamps: Option<Vec<Stamp>>,
}

impl Seen {
    /// To be called right after a model was opened. `opening` is a time before that.
    #[must_use]
    pub fn model(model: &Model, opening: SystemTime) -> Self {
        let files: Vec<&str> = model.files().collect();
        Self::new(model.source(), &files, opening)
    }

    fn new(source: &Source, files: &[&str], opening: SystemTime) -> Self {
        let folder = match source {
            // Resolved, so that a link that is turned to another folder later does not matter.
            Source::Dir(folder) => folder.canonicalize().unwrap_or_default(),
            Source::Embedded { .. } | Source::Memory { .. } | Source::Generated { .. } => PathBuf::new(),
        };
        let stamps = stamp::settled(&folder, files, opening);
        Self { folder, files: files.iter().map(ToString::to_string).collect(), opening, stamps }
    }

    /// Whether they are still the same.
    fn unchanged(&self) -> bool {
        let files: Vec<&str> = self.files.iter().map(String::as_str).collect();
        stamp::settled(&self.folder, &files, self.opening) == self.stamps
    }
}

/// A store, or none: then everything is computed, and forgotten with the process.
#[derive(Debug, Default)]
pub struct Store {
    calibrations: Option<Calibrations>,
    digests: Option<Digests>,
    verdicts: Option<Verdicts>,
}

impl Store {
    /// The store in a folder, which is made when something is first kept; `None` for no store.
    #[must_use]
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self {
            calibrations: folder.clone().map(Calibrations::new),
            digests: folder.clone().map(Digests::new),
            verdicts: folder.map(Verdicts::new),
        }
    }

    /// The store's folder.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.verdicts.as_ref().map(Verdicts::folder)
    }

    /// Whether anything is kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.verdicts.is_some()
    }

    /// The verdict on the kernels that suit a device under a driver's version, if they have been examined.
    #[must_use]
    pub fn verdict(&self, key: &str, kernels: &str) -> Option<Verdict> {
        self.verdicts().into_iter().find(|verdict| verdict.key == key && verdict.kernels == kernels)
    }

    /// Every verdict.
    #[must_use]
    pub fn verdicts(&self) -> Vec<Verdict> {
        self.verdicts.as_ref().map(Verdicts::all).unwrap_or_default()
    }

    /// Forgets the verdicts on adapters that are not among these, by key.
    pub fn forget_verdicts_but(&self, keys: &[String]) {
        if let Some(verdicts) = &self.verdicts {
            verdicts.retain(|verdict| keys.contains(&verdict.key));
        }
    }

    /// Keeps a verdict, in place of an earlier one on the same driver's version.
    pub fn keep_verdict(&self, verdict: Verdict) {
        if let Some(verdicts) = &self.verdicts {
            verdicts.keep(verdict);
        }
    }

    /// The calibration of an adapter, by its digest and its model's, for whoever would keep another in its place: `None` only
    /// where none is kept.
    ///
    /// # Errors
    /// If one is, and cannot be read.
    pub fn kept_calibration(
        &self,
        config: &ModelConfig,
        model: Digest,
        adapter: Digest,
    ) -> Result<Option<Calibration>, EngineError> {
        let Some(calibrations) = &self.calibrations else { return Ok(None) };
        Ok(calibrations.read(config, model, adapter)?)
    }

    /// The calibration of an adapter, by its digest and its model's, if one is kept and can be read.
    #[must_use]
    pub fn calibration(&self, config: &ModelConfig, model: Digest, adapter: Digest) -> Option<Calibration> {
        self.calibrations.as_ref()?.find(config, model, adapter)
    }

    /// Where the router of a model is kept, or would be; `None` where nothing is.
    #[must_use]
    pub fn router_file(&self, model: Digest) -> Option<PathBuf> {
        self.folder().map(|store| routers::file(store, model))
    }

    /// Keeps a calibration in place of an earlier one. Returns its file; `None` where nothing is kept.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_calibration(&self, calibration: &Calibration) -> Result<Option<PathBuf>, EngineError> {
        let Some(calibrations) = &self.calibrations else { return Ok(None) };
        let file = calibrations.file(calibration.model, calibration.adapter);
        calibrations::write(&file, calibration)?;
        Ok(Some(file))
    }

    /// [`Model::digest`]. `opening` is a time before the model was opened: of files that have changed since,
    /// or up to two seconds before, nothing is known for sure, and nothing is kept.
    #[must_use]
    pub fn model_digest(&self, model: &Model, opening: SystemTime) -> (Digest, DigestOrigin) {
        self.digest_of_model(model, &Seen::model(model, opening))
    }

    /// The same of a model whose files were looked at when it was opened.
    #[must_use]
    pub fn digest_of_model(&self, model: &Model, seen: &Seen) -> (Digest, DigestOrigin) {
        self.digest(Kind::Model, seen, || model.digest())
    }

    /// [`PeftAdapter::digest`] of an adapter opened from `source` on `base`; `opening` likewise.
    #[must_use]
    pub fn adapter_digest(
        &self,
        adapter: &PeftAdapter,
        source: &Source,
        base: &Model,
        opening: SystemTime,
    ) -> (Digest, DigestOrigin) {
        // The base's config says in which order sites come, and which rows of a fused one are whose.
        let kind = Kind::Adapter { base: base.config_digest().to_string() };
        self.digest(kind, &Seen::new(source, &PeftAdapter::FILES, opening), || adapter.digest())
    }

    fn digest(&self, kind: Kind, seen: &Seen, compute: impl FnOnce() -> Digest) -> (Digest, DigestOrigin) {
        let key = Key::new(kind, &seen.folder);
        let (Some(digests), Some(key), Some(stamps)) = (&self.digests, key, &seen.stamps) else {
            return (compute(), DigestOrigin::Computed);
        };
        if let Some(digest) = digests.find(&key, stamps) {
            return (digest, DigestOrigin::Cached);
        }
        let digest = compute();
        // A file that was written to in place while it was read has left neither content for sure.
        if seen.unchanged() {
            digests.keep(Entry { key, files: stamps.clone(), digest });
        }
        (digest, DigestOrigin::Computed)
    }
}

/// A warning that is said once.
#[derive(Debug, Default)]
struct Warned(AtomicBool);

impl Warned {
    /// Whether it has not been said yet; from now on it has.
    fn first(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
