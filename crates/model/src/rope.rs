//! Rotary position embedding as a config describes it, and its table of factors.
//!
//! Knows the spellings of transformers 4 and 5. Rotating is the kernels' business.

use std::f64::consts::PI;

use interleaf_contract::RopeTable;

use crate::ModelError;
use crate::json::Object;

/// The base that configs older than `rope_theta` imply.
const DEFAULT_THETA: f64 = 10_000.0;

/// How positions become rotations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// The base of the frequencies.
    pub theta: f64,
    /// Dimensions of each head that are rotated; even.
    pub rotary_dim: usize,
    /// How the frequencies are stretched to longer contexts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched, by Hugging Face's names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// `default`: not at all.
    None,
    /// `linear`: every frequency is divided by the factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// `llama3`: low frequencies are divided, high ones kept, those between blended.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_positions` over this are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions` over this are high frequencies.
        high_freq_factor: f64,
        /// Positions that the model was first trained on.
        original_max_positions: f64,
    },
}

impl RopeConfig {
    /// Reads `rope_theta` and `rope_scaling` (transformers 4), or `rope_parameters` (transformers 5).
    /// A config may use both spellings if they agree.
    pub(crate) fn read(config: &Object, rotary_dim: usize) -> Result<Self, ModelError> {
        let (mut theta, mut scaling) = (config.number("rope_theta")?, None);
        for field in ["rope_parameters", "rope_scaling"] {
            let Some(object) = config.object(field)? else { continue };
            let (found, inner_theta) = (RopeScaling::read(&object)?, object.number("rope_theta")?);
            if scaling.is_some_and(|s| s != found) {
                return Err(config.error(field, "what rope_parameters says"));
            }
            scaling = Some(found);
            if let (Some(outer), Some(inner)) = (theta, inner_theta)
                && outer != inner
            {
                return Err(object.error("rope_theta", format!("{outer}, as elsewhere in the file")));
            }
            theta = theta.or(inner_theta);
        }
        let theta = theta.unwrap_or(DEFAULT_THETA);
        if theta < 1.0 {
            return Err(config.error("rope_theta", "a number from 1"));
        }
        Ok(Self { theta, rotary_dim, scaling: scaling.unwrap_or(RopeScaling::None) })
    }

    /// The factors of positions `0 .. positions`: `cos` and `sin` of `position · frequency`, each
    /// `positions × rotary_dim/2`: `4 · positions · rotary_dim` bytes in all. Computed in f64 and
    /// rounded once, to f32.
    #[must_use]
    pub fn table(&self, positions: usize) -> RopeTable {
        let frequencies = self.frequencies();
        let angles = || {
            let frequencies = &frequencies;
            (0..positions).flat_map(move |p| frequencies.iter().map(move |f| p as f64 * f))
        };
        RopeTable {
            rotary_dim: self.rotary_dim,
            positions,
            cos: angles().map(|a| a.cos() as f32).collect(),
            sin: angles().map(|a| a.sin() as f32).collect(),
        }
    }

    /// Radians per position of each rotated pair: `theta^(-2i/rotary_dim)`, scaled.
    fn frequencies(&self) -> Vec<f64> {
        let pairs = self.rotary_dim / 2;
        let exponent = |i: usize| -2.0 * i as f64 / self.rotary_dim as f64;
        (0..pairs).map(|i| self.scaling.apply(self.theta.powf(exponent(i)))).collect()
    }
}

impl RopeScaling {
    fn read(object: &Object) -> Result<Self, ModelError> {
        let field = if object.get("rope_type").is_some() { "rope_type" } else { "type" };
        match object.string(field)?.unwrap_or("default") {
            "default" => Ok(Self::None),
            "linear" => Ok(Self::Linear { factor: factor(object)? }),
            "llama3" => {
                let low_freq_factor = object.positive("low_freq_factor")?;
                let high_freq_factor = object.positive("high_freq_factor")?;
                if high_freq_factor <= low_freq_factor {
                    return Err(
                        object.error("high_freq_factor", format!("above low_freq_factor, {low_freq_factor}"))
                    );
                }
                Ok(Self::Llama3 {
                    factor: factor(object)?,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_positions: object.positive("original_max_position_embeddings")?,
                })
            }
            _ => Err(object.unsupported(field, "default, linear, llama3")),
        }
    }

    /// Scales one frequency, in radians per position. `llama3` follows `_compute_llama3_parameters`
    /// of Hugging Face transformers.
    fn apply(&self, frequency: f64) -> f64 {
        match *self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let wavelength = 2.0 * PI / frequency;
                if wavelength > original_max_positions / low_freq_factor {
                    return frequency / factor;
                }
                if wavelength < original_max_positions / high_freq_factor {
                    return frequency;
                }
                let turns = original_max_positions / wavelength;
                let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

/// How many times longer the context is to become; Hugging Face warns of less than 1.
fn factor(object: &Object) -> Result<f64, ModelError> {
    let expected = "a number from 1";
    object.number("factor")?.filter(|n| *n >= 1.0).ok_or_else(|| object.error("factor", expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RopeConfig, ModelError> {
        RopeConfig::read(&Object::parse("config.json".into(), text).unwrap(), 4)
    }

    fn refusal(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn both_spellings_say_the_same() {
        let plain = RopeConfig { theta: 5e5, rotary_dim: 4, scaling: RopeScaling::None };
        for text in [
            r#"{"rope_theta": 500000}"#,
            r#"{"rope_theta": 500000.0, "rope_scaling": null}"#,
            r#"{"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}"#,
            r#"{"rope_theta": 5e5, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}"#,
        ] {
            assert_eq!(read(text).unwrap(), plain, "{text}");
        }
        let linear = RopeConfig { theta: 1e4, rotary_dim: 4, scaling: RopeScaling::Linear { factor: 2.0 } };
        for text in [
            r#"{"rope_scaling": {"type": "linear", "factor": 2}}"#,
            r#"{"rope_scaling": {"rope_type": "linear", "factor": 2.0}}"#,
            r#"{"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}"#,
        ] {
            assert_eq!(read(text).unwrap(), linear, "{text}");
        }
    }

    #[test]
    fn refuses_what_it_does_not_scale() {
        assert_eq!(
            refusal(r#"{"rope_scaling": {"type": "yarn", "factor": 2}}"#),
            "config.json: rope_scaling.type is \"yarn\", which is not supported; \
             supported: default, linear, llama3"
        );
        assert!(
            refusal(r#"{"rope_parameters": {"rope_type": "longrope"}}"#)
                .contains("rope_parameters.rope_type")
        );
    }

    #[test]
    fn refuses_contradictions() {
        assert!(refusal(r#"{"rope_theta": -1}"#).contains("rope_theta must be a number from 1, found -1"));
        assert!(refusal(r#"{"rope_scaling": {"type": "linear"}}"#).contains("rope_scaling.factor"));
        assert!(
            refusal(r#"{"rope_scaling": {"type": "linear", "factor": 0}}"#).contains("rope_scaling.factor")
        );
        assert!(
            refusal(r#"{"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}"#)
                .contains("rope_parameters.rope_theta must be 10000")
        );
        assert!(
            refusal(r#"{"rope_parameters": {}, "rope_scaling": {"type": "linear", "factor": 2}}"#)
                .contains("rope_scaling must be what rope_parameters says")
        );
        let llama3 = r#"{"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
            "high_freq_factor": 4, "original_max_position_embeddings": 64}}"#;
        assert!(refusal(llama3).contains("high_freq_factor must be above low_freq_factor, 4"));
    }

    fn close(found: f32, expected: f64) {
        assert!((f64::from(found) - expected).abs() < 1e-7, "{found} against {expected}");
    }

    #[test]
    fn default_and_linear_tables() {
        // θ = 10 000 over 4 dimensions: frequencies 1 and 10 000^(-1/2) = 0.01.
        let rope = RopeConfig { theta: 1e4, rotary_dim: 4, scaling: RopeScaling::None };
        let table = rope.table(3);
        assert_eq!((table.rotary_dim, table.positions), (4, 3));
        assert_eq!((table.cos.len(), table.sin.len()), (6, 6));
        assert_eq!((&table.cos[..2], &table.sin[..2]), (&[1.0, 1.0][..], &[0.0, 0.0][..]));
        close(table.cos[2], 0.540_302_305_868_139_8);
        close(table.sin[2], 0.841_470_984_807_896_5);
        close(table.cos[5], 0.999_800_006_666_577_8);
        close(table.sin[5], 0.019_998_666_693_333_08);
        let half = RopeConfig { scaling: RopeScaling::Linear { factor: 2.0 }, ..rope }.table(3);
        // Position 2 at half the frequency is position 1.
        assert_eq!(half.cos[4..], table.cos[2..4]);
        assert_eq!(half.sin[4..], table.sin[2..4]);
    }

    #[test]
    fn llama3_keeps_divides_and_blends() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 64.0,
        };
        // Wavelengths below 16 are kept and above 64 divided by 8.
        assert_eq!(scaling.apply(1.0), 1.0);
        assert_eq!(scaling.apply(0.01), 0.00125);
        // A wavelength of 32 turns twice in 64: smooth = (2 - 1)/(4 - 1) = 1/3, so the frequency is
        // multiplied by 2/3 · 1/8 + 1/3 = 5/12.
        let frequency = 2.0 * PI / 32.0;
        assert!((scaling.apply(frequency) - frequency * 5.0 / 12.0).abs() < 1e-15);
        // At both ends the blend meets what is beyond.
        let (low, high) = (2.0 * PI / 64.0, 2.0 * PI / 16.0);
        assert!((scaling.apply(low) - low / 8.0).abs() < 1e-15);
        assert!((scaling.apply(high) - high).abs() < 1e-15);
    }
}
