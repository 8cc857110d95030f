//! What a machine takes for what a request needs: straight lines whose constants were measured on a named machine, or
//! derived from what somebody says of one. Nothing here has a cache or a queue.

use std::num::NonZeroU32;
use std::path::Path;

use serde::Deserialize;

use crate::error::SettingsError;
use crate::file::File;
use crate::values::NonNegative;

/// The machines that are built in: a name and a file.
const EMBEDDED: [(&str, &str); 2] = [
    ("epyc-2c", include_str!("../../../benches/workloads/machines/epyc-2c.toml")),
    ("orin-nx", include_str!("../../../benches/workloads/machines/orin-nx.toml")),
];

/// A model on a machine.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The machine, as its maker calls it, with what matters of its storage.
    pub machine: String,
    /// Where the constants are from: measured by which command, or derived from what.
    pub source: String,
    /// The model.
    pub model: ModelShape,
    /// Computing K and V of tokens that are known.
    pub prefill: PrefillCost,
    /// Generating tokens.
    pub decode: DecodeCost,
    /// Reading K and V from storage, by bytes.
    pub read: Linear,
    /// Writing them there, by bytes.
    pub write: Linear,
    /// Loading an adapter from storage until it can be used, by bytes.
    pub adapter_load: Linear,
}

/// A model, as far as its K and V, its adapters and its size are concerned.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    /// The model.
    pub name: String,
    /// Layers.
    pub layers: NonZeroU32,
    /// Width of the residual stream.
    pub hidden: NonZeroU32,
    /// Heads of queries.
    pub heads: NonZeroU32,
    /// Heads of keys and values.
    pub kv_heads: NonZeroU32,
    /// Elements of a head.
    pub head_dim: NonZeroU32,
    /// Width of the feed-forward layer.
    pub intermediate: NonZeroU32,
    /// Bits of an element of K and V that is not compressed further.
    pub kv_bits: NonZeroU32,
    /// Bytes of all weights, as they lie in memory.
    pub weight_bytes: u64,
}

impl ModelShape {
    /// Bytes of K and V of one token in all layers.
    #[must_use]
    pub fn kv_token_bytes(&self) -> u64 {
        let elements: u64 =
            [self.layers, self.kv_heads, self.head_dim].iter().map(|n| u64::from(n.get())).product();
        (2 * elements * u64::from(self.kv_bits.get())).div_ceil(8)
    }
}

/// What a prefill takes.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefillCost {
    /// Seconds that any takes.
    pub fixed: NonNegative,
    /// Seconds more for each token.
    pub per_token: NonNegative,
    /// Seconds more for each token and each 1,000 tokens that it attends to.
    pub per_token_and_1k_context: NonNegative,
}

impl PrefillCost {
    /// Seconds for so many tokens behind a context of so many. The tokens attend to the context and, on average, to half
    /// of themselves. No tokens take no time.
    #[must_use]
    pub fn seconds(&self, tokens: u32, context: u32) -> f64 {
        if tokens == 0 {
            return 0.0;
        }
        let (n, c) = (f64::from(tokens), f64::from(context));
        let attended = (c + n / 2.0) / 1000.0;
        self.fixed.get() + n * (self.per_token.get() + attended * self.per_token_and_1k_context.get())
    }
}

/// What one step takes that generates a token for each of several requests.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodeCost {
    /// Seconds that any step takes.
    pub fixed: NonNegative,
    /// Seconds more for each request in it.
    pub per_row: NonNegative,
}

impl DecodeCost {
    /// Seconds of a step of so many requests; of none, no time.
    #[must_use]
    pub fn seconds(&self, rows: usize) -> f64 {
        match rows {
            0 => 0.0,
            rows => self.fixed.get() + rows as f64 * self.per_row.get(),
        }
    }
}

/// What moving bytes takes.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Seconds that any transfer takes.
    pub fixed: NonNegative,
    /// Seconds more for each byte.
    pub per_byte: NonNegative,
}

impl Linear {
    /// Seconds for so many bytes; for none, no time.
    #[must_use]
    pub fn seconds(&self, bytes: u64) -> f64 {
        match bytes {
            0 => 0.0,
            bytes => self.fixed.get() + bytes as f64 * self.per_byte.get(),
        }
    }
}

impl Calibration {
    /// The names of the machines that are built in.
    pub fn names() -> impl Iterator<Item = &'static str> {
        EMBEDDED.iter().map(|(name, _)| *name)
    }

    /// A machine that is built in.
    ///
    /// # Errors
    /// If none has this name.
    pub fn named(name: &str) -> Result<Self, SettingsError> {
        let found = EMBEDDED.iter().find(|(known, _)| *known == name);
        let (known, text) = found.ok_or_else(|| SettingsError::Unknown {
            what: "machine",
            name: name.to_owned(),
            known: Self::names().collect::<Vec<_>>().join(", "),
        })?;
        Self::parse(&format!("{known}.toml"), text)
    }

    /// A machine from a file.
    ///
    /// # Errors
    /// If the file cannot be read, or says what is refused.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| SettingsError::Io { file: file.clone(), source })?;
        Self::parse(&file, &text)
    }

    /// A machine from TOML; `file` is what errors call it.
    ///
    /// # Errors
    /// If it is no TOML or a field is missing, unknown, of another type or out of bounds.
    pub fn parse(file: &str, text: &str) -> Result<Self, SettingsError> {
        File::whole(file, text)?.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orin() -> Calibration {
        Calibration::named("orin-nx").unwrap()
    }

    fn near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-3, "{found}, expected {expected}");
    }

    #[test]
    fn the_derived_machine_gives_back_the_papers_figures() {
        let Calibration { prefill, decode, model, .. } = orin();
        near(prefill.seconds(4096, 0), 22.92);
        near(decode.seconds(1), 0.05);
        assert_eq!(model.kv_token_bytes(), 256 << 10);
    }

    #[test]
    fn a_prefill_in_two_parts_costs_one_more_start() {
        let cost = orin().prefill;
        let parts = cost.seconds(100, 50) + cost.seconds(300, 150);
        near(parts, cost.seconds(400, 50) + cost.fixed.get());
        assert_eq!(cost.seconds(0, 1000), 0.0);
    }

    #[test]
    fn every_machine_that_is_built_in_is_lawful() {
        assert!(Calibration::names().all(|name| Calibration::named(name).is_ok()));
        let error = Calibration::named("orin").unwrap_err();
        assert_eq!(error.to_string(), "no machine is called \"orin\", expected one of epyc-2c, orin-nx");
    }

    #[test]
    fn what_is_wrong_is_named_by_file_and_field() {
        let good = include_str!("../../../benches/workloads/machines/orin-nx.toml");
        let broken = |from: &str, to: &str| {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good, "{from}");
            match Calibration::parse("m.toml", &text).unwrap_err() {
                SettingsError::Field { file, field, reason } => {
                    assert_eq!(file, "m.toml");
                    (field, reason)
                }
                error => panic!("{error}"),
            }
        };
        let (field, reason) = broken("[read]", "[read]\nspeed = 1");
        assert_eq!(field, "read.speed");
        assert!(reason.contains("unknown field `speed`"), "{reason}");
        let (field, reason) = broken("[decode]\nfixed = ", "[decode]\nfixed = -");
        assert_eq!(field, "decode.fixed");
        assert!(reason.contains("expected a finite number of 0 or more"), "{reason}");
        let (field, _) = broken("layers = 32", "layers = 0");
        assert_eq!(field, "model.layers");
        let (field, reason) = broken("kv_bits = 8", "");
        assert_eq!(field, "model");
        assert!(reason.contains("missing field `kv_bits`"), "{reason}");
    }
}
