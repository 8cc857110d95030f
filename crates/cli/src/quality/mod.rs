//! `interleaf quality`: what each way of storing an adapter's KV pages costs, in bytes and in what the model says.

mod budgets;
mod budgets_plot;
mod plot;
mod report;

use std::process::ExitCode;

use indicatif::ProgressBar;
use interleaf_calibrate::{Codec, Measured, Parts, Windows, cut, f16_bytes_per_token, measure, read_windows};
use interleaf_demo_model as demo_model;
use interleaf_runtime::{AdapterSummary, Calibration, Engine, Store};

use crate::args::QualityArgs;
use crate::{CliError, calibrate, load, output};

use report::{Report, Row};

/// What is measured.
struct Work {
    adapter: AdapterSummary,
    setting: String,
    windows: Windows,
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
    let [prefix, continuation] = demo_model::EVALUATION_PARTS;
    let parts = Parts { prefix, continuation };
    let mut engine = calibrate::open(args.model.as_deref(), args.threads, args.store.folder())?;
    let adapters = calibrate::register(&mut engine, args.model.is_some(), &args.adapters)?;
    engine.reserve_kv(2, prefix + continuation)?;
    let mut work = Vec::new();
    for adapter in &adapters {
        for (setting, mut windows) in settings(&engine, args, adapter, parts)? {
            windows.rows.truncate(args.sequences);
            work.push(Work { adapter: adapter.clone(), setting, windows });
        }
    }
    let calibrations = if codecs.iter().any(|codec| codec.is_calibrated()) {
        calibrations(&mut engine, args, &adapters)?
    } else {
        Vec::new()
    };
    let windows: usize = work.iter().map(|work| work.windows.rows.len()).sum();
    let bar = load::bar(windows * codecs.len(), "measuring");
    let mut rows = Vec::new();
    for work in &work {
        bar.set_message(format!("{}, {}", work.adapter.name, work.setting));
        let calibration = calibrations.iter().find(|(name, _)| *name == work.adapter.name);
        let measured = one(&mut engine, work, parts, &codecs, calibration.map(|(_, c)| c), &bar)?;
        let unshared = f16_bytes_per_token(&engine);
        rows.extend(measured.iter().map(|m| Row::new(m, &work.setting, &work.adapter.name, unshared)));
    }
    bar.finish_and_clear();
    let report = Report::new(load::model_name(args.model.as_deref()), &engine, parts, rows);
    if let Some(path) = &args.plot {
        std::fs::write(path, plot::draw(&report))
            .map_err(|e| CliError::File { path: path.clone(), reason: e.to_string() })?;
    }
    if args.json {
        output::json(&report)?;
    } else {
        report.lines().into_iter().try_for_each(output::line)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn one(
    engine: &mut Engine,
    work: &Work,
    parts: Parts,
    codecs: &[Codec],
    calibration: Option<&Calibration>,
    bar: &ProgressBar,
) -> Result<Vec<Measured>, CliError> {
    // Of a model that is too wide for a joint map there are no such rows.
    let is_there = |codec: &&Codec| calibration.is_none_or(|calibration| codec.is_in(calibration));
    let codecs: Vec<Codec> = codecs.iter().filter(is_there).copied().collect();
    let name = &work.adapter.name;
    Ok(measure(engine, name, &work.windows, parts, &codecs, calibration, &mut || bar.inc(1))?)
}

/// The windows of each setting.
fn settings(
    engine: &Engine,
    args: &QualityArgs,
    adapter: &AdapterSummary,
    parts: Parts,
) -> Result<Vec<(String, Windows)>, CliError> {
    if let Some(path) = &args.text {
        let text = calibrate::read_text(path)?;
        let length = parts.prefix + parts.continuation;
        let windows = cut(engine.tokenizer("a text")?, &path.display().to_string(), &text, length)?;
        return Ok(vec![("text".into(), windows)]);
    }
    let of = |(setting, bytes): &demo_model::File| {
        let tensor = format!("{}/input_ids", adapter.name);
        Ok((
            String::from(*setting),
            read_windows(&format!("the demo model's windows, {setting}"), bytes, &tensor)?,
        ))
    };
    demo_model::EVALUATION.iter().map(of).collect()
}

/// Of each adapter what the store has, or what is found now and kept.
fn calibrations(
    engine: &mut Engine,
    args: &QualityArgs,
    adapters: &[AdapterSummary],
) -> Result<Vec<(String, Calibration)>, CliError> {
    let store = Store::new(args.store.folder());
    let mut all = Vec::new();
    for adapter in adapters {
        let kept = store.calibration(engine.config(), engine.model_digest(), adapter.digest);
        let calibration = match kept {
            Some(calibration) => calibration,
            None => {
                output::note(format_args!("{}: calibrated first, and kept in the store", adapter.name));
                let windows = calibrate::windows(engine, args.model.is_none(), &adapter.name, None)?;
                let calibration = calibrate::with_bar(engine, adapter, &windows)?;
                store.keep_calibration(&calibration)?;
                calibration
            }
        };
        all.push((adapter.name.clone(), calibration));
    }
    Ok(all)
}
