//! The demo: the base model and its adapters answer prompts that share a system prefix, every row of the
//! batch under its own adapter; then an app is killed and comes back.

mod comeback;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use interleaf_demo_model as demo_model;
use interleaf_runtime::{
    Completion, Engine, EngineError, EngineOptions, Event, Request, SamplingOptions, SwapOptions,
};
use serde::Serialize;

use crate::args::DemoArgs;
use crate::generate::ttft_ms;
use crate::memory::{MemoryRow, backend_line};
use crate::table::{self, Align};
use crate::{CliError, answers, interrupt, load, output, prompt};

/// What may be swapped out, in bytes: more than there is.
const SWAP: u64 = 64 << 20;

/// What the base's own row is called.
const BASE: &str = "(base)";

#[derive(Serialize)]
struct Row {
    adapter: Option<&'static str>,
    prompt: &'static str,
    text: String,
    tokens: usize,
    prompt_tokens: usize,
    /// Of these, found in the cache.
    reused_tokens: usize,
    /// A bound on the mean divergence of outputs that reading these costs, in nats.
    drift: f32,
    finish_reason: &'static str,
    ttft_ms: Option<f64>,
    tokens_per_second: f64,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
    /// Of all answers together.
    tokens: usize,
    /// From the first prompt row to the last token, all rows in one batch.
    seconds: f64,
    memory: MemoryRow,
    backend: String,
    /// The second act; none after a first one that was broken off.
    comeback: Vec<comeback::Step>,
}

/// Runs the demo.
pub fn run(args: &DemoArgs) -> Result<ExitCode, CliError> {
    interrupt::listen();
    // What is written for the second act goes with the demo.
    let flash = tempfile::tempdir().map_err(|error| CliError::File {
        path: std::env::temp_dir(),
        reason: format!("no folder for what is swapped out: {error}"),
    })?;
    let options = EngineOptions {
        swap: Some(SwapOptions::new(SWAP)),
        swap_folder: Some(flash.path().to_owned()),
        ..load::options(&args.engine)
    };
    let mut engine = load::open(load::demo_base(), &options)?;
    for (name, source) in load::demo_adapters() {
        engine.register_adapter(name, &source)?;
    }
    let requests = requests(&engine, args.max_tokens)?;
    let longest = requests.iter().map(|r| r.prompt.len().saturating_add(r.max_tokens)).max().unwrap_or(0);
    engine.reserve_kv(requests.len(), longest.min(engine.context()))?;

    let live = !args.json && std::io::stdout().is_terminal();
    if live {
        output::line(console::style("One base model, six adapters, one batch.").bold())?;
        output::line(format_args!("Shared system prompt: {}\n", first_line(demo_model::SYSTEM)))?;
    }
    let start = Instant::now();
    let (answers, failure) = answers::kept(answer(&mut engine, &requests, live))?;
    let seconds = start.elapsed().as_secs_f64();
    let tokens: usize = answers.iter().map(|a| a.tokens.len()).sum();
    let mut report = Report {
        tokens,
        seconds,
        rows: demo_model::QUESTIONS.iter().zip(&answers).map(row).collect(),
        memory: MemoryRow::of(&engine),
        backend: backend_line(&engine),
        comeback: Vec::new(),
    };
    if !args.json {
        print(&report)?;
    }
    if failure.is_none() && interrupt::check().is_continue() {
        report.comeback = comeback::play(engine, args.max_tokens)?;
    }
    if args.json {
        output::json(&report)?;
    } else if !report.comeback.is_empty() {
        comeback::print(&report.comeback)?;
    }
    failure.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
}

fn requests(engine: &Engine, max_tokens: usize) -> Result<Vec<Request>, CliError> {
    let end_tokens = &engine.model().generation_defaults().eos;
    let request = |&(adapter, question): &(Option<&str>, &str)| {
        Ok(Request {
            prompt: prompt::one_turn(engine, Some(demo_model::SYSTEM), question, false)?,
            adapter: adapter.map(str::to_owned),
            max_tokens,
            // A small model repeats itself; a mild penalty keeps the answers readable.
            sampling: SamplingOptions { repeat_penalty: 1.3, ..SamplingOptions::default() },
            stop: Vec::new(),
            end_tokens: end_tokens.clone(),
            drift: 0.0,
        })
    };
    demo_model::QUESTIONS.iter().map(request).collect()
}

/// Answers all requests in one batch; on a terminal each has a line that grows.
fn answer(engine: &mut Engine, requests: &[Request], live: bool) -> Result<Vec<Completion>, EngineError> {
    let lines = live.then(|| Lines::new(requests));
    let mut texts = vec![String::new(); requests.len()];
    let answers = engine.generate(requests, &mut |event| {
        if let Some(lines) = &lines {
            lines.show(&event, &mut texts);
        }
        interrupt::check()
    });
    if let Some(lines) = lines {
        lines.clear();
    }
    answers
}

/// One line per row: a bar while its prompt is read, then the end of its text.
struct Lines {
    all: MultiProgress,
    bars: Vec<ProgressBar>,
}

impl Lines {
    fn new(requests: &[Request]) -> Self {
        let all = MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::stdout());
        let reading = style("{prefix:>14.cyan} {bar:24} {pos}/{len} prompt tokens");
        let bars = requests
            .iter()
            .map(|r| {
                let bar = all.add(ProgressBar::new(r.prompt.len() as u64).with_style(reading.clone()));
                bar.set_prefix(r.adapter.clone().unwrap_or_else(|| BASE.into()));
                bar.enable_steady_tick(Duration::from_millis(100));
                bar
            })
            .collect();
        Self { all, bars }
    }

    fn show(&self, event: &Event, texts: &mut [String]) {
        match event {
            Event::Prefill { request, done, total } => {
                self.bars[*request].set_position(*done as u64);
                if done == total {
                    self.bars[*request].set_style(style("{prefix:>14.cyan} {wide_msg}"));
                }
            }
            Event::Text { request, text, .. } => {
                texts[*request].push_str(text);
                self.bars[*request].set_message(tail(&texts[*request]));
            }
            Event::Finished { request, .. } => self.bars[*request].tick(),
            // The command line suspends no GPU.
            Event::Suspended => {}
        }
    }

    fn clear(self) {
        for bar in &self.bars {
            bar.finish_and_clear();
        }
        // Lines that cannot be cleared stay on the screen, which harms nothing.
        let _ = self.all.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The end of a text on one line, as much as a terminal line holds beside the name.
fn tail(text: &str) -> String {
    let width = usize::from(console::Term::stdout().size().1).saturating_sub(18).max(10);
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let skip = line.chars().count().saturating_sub(width);
    line.chars().skip(skip).collect()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn row((&(adapter, prompt), answer): (&(Option<&'static str>, &'static str), &Completion)) -> Row {
    Row {
        adapter,
        prompt,
        text: answer.text.clone(),
        tokens: answer.tokens.len(),
        prompt_tokens: answer.prompt_tokens,
        reused_tokens: answer.reused_tokens,
        drift: answer.drift,
        finish_reason: answer.reason.name(),
        ttft_ms: ttft_ms(answer),
        tokens_per_second: answer.tokens_per_second(),
    }
}

fn print(report: &Report) -> Result<(), CliError> {
    for row in &report.rows {
        let name = console::style(row.adapter.unwrap_or(BASE)).bold().cyan();
        output::line(format_args!("{name}  {}", console::style(row.prompt.replace('\n', " ")).italic()))?;
        for line in row.text.trim_end().lines() {
            output::line(format_args!("    {line}"))?;
        }
        output::line("")?;
    }
    let columns = [
        ("adapter", Align::Left),
        ("prompt", Align::Right),
        ("reused", Align::Right),
        ("drift, nats", Align::Right),
        ("generated", Align::Right),
        ("first token", Align::Right),
        ("tokens/s", Align::Right),
    ];
    let rows: Vec<Vec<String>> = report
        .rows
        .iter()
        .map(|r| {
            vec![
                r.adapter.unwrap_or(BASE).to_owned(),
                r.prompt_tokens.to_string(),
                r.reused_tokens.to_string(),
                table::nats(r.drift, 1),
                r.tokens.to_string(),
                r.ttft_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.1} ms")),
                format!("{:.1}", r.tokens_per_second),
            ]
        })
        .collect();
    for line in table::render(&columns, &rows) {
        output::line(line)?;
    }
    let (tokens, seconds) = (report.tokens, report.seconds);
    let rate = tokens as f64 / seconds;
    output::line(format_args!(
        "\none batch: {tokens} tokens in {seconds:.2} s, prompts included: {rate:.1} tokens/s"
    ))?;
    output::line(report.memory.line())?;
    output::line(format_args!("backend: {}", report.backend))
}
