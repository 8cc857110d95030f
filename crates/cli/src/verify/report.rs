//! The outcome of `verify` as a table or as JSON.

use serde::Serialize;

use super::select::Selection;
use super::{Bounds, Case};
use crate::table::{self, Align};
use crate::{CliError, output};

/// Every case and the verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// In the golden set's order.
    pub cases: Vec<Case>,
    /// Golden targets without an adapter to run them under.
    pub skipped: Vec<String>,
    /// Adapters that were given and that the golden set does not have.
    pub unused: Vec<String>,
    /// What ran.
    pub backend: String,
    /// `golden`, or `reference` where the reference backend's own results took its place.
    pub compared_with: &'static str,
    /// What decided.
    pub bounds: Bounds,
    /// Whether every case is within them.
    pub passed: bool,
}

impl Report {
    pub(super) fn new(
        cases: Vec<Case>,
        selection: Selection,
        backend: String,
        against_reference: bool,
        bounds: Bounds,
    ) -> Self {
        let passed = !cases.is_empty() && cases.iter().all(|c| c.passed);
        let compared_with = if against_reference { "reference" } else { "golden" };
        let Selection { skipped, unused, .. } = selection;
        Self { cases, skipped, unused, backend, compared_with, bounds, passed }
    }

    pub(super) fn print(&self) -> Result<(), CliError> {
        let columns = [
            ("adapter", Align::Left),
            ("prompt", Align::Left),
            ("tokens", Align::Right),
            ("max |logit|", Align::Right),
            ("mean |logit|", Align::Right),
            ("bound", Align::Right),
            ("top-1", Align::Right),
            ("greedy", Align::Left),
            ("max |K,V|", Align::Right),
            ("perplexity", Align::Right),
            ("golden", Align::Right),
            ("", Align::Left),
        ];
        let rows: Vec<Vec<String>> = self.cases.iter().map(cells).collect();
        for line in table::render(&columns, &rows) {
            output::line(line)?;
        }
        for case in &self.cases {
            for d in &case.greedy_differences {
                output::line(format_args!(
                    "{} {}: greedy step {} is token {}, golden {} with a lead of {:.2e}",
                    case.adapter, case.prompt, d.step, d.found, d.golden, d.margin
                ))?;
            }
        }
        if !self.skipped.is_empty() {
            let skipped = self.skipped.join(", ");
            output::line(format_args!("not run, for --adapters does not have them: {skipped}"))?;
        }
        if !self.unused.is_empty() {
            let unused = self.unused.join(", ");
            output::line(format_args!("given, but not in the golden set: {unused}"))?;
        }
        output::line(format_args!("\nbackend: {}", self.backend))?;
        output::line(match self.compared_with {
            "golden" => "compared with: the golden vectors",
            _ => "compared with: the reference backend on the same weights under the same numerics",
        })?;
        self.bounds.lines().into_iter().try_for_each(output::line)?;
        output::line(if self.passed { "passed" } else { "FAILED" })
    }
}

/// A cell for a number that may not be there.
pub(super) fn number(value: Option<f64>, show: &dyn Fn(f64) -> String) -> String {
    value.map_or_else(|| "-".into(), show)
}

/// An error, as a cell shows it.
pub(super) fn small(error: f64) -> String {
    format!("{error:.2e}")
}

fn cells(case: &Case) -> Vec<String> {
    let greedy = match case.greedy_equal {
        None => "-".into(),
        Some(true) => "equal".into(),
        Some(false) => format!("{} differ", case.greedy_differences.len()),
    };
    vec![
        case.adapter.clone(),
        case.prompt.clone(),
        case.tokens.to_string(),
        number(case.max_abs_logit_error, &small),
        number(case.mean_abs_logit_error, &small),
        number(case.logit_error_bound, &|v| format!("{v:.0e}")),
        number(case.top1_agreement, &|v| format!("{:.1} %", 100.0 * v)),
        greedy,
        number(case.kv_max_abs_error, &small),
        number(case.perplexity, &|v| format!("{v:.4}")),
        number(case.perplexity_golden, &|v| format!("{v:.4}")),
        if case.passed { "ok".into() } else { "FAILED".into() },
    ]
}
