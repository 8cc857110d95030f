//! What `interleaf quality` prints: a row for each codec, setting and adapter, and the means over adapters.

use interleaf_calibrate::{Codec, Family, Measured, Parts, f16_bytes_per_token};
use interleaf_runtime::Engine;
use serde::{Serialize, Serializer};

use crate::memory::backend_line;
use crate::table::{self, Align};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    pub model: String,
    pub backend: String,
    pub prefix_tokens: usize,
    pub scored_tokens: usize,
    /// What a token takes unshared, as f16.
    pub f16_bytes_per_token: usize,
    pub rows: Vec<Row>,
}

/// One codec under one adapter in one setting.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    #[serde(serialize_with = "by_name")]
    pub codec: Codec,
    pub setting: String,
    pub adapter: String,
    /// Stored for this adapter alone.
    pub bytes_per_token: f64,
    /// With the base's cache as f16, where it is read: as if no other adapter shared it.
    pub bytes_per_token_with_base: f64,
    /// Of an element of the cache, of what is stored for this adapter alone.
    pub bits: f64,
    pub bits_with_base: f64,
    /// What is stored for this adapter alone, over the same as f16.
    pub ratio_to_f16: f64,
    /// Nats.
    pub kl_mean: f64,
    pub kl_p99: f64,
    /// Share of positions with the same most likely token.
    pub top1: f64,
    pub ppl_ratio: f64,
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
    /// `unshared` are the bytes of a token as f16.
    pub fn new(measured: &Measured, setting: &str, adapter: &str, unshared: usize) -> Self {
        let (bytes, unshared) = (measured.bytes_per_token, unshared as f64);
        let with_base = if measured.codec.is_over_base() { bytes + unshared } else { bytes };
        Self {
            codec: measured.codec,
            setting: setting.into(),
            adapter: adapter.into(),
            bytes_per_token: bytes,
            bytes_per_token_with_base: with_base,
            bits: 16.0 * bytes / unshared,
            bits_with_base: 16.0 * with_base / unshared,
            ratio_to_f16: bytes / unshared,
            kl_mean: measured.kl_mean(),
            kl_p99: measured.kl_quantile(0.99),
            top1: measured.same_top,
            ppl_ratio: measured.perplexity_ratio(),
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
    pub kl: f64,
    /// The largest of a row's means.
    pub worst: f64,
    p99: f64,
    top1: f64,
    ppl_ratio: f64,
    errors: [f64; 2],
}

impl Report {
    pub fn new(model: String, engine: &Engine, parts: Parts, rows: Vec<Row>) -> Self {
        Self {
            model,
            backend: backend_line(engine),
            prefix_tokens: parts.prefix,
            scored_tokens: parts.continuation.saturating_sub(1),
            f16_bytes_per_token: f16_bytes_per_token(engine),
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
                bytes: mean(|row| row.bytes_per_token),
                kl: mean(|row| row.kl_mean),
                worst: rows.iter().map(|row| row.kl_mean).fold(0.0, f64::max),
                p99: mean(|row| row.kl_p99),
                top1: mean(|row| row.top1),
                ppl_ratio: mean(|row| row.ppl_ratio),
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
            ("KL, nats", Align::Right),
            ("p99", Align::Right),
            ("worst adapter", Align::Right),
            ("same top", Align::Right),
            ("perplexity", Align::Right),
            ("error of K", Align::Right),
            ("V", Align::Right),
        ];
        let unshared = self.f16_bytes_per_token as f64;
        let cells = |mean: Mean| {
            let mark = if mean.codec.family() == Family::Own { "" } else { " + base" };
            vec![
                mean.codec.to_string(),
                format!("{:.0}{mark}", mean.bytes),
                format!("{:.2}", 16.0 * mean.bytes / unshared),
                format!("1/{:.1}", unshared / mean.bytes).replace("inf", "∞"),
                format!("{:.2e}", mean.kl),
                format!("{:.1e}", mean.p99),
                format!("{:.2e}", mean.worst),
                format!("{:.2} %", 100.0 * mean.top1),
                format!("× {:.4}", mean.ppl_ratio),
                format!("{:.4}", mean.errors[0]),
                format!("{:.4}", mean.errors[1]),
            ]
        };
        let mut lines = Vec::new();
        for setting in self.settings() {
            let rows: Vec<Vec<String>> = self.means(Some(setting)).into_iter().map(cells).collect();
            lines.push(format!("{setting}: means over adapters"));
            lines.extend(table::render(&columns, &rows));
            lines.push(String::new());
        }
        lines.push(format!(
            "{}: {} tokens stored, the {} after the next one scored, against each adapter's own exact cache",
            self.model, self.prefix_tokens, self.scored_tokens
        ));
        lines.push(format!("backend: {}", self.backend));
        lines
    }
}
