//! Configs that contradict the tensors or themselves, or ask for what is not there.

use serde_json::json;

use super::{Case, are_refused, sound, with_config};
use crate::build::{CONFIG, MODEL};

#[test]
fn configs_that_contradict_the_tensors_or_themselves() {
    are_refused(configs_that_contradict_the_tensors_or_themselves_cases);
}

fn configs_that_contradict_the_tensors_or_themselves_cases() -> Vec<super::Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (what, changes, words) in [
        (
            "fewer layers",
            json!({"num_hidden_layers": 2}),
            vec![MODEL, "model.layers.2.", "calls for no such"],
        ),
        ("more layers", json!({"num_hidden_layers": 4}), vec![MODEL, "model.layers.3.", "is missing"]),
        (
            "more heads",
            json!({"num_attention_heads": 8}),
            vec![MODEL, "q_proj", "[64, 64], expected [128, 64]"],
        ),
        (
            "fewer key heads",
            json!({"num_key_value_heads": 1}),
            vec![MODEL, "k_proj", "[32, 64], expected [16, 64]"],
        ),
        ("larger heads", json!({"head_dim": 32}), vec![MODEL, "q_proj", "expected [128, 64]"]),
        ("another width", json!({"hidden_size": 128}), vec![MODEL, "expected [512, 128]"]),
        ("another MLP", json!({"intermediate_size": 64}), vec![MODEL, "mlp.", "expected [64, 64]"]),
        ("another vocabulary", json!({"vocab_size": 513}), vec![MODEL, "embed_tokens", "expected [513, 64]"]),
        (
            "key heads that do not divide",
            json!({"num_key_value_heads": 3}),
            vec![CONFIG, "num_key_value_heads", "a divisor of num_attention_heads, 4", "found 3"],
        ),
        (
            "heads that do not divide",
            json!({"num_attention_heads": 6, "head_dim": null}),
            vec![CONFIG, "hidden_size", "a multiple of num_attention_heads, 6"],
        ),
        ("odd heads", json!({"head_dim": 15}), vec![CONFIG, "head_dim", "even"]),
        ("no layers", json!({"num_hidden_layers": 0}), vec![CONFIG, "num_hidden_layers", "found 0"]),
        ("fewer than none", json!({"hidden_size": -64}), vec![CONFIG, "hidden_size", "found -64"]),
        (
            "half a head",
            json!({"num_attention_heads": 2.5}),
            vec![CONFIG, "num_attention_heads", "found 2.5"],
        ),
        ("a number in quotes", json!({"vocab_size": "512"}), vec![CONFIG, "vocab_size", "found \"512\""]),
        ("no number", json!({"intermediate_size": null}), vec![CONFIG, "intermediate_size", "found nothing"]),
        (
            "layers without end",
            json!({"num_hidden_layers": u64::MAX}),
            vec![CONFIG, "num_hidden_layers", "from 1 to 4096"],
        ),
        ("a vocabulary without end", json!({"vocab_size": 1e30}), vec![CONFIG, "vocab_size", "found 1e+30"]),
        (
            "a context without end",
            json!({"max_position_embeddings": 1u64 << 40}),
            vec![CONFIG, "max_position_embeddings", "1099511627776"],
        ),
        (
            "the most of everything",
            json!({"num_hidden_layers": 4096, "hidden_size": 1 << 20, "vocab_size": 1 << 24}),
            vec![MODEL, "expected [16777216, 1048576]"],
        ),
        ("no epsilon", json!({"rms_norm_eps": 0}), vec![CONFIG, "rms_norm_eps", "above 0"]),
        (
            "an epsilon beyond f32",
            json!({"rms_norm_eps": 1e300}),
            vec![CONFIG, "rms_norm_eps", "range of f32"],
        ),
        (
            "a base below 1",
            json!({"rope_parameters": {"rope_theta": 0}}),
            vec![CONFIG, "rope_theta", "from 1"],
        ),
        (
            "an unknown activation",
            json!({"hidden_act": "relu2"}),
            vec![CONFIG, "hidden_act", "relu2", "silu"],
        ),
        (
            "another architecture",
            json!({"architectures": ["BertModel"]}),
            vec![
                CONFIG,
                "architectures",
                "BertModel",
                "LlamaForCausalLM",
                "Qwen2ForCausalLM",
                "Qwen3ForCausalLM",
                "SmolLM3ForCausalLM",
                "Gemma2ForCausalLM",
                "Gemma3ForCausalLM",
                "Phi3ForCausalLM",
            ],
        ),
        (
            "experts",
            json!({"architectures": ["MixtralForCausalLM"], "num_local_experts": 8}),
            vec![CONFIG, "MixtralForCausalLM", "not supported", "LlamaForCausalLM"],
        ),
        (
            "no architecture",
            json!({"architectures": null}),
            vec![CONFIG, "architectures", "LlamaForCausalLM"],
        ),
        (
            "quantised weights",
            json!({"quantization_config": {"quant_method": "awq"}}),
            vec![CONFIG, "quantization_config", "awq", "F32, F16 or BF16"],
        ),
    ] {
        cases.push((what, with_config(changes), words));
    }
    for kind in ["longrope", "yarn", "dynamic", "unheard-of"] {
        for field in ["rope_scaling", "rope_parameters"] {
            let scaling = json!({"rope_type": kind, "factor": 4.0, "original_max_position_embeddings": 256});
            let folder = with_config(json!({"rope_parameters": null})).without(CONFIG);
            let config =
                sound().config(json!({"rope_parameters": null})).config(json!({field: scaling})).config;
            let folder = folder.file(CONFIG, config.to_string());
            cases.push((kind, folder, vec![CONFIG, field, "rope_type", kind, "default, linear, llama3"]));
        }
    }
    cases
}
