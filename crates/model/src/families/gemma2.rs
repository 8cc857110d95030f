//! Gemma 2: softcaps on attention scores and logits; every other layer has a window, the first one too.

use super::{Family, fields, gemma};
use crate::json::Object;
use crate::rope::RopeRules;
use crate::{LayerKind, ModelConfig, ModelError};

pub(super) const GEMMA2: Family =
    Family { architecture: "Gemma2ForCausalLM", read, names: gemma::NAMES, norm_offset: 1.0 };

fn read(config: &Object) -> Result<ModelConfig, ModelError> {
    let rope = RopeRules::Uniform { theta: 10_000.0, partial: false };
    gemma::read(config, &gemma::defaults("gemma2", rope, layer_kinds), [Some(50.0), Some(30.0)])
}

fn layer_kinds(config: &Object, layers: usize) -> Result<Vec<LayerKind>, ModelError> {
    let windows = fields::windows(config, layers, true, |layer| layer.is_multiple_of(2))?;
    Ok(fields::with_first_rope(windows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Biases;
    use crate::families::read_config;
    use crate::fixture::{changed, llama_config};
    use interleaf_contract::Activation;
    use serde_json::{Value, json};

    fn read(changes: Value) -> Result<ModelConfig, ModelError> {
        let gemma2 = json!({"architectures": ["Gemma2ForCausalLM"], "sliding_window": 16, "hidden_act": null,
            "num_hidden_layers": 3, "tie_word_embeddings": null, "head_dim": null});
        read_config(&changed(changed(llama_config(), gemma2), changes))
    }

    #[test]
    fn absent_fields_have_the_defaults_of_gemma2() {
        let config = read(json!({})).unwrap();
        assert_eq!(
            (config.family, config.head_dim, config.activation),
            ("gemma2", 256, Activation::GeluTanh)
        );
        assert_eq!((config.attention_softcap, config.logit_softcap), (Some(50.0), Some(30.0)));
        assert_eq!((config.attention_scale, config.embedding_scale), (1.0 / 16.0, 8f32.sqrt()));
        assert!(config.tied_head && config.post_norms && !config.head_norms);
        let kind = |window| LayerKind { rope: Some(0), window };
        assert_eq!(config.layer_kinds, [kind(Some(16)), kind(None), kind(Some(16))]);
        assert_eq!(config.biases, Biases::default());
    }

    #[test]
    fn softcaps_can_be_changed_and_turned_off() {
        let mut config = llama_config();
        config["architectures"] = json!(["Gemma2ForCausalLM"]);
        config["sliding_window"] = json!(16);
        config["attn_logit_softcapping"] = json!(null);
        config["final_logit_softcapping"] = json!(8);
        let read = read_config(&config).unwrap();
        assert_eq!((read.attention_softcap, read.logit_softcap), (None, Some(8.0)));
    }

    #[test]
    fn refuses_by_field() {
        for (changes, field) in [
            (json!({"final_logit_softcapping": 0}), "final_logit_softcapping"),
            (json!({"query_pre_attn_scalar": -1}), "query_pre_attn_scalar"),
            (json!({"sliding_window": null}), "sliding_window"),
            (json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
            (json!({"hidden_activation": "gelu"}), "hidden_activation"),
        ] {
            let message = read(changes).unwrap_err().to_string();
            assert!(message.starts_with(&format!("config.json: {field} ")), "{field}: {message}");
        }
    }
}
