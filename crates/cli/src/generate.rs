//! `interleaf generate`: one prompt, streamed.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use interleaf_runtime::{ChatMessage, Completion, Engine, Event, Request, SamplingOptions};
use serde::Serialize;

use crate::args::GenerateArgs;
use crate::memory::{MemoryRow, backend_line};
use crate::{CliError, interrupt, load, output};

#[derive(Serialize)]
struct Report<'a> {
    adapter: Option<&'a str>,
    prompt: &'a str,
    text: &'a str,
    tokens: usize,
    prompt_tokens: usize,
    /// The first position that the adapter acted on.
    adapter_from: Option<usize>,
    finish_reason: &'static str,
    ttft_ms: Option<f64>,
    tokens_per_second: f64,
    memory: MemoryRow,
    backend: String,
}

/// Answers the prompt.
pub fn run(args: &GenerateArgs) -> Result<ExitCode, CliError> {
    interrupt::listen();
    let (mut engine, adapter) = load::open_chosen(&args.model, &args.engine)?;
    let request = Request {
        prompt: prompt(&engine, args.system.as_deref(), &args.prompt, args.raw)?,
        adapter,
        max_tokens: args.max_tokens,
        sampling: sampling(&engine, args),
        stop: args.stop.clone(),
        end_tokens: engine.model().generation_defaults().eos.clone(),
    };
    request.sampling.check()?;
    let longest = request.prompt.len().saturating_add(args.max_tokens).min(engine.context());
    engine.reserve_kv(1, longest)?;

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
            Event::Text { .. } | Event::Finished { .. } => {}
        }
        if written.is_err() { std::ops::ControlFlow::Break(()) } else { interrupt::check() }
    });
    bar.finish_and_clear();
    written?;
    let answer = answers?.remove(0);
    if args.json {
        let report = Report {
            adapter: request.adapter.as_deref(),
            prompt: &args.prompt,
            text: &answer.text,
            tokens: answer.tokens.len(),
            prompt_tokens: answer.prompt_tokens,
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
        summary(&engine, &answer);
    }
    Ok(ExitCode::SUCCESS)
}

/// To standard error, so that the answer alone can be piped on.
fn summary(engine: &Engine, answer: &Completion) {
    let first = ttft_ms(answer).map_or_else(|| "none".into(), |ms| format!("{ms:.1} ms"));
    let lines = [
        format!(
            "{} prompt tokens, {} generated ({}), first token after {first}, then {:.1} tokens/s",
            answer.prompt_tokens,
            answer.tokens.len(),
            answer.reason.name(),
            answer.tokens_per_second()
        ),
        MemoryRow::of(engine).line(),
        format!("backend: {}", backend_line(engine)),
    ];
    let dim = std::io::stderr().is_terminal();
    for line in lines {
        if dim {
            output::note(console::style(line).for_stderr().dim());
        } else {
            output::note(line);
        }
    }
}

/// Milliseconds to the first token.
pub fn ttft_ms(answer: &Completion) -> Option<f64> {
    answer.first_token.map(|t| t.as_secs_f64() * 1e3)
}

/// The tokens of a prompt: through the chat template where the model has one, unless `raw`.
pub fn prompt(engine: &Engine, system: Option<&str>, user: &str, raw: bool) -> Result<Vec<u32>, CliError> {
    let tokenizer = engine.tokenizer("a prompt in text").map_err(CliError::from)?;
    let template = if raw { None } else { engine.chat_template() };
    match (template, system) {
        (Some(template), _) => {
            let system = system.map(|text| ChatMessage::new("system", text));
            let messages: Vec<ChatMessage> =
                system.into_iter().chain([ChatMessage::new("user", user)]).collect();
            // The template writes the special tokens itself.
            Ok(tokenizer.encode(&template.render(&messages, true)?, false)?)
        }
        (None, None) => Ok(tokenizer.encode(user, true)?),
        (None, Some(_)) if raw => Err(CliError::Usage("--system and --raw exclude each other".into())),
        (None, Some(_)) => {
            Err(CliError::Usage("--system needs a chat template, which this model does not have".into()))
        }
    }
}

/// Options given on the command line, over the model's own where it asks to be sampled, over greedy.
fn sampling(engine: &Engine, args: &GenerateArgs) -> SamplingOptions {
    let model = engine.model().generation_defaults();
    let sampled = model.do_sample == Some(true);
    let default = SamplingOptions::default();
    let or = |given: Option<f32>, of_model: Option<f32>, otherwise: f32| {
        given.or(if sampled { of_model } else { None }).unwrap_or(otherwise)
    };
    let temperature = if sampled { 1.0 } else { default.temperature };
    SamplingOptions {
        temperature: or(args.temperature, model.temperature, temperature),
        top_k: args.top_k.or(if sampled { model.top_k } else { None }).unwrap_or(default.top_k),
        top_p: or(args.top_p, model.top_p, default.top_p),
        min_p: or(args.min_p, model.min_p, default.min_p),
        repeat_penalty: args.repeat_penalty.or(model.repetition_penalty).unwrap_or(default.repeat_penalty),
        seed: args.seed,
        ..default
    }
}
