//! `interleaf perplexity`: how well a model predicts a text, in windows that start anew.

use std::process::ExitCode;
use std::time::Instant;

use indicatif::ProgressBar;
use interleaf_runtime::{Engine, EngineError, Feed, RowKind, Want};
use serde::Serialize;

use crate::args::PerplexityArgs;
use crate::memory::backend_line;
use crate::{CliError, load, output, verify};

/// Rows fed at once while scoring: enough to keep every core busy, few enough that their logits are
/// small beside the weights.
const PIECE: usize = 64;

#[derive(Serialize)]
struct Report {
    model: String,
    adapter: Option<String>,
    text: String,
    tokens: usize,
    windows: usize,
    mean_nll: f64,
    perplexity: f64,
    tokens_per_second: f64,
    backend: String,
}

/// Scores the text.
pub fn run(args: &PerplexityArgs) -> Result<ExitCode, CliError> {
    let text = std::fs::read_to_string(&args.text)
        .map_err(|e| CliError::File { path: args.text.clone(), reason: e.to_string() })?;
    let (mut engine, adapter) = load::open_chosen(&args.model, &load::options(&args.engine))?;
    if args.window == 0 || args.window >= engine.context() {
        let message = format!("--window must be from 1 to {}, found {}", engine.context() - 1, args.window);
        return Err(CliError::Usage(message));
    }
    let windows = windows(&engine, &text, args.window)?;
    let tokens: usize = windows.iter().map(|w| w.len() - 1).sum();
    if tokens == 0 {
        return Err(CliError::Usage(format!("{}: nothing to score", args.text.display())));
    }
    engine.reserve_kv(1, args.window + 1)?;
    let from = engine.backend().name;
    let bar = load::bar(tokens, "scoring");
    let start = Instant::now();
    let mut sum = 0.0;
    for window in &windows {
        sum += nll(&mut engine, adapter.as_deref(), window, &bar)?.iter().sum::<f64>();
    }
    bar.finish_and_clear();
    let to = engine.backend().name;
    if from != to {
        return Err(CliError::Moved { from, to });
    }
    let mean_nll = sum / tokens as f64;
    if !mean_nll.is_finite() {
        return Err(EngineError::NotANumber.into());
    }
    let report = Report {
        model: load::model_name(args.model.model.as_deref()),
        adapter,
        text: args.text.display().to_string(),
        tokens,
        windows: windows.len(),
        mean_nll,
        perplexity: mean_nll.exp(),
        tokens_per_second: tokens as f64 / start.elapsed().as_secs_f64(),
        backend: backend_line(&engine),
    };
    if args.json {
        output::json(&report)?;
    } else {
        output::line(format_args!(
            "perplexity {:.4} ({} under {}: {} tokens in {} windows, {:.0} tokens/s)\nbackend: {}",
            report.perplexity,
            report.model,
            report.adapter.as_deref().unwrap_or("no adapter"),
            report.tokens,
            report.windows,
            report.tokens_per_second,
            report.backend
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Windows of up to `scored` tokens after the first. If the tokenizer puts a special token before a text,
/// it starts every window; else a window starts with the last token of the one before.
fn windows(engine: &Engine, text: &str, scored: usize) -> Result<Vec<Vec<u32>>, CliError> {
    let tokenizer = engine.tokenizer("a text")?;
    let plain = tokenizer.encode(text, false)?;
    let marked = tokenizer.encode(text, true)?;
    let before = marked.len().checked_sub(plain.len()).filter(|n| marked[*n..] == plain[..]).unwrap_or(0);
    if before > 0 {
        let start = &marked[..before];
        return Ok(plain.chunks(scored).map(|w| [start, w].concat()).collect());
    }
    let starts = (0..plain.len().saturating_sub(1)).step_by(scored);
    Ok(starts.map(|at| plain[at..(at + scored + 1).min(plain.len())].to_vec()).collect())
}

/// The negative log likelihood, in nats, of every token after the first.
fn nll(
    engine: &mut Engine,
    adapter: Option<&str>,
    tokens: &[u32],
    bar: &ProgressBar,
) -> Result<Vec<f64>, CliError> {
    let vocabulary = engine.config().vocab_size;
    let sequence = engine.open_sequence(adapter, tokens)?;
    let mut scored = Vec::with_capacity(tokens.len().saturating_sub(1));
    let inputs = &tokens[..tokens.len() - 1];
    for (piece, inputs) in inputs.chunks(PIECE).enumerate() {
        let feed = Feed { sequence, tokens: inputs, kind: RowKind::Prompt, want: Want::Logits };
        let fed = engine.feed(&[feed])?.remove(0);
        let targets = &tokens[piece * PIECE + 1..];
        for (logits, &target) in fed.logits.chunks_exact(vocabulary).zip(targets) {
            scored.push(verify::nll(logits, target));
        }
        bar.inc(inputs.len() as u64);
    }
    engine.close_sequence(sequence)?;
    Ok(scored)
}
