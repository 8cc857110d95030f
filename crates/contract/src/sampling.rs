//! How a token is chosen from logits.

/// The choice of a token, reproducible from `(seed, sequence, step)` and the row's logits alone.
///
/// Applied in this order: bias, repeat penalty, temperature, top-k, top-p, min-p, then one draw. The draw is
/// the first word of PCG4D (Jarzynski and Olano, "Hash Functions for GPU Rendering", JCGT 9(3), 2020)
/// over `(seed low, seed high, sequence, step)`, its upper 24 bits as a fraction of 2²⁴: counter-based,
/// so that the rows of a batch draw independently of each other on any device.
/// A logit that is NaN or −∞ is never chosen; one that has grown to +∞ counts as the largest f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    /// Added to the logits of these tokens; −∞ bans a token. Biases of one token add up.
    pub bias: Vec<(u32, f32)>,
    /// Logits are divided by it; 0 is greedy: the largest logit, the lowest id among equals.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the shortest run of most likely tokens whose probabilities reach it; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this share as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Logits of tokens in `history` are divided by it if positive, multiplied if negative (CTRL,
    /// Keskar et al. 2019, §4.1); 1 changes nothing.
    pub repeat_penalty: f32,
    /// The tokens that the penalty looks at.
    pub history: Vec<u32>,
    /// The seed of the generator.
    pub seed: u64,
    /// Which sequence draws: sequences with the same seed draw independently.
    pub sequence: u32,
    /// How many tokens the sequence has drawn before.
    pub step: u32,
}

impl Sampler {
    /// The largest logit, with no bias or penalty.
    #[must_use]
    pub fn greedy() -> Self {
        Self {
            bias: Vec::new(),
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            history: Vec::new(),
            seed: 0,
            sequence: 0,
            step: 0,
        }
    }
}
