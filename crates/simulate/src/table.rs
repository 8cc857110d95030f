//! Rows as text: every run, and policies beside each other with what their papers say.

use std::fmt::Write;

use crate::grid::Cell;
use crate::row::Run;

/// How much worse than the best a policy may be and still be counted with it.
const CLOSE: f64 = 1.02;

/// What papers report, on their machines and with their data, beside which ours are simulated.
const PUBLISHED: &str = "\
published, not ours:
  ELORA     mean TTFT, against all of it: LRU instead of the cost model 1.42; without the term of adapters 1.21, cost 1.19,
            visits 1.25, recency 1.21
  LLMS      switch latency, 8 contexts: 0.27 s; without lifecycle 0.62 s, compression 0.42 s, pipeline 1.62 s
  MobiLoRA  TTFT against S-LoRA: 18.1 to 81.3 % less
  EdgeLoRA  throughput against llama.cpp: 2 to 4 times
";

/// One line for each run.
#[must_use]
pub fn rows(cells: &[Cell]) -> String {
    let mut text = format!(
        "{:<20} {:<18} {:>4} {:>8} {:>5} {:>5} {:>5} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>6} {:>5} {:>5}\n",
        "workload",
        "policy",
        "%",
        "MB",
        "seed",
        "hit",
        "mem",
        "invalid",
        "moved GB",
        "ttft ms",
        "p95",
        "p99",
        "sw p99",
        "req/s",
        "ref.",
        "Mop/s",
    );
    for Cell { percent, run } in cells {
        let row = &run.row;
        let ms = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<20} {:<18} {:>4} {:>8.0} {:>5} {:>5.3} {:>5.3} {:>7.4} {:>9.1} {:>9} {:>9} {:>9} {:>9} {:>6.3} {:>5} {:>5.2}",
            row.workload,
            row.policy,
            percent.map_or_else(|| "-".to_owned(), |percent| percent.to_string()),
            row.bytes as f64 / 1e6,
            run.seed,
            row.hit_rate,
            run.memory_hit_rate,
            row.invalid_kv_share,
            row.bytes_moved as f64 / 1e9,
            ms(row.ttft_mean_ms),
            ms(row.ttft_p95_ms),
            ms(row.ttft_p99_ms),
            ms(row.switch_p99_ms),
            row.requests_per_second,
            run.refused,
            run.operations_per_second / 1e6,
        );
    }
    text
}

/// What a workload's paper is about, and its name.
fn measure(run: &Run) -> (&'static str, Option<f64>) {
    match run.row.workload.starts_with("llms") {
        true => ("p99 switch latency", run.row.switch_p99_ms),
        false => ("mean TTFT", run.row.ttft_mean_ms),
    }
}

/// A policy under one workload and size.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The policy.
    pub policy: String,
    /// The workload.
    pub workload: String,
    /// The memory's share of the working set in percent, where that was given.
    pub percent: Option<u32>,
    /// What is compared.
    pub measure: &'static str,
    /// Its largest value over the seeds, in milliseconds.
    pub worst_ms: f64,
    /// Its ratio to the best policy under the same seed, the largest over the seeds.
    pub worst_ratio: f64,
}

impl Standing {
    /// Whether it is the best under every seed, or within 2 % of it.
    #[must_use]
    pub fn is_close(&self) -> bool {
        self.worst_ratio <= CLOSE
    }
}

/// Policies beside each other, under each workload and size: the worst of all seeds.
#[must_use]
pub fn standings(cells: &[Cell]) -> Vec<Standing> {
    let mut standings: Vec<Standing> = Vec::new();
    for Cell { percent, run } in cells {
        let (name, Some(value)) = measure(run) else { continue };
        let is_beside = |other: &&Cell| {
            let (a, b) = (&other.run, run);
            other.percent == *percent && a.seed == b.seed && a.row.workload == b.row.workload
        };
        let beside = cells.iter().filter(is_beside).filter_map(|other| measure(&other.run).1);
        let best = beside.fold(f64::INFINITY, f64::min);
        let ratio = if value > best { value / best } else { 1.0 };
        let known = standings.iter_mut().find(|known| {
            known.policy == run.row.policy && known.workload == run.row.workload && known.percent == *percent
        });
        match known {
            Some(known) => {
                known.worst_ms = known.worst_ms.max(value);
                known.worst_ratio = known.worst_ratio.max(ratio);
            }
            None => standings.push(Standing {
                policy: run.row.policy.clone(),
                workload: run.row.workload.clone(),
                percent: *percent,
                measure: name,
                worst_ms: value,
                worst_ratio: ratio,
            }),
        }
    }
    standings
}

/// The same as text, with what papers say below.
#[must_use]
pub fn comparison(cells: &[Cell]) -> String {
    let seeds = cells.iter().map(|cell| cell.run.seed).collect::<std::collections::BTreeSet<_>>().len();
    let mut text =
        format!("simulated, worst of {seeds} seeds; ratios are to the best policy under the same seed\n");
    let mut heading = None;
    for standing in standings(cells) {
        let Standing { policy, workload, percent, measure, worst_ms, worst_ratio } = &standing;
        if heading.as_ref() != Some(&(workload.clone(), *percent)) {
            let size =
                percent.map_or_else(String::new, |percent| format!(", {percent} % of the working set"));
            let _ = writeln!(text, "{workload}{size}: {measure}");
            heading = Some((workload.clone(), *percent));
        }
        let close = if standing.is_close() { "best or within 2 %" } else { "" };
        let _ = writeln!(text, "  {policy:<18} {worst_ms:>10.1} ms {worst_ratio:>7.3} {close}");
    }
    text + PUBLISHED
}
