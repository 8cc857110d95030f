//! How far the outputs over one cache are from those over another.

use interleaf_runtime::{Engine, EngineError, Feed, RowKind, SequenceHandle, Want};

use crate::spread::{mean, quantile};

/// Rows fed at once while scoring: enough to keep every core busy, few enough that their logits are small beside the
/// weights.
const PIECE: usize = 64;

/// Outputs over the adapter's own cache, position by position.
#[derive(Debug)]
pub struct Reference {
    vocabulary: usize,
    /// Natural logarithms of probabilities, positions × vocabulary.
    logs: Vec<f32>,
}

/// What outputs over another cache are like beside them.
#[derive(Debug, Default, Clone)]
pub struct Score {
    /// Σ p·(ln p − ln q) of each position, in nats.
    pub kl: Vec<f64>,
    /// Positions whose most likely token is the same.
    pub same_top: usize,
    /// Σ −ln q of the tokens that followed.
    pub nll: f64,
    /// Σ −ln p of them.
    pub own_nll: f64,
}

/// What the outputs of all scored positions came to.
#[derive(Debug, Clone)]
pub struct Divergence {
    /// Of each position, in nats, ascending.
    pub kl: Vec<f64>,
    /// Share of positions whose most likely token is the same.
    pub same_top: f64,
    /// Mean negative log likelihood, in nats, of the tokens that followed, over this cache and over the exact one.
    pub nll: [f64; 2],
}

impl Divergence {
    /// The mean, in nats.
    #[must_use]
    pub fn mean(&self) -> f64 {
        mean(&self.kl)
    }

    /// What a share of positions is at or below, in nats.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        quantile(&self.kl, share)
    }

    /// The perplexity as a multiple of that over the exact cache.
    #[must_use]
    pub fn perplexity_ratio(&self) -> f64 {
        (self.nll[0] - self.nll[1]).exp()
    }
}

impl Score {
    /// Takes in that of other positions.
    pub fn add(&mut self, other: Self) {
        self.kl.extend(other.kl);
        self.same_top += other.same_top;
        self.nll += other.nll;
        self.own_nll += other.own_nll;
    }

    pub fn finish(mut self) -> Divergence {
        self.kl.sort_by(f64::total_cmp);
        let scored = (self.kl.len() as f64).max(1.0);
        Divergence {
            same_top: self.same_top as f64 / scored,
            nll: [self.nll / scored, self.own_nll / scored],
            kl: self.kl,
        }
    }
}

impl Reference {
    /// Reads tokens after a sequence's cache. The last token is only to be predicted.
    pub fn new(engine: &mut Engine, sequence: SequenceHandle, tokens: &[u32]) -> Result<Self, EngineError> {
        let vocabulary = engine.config().vocab_size;
        let mut logs = Vec::with_capacity(tokens.len() * vocabulary);
        each_row(engine, sequence, tokens, |row| {
            let at = logs.len();
            logs.extend_from_slice(row);
            log_softmax(&mut logs[at..]);
        })?;
        Ok(Self { vocabulary, logs })
    }

    /// Reads the same tokens after another cache.
    pub fn score(
        &self,
        engine: &mut Engine,
        sequence: SequenceHandle,
        tokens: &[u32],
    ) -> Result<Score, EngineError> {
        let mut score = Score::default();
        let mut own = self.logs.chunks_exact(self.vocabulary).zip(&tokens[1..]);
        let mut logs = vec![0.0; self.vocabulary];
        each_row(engine, sequence, tokens, |row| {
            let Some((own, &next)) = own.next() else { return };
            logs.copy_from_slice(row);
            log_softmax(&mut logs);
            let divergence = |(p, q): (&f32, &f32)| f64::from(p.exp()) * (f64::from(*p) - f64::from(*q));
            score.kl.push(own.iter().zip(&logs).map(divergence).sum());
            score.same_top += usize::from(top(own) == top(&logs));
            score.nll -= f64::from(logs[next as usize]);
            score.own_nll -= f64::from(own[next as usize]);
        })?;
        Ok(score)
    }
}

/// Shows the logits after every token but the last.
fn each_row(
    engine: &mut Engine,
    sequence: SequenceHandle,
    tokens: &[u32],
    mut row: impl FnMut(&[f32]),
) -> Result<(), EngineError> {
    let vocabulary = engine.config().vocab_size;
    let (_, inputs) = tokens.split_last().unwrap_or((&0, &[]));
    for piece in inputs.chunks(PIECE) {
        let feed = Feed { sequence, tokens: piece, kind: RowKind::Prompt, want: Want::Logits };
        for fed in engine.feed(&[feed])? {
            fed.logits.chunks_exact(vocabulary).for_each(&mut row);
        }
    }
    Ok(())
}

fn log_softmax(logits: &mut [f32]) {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - most).exp())).sum();
    let log = f64::from(most) + sum.ln();
    logits.iter_mut().for_each(|logit| *logit = (f64::from(*logit) - log) as f32);
}

/// The first of the largest.
fn top(values: &[f32]) -> usize {
    let (mut best, mut at) = (f32::NEG_INFINITY, 0);
    for (i, value) in values.iter().enumerate() {
        if *value > best {
            (best, at) = (*value, i);
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_of_probabilities() {
        let mut logits = [1.0, 1.0, f32::NEG_INFINITY, 1.0 + 2.0f32.ln()];
        log_softmax(&mut logits);
        let expected = [0.25f32.ln(), 0.25f32.ln(), f32::NEG_INFINITY, 0.5f32.ln()];
        logits.iter().zip(expected).for_each(|(a, b)| assert!(a == &b || (a - b).abs() < 1e-6));
        assert_eq!(top(&logits), 3);
    }
}
