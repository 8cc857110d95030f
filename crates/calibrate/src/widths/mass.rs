//! How much chunks are attended to, by all layers and heads and by a few, and how far these agree.

use interleaf_contract::CHUNK_TOKENS;
use interleaf_runtime::{Engine, EngineError, Feed, MassSampling, RowKind, SequenceHandle, Want};

use crate::spread::mean;

/// How attention falls on chunks.
#[derive(Debug, Clone)]
pub struct MassShape {
    /// What the tenth, the quarter and the half of a window's chunks that get most have of what all get, the newest left out:
    /// means over windows.
    pub top: [f64; 3],
    /// Of each sampling of the ways, how its order of chunks agrees with that of all layers and heads: Spearman's ρ, the mean over
    /// windows and the least.
    pub agreement: Vec<(MassSampling, [f64; 2])>,
}

/// How much each chunk of a prefix is attended to while it is computed, over all rows that see it.
pub fn densities(
    engine: &mut Engine,
    sequence: SequenceHandle,
    sampling: MassSampling,
    before: &[u32],
) -> Result<Vec<f64>, EngineError> {
    engine.measure_mass(Some(sampling))?;
    let chunks = before.len() / CHUNK_TOKENS;
    let mut densities = vec![0.0; chunks];
    for tokens in before.chunks(128) {
        let feed = Feed { sequence, tokens, kind: RowKind::Prompt, want: Want::Nothing };
        for fed in engine.feed(&[feed])? {
            densities.iter_mut().zip(&fed.mass).for_each(|(density, mass)| *density += f64::from(*mass));
        }
    }
    engine.measure_mass(None)?;
    // Pairs of a token of the chunk and one that sees it.
    let within = (CHUNK_TOKENS * (CHUNK_TOKENS + 1) / 2) as f64;
    let seen = |chunk: usize| within + (CHUNK_TOKENS * CHUNK_TOKENS * (chunks - 1 - chunk)) as f64;
    densities.iter_mut().enumerate().for_each(|(chunk, density)| *density /= seen(chunk));
    Ok(densities)
}

/// Sums over windows.
#[derive(Debug, Default)]
pub struct MassSums {
    windows: f64,
    top: [f64; 3],
    agreement: Vec<(MassSampling, Vec<f64>)>,
}

impl MassSums {
    /// Takes in the densities of a window's chunks, of which so many are counted, those of all layers and heads first.
    pub fn add(&mut self, densities: &[(MassSampling, Vec<f64>)], counted: usize) {
        self.windows += 1.0;
        let all = &densities[0].1[..counted];
        let mut sorted = all.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let sum: f64 = sorted.iter().sum();
        for (top, share) in self.top.iter_mut().zip([0.1, 0.25, 0.5]) {
            let count = ((counted as f64 * share).ceil() as usize).min(counted);
            *top += sorted[..count].iter().sum::<f64>() / sum;
        }
        for (sampling, of) in &densities[1..] {
            let agreement = spearman(all, &of[..counted]);
            match self.agreement.iter_mut().find(|(other, _)| other == sampling) {
                Some((_, all)) => all.push(agreement),
                None => self.agreement.push((*sampling, vec![agreement])),
            }
        }
    }

    pub fn finish(self) -> MassShape {
        let of = |(sampling, all): (MassSampling, Vec<f64>)| {
            (sampling, [mean(&all), all.iter().copied().fold(1.0, f64::min)])
        };
        let top = self.top.map(|sum| sum / self.windows.max(1.0));
        MassShape { top, agreement: self.agreement.into_iter().map(of).collect() }
    }
}

/// Spearman's ρ: the correlation of ranks.
fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let ranks = |values: &[f64]| {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
        let mut ranks = vec![0.0; values.len()];
        order.into_iter().enumerate().for_each(|(rank, i)| ranks[i] = rank as f64);
        ranks
    };
    let (a, b) = (ranks(a), ranks(b));
    let middle = (a.len() as f64 - 1.0) / 2.0;
    let product: f64 = a.iter().zip(&b).map(|(a, b)| (a - middle) * (b - middle)).sum();
    let square: f64 = a.iter().map(|a| (a - middle).powi(2)).sum();
    if square > 0.0 { product / square } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_that_agree_are_told_from_those_that_do_not() {
        let all = [0.1, 0.4, 0.2, 0.9];
        assert_eq!(spearman(&all, &[1.0, 4.0, 2.0, 9.0]), 1.0);
        assert_eq!(spearman(&all, &[9.0, 2.0, 4.0, 1.0]), -1.0);
        assert!((spearman(&all, &[0.1, 0.4, 0.9, 0.2]) - 0.2).abs() < 1e-12);
    }
}
