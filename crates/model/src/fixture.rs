//! Tiny files for the unit tests: folders, safetensors, a model and adapters for it.
//!
//! Only tests see it.

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Model, Source};

/// A folder that is removed with its owner.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn source(&self) -> Source {
        Source::dir(self.0.path())
    }

    pub fn write(&self, file: &str, contents: impl AsRef<[u8]>) {
        std::fs::write(self.0.path().join(file), contents).unwrap();
    }
}

/// A tensor to be written.
#[derive(Clone)]
pub(crate) struct TestTensor {
    pub name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

pub(crate) fn tensor_f32(name: &str, shape: &[usize], values: &[f32]) -> TestTensor {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    TestTensor { name: name.into(), dtype: Dtype::F32, shape: shape.into(), data }
}

pub(crate) fn tensor_f16(name: &str, shape: &[usize], values: &[f32]) -> TestTensor {
    let data = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
    TestTensor { name: name.into(), dtype: Dtype::F16, shape: shape.into(), data }
}

pub(crate) fn tensor_bf16(name: &str, shape: &[usize], values: &[f32]) -> TestTensor {
    let data = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
    TestTensor { name: name.into(), dtype: Dtype::BF16, shape: shape.into(), data }
}

/// An f32 tensor whose elements count up, so that none is another's.
pub(crate) fn counting(name: &str, shape: &[usize]) -> TestTensor {
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| i as f32 / 64.0).collect();
    tensor_f32(name, shape, &values)
}

pub(crate) fn safetensors_bytes(tensors: &[TestTensor]) -> Vec<u8> {
    let views = tensors.iter().map(|t| {
        let view = TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap();
        (t.name.as_str(), view)
    });
    safetensors::serialize(views, None).unwrap()
}

/// `config.json` of a Llama of 2 layers: hidden 8, 4 heads over 2 of 4 elements, MLP 12, 16 tokens.
/// 4 × 4 is not 8, so that mixed-up shapes do not fit.
pub(crate) fn llama_config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 16,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": true
    })
}

/// A JSON object with some fields changed; null removes a field.
pub(crate) fn changed(mut object: Value, changes: Value) -> Value {
    for (field, value) in changes.as_object().unwrap() {
        if value.is_null() {
            object.as_object_mut().unwrap().remove(field);
        } else {
            object[field] = value.clone();
        }
    }
    object
}

/// `config.json` of a Phi-3 of the same sizes but 16 wide, since its heads are an equal share, that rotates
/// half of each head.
pub(crate) fn phi3_config() -> Value {
    let phi3 = json!({"architectures": ["Phi3ForCausalLM"], "hidden_size": 16, "head_dim": null,
        "partial_rotary_factor": 0.5});
    changed(llama_config(), phi3)
}

/// That Phi-3's tensors.
pub(crate) fn phi3_tensors() -> Vec<TestTensor> {
    let mut tensors =
        vec![counting("model.embed_tokens.weight", &[16, 16]), counting("model.norm.weight", &[16])];
    for layer in 0..2 {
        for (name, shape) in [
            ("input_layernorm", &[16][..]),
            ("post_attention_layernorm", &[16]),
            ("self_attn.qkv_proj", &[16 + 8 + 8, 16]),
            ("self_attn.o_proj", &[16, 16]),
            ("mlp.gate_up_proj", &[12 + 12, 16]),
            ("mlp.down_proj", &[16, 12]),
        ] {
            tensors.push(counting(&format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    tensors
}

/// The shapes of the Llama's projections, by their names in a layer.
pub(crate) const LLAMA_SHAPES: [(&str, [usize; 2]); 7] = [
    ("self_attn.q_proj", [16, 8]),
    ("self_attn.k_proj", [8, 8]),
    ("self_attn.v_proj", [8, 8]),
    ("self_attn.o_proj", [8, 16]),
    ("mlp.gate_proj", [12, 8]),
    ("mlp.up_proj", [12, 8]),
    ("mlp.down_proj", [8, 12]),
];

/// The Llama's tensors, without an output head.
pub(crate) fn llama_tensors() -> Vec<TestTensor> {
    let mut tensors =
        vec![counting("model.embed_tokens.weight", &[16, 8]), counting("model.norm.weight", &[8])];
    for layer in 0..2 {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push(counting(&format!("model.layers.{layer}.{norm}.weight"), &[8]));
        }
        for (name, shape) in LLAMA_SHAPES {
            tensors.push(counting(&format!("model.layers.{layer}.{name}.weight"), &shape));
        }
    }
    tensors
}

/// A folder with a model.
pub(crate) fn model_folder(config: &Value, tensors: &[TestTensor]) -> Folder {
    let folder = Folder::new();
    folder.write("config.json", config.to_string());
    folder.write("model.safetensors", safetensors_bytes(tensors));
    folder
}

/// The model of [`llama_config`], tied.
pub(crate) fn llama() -> (Folder, Model) {
    let folder = model_folder(&llama_config(), &llama_tensors());
    let model = Model::open(folder.source()).unwrap();
    (folder, model)
}

/// `tokenizer.json` of a byte-level BPE without merges, as GPT-2's: 256 bytes and `<s>`, id 256, which
/// starts a text.
pub(crate) fn byte_level_tokenizer() -> Value {
    // GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes follow from U+0100 on.
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let others = (0..=255u8).filter(|b| !printable(b)).count() as u32;
    let alphabet = (0..=255u8).filter(printable).map(char::from);
    let vocab: serde_json::Map<String, Value> = alphabet
        .chain((0x100..0x100 + others).filter_map(char::from_u32))
        .enumerate()
        .map(|(id, c)| (c.to_string(), json!(id)))
        .collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "added_tokens": [{"id": 256, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}}
        },
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []}
    })
}

/// `tokenizer.json` as Llama 2's: bytes as `<0x..>`, spaces as `▁`, one of them stripped at the front.
pub(crate) fn byte_fallback_tokenizer() -> Value {
    let bytes = (0..=255u8).map(|b| (format!("<0x{b:02X}>"), json!(b)));
    let words = ["a", "▁a"].into_iter().zip(256..).map(|(word, id)| (word.to_owned(), json!(id)));
    let vocab: serde_json::Map<String, Value> = bytes.chain(words).collect();
    json!({
        "version": "1.0",
        "added_tokens": [],
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]},
        "model": {"type": "BPE", "byte_fallback": true, "vocab": vocab, "merges": []}
    })
}
