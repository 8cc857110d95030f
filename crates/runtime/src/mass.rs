//! What attention steps are asked for so that chunks can be told by how much they are attended to: of which layers and heads.
//! Summing up is a kernel's, keeping the sums the KV manager's.

use interleaf_contract::MassSample;
use interleaf_model::ModelConfig;

use crate::EngineError;

/// Of which layers and heads it is measured how much they attend to. By default every other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MassSampling {
    /// One layer of so many, of those whose tokens see all before them; at least 1.
    pub layers: usize,
    /// One key/value head of so many, with all query heads that read it; at least 1.
    pub heads: usize,
}

impl Default for MassSampling {
    fn default() -> Self {
        Self { layers: 2, heads: 2 }
    }
}

impl MassSampling {
    /// Every one.
    pub const ALL: Self = Self { layers: 1, heads: 1 };

    /// Whether it is one.
    pub(crate) fn check(self) -> Result<(), EngineError> {
        let options =
            [("layers of which one is measured", self.layers), ("heads of which one is", self.heads)];
        match options.into_iter().find(|(_, every)| *every == 0) {
            Some((option, _)) => {
                Err(EngineError::InvalidOption { option, expected: "at least 1", found: "0".into() })
            }
            None => Ok(()),
        }
    }

    /// How many tokens up to itself a row sees in the layers that are measured; `None` for all before it.
    pub(crate) fn window(self, config: &ModelConfig) -> Option<usize> {
        let windows = || config.layer_kinds.iter().map(|kind| kind.window);
        if windows().any(|window| window.is_none()) { None } else { windows().flatten().max() }
    }

    /// The layers of a model. Those with a window say nothing of chunks that are out of it: they are measured only where no layer
    /// sees all, and then those that see most.
    pub(crate) fn of(self, config: &ModelConfig) -> MassSample {
        let most = self.window(config);
        let seeing: Vec<usize> =
            (0..config.layers).filter(|layer| config.layer_kinds[*layer].window == most).collect();
        // From the middle of so many on, since the first layers' attention is like no other's.
        let first = (self.layers / 2).min(seeing.len().saturating_sub(1));
        let layers = seeing.into_iter().skip(first).step_by(self.layers.max(1));
        MassSample {
            layers: layers.map(|layer| u32::try_from(layer).unwrap_or(u32::MAX)).collect(),
            every: u32::try_from(self.heads.max(1)).unwrap_or(u32::MAX),
        }
    }
}
