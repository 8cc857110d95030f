//! Llama: RMS norm, rotary grouped-query attention, SwiGLU. Also the layout of SmolLM, SmolLM2 and
//! other checkpoints that call themselves `LlamaForCausalLM`.
//!
//! Defaults of absent fields are those of Hugging Face's `LlamaConfig`.

use interleaf_contract::Activation;

use super::fields::{self, Defaults};
use super::{Family, NAMES};
use crate::json::Object;
use crate::rope::RopeRules;
use crate::{Biases, ModelConfig, ModelError};

pub(super) const LLAMA: Family =
    Family { architecture: "LlamaForCausalLM", read, names: NAMES, norm_offset: 0.0 };

const DEFAULTS: Defaults = Defaults {
    family: "llama",
    head_dim: None,
    activation: ("hidden_act", Activation::Silu),
    tied_head: false,
    rope: RopeRules::Uniform { theta: 10_000.0, partial: false },
    layer_kinds: fields::full_attention,
};

fn read(config: &Object) -> Result<ModelConfig, ModelError> {
    let attention = config.boolean("attention_bias")?.unwrap_or(false);
    let mlp = config.boolean("mlp_bias")?.unwrap_or(false);
    let biases = Biases { qkv: attention, o: attention, mlp };
    Ok(ModelConfig { biases, ..fields::read(config, &DEFAULTS)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::read_config as open;
    use crate::fixture::{changed, llama_config};
    use crate::{LayerKind, RopeConfig, RopeScaling};
    use serde_json::{Value, json};

    /// The config with some fields changed; null removes a field.
    fn with(changes: Value) -> Value {
        changed(llama_config(), changes)
    }

    #[test]
    fn reads_a_config() {
        let config = open(&llama_config()).unwrap();
        assert_eq!(config.family, "llama");
        assert_eq!((config.vocab_size, config.hidden_size, config.intermediate_size), (16, 8, 12));
        assert_eq!((config.layers, config.heads, config.kv_heads, config.head_dim), (2, 4, 2, 4));
        assert_eq!((config.attention_scale, config.embedding_scale), (0.5, 1.0));
        assert_eq!((config.norm_epsilon, config.max_positions), (1e-5, 64));
        assert_eq!((config.bos, config.eos), (Some(1), vec![2]));
        assert_eq!((config.biases, config.tied_head), (Biases::default(), true));
        assert_eq!(config.ropes, [RopeConfig { theta: 1e4, rotary_dim: 4, scaling: RopeScaling::None }]);
        assert_eq!(config.layer_kinds, [LayerKind { rope: Some(0), window: None }; 2]);
        assert_eq!((config.attention_softcap, config.logit_softcap), (None, None));
        assert!(!config.head_norms && !config.post_norms);
    }

    #[test]
    fn absent_fields_have_the_defaults_of_llama() {
        let absent = json!({"head_dim": null, "num_key_value_heads": null, "tie_word_embeddings": null,
            "hidden_act": null, "rope_theta": null, "bos_token_id": null, "eos_token_id": null});
        let config = open(&with(absent)).unwrap();
        assert_eq!((config.head_dim, config.kv_heads, config.tied_head), (2, 4, false));
        assert_eq!((config.ropes[0].theta, config.bos, config.eos), (1e4, None, vec![]));
    }

    #[test]
    fn reads_biases_and_lists_of_end_tokens() {
        let changes = json!({"attention_bias": true, "mlp_bias": true, "eos_token_id": [2, 5]});
        let config = open(&with(changes)).unwrap();
        assert_eq!(config.biases, Biases { qkv: true, o: true, mlp: true });
        assert_eq!(config.eos, [2, 5]);
    }

    #[test]
    fn refuses_other_architectures_with_the_list_of_its_own() {
        for name in ["BertModel", "Gemma3ForConditionalGeneration"] {
            let message = open(&with(json!({"architectures": [name]}))).unwrap_err().to_string();
            assert_eq!(
                message,
                format!(
                    "config.json: architectures is [\"{name}\"], which is not supported; supported: \
                     LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, SmolLM3ForCausalLM, \
                     Gemma2ForCausalLM, Gemma3ForCausalLM, Phi3ForCausalLM"
                )
            );
        }
        assert!(matches!(open(&with(json!({"architectures": null}))), Err(ModelError::Field { .. })));
    }

    #[test]
    fn refuses_contradictions_and_absurd_sizes_by_field() {
        for (changes, field) in [
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (json!({"num_key_value_heads": 0}), "num_key_value_heads"),
            (json!({"hidden_size": 0}), "hidden_size"),
            (json!({"hidden_size": 9, "head_dim": null}), "hidden_size"),
            (json!({"hidden_size": -8}), "hidden_size"),
            (json!({"hidden_size": "8"}), "hidden_size"),
            (json!({"head_dim": 5}), "head_dim"),
            (json!({"head_dim": 1u64 << 40}), "head_dim"),
            (json!({"num_hidden_layers": u64::MAX}), "num_hidden_layers"),
            (json!({"vocab_size": null}), "vocab_size"),
            (json!({"rms_norm_eps": 0}), "rms_norm_eps"),
            (json!({"hidden_act": "gelu"}), "hidden_act"),
            (json!({"attention_bias": 1}), "attention_bias"),
            (json!({"eos_token_id": [2, -1]}), "eos_token_id"),
            (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
            (json!({"quantization_config": {"quant_method": "gptq"}}), "quantization_config"),
            (json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types"),
        ] {
            let message = open(&with(changes)).unwrap_err().to_string();
            assert!(message.starts_with(&format!("config.json: {field} ")), "{field}: {message}");
        }
    }
}
