//! Model folders: both spellings of the configuration, and weights converted while loading.

use interleaf_runtime::{
    BackendChoice, Engine, EngineOptions, Feed, RowKind, SequenceHandle, Source, Want, WeightFormat,
};
use interleaf_tests::data::Random;
use interleaf_tests::tolerance::{assert_bits, error};

use crate::support::{data, embedded, options};

const PROMPT: [u32; 6] = [154, 152, 425, 172, 428, 21];

fn logits(source: Source, options: &EngineOptions) -> (Engine, Vec<f32>) {
    let mut engine = Engine::open(source, options, &mut |_| ()).expect("it loads");
    engine.reserve_kv(1, 32).expect("a small pool");
    let sequence: SequenceHandle = engine.open_sequence(None, &[]).expect("the base");
    let feed = Feed { sequence, tokens: &PROMPT, kind: RowKind::Prompt, want: Want::Logits };
    let logits = engine.feed(&[feed]).expect("it runs").remove(0).logits;
    (engine, logits)
}

#[test]
fn both_spellings_of_config_json_give_the_same_bits() {
    for name in ["llama-rope3", "gemma3-text"] {
        let family = data("families").join(name);
        let folder = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(&family).expect("the family is here") {
            let entry = entry.expect("readable");
            if entry.path().is_file() {
                std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copies");
            }
        }
        std::fs::copy(family.join("config.v4.json"), folder.path().join("config.json")).expect("copies");
        let options = options(BackendChoice::Cpu);
        let (_, new) = logits(Source::dir(&family), &options);
        let (_, old) = logits(Source::dir(folder.path()), &options);
        assert_bits(&format!("{name}: old and new spelling"), &new, &old);
    }
}

#[test]
fn converted_weights_take_the_bytes_of_their_format() {
    let source = || Source::dir(data("families/llama-rope3"));
    let with = |weights| EngineOptions { weights, ..options(BackendChoice::Cpu) };
    let (stored, exact) = logits(source(), &with(WeightFormat::Stored));
    for (weights, largest_error, share) in [
        (WeightFormat::Bf16, 0.0, 1.0),
        (WeightFormat::F16, 0.02, 1.0),
        (WeightFormat::Q8_0, 1.0, 0.6),
        (WeightFormat::Q4_0, 8.0, 0.4),
    ] {
        let (engine, found) = logits(source(), &with(weights));
        let error = exact.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        assert!(error <= largest_error, "{weights:?}: {error}");
        let bytes = engine.memory().backend.base as f64 / stored.memory().backend.base as f64;
        assert!(bytes <= share, "{weights:?}: {bytes}");
    }
}

/// FNV-1a, 64 bits.
fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let bytes = parts.into_iter().flatten();
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// The hashes are of what `gguf.quants.quantize` of PyPI's gguf 0.19.0 makes of the same tensors: the demo
/// model's embedding and the seven projections of its first layer.
#[test]
fn quantised_blocks_are_those_of_gguf_bit_for_bit() {
    let source = embedded(interleaf_demo_model::NAME, interleaf_demo_model::BASE);
    let model = interleaf_model::Model::open(source).expect("the demo model opens");
    for (format, bytes, expected) in [
        (WeightFormat::Q8_0, 1_949_696, 0xf297_a392_46b5_5093),
        (WeightFormat::Q4_0, 1_032_192, 0xc612_1e59_e88f_6192),
    ] {
        let mut matrices = vec![model.embedding(format).expect("it converts")];
        for proj in interleaf_model::Proj::ALL {
            matrices.push(model.projection(0, proj, format).expect("it converts").matrix);
        }
        assert_eq!(matrices.iter().map(|m| m.data().len()).sum::<usize>(), bytes);
        assert_eq!(hash(matrices.iter().map(|m| &m.data()[..])), expected, "{format:?}");
    }
}

/// SmolLM2's files at a smaller size: its `config.json` field by field, tied bf16 weights, one safetensors
/// file without metadata.
#[test]
fn the_smollm2_layout_loads_and_runs_alike_on_both_backends() {
    let folder = tempfile::tempdir().expect("a folder");
    let (hidden, mlp, vocabulary, heads, kv_heads) = (36, 64, 96, 3, 1);
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": hidden,
        "initializer_range": 0.041_666_666_666_666_664, "intermediate_size": mlp, "is_llama_config": true,
        "max_position_embeddings": 8192, "mlp_bias": false, "model_type": "llama",
        "num_attention_heads": heads, "num_hidden_layers": 2, "num_key_value_heads": kv_heads,
        "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_interleaved": false,
        "rope_scaling": null, "rope_theta": 100_000, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.42.3", "use_cache": true, "vocab_size": vocabulary,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("writes");
    let kv = hidden / heads * kv_heads;
    let mut tensors = vec![("model.embed_tokens".to_owned(), vec![vocabulary, hidden])];
    tensors.push(("model.norm".into(), vec![hidden]));
    for layer in 0..2 {
        let parts = [
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![mlp, hidden]),
            ("mlp.up_proj", vec![mlp, hidden]),
            ("mlp.down_proj", vec![hidden, mlp]),
        ];
        tensors.extend(parts.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)));
    }
    let mut random = Random::new(8);
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in tensors {
        let start = data.len();
        let values = random.values(shape.iter().product());
        let scale = if shape.len() == 1 { 1.0 } else { 0.3 };
        data.extend(values.iter().flat_map(|v| half::bf16::from_f32(v * scale).to_le_bytes()));
        let entry = serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(format!("{name}.weight"), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    std::fs::write(folder.path().join("model.safetensors"), file).expect("writes");

    let prompt: Vec<u32> = (0..40).map(|i| i * 7 % 96).collect();
    let run = |backend| {
        let source = Source::dir(folder.path());
        let mut engine = Engine::open(source, &options(backend), &mut |_| ()).expect("it loads");
        assert!(engine.config().tied_head);
        engine.reserve_kv(1, 64).expect("a small pool");
        let sequence = engine.open_sequence(None, &[]).expect("the base");
        let feed = Feed { sequence, tokens: &prompt, kind: RowKind::Prompt, want: Want::Logits };
        engine.feed(&[feed]).expect("it runs").remove(0).logits
    };
    let (reference, found) = (run(BackendChoice::Ref), run(BackendChoice::Cpu));
    assert!(reference.iter().any(|l| l.abs() > 0.1), "logits that say something");
    let error = error(&reference, &found);
    assert!(error.max_abs < 1e-4, "{error:?}");
}
