//! Llama: RMS norm, rotary grouped-query attention, SwiGLU. Also the layout of SmolLM, SmolLM2 and
//! other checkpoints that call themselves `LlamaForCausalLM`.
//!
//! Defaults of absent fields are those of Hugging Face's `LlamaConfig`.

use interleaf_contract::Activation;

use super::{Family, Names};
use crate::config::limits;
use crate::json::Object;
use crate::{Biases, ModelConfig, ModelError, Proj, RopeConfig};

pub(super) const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    read,
    names: Names {
        embedding: "model.embed_tokens",
        final_norm: "model.norm",
        head: "lm_head",
        layers: "model.layers",
        input_norm: "input_layernorm",
        post_attention_norm: "post_attention_layernorm",
        projection,
    },
};

fn projection(proj: Proj) -> &'static str {
    match proj {
        Proj::Q => "self_attn.q_proj",
        Proj::K => "self_attn.k_proj",
        Proj::V => "self_attn.v_proj",
        Proj::O => "self_attn.o_proj",
        Proj::Gate => "mlp.gate_proj",
        Proj::Up => "mlp.up_proj",
        Proj::Down => "mlp.down_proj",
    }
}

fn read(config: &Object) -> Result<ModelConfig, ModelError> {
    if config.get("quantization_config").is_some() {
        return Err(config.unsupported("quantization_config", "weights in F32, F16 or BF16"));
    }
    let hidden_size = config.size("hidden_size", limits::WIDTH)?;
    let heads = config.size("num_attention_heads", limits::COUNT)?;
    let kv_heads = config.optional_size("num_key_value_heads", limits::COUNT)?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(config.error("num_key_value_heads", format!("a divisor of num_attention_heads, {heads}")));
    }
    let head_dim = head_dim(config, hidden_size, heads)?;
    let activation = match config.string("hidden_act")? {
        None | Some("silu" | "swish") => Activation::Silu,
        Some(_) => return Err(config.unsupported("hidden_act", "silu")),
    };
    // Other families rotate part of a head; a Llama that asks for it would be computed wrongly.
    if config.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
        return Err(config.unsupported("partial_rotary_factor", "1"));
    }
    let attention_bias = config.boolean("attention_bias")?.unwrap_or(false);
    Ok(ModelConfig {
        family: "llama",
        vocab_size: config.size("vocab_size", limits::LONG)?,
        hidden_size,
        intermediate_size: config.size("intermediate_size", limits::WIDTH)?,
        layers: config.size("num_hidden_layers", limits::COUNT)?,
        heads,
        kv_heads,
        head_dim,
        norm_epsilon: config.positive("rms_norm_eps")? as f32,
        activation,
        attention_scale: (head_dim as f64).sqrt().recip() as f32,
        embedding_scale: 1.0,
        tied_head: config.boolean("tie_word_embeddings")?.unwrap_or(false),
        max_positions: config.size("max_position_embeddings", limits::LONG)?,
        rope: RopeConfig::read(config, head_dim)?,
        biases: Biases {
            qkv: attention_bias,
            o: attention_bias,
            mlp: config.boolean("mlp_bias")?.unwrap_or(false),
        },
        bos: config.integer("bos_token_id")?,
        eos: config.token_ids("eos_token_id")?.unwrap_or_default(),
    })
}

/// `head_dim`, or an equal share of the hidden size; even, because it is rotated in pairs.
fn head_dim(config: &Object, hidden_size: usize, heads: usize) -> Result<usize, ModelError> {
    let named = config.optional_size("head_dim", limits::HEAD)?;
    if named.is_none() && !hidden_size.is_multiple_of(heads) {
        let expected = format!("a multiple of num_attention_heads, {heads}, where there is no head_dim");
        return Err(config.error("hidden_size", expected));
    }
    let head_dim = named.unwrap_or(hidden_size / heads);
    if !head_dim.is_multiple_of(2) {
        let expected = format!("even for rotary embedding (here {head_dim})");
        return Err(config.error("head_dim", expected));
    }
    Ok(head_dim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RopeScaling;
    use crate::families;
    use crate::fixture::llama_config;
    use serde_json::{Value, json};

    fn open(config: &Value) -> Result<ModelConfig, ModelError> {
        let object = Object::parse("config.json".into(), &config.to_string())?;
        families::read(&object).map(|(_, config)| config)
    }

    /// The config with some fields changed; null removes a field.
    fn with(changes: Value) -> Value {
        let mut config = llama_config();
        for (field, value) in changes.as_object().unwrap() {
            if value.is_null() {
                config.as_object_mut().unwrap().remove(field);
            } else {
                config[field] = value.clone();
            }
        }
        config
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
        assert_eq!(config.rope, RopeConfig { theta: 1e4, rotary_dim: 4, scaling: RopeScaling::None });
    }

    #[test]
    fn absent_fields_have_the_defaults_of_llama() {
        let absent = json!({"head_dim": null, "num_key_value_heads": null, "tie_word_embeddings": null,
            "hidden_act": null, "rope_theta": null, "bos_token_id": null, "eos_token_id": null});
        let config = open(&with(absent)).unwrap();
        assert_eq!((config.head_dim, config.kv_heads, config.tied_head), (2, 4, false));
        assert_eq!((config.rope.theta, config.bos, config.eos), (1e4, None, vec![]));
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
        let message = open(&with(json!({"architectures": ["BertModel"]}))).unwrap_err().to_string();
        assert_eq!(
            message,
            "config.json: architectures is [\"BertModel\"], which is not supported; supported: LlamaForCausalLM"
        );
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
        ] {
            let message = open(&with(changes)).unwrap_err().to_string();
            assert!(message.starts_with(&format!("config.json: {field} ")), "{field}: {message}");
        }
    }

    #[test]
    fn paths_resolve_to_modules_and_back() {
        use crate::families::Module;
        let names = &LLAMA.names;
        for proj in Proj::ALL {
            assert_eq!(names.resolve(&names.projection(11, proj)), Some(Module::Projection(11, proj)));
        }
        assert_eq!(names.resolve("lm_head"), Some(Module::Head));
        for path in [
            "model.layers.0.self_attn.z_proj",
            "model.layers.01.self_attn.q_proj",
            "model.layers.+1.self_attn.q_proj",
            "model.layers.self_attn.q_proj",
            "model.layers0.self_attn.q_proj",
            "model.embed_tokens",
            "",
        ] {
            assert_eq!(names.resolve(path), None, "{path}");
        }
    }
}
