//! What `interleaf quality` prints: a row for each codec, setting and adapter, and the means over adapters.

use interleaf_calibrate::{Anchor, Codec, Family, Measured, Parts, Windows};
use interleaf_runtime::Engine;
use serde::{Serialize, Serializer};

use super::bytes::{BASIS_TOKENS, Bytes, Sharing};
use super::calibrated::Calibrated;
use super::outputs::{self, Means, Outputs};
use crate::memory::backend_line;
use crate::table::{self, Align};

/// What was measured, and on what.
#[derive(Debug)]
pub struct Measurement {
    pub model: String,
    pub anchor: Anchor,
    pub parts: Parts,
    pub sharing: Sharing,
    pub windows: Vec<Used>,
    pub calibrations: Vec<Calibrated>,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    pub model: String,
    pub backend: String,
    pub prefix_tokens: usize,
    pub scored_tokens: usize,
    /// What a token takes unshared, as f16.
    pub f16_bytes_per_token: usize,
    /// How the base's pages are stored.
    pub anchor: String,
    /// How many read over them.
    pub adapters: usize,
    pub windows: Vec<Used>,
    pub calibrations: Vec<Calibrated>,
    pub rows: Vec<Row>,
}

/// What was read under an adapter in one setting.
#[derive(Debug, Serialize)]
pub struct Used {
    pub adapter: String,
    pub setting: String,
    pub text: String,
    pub windows: usize,
}

impl Used {
    pub fn new(adapter: &str, setting: &str, windows: &Windows) -> Self {
        Self {
            adapter: adapter.into(),
            setting: setting.into(),
            text: windows.text.clone(),
            windows: windows.rows.len(),
        }
    }

    /// What was read in a setting: how many windows of all adapters, and of what.
    pub fn in_setting(all: &[Self], setting: &str) -> String {
        let used: Vec<&Self> = all.iter().filter(|used| used.setting == setting).collect();
        let mut texts: Vec<&str> = used.iter().map(|used| used.text.as_str()).collect();
        texts.dedup();
        let windows: usize = used.iter().map(|used| used.windows).sum();
        format!("{windows} of {}", texts.join(", "))
    }
}

/// One codec under one adapter in one setting.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    #[serde(serialize_with = "by_name")]
    pub codec: Codec,
    pub setting: String,
    pub adapter: String,
    #[serde(flatten)]
    pub bytes: Bytes,
    #[serde(flatten)]
    pub outputs: Outputs,
    /// Relative errors of keys and of values.
    pub e_k: f64,
    pub e_v: f64,
    /// The error of both over the difference from the base's.
    pub error_left: f64,
}

fn by_name<S: Serializer>(codec: &Codec, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(codec)
}

impl Row {
    pub fn new(measured: &Measured, setting: &str, adapter: &str, sharing: Sharing) -> Self {
        Self {
            codec: measured.codec,
            setting: setting.into(),
            adapter: adapter.into(),
            bytes: Bytes::new(measured, sharing),
            outputs: Outputs::new(&measured.divergence),
            e_k: measured.error(0),
            e_v: measured.error(1),
            error_left: measured.error_left,
        }
    }
}

/// The mean over rows of one codec.
#[derive(Debug)]
pub struct Mean {
    pub codec: Codec,
    pub bytes: f64,
    with_basis: f64,
    shared: f64,
    pub outputs: Means,
    errors: [f64; 2],
}

impl Mean {
    /// The mean divergence in nats.
    pub const fn kl(&self) -> f64 {
        self.outputs.all.kl_mean
    }
}

impl Report {
    pub fn new(measurement: Measurement, engine: &Engine, rows: Vec<Row>) -> Self {
        let Measurement { model, anchor, parts, sharing, windows, calibrations } = measurement;
        Self {
            model,
            backend: backend_line(engine),
            prefix_tokens: parts.prefix,
            scored_tokens: parts.continuation.saturating_sub(1),
            f16_bytes_per_token: sharing.f16_bytes,
            anchor: anchor.to_string(),
            adapters: sharing.adapters,
            windows,
            calibrations,
            rows,
        }
    }

    /// The settings, in the order that they were measured in.
    pub fn settings(&self) -> Vec<&str> {
        let mut settings: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !settings.contains(&row.setting.as_str()) {
                settings.push(&row.setting);
            }
        }
        settings
    }

    /// The mean of each codec over adapters, in one setting or in all.
    pub fn means(&self, setting: Option<&str>) -> Vec<Mean> {
        let mean = |codec: Codec| {
            let of_codec = self.rows.iter().filter(|row| row.codec == codec);
            let rows: Vec<&Row> =
                of_codec.filter(|row| setting.is_none_or(|setting| row.setting == setting)).collect();
            let mean = |of: fn(&Row) -> f64| rows.iter().map(|row| of(row)).sum::<f64>() / rows.len() as f64;
            (!rows.is_empty()).then(|| Mean {
                codec,
                bytes: mean(|row| row.bytes.bytes_per_token),
                with_basis: mean(|row| row.bytes.bytes_per_token_with_basis),
                shared: mean(|row| row.bytes.bytes_per_token_shared),
                outputs: Means::new(rows.iter().map(|row| (row.adapter.as_str(), row.outputs))),
                errors: [mean(|row| row.e_k), mean(|row| row.e_v)],
            })
        };
        Codec::ALL.into_iter().filter_map(mean).collect()
    }

    /// A table for each setting.
    pub fn lines(&self) -> Vec<String> {
        let columns = [
            ("codec", Align::Left),
            ("bytes/token", Align::Right),
            ("bits", Align::Right),
            ("of f16", Align::Right),
            ("with basis", Align::Right),
            ("shared", Align::Right),
            ("of f16", Align::Right),
        ];
        let errors = [("error of K", Align::Right), ("V", Align::Right)];
        let columns: Vec<(&str, Align)> = columns.into_iter().chain(outputs::COLUMNS).chain(errors).collect();
        let unshared = self.f16_bytes_per_token as f64;
        let cells = |mean: Mean| {
            let mark = if mean.codec.family() == Family::Own { "" } else { " + base" };
            let mut cells = vec![
                mean.codec.to_string(),
                format!("{:.0}{mark}", mean.bytes),
                format!("{:.2}", 16.0 * mean.bytes / unshared),
                format!("1/{:.1}", unshared / mean.bytes).replace("inf", "∞"),
                format!("{:.0}", mean.with_basis),
                format!("{:.0}", mean.shared),
                format!("{:.1} %", 100.0 * mean.shared / unshared),
            ];
            cells.extend(mean.outputs.cells());
            cells.extend(mean.errors.map(|error| format!("{error:.4}")));
            cells
        };
        let mut lines = Vec::new();
        for setting in self.settings() {
            let rows: Vec<Vec<String>> = self.means(Some(setting)).into_iter().map(cells).collect();
            let used = Used::in_setting(&self.windows, setting);
            lines.push(format!("{setting}: means over adapters, on {used}"));
            lines.extend(table::render(&columns, &rows));
            lines.push(String::new());
        }
        lines.push(format!(
            "{}: {} tokens stored, the {} after the next one scored, against each adapter's own exact cache",
            self.model, self.prefix_tokens, self.scored_tokens
        ));
        lines.push(format!(
            "+ base: over the base's pages as {}; with basis: and what pages are decoded with, spread over {BASIS_TOKENS} \
             tokens; shared: the mean over the base and {} adapters, its pages counted once",
            self.anchor, self.adapters
        ));
        lines.extend(self.calibrations.iter().map(Calibrated::line));
        lines.push(format!("backend: {}", self.backend));
        lines
    }
}
