//! How a request wants its tokens chosen.

use interleaf_contract::Sampler;

use crate::EngineError;

/// Sampling of one request. The default is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingOptions {
    /// Added to the logits of these tokens before all else; −∞ bans a token. Biases of one token add up.
    pub logit_bias: Vec<(u32, f32)>,
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 keeps all tokens.
    pub top_k: u32,
    /// 1 keeps all tokens.
    pub top_p: f32,
    /// 0 keeps all tokens.
    pub min_p: f32,
    /// 1 penalises nothing.
    pub repeat_penalty: f32,
    /// How many of the last tokens, prompt included, the penalty looks at.
    pub repeat_window: usize,
    /// Of the generator. The same seed, prompt and backend give the same answer in any batch.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            logit_bias: Vec::new(),
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_window: 64,
            seed: 0,
        }
    }
}

impl SamplingOptions {
    /// Checks every option's range.
    ///
    /// # Errors
    /// Names the option, what it may be and what it was.
    pub fn check(&self) -> Result<(), EngineError> {
        let rules: [(&'static str, &'static str, f32, bool); 4] = [
            ("temperature", "finite and at least 0", self.temperature, self.temperature >= 0.0),
            ("top-p", "above 0 and at most 1", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0),
            ("min-p", "from 0 to 1", self.min_p, (0.0..=1.0).contains(&self.min_p)),
            ("repeat-penalty", "finite and above 0", self.repeat_penalty, self.repeat_penalty > 0.0),
        ];
        for (option, expected, found, holds) in rules {
            if !holds || !found.is_finite() {
                return Err(EngineError::InvalidOption { option, expected, found: found.to_string() });
            }
        }
        let unfit = |bias: &f32| bias.is_nan() || *bias == f32::INFINITY;
        match self.logit_bias.iter().find(|(_, bias)| unfit(bias)) {
            Some((_, found)) => {
                let (option, expected) = ("logit-bias", "finite or −∞");
                Err(EngineError::InvalidOption { option, expected, found: found.to_string() })
            }
            None => Ok(()),
        }
    }

    /// The draw number `step` of a sequence whose tokens so far are `history`.
    pub(crate) fn sampler(&self, step: u32, history: &[u32]) -> Sampler {
        let window = if self.repeat_penalty == 1.0 { 0 } else { self.repeat_window };
        Sampler {
            bias: self.logit_bias.clone(),
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            history: history[history.len().saturating_sub(window)..].to_vec(),
            seed: self.seed,
            // A request's draws must not depend on what else is in the batch, so not on its index.
            sequence: 0,
            step,
        }
    }
}
