//! `interleaf quality --budgets`: what an engine holds within drift budgets, and whether they are kept.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use interleaf_calibrate::{Budgets, Held, MOST_COLUMNS, Parts, Reader, Shared, hold, unshared_bytes};
use interleaf_demo_model as demo_model;
use interleaf_runtime::{
    AdapterSummary, BackendChoice, Digest, Engine, EngineOptions, JointCalibration, MadeFrom, Source,
};
use serde::Serialize;

use super::budgets_plot;
use super::calibrated::Calibrated;
use super::report::Used;
use crate::args::{AnchorArg, QualityArgs};
use crate::memory::backend_line;
use crate::table::{self, Align};
use crate::windows::{Demo, WINDOW};
use crate::{CliError, calibrate, load, output};

/// Tokens of the prefix that all adapters share.
const SHARED_PREFIX: usize = 1024;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    pub model: String,
    backend: String,
    calibrated: bool,
    /// Whether the base's pages stayed exact.
    exact_anchor: bool,
    /// Whether what was kept went to rest.
    at_rest: bool,
    windows: Vec<Used>,
    calibrations: Vec<Calibrated>,
    /// Each adapter alone with the base on one prefix.
    pub pairs: Vec<Pair>,
    /// All of them on one prefix.
    held: Vec<Together>,
}

/// One adapter's call within a budget.
#[derive(Debug, Serialize)]
pub struct Pair {
    pub budget: f32,
    setting: String,
    adapter: String,
    /// Of the adapter's own pages.
    bytes_per_token: f64,
    /// Nats: what the engine said that it would lose at most, and what it lost.
    pub estimated: f64,
    pub kl_mean: f64,
    top1: f64,
}

/// The base and all adapters on one prefix.
#[derive(Debug, Serialize)]
struct Together {
    budget: f32,
    tokens: usize,
    /// Of pages in the pool.
    bytes: u64,
    base_bytes: u64,
    /// Beside the pool, what pages are decoded with.
    basis_bytes: u64,
    /// In the store, what chunks at rest are decoded with.
    map_bytes: u64,
    /// A cache in f16 for each of them.
    unshared_bytes: u64,
    /// Of pages over that, of pages and what is held to decode them with, and of these and what is in the store for it.
    ratio: f64,
    ratio_with_bases: f64,
    ratio_with_maps: f64,
    /// For an adapter to compute the prefix, and to open what is left of it.
    prefill_seconds: f64,
    opening_seconds: f64,
    bytes_by_codec: BTreeMap<String, u64>,
    kl_mean: f64,
    /// The worst adapter's mean.
    kl_worst: f64,
    top1: f64,
}

/// Measures and prints.
pub fn run(args: &QualityArgs) -> Result<ExitCode, CliError> {
    let mut budgets = args.budgets.clone();
    budgets.sort_by(f32::total_cmp);
    budgets.dedup();
    if budgets.first().is_some_and(|budget| *budget <= 0.0) {
        return Err(CliError::Usage("--budgets must be above 0; what is exact is shown beside them".into()));
    }
    let folder = args.store.folder().filter(|_| !args.uncalibrated);
    let known = if args.uncalibrated { Vec::new() } else { calibrate_all(args, folder.clone())? };
    let map_bytes = known.iter().map(|(_, maps)| maps).sum();
    let options = EngineOptions {
        backend: BackendChoice::Cpu,
        threads: args.threads,
        store: folder,
        at_rest: args.at_rest,
        // What is measured here is storing what adapters have computed.
        first_touch: false,
        ..EngineOptions::default()
    };
    let mut engine = load::open(args.model.as_deref().map_or_else(load::demo_base, Source::dir), &options)?;
    let demo = Demo::new(&engine)?;
    let adapters = register(&mut engine, args)?;
    let budgets: Vec<Budgets> = budgets.into_iter().map(|budget| both(args, budget)).collect();
    let windows = adapters.iter().map(|adapter| windows(&engine, args, demo, adapter));
    let windows: Vec<Vec<Set>> = windows.collect::<Result<_, CliError>>()?;
    let calibrations = adapters.iter().zip(&windows).zip(&known).map(|((adapter, sets), (made_from, _))| {
        Calibrated::new(&adapter.name, made_from, sets.iter().map(|set| set.digest))
    });
    let calibrations = calibrations.collect();

    let together = together(&adapters, &windows)?;
    let count: usize = windows.iter().flatten().map(|set| set.prefixes.len()).sum();
    let bar =
        load::bar(count * budgets.len() + together.len() * adapters.len() * (budgets.len() + 1), "measuring");
    let mut pairs = Vec::new();
    for (adapter, sets) in adapters.iter().zip(&windows) {
        for set in sets {
            bar.set_message(format!("{}, {}", adapter.name, set.setting));
            for (prefix, continuation) in set.prefixes.iter().zip(&set.continuations) {
                let reader = Reader { adapter: adapter.name.clone(), continuation: continuation.clone() };
                let shared = Shared { prefix: prefix.clone(), readers: vec![reader] };
                let held = hold(&mut engine, &shared, &budgets, &mut || bar.inc(1))?;
                pairs.extend(
                    budgets.iter().zip(held).map(|(budget, held)| pair(*budget, set, &shared, &held)),
                );
            }
        }
    }
    bar.set_message(format!("{} adapters on one prefix", adapters.len()));
    // What costs nothing is there to be seen, too.
    let with_exact: Vec<Budgets> =
        std::iter::once(Budgets { base: 0.0, adapters: 0.0, is_idle: args.at_rest })
            .chain(budgets.iter().copied())
            .collect();
    let mut sums: Vec<Vec<Held>> = vec![Vec::new(); with_exact.len()];
    let mut unshared = 0;
    for shared in &together {
        unshared = unshared_bytes(&engine, shared);
        let held = hold(&mut engine, shared, &with_exact, &mut || bar.inc(1))?;
        sums.iter_mut().zip(held).for_each(|(sum, held)| sum.push(held));
    }
    bar.finish_and_clear();
    let report = Report {
        model: load::model_name(args.model.as_deref()),
        backend: backend_line(&engine),
        calibrated: !args.uncalibrated,
        exact_anchor: args.anchor == AnchorArg::F16,
        at_rest: args.at_rest,
        windows: windows.into_iter().flatten().map(|set| set.used).collect(),
        calibrations,
        pairs,
        held: (with_exact.iter().zip(&sums))
            .map(|(budget, held)| of_all(*budget, held, unshared, map_bytes))
            .collect(),
    };
    super::show(args, &report, Report::lines, budgets_plot::draw)
}

const fn both(args: &QualityArgs, budget: f32) -> Budgets {
    let base = match args.anchor {
        AnchorArg::F16 => 0.0,
        AnchorArg::Q8 => budget,
    };
    Budgets { base, adapters: budget, is_idle: args.at_rest }
}

fn register(engine: &mut Engine, args: &QualityArgs) -> Result<Vec<AdapterSummary>, CliError> {
    let sources = calibrate::sources(args.model.is_some(), &args.adapters).into_iter();
    sources.map(|(name, source)| Ok(engine.register_adapter(&name, &source)?)).collect()
}

/// Puts a calibration of each adapter into the store that it is missing from. Returns what they were made from, and the bytes
/// of what chunks at rest are decoded with.
fn calibrate_all(args: &QualityArgs, folder: Option<PathBuf>) -> Result<Vec<(MadeFrom, u64)>, CliError> {
    if folder.is_none() {
        return Err(CliError::Usage(
            "--budgets takes calibrations from the store: it needs one, or --uncalibrated".into(),
        ));
    }
    let mut engine = calibrate::open(args.model.as_deref(), args.threads, folder)?;
    let demo = Demo::new(&engine)?;
    let adapters = register(&mut engine, args)?;
    calibrate::reserve(&mut engine, WINDOW)?;
    let mut without = Vec::new();
    let mut of = |adapter: &AdapterSummary| {
        let calibration = super::calibration(&mut engine, args, demo, adapter)?;
        let maps =
            calibration.joint.as_ref().filter(|_| args.at_rest).map_or(0, JointCalibration::stored_bytes);
        if args.at_rest && calibration.rest.is_empty() {
            without.push(adapter.name.clone());
        }
        Ok((calibration.made_from, maps))
    };
    let all = adapters.iter().map(&mut of).collect::<Result<Vec<_>, CliError>>()?;
    say_without_rest(&without, adapters.len())?;
    Ok(all)
}

/// Says of which adapters nothing goes to rest; where that is all of them nothing would be measured that was asked for.
fn say_without_rest(without: &[String], adapters: usize) -> Result<(), CliError> {
    if without.is_empty() {
        return Ok(());
    }
    let names = without.join(", ");
    let reason = format!(
        "it is as the base's, or its calibration has no map over all layers, as of models with more than {MOST_COLUMNS} inputs \
         and outputs of one"
    );
    if without.len() == adapters {
        return Err(CliError::Usage(format!("--at-rest: nothing of {names} goes to rest: {reason}")));
    }
    output::note(format_args!("{names}: nothing goes to rest: {reason}"));
    Ok(())
}

/// An adapter's windows in one setting.
struct Set {
    setting: String,
    used: Used,
    /// Of the text.
    digest: Digest,
    prefixes: Vec<Vec<u32>>,
    continuations: Vec<Vec<u32>>,
}

fn windows(
    engine: &Engine,
    args: &QualityArgs,
    demo: Demo,
    adapter: &AdapterSummary,
) -> Result<Vec<Set>, CliError> {
    let [prefix, continuation] = demo_model::EVALUATION_PARTS;
    let parts = Parts { prefix, continuation };
    let sets = demo.evaluation(engine, &adapter.name, args.text.as_deref(), parts)?.into_iter().map(
        |(setting, mut windows)| {
            windows.rows.truncate(args.sequences);
            let (prefixes, continuations) =
                windows.rows.iter().map(|row| (row[..prefix].to_vec(), row[prefix..].to_vec())).unzip();
            let used = Used::new(&adapter.name, &setting, &windows);
            Set { setting, used, digest: windows.digest, prefixes, continuations }
        },
    );
    Ok(sets.collect())
}

/// Prefixes that all adapters share, each with what follows for every adapter: the prefixes of the last setting one behind the
/// other, beginning with another one for each.
fn together(adapters: &[AdapterSummary], windows: &[Vec<Set>]) -> Result<Vec<Shared>, CliError> {
    let sets: Vec<&Set> = windows.iter().filter_map(|sets| sets.last()).collect();
    let Some(first) = sets.first() else { return Ok(Vec::new()) };
    let mut distinct: Vec<&[u32]> = Vec::new();
    for prefix in &first.prefixes {
        if !distinct.contains(&prefix.as_slice()) {
            distinct.push(prefix);
        }
    }
    let tokens: usize = distinct.iter().map(|prefix| prefix.len()).sum();
    if tokens < SHARED_PREFIX + distinct.len() {
        return Err(CliError::Usage(format!(
            "a prefix of {SHARED_PREFIX} tokens needs more windows than {}: a longer --text, or more --sequences",
            distinct.len()
        )));
    }
    let joined = |start: usize| -> Vec<u32> {
        let behind = (1..distinct.len()).flat_map(|next| &distinct[(start + next) % distinct.len()][1..]);
        distinct[start].iter().chain(behind).take(SHARED_PREFIX).copied().collect()
    };
    let count = sets.iter().map(|set| set.continuations.len()).min().unwrap_or(0);
    let of = |i: usize| {
        let readers = adapters.iter().zip(&sets).map(|(adapter, set)| Reader {
            adapter: adapter.name.clone(),
            continuation: set.continuations[i].clone(),
        });
        Shared { prefix: joined(i % distinct.len()), readers: readers.collect() }
    };
    Ok((0..count).map(of).collect())
}

fn pair(budget: Budgets, set: &Set, shared: &Shared, held: &Held) -> Pair {
    let (reader, outcome) = (&shared.readers[0], &held.readers[0]);
    Pair {
        budget: budget.adapters,
        setting: set.setting.clone(),
        adapter: reader.adapter.clone(),
        bytes_per_token: outcome.bytes as f64 / shared.prefix.len() as f64,
        estimated: outcome.estimated,
        kl_mean: outcome.kl_mean(),
        top1: outcome.same_top as f64 / (outcome.kl.len() as f64).max(1.0),
    }
}

/// Means over prefixes; of adapters the worst.
fn of_all(budget: Budgets, held: &[Held], unshared: u64, maps: u64) -> Together {
    let count = held.len().max(1) as u64;
    let mean = |of: &dyn Fn(&Held) -> u64| held.iter().map(of).sum::<u64>() / count;
    let adapters = held.first().map_or(0, |held| held.readers.len());
    let kl =
        |adapter: usize| held.iter().map(|held| held.readers[adapter].kl_mean()).sum::<f64>() / count as f64;
    let scored: usize = held.iter().flat_map(|held| &held.readers).map(|reader| reader.kl.len()).sum();
    let same: usize = held.iter().flat_map(|held| &held.readers).map(|reader| reader.same_top).sum();
    let mut bytes_by_codec: BTreeMap<String, u64> = BTreeMap::new();
    for (codec, bytes) in held.iter().flat_map(|held| &held.by_codec) {
        *bytes_by_codec.entry(codec.clone()).or_default() += bytes / count;
    }
    let (bytes, basis_bytes) = (mean(&|held| held.bytes), mean(&|held| held.basis_bytes));
    // Without a budget nothing goes to rest.
    let map_bytes = if budget.adapters > 0.0 { maps } else { 0 };
    let seconds = |which: usize| held.iter().map(|held| held.seconds[which]).sum::<f64>() / count as f64;
    let ratio = |bytes: u64| bytes as f64 / (unshared as f64).max(1.0);
    Together {
        budget: budget.adapters,
        tokens: SHARED_PREFIX,
        bytes,
        base_bytes: mean(&|held| held.base_bytes),
        basis_bytes,
        map_bytes,
        unshared_bytes: unshared,
        ratio: ratio(bytes),
        ratio_with_bases: ratio(bytes + basis_bytes),
        ratio_with_maps: ratio(bytes + basis_bytes + map_bytes),
        prefill_seconds: seconds(0),
        opening_seconds: seconds(1),
        bytes_by_codec,
        kl_mean: (0..adapters).map(kl).sum::<f64>() / adapters.max(1) as f64,
        kl_worst: (0..adapters).map(kl).fold(0.0, f64::max),
        top1: same as f64 / (scored as f64).max(1.0),
    }
}

impl Report {
    /// Whether no adapter is measured on what its calibration was fitted to.
    pub fn is_held_out(&self) -> bool {
        self.calibrations.iter().all(|calibrated| !calibrated.is_measured_on)
    }

    fn lines(&self) -> Vec<String> {
        let anchor = if self.exact_anchor {
            "the base's pages exact"
        } else {
            "the base's pages within the same budget"
        };
        let known = if self.calibrated { "calibrated" } else { "uncalibrated" };
        let rest = if self.at_rest { ", at rest after every call" } else { "" };
        let mut lines = vec![format!("{}, {}; {known}, {anchor}{rest}", self.model, self.backend)];
        let mut settings: Vec<&str> = self.windows.iter().map(|used| used.setting.as_str()).collect();
        settings.sort_unstable();
        settings.dedup();
        let used = |setting| format!("{setting}: {}", Used::in_setting(&self.windows, setting));
        lines.extend(settings.into_iter().map(used));
        lines.extend(self.calibrations.iter().map(Calibrated::line));
        lines.push(String::new());
        let right = |name| (name, Align::Right);
        let columns = [
            right("budget, nats"),
            right("calls"),
            right("within it"),
            right("within estimate"),
            right("mean KL"),
            right("mean estimate"),
            right("worst KL / budget"),
            right("same top token"),
            right("bytes per token"),
        ];
        lines.extend(table::render(&columns, &self.of_budgets()));
        lines.push(String::new());
        let columns = [
            right("budget, nats"),
            right("tokens"),
            right("bytes held"),
            right("of f16 caches"),
            right("with bases"),
            right("and maps"),
            right("mean KL"),
            right("worst adapter"),
            right("same top token"),
            right("prefill"),
            right("opened in"),
        ];
        let rows: Vec<Vec<String>> = self.held.iter().map(Together::cells).collect();
        lines.extend(table::render(&columns, &rows));
        lines.push(String::new());
        lines.extend(self.held.iter().map(Together::by_codec));
        lines
    }

    fn of_budgets(&self) -> Vec<Vec<String>> {
        let mut budgets: Vec<f32> = self.pairs.iter().map(|pair| pair.budget).collect();
        budgets.sort_by(f32::total_cmp);
        budgets.dedup();
        budgets
            .into_iter()
            .map(|budget| of_budget(budget, self.pairs.iter().filter(|pair| pair.budget == budget)))
            .collect()
    }
}

fn of_budget<'a>(budget: f32, pairs: impl Iterator<Item = &'a Pair> + Clone) -> Vec<String> {
    let count = pairs.clone().count().max(1) as f64;
    let mean = |of: &dyn Fn(&Pair) -> f64| pairs.clone().map(of).sum::<f64>() / count;
    let share =
        |of: &dyn Fn(&Pair) -> bool| 100.0 * pairs.clone().filter(|pair| of(pair)).count() as f64 / count;
    let limit = f64::from(budget);
    let worst = pairs.clone().map(|pair| pair.kl_mean / limit).fold(0.0, f64::max);
    vec![
        table::nats(budget, 0),
        format!("{count}"),
        format!("{:.1} %", share(&|pair| pair.kl_mean <= limit)),
        format!("{:.1} %", share(&|pair| pair.kl_mean <= pair.estimated)),
        format!("{:.2e}", mean(&|pair| pair.kl_mean)),
        format!("{:.2e}", mean(&|pair| pair.estimated)),
        format!("{worst:.2}"),
        format!("{:.2} %", 100.0 * mean(&|pair| pair.top1)),
        format!("{:.0}", mean(&|pair| pair.bytes_per_token)),
    ]
}

impl Together {
    fn by_codec(&self) -> String {
        let codecs =
            self.bytes_by_codec.iter().map(|(codec, bytes)| format!("{codec} {}", table::bytes(*bytes)));
        format!("{}: {}", table::nats(self.budget, 0), codecs.collect::<Vec<_>>().join(", "))
    }

    fn cells(&self) -> Vec<String> {
        vec![
            table::nats(self.budget, 0),
            self.tokens.to_string(),
            table::bytes(self.bytes),
            format!("{:.1} %", 100.0 * self.ratio),
            format!("{:.1} %", 100.0 * self.ratio_with_bases),
            format!("{:.1} %", 100.0 * self.ratio_with_maps),
            format!("{:.2e}", self.kl_mean),
            format!("{:.2e}", self.kl_worst),
            format!("{:.2} %", 100.0 * self.top1),
            format!("{:.0} ms", 1e3 * self.prefill_seconds),
            format!("{:.1} ms", 1e3 * self.opening_seconds),
        ]
    }
}

#[cfg(test)]
mod tests {
    use interleaf_calibrate::Windows;

    use super::*;

    #[test]
    fn texts_that_were_measured_and_fitted_are_named() {
        let windows =
            Windows { text: "a book".into(), digest: Digest::of_bytes(b"a"), rows: vec![vec![1]; 3] };
        let made_from = |content: &[u8]| MadeFrom {
            text: "some text".into(),
            text_digest: Some(Digest::of_bytes(content)),
            window_tokens: 512,
            fitted: 7,
            held_back: 1,
            prefix_tokens: 336,
        };
        let of = |adapter: &str, content: &[u8]| {
            Calibrated::new(adapter, &made_from(content), std::iter::once(windows.digest))
        };
        let report = Report {
            model: "m".into(),
            backend: "cpu".into(),
            calibrated: true,
            exact_anchor: true,
            at_rest: false,
            windows: vec![Used::new("x", "text", &windows), Used::new("y", "text", &windows)],
            calibrations: vec![of("x", b"a"), of("y", b"b")],
            pairs: Vec::new(),
            held: Vec::new(),
        };
        let lines = report.lines();
        assert_eq!(lines[1], "text: 6 of a book");
        assert!(
            lines[2].starts_with("x: calibrated on 7 of some text, the very text that it is measured on")
        );
        assert_eq!(lines[3], "y: calibrated on 7 of some text");
        assert!(!report.is_held_out());
    }
}
