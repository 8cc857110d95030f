//! The bounds that decide `passed`. The README states them.

use interleaf_runtime::{BackendInfo, Numerics};
use serde::Serialize;

use crate::args::{EngineArgs, PagesArg, WeightsArg};

/// What a case may differ by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bounds {
    /// Largest absolute logit error.
    pub logit: f64,
    /// Largest absolute error of K and V.
    pub kv: f64,
    /// Relative error of the perplexity.
    pub perplexity: f64,
    /// Whether that holds for single prompts too, and not only for the windows, which are long enough to
    /// average single tokens out.
    pub prompt_perplexity: bool,
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
    /// V by up to 2⁻¹¹ of their size, so those runs are held to the margin rule with a cap. Quantised
    /// weights are compared with the reference on the same bits under the same numerics; where activations
    /// are quantised too, a difference in the last bit may move a code by one, and the cap is that of a
    /// few such codes.
    pub fn of(info: &BackendInfo, args: &EngineArgs) -> Self {
        let stored = args.weights == WeightsArg::Stored;
        let integer = args.weights.is_quantised() && info.numerics == Numerics::ActQ8_0;
        let margin_rule = integer || args.pages != PagesArg::F32;
        let logit = match (integer, margin_rule, info.name) {
            (true, ..) => 0.25,
            (false, true, _) => 5e-2,
            (false, false, "ref") => 1e-4,
            (false, false, "cpu") => 1e-3,
            (false, false, _) => 2e-3,
        };
        Self {
            logit,
            kv: logit,
            perplexity: 1e-3,
            prompt_perplexity: !integer,
            margin_rule,
            // Stored weights in another format, or quantised ones on the reference itself, are measured
            // against the golden and not judged: what they cost is the format's, not the engine's.
            binding: stored || (args.weights.is_quantised() && info.name != "ref"),
        }
    }
}
