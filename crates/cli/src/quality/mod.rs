//! `interleaf quality`: what each way of storing an adapter's KV pages costs, in bytes and in what the model says.

mod budgets;
mod budgets_plot;
mod bytes;
mod calibrated;
mod first_touch;
mod labels;
mod outputs;
mod plot;
mod report;
mod svg;
mod widths;

use std::process::ExitCode;

use indicatif::ProgressBar;
use interleaf_calibrate::{
    CalibrateError, Codec, Measured, Parts, Products, Subject, Windows, f16_bytes_per_token, measure,
};
use interleaf_demo_model as demo_model;
use interleaf_runtime::{AdapterSummary, Calibration, Engine, PeftAdapter, Source, Store};

use serde::Serialize;

use crate::args::QualityArgs;
use crate::windows::Demo;
use crate::{CliError, calibrate, load, output};

use bytes::Sharing;
use calibrated::Calibrated;
use report::{Measurement, Report, Row, Used};

/// An adapter, and what is known of it beside the engine.
struct Known {
    adapter: AdapterSummary,
    products: Option<Products>,
    calibration: Option<Calibration>,
}

/// What is measured.
struct Work<'a> {
    known: &'a Known,
    setting: String,
    windows: Windows,
}

impl Work<'_> {
    fn used(&self) -> Used {
        Used::new(&self.known.adapter.name, &self.setting, &self.windows)
    }
}

/// Measures and prints.
pub fn run(args: &QualityArgs) -> Result<ExitCode, CliError> {
    let codecs: Vec<Codec> = match args.codecs.as_slice() {
        [] => Codec::ALL.into(),
        names => names.iter().map(|name| Ok(name.parse()?)).collect::<Result<_, CliError>>()?,
    };
    if args.sequences == 0 {
        return Err(CliError::Usage("--sequences must be at least 1, found 0".into()));
    }
    if !args.budgets.is_empty() {
        return budgets::run(args);
    }
    if args.first_touch {
        return first_touch::run(args);
    }
    if args.widths {
        return widths::run(args);
    }
    let [prefix, continuation] = demo_model::EVALUATION_PARTS;
    let parts = Parts { prefix, continuation };
    let mut engine = calibrate::open(args.model.as_deref(), args.threads, args.store.folder())?;
    let demo = Demo::new(&engine)?;
    let mut all = Vec::new();
    for (name, source) in calibrate::sources(args.model.is_some(), &args.adapters) {
        let adapter = engine.register_adapter(&name, &source)?;
        let products = products(&engine, args, &codecs, &name, &source)?;
        all.push(Known { adapter, products, calibration: None });
    }
    let mut settings = Vec::new();
    for Known { adapter, .. } in &all {
        settings.push(demo.evaluation(&engine, &adapter.name, args.text.as_deref(), parts)?);
    }
    calibrate::reserve(&mut engine, prefix + continuation)?;
    if codecs.iter().any(|codec| codec.is_calibrated()) {
        for known in &mut all {
            known.calibration = Some(calibration(&mut engine, args, demo, &known.adapter)?);
        }
    }
    let calibrated =
        all.iter().zip(&settings).filter_map(|(Known { adapter, calibration, .. }, settings)| {
            let measured_on = settings.iter().map(|(_, windows)| windows.digest);
            Some(Calibrated::new(&adapter.name, &calibration.as_ref()?.made_from, measured_on))
        });
    let calibrations = calibrated.collect();
    let mut work = Vec::new();
    for (known, settings) in all.iter().zip(settings) {
        for (setting, mut windows) in settings {
            windows.rows.truncate(args.sequences);
            work.push(Work { known, setting, windows });
        }
    }
    let sharing = Sharing { f16_bytes: f16_bytes_per_token(&engine), adapters: all.len() };
    let count: usize = work.iter().map(|work| work.windows.rows.len()).sum();
    let bar = load::bar(count * codecs.len(), "measuring");
    let mut rows = Vec::new();
    for work in &work {
        let name = &work.known.adapter.name;
        bar.set_message(format!("{name}, {}", work.setting));
        let measured = one(&mut engine, args, work, parts, &codecs, &bar)?;
        rows.extend(measured.iter().map(|measured| Row::new(measured, &work.setting, name, sharing)));
    }
    bar.finish_and_clear();
    let measurement = Measurement {
        model: load::model_name(args.model.as_deref()),
        anchor: args.anchor.into(),
        parts,
        sharing,
        windows: work.iter().map(Work::used).collect(),
        calibrations,
    };
    let report = Report::new(measurement, &engine, rows);
    show(args, &report, Report::lines, plot::draw)
}

/// Draws a report, if that is asked for, and prints it.
fn show<R: Serialize>(
    args: &QualityArgs,
    report: &R,
    lines: fn(&R) -> Vec<String>,
    draw: fn(&R) -> String,
) -> Result<ExitCode, CliError> {
    if let Some(path) = &args.plot {
        std::fs::write(path, draw(report))
            .map_err(|e| CliError::File { path: path.clone(), reason: e.to_string() })?;
    }
    if args.json {
        output::json(report)?;
    } else {
        lines(report).into_iter().try_for_each(output::line)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn one(
    engine: &mut Engine,
    args: &QualityArgs,
    work: &Work<'_>,
    parts: Parts,
    codecs: &[Codec],
    bar: &ProgressBar,
) -> Result<Vec<Measured>, CliError> {
    let Known { adapter, products, calibration } = work.known;
    let is_there = |codec: &&Codec| match codec {
        Codec::OwnProducts => products.is_some(),
        // Of a model that is too wide for a joint map there are no such rows.
        codec => calibration.as_ref().is_none_or(|calibration| codec.is_in(calibration)),
    };
    let codecs: Vec<Codec> = codecs.iter().filter(is_there).copied().collect();
    let (calibration, products) = (calibration.as_ref(), products.as_ref());
    let subject = Subject { adapter: &adapter.name, calibration, products, anchor: args.anchor.into() };
    Ok(measure(engine, subject, &work.windows, parts, &codecs, &mut || bar.inc(1))?)
}

/// An adapter's own products, if they are asked for. Where there are none that is said, or refused if they were asked for by
/// name.
fn products(
    engine: &Engine,
    args: &QualityArgs,
    codecs: &[Codec],
    name: &str,
    source: &Source,
) -> Result<Option<Products>, CliError> {
    if !codecs.contains(&Codec::OwnProducts) {
        return Ok(None);
    }
    let peft = PeftAdapter::open(name, source, engine.model())?;
    match Products::new(engine.model(), &peft) {
        Err(error @ CalibrateError::NoProducts { .. }) if args.codecs.is_empty() => {
            output::note(format_args!("{} is left out: {error}", Codec::OwnProducts));
            Ok(None)
        }
        products => Ok(Some(products?)),
    }
}

/// Of an adapter what the store has, or what is found now and kept. What is there was asked for, and made from who knows what:
/// only one of the same text takes its place.
fn calibration(
    engine: &mut Engine,
    args: &QualityArgs,
    demo: Demo,
    adapter: &AdapterSummary,
) -> Result<Calibration, CliError> {
    let store = Store::new(args.store.folder());
    let refused = |reason| CliError::Kept { adapter: adapter.name.clone(), reason };
    let kept = store.kept_calibration(engine.config(), engine.model_digest(), adapter.digest);
    let kept = kept.map_err(|error| refused(error.to_string()))?;
    // One of old knows nothing of what is at rest, or of translations; of what never differs nothing has to be.
    let is_enough = |kept: &Calibration| {
        let has_none = kept.joint.is_none() || kept.ladder.costs_nothing();
        has_none
            || (!args.at_rest || !kept.rest.is_empty()) && (!args.first_touch || !kept.touches.is_empty())
    };
    let lacks = if args.at_rest { "what is at rest" } else { "translations" };
    let old = match kept {
        Some(kept) if is_enough(&kept) => return Ok(kept),
        old => old.map(|old| old.made_from),
    };
    let windows = demo.calibration(engine, &adapter.name, None)?;
    match &old {
        None => output::note(format_args!("{}: calibrated first, and kept in the store", adapter.name)),
        Some(from) if from.text_digest == Some(windows.digest) => output::note(format_args!(
            "{}: calibrated anew from the same text, since what is in the store knows nothing of {lacks}",
            adapter.name
        )),
        Some(from) => {
            return Err(refused(format!("made from {}, it knows nothing of {lacks}", from.text)));
        }
    }
    let calibration = calibrate::with_bar(engine, adapter, &windows)?;
    store.keep_calibration(&calibration)?;
    Ok(calibration)
}
