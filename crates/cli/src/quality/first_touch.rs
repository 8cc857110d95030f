//! `interleaf quality --first-touch`: what it costs to give an adapter a prefix that the base has in the cache, by method and length
//! of the prefix; and what an engine makes of that within budgets.

use std::process::ExitCode;

use interleaf_calibrate::{Anchor, Parts, Touch, Touched, Toucher, Windows, measure_touches};
use interleaf_demo_model as demo_model;
use interleaf_runtime::{Calibration, Engine, TRANSLATION_RANK, Translation, translation};
use serde::Serialize;

use super::calibrated::Calibrated;
use super::outputs::{self, Means, Outputs};
use super::report::Used;
use crate::args::QualityArgs;
use crate::memory::backend_line;
use crate::table::{self, Align};
use crate::windows::Demo;
use crate::{CliError, calibrate, load};

/// In the order of the table.
const TOUCHES: [Touch; 9] = [
    Touch::Base { computed: 0 },
    Touch::Base { computed: 64 },
    Touch::Selected,
    Touch::Band,
    Touch::Translated { computed: 0 },
    Touch::Translated { computed: 16 },
    Touch::Translated { computed: 64 },
    Touch::Translated { computed: 128 },
    Touch::Full,
];

/// Budgets that it is shown for whether the engine translates, in nats.
const BUDGETS: [f32; 3] = [1e-4, 3e-4, 1e-3];

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    backend: String,
    scored_tokens: usize,
    /// How the base's pages are stored.
    anchor: String,
    windows: Vec<Used>,
    calibrations: Vec<Calibrated>,
    rows: Vec<Row>,
    choices: Vec<Choice>,
    budgets: Vec<Budget>,
}

/// One method under one adapter in one setting.
#[derive(Debug, Serialize)]
struct Row {
    prefix: usize,
    method: String,
    setting: String,
    adapter: String,
    /// Shares of what the adapter's own prefill takes.
    flops: f64,
    time: Option<f64>,
    #[serde(flatten)]
    outputs: Outputs,
    /// What the method needs of the adapter besides its factors.
    artefact_bytes: u64,
}

/// What an engine does with a prefix within a budget.
#[derive(Debug, Serialize)]
struct Choice {
    adapter: String,
    prefix: usize,
    budget: f32,
    /// The last tokens, which the adapter computes; `None` where it computes all.
    computed: Option<usize>,
    /// What the way costs at most that costs least, in nats; `None` where none was measured.
    bound: Option<f32>,
}

/// What was measured of prefixes that an engine translates within a budget.
#[derive(Debug, Serialize)]
struct Budget {
    budget: f32,
    /// Pairs of a prefix and what follows.
    pairs: usize,
    translated: usize,
    /// Of those, the ones whose mean divergence is within the budget.
    kept: usize,
    kl_mean: f64,
}

/// An adapter's windows in one setting, parted behind its prefix.
struct Set {
    setting: String,
    windows: Windows,
}

/// Measures and prints.
pub fn run(args: &QualityArgs) -> Result<ExitCode, CliError> {
    let [stored, continuation] = demo_model::EVALUATION_PARTS;
    let mut prefixes = args.prefixes.clone();
    prefixes.sort_unstable();
    prefixes.dedup();
    let mut engine = calibrate::open(args.model.as_deref(), args.threads, args.store.folder())?;
    let most = engine.context().saturating_sub(continuation);
    if let Some(prefix) = prefixes.iter().find(|prefix| **prefix == 0 || **prefix > most) {
        let usage = format!(
            "--prefixes must be from 1 to {most} tokens, which the context has room for, found {prefix}"
        );
        return Err(CliError::Usage(usage));
    }
    let demo = Demo::new(&engine)?;
    let sources = calibrate::sources(args.model.is_some(), &args.adapters);
    let register = |(name, source): &(String, _)| engine.register_adapter(name, source);
    let adapters = sources.iter().map(register).collect::<Result<Vec<_>, _>>()?;
    let longest = prefixes.last().map_or(0, |prefix| prefix + continuation);
    calibrate::reserve(&mut engine, longest.max(stored + continuation))?;

    let (mut report_rows, mut choices, mut calibrations, mut used) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut budgets: Vec<Budget> =
        BUDGETS.map(|budget| Budget { budget, pairs: 0, translated: 0, kept: 0, kl_mean: 0.0 }).into();
    for adapter in &adapters {
        let calibration = super::calibration(&mut engine, args, demo, adapter)?;
        let parts = Parts { prefix: stored, continuation };
        let sets = demo.evaluation(&engine, &adapter.name, args.text.as_deref(), parts)?;
        let sets = sets.into_iter().map(|(setting, mut windows)| {
            windows.rows.truncate(args.sequences);
            Set { setting, windows }
        });
        let sets: Vec<Set> = sets.collect();
        let digests = sets.iter().map(|set| set.windows.digest);
        calibrations.push(Calibrated::new(&adapter.name, &calibration.made_from, digests));
        used.extend(sets.iter().map(|set| Used::new(&adapter.name, &set.setting, &set.windows)));
        let chosen = translation(&calibration.touches);
        for &prefix in &prefixes {
            let of_adapter = BUDGETS.map(|budget| choice(chosen.as_ref(), &adapter.name, prefix, budget));
            for set in &sets {
                let windows = behind(&set.windows, stored, prefix);
                let measured = measure(&mut engine, args, &adapter.name, &calibration, &windows, prefix)?;
                for (choice, budget) in of_adapter.iter().zip(&mut budgets) {
                    budget.add(choice, &measured);
                }
                let row = |touched: &Touched| Row::new(touched, prefix, set, &adapter.name, &calibration);
                report_rows.extend(measured.iter().map(row));
            }
            choices.extend(of_adapter);
        }
    }
    let report = Report {
        model: load::model_name(args.model.as_deref()),
        backend: backend_line(&engine),
        scored_tokens: continuation - 1,
        anchor: Anchor::from(args.anchor).to_string(),
        windows: used,
        calibrations,
        rows: report_rows,
        choices,
        budgets,
    };
    super::show(args, &report, Report::lines, |_| String::new())
}

fn measure(
    engine: &mut Engine,
    args: &QualityArgs,
    adapter: &str,
    calibration: &Calibration,
    windows: &Windows,
    prefix: usize,
) -> Result<Vec<Touched>, CliError> {
    let joint = calibration.joint.as_ref();
    let is_there = |touch: &Touch| match *touch {
        touch @ Touch::Translated { computed } => {
            (joint.is_some() || !touch.needs_map()) && computed < prefix
        }
        Touch::Base { computed } => computed < prefix,
        Touch::Selected | Touch::Band | Touch::Full => true,
    };
    let touches: Vec<Touch> = TOUCHES.into_iter().filter(is_there).collect();
    let toucher = Toucher { adapter, joint, anchor: args.anchor.into() };
    let bar = load::bar(windows.rows.len() * touches.len(), "measuring");
    bar.set_message(format!("{adapter}, {prefix} tokens"));
    let measured = measure_touches(engine, toucher, windows, prefix, &touches, &mut || bar.inc(1));
    bar.finish_and_clear();
    Ok(measured?)
}

/// Windows with a prefix of another length before what followed the one that they have: its first token and its end, or the windows
/// before it, too.
fn behind(windows: &Windows, stored: usize, prefix: usize) -> Windows {
    let rows = &windows.rows;
    let of = |at: usize| {
        let (own, after) = rows[at].split_at(stored);
        let mut before: Vec<u32> = Vec::new();
        let mut other = at;
        while before.len() + own.len() < prefix {
            other = (other + 1) % rows.len();
            before.splice(0..0, rows[other][..stored].iter().copied());
        }
        before.extend_from_slice(own);
        let kept = before.split_off(before.len() - (prefix - 1));
        let first = before.first().or(kept.first()).copied();
        first.into_iter().chain(kept).chain(after.iter().copied()).collect()
    };
    Windows { text: windows.text.clone(), digest: windows.digest, rows: (0..rows.len()).map(of).collect() }
}

fn choice(translation: Option<&Translation>, adapter: &str, prefix: usize, budget: f32) -> Choice {
    let costs: Vec<(usize, f32)> = translation.into_iter().flat_map(|t| t.costs(prefix)).collect();
    let lawful = costs.iter().find(|(_, drift)| *drift <= budget);
    let least = costs.iter().map(|(_, drift)| *drift).reduce(f32::min);
    Choice {
        adapter: adapter.into(),
        prefix,
        budget,
        computed: lawful.map(|(computed, _)| *computed),
        bound: lawful.map(|(_, drift)| *drift).or(least),
    }
}

impl Budget {
    /// Takes in what was measured of a prefix with an adapter in a setting.
    fn add(&mut self, choice: &Choice, measured: &[Touched]) {
        self.pairs += measured.first().map_or(0, |touched| touched.windows.len());
        let Some(computed) = choice.computed else { return };
        let is_it = |touched: &&Touched| touched.touch == Touch::Translated { computed };
        let Some(touched) = measured.iter().find(is_it) else { return };
        let sum = self.kl_mean * self.translated as f64 + touched.windows.iter().sum::<f64>();
        self.translated += touched.windows.len();
        self.kept += touched.windows.iter().filter(|kl| **kl <= f64::from(self.budget)).count();
        self.kl_mean = sum / (self.translated as f64).max(1.0);
    }
}

impl Row {
    fn new(touched: &Touched, prefix: usize, set: &Set, adapter: &str, calibration: &Calibration) -> Self {
        let map = calibration.joint.as_ref().filter(|_| touched.touch.needs_map());
        Self {
            prefix,
            method: touched.touch.to_string(),
            setting: set.setting.clone(),
            adapter: adapter.into(),
            flops: touched.flops,
            time: touched.time,
            outputs: Outputs::new(&touched.divergence),
            artefact_bytes: map.map_or(0, |joint| joint.map_bytes(TRANSLATION_RANK)),
        }
    }
}

impl Report {
    /// A table for each length of prefix, and one of what the engine does.
    fn lines(&self) -> Vec<String> {
        let mut prefixes: Vec<usize> = self.rows.iter().map(|row| row.prefix).collect();
        prefixes.dedup();
        prefixes.sort_unstable();
        prefixes.dedup();
        let columns = [("method", Align::Left), ("FLOPs", Align::Right), ("time", Align::Right)];
        let artefact = ("artefact", Align::Right);
        let columns: Vec<(&str, Align)> =
            columns.into_iter().chain(outputs::COLUMNS).chain([artefact]).collect();
        let mut lines = Vec::new();
        for &prefix in &prefixes {
            let cells = |touch: &Touch| self.mean(prefix, &touch.to_string());
            let rows: Vec<Vec<String>> = TOUCHES.iter().filter_map(cells).collect();
            lines.push(format!("a prefix of {prefix} tokens: means over adapters and settings"));
            lines.extend(table::render(&columns, &rows));
            lines.push(String::new());
        }
        lines.extend(self.choice_lines(&prefixes));
        for Budget { budget, pairs, translated, kept, kl_mean } in &self.budgets {
            let share = 100.0 * *kept as f64 / (*translated as f64).max(1.0);
            lines.push(match translated {
                0 => format!("budget {budget:.0e}: nothing of {pairs} pairs is translated"),
                _ => format!(
                    "budget {budget:.0e}: {translated} of {pairs} pairs are translated; the mean divergence, {kl_mean:.1e} over \
                     all of them, is within it in {share:.1} %"
                ),
            });
        }
        lines.push(format!(
            "{}: the {} tokens after the next one are scored, against each adapter's own exact cache; FLOPs and time as shares of \
             its own prefill's, base's pages as {}",
            self.model, self.scored_tokens, self.anchor
        ));
        lines.extend(self.calibrations.iter().map(Calibrated::line));
        lines.push(format!("backend: {}", self.backend));
        lines
    }

    fn mean(&self, prefix: usize, method: &str) -> Option<Vec<String>> {
        let rows: Vec<&Row> =
            self.rows.iter().filter(|row| row.prefix == prefix && row.method == method).collect();
        if rows.is_empty() {
            return None;
        }
        let times: Option<Vec<f64>> = rows.iter().map(|row| row.time).collect();
        let time = times.map(|times| outputs::mean(times.into_iter()));
        let outputs = Means::new(rows.iter().map(|row| (row.adapter.as_str(), row.outputs)));
        let bytes = rows.iter().map(|row| row.artefact_bytes).max().unwrap_or(0);
        let mut cells = vec![
            method.into(),
            format!("{:.1} %", 100.0 * outputs::mean(rows.iter().map(|row| row.flops))),
            time.map_or("-".into(), |time| format!("{:.1} %", 100.0 * time)),
        ];
        cells.extend(outputs.cells());
        cells.push(if bytes == 0 { "-".into() } else { table::bytes(bytes) });
        Some(cells)
    }

    /// What the engine does, by adapter and budget.
    fn choice_lines(&self, prefixes: &[usize]) -> Vec<String> {
        let mut adapters: Vec<&str> = self.choices.iter().map(|choice| choice.adapter.as_str()).collect();
        adapters.dedup();
        let heads: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix} tokens")).collect();
        let columns = [("adapter", Align::Left), ("budget", Align::Right)];
        let columns: Vec<(&str, Align)> =
            columns.into_iter().chain(heads.iter().map(|head| (head.as_str(), Align::Right))).collect();
        let cell = |choice: &Choice| match (choice.computed, choice.bound) {
            (Some(computed), _) => format!("translates, computes {computed}"),
            (None, Some(bound)) => format!("refuses: {bound:.1e}"),
            (None, None) => "refuses: not measured".into(),
        };
        let row = |adapter: &str, budget: f32| -> Vec<String> {
            let own =
                self.choices.iter().filter(|choice| choice.adapter == adapter && choice.budget == budget);
            [adapter.into(), format!("{budget:.0e}")].into_iter().chain(own.map(cell)).collect()
        };
        let rows: Vec<Vec<String>> =
            adapters.iter().flat_map(|adapter| BUDGETS.map(|budget| row(adapter, budget))).collect();
        let mut lines = vec!["what the engine does, by the bound that calibration measured".into()];
        lines.extend(table::render(&columns, &rows));
        lines.push(String::new());
        lines
    }
}
