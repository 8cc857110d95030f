//! The outcome of a suite as a table or as JSON: of every run what was worst.

use std::process::ExitCode;

use serde::Serialize;

use super::super::report::{number, small};
use super::super::{Case, Report};
use crate::table::{self, Align};
use crate::{CliError, output};

/// Every run and the verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SuiteReport {
    /// By golden set, then by backend.
    pub runs: Vec<Run>,
    /// Whether all of them passed.
    pub passed: bool,
}

/// One golden set on one backend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// The set's folder, from that of the suite.
    pub set: String,
    /// The backend.
    pub backend: String,
    /// The backend with its tier and threads; none if the set was refused.
    pub device: Option<String>,
    /// The base, then its adapters.
    pub targets: Vec<Worst>,
    /// Adapter and prompt of each case that exceeds a bound.
    pub failed: Vec<String>,
    /// Why it was refused, if it was.
    pub error: Option<String>,
    /// Whether it ran and every bound holds.
    pub passed: bool,
}

/// What is worst in the cases of one target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worst {
    /// `base`, or the adapter's name.
    pub adapter: String,
    /// How many cases there are.
    pub cases: usize,
    /// Of all cases.
    pub max_abs_logit_error: Option<f64>,
    /// That of the case with the largest error.
    pub logit_error_bound: Option<f64>,
    /// Whether all greedy tokens are the golden's.
    pub greedy_equal: bool,
    /// How many are not.
    pub greedy_differences: usize,
    /// Of all cases.
    pub kv_max_abs_error: Option<f64>,
    /// Whether every bound holds.
    pub passed: bool,
}

impl Run {
    pub(super) fn new(set: &str, backend: &str, outcome: Result<Report, CliError>) -> Self {
        let (set, backend) = (set.to_owned(), backend.to_owned());
        match outcome {
            Err(error) => {
                let (targets, failed, error) = (Vec::new(), Vec::new(), Some(error.to_string()));
                Self { set, backend, device: None, targets, failed, error, passed: false }
            }
            Ok(Report { cases, passed, backend: device, .. }) => {
                let failed = cases.iter().filter(|case| !case.passed);
                let failed = failed.map(|case| format!("{} {}", case.adapter, case.prompt)).collect();
                // Cases of one target lie together.
                let targets = cases.chunk_by(|a, b| a.adapter == b.adapter).map(Worst::of).collect();
                Self { set, backend, device: Some(device), targets, failed, error: None, passed }
            }
        }
    }
}

impl Worst {
    fn of(cases: &[Case]) -> Self {
        let logits =
            cases.iter().filter_map(|case| Some((case.max_abs_logit_error?, case.logit_error_bound)));
        let worst = logits.max_by(|(a, _), (b, _)| a.total_cmp(b));
        let greedy_differences = cases.iter().map(|case| case.greedy_differences.len()).sum();
        Self {
            adapter: cases.first().map(|case| case.adapter.clone()).unwrap_or_default(),
            cases: cases.len(),
            max_abs_logit_error: worst.map(|(error, _)| error),
            logit_error_bound: worst.and_then(|(_, bound)| bound),
            greedy_equal: greedy_differences == 0,
            greedy_differences,
            kv_max_abs_error: cases.iter().filter_map(|case| case.kv_max_abs_error).max_by(f64::total_cmp),
            passed: cases.iter().all(|case| case.passed),
        }
    }
}

impl SuiteReport {
    pub(super) fn new(runs: Vec<Run>) -> Self {
        let passed = !runs.is_empty() && runs.iter().all(|run| run.passed);
        Self { runs, passed }
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        if self.passed {
            return ExitCode::SUCCESS;
        }
        let exceeded = self.runs.iter().any(|run| !run.passed && run.error.is_none());
        ExitCode::from(if exceeded { 1 } else { 2 })
    }

    pub(super) fn print(&self) -> Result<(), CliError> {
        let columns = [
            ("golden set", Align::Left),
            ("backend", Align::Left),
            ("adapter", Align::Left),
            ("cases", Align::Right),
            ("max |logit|", Align::Right),
            ("bound", Align::Right),
            ("greedy", Align::Left),
            ("max |K,V|", Align::Right),
            ("", Align::Left),
        ];
        let rows: Vec<Vec<String>> = self.runs.iter().flat_map(cells).collect();
        table::render(&columns, &rows).into_iter().try_for_each(output::line)?;
        output::line("")?;
        for run in &self.runs {
            let wrong = match &run.error {
                Some(error) => error.clone(),
                None if run.passed => continue,
                None => format!("beyond a bound: {}", run.failed.join(", ")),
            };
            output::line(format_args!("{} on {}: {wrong}", run.set, run.backend))?;
        }
        let (runs, passed) = (self.runs.len(), self.runs.iter().filter(|run| run.passed).count());
        let verdict = if self.passed { "passed" } else { "FAILED" };
        output::line(format_args!("{verdict}: {passed} of {runs} runs are within every bound"))
    }
}

fn cells(run: &Run) -> Vec<Vec<String>> {
    let (set, backend) = (run.set.clone(), run.backend.clone());
    if run.error.is_some() {
        let none = || "-".to_owned();
        return vec![vec![set, backend, none(), none(), none(), none(), none(), none(), "refused".into()]];
    }
    let row = |worst: &Worst| {
        let greedy = match worst.greedy_differences {
            0 => "equal".into(),
            differ => format!("{differ} differ"),
        };
        vec![
            set.clone(),
            backend.clone(),
            worst.adapter.clone(),
            worst.cases.to_string(),
            number(worst.max_abs_logit_error, &small),
            number(worst.logit_error_bound, &|v| format!("{v:.0e}")),
            greedy,
            number(worst.kv_max_abs_error, &small),
            if worst.passed { "ok".into() } else { "FAILED".into() },
        ]
    };
    run.targets.iter().map(row).collect()
}
