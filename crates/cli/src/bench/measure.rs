//! Takes the time of a row.

use std::time::Instant;

use indicatif::ProgressBar;
use interleaf_runtime::{Engine, Feed, RowKind, Sampler, SequenceHandle, Want};

use super::case::{Case, Test};
use crate::CliError;
use crate::args::BenchArgs;

/// Steps of generating that warm up caches, page tables and clocks.
const WARM_UP_STEPS: usize = 8;

/// The seconds that each repetition took. Every sequence is filled to the row's depth once, and cut back to it
/// after each repetition; neither is timed.
pub fn seconds(
    engine: &mut Engine,
    case: &Case,
    args: &BenchArgs,
    bar: &ProgressBar,
) -> Result<Vec<f64>, CliError> {
    engine.reserve_kv(case.batch, case.depth + case.test.tokens())?;
    let sequences: Vec<SequenceHandle> = (0..case.batch)
        .map(|i| engine.open_sequence(case.adapter(i).as_deref(), &[]))
        .collect::<Result<_, _>>()?;
    let tokens = Tokens { vocabulary: engine.config().vocab_size };
    for (done, &sequence) in sequences.iter().enumerate().filter(|_| case.depth > 0) {
        bar.set_message(format!("{}: filling the cache, {done} of {}", case.test.name(), case.batch));
        read(engine, sequence, &tokens.take(case.depth), args.prefill_rows, &Want::Nothing)?;
    }
    bar.set_message(case.test.name());
    let prompt = tokens.take(case.test.tokens());
    let once = |engine: &mut Engine, most: usize| -> Result<f64, CliError> {
        let start = Instant::now();
        match case.test {
            Test::Prompt(_) => {
                let want = Want::Token(Sampler::greedy());
                sequences.iter().try_for_each(|&s| read(engine, s, &prompt, args.prefill_rows, &want))?;
            }
            Test::Generate(steps) => generate(engine, &sequences, tokens.first(), steps.min(most))?,
        }
        let seconds = start.elapsed().as_secs_f64();
        for &sequence in &sequences {
            engine.truncate_sequence(sequence, case.depth)?;
        }
        bar.inc(1);
        Ok(seconds)
    };
    once(engine, WARM_UP_STEPS)?;
    let seconds = (0..args.repetitions).map(|_| once(engine, usize::MAX)).collect::<Result<_, _>>()?;
    for sequence in sequences {
        engine.close_sequence(sequence)?;
    }
    Ok(seconds)
}

/// Reads a prompt in pieces, as the engine's own loop does.
fn read(
    engine: &mut Engine,
    sequence: SequenceHandle,
    tokens: &[u32],
    rows: usize,
    last: &Want,
) -> Result<(), CliError> {
    let pieces = tokens.len().div_ceil(rows);
    for (piece, tokens) in tokens.chunks(rows).enumerate() {
        let want = if piece + 1 == pieces { last.clone() } else { Want::Nothing };
        engine.feed(&[Feed { sequence, tokens, kind: RowKind::Prompt, want }])?;
    }
    Ok(())
}

/// Every sequence generates, each token from the one before.
fn generate(
    engine: &mut Engine,
    sequences: &[SequenceHandle],
    first: u32,
    steps: usize,
) -> Result<(), CliError> {
    let mut tokens = vec![first; sequences.len()];
    for _ in 0..steps {
        let feeds: Vec<Feed<'_>> = (sequences.iter().zip(&tokens))
            .map(|(&sequence, token)| Feed {
                sequence,
                tokens: std::slice::from_ref(token),
                kind: RowKind::Generated,
                want: Want::Token(Sampler::greedy()),
            })
            .collect();
        let chosen: Vec<Option<u32>> = engine.feed(&feeds)?.into_iter().map(|fed| fed.token).collect();
        tokens.iter_mut().zip(chosen).for_each(|(token, next)| *token = next.unwrap_or(first));
    }
    Ok(())
}

/// Tokens from all over a vocabulary, so that no two rows of the embedding are near each other.
struct Tokens {
    vocabulary: usize,
}

impl Tokens {
    fn first(&self) -> u32 {
        self.at(0)
    }

    fn take(&self, count: usize) -> Vec<u32> {
        (0..count).map(|index| self.at(index)).collect()
    }

    /// Steps by the golden ratio of 2³².
    fn at(&self, index: usize) -> u32 {
        let spread = (index as u32).wrapping_add(1).wrapping_mul(0x9e37_79b9);
        let token = (u64::from(spread) * self.vocabulary as u64) >> 32;
        // Below the vocabulary, whose tokens are numbered in 32 bits.
        token as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_spread_over_the_vocabulary() {
        let tokens = Tokens { vocabulary: 1000 }.take(500);
        assert!(tokens.iter().all(|token| *token < 1000));
        let distinct: std::collections::BTreeSet<_> = tokens.iter().collect();
        assert!(distinct.len() > 450, "{}", distinct.len());
    }
}
