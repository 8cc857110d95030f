//! `interleaf quality --widths`: what it costs to give each chunk of a context 8, 4 or 2 bits, by how much it is attended to and
//! by other orders, and how few layers and heads tell how much that is.

use std::process::ExitCode;

use interleaf_calibrate::{
    Assigned, CHUNK_TOKENS, MassShape, PageHalf, Parts, SEEDS, Width, WidthCost, WidthPlan, measure_widths,
};
use interleaf_demo_model as demo_model;
use interleaf_runtime::MassSampling;
use serde::Serialize;

use super::outputs::{self, Means, Outputs};
use super::report::Used;
use crate::args::QualityArgs;
use crate::memory::backend_line;
use crate::table::{self, Align};
use crate::windows::Demo;
use crate::{CliError, calibrate, load};

/// In the order of the table.
const WAYS: [Assigned; 13] = [
    Assigned::ByDensity(MassSampling::ALL),
    Assigned::ByDensity(MassSampling { layers: 2, heads: 2 }),
    Assigned::ByDensity(MassSampling { layers: 4, heads: 4 }),
    Assigned::Newest,
    Assigned::Oldest,
    Assigned::Random,
    Assigned::All(Width::Eight),
    Assigned::All(Width::Four),
    Assigned::All(Width::Two),
    Assigned::Half(PageHalf::K, Width::Four),
    Assigned::Half(PageHalf::V, Width::Four),
    Assigned::Half(PageHalf::K, Width::Two),
    Assigned::Half(PageHalf::V, Width::Two),
];

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    backend: String,
    prefix_tokens: usize,
    scored_tokens: usize,
    newest_chunks: usize,
    windows: Vec<Used>,
    mass: Vec<Mass>,
    rows: Vec<Row>,
}

/// One way at one ratio under one adapter in one setting.
#[derive(Debug, Serialize)]
struct Row {
    /// `None` where the way has its own.
    ratio: Option<f64>,
    method: String,
    setting: String,
    adapter: String,
    /// Of what 8 bits take.
    bytes: f64,
    #[serde(flatten)]
    outputs: Outputs,
    /// The most that the divergence of a window was of the squared relative error, where keys or values alone are encoded.
    factor: Option<f64>,
}

/// How attention falls on the chunks of an adapter's windows in a setting.
#[derive(Debug, Serialize)]
struct Mass {
    setting: String,
    adapter: String,
    windows: usize,
    /// What the tenth, the quarter and the half get that get most.
    top: [f64; 3],
    samplings: Vec<Sampling>,
}

/// How the order of chunks agrees that a few layers and heads tell with that of all.
#[derive(Debug, Serialize)]
struct Sampling {
    layers: usize,
    heads: usize,
    /// Spearman's ρ: the mean, and that of the worst window.
    agreement: [f64; 2],
}

/// Measures and prints.
pub fn run(args: &QualityArgs) -> Result<ExitCode, CliError> {
    let [prefix, continuation] = demo_model::EVALUATION_PARTS;
    let parts = Parts { prefix, continuation };
    let most = prefix / CHUNK_TOKENS - 1;
    if args.newest > most {
        let usage = format!("--newest must be at most {most} of the prefix's chunks, found {}", args.newest);
        return Err(CliError::Usage(usage));
    }
    let mut engine = calibrate::open(args.model.as_deref(), args.threads, args.store.folder())?;
    let demo = Demo::new(&engine)?;
    let sources = calibrate::sources(args.model.is_some(), &args.adapters);
    let register = |(name, source): &(String, _)| engine.register_adapter(name, source);
    let adapters = sources.iter().map(register).collect::<Result<Vec<_>, _>>()?;
    engine.reserve_kv(1, prefix + continuation)?;
    let (mut rows, mut mass, mut used) = (Vec::new(), Vec::new(), Vec::new());
    for adapter in &adapters {
        let name = &adapter.name;
        for (setting, mut windows) in demo.evaluation(&engine, name, args.text.as_deref(), parts)? {
            windows.rows.truncate(args.sequences);
            let plan = WidthPlan {
                adapter: Some(name.clone()),
                parts,
                ratios: args.ratios.clone(),
                newest: args.newest,
                ways: WAYS.into(),
            };
            let bar = load::bar(windows.rows.len(), "measuring");
            bar.set_message(format!("{name}, {setting}"));
            let measured = measure_widths(&mut engine, &plan, &windows, &mut || bar.inc(1));
            bar.finish_and_clear();
            let measured = measured?;
            rows.extend(measured.costs.iter().map(|cost| Row::new(cost, &setting, name)));
            mass.push(Mass::new(&measured.mass, &setting, name, windows.rows.len()));
            used.push(Used::new(name, &setting, &windows));
        }
    }
    let report = Report {
        model: load::model_name(args.model.as_deref()),
        backend: backend_line(&engine),
        prefix_tokens: prefix,
        scored_tokens: continuation - 1,
        newest_chunks: args.newest,
        windows: used,
        mass,
        rows,
    };
    super::show(args, &report, Report::lines, |_| String::new())
}

impl Row {
    fn new(cost: &WidthCost, setting: &str, adapter: &str) -> Self {
        Self {
            ratio: cost.ratio,
            method: cost.assigned.to_string(),
            setting: setting.into(),
            adapter: adapter.into(),
            bytes: cost.bytes,
            outputs: Outputs::new(&cost.divergence),
            factor: cost.factors.iter().copied().reduce(f64::max),
        }
    }
}

impl Mass {
    fn new(shape: &MassShape, setting: &str, adapter: &str, windows: usize) -> Self {
        let sampling = |&(MassSampling { layers, heads }, agreement): &(MassSampling, [f64; 2])| Sampling {
            layers,
            heads,
            agreement,
        };
        let samplings = shape.agreement.iter().map(sampling).collect();
        Self { setting: setting.into(), adapter: adapter.into(), windows, top: shape.top, samplings }
    }
}

impl Report {
    /// A table for each ratio, one of what all chunks cost in one width, and how attention falls.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut ratios: Vec<Option<f64>> = self.rows.iter().map(|row| row.ratio).collect();
        ratios.sort_by(|a, b| a.unwrap_or(f64::INFINITY).total_cmp(&b.unwrap_or(f64::INFINITY)));
        ratios.dedup();
        for ratio in ratios {
            lines.push(match ratio {
                Some(ratio) => {
                    format!("{:.1} % of what 8 bits take: means over adapters and settings", 100.0 * ratio)
                }
                None => "all chunks in one width".into(),
            });
            lines.extend(self.table(ratio));
            lines.push(String::new());
        }
        lines.extend(self.mass_lines());
        let windows: usize = self.windows.iter().map(|used| used.windows).sum();
        lines.push(format!(
            "{}: {windows} windows of a prefix of {} tokens, its newest {} chunks exact and not counted; the {} tokens after the next \
             one are scored, against the adapter's own exact cache; \"at random\" is the mean of {SEEDS} orders",
            self.model, self.prefix_tokens, self.newest_chunks, self.scored_tokens
        ));
        lines.push(format!("backend: {}", self.backend));
        lines
    }

    fn table(&self, ratio: Option<f64>) -> Vec<String> {
        let columns = [("widths", Align::Left), ("bytes", Align::Right)];
        let last = [("of by mass", Align::Right), ("KL / error², at most", Align::Right)];
        let columns: Vec<(&str, Align)> = columns.into_iter().chain(outputs::COLUMNS).chain(last).collect();
        let own: Vec<&Row> = self.rows.iter().filter(|row| row.ratio == ratio).collect();
        let of = |way: &Assigned| {
            let name = way.to_string();
            own.iter().copied().filter(|row| row.method == name).collect::<Vec<&Row>>()
        };
        let means = |rows: &[&Row]| Means::new(rows.iter().map(|row| (row.adapter.as_str(), row.outputs)));
        let by_mass = Some(of(&WAYS[0])).filter(|rows| !rows.is_empty()).map(|rows| means(&rows));
        let cells = |way: &Assigned| {
            let rows = of(way);
            if rows.is_empty() {
                return None;
            }
            let outputs = means(&rows);
            let times = by_mass.as_ref().map(|by_mass| outputs.all.kl_mean / by_mass.all.kl_mean);
            let factor = rows.iter().filter_map(|row| row.factor).reduce(f64::max);
            let mut cells = vec![
                way.to_string(),
                format!("{:.1} %", 100.0 * outputs::mean(rows.iter().map(|row| row.bytes))),
            ];
            cells.extend(outputs.cells());
            cells.push(times.map_or("-".into(), |times| format!("× {times:.2}")));
            cells.push(factor.map_or("-".into(), |factor| format!("{factor:.4}")));
            Some(cells)
        };
        let rows: Vec<Vec<String>> = WAYS.iter().filter_map(cells).collect();
        table::render(&columns, &rows)
    }

    fn mass_lines(&self) -> Vec<String> {
        let all: f64 = self.mass.iter().map(|mass| mass.windows as f64).sum();
        let mean = |of: &dyn Fn(&Mass) -> f64| {
            self.mass.iter().map(|mass| of(mass) * mass.windows as f64).sum::<f64>() / all.max(1.0)
        };
        let [tenth, quarter, half] = [0, 1, 2].map(|place| 100.0 * mean(&|mass| mass.top[place]));
        let mut lines = vec![format!(
            "of the attention that chunks get, the tenth that gets most has {tenth:.0} %, the quarter {quarter:.0} %, the half \
             {half:.0} %"
        )];
        let Some(first) = self.mass.first() else { return lines };
        for (place, Sampling { layers, heads, .. }) in first.samplings.iter().enumerate() {
            let agreement = mean(&|mass| mass.samplings[place].agreement[0]);
            let least = self.mass.iter().map(|mass| mass.samplings[place].agreement[1]).fold(1.0, f64::min);
            lines.push(format!(
                "1 of {layers} layers and {heads} heads orders chunks as all do with a rank correlation of {agreement:.3}, in the \
                 worst window {least:.3}"
            ));
        }
        lines
    }
}
