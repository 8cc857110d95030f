//! Model folders that are damaged or contradict themselves: each is refused, by a message that names the
//! file and the tensor or field.
//!
//! Only tests see it.

use serde_json::{Value, json};

use crate::fixture::{
    Folder, TestTensor, byte_level_tokenizer, changed, counting, llama_config, llama_tensors, model_folder,
    phi3_config, phi3_tensors, safetensors_bytes, tensor_f32,
};
use crate::{Model, ModelError, WeightFormat};

const MODEL: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const Q1: &str = "model.layers.1.self_attn.q_proj.weight";
const NORM: &str = "model.norm.weight";

/// A sound folder with changed tensors.
fn with_tensors(change: impl FnOnce(&mut Vec<TestTensor>)) -> Folder {
    let mut tensors = llama_tensors();
    change(&mut tensors);
    model_folder(&llama_config(), &tensors)
}

/// A sound folder with one tensor in place of another.
fn with_tensor(tensor: TestTensor) -> Folder {
    with_tensors(|tensors| {
        tensors.retain(|other| other.name != tensor.name);
        tensors.push(tensor);
    })
}

/// A sound folder with changed fields in its config.
fn with_config(changes: Value) -> Folder {
    model_folder(&changed(llama_config(), changes), &llama_tensors())
}

/// A sound folder with changed bytes in its tensors' file.
fn with_bytes(change: impl FnOnce(&mut Vec<u8>)) -> Folder {
    let mut bytes = safetensors_bytes(&llama_tensors());
    change(&mut bytes);
    let folder = with_config(json!({}));
    folder.write(MODEL, bytes);
    folder
}

/// A sound folder with changed text in the header of its tensors' file, as long as before.
fn with_header(from: &str, to: &str) -> Folder {
    with_bytes(|bytes| {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
        assert!(header.contains(from) && from.len() == to.len(), "{header}");
        let header = header.replacen(from, to, 1);
        bytes[8..8 + length].copy_from_slice(header.as_bytes());
    })
}

/// A folder of two shards, `1.safetensors` and `2.safetensors`. Some tensors are in both.
fn sharded(in_both: usize) -> Folder {
    let folder = Folder::new();
    folder.write("config.json", llama_config().to_string());
    let tensors = llama_tensors();
    let mut map = serde_json::Map::new();
    for (file, shard) in [("1.safetensors", &tensors[..9]), ("2.safetensors", &tensors[9 - in_both..])] {
        folder.write(file, safetensors_bytes(shard));
        map.extend(shard.iter().map(|tensor| (tensor.name.clone(), json!(file))));
    }
    folder.write(INDEX, json!({"weight_map": map}).to_string());
    folder
}

fn with_file(file: &str, contents: impl AsRef<[u8]>) -> Folder {
    let folder = with_config(json!({}));
    folder.write(file, contents);
    folder
}

fn without(folder: Folder, file: &str) -> Folder {
    folder.remove(file);
    folder
}

/// Reads all that a forward pass needs, as it is stored or converted.
fn load(folder: &Folder, format: WeightFormat) -> Result<(), ModelError> {
    let model = Model::open(folder.source())?;
    model.tokenizer()?;
    model.embedding(format)?;
    model.final_norm()?;
    for layer in 0..model.config().layers {
        model.input_norm(layer)?;
        for proj in crate::Proj::ALL {
            model.projection(layer, proj, format)?;
        }
    }
    Ok(())
}

#[test]
fn every_bad_folder_is_refused_by_file_and_tensor_or_field() {
    let nan = |name: &str, shape: &[usize]| {
        let mut values = vec![0.25; shape.iter().product()];
        values[3] = f32::NAN;
        tensor_f32(name, shape, &values)
    };
    let q_bias = json!({"architectures": ["Qwen2ForCausalLM"]});
    let mut more_tokens = byte_level_tokenizer();
    more_tokens["model"]["vocab"] = json!({"a": 0, "b": 99});
    let table: Vec<(&str, Folder, &[&str])> = vec![
        ("no config", without(with_config(json!({})), "config.json"), &["config.json", "no such file"]),
        ("empty config", with_file("config.json", ""), &["config.json", "not JSON"]),
        ("config cut short", with_file("config.json", "{\"vocab_size\": 1"), &["config.json", "not JSON"]),
        ("config of bytes", with_file("config.json", [0xff; 9]), &["config.json", "not UTF-8"]),
        ("no tensors", without(with_config(json!({})), MODEL), &[MODEL, "no such file"]),
        (
            "a pickle",
            {
                let folder = without(with_config(json!({})), MODEL);
                folder.write("pytorch_model.bin", b"x");
                folder
            },
            &["pytorch_model.bin", "pickle", MODEL],
        ),
        ("missing shard", without(sharded(0), "2.safetensors"), &["2.safetensors", "no such file"]),
        ("tensor in two shards", sharded(1), &["2.safetensors", "1.safetensors", "is in"]),
        ("missing tensor", with_tensors(|tensors| tensors.retain(|t| t.name != Q1)), &[MODEL, Q1, "missing"]),
        ("wrong shape", with_tensor(counting(Q1, &[8, 16])), &[MODEL, Q1, "[8, 16]", "[16, 8]"]),
        ("wrong dimensions", with_tensor(counting(Q1, &[128])), &[MODEL, Q1, "[128]", "[16, 8]"]),
        ("wrong dtype", with_header("\"F32\"", "\"I32\""), &[MODEL, "is I32", "BF16"]),
        ("unknown dtype", with_header("\"F32\"", "\"F31\""), &[MODEL, "header is not valid", "F31"]),
        ("empty file", with_file(MODEL, ""), &[MODEL, "too few"]),
        ("no header", with_file(MODEL, [0; 7]), &[MODEL, "too few"]),
        (
            "absurd header length",
            with_bytes(|bytes| bytes[..8].copy_from_slice(&(1u64 << 60).to_le_bytes())),
            &[MODEL, "1152921504606846976 bytes"],
        ),
        ("header of noise", with_bytes(|bytes| bytes[8..].fill(b'x')), &[MODEL, "header is not valid"]),
        ("truncated", with_bytes(|bytes| bytes.truncate(bytes.len() - 200)), &[MODEL, "cut short"]),
        ("padded", with_bytes(|bytes| bytes.push(0)), &[MODEL, "padded"]),
        // The second tensor starts in the first one, which is 16 × 8.
        ("overlapping", with_header("[512,", "[508,"), &[MODEL, "does not start where"]),
        (
            "twice in one file",
            with_header("layers.1.input_layernorm", "layers.0.input_layernorm"),
            &[MODEL, "model.layers.0.input_layernorm.weight is there twice"],
        ),
        ("NaN in a norm", with_tensor(nan(NORM, &[8])), &[MODEL, NORM, "NaN at element 3"]),
        (
            "NaN in a bias",
            {
                let mut tensors = llama_tensors();
                for layer in 0..2 {
                    for (name, outputs) in [("q", 16), ("k", 8), ("v", 8)] {
                        let name = format!("model.layers.{layer}.self_attn.{name}_proj.bias");
                        tensors.push(nan(&name, &[outputs]));
                    }
                }
                model_folder(&changed(llama_config(), q_bias.clone()), &tensors)
            },
            &[MODEL, "model.layers.0.self_attn.q_proj.bias", "NaN at element 3"],
        ),
        (
            "fewer layers",
            with_config(json!({"num_hidden_layers": 1})),
            &[MODEL, "model.layers.1.", "config.json"],
        ),
        ("more layers", with_config(json!({"num_hidden_layers": 3})), &[MODEL, "model.layers.2.", "missing"]),
        ("another width", with_config(json!({"hidden_size": 16})), &[MODEL, "[16, 8], expected [16, 16]"]),
        (
            "another vocabulary",
            with_config(json!({"vocab_size": 32})),
            &[MODEL, "embed_tokens.weight", "[32, 8]"],
        ),
        ("other heads", with_config(json!({"num_key_value_heads": 4})), &[MODEL, "k_proj.weight", "[16, 8]"]),
        ("missing biases", with_config(q_bias), &[MODEL, "self_attn.q_proj.bias", "missing"]),
        (
            "biases that the config denies",
            with_tensor(counting("model.layers.0.self_attn.q_proj.bias", &[16])),
            &[MODEL, "self_attn.q_proj.bias", "config.json calls for no such tensor"],
        ),
        (
            "head norms that the family does not have",
            with_tensor(counting("model.layers.0.self_attn.q_norm.weight", &[4])),
            &[MODEL, "self_attn.q_norm.weight", "config.json calls for no such tensor"],
        ),
        (
            "no head",
            with_config(json!({"tie_word_embeddings": false})),
            &[MODEL, "lm_head.weight", "missing"],
        ),
        (
            "a tied head that is not the embedding",
            with_tensor(tensor_f32("lm_head.weight", &[16, 8], &[0.0; 128])),
            &[MODEL, "lm_head.weight", "model.embed_tokens.weight", "config.json ties"],
        ),
        (
            "a fused matrix without its last part",
            {
                let mut tensors = phi3_tensors();
                let name = "model.layers.1.self_attn.qkv_proj.weight";
                tensors.retain(|tensor| tensor.name != name);
                tensors.push(counting(name, &[24, 16]));
                model_folder(&phi3_config(), &tensors)
            },
            &[MODEL, "layers.1.self_attn.qkv_proj.weight", "[24, 16], expected [32, 16]"],
        ),
        (
            "another architecture",
            with_config(json!({"architectures": ["BertModel"]})),
            &["config.json", "BertModel"],
        ),
        (
            "a scaling that is not implemented",
            with_config(json!({"rope_scaling": {"rope_type": "longrope", "factor": 4}})),
            &["config.json", "rope_scaling.rope_type", "longrope"],
        ),
        (
            "a tokenizer of more tokens than the embedding has rows",
            with_file("tokenizer.json", more_tokens.to_string()),
            &["tokenizer.json", "\"b\"", "99", "16 rows"],
        ),
        ("a tokenizer that is none", with_file("tokenizer.json", "[]"), &["tokenizer.json"]),
    ];
    for (what, folder, words) in table {
        let message = load(&folder, WeightFormat::Stored).expect_err(what).to_string();
        for word in words {
            assert!(message.contains(word), "{what}: {word:?} is not in: {message}");
        }
    }
}

#[test]
fn a_matrix_as_stored_is_searched_for_nan_when_that_is_asked_for() {
    let mut values = vec![0.25; 128];
    values[77] = f32::NAN;
    let folder = with_tensor(tensor_f32(Q1, &[16, 8], &values));
    load(&folder, WeightFormat::Stored).unwrap();
    let converted = load(&folder, WeightFormat::F16).unwrap_err().to_string();
    let asked = Model::open(folder.source()).unwrap().check_finite().unwrap_err().to_string();
    for message in [converted, asked] {
        assert!(message.contains(MODEL) && message.contains(Q1), "{message}");
        assert!(message.contains("NaN at element 77"), "{message}");
    }
    assert!(Model::open(with_config(json!({})).source()).unwrap().check_finite().is_ok());
}

#[test]
fn harmless_leftovers_are_left_alone() {
    for tensor in [
        counting("model.layers.0.self_attn.rotary_emb.inv_freq", &[2]),
        counting("vision_tower.weight", &[3]),
        // Tied, and stored all the same.
        counting("lm_head.weight", &[16, 8]),
    ] {
        load(&with_tensor(tensor), WeightFormat::Stored).unwrap();
    }
    load(&sharded(0), WeightFormat::Stored).unwrap();
}
