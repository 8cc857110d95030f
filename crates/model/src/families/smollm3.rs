//! SmolLM3: Llama in which some layers, usually every fourth, do not rotate queries and keys.

use interleaf_contract::Activation;

use super::fields::{self, Defaults};
use super::{Family, NAMES};
use crate::config::limits;
use crate::json::Object;
use crate::rope::RopeRules;
use crate::{Biases, LayerKind, ModelConfig, ModelError};

pub(super) const SMOLLM3: Family =
    Family { architecture: "SmolLM3ForCausalLM", read, names: NAMES, norm_offset: 0.0 };

const DEFAULTS: Defaults = Defaults {
    family: "smollm3",
    head_dim: None,
    activation: ("hidden_act", Activation::Silu),
    tied_head: true,
    rope: RopeRules::Uniform { theta: 2_000_000.0, partial: false },
    layer_kinds,
};

fn read(config: &Object) -> Result<ModelConfig, ModelError> {
    let attention = config.boolean("attention_bias")?.unwrap_or(false);
    let mlp = config.boolean("mlp_bias")?.unwrap_or(false);
    let biases = Biases { qkv: attention, o: attention, mlp };
    Ok(ModelConfig { biases, ..fields::read(config, &DEFAULTS)? })
}

/// Windows are for the layers that do not rotate, if `use_sliding_window` is true.
fn layer_kinds(config: &Object, layers: usize) -> Result<Vec<LayerKind>, ModelError> {
    let rotated = rotated_layers(config, layers)?;
    let enabled = config.boolean("use_sliding_window")?.unwrap_or(false);
    let windows = fields::windows(config, layers, enabled, |layer| !rotated[layer])?;
    let kind = |(rotated, window): (bool, _)| LayerKind { rope: rotated.then_some(0), window };
    Ok(rotated.iter().copied().zip(windows).map(kind).collect())
}

/// Which layers rotate: those where `no_rope_layers` has a 1, whatever its name says. It may be longer
/// than there are layers. Without it, all but every `no_rope_layer_interval`th.
fn rotated_layers(config: &Object, layers: usize) -> Result<Vec<bool>, ModelError> {
    const INTERVAL: usize = 4;
    let field = "no_rope_layers";
    let Some(list) = config.list(field)? else {
        let interval = config.optional_size("no_rope_layer_interval", limits::COUNT)?.unwrap_or(INTERVAL);
        return Ok((1..=layers).map(|layer| !layer.is_multiple_of(interval)).collect());
    };
    let expected = || config.error(field, format!("a list of 0 or 1 for each of {layers} layers"));
    let rotated = list.get(..layers).ok_or_else(expected)?.iter().map(|value| match value.as_u64() {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    });
    rotated.collect::<Option<_>>().ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::read_config;
    use crate::fixture::{changed, llama_config};
    use serde_json::{Value, json};

    fn read(changes: Value) -> Result<ModelConfig, ModelError> {
        let smollm3 = json!({"architectures": ["SmolLM3ForCausalLM"], "num_hidden_layers": 5,
            "rope_theta": null, "tie_word_embeddings": null});
        read_config(&changed(changed(llama_config(), smollm3), changes))
    }

    fn rotated(changes: Value) -> Vec<bool> {
        read(changes).unwrap().layer_kinds.into_iter().map(|layer| layer.rope.is_some()).collect()
    }

    #[test]
    fn absent_fields_have_the_defaults_of_smollm3() {
        let config = read(json!({})).unwrap();
        assert_eq!((config.family, config.ropes[0].theta, config.tied_head), ("smollm3", 2e6, true));
        assert_eq!(rotated(json!({})), [true, true, true, false, true]);
    }

    #[test]
    fn one_means_rotated() {
        let list = json!({"no_rope_layers": [0, 1, 0, 1, 1], "no_rope_layer_interval": 2});
        assert_eq!(rotated(list), [false, true, false, true, true]);
        assert_eq!(
            rotated(json!({"no_rope_layers": [1, 1, 1, 1, 0, 0, 0]})),
            [true, true, true, true, false]
        );
        assert_eq!(rotated(json!({"no_rope_layer_interval": 2})), [true, false, true, false, true]);
    }

    #[test]
    fn windows_are_for_layers_that_do_not_rotate() {
        let on = json!({"use_sliding_window": true, "sliding_window": 8, "no_rope_layer_interval": 2});
        let windows = |changes| -> Vec<_> {
            read(changes).unwrap().layer_kinds.into_iter().map(|layer| layer.window).collect()
        };
        assert_eq!(windows(on), [None, Some(8), None, Some(8), None]);
        assert_eq!(windows(json!({"sliding_window": 8})), [None; 5]);
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        for list in [json!([1, 1, 1, 0]), json!([1, 1, 1, 0, 2]), json!([1, 1, 1, 0, true]), json!(1)] {
            let message = read(json!({"no_rope_layers": list})).unwrap_err().to_string();
            assert!(message.starts_with("config.json: no_rope_layers must be a list"), "{message}");
        }
        let message = read(json!({"no_rope_layer_interval": 0})).unwrap_err().to_string();
        assert!(message.starts_with("config.json: no_rope_layer_interval must be"), "{message}");
    }
}
