//! Adapters by name: registered once, from files, and referred to from then on.

use std::collections::BTreeMap;

use interleaf_contract::{Adapter, AdapterId, Backend, LoraSite, ProjectionId};
use interleaf_model::PeftAdapter;

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
}

/// The adapters of an engine.
#[derive(Debug, Default)]
pub struct Adapters {
    by_name: BTreeMap<String, (Option<AdapterId>, AdapterSummary)>,
}

impl Adapters {
    /// Attaches an adapter's sites to the model's projections and makes it resident.
    pub fn register(
        &mut self,
        peft: PeftAdapter,
        modules: &[(String, ProjectionId)],
        backend: &mut dyn Backend,
    ) -> Result<AdapterSummary, EngineError> {
        let name = peft.name;
        if self.by_name.contains_key(&name) {
            return Err(EngineError::DuplicateAdapter(name));
        }
        if peft.invocation.is_some() {
            return Err(EngineError::UnsupportedAdapter {
                name,
                what: "activated LoRA (alora_invocation_tokens)",
            });
        }
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
        };
        let id = if sites.is_empty() {
            None
        } else {
            Some(backend.create_adapter(Adapter { name: name.clone(), sites })?)
        };
        self.by_name.insert(name, (id, summary.clone()));
        Ok(summary)
    }

    /// The resident adapter of a name; `None` inside for one that changes nothing.
    pub fn resolve(&self, name: &str) -> Result<Option<AdapterId>, EngineError> {
        match self.by_name.get(name) {
            Some((id, _)) => Ok(*id),
            None => Err(EngineError::UnknownAdapter {
                name: name.into(),
                known: self.by_name.keys().cloned().collect(),
            }),
        }
    }

    /// All of them, by name.
    pub fn summaries(&self) -> impl Iterator<Item = &AdapterSummary> {
        self.by_name.values().map(|(_, summary)| summary)
    }
}
