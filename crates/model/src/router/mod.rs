//! The head that chooses adapters for prompts: linear over pooled hidden states of the base model, a probability for each
//! adapter on its own.
//!
//! Reads, checks and writes its file, and scores what is pooled. Running the model is `interleaf-runtime`'s, fitting a head
//! `interleaf-calibrate`'s.
//!
//! The file is safetensors: `weight`, labels × features, and `bias`, one for each label, both f32, over features as they are
//! pooled. Its one entry of metadata, `router`, is a JSON object that names the model by its digest.

mod read;
mod write;

use crate::Digest;

/// Raised when a file of old would mean something else now.
const VERSION: usize = 1;

/// The most labels of a head.
pub const MOST_LABELS: usize = 1 << 16;

/// The most tokens that are scored.
pub const MOST_SCORED: usize = 1 << 14;

/// How the hidden states of a prompt's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The last token's.
    Last,
    /// Their mean, and behind it the last token's.
    MeanAndLast,
}

impl Pooling {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mean, Self::Last, Self::MeanAndLast];

    /// Its name in files and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Last => "last",
            Self::MeanAndLast => "mean+last",
        }
    }

    /// The pooling of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|pooling| pooling.name() == name)
    }

    /// Vectors of the hidden size that it makes of a layer.
    #[must_use]
    pub const fn parts(self) -> usize {
        match self {
            Self::Mean | Self::Last => 1,
            Self::MeanAndLast => 2,
        }
    }

    /// Pools a layer's states, tokens × hidden, and puts what comes of it behind `features`. Of no tokens comes nothing.
    pub fn pool(self, states: &[f32], hidden: usize, features: &mut Vec<f32>) {
        let rows = states.len().checked_div(hidden).unwrap_or(0);
        if rows == 0 {
            return;
        }
        if self != Self::Last {
            // In f64, so that the order of tokens decides nothing that is kept.
            let mean = |at: usize| {
                states.iter().skip(at).step_by(hidden).map(|state| f64::from(*state)).sum::<f64>()
                    / rows as f64
            };
            features.extend((0..hidden).map(|at| mean(at) as f32));
        }
        if self != Self::Mean {
            features.extend_from_slice(&states[(rows - 1) * hidden..]);
        }
    }
}

/// Which of a prompt's hidden states a head looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looks {
    /// By layer, ascending: the normed states that the layer's attention is given, and by the number of layers what the model's
    /// own head is given.
    pub layers: Vec<usize>,
    /// How each layer's become one vector.
    pub pooling: Pooling,
    /// Of so many tokens at the beginning of a prompt, or of all if it is shorter.
    pub tokens: usize,
}

impl Looks {
    /// Features of a model with so many elements in a hidden state.
    #[must_use]
    pub fn features(&self, hidden: usize) -> usize {
        self.layers.len() * self.pooling.parts() * hidden
    }
}

/// What an output of a head stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterLabel {
    /// The adapter's name.
    pub name: String,
    /// What it was when the head was fitted, if that was known.
    pub adapter: Option<Digest>,
}

/// What a head was fitted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterOrigin {
    /// Where the prompts are from.
    pub data: String,
    /// Their bytes ([`Digest::of_bytes`]).
    pub data_digest: Digest,
    /// How many of them.
    pub prompts: usize,
    /// Whether they were given to the model through its chat template.
    pub is_chat: bool,
}

/// A head: the probability that adapter *i* suits a prompt is σ((w_i · features + b_i) / temperature), each on its own (a
/// multi-label head as EdgeLoRA's, MobiSys 2025, arXiv 2507.01438, over pooled states in place of a model that is fine-tuned).
#[derive(Debug, Clone, PartialEq)]
pub struct RouterHead {
    /// The model whose states it looks at.
    pub model: Digest,
    /// What it was fitted to.
    pub origin: RouterOrigin,
    /// What it looks at.
    pub looks: Looks,
    /// What logits are divided by, so that probabilities are as sure as they are right.
    pub temperature: f32,
    /// Its outputs.
    pub labels: Vec<RouterLabel>,
    /// Labels × features.
    pub weight: Vec<f32>,
    /// By label.
    pub bias: Vec<f32>,
}

impl RouterHead {
    /// Features of a prompt that it takes.
    #[must_use]
    pub fn features(&self) -> usize {
        self.weight.len().checked_div(self.labels.len()).unwrap_or(0)
    }

    /// The probability of each label, in their order: `features` are [`RouterHead::features`] of them, and others than that
    /// are left out.
    #[must_use]
    pub fn score(&self, features: &[f32]) -> Vec<f32> {
        let rows = self.weight.chunks_exact(self.features().max(1)).zip(&self.bias);
        let logit = |(row, bias): (&[f32], &f32)| {
            let product: f64 = row.iter().zip(features).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            (product + f64::from(*bias)) / f64::from(self.temperature)
        };
        rows.map(|row| (1.0 / (1.0 + (-logit(row)).exp())) as f32).collect()
    }
}

#[cfg(test)]
mod tests;
