//! The demo's second act: an app is killed in the middle of a conversation, and comes back to it.

use std::task::Poll;
use std::time::Duration;

use interleaf_demo_model as demo_model;
use interleaf_runtime::{
    AppState, CallOptions, ChatMessage, Completion, Context, Engine, Generation, Prompt, SamplingOptions,
    Service, ServiceOptions,
};
use serde::Serialize;

use crate::generate::ttft_ms;
use crate::table::{self, Align};
use crate::{CliError, interrupt, output};

/// Tokens of an answer, where the demo's are longer.
const MOST_TOKENS: usize = 32;

/// How often Ctrl-C is looked for.
const TICK: Duration = Duration::from_millis(50);

/// Tokens of a chunk, which is what is swapped.
const CHUNK_TOKENS: u64 = 16;

/// The adapter that the app calls.
const ADAPTER: &str = "error-codes";

/// None that the batch was asked, whose pages would stay.
const QUESTIONS: [&str; 3] = ["The compiler says E0382. Why?", "And what is E0502?", "Show how to fix it."];

/// One step of the app's.
#[derive(Serialize)]
pub struct Step {
    /// What happens.
    what: &'static str,
    /// What is said and answered; none where the app is killed.
    turn: Option<Turn>,
    /// Tokens of these, in whole chunks, that were read from flash, and that were computed again instead.
    flash_tokens: u64,
    /// See above.
    recomputed_tokens: u64,
    /// Bytes of KV pages in memory after it, the batch's included.
    kv_held: u64,
    /// Bytes of pages on flash after it, likewise.
    flash_held: u64,
}

#[derive(Serialize)]
struct Turn {
    question: &'static str,
    text: String,
    /// Tokens of the whole conversation so far.
    prompt_tokens: usize,
    /// Of these, found in the cache.
    reused_tokens: usize,
    /// The others.
    computed_tokens: usize,
    tokens: usize,
    finish_reason: &'static str,
    ttft_ms: Option<f64>,
}

/// Plays it, with the engine that has answered the batch.
///
/// # Errors
/// If a call is refused or fails.
pub fn play(engine: Engine, max_tokens: usize) -> Result<Vec<Step>, CliError> {
    // The demo leaves nothing behind.
    let service =
        Service::start(engine, ServiceOptions { keeps_contexts: false, ..ServiceOptions::default() })?;
    let app = service.app("reader", None)?;
    let context = app.new_context()?;
    let mut conversation = vec![ChatMessage::new("system", demo_model::SYSTEM)];
    let mut before = service.stats()?.swap.unwrap_or_default();
    let mut step = |what, turn| {
        let (held, now) = (service.memory()?, service.stats()?.swap.unwrap_or_default());
        let was = std::mem::replace(&mut before, now);
        Ok::<_, CliError>(Step {
            what,
            turn,
            flash_tokens: (now.read - was.read) * CHUNK_TOKENS,
            recomputed_tokens: (now.recomputed - was.recomputed) * CHUNK_TOKENS,
            kv_held: held.kv_in_use + held.kv_cached,
            flash_held: held.kv_flash.held,
        })
    };
    let [first, second, third] = QUESTIONS;
    let mut steps = vec![step("asks", Some(turn(&context, &mut conversation, first, max_tokens)?))?];
    steps.push(step("goes on", Some(turn(&context, &mut conversation, second, max_tokens)?))?);
    app.set_state(AppState::Killed)?;
    steps.push(step("is killed", None)?);
    // Starting an app that was killed brings it back, as its system would.
    service.app("reader", None)?;
    steps.push(step("comes back", Some(turn(&context, &mut conversation, third, max_tokens)?))?);
    service.stop()?;
    Ok(steps)
}

/// Asks, and takes the answer into the conversation.
fn turn(
    context: &Context,
    conversation: &mut Vec<ChatMessage>,
    question: &'static str,
    max_tokens: usize,
) -> Result<Turn, CliError> {
    conversation.push(ChatMessage::new("user", question));
    let options = CallOptions {
        adapter: ADAPTER.into(),
        max_tokens: max_tokens.min(MOST_TOKENS),
        sampling: SamplingOptions { repeat_penalty: 1.3, ..SamplingOptions::default() },
        ..CallOptions::default()
    };
    let generation = context.call(&Prompt::Chat(conversation.clone()), &options)?;
    let answer = wait(generation)?;
    conversation.push(ChatMessage::new("assistant", &*answer.text));
    Ok(Turn {
        question,
        prompt_tokens: answer.prompt_tokens,
        reused_tokens: answer.reused_tokens,
        computed_tokens: answer.prompt_tokens - answer.reused_tokens,
        tokens: answer.tokens.len(),
        finish_reason: answer.reason.name(),
        ttft_ms: ttft_ms(&answer),
        text: answer.text,
    })
}

/// Waits for the whole answer; Ctrl-C ends it.
fn wait(generation: Generation) -> Result<Completion, CliError> {
    while generation.next_within(TICK) != Poll::Ready(None) {
        if interrupt::check().is_break() {
            generation.cancel();
        }
    }
    Ok(generation.wait()?.completion)
}

/// What was said, and a table of what was in the cache each time.
pub fn print(steps: &[Step]) -> Result<(), CliError> {
    output::line(
        console::style("\nAn app is killed in the middle of a conversation, and comes back.").bold(),
    )?;
    output::line("")?;
    for turn in steps.iter().filter_map(|step| step.turn.as_ref()) {
        let name = console::style(ADAPTER).bold().cyan();
        output::line(format_args!("{name}  {}", console::style(turn.question).italic()))?;
        for line in turn.text.trim_end().lines() {
            output::line(format_args!("    {line}"))?;
        }
        output::line("")?;
    }
    let columns = [
        ("the app", Align::Left),
        ("prompt", Align::Right),
        ("reused", Align::Right),
        ("from flash", Align::Right),
        ("computed", Align::Right),
        ("generated", Align::Right),
        ("first token", Align::Right),
        ("KV in memory", Align::Right),
        ("on flash", Align::Right),
    ];
    let row = |step: &Step| {
        let number =
            |of: fn(&Turn) -> usize| step.turn.as_ref().map_or_else(String::new, |turn| of(turn).to_string());
        let first = step.turn.as_ref().and_then(|turn| turn.ttft_ms);
        vec![
            step.what.to_owned(),
            number(|turn| turn.prompt_tokens),
            number(|turn| turn.reused_tokens),
            step.turn.as_ref().map_or_else(String::new, |_| step.flash_tokens.to_string()),
            number(|turn| turn.computed_tokens),
            number(|turn| turn.tokens),
            first.map_or_else(String::new, |ms| format!("{ms:.1} ms")),
            table::bytes(step.kv_held),
            table::bytes(step.flash_held),
        ]
    };
    let rows: Vec<Vec<String>> = steps.iter().map(row).collect();
    table::render(&columns, &rows).into_iter().try_for_each(output::line)
}
