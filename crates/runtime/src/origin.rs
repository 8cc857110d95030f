//! What an adapter is made resident from a second time, on another backend, without a second copy of it meanwhile.

use interleaf_contract::Dtype;
use interleaf_model::{Digest, Model, PeftAdapter, Source};

use crate::EngineError;

/// Where an adapter is to be had again.
#[derive(Debug, Clone)]
pub enum Origin {
    /// It is at hand: its factors are views of mapped or embedded files, or there are no files.
    Opened(PeftAdapter),
    /// Its files are opened again: factors stored as bf16 are widened when they are read, and would be held on the host
    /// for nothing while the device has them.
    Files {
        name: String,
        source: Source,
        /// What they held.
        digest: Digest,
    },
}

impl Origin {
    /// Of an adapter that was opened from `source`, or is only in memory.
    pub fn of(adapter: &PeftAdapter, digest: Digest, source: Option<&Source>) -> Self {
        let widened = adapter.sites.iter().any(|site| site.dtypes.contains(&Dtype::Bf16));
        match source.filter(|_| widened) {
            Some(source) => Self::Files { name: adapter.name.clone(), source: source.clone(), digest },
            None => Self::Opened(adapter.clone()),
        }
    }

    /// The adapter.
    ///
    /// # Errors
    /// If its files are gone or refused, or hold something else by now.
    pub fn open(&self, model: &Model) -> Result<PeftAdapter, EngineError> {
        match self {
            Self::Opened(adapter) => Ok(adapter.clone()),
            Self::Files { name, source, digest } => {
                // Whoever changes them meanwhile changes nothing that is used.
                let source = source.in_memory(&PeftAdapter::FILES)?;
                let adapter = PeftAdapter::open(name, &source, model)?;
                let same = adapter.digest() == *digest;
                if same { Ok(adapter) } else { Err(EngineError::AdapterChanged(name.clone())) }
            }
        }
    }
}
