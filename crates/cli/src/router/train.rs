//! `interleaf router train`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use interleaf_calibrate::{TrainedRouter, Training, train_router};
use interleaf_runtime::{Store, write_router};
use serde::Serialize;

use super::percent;
use crate::args::RouterTrainArgs;
use crate::{CliError, load, output, table};

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    data: String,
    prompts: usize,
    labels: Vec<String>,
    /// Whether prompts went through the chat template.
    chat: bool,
    scored_tokens: usize,
    /// Every way of looking at prompts that was tried, each predicting parts of the prompts that it was not fitted to.
    tried: Vec<Tried>,
    chosen: String,
    penalty: f64,
    temperature: f64,
    seconds: f64,
    bytes: u64,
    file: PathBuf,
}

#[derive(Debug, Serialize)]
struct Tried {
    looks: String,
    loss: f64,
    top1: f64,
}

/// Fits a router and keeps it.
pub fn run(args: &RouterTrainArgs) -> Result<ExitCode, CliError> {
    let start = Instant::now();
    let (mut engine, prompts) = super::open(&args.data)?;
    let store = Store::new(args.data.store.folder());
    let nowhere = || CliError::Usage("there is no store to keep the router in: say where with --out".into());
    let file = args.out.clone().or_else(|| store.router_file(engine.model_digest())).ok_or_else(nowhere)?;
    engine.reserve_kv(1, args.tokens.min(engine.context()))?;
    let bar = load::bar(0, "prompts");
    let trained = train_router(&mut engine, &prompts, !args.raw, args.tokens, &mut |training| {
        let (prefix, done, total) = match training {
            Training::Run(done, total) => ("prompts", done, total),
            Training::Tried(done, total) => ("trying", done, total),
        };
        bar.set_prefix(prefix);
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let TrainedRouter { head, chosen, tried } = trained?;
    write_router(&file, &head)?;
    let report = Report {
        model: load::model_name(args.data.model.as_deref()),
        data: prompts.data,
        prompts: prompts.train.len(),
        labels: prompts.labels,
        chat: head.origin.is_chat,
        scored_tokens: head.looks.tokens,
        tried: tried.into_iter().map(|(looks, loss, top1)| Tried { looks, loss, top1 }).collect(),
        chosen: chosen.options,
        penalty: chosen.penalty,
        temperature: chosen.temperature,
        seconds: start.elapsed().as_secs_f64(),
        bytes: head.to_bytes()?.len() as u64,
        file,
    };
    match args.data.json {
        true => output::json(&report)?,
        false => report.lines().into_iter().try_for_each(output::line)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Report {
    fn lines(&self) -> Vec<String> {
        let form = if self.chat { "through the chat template" } else { "as they are" };
        let mut lines = vec![format!(
            "{}: {} prompts of {}, {form}, their first {} tokens; {} adapters",
            self.model,
            self.prompts,
            self.data,
            self.scored_tokens,
            self.labels.len()
        )];
        let columns = [
            ("what it looks at", table::Align::Left),
            ("loss, nats", table::Align::Right),
            ("right", table::Align::Right),
        ];
        let row =
            |tried: &Tried| vec![tried.looks.clone(), format!("{:.4}", tried.loss), percent(tried.top1)];
        lines.extend(table::render(&columns, &self.tried.iter().map(row).collect::<Vec<_>>()));
        lines.push(format!(
            "chosen by fifths of the prompts, each predicted by what was fitted to the others: {}; penalty {}, temperature {:.2}",
            self.chosen, self.penalty, self.temperature
        ));
        let size = table::bytes(self.bytes);
        lines.push(format!("{:.0} s; {size} in {}", self.seconds, self.file.display()));
        lines
    }
}
