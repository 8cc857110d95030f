//! `interleaf generate`: one prompt, streamed.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use interleaf_runtime::{AdapterScore, Completion, Engine, Event, Request, Routed};
use serde::Serialize;

use crate::args::GenerateArgs;
use crate::first_touch::{self, FirstTouchRow};
use crate::keys::{self, KeyRow};
use crate::memory::{MemoryRow, backend_line};
use crate::{CliError, answers, interrupt, load, output, prompt, router, sampling};

#[derive(Serialize)]
struct Report<'a> {
    adapter: Option<&'a str>,
    /// What the router made of the prompt, the likeliest first, where it chose.
    routed: Option<Vec<RoutedRow<'a>>>,
    prompt: &'a str,
    text: &'a str,
    tokens: usize,
    /// What was generated, an end token left out.
    token_ids: &'a [u32],
    prompt_tokens: usize,
    /// Of these, found in the cache.
    reused_tokens: usize,
    /// A bound on the mean divergence of outputs that reading these costs, in nats.
    drift: f32,
    /// What became of a prefix that only the base had.
    first_touch: FirstTouchRow,
    /// How the keys of encoded chunks among them were read.
    keys: KeyRow,
    /// The first position that the adapter acted on.
    adapter_from: Option<usize>,
    finish_reason: &'static str,
    ttft_ms: Option<f64>,
    tokens_per_second: f64,
    memory: MemoryRow,
    backend: String,
}

#[derive(Serialize)]
struct RoutedRow<'a> {
    label: &'a str,
    probability: f32,
    /// What it is registered as.
    adapter: Option<&'a str>,
}

/// Answers the prompt.
pub fn run(args: &GenerateArgs) -> Result<ExitCode, CliError> {
    interrupt::listen();
    let (mut engine, adapter) = load::open_chosen(&args.model, &load::run_options(&args.run))?;
    let mut request = Request {
        prompt: prompt::one_turn(&engine, args.system.as_deref(), &args.prompt, args.raw)?,
        adapter,
        max_tokens: args.max_tokens,
        sampling: sampling::options(&engine, &args.sampling),
        stop: args.sampling.stop.clone(),
        end_tokens: engine.model().generation_defaults().eos.clone(),
        drift: args.drift,
    };
    request.sampling.check()?;
    let longest = request.prompt.len().saturating_add(args.max_tokens).min(engine.context());
    engine.reserve_kv(1, longest)?;
    let routed = match args.route {
        true => Some(route(&mut engine, &mut request)?),
        false => None,
    };

    let mut stdout = std::io::stdout().lock();
    let bar = load::bar(request.prompt.len(), "prefill");
    let mut written = Ok(());
    let answers = engine.generate(std::slice::from_ref(&request), &mut |event| {
        match event {
            Event::Prefill { done, total, .. } => {
                bar.set_position(done as u64);
                if done == total {
                    bar.finish_and_clear();
                }
            }
            Event::Text { text, .. } if !args.json => {
                written = write!(stdout, "{text}").and_then(|()| stdout.flush());
            }
            // The command line suspends no GPU.
            Event::Text { .. } | Event::Finished { .. } | Event::Suspended => {}
        }
        if written.is_err() { std::ops::ControlFlow::Break(()) } else { interrupt::check() }
    });
    bar.finish_and_clear();
    // What was swapped out is there in the next run.
    engine.flush_swap()?;
    written?;
    let (mut answers, failure) = answers::kept(answers)?;
    let answer = answers.remove(0);
    if args.json {
        let report = Report {
            adapter: request.adapter.as_deref(),
            routed: routed.as_ref().map(rows),
            prompt: &args.prompt,
            text: &answer.text,
            tokens: answer.tokens.len(),
            token_ids: &answer.tokens,
            prompt_tokens: answer.prompt_tokens,
            reused_tokens: answer.reused_tokens,
            drift: answer.drift,
            first_touch: answer.first_touch.into(),
            keys: answer.keys.into(),
            adapter_from: answer.adapter_from,
            finish_reason: answer.reason.name(),
            ttft_ms: ttft_ms(&answer),
            tokens_per_second: answer.tokens_per_second(),
            memory: MemoryRow::of(&engine),
            backend: backend_line(&engine),
        };
        drop(stdout);
        output::json(&report)?;
    } else {
        writeln!(stdout)?;
        drop(stdout);
        if let (Some(name), None) = (&request.adapter, answer.adapter_from) {
            output::note(format_args!(
                "{name} did not act: it changes nothing here, or its invocation is not in the prompt"
            ));
        }
        summary(&engine, routed.as_ref(), &answer);
    }
    failure.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
}

/// Lets the router choose the adapter: the likeliest, since all that are registered are there.
fn route(engine: &mut Engine, request: &mut Request) -> Result<Routed, CliError> {
    router::open_head(engine, None)?;
    let routed = engine.route(&request.prompt, 1)?;
    request.adapter.clone_from(&routed.adapter);
    Ok(routed)
}

fn rows(routed: &Routed) -> Vec<RoutedRow<'_>> {
    let scores = routed.scores.iter();
    scores
        .map(|AdapterScore { label, probability, adapter, .. }| RoutedRow {
            label,
            probability: *probability,
            adapter: adapter.as_deref(),
        })
        .collect()
}

/// Who answers, and how likely it and the next ones were found.
fn routed_line(routed: &Routed) -> String {
    const SHOWN: usize = 3;
    let score = |score: &AdapterScore| format!("{} {:.1} %", score.label, 100.0 * score.probability);
    let scores: Vec<String> = routed.scores.iter().take(SHOWN).map(score).collect();
    let chosen = routed.adapter.as_deref().unwrap_or("the base, since none that it knows is there");
    format!("routed by {} tokens to {chosen}: {}", routed.scored_tokens, scores.join(", "))
}

/// To standard error, so that the answer alone can be piped on.
fn summary(engine: &Engine, routed: Option<&Routed>, answer: &Completion) {
    let first = ttft_ms(answer).map_or_else(|| "none".into(), |ms| format!("{ms:.1} ms"));
    let mut lines = vec![
        format!(
            "{} prompt tokens ({} from the cache{}), {} generated ({}), first token after {first}, then {:.1} tokens/s",
            answer.prompt_tokens,
            answer.reused_tokens,
            drift(answer),
            answer.tokens.len(),
            answer.reason.name(),
            answer.tokens_per_second()
        ),
        MemoryRow::of(engine).line(),
        format!("backend: {}", backend_line(engine)),
    ];
    lines.extend(routed.map(routed_line));
    lines.extend(first_touch::line(answer.first_touch));
    lines.extend(keys::line(answer.keys));
    let dim = std::io::stderr().is_terminal();
    for line in lines {
        if dim {
            output::note(console::style(line).for_stderr().dim());
        } else {
            output::note(line);
        }
    }
}

/// What reading from the cache cost, where it cost anything.
pub fn drift(answer: &Completion) -> String {
    if answer.drift > 0.0 { format!(", estimated drift {:.1e} nats", answer.drift) } else { String::new() }
}

/// `120 tokens: 96 from the KV cache (80 %), 24 computed`.
pub fn reuse(prompt: usize, reused: usize) -> String {
    let share = if prompt == 0 { 0.0 } else { 100.0 * reused as f64 / prompt as f64 };
    format!("{prompt} tokens: {reused} from the KV cache ({share:.0} %), {} computed", prompt - reused)
}

/// Milliseconds to the first token.
pub fn ttft_ms(answer: &Completion) -> Option<f64> {
    answer.first_token.map(|t| t.as_secs_f64() * 1e3)
}
