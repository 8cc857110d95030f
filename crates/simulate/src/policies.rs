//! Policies by name: those of `interleaf-kv` with their published constants, and the same without one of their terms, as
//! papers leave terms out to say what each is worth.

use interleaf_kv::policy::{Combined, Elora, MobiLora, Policy};

use crate::error::SettingsError;

/// A policy that the cache goes by.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedPolicy {
    /// What it is called: `elora`, or `elora-cost` for the same without that term.
    pub name: &'static str,
    /// What goes first.
    pub policy: Policy,
    /// Whether missing chunks are recomputed where that is sooner than reading them; without it they are only read.
    pub can_recompute: bool,
}

impl NamedPolicy {
    /// Every policy whole.
    #[must_use]
    pub fn whole() -> Vec<Self> {
        Policy::all().map(|(name, policy)| Self { name, policy, can_recompute: true }).into()
    }

    /// Every policy, and each without one of its terms.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let elora = Elora::default();
        let mobilora = MobiLora::default();
        let combined = Combined::default();
        let without = [
            ("elora-adapters", Policy::Elora(Elora { adapters: false, ..elora })),
            ("elora-cost", Policy::Elora(Elora { cost: false, ..elora })),
            ("elora-visits", Policy::Elora(Elora { visits: false, ..elora })),
            ("elora-recency", Policy::Elora(Elora { recency: false, ..elora })),
            ("mobilora-state", Policy::MobiLora(MobiLora { state: 0.0, ..mobilora })),
            ("mobilora-recency", Policy::MobiLora(MobiLora { recency: 0.0, ..mobilora })),
            ("mobilora-length", Policy::MobiLora(MobiLora { length: 0.0, ..mobilora })),
            ("combined-state", Policy::Combined(Combined { state: false, ..combined })),
            ("combined-recompute", Policy::Combined(Combined { recompute: false, ..combined })),
            ("combined-per-byte", Policy::Combined(Combined { per_byte: false, ..combined })),
            ("combined-decay", Policy::Combined(Combined { decay: false, ..combined })),
            ("combined-saturation", Policy::Combined(Combined { saturation: false, ..combined })),
            (
                "combined-adapters",
                Policy::Combined(Combined { elora: Elora { adapters: false, ..elora }, ..combined }),
            ),
            (
                "combined-cost",
                Policy::Combined(Combined { elora: Elora { cost: false, ..elora }, ..combined }),
            ),
            (
                "combined-visits",
                Policy::Combined(Combined { elora: Elora { visits: false, ..elora }, ..combined }),
            ),
            (
                "combined-recency",
                Policy::Combined(Combined { elora: Elora { recency: false, ..elora }, ..combined }),
            ),
        ];
        let mut all = Self::whole();
        // LLMS's pipeline of reading and recomputing is not a term of its queue's order.
        all.push(Self { name: "lctru-pipeline", policy: Policy::Lctru, can_recompute: false });
        all.extend(without.map(|(name, policy)| Self { name, policy, can_recompute: true }));
        all
    }

    /// A policy by its name.
    ///
    /// # Errors
    /// If none has this name; the error has those that there are.
    pub fn named(name: &str) -> Result<Self, SettingsError> {
        let all = Self::all();
        let known = || all.iter().map(|policy| policy.name).collect::<Vec<_>>().join(", ");
        all.iter().find(|policy| policy.name == name).cloned().ok_or_else(|| SettingsError::Unknown {
            what: "policy",
            name: name.to_owned(),
            known: known(),
        })
    }

    /// The policies that names stand for, with commas between them; `all` is every whole one, and `terms` each without one of
    /// its terms.
    ///
    /// # Errors
    /// If none has one of these names.
    pub fn matching(names: &str) -> Result<Vec<Self>, SettingsError> {
        let mut found = Vec::new();
        for name in names.split(',') {
            match name {
                "all" => found.extend(Self::whole()),
                "terms" => found.extend(Self::all().split_off(Self::whole().len())),
                name => found.push(Self::named(name)?),
            }
        }
        Ok(found)
    }
}
