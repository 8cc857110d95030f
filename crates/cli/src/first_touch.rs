//! What became of a prefix that only the base had in the cache, for reports.

use interleaf_runtime::FirstTouch;
use serde::Serialize;

use crate::table::nats;

/// An adapter's first touch of a prefix.
#[derive(Debug, Clone, Serialize)]
pub struct FirstTouchRow {
    /// Why it was translated, or not.
    pub outcome: &'static str,
    /// Tokens of the base's that the adapter could go on from.
    pub prefix: usize,
    /// Of those, the ones that were translated.
    pub translated: usize,
    /// What translating costs at most, or would, in nats.
    pub drift: Option<f32>,
}

impl From<FirstTouch> for FirstTouchRow {
    fn from(touch: FirstTouch) -> Self {
        let row = |outcome, prefix, translated, drift| Self { outcome, prefix, translated, drift };
        match touch {
            FirstTouch::Nothing => row("nothing", 0, 0, None),
            FirstTouch::Unmeasured { prefix } => row("not measured", prefix, 0, None),
            FirstTouch::TooLong { prefix, .. } => row("longer than measured", prefix, 0, None),
            FirstTouch::OverBudget { prefix, drift } => row("over budget", prefix, 0, Some(drift)),
            FirstTouch::Translated { prefix, tokens, drift } => {
                row("translated", prefix, tokens, Some(drift))
            }
        }
    }
}

/// One line; `None` where there was nothing to go on from.
pub fn line(touch: FirstTouch) -> Option<String> {
    let computed = "computed by the adapter";
    Some(match touch {
        FirstTouch::Nothing => return None,
        FirstTouch::Unmeasured { prefix } => {
            format!(
                "first touch: {prefix} tokens of the base's {computed}: no translation of them was measured"
            )
        }
        FirstTouch::TooLong { prefix, most } => {
            format!(
                "first touch: {prefix} tokens of the base's {computed}: translations were measured of {most} at most"
            )
        }
        FirstTouch::OverBudget { prefix, drift } => format!(
            "first touch: {prefix} tokens of the base's {computed}: a translation could cost {} nats",
            nats(drift, 1)
        ),
        FirstTouch::Translated { prefix, tokens, drift } => format!(
            "first touch: {tokens} of {prefix} tokens of the base's translated, at {} nats at most",
            nats(drift, 1)
        ),
    })
}
