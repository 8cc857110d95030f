//! Adapters by name: registered once, from files, and referred to from then on. Those of the pool are loaded in `pool`, from files
//! that `loader` opens.

mod loader;
mod pool;
mod replace;

use std::collections::BTreeMap;
use std::sync::Arc;

use interleaf_contract::{Adapter, AdapterId, Backend, BackendError, LoraSite, ProjectionId};
use interleaf_model::{Digest, Model, PeftAdapter};

use crate::EngineError;
use crate::cache::Cache;
use crate::origin::Origin;
use crate::resident::Resident as Base;

pub use self::loader::Loader;
pub use self::pool::AdapterStats;

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
    acting: Option<Acting>,
    /// The sequence that turns an activated LoRA on.
    invocation: Option<Vec<u32>>,
    summary: AdapterSummary,
}

/// The place of an adapter among those that change something: the same on every backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Acting(pub(crate) usize);

/// Where an adapter's weights are.
#[derive(Debug)]
pub enum Residence {
    /// On the backend, from when it is registered; and what it is made resident from on another one, if there may be another.
    Always(Option<Origin>),
    /// In the pool, when they are needed: loaded from there.
    Pooled(Origin),
}

/// An adapter that changes something.
#[derive(Debug)]
struct Resident {
    /// What the backend knows it by; `None` while it is not loaded.
    id: Option<AdapterId>,
    residence: Residence,
    /// Why it could not be loaded when that was last tried.
    failure: Option<Arc<EngineError>>,
}

/// Where an adapter acts in a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activation {
    /// Which adapter.
    pub adapter: Acting,
    /// The first position that it acts on; positions before it are the base's.
    pub from: usize,
}

/// The adapters of an engine.
#[derive(Debug, Default)]
pub struct Adapters {
    by_name: BTreeMap<String, Registered>,
    /// By [`Acting`].
    resident: Vec<Resident>,
    /// Those that others have taken the name of, and that sequences are still under.
    replaced: Vec<Acting>,
    stats: AdapterStats,
}

impl Adapters {
    /// Refuses a name that is taken.
    pub fn check_name(&self, name: &str) -> Result<(), EngineError> {
        if self.by_name.contains_key(name) { Err(EngineError::DuplicateAdapter(name.into())) } else { Ok(()) }
    }

    /// Attaches an adapter's sites to the model's projections and makes it resident, if it is to be always.
    pub fn register(
        &mut self,
        peft: PeftAdapter,
        digest: Digest,
        residence: Residence,
        base: &Base,
        backend: &mut dyn Backend,
        cache: &mut Cache,
    ) -> Result<AdapterSummary, EngineError> {
        self.check_name(&peft.name)?;
        let invocation = peft.invocation.clone();
        let adapter = attach(peft, &base.modules)?;
        let sites = &adapter.sites;
        let summary = AdapterSummary {
            name: adapter.name.clone(),
            sites: sites.len(),
            max_rank: sites.iter().map(LoraSite::rank).max().unwrap_or(0),
            bytes: sites.iter().map(|s| (s.a.data().len() + s.b.data().len()) as u64).sum(),
            activated: invocation.is_some(),
            digest,
        };
        let acting = if sites.is_empty() {
            None
        } else {
            let shared = base.shared_layers(sites);
            let (id, pooled) = match &residence {
                Residence::Always(_) => (Some(backend.create_adapter(adapter)?), Vec::new()),
                Residence::Pooled(_) => (None, base.factor_bytes(sites)),
            };
            match cache.add_adapter(digest, shared, invocation.is_some(), &pooled) {
                // Of the same contents are one, which is loaded once.
                Ok(Some(twin)) if id.is_none() => Some(twin),
                Ok(_) => {
                    self.resident.push(Resident { id, residence, failure: None });
                    Some(Acting(self.resident.len() - 1))
                }
                Err(error) => {
                    id.map_or(Ok(()), |id| backend.drop_adapter(id))?;
                    return Err(error.into());
                }
            }
        };
        let registered = Registered { acting, invocation, summary: summary.clone() };
        self.by_name.insert(summary.name.clone(), registered);
        Ok(summary)
    }

    /// Makes every adapter resident on another backend, in its place, that was resident on the one before. There is no third: what
    /// was kept for this is let go.
    ///
    /// # Errors
    /// If one is not to be had again, or there is no room; all can then be made resident on yet another.
    pub fn make_resident_again(
        &mut self,
        model: &Model,
        modules: &[(String, ProjectionId)],
        backend: &mut dyn Backend,
    ) -> Result<(), EngineError> {
        for resident in &mut self.resident {
            if let (Some(_), Residence::Always(Some(origin)) | Residence::Pooled(origin)) =
                (resident.id, &resident.residence)
            {
                resident.id = Some(backend.create_adapter(attach(origin.open(model)?, modules)?)?);
            }
        }
        for resident in &mut self.resident {
            if let Residence::Always(origin) = &mut resident.residence {
                *origin = None;
            }
        }
        Ok(())
    }

    /// What the backend knows an adapter by; `None` while it is not loaded.
    pub fn id(&self, Acting(place): Acting) -> Option<AdapterId> {
        self.resident[place].id
    }

    /// What is known of an adapter, under the first of its names.
    pub fn summary(&self, adapter: Acting) -> Option<&AdapterSummary> {
        let found = self.by_name.values().find(|registered| registered.acting == Some(adapter));
        found.map(|found| &found.summary)
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
        Ok(registered.acting.zip(from).map(|(adapter, from)| Activation { adapter, from }))
    }

    /// Whether an adapter is where it can be computed with, and need not be loaded; `false` for one that is not registered.
    pub fn is_resident(&self, name: &str) -> bool {
        let found = self.by_name.get(name);
        found.is_some_and(|found| found.acting.is_none_or(|acting| self.id(acting).is_some()))
    }

    /// The sequence that turns an activated LoRA on.
    pub fn invocation(&self, name: &str) -> Option<&[u32]> {
        self.by_name.get(name)?.invocation.as_deref()
    }

    /// All of them, by name.
    pub fn summaries(&self) -> impl Iterator<Item = &AdapterSummary> {
        self.by_name.values().map(|registered| &registered.summary)
    }
}

/// An adapter on the base's projections.
fn attach(peft: PeftAdapter, modules: &[(String, ProjectionId)]) -> Result<Adapter, BackendError> {
    let name = peft.name;
    let mut sites = Vec::new();
    for site in peft.sites {
        let projection = modules.iter().find(|(module, _)| *module == site.module).map(|(_, id)| *id);
        let projection = projection.ok_or_else(|| BackendError::Unsupported {
            backend: "engine",
            what: format!("adapter {name}: module {}", site.module),
        })?;
        // A term scaled by zero adds nothing: such rows are base rows, at the base's cost.
        if site.scale != 0.0 && site.a.rows() > 0 {
            sites.push(LoraSite { projection, scale: site.scale, a: site.a, b: site.b });
        }
    }
    Ok(Adapter { name, sites })
}
