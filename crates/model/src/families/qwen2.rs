//! Qwen2 and Qwen2.5: Llama with biases on queries, keys and values, which no field announces.

use interleaf_contract::Activation;

use super::fields::{self, Defaults};
use super::{Family, NAMES};
use crate::json::Object;
use crate::rope::RopeRules;
use crate::{Biases, ModelConfig, ModelError};

pub(super) const QWEN2: Family =
    Family { architecture: "Qwen2ForCausalLM", read, names: NAMES, norm_offset: 0.0 };

const DEFAULTS: Defaults = Defaults {
    family: "qwen2",
    head_dim: None,
    activation: ("hidden_act", Activation::Silu),
    tied_head: false,
    rope: RopeRules::Uniform { theta: 10_000.0, partial: false },
    layer_kinds: fields::optional_windows,
};

fn read(config: &Object) -> Result<ModelConfig, ModelError> {
    let biases = Biases { qkv: true, o: false, mlp: false };
    Ok(ModelConfig { biases, ..fields::read(config, &DEFAULTS)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LayerKind;
    use crate::families::read_config;
    use crate::fixture::{changed, llama_config};
    use serde_json::{Value, json};

    fn read(changes: Value) -> Result<ModelConfig, ModelError> {
        let qwen2 = changed(llama_config(), json!({"architectures": ["Qwen2ForCausalLM"], "head_dim": null}));
        read_config(&changed(qwen2, changes))
    }

    /// The layers' windows in a config of two layers.
    fn windows(changes: Value) -> Vec<Option<usize>> {
        let layers = read(changes).unwrap().layer_kinds;
        assert!(layers.iter().all(|layer| layer.rope == Some(0)));
        layers.into_iter().map(|LayerKind { window, .. }| window).collect()
    }

    #[test]
    fn queries_keys_and_values_have_biases() {
        let config = read(json!({})).unwrap();
        assert_eq!((config.family, config.head_dim), ("qwen2", 2));
        assert_eq!(config.biases, Biases { qkv: true, o: false, mlp: false });
    }

    #[test]
    fn windows_are_off_unless_turned_on() {
        assert_eq!(windows(json!({"sliding_window": 16, "max_window_layers": 0})), [None; 2]);
        assert_eq!(windows(json!({"sliding_window": 16, "use_sliding_window": false})), [None; 2]);
        assert_eq!(windows(json!({"layer_types": ["full_attention", "full_attention"]})), [None; 2]);
        let on = |more: Value| changed(json!({"sliding_window": 16, "use_sliding_window": true}), more);
        assert_eq!(windows(on(json!({}))), [None; 2]);
        assert_eq!(windows(on(json!({"max_window_layers": 1}))), [None, Some(16)]);
        assert_eq!(windows(on(json!({"max_window_layers": 0}))), [Some(16); 2]);
        let types = json!({"layer_types": ["sliding_attention", "full_attention"], "max_window_layers": 0});
        assert_eq!(windows(on(types)), [Some(16), None]);
    }

    #[test]
    fn contradictory_windows_are_refused_by_field() {
        for (changes, field) in [
            (json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types"),
            (json!({"layer_types": ["full_attention"]}), "layer_types"),
            (json!({"layer_types": ["full_attention", "chunked_attention"]}), "layer_types"),
            (json!({"layer_types": ["full_attention", 1]}), "layer_types"),
            (json!({"use_sliding_window": true, "max_window_layers": 0}), "sliding_window"),
            (json!({"use_sliding_window": 1}), "use_sliding_window"),
            (json!({"max_window_layers": -1}), "max_window_layers"),
        ] {
            let message = read(changes).unwrap_err().to_string();
            assert!(message.starts_with(&format!("config.json: {field} ")), "{field}: {message}");
        }
    }
}
