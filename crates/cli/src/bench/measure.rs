//! Takes the time of a row.

use std::time::Instant;

use indicatif::ProgressBar;
use interleaf_runtime::{DeviceWork, Engine, Feed, RowKind, Sampler, SequenceHandle, Want};

use super::case::{Case, Test};
use crate::CliError;
use crate::args::BenchArgs;

/// Steps of generating that warm up caches, page tables and clocks.
const WARM_UP_STEPS: usize = 8;

/// The seconds of each repetition of each case, and what a device that counts did in all of them.
pub type Measured = (Vec<Vec<f64>>, Vec<Option<DeviceWork>>);

/// The seconds that each repetition of each case took, and what a device that counts did in all of them. Cases are of one test, batch and depth, and take turns: prompt by
/// prompt, or token by token. Every sequence is filled to the depth once, and cut back to it after each repetition;
/// neither is timed.
pub fn seconds(
    engine: &mut Engine,
    cases: &[Case],
    args: &BenchArgs,
    bar: &ProgressBar,
) -> Result<Measured, CliError> {
    let Some(&Case { test, depth, .. }) = cases.first() else { return Ok((Vec::new(), Vec::new())) };
    let tokens = Tokens { vocabulary: engine.config().vocab_size };
    let all = cases.iter().map(|case| case.batch).sum();
    engine.reserve_kv(all, depth + test.tokens())?;
    let mut contexts = Vec::with_capacity(cases.len());
    for case in cases {
        let open = |i| engine.open_sequence(case.adapter(i).as_deref(), &[]);
        contexts.push((0..case.batch).map(open).collect::<Result<Vec<SequenceHandle>, _>>()?);
    }
    for (done, &sequence) in contexts.iter().flatten().enumerate().filter(|_| depth > 0) {
        bar.set_message(format!("{}: filling the cache, {done} of {all}", test.name()));
        read(engine, sequence, &tokens.take(depth), args.prefill_rows, &Want::Nothing)?;
    }
    bar.set_message(test.name());
    let prompt = tokens.take(test.tokens());
    let mut done: Vec<Option<DeviceWork>> = vec![None; cases.len()];
    let once = |engine: &mut Engine, most: usize, done: &mut [Option<DeviceWork>]| {
        let mut seconds = vec![0.0; cases.len()];
        engine.take_work();
        match test {
            Test::Prompt(_) => {
                let want = Want::Token(Sampler::greedy());
                for ((seconds, sequences), done) in seconds.iter_mut().zip(&contexts).zip(done) {
                    let start = Instant::now();
                    sequences.iter().try_for_each(|&s| read(engine, s, &prompt, args.prefill_rows, &want))?;
                    *seconds = start.elapsed().as_secs_f64();
                    add(done, engine.take_work());
                }
            }
            Test::Generate(steps) => {
                let first = |sequences: &Vec<_>| vec![tokens.first(); sequences.len()];
                let mut tokens: Vec<Vec<u32>> = contexts.iter().map(first).collect();
                for _ in 0..steps.min(most) {
                    let parts = seconds.iter_mut().zip(&contexts).zip(&mut tokens).zip(done.iter_mut());
                    for (((seconds, sequences), tokens), done) in parts {
                        let start = Instant::now();
                        generate(engine, sequences, tokens)?;
                        *seconds += start.elapsed().as_secs_f64();
                        add(done, engine.take_work());
                    }
                }
            }
        }
        for &sequence in contexts.iter().flatten() {
            engine.truncate_sequence(sequence, depth)?;
        }
        bar.inc(cases.len() as u64);
        Ok::<_, CliError>(seconds)
    };
    once(engine, WARM_UP_STEPS, &mut vec![None; cases.len()])?;
    let mut seconds = vec![Vec::with_capacity(args.repetitions); cases.len()];
    for _ in 0..args.repetitions {
        let repetition = once(engine, usize::MAX, &mut done)?;
        seconds.iter_mut().zip(repetition).for_each(|(seconds, one)| seconds.push(one));
    }
    for sequence in contexts.into_iter().flatten() {
        engine.close_sequence(sequence)?;
    }
    Ok((seconds, done))
}

/// Adds what a device did to what it did before.
fn add(done: &mut Option<DeviceWork>, more: Option<DeviceWork>) {
    match (done.as_mut(), more) {
        (Some(done), Some(more)) => done.add(more),
        (None, more) => *done = more,
        (Some(_), None) => {}
    }
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

/// Every sequence generates a token from its last, which it replaces.
fn generate(engine: &mut Engine, sequences: &[SequenceHandle], tokens: &mut [u32]) -> Result<(), CliError> {
    let feeds: Vec<Feed<'_>> = (sequences.iter().zip(&*tokens))
        .map(|(&sequence, token)| Feed {
            sequence,
            tokens: std::slice::from_ref(token),
            kind: RowKind::Generated,
            want: Want::Token(Sampler::greedy()),
        })
        .collect();
    let chosen: Vec<Option<u32>> = engine.feed(&feeds)?.into_iter().map(|fed| fed.token).collect();
    // Without a token that could be chosen the last one is fed again.
    tokens.iter_mut().zip(chosen).for_each(|(token, next)| *token = next.unwrap_or(*token));
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
