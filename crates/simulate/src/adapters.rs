//! Adapters as far as a cache is concerned: how many there are and how large each is.

use std::num::NonZeroU32;

use serde::Deserialize;

use crate::machine::ModelShape;

/// The adapters of a workload.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterSet {
    /// How many there are.
    pub count: NonZeroU32,
    /// Their ranks, dealt out in turn.
    pub ranks: Vec<NonZeroU32>,
    /// What of each layer they change.
    pub projections: Vec<Projection>,
}

/// A projection of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Projection {
    /// To queries.
    Q,
    /// To keys.
    K,
    /// To values.
    V,
    /// From attention.
    O,
    /// To what is gated by.
    Gate,
    /// To what is gated.
    Up,
    /// From what was gated.
    Down,
}

/// An adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterShape {
    /// Its rank r.
    pub rank: u32,
    /// Bytes of its A (inputs × r) and B (r × outputs) over all layers, in f16.
    pub bytes: u64,
}

impl AdapterSet {
    /// Each adapter over a model.
    #[must_use]
    pub fn shapes(&self, model: &ModelShape) -> Vec<AdapterShape> {
        let sides: u64 = self.projections.iter().map(|projection| projection.sides(model)).sum();
        let shape = |rank: &NonZeroU32| AdapterShape {
            rank: rank.get(),
            bytes: u64::from(rank.get()) * sides * u64::from(model.layers.get()) * 2,
        };
        self.ranks.iter().map(shape).cycle().take(self.count.get() as usize).collect()
    }

    /// What is wrong with it: the field, and what was expected.
    pub(crate) fn fault(&self) -> Option<(&'static str, String)> {
        let empty = |field| Some((field, "an empty list, expected at least one".to_owned()));
        match (self.ranks.is_empty(), self.projections.is_empty()) {
            (true, _) => empty("adapters.ranks"),
            (_, true) => empty("adapters.projections"),
            _ => None,
        }
    }
}

impl Projection {
    /// Inputs and outputs together.
    fn sides(self, model: &ModelShape) -> u64 {
        let of = |heads: NonZeroU32| u64::from(heads.get()) * u64::from(model.head_dim.get());
        let hidden = u64::from(model.hidden.get());
        hidden
            + match self {
                Self::Q | Self::O => of(model.heads),
                Self::K | Self::V => of(model.kv_heads),
                Self::Gate | Self::Up | Self::Down => u64::from(model.intermediate.get()),
            }
    }
}
