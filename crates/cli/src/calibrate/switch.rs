//! `interleaf calibrate --device`: what reading swapped pages and computing them again takes on this machine, kept in the store.

use std::process::ExitCode;

use interleaf_runtime::{EngineOptions, Source, SwitchMeasure};
use serde::Serialize;

use crate::args::CalibrateArgs;
use crate::memory::backend_line;
use crate::table::{Align, bytes, facts, render};
use crate::{CliError, load, output};

/// The context that is measured on, in tokens.
const CONTEXT: usize = 512;

#[derive(Debug, Serialize)]
struct Report<'a> {
    model: String,
    backend: String,
    measure: &'a SwitchMeasure,
}

pub fn run(args: &CalibrateArgs) -> Result<ExitCode, CliError> {
    let store = args.store.folder();
    if store.is_none() {
        return Err(CliError::Usage("calibrate --device needs a store to measure and to keep it in".into()));
    }
    let options = EngineOptions {
        backend: args.backend.into(),
        weights: args.weights.into(),
        threads: args.threads,
        store,
        ..EngineOptions::default()
    };
    let source = args.model.as_deref().map_or_else(load::demo_base, Source::dir);
    let mut engine = load::open(source, &options)?;
    engine.reserve_kv(1, CONTEXT)?;
    let measure = engine.measure_switch()?;
    let model = load::model_name(args.model.as_deref());
    let backend = backend_line(&engine);
    if args.json {
        output::json(&Report { model, backend, measure: &measure })?;
        return Ok(ExitCode::SUCCESS);
    }
    let ((any_chunks, each_chunk), (any_read, each_byte)) = (measure.recompute, measure.read);
    let computing = format!("{} and {} for each chunk of 16 tokens", ms(any_chunks), ms(each_chunk));
    let reading = format!("{} and {:.0} MB/s", ms(any_read), 1e-6 / each_byte.max(1e-15));
    let costs = facts(&[
        ("model", model),
        ("backend", backend),
        ("computing again", computing),
        ("reading", reading),
    ]);
    costs.into_iter().try_for_each(output::line)?;
    let computed = measure.computed.iter().map(|(n, s)| vec![format!("compute {n} chunks"), ms(*s)]);
    let read = measure.bytes_read.iter().map(|(n, s)| vec![format!("read {}", bytes(*n as u64)), ms(*s)]);
    let rows: Vec<Vec<String>> = computed.chain(read).collect();
    render(&[("", Align::Left), ("median", Align::Right)], &rows).into_iter().try_for_each(output::line)?;
    Ok(ExitCode::SUCCESS)
}

fn ms(seconds: f64) -> String {
    format!("{:.3} ms", seconds * 1e3)
}
