//! Rotary position embedding as a config describes it, and its table of factors.
//!
//! Knows the spellings of transformers 4 and 5. Rotating is the kernels' business.

use std::f64::consts::PI;

use interleaf_contract::RopeTable;

use crate::ModelError;
use crate::json::Object;

/// What a family says of its rotary embeddings where a config is silent, and what a config may say.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RopeRules {
    /// One for all layers.
    Uniform {
        /// The base of the frequencies.
        theta: f64,
        /// Whether a config may rotate part of each head only.
        partial: bool,
    },
    /// One for layers of full attention and one for layers with a window.
    ByLayerType {
        /// The base for full attention.
        full_theta: f64,
        /// The base for windows.
        sliding_theta: f64,
    },
}

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
    /// A config may use both spellings if they agree. By layer type, the first is that of full attention
    /// and the second that of windows, whose base transformers 4 calls `rope_local_base_freq`.
    pub(crate) fn read(config: &Object, head_dim: usize, rules: RopeRules) -> Result<Vec<Self>, ModelError> {
        let (parameters, scaling) = (config.object("rope_parameters")?, config.object("rope_scaling")?);
        let read = |theta_field, default_theta, partial, objects: [Option<Object>; 2]| {
            let theta = theta(config, theta_field)?;
            Spelled { theta, factor: rotated_share(config, partial)?, scaling: None }
                .join(config, objects, partial)?
                .finish(config, head_dim, default_theta)
        };
        match rules {
            RopeRules::Uniform { theta, partial } => {
                // By layer type, the values are objects themselves.
                if let Some(object) = &parameters
                    && let Some((layer_type, _)) = object.entries().find(|(_, value)| value.is_object())
                {
                    return Err(object.unsupported(layer_type, "one rope for all layers"));
                }
                Ok(vec![read("rope_theta", theta, partial, [parameters, scaling])?])
            }
            RopeRules::ByLayerType { full_theta, sliding_theta } => {
                let of = |layer_type| match &parameters {
                    None => Ok(None),
                    Some(o) => {
                        o.object(layer_type)?.map(Some).ok_or_else(|| o.error(layer_type, "an object"))
                    }
                };
                let (full, sliding) = (of("full_attention")?, of("sliding_attention")?);
                Ok(vec![
                    read("rope_theta", full_theta, false, [full, scaling])?,
                    read("rope_local_base_freq", sliding_theta, false, [sliding, None])?,
                ])
            }
        }
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

/// What a config has said so far about one rotary embedding.
struct Spelled {
    theta: Option<f64>,
    factor: Option<f64>,
    scaling: Option<RopeScaling>,
}

impl Spelled {
    /// Takes in what the objects of either spelling say, which must not be something else.
    fn join(
        mut self,
        config: &Object,
        objects: [Option<Object>; 2],
        partial: bool,
    ) -> Result<Self, ModelError> {
        for object in objects.into_iter().flatten() {
            let scaling = RopeScaling::read(&object)?;
            if self.scaling.is_some_and(|s| s != scaling) {
                return Err(config.error("rope_scaling", "what rope_parameters says"));
            }
            self.scaling = Some(scaling);
            let agreed = |field, outer: Option<f64>, inner: Option<f64>| match (outer, inner) {
                (Some(outer), Some(inner)) if outer != inner => {
                    Err(object.error(field, format!("{outer}, as elsewhere in the file")))
                }
                _ => Ok(outer.or(inner)),
            };
            self.theta = agreed("rope_theta", self.theta, theta(&object, "rope_theta")?)?;
            self.factor = agreed("partial_rotary_factor", self.factor, rotated_share(&object, partial)?)?;
        }
        Ok(self)
    }

    fn finish(self, config: &Object, head_dim: usize, theta: f64) -> Result<RopeConfig, ModelError> {
        let factor = self.factor.unwrap_or(1.0);
        let rotary_dim = (head_dim as f64 * factor) as usize;
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
            let field = if factor == 1.0 { "head_dim" } else { "partial_rotary_factor" };
            return Err(config.error(field, format!("even for rotary embedding (here {rotary_dim})")));
        }
        let (theta, scaling) = (self.theta.unwrap_or(theta), self.scaling.unwrap_or(RopeScaling::None));
        Ok(RopeConfig { theta, rotary_dim, scaling })
    }
}

/// The base of the frequencies, if the field is there.
fn theta(object: &Object, field: &str) -> Result<Option<f64>, ModelError> {
    match object.number(field)? {
        Some(theta) if theta < 1.0 => Err(object.error(field, "a number from 1")),
        theta => Ok(theta),
    }
}

/// The share of each head that is rotated, if the field is there.
fn rotated_share(object: &Object, partial: bool) -> Result<Option<f64>, ModelError> {
    let field = "partial_rotary_factor";
    match object.optional_positive(field)? {
        // Rotating whole heads instead would be a different model.
        Some(factor) if factor != 1.0 && !partial => Err(object.unsupported(field, "1")),
        Some(factor) if factor > 1.0 => Err(object.error(field, "above 0 and at most 1")),
        factor => Ok(factor),
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

    fn read_by(rules: RopeRules, text: &str) -> Result<Vec<RopeConfig>, ModelError> {
        RopeConfig::read(&Object::parse("config.json".into(), text).unwrap(), 4, rules)
    }

    fn read(text: &str) -> Result<RopeConfig, ModelError> {
        let mut ropes = read_by(RopeRules::Uniform { theta: 1e4, partial: false }, text)?;
        assert_eq!(ropes.len(), 1);
        Ok(ropes.remove(0))
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
    fn layer_types_have_ropes_of_their_own() {
        let rules = RopeRules::ByLayerType { full_theta: 1e6, sliding_theta: 1e4 };
        let global = RopeConfig { theta: 1e6, rotary_dim: 4, scaling: RopeScaling::Linear { factor: 8.0 } };
        let local = RopeConfig { theta: 2e4, rotary_dim: 4, scaling: RopeScaling::None };
        let nested = r#""rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0}}"#;
        for text in [
            format!("{{{nested}}}"),
            format!(r#"{{"rope_theta": 1e6, "rope_local_base_freq": 2e4, {nested}}}"#),
            r#"{"rope_local_base_freq": 20000, "rope_scaling": {"type": "linear", "factor": 8}}"#.into(),
        ] {
            assert_eq!(read_by(rules, &text).unwrap(), [global, local], "{text}");
        }
        let refusal = |text: &str| read_by(rules, text).unwrap_err().to_string();
        assert!(
            refusal(&format!(r#"{{"rope_local_base_freq": 1e4, {nested}}}"#))
                .contains("rope_parameters.sliding_attention.rope_theta must be 10000")
        );
        assert!(
            refusal(r#"{"rope_parameters": {"rope_theta": 1e6}}"#)
                .contains("rope_parameters.full_attention must be an object")
        );
        // A family with one rope does not take the first of two.
        assert!(
            read(&format!("{{{nested}}}"))
                .unwrap_err()
                .to_string()
                .contains("supported: one rope for all layers")
        );
    }

    #[test]
    fn parts_of_heads_are_rotated_where_a_family_does_that() {
        let rules = RopeRules::Uniform { theta: 1e4, partial: true };
        for text in [
            r#"{"partial_rotary_factor": 0.5}"#,
            r#"{"rope_parameters": {"partial_rotary_factor": 0.5}}"#,
            r#"{"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.5}}"#,
        ] {
            assert_eq!(read_by(rules, text).unwrap()[0].rotary_dim, 2, "{text}");
            assert!(refusal(text).contains("partial_rotary_factor is 0.5, which is not supported"), "{text}");
        }
        for (text, expected) in [
            (r#"{"partial_rotary_factor": 0.25}"#, "even for rotary embedding (here 1)"),
            (r#"{"partial_rotary_factor": 0.1}"#, "even for rotary embedding (here 0)"),
            (r#"{"partial_rotary_factor": 1.5}"#, "above 0 and at most 1"),
            (r#"{"partial_rotary_factor": -1}"#, "a number above 0"),
            (
                r#"{"partial_rotary_factor": 1, "rope_scaling": {"partial_rotary_factor": 0.5}}"#,
                "1, as elsewhere",
            ),
        ] {
            let message = read_by(rules, text).unwrap_err().to_string();
            assert!(message.contains(&format!("partial_rotary_factor must be {expected}")), "{message}");
        }
    }

    #[test]
    fn refuses_what_it_does_not_scale() {
        assert_eq!(
            refusal(r#"{"rope_scaling": {"type": "yarn", "factor": 2}}"#),
            "config.json: rope_scaling.type is \"yarn\", which is not supported; \
             supported: default, linear, llama3"
        );
        for kind in ["longrope", "su", "yarn", "dynamic", "mrope", "proportional"] {
            let message = refusal(&format!(r#"{{"rope_parameters": {{"rope_type": "{kind}"}}}}"#));
            assert!(message.contains(&format!("rope_parameters.rope_type is \"{kind}\"")), "{message}");
        }
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
