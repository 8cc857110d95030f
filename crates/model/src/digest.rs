//! What a model or an adapter is, in 32 bytes: BLAKE3 over its content.
//!
//! The content is what a forward pass computes with: never a path, a file's name, or the name that an
//! adapter is registered under. Every length is hashed before what has it, so that no two contents give
//! the same bytes to the hash.

use std::fmt;

use interleaf_contract::Activation;

use crate::tensor_index::TensorIndex;
use crate::{Biases, LayerKind, ModelConfig, PeftAdapter, PeftSite, RopeConfig, RopeScaling};

/// BLAKE3 of a model's or an adapter's content. Its text is 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// A digest that was kept as bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A digest that was kept as text; `None` if it is not 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|hash| Self(*hash.as_bytes()))
    }

    /// The digest of bytes as they are, as `b3sum` prints a file's: to know a text again, not for models and adapters.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The bytes, to be kept or made part of a key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// The digest of a model: what its config computes, and every tensor in its files by name. The same for
/// either spelling of a config, and however the tensors are spread over files.
pub(crate) fn of_model(config: &ModelConfig, tensors: &TensorIndex) -> Digest {
    let mut content = Content::new("interleaf model digest, version 1");
    content.config(config);
    for tensor in tensors.iter() {
        content.text(tensor.name).text(&tensor.dtype_name());
        content.sizes(tensor.shape.iter().copied()).bytes(&tensor.data.bytes());
    }
    content.finish()
}

/// The digest of what a config computes.
pub(crate) fn of_config(config: &ModelConfig) -> Digest {
    let mut content = Content::new("interleaf config digest, version 1");
    content.config(config);
    content.finish()
}

/// The digest of an adapter: its sites in the base's order, and where it acts.
pub(crate) fn of_adapter(adapter: &PeftAdapter) -> Digest {
    // Ranks and scales are the sites' own; the rest is a name, or for display.
    let PeftAdapter { name: _, sites, rank: _, alpha: _, rslora: _, targets: _, invocation } = adapter;
    let mut content = Content::new("interleaf adapter digest, version 1");
    content.option(invocation.as_deref(), |content, tokens| {
        content.size(tokens.len());
        tokens.iter().for_each(|token| content.number(u64::from(*token)));
    });
    content.size(sites.len());
    for PeftSite { module, rank, scale, a, b, dtypes } in sites {
        content.text(module);
        content.size(*rank);
        content.number(u64::from(scale.to_bits()));
        for (matrix, dtype) in [a, b].into_iter().zip(dtypes) {
            content.text(dtype.name());
            content.sizes([matrix.rows(), matrix.cols()]).bytes(matrix.data());
        }
    }
    content.finish()
}

/// What is being hashed.
struct Content(blake3::Hasher);

impl Content {
    /// Content of a kind: the same bytes of another kind have another digest.
    fn new(kind: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(kind))
    }

    fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }

    /// Bytes where they are, by all cores where there are many.
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        /// Below it, BLAKE3 advises against more than one core.
        const WORTH_SPREADING: usize = 128 << 10;
        self.size(bytes.len());
        if bytes.len() < WORTH_SPREADING {
            self.0.update(bytes);
        } else {
            self.0.update_rayon(bytes);
        }
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn size(&mut self, size: usize) {
        self.number(size as u64);
    }

    fn sizes(&mut self, sizes: impl IntoIterator<Item = usize, IntoIter: ExactSizeIterator>) -> &mut Self {
        let sizes = sizes.into_iter();
        self.size(sizes.len());
        sizes.for_each(|size| self.size(size));
        self
    }

    fn real(&mut self, real: f64) {
        self.number(real.to_bits());
    }

    fn flag(&mut self, flag: bool) {
        self.number(u64::from(flag));
    }

    fn option<T>(&mut self, value: Option<T>, hash: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            hash(self, value);
        }
    }

    /// Everything in a config that a logit depends on.
    fn config(&mut self, config: &ModelConfig) {
        // Spelled out, so that a new field is either hashed or named as one that changes nothing.
        let ModelConfig {
            family,
            vocab_size,
            hidden_size,
            intermediate_size,
            layers,
            heads,
            kv_heads,
            head_dim,
            norm_epsilon,
            activation,
            attention_scale,
            attention_softcap,
            logit_softcap,
            embedding_scale,
            tied_head,
            max_positions: _,
            ropes,
            layer_kinds,
            head_norms,
            post_norms,
            biases: Biases { qkv, o, mlp },
            bos: _,
            eos: _,
        } = config;
        self.text(family);
        self.sizes([*vocab_size, *hidden_size, *intermediate_size, *layers, *heads, *kv_heads, *head_dim]);
        for real in [norm_epsilon, attention_scale, embedding_scale] {
            self.real(f64::from(*real));
        }
        for softcap in [attention_softcap, logit_softcap] {
            self.option(*softcap, |content, cap| content.real(f64::from(cap)));
        }
        self.text(match activation {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_tanh",
        });
        for flag in [tied_head, head_norms, post_norms, qkv, o, mlp] {
            self.flag(*flag);
        }
        self.size(ropes.len());
        ropes.iter().for_each(|rope| self.rope(rope));
        self.size(layer_kinds.len());
        for LayerKind { rope, window } in layer_kinds {
            self.option(*rope, Self::size);
            self.option(*window, Self::size);
        }
    }

    fn rope(&mut self, rope: &RopeConfig) {
        let RopeConfig { theta, rotary_dim, scaling } = rope;
        self.real(*theta);
        self.size(*rotary_dim);
        match *scaling {
            RopeScaling::None => {
                self.text("default");
            }
            RopeScaling::Linear { factor } => self.text("linear").real(factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                self.text("llama3");
                for real in [factor, low_freq_factor, high_freq_factor, original_max_positions] {
                    self.real(real);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;
    use crate::fixture::{
        Folder, TestTensor, changed, counting, llama, llama_config, llama_tensors, model_folder,
        safetensors_bytes, tensor_bf16, tensor_f16, tensor_f32,
    };
    use serde_json::{Value, json};

    fn model(config: &Value, tensors: &[TestTensor]) -> Digest {
        Model::open(model_folder(config, tensors).source()).unwrap().digest()
    }

    const STEM: &str = "base_model.model.model.layers.0.self_attn.q_proj";

    fn adapter(name: &str, config: Value, make: fn(&str, &[usize], &[f32]) -> TestTensor) -> Digest {
        let (_base, model) = llama();
        let plain = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4});
        let folder = Folder::new();
        folder.write("adapter_config.json", changed(plain, config).to_string());
        let factors = [
            make(&format!("{STEM}.lora_A.weight"), &[2, 8], &[0.5; 16]),
            make(&format!("{STEM}.lora_B.weight"), &[16, 2], &[0.25; 32]),
        ];
        folder.write("adapter_model.safetensors", safetensors_bytes(&factors));
        PeftAdapter::open(name, &folder.source(), &model).unwrap().digest()
    }

    #[test]
    fn text_and_bytes_are_the_same_digest() {
        let digest = model(&llama_config(), &llama_tensors());
        let text = digest.to_string();
        assert_eq!((text.len(), Digest::from_hex(&text)), (64, Some(digest)));
        assert_eq!(Digest::from_bytes(*digest.as_bytes()), digest);
        assert_eq!(Digest::from_hex(&text[1..]), None);
        assert_eq!(format!("{digest:?}"), format!("Digest({text})"));
    }

    #[test]
    fn a_model_is_its_config_and_its_tensors_wherever_they_are() {
        let digest = model(&llama_config(), &llama_tensors());
        assert_eq!(model(&llama_config(), &llama_tensors()), digest);
        // Another spelling, and fields that no logit depends on.
        let spelled = json!({"rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
            "torch_dtype": "float32", "eos_token_id": [7], "bos_token_id": null, "max_position_embeddings": 128});
        assert_eq!(model(&changed(llama_config(), spelled), &llama_tensors()), digest);
        // In two files.
        let folder = Folder::new();
        folder.write("config.json", llama_config().to_string());
        let tensors = llama_tensors();
        let (first, second) = tensors.split_at(5);
        let mut map = serde_json::Map::new();
        for (file, shard) in [("2.safetensors", first), ("1.safetensors", second)] {
            folder.write(file, safetensors_bytes(shard));
            map.extend(shard.iter().map(|tensor| (tensor.name.clone(), json!(file))));
        }
        folder.write("model.safetensors.index.json", json!({"weight_map": map}).to_string());
        assert_eq!(Model::open(folder.source()).unwrap().digest(), digest);
    }

    #[test]
    fn whatever_changes_a_model_changes_its_digest() {
        let mut digests = vec![model(&llama_config(), &llama_tensors())];
        for changes in [
            json!({"rope_theta": 20000.0}),
            json!({"rope_scaling": {"type": "linear", "factor": 2}}),
            json!({"rope_scaling": {"type": "linear", "factor": 4}}),
            json!({"rms_norm_eps": 1e-6}),
            json!({"hidden_act": "gelu_pytorch_tanh"}),
            json!({"architectures": ["SmolLM3ForCausalLM"]}),
            json!({"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 0]}),
        ] {
            digests.push(model(&changed(llama_config(), changes), &llama_tensors()));
        }
        let norm = "model.norm.weight";
        let mut tensors = llama_tensors();
        tensors.retain(|tensor| tensor.name != norm);
        for other in [
            tensor_f32(norm, &[8], &[0.5; 8]),
            tensor_f16(norm, &[8], &[0.5; 8]),
            tensor_bf16(norm, &[8], &[0.5; 8]),
        ] {
            digests.push(model(&llama_config(), &[tensors.clone(), vec![other]].concat()));
        }
        let more = vec![counting("vision.weight", &[1])];
        digests.push(model(&llama_config(), &[llama_tensors(), more].concat()));
        let count = digests.len();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), count);
    }

    #[test]
    fn an_adapter_is_its_content_and_not_its_name_or_path() {
        let digest = adapter("one", json!({}), tensor_f32);
        assert_eq!(adapter("two", json!({}), tensor_f32), digest);
        // Another way to the same scale, and fields for training.
        let same = json!({"lora_alpha": 2, "alpha_pattern": {"q_proj": 4}, "lora_dropout": 0.1,
            "target_modules": ["0.self_attn.q_proj"]});
        assert_eq!(adapter("one", same, tensor_f32), digest);
    }

    #[test]
    fn whatever_changes_an_adapter_changes_its_digest() {
        let mut digests = vec![
            adapter("one", json!({}), tensor_f32),
            adapter("one", json!({}), tensor_f16),
            adapter("one", json!({}), tensor_bf16),
            adapter("one", json!({"lora_alpha": 5}), tensor_f32),
            adapter("one", json!({"lora_alpha": 0}), tensor_f32),
            adapter("one", json!({"alora_invocation_tokens": [1, 2]}), tensor_f32),
            adapter("one", json!({"alora_invocation_tokens": [1]}), tensor_f32),
            adapter("one", json!({}), |name, shape, _| counting(name, shape)),
        ];
        let count = digests.len();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), count);
    }
}
