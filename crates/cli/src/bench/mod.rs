//! `interleaf bench`: how fast prompts are read and answers generated, in rows like llama-bench's.
//!
//! It times the engine as apps use it, through the same calls, a token's choice included. It says nothing of
//! a model's answers: see `verify` and `perplexity`.

mod case;
mod device;
mod machine;
mod measure;
mod report;
mod roofline;
mod work;

use std::process::ExitCode;

use indicatif::ProgressBar;
use interleaf_runtime::{Engine, EngineOptions, Model, PeftAdapter, Source, TensorInfo};

use crate::args::{BenchArgs, WeightsArg};
use crate::{CliError, load};
use case::Case;
use device::DeviceRow;
use machine::Machine;
use report::{Report, Row};
use roofline::Roofline;
use work::Work;

/// Of generated weights and adapters.
const SEED: u64 = 20_260;

/// Measures every row and prints them.
pub fn run(args: &BenchArgs) -> Result<ExitCode, CliError> {
    let source = source(args);
    let model = Model::open(source.clone())?;
    let cases = case::all(args, model.config().max_positions)?;
    let mut roofline = args.roofline.then(Roofline::default);
    let mut report = Report {
        model: args.shape.map_or_else(|| load::model_name(args.model.as_deref()), |s| s.name.into()),
        parameters: model.tensors().iter().filter(|t| t.used).map(TensorInfo::elements).sum(),
        machine: Machine::here(),
        rows: Vec::new(),
    };
    drop(model);
    for &weights in &args.weights {
        for &threads in &args.threads {
            let mut engine = open(args, source.clone(), weights, threads)?;
            let bar = load::bar(cases.len() * (args.repetitions + 1), "measuring");
            let timed = rows(args, weights, &cases, &mut engine, &mut roofline, &bar);
            bar.finish_and_clear();
            report.rows.extend(timed?);
        }
    }
    if let Some(roofline) = roofline {
        report.set_roofline(roofline);
    }
    report.print(args.output)?;
    Ok(ExitCode::SUCCESS)
}

fn source(args: &BenchArgs) -> Source {
    match (args.shape, &args.model) {
        (Some(shape), _) => Source::Generated { shape, seed: SEED },
        (None, Some(folder)) => Source::dir(folder),
        (None, None) => load::demo_base(),
    }
}

/// An engine with as many adapters as any row wants.
fn open(args: &BenchArgs, source: Source, weights: WeightsArg, threads: usize) -> Result<Engine, CliError> {
    let options = EngineOptions {
        backend: args.backend.into(),
        weights: weights.into(),
        pages: args.pages.into(),
        numerics: args.numerics.into(),
        gpu: (&args.gpu).into(),
        threads,
        performance_threads: !args.all_cores,
        prefill_rows: args.prefill_rows,
        ..EngineOptions::default()
    };
    let mut engine = load::open(source, &options)?;
    if args.profile {
        engine.set_profiling(true)?;
    }
    for index in 0..args.adapters.iter().copied().max().unwrap_or(0) {
        let adapter = PeftAdapter::generated(&case::adapter(index), args.rank, SEED, engine.model())?;
        engine.register_opened(adapter)?;
    }
    Ok(engine)
}

/// The rows of one engine, and a look at the machine before each and after the last.
fn rows(
    args: &BenchArgs,
    weights: WeightsArg,
    cases: &[Case],
    engine: &mut Engine,
    roofline: &mut Option<Roofline>,
    bar: &ProgressBar,
) -> Result<Vec<Row>, CliError> {
    let mut probe = |engine: &mut Engine| match roofline {
        Some(roofline) => {
            bar.set_message("the machine");
            roofline.sample(engine)
        }
        None => Ok(()),
    };
    let mut rows = Vec::with_capacity(cases.len());
    for group in case::together(cases, args.in_turn) {
        probe(engine)?;
        let (seconds, done) = measure::seconds(engine, &group, args, bar)?;
        let alone = group.iter().position(|case| case.adapters == 0).filter(|_| group.len() > 1);
        for ((case, own), done) in group.iter().zip(&seconds).zip(&done) {
            let work = Work::of(engine, case, args.prefill_rows, args.pages.into());
            let mut row = Row::new(args, weights, engine, case, own, work);
            if let Some(done) = done {
                let steps = work.steps * args.repetitions as u64;
                row.set_device(DeviceRow::new(done, steps, &work), case.test);
            }
            if let Some(alone) = alone {
                row.set_time_ratio(own, &seconds[alone]);
            }
            // For who watches: the table itself comes at the end.
            bar.println(format!("{:>12} {}", "", row.line()));
            rows.push(row);
        }
    }
    probe(engine)?;
    Ok(rows)
}
