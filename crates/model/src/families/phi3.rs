//! Phi-3 and Phi-3.5: Llama with queries, keys and values in one matrix, gate and up in another, and
//! perhaps only part of each head rotated.
//!
//! The long-context checkpoints scale their rope by `longrope`, which is refused.

use interleaf_contract::Activation;

use super::fields::{self, Defaults};
use super::{Family, NAMES, Names, Place};
use crate::config::limits;
use crate::json::Object;
use crate::rope::RopeRules;
use crate::{LayerKind, ModelConfig, ModelError, Proj};

pub(super) const PHI3: Family =
    Family { architecture: "Phi3ForCausalLM", read, names: Names { projection, ..NAMES }, norm_offset: 0.0 };

const DEFAULTS: Defaults = Defaults {
    family: "phi3",
    head_dim: None,
    activation: ("hidden_act", Activation::Silu),
    tied_head: false,
    rope: RopeRules::Uniform { theta: 10_000.0, partial: true },
    layer_kinds,
};

fn projection(proj: Proj) -> Place {
    let part = |module, part| Place { module, part: Some(part) };
    match proj {
        Proj::Q => part("self_attn.qkv_proj", "q"),
        Proj::K => part("self_attn.qkv_proj", "k"),
        Proj::V => part("self_attn.qkv_proj", "v"),
        Proj::Gate => part("mlp.gate_up_proj", "gate"),
        Proj::Up => part("mlp.gate_up_proj", "up"),
        Proj::O | Proj::Down => (NAMES.projection)(proj),
    }
}

fn read(config: &Object) -> Result<ModelConfig, ModelError> {
    if config.boolean("attention_bias")?.unwrap_or(false) {
        return Err(config.unsupported("attention_bias", "false"));
    }
    fields::read(config, &DEFAULTS)
}

/// All layers have a window, or none: there is no list of types.
fn layer_kinds(config: &Object, layers: usize) -> Result<Vec<LayerKind>, ModelError> {
    let window = config.optional_size("sliding_window", limits::LONG)?;
    Ok(fields::with_first_rope(vec![window; layers]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::read_config;
    use crate::fixture::{changed, phi3_config};
    use serde_json::json;

    #[test]
    fn heads_may_be_rotated_in_part_and_windows_are_everywhere_or_nowhere() {
        let config = read_config(&phi3_config()).unwrap();
        assert_eq!((config.family, config.head_dim, config.ropes[0].rotary_dim), ("phi3", 4, 2));
        let kind = |window| LayerKind { rope: Some(0), window };
        assert_eq!(config.layer_kinds, [kind(None); 2]);
        let config = read_config(&changed(phi3_config(), json!({"sliding_window": 2047}))).unwrap();
        assert_eq!(config.layer_kinds, [kind(Some(2047)); 2]);
    }

    #[test]
    fn refuses_by_field() {
        let longrope = json!({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}});
        for (changes, field) in [
            (longrope, "rope_scaling.type"),
            (json!({"attention_bias": true}), "attention_bias"),
            (json!({"sliding_window": 0}), "sliding_window"),
        ] {
            let message = read_config(&changed(phi3_config(), changes)).unwrap_err().to_string();
            assert!(message.starts_with(&format!("config.json: {field} ")), "{field}: {message}");
        }
    }
}
