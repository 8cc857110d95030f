//! Verdicts on GPUs, in one file of the store. A file that is damaged holds none.

use std::path::{Path, PathBuf};

use crate::doctor::Verdict;

use super::Warned;

const FILE: &str = "gpu-verdicts.json";

/// The file of verdicts.
#[derive(Debug)]
pub struct Verdicts {
    folder: PathBuf,
    warned: Warned,
}

impl Verdicts {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, warned: Warned::default() }
    }

    /// Where the file is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Every verdict.
    pub fn all(&self) -> Vec<Verdict> {
        let Ok(bytes) = std::fs::read(self.folder.join(FILE)) else { return Vec::new() };
        serde_json::from_slice(&bytes).unwrap_or_else(|e| {
            if self.warned.first() {
                let file = self.folder.join(FILE);
                tracing::warn!("{}: no verdicts on GPUs, and is written anew: {e}", file.display());
            }
            Vec::new()
        })
    }

    /// Keeps a verdict in place of an earlier one on the same kernels and driver.
    pub fn keep(&self, verdict: Verdict) {
        let mut all = self.all();
        all.retain(|other| (&other.key, &other.kernels) != (&verdict.key, &verdict.kernels));
        all.push(verdict);
        self.write(&all);
    }

    /// Forgets some.
    pub fn retain(&self, keep: impl FnMut(&Verdict) -> bool) {
        let mut all = self.all();
        let before = all.len();
        all.retain(keep);
        if all.len() < before {
            self.write(&all);
        }
    }

    fn write(&self, all: &[Verdict]) {
        let written = serde_json::to_vec_pretty(all).map_err(std::io::Error::other).and_then(|bytes| {
            std::fs::create_dir_all(&self.folder)?;
            let file = tempfile::NamedTempFile::new_in(&self.folder)?;
            std::fs::write(file.path(), bytes)?;
            file.persist(self.folder.join(FILE))?;
            Ok(())
        });
        if let Err(e) = written
            && self.warned.first()
        {
            tracing::warn!("verdicts on GPUs are not kept in {}: {e}", self.folder.display());
        }
    }
}
