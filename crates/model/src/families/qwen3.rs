//! Qwen3: Llama with a norm on every head of queries and keys, before they are rotated.

use interleaf_contract::Activation;

use super::fields::{self, Defaults};
use super::{Family, NAMES};
use crate::json::Object;
use crate::rope::RopeRules;
use crate::{Biases, ModelConfig, ModelError};

pub(super) const QWEN3: Family =
    Family { architecture: "Qwen3ForCausalLM", read, names: NAMES, norm_offset: 0.0 };

const DEFAULTS: Defaults = Defaults {
    family: "qwen3",
    head_dim: Some(128),
    activation: ("hidden_act", Activation::Silu),
    tied_head: false,
    rope: RopeRules::Uniform { theta: 10_000.0, partial: false },
    layer_kinds: fields::optional_windows,
};

fn read(config: &Object) -> Result<ModelConfig, ModelError> {
    let attention = config.boolean("attention_bias")?.unwrap_or(false);
    let biases = Biases { qkv: attention, o: attention, mlp: false };
    Ok(ModelConfig { biases, head_norms: true, ..fields::read(config, &DEFAULTS)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::read_config;
    use crate::fixture::{changed, llama_config};
    use serde_json::json;

    #[test]
    fn heads_are_normed_and_of_a_size_of_their_own() {
        let qwen3 = changed(llama_config(), json!({"architectures": ["Qwen3ForCausalLM"], "head_dim": null}));
        let config = read_config(&qwen3).unwrap();
        assert_eq!((config.family, config.head_dim, config.head_norms), ("qwen3", 128, true));
        assert_eq!((config.biases, config.post_norms), (Biases::default(), false));
        let config = read_config(&changed(qwen3, json!({"attention_bias": true}))).unwrap();
        assert_eq!(config.biases, Biases { qkv: true, o: true, mlp: false });
    }
}
