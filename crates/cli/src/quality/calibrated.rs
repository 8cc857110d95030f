//! What adapters' calibrations were fitted to, and whether that is what they are measured on.

use interleaf_runtime::{Digest, MadeFrom};
use serde::Serialize;

use crate::output;

/// An adapter's calibration.
#[derive(Debug, Serialize)]
pub struct Calibrated {
    adapter: String,
    text: String,
    /// BLAKE3 of the text; `None` of a calibration that does not say.
    text_digest: Option<String>,
    /// Windows of it that were fitted to.
    windows: usize,
    /// Whether what is measured was read from the same text.
    pub is_measured_on: bool,
}

impl Calibrated {
    /// Of an adapter that is measured on some texts. Where the calibration's is among them that is said.
    pub fn new(adapter: &str, made_from: &MadeFrom, mut measured_on: impl Iterator<Item = Digest>) -> Self {
        let calibrated = Self {
            adapter: adapter.into(),
            text: made_from.text.clone(),
            text_digest: made_from.text_digest.map(|digest| digest.to_string()),
            windows: made_from.fitted,
            is_measured_on: measured_on.any(|digest| made_from.text_digest == Some(digest)),
        };
        if calibrated.is_measured_on {
            output::note(format_args!("warning: {}", calibrated.line()));
        }
        calibrated
    }

    pub fn line(&self) -> String {
        let Self { adapter, text, windows, is_measured_on, .. } = self;
        let same = match is_measured_on {
            true => ", the very text that it is measured on: the figures say nothing of other texts",
            false => "",
        };
        format!("{adapter}: calibrated on {windows} of {text}{same}")
    }
}
