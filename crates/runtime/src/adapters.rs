//! Adapters by name: registered once, from files, and referred to from then on.

use std::collections::BTreeMap;

use interleaf_contract::{Adapter, AdapterId, Backend, LoraSite, ProjectionId};
use interleaf_model::{Digest, PeftAdapter};

use crate::EngineError;

/// What is known of a registered adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterSummary {
    /// The name it was registered under.
    pub name: String,
    /// Projections that it changes; those with scale 0 are not counted, since they change nothing.
    pub sites: usize,
    /// The largest rank among them.
    pub max_rank: usize,
    /// Bytes of its factors.
    pub bytes: u64,
    /// Whether it is an activated LoRA, which acts only from its invocation on.
    pub activated: bool,
    /// What it is, by content ([`PeftAdapter::digest`]).
    pub digest: Digest,
}

/// A registered adapter.
#[derive(Debug)]
struct Registered {
    /// `None` for one that changes nothing.
    id: Option<AdapterId>,
    /// The sequence that turns an activated LoRA on.
    invocation: Option<Vec<u32>>,
    summary: AdapterSummary,
}

/// Where an adapter acts in a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activation {
    /// The resident adapter.
    pub adapter: AdapterId,
    /// The first position that it acts on; positions before it are the base's.
    pub from: usize,
}

/// The adapters of an engine.
#[derive(Debug, Default)]
pub struct Adapters {
    by_name: BTreeMap<String, Registered>,
}

impl Adapters {
    /// Refuses a name that is taken.
    pub fn check_name(&self, name: &str) -> Result<(), EngineError> {
        if self.by_name.contains_key(name) { Err(EngineError::DuplicateAdapter(name.into())) } else { Ok(()) }
    }

    /// Attaches an adapter's sites to the model's projections and makes it resident.
    pub fn register(
        &mut self,
        peft: PeftAdapter,
        digest: Digest,
        modules: &[(String, ProjectionId)],
        backend: &mut dyn Backend,
    ) -> Result<AdapterSummary, EngineError> {
        let name = peft.name;
        self.check_name(&name)?;
        let mut sites = Vec::new();
        for site in peft.sites {
            let projection = modules.iter().find(|(module, _)| *module == site.module).map(|(_, id)| *id);
            let projection = projection.ok_or_else(|| interleaf_contract::BackendError::Unsupported {
                backend: "engine",
                what: format!("adapter {name}: module {}", site.module),
            })?;
            // A term scaled by zero adds nothing: such rows are base rows, at the base's cost.
            if site.scale != 0.0 && site.a.rows() > 0 {
                sites.push(LoraSite { projection, scale: site.scale, a: site.a, b: site.b });
            }
        }
        let summary = AdapterSummary {
            name: name.clone(),
            sites: sites.len(),
            max_rank: sites.iter().map(LoraSite::rank).max().unwrap_or(0),
            bytes: sites.iter().map(|s| (s.a.data().len() + s.b.data().len()) as u64).sum(),
            activated: peft.invocation.is_some(),
            digest,
        };
        let id = if sites.is_empty() {
            None
        } else {
            Some(backend.create_adapter(Adapter { name: name.clone(), sites })?)
        };
        let registered = Registered { id, invocation: peft.invocation, summary: summary.clone() };
        self.by_name.insert(name, registered);
        Ok(summary)
    }

    /// Where an adapter acts on a prompt and its answer; `None` if nowhere.
    ///
    /// An activated LoRA acts from the first token of the last occurrence of its invocation on (Greenewald et
    /// al., Activated LoRA, 2025; PEFT's `calculate_alora_offsets`). The prompt decides: tokens generated
    /// later neither start nor move it.
    pub fn activation(&self, name: &str, prompt: &[u32]) -> Result<Option<Activation>, EngineError> {
        let registered = self.by_name.get(name).ok_or_else(|| EngineError::UnknownAdapter {
            name: name.into(),
            known: self.by_name.keys().cloned().collect(),
        })?;
        let from = match &registered.invocation {
            None => Some(0),
            Some(invocation) => prompt.windows(invocation.len().max(1)).rposition(|w| w == invocation),
        };
        Ok(registered.id.zip(from).map(|(adapter, from)| Activation { adapter, from }))
    }

    /// All of them, by name.
    pub fn summaries(&self) -> impl Iterator<Item = &AdapterSummary> {
        self.by_name.values().map(|registered| &registered.summary)
    }
}
