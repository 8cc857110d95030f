//! The bounds that decide `passed`. The README states them.

use std::collections::HashMap;

use interleaf_runtime::{BackendInfo, Numerics};
use serde::Serialize;

use super::Case;
use crate::args::{EngineArgs, PagesArg, WeightsArg};

/// What the cases of a run may differ by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bounds {
    /// Largest absolute error of a logit, and of K and V; `None` where each case has its own:
    /// twice what quantising activations does to the reference.
    pub logit: Option<f64>,
    /// Relative error of the perplexity: of the windows, and without the margin rule of every prompt. Where
    /// something is rounded, a prompt is too short to average single tokens out.
    pub perplexity: f64,
    /// Whether a greedy token may differ where the golden's own lead is smaller than twice the case's
    /// logit error: an error of e moves two logits apart by at most 2e.
    pub margin_rule: bool,
    /// Whether exceeding any of them fails the run.
    pub binding: bool,
}

impl Bounds {
    /// The bounds for a backend and its options.
    ///
    /// Where nothing is rounded on the way, only the order of f32 additions is left. F16 pages round K and
    /// V by up to 2⁻¹¹ of their size, so those runs are held to the margin rule with a cap, twice the
    /// largest error that any golden set has shown. Converted weights are compared with the reference on the
    /// same bits under the same numerics.
    pub fn of(info: &BackendInfo, args: &EngineArgs) -> Self {
        let quantised = args.weights.is_quantised();
        let integer = quantised && info.numerics == Numerics::ActQ8_0;
        let margin_rule = integer || args.pages != PagesArg::F32;
        let logit = match (margin_rule, info.name) {
            (true, _) => 5e-2,
            (false, "ref") => 1e-4,
            (false, "cpu") => 1e-3,
            (false, _) => 2e-3,
        };
        Self {
            logit: (!integer).then_some(logit),
            perplexity: 1e-3,
            margin_rule,
            // Converted weights on the reference itself are measured against the golden and not judged:
            // what they cost is the format's, not the engine's.
            binding: args.weights == WeightsArg::Stored || info.name != "ref",
        }
    }
}

impl Bounds {
    /// What the report says of them.
    pub(super) fn lines(&self) -> Vec<String> {
        if !self.binding {
            return vec![
                "bounds: none; converted weights are another model, and this is what they cost".into(),
            ];
        }
        let logit = self.logit.map_or_else(
            || "twice what quantising the activations does to the reference itself".into(),
            |bound| format!("{bound:.0e}"),
        );
        let but = if self.margin_rule {
            ", but where the golden's lead is under twice the logit error"
        } else {
            ""
        };
        vec![
            format!("bounds: logits, K and V {logit}; perplexity {:.1} %", 100.0 * self.perplexity),
            format!("greedy tokens: all equal{but}"),
        ]
    }
}

/// What quantising activations does to each case: how far the reference under `act=f32` is from the
/// reference under `act=q8_0`, on the same weights.
///
/// Under `act=q8_0` a difference in the last bit of a sum may move a code by one, and that code the next
/// ones: two right engines differ by about as much as the rounding of codes does. So a case may differ by
/// twice the rounding itself, in its largest and in its mean error.
#[derive(Debug, Default)]
pub struct Rounding(HashMap<(String, String), Allowance>);

/// The most that one case may differ by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    /// Largest error of a logit.
    pub logit: f64,
    /// Mean error of the logits.
    pub mean_logit: f64,
    /// Largest error of K and V.
    pub kv: f64,
}

impl Rounding {
    /// From the cases of the reference under `act=f32`, compared with itself under `act=q8_0`.
    pub fn new(cases: Vec<Case>) -> Self {
        let allowance = |case: &Case| Allowance {
            logit: 2.0 * case.max_abs_logit_error.unwrap_or(0.0),
            mean_logit: 2.0 * case.mean_abs_logit_error.unwrap_or(0.0),
            kv: 2.0 * case.kv_max_abs_error.unwrap_or(0.0),
        };
        Self(cases.into_iter().map(|c| (allowance(&c), c)).map(|(a, c)| ((c.adapter, c.prompt), a)).collect())
    }

    /// What a case may differ by.
    pub fn allowance(&self, bounds: Bounds, adapter: &str, prompt: &str) -> Allowance {
        if let Some(logit) = bounds.logit {
            return Allowance { logit, mean_logit: logit, kv: logit };
        }
        let own = self.0.get(&(adapter.to_owned(), prompt.to_owned())).copied();
        own.unwrap_or(Allowance { logit: 0.0, mean_logit: 0.0, kv: 0.0 })
    }
}
