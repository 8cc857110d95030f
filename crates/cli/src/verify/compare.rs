//! Runs the cases and measures each against its golden.

use std::collections::BTreeMap;

use interleaf_runtime::{Engine, Fed, Feed, RowKind, SequenceHandle, Want};
use serde::Serialize;

use super::bounds::{Allowance, Bounds, Rounding};
use super::golden::{Golden, Prompt, Target};
use crate::{CliError, load};

/// Rows of a prompt fed at once.
const PIECE: usize = 32;

/// A greedy step that chose another token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GreedyDifference {
    /// The step, from 0.
    pub step: usize,
    /// The golden's token.
    pub golden: u32,
    /// Ours.
    pub found: u32,
    /// The golden's lead over its runner-up.
    pub margin: f32,
}

/// One prompt, or the perplexity windows, of one model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Case {
    /// The base model's name.
    pub model: String,
    /// `base`, or the adapter's name.
    pub adapter: String,
    /// The prompt's name; `ppl` for the perplexity windows.
    pub prompt: String,
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Over the last position's whole vocabulary and the golden's best tokens at every position.
    pub max_abs_logit_error: Option<f64>,
    /// Over the same.
    pub mean_abs_logit_error: Option<f64>,
    /// The most that the largest may be.
    pub logit_error_bound: Option<f64>,
    /// Share of positions with the golden's most likely token.
    pub top1_agreement: Option<f64>,
    /// Whether every greedy token is the golden's.
    pub greedy_equal: Option<bool>,
    /// Where not.
    pub greedy_differences: Vec<GreedyDifference>,
    /// Over all layers given, K after the rotary embedding and V.
    pub kv_max_abs_error: Option<f64>,
    /// Of the prompt's own tokens, or of the windows.
    pub perplexity: Option<f64>,
    /// The golden's.
    pub perplexity_golden: Option<f64>,
    /// Whether every bound holds.
    pub passed: bool,
}

/// −ln p(target) from one row of logits, in f64.
#[must_use]
pub fn nll(logits: &[f32], target: u32) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&l| (f64::from(l) - max).exp()).sum();
    max + sum.ln() - logits.get(target as usize).map_or(f64::NEG_INFINITY, |&l| f64::from(l))
}

/// The token with the largest logit, the lowest among equals.
pub fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().fold(
        (0, f32::NEG_INFINITY),
        |best, (i, &l)| {
            if l > best.1 { (i, l) } else { best }
        },
    );
    u32::try_from(best.0).unwrap_or(u32::MAX)
}

/// Runs every target's prompts, then its windows. Cases of the same prompt name run as one mixed batch.
pub fn run(
    engine: &mut Engine,
    golden: &Golden,
    model: &str,
    bounds: Bounds,
    rounding: &Rounding,
) -> Result<Vec<Case>, CliError> {
    let mut by_prompt: BTreeMap<&str, Vec<(&Target, &Prompt)>> = BTreeMap::new();
    for target in &golden.targets {
        for prompt in &target.prompts {
            by_prompt.entry(&prompt.name).or_default().push((target, prompt));
        }
    }
    let bar = load::bar(by_prompt.len() + windows(golden), "comparing");
    let mut cases = Vec::new();
    for group in by_prompt.values() {
        for (measured, (target, prompt)) in run_prompts(engine, group)?.into_iter().zip(group) {
            let allowed = rounding.allowance(bounds, &target.name, &prompt.name);
            cases.push(measured.case(model, &target.name, prompt, bounds, allowed));
        }
        bar.inc(1);
    }
    for target in golden.targets.iter().filter(|t| !t.windows.is_empty()) {
        cases.push(run_windows(engine, target, model, bounds, &bar)?);
    }
    bar.finish_and_clear();
    let order = |name: &str| golden.targets.iter().position(|t| t.name == name);
    cases.sort_by_key(|c| order(&c.adapter));
    Ok(cases)
}

fn windows(golden: &Golden) -> usize {
    golden.targets.iter().map(|t| t.windows.len()).sum()
}

/// What a prompt's case adds up to.
#[derive(Default)]
struct Measured {
    max: f64,
    sum: f64,
    compared: usize,
    agreed: usize,
    nll: f64,
    differences: Vec<GreedyDifference>,
    kv: Option<f64>,
}

impl Measured {
    fn logit(&mut self, golden: f32, found: f32) {
        // A NaN must not pass as a small error.
        let error = (f64::from(golden) - f64::from(found)).abs();
        self.max = if error.is_nan() { f64::INFINITY } else { self.max.max(error) };
        self.sum += error;
        self.compared += 1;
    }

    fn top(&mut self, ids: &[u32], golden: &[f32], logits: &[f32]) {
        for (&id, &golden) in ids.iter().zip(golden) {
            self.logit(golden, logits.get(id as usize).copied().unwrap_or(f32::NAN));
        }
    }

    /// The logits at one position of the prompt.
    fn position(&mut self, prompt: &Prompt, position: usize, logits: &[f32]) {
        let best = position * prompt.best..(position + 1) * prompt.best;
        self.top(&prompt.top_ids[best.clone()], &prompt.top_logits[best.clone()], logits);
        self.agreed += usize::from(prompt.top_ids[best].first() == Some(&argmax(logits)));
        match prompt.ids.get(position + 1) {
            Some(&next) => self.nll += nll(logits, next),
            None => {
                prompt.last_logits.iter().zip(logits).for_each(|(&golden, &found)| self.logit(golden, found));
            }
        }
    }

    /// The logits that a greedy step chooses from.
    fn greedy(&mut self, prompt: &Prompt, step: usize, logits: &[f32]) {
        let (Some(&golden), Some(&margin)) = (prompt.greedy.get(step), prompt.margins.get(step)) else {
            return;
        };
        let best = step * prompt.best..(step + 1) * prompt.best;
        if let (Some(ids), Some(golden)) =
            (prompt.greedy_top_ids.get(best.clone()), prompt.greedy_top_logits.get(best))
        {
            self.top(ids, golden, logits);
        }
        let found = argmax(logits);
        if found != golden {
            self.differences.push(GreedyDifference { step, golden, found, margin });
        }
    }

    fn case(self, model: &str, adapter: &str, prompt: &Prompt, bounds: Bounds, allowed: Allowance) -> Case {
        let scored = prompt.ids.len() - 1;
        let mean = |sum: f64| (scored > 0).then(|| (sum / scored as f64).exp());
        let golden_nll = prompt.token_nll.as_ref().map(|n| n.iter().map(|&v| f64::from(v)).sum::<f64>());
        let perplexity = mean(self.nll);
        let perplexity_golden = golden_nll.and_then(mean);
        let within = |value: Option<f64>, bound: f64| value.is_none_or(|v| v <= bound);
        let greedy =
            self.differences.iter().all(|d| bounds.margin_rule && f64::from(d.margin) < 2.0 * self.max);
        let mean_error = self.sum / self.compared.max(1) as f64;
        let passed = self.max <= allowed.logit
            && mean_error <= allowed.mean_logit
            && greedy
            && within(self.kv, allowed.kv)
            && (bounds.margin_rule || within(relative(perplexity, perplexity_golden), bounds.perplexity));
        // Whatever is or is not judged, an answer that is no number is wrong.
        let finite = self.max.is_finite() && self.kv.is_none_or(f64::is_finite);
        Case {
            model: model.into(),
            adapter: adapter.into(),
            prompt: prompt.name.clone(),
            tokens: prompt.ids.len(),
            max_abs_logit_error: Some(self.max),
            mean_abs_logit_error: Some(mean_error),
            logit_error_bound: bounds.binding.then_some(allowed.logit),
            top1_agreement: Some(self.agreed as f64 / prompt.ids.len() as f64),
            greedy_equal: Some(self.differences.is_empty()),
            greedy_differences: self.differences,
            kv_max_abs_error: self.kv,
            perplexity,
            perplexity_golden,
            passed: finite && (passed || !bounds.binding),
        }
    }
}

fn relative(found: Option<f64>, golden: Option<f64>) -> Option<f64> {
    Some((found? / golden? - 1.0).abs())
}

fn run_prompts(engine: &mut Engine, group: &[(&Target, &Prompt)]) -> Result<Vec<Measured>, CliError> {
    let longest = group.iter().map(|(_, p)| p.ids.len() + p.greedy.len()).max().unwrap_or(0);
    engine.reserve_kv(group.len(), longest)?;
    let mut measured: Vec<Measured> = group.iter().map(|_| Measured::default()).collect();
    let sequences: Vec<SequenceHandle> =
        group.iter().map(|(t, p)| engine.open_sequence(t.adapter(), &p.ids)).collect::<Result<_, _>>()?;

    let prompts: Vec<&[u32]> = group.iter().map(|(_, p)| &*p.ids).collect();
    feed_prompts(engine, &sequences, &prompts, &mut |case, position, logits| {
        measured[case].position(group[case].1, position, logits);
        if position + 1 == group[case].1.ids.len() {
            measured[case].greedy(group[case].1, 0, logits);
        }
    })?;
    for (case, &(_, prompt)) in group.iter().enumerate() {
        if !prompt.kv.is_empty() {
            measured[case].kv = Some(kv_error(engine, sequences[case], prompt)?);
        }
    }
    let steps = group.iter().map(|(_, p)| p.greedy.len()).max().unwrap_or(0);
    for step in 1..steps {
        // Token `step − 1` goes in, the choice of token `step` comes out.
        let under_way: Vec<usize> = (0..group.len()).filter(|&c| step < group[c].1.greedy.len()).collect();
        let tokens: Vec<&[u32]> = under_way.iter().map(|&c| &group[c].1.greedy[step - 1..step]).collect();
        let handles: Vec<SequenceHandle> = under_way.iter().map(|&c| sequences[c]).collect();
        for (&case, fed) in under_way.iter().zip(feed(engine, &handles, &tokens, RowKind::Generated)?) {
            measured[case].greedy(group[case].1, step, &fed.logits);
        }
    }
    for sequence in sequences {
        engine.close_sequence(sequence)?;
    }
    Ok(measured)
}

fn feed(
    engine: &mut Engine,
    sequences: &[SequenceHandle],
    tokens: &[&[u32]],
    kind: RowKind,
) -> Result<Vec<Fed>, CliError> {
    let feeds: Vec<Feed<'_>> = (sequences.iter().zip(tokens))
        .map(|(&sequence, &tokens)| Feed { sequence, tokens, kind, want: Want::Logits })
        .collect();
    Ok(engine.feed(&feeds)?)
}

/// Reads prompts in pieces, all sequences in one batch; `at` sees every position's logits.
pub fn feed_prompts(
    engine: &mut Engine,
    sequences: &[SequenceHandle],
    prompts: &[&[u32]],
    at: &mut dyn FnMut(usize, usize, &[f32]),
) -> Result<(), CliError> {
    let vocabulary = engine.config().vocab_size;
    let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0);
    for start in (0..longest).step_by(PIECE) {
        let reading: Vec<usize> = (0..prompts.len()).filter(|&c| start < prompts[c].len()).collect();
        let handles: Vec<SequenceHandle> = reading.iter().map(|&c| sequences[c]).collect();
        let tokens: Vec<&[u32]> =
            reading.iter().map(|&c| &prompts[c][start..(start + PIECE).min(prompts[c].len())]).collect();
        for (&case, fed) in reading.iter().zip(feed(engine, &handles, &tokens, RowKind::Prompt)?) {
            for (i, logits) in fed.logits.chunks_exact(vocabulary).enumerate() {
                at(case, start + i, logits);
            }
        }
    }
    Ok(())
}

fn kv_error(engine: &mut Engine, sequence: SequenceHandle, prompt: &Prompt) -> Result<f64, CliError> {
    let mut worst = 0.0f64;
    for golden in &prompt.kv {
        let (k, v) = engine.read_kv(sequence, golden.layer)?;
        for (found, golden) in [(k, &golden.k), (v, &golden.v)] {
            for (f, g) in found.iter().zip(golden) {
                let error = (f64::from(*f) - f64::from(*g)).abs();
                worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
            }
        }
    }
    Ok(worst)
}

fn run_windows(
    engine: &mut Engine,
    target: &Target,
    model: &str,
    bounds: Bounds,
    bar: &indicatif::ProgressBar,
) -> Result<Case, CliError> {
    let longest = target.windows.iter().map(|w| w.ids.len()).max().unwrap_or(0);
    engine.reserve_kv(target.windows.len(), longest)?;
    let sequences: Vec<SequenceHandle> = target
        .windows
        .iter()
        .map(|w| engine.open_sequence(target.adapter(), &w.ids))
        .collect::<Result<_, _>>()?;
    // The last token is only ever predicted.
    let inputs: Vec<&[u32]> = target.windows.iter().map(|w| &w.ids[..w.ids.len() - 1]).collect();
    let mut sum = 0.0;
    feed_prompts(engine, &sequences, &inputs, &mut |case, position, logits| {
        sum += nll(logits, target.windows[case].ids[position + 1]);
    })?;
    for sequence in sequences {
        engine.close_sequence(sequence)?;
    }
    bar.inc(target.windows.len() as u64);
    let scored: usize = target.windows.iter().map(|w| w.nll.len()).sum();
    let golden: f64 = target.windows.iter().flat_map(|w| &w.nll).map(|&v| f64::from(v)).sum();
    let (perplexity, perplexity_golden) =
        (Some((sum / scored as f64).exp()), Some((golden / scored as f64).exp()));
    let passed = relative(perplexity, perplexity_golden).is_some_and(|r| r <= bounds.perplexity);
    Ok(Case {
        model: model.into(),
        adapter: target.name.clone(),
        prompt: "ppl".into(),
        tokens: scored,
        max_abs_logit_error: None,
        mean_abs_logit_error: None,
        logit_error_bound: None,
        top1_agreement: None,
        greedy_equal: None,
        greedy_differences: Vec::new(),
        kv_max_abs_error: None,
        perplexity,
        perplexity_golden,
        passed: sum.is_finite() && (passed || !bounds.binding),
    })
}
