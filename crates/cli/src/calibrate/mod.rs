//! `interleaf calibrate`: how an adapter's KV pages differ from the base's, fitted and kept; and, in `switch`, what the machine takes
//! to bring pages back.

mod switch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use interleaf_calibrate::{CONTINUATION, MOST_COLUMNS, PREFIXES, Progress, Windows, calibrate};
use interleaf_runtime::{
    AdapterSummary, BackendChoice, Calibration, Engine, EngineOptions, PageElement, Source, Store,
    write_calibration,
};
use serde::Serialize;

use crate::args::CalibrateArgs;
use crate::windows::{Demo, WINDOW};
use crate::{CliError, load, output, table};

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    rows: Vec<Row>,
}

/// One adapter.
#[derive(Debug, Serialize)]
struct Row {
    adapter: String,
    text: String,
    fitted_windows: usize,
    held_back_windows: usize,
    bytes: u64,
    seconds: f64,
    file: Option<PathBuf>,
    /// Whether the base's keys and values were seen to cost anything in place of its own.
    differs: bool,
    /// Whether there is a map over all layers, without which nothing goes to rest.
    has_map: bool,
    codecs: Vec<Codec>,
}

/// What a codec cost on the windows that were held back.
#[derive(Debug, Serialize)]
struct Codec {
    codec: String,
    kl: f32,
    k_errors: Vec<f32>,
    v_errors: Vec<f32>,
}

/// Calibrates the adapters and keeps what was found.
pub fn run(args: &CalibrateArgs) -> Result<ExitCode, CliError> {
    if args.device {
        return switch::run(args);
    }
    if args.model.is_some() && args.adapter.is_none() {
        return Err(CliError::Usage("calibrate --model DIR needs --adapter DIR, or --device".into()));
    }
    let mut engine = open(args.model.as_deref(), args.threads, args.store.folder())?;
    let demo = Demo::new(&engine)?;
    reserve(&mut engine, WINDOW)?;
    let store = Store::new(args.store.folder());
    let mut report = Report { model: load::model_name(args.model.as_deref()), rows: Vec::new() };
    let sources = sources(args.model.is_some(), args.adapter.as_slice());
    let register = |(name, source): &(String, Source)| engine.register_adapter(name, source);
    let adapters = sources.iter().map(register).collect::<Result<Vec<_>, _>>()?;
    for adapter in adapters {
        let windows = demo.calibration(&engine, &adapter.name, args.text.as_deref())?;
        let start = Instant::now();
        let calibration = with_bar(&mut engine, &adapter, &windows)?;
        let file = match &args.output {
            Some(file) => {
                write_calibration(file, &calibration)?;
                Some(file.clone())
            }
            None => store.keep_calibration(&calibration)?,
        };
        let row = row(&adapter.name, &calibration, start.elapsed().as_secs_f64(), file)?;
        if !args.json {
            row.lines().into_iter().try_for_each(output::line)?;
        }
        report.rows.push(row);
    }
    if args.json {
        output::json(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens a model as calibrations are made: on the CPU, with nothing rounded and nothing shared.
pub fn open(model: Option<&Path>, threads: usize, store: Option<PathBuf>) -> Result<Engine, CliError> {
    let options = EngineOptions {
        backend: BackendChoice::Cpu,
        pages: PageElement::F32,
        prefix_cache: false,
        threads,
        store,
        ..EngineOptions::default()
    };
    load::open(model.map_or_else(load::demo_base, Source::dir), &options)
}

/// Prefixes that translations are measured of.
fn prefixes(engine: &Engine) -> Vec<usize> {
    PREFIXES.into_iter().filter(|prefix| prefix + CONTINUATION <= engine.context()).collect()
}

/// Makes room for calibrating, and for two sequences of some tokens.
pub fn reserve(engine: &mut Engine, tokens: usize) -> Result<(), CliError> {
    let longest = prefixes(engine).last().map_or(0, |prefix| prefix + CONTINUATION);
    Ok(engine.reserve_kv(2, tokens.max(longest))?)
}

/// Adapters by name: folders, or where the model is the demo's their names; none of them means all of the demo's.
pub fn sources(is_another: bool, adapters: &[PathBuf]) -> Vec<(String, Source)> {
    let all = || load::demo_adapters().map(|(name, source)| (name.to_owned(), source));
    if adapters.is_empty() && !is_another {
        return all().collect();
    }
    let source = |path: &PathBuf| {
        let named = all().find(|(name, _)| !is_another && path.as_os_str() == name.as_str());
        named.unwrap_or_else(|| (load::model_name(Some(path)), Source::dir(path)))
    };
    adapters.iter().map(source).collect()
}

/// Calibrates one adapter under a progress bar.
pub fn with_bar(
    engine: &mut Engine,
    adapter: &AdapterSummary,
    windows: &Windows,
) -> Result<Calibration, CliError> {
    let bar = load::bar(0, "calibrating");
    bar.set_message(adapter.name.clone());
    let prefixes = prefixes(engine);
    let calibration = calibrate(engine, &adapter.name, adapter.digest, windows, &prefixes, &mut |progress| {
        let (done, total) = match progress {
            Progress::Run(done, total) => (done, total),
            Progress::Fitting => {
                bar.set_prefix("fitting");
                return;
            }
            Progress::Measured(done, total) => {
                bar.set_prefix("measuring");
                (done, total)
            }
        };
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    Ok(calibration?)
}

fn row(
    adapter: &str,
    calibration: &Calibration,
    seconds: f64,
    file: Option<PathBuf>,
) -> Result<Row, CliError> {
    let codecs = calibration.measured.iter().map(|measured| Codec {
        codec: measured.codec.clone(),
        kl: measured.kl,
        k_errors: measured.k_errors.clone(),
        v_errors: measured.v_errors.clone(),
    });
    let from = &calibration.made_from;
    Ok(Row {
        adapter: adapter.into(),
        text: from.text.clone(),
        fitted_windows: from.fitted,
        held_back_windows: from.held_back,
        bytes: calibration.to_bytes()?.len() as u64,
        seconds,
        file,
        differs: !calibration.ladder.costs_nothing(),
        has_map: calibration.joint.is_some(),
        codecs: codecs.collect(),
    })
}

impl Row {
    fn lines(&self) -> Vec<String> {
        let size = table::bytes(self.bytes);
        let place = match &self.file {
            Some(file) => format!("{size} in {}", file.display()),
            None => format!("{size}, kept nowhere"),
        };
        let mut lines = vec![format!(
            "{}: {} windows of {} fitted, {} held back; {:.0} s; {place}",
            self.adapter, self.fitted_windows, self.text, self.held_back_windows, self.seconds
        )];
        if !self.differs {
            lines.push(
                "it never acted on this text, or changes nothing there: the base's pages stand for its own, which says nothing \
                 of texts that it acts on"
                    .into(),
            );
        }
        if !self.has_map {
            lines.push(format!(
                "no map over all layers, of more than {MOST_COLUMNS} inputs and outputs: nothing of it goes to rest"
            ));
        }
        let columns = [
            ("codec", table::Align::Left),
            ("KL, nats", table::Align::Right),
            ("worst layer's error, K", table::Align::Right),
            ("V", table::Align::Right),
        ];
        let worst = |errors: &[f32]| format!("{:.4}", errors.iter().copied().fold(0.0, f32::max));
        let rows: Vec<Vec<String>> = self
            .codecs
            .iter()
            .map(|c| vec![c.codec.clone(), format!("{:.2e}", c.kl), worst(&c.k_errors), worst(&c.v_errors)])
            .collect();
        lines.extend(table::render(&columns, &rows));
        lines.push(String::new());
        lines
    }
}
