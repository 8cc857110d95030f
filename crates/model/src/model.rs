//! An opened model folder: everything in it checked, nothing of it loaded until it is asked for.

use std::collections::BTreeSet;
use std::ops::Range;

use interleaf_contract::Matrix;
use rayon::prelude::*;

use crate::families::{self, Family, Module, Names};
use crate::json::Object;
use crate::tensor_file::Tensor;
use crate::tensor_index::TensorIndex;
use crate::{
    ChatTemplate, Digest, GenerationDefaults, ModelConfig, ModelError, Proj, Source, TensorInfo, Tokenizer,
    WeightFormat, digest,
};

const CONFIG: &str = "config.json";

/// Tensors of a layer that older checkpoints hold and that follow from the config.
const DERIVED: &str = ".rotary_emb.inv_freq";

/// A model in the Hugging Face layout, open.
#[derive(Debug)]
pub struct Model {
    source: Source,
    family: &'static Family,
    config: ModelConfig,
    generation: GenerationDefaults,
    tensors: TensorIndex,
}

/// The weights of a linear layer.
#[derive(Debug, Clone)]
pub struct ProjectionWeights {
    /// The module's path, such as `model.layers.0.self_attn.q_proj`: what a
    /// [`PeftSite`](crate::PeftSite) names. A projection that is only some rows of a module has their name
    /// after it: `model.layers.0.self_attn.qkv_proj#q`.
    pub name: String,
    /// `out × in`: of a fused matrix, a view of this projection's rows.
    pub matrix: Matrix,
    /// One value per output.
    pub bias: Option<Vec<f32>>,
}

/// The weights of an RMS norm.
#[derive(Debug, Clone, PartialEq)]
pub struct NormWeights {
    /// The module's path, such as `model.norm`.
    pub name: String,
    /// What each column is multiplied by. Families that multiply by 1 plus what is stored have the 1
    /// here.
    pub values: Vec<f32>,
}

/// A linear module of the model that adapters may name.
#[derive(Debug)]
pub(crate) struct LinearModule {
    /// Its place in the model's order.
    pub module: Module,
    /// Outputs and inputs.
    pub shape: [usize; 2],
    /// The names of its projections, as in [`ProjectionWeights::name`], and their rows: usually one, all
    /// rows.
    pub parts: Vec<(String, Range<usize>)>,
}

/// A tensor that a config calls for.
struct Required {
    name: String,
    shape: Vec<usize>,
}

impl Model {
    /// Opens a model: reads `config.json` and `generation_config.json`, maps `model.safetensors` or
    /// its shards, and checks that every tensor the config calls for is there, with the right shape
    /// and in F32, F16 or BF16; that a layer holds no other tensor, since without it a different model
    /// would be computed; and that a tied head, where there is one all the same, is the embedding. Other
    /// tensors that nothing calls for are left alone.
    ///
    /// Of the weights nothing is read but such a head; [`Model::check_finite`] reads them all.
    ///
    /// # Errors
    /// Names the file and the field or tensor that is missing, damaged, contradictory or unsupported.
    pub fn open(source: Source) -> Result<Self, ModelError> {
        let (family, config) = families::read(&Object::read(&source, CONFIG)?)?;
        let generation = GenerationDefaults::read(&source, &config.eos)?;
        let tensors = TensorIndex::default();
        let mut model = Self { source, family, config, generation, tensors };
        model.tensors = match model.source {
            Source::Generated { seed, .. } => {
                let required = model.required().into_iter().map(|tensor| (tensor.name, tensor.shape));
                TensorIndex::drawn(model.source.describe("weights"), seed, required.collect())
            }
            Source::Dir(_) | Source::Embedded { .. } | Source::Memory { .. } => {
                TensorIndex::open(&model.source)?
            }
        };
        model.check()?;
        Ok(model)
    }

    /// Where its files are.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The files that [`Model::digest`] covers: `config.json` and those with its tensors.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        [CONFIG].into_iter().chain(self.tensors.files())
    }

    /// The architecture that `config.json` names, such as `LlamaForCausalLM`.
    #[must_use]
    pub fn architecture(&self) -> &'static str {
        self.family.architecture
    }

    /// Every tensor in its files, in the order of their names.
    #[must_use]
    pub fn tensors(&self) -> Vec<TensorInfo> {
        let required = self.required();
        let required: BTreeSet<&str> = required.iter().map(|tensor| tensor.name.as_str()).collect();
        let info = |tensor: Tensor<'_>| TensorInfo {
            name: tensor.name.into(),
            dtype: tensor.dtype_name().to_lowercase(),
            shape: tensor.shape.to_vec(),
            bytes: tensor.data.len() as u64,
            used: required.contains(tensor.name),
        };
        self.tensors.iter().map(info).collect()
    }

    /// Sizes and options.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// How the model's makers suggest to generate, and the tokens to stop at.
    #[must_use]
    pub fn generation_defaults(&self) -> &GenerationDefaults {
        &self.generation
    }

    /// The embedding, `vocab_size × hidden_size`, in a format.
    ///
    /// # Errors
    /// If a weight is not finite or does not fit the format.
    pub fn embedding(&self, format: WeightFormat) -> Result<Matrix, ModelError> {
        self.tensors.get(&weight(self.names().embedding))?.matrix(format)
    }

    /// The module path of the output head: what an adapter of it names.
    #[must_use]
    pub fn head_name(&self) -> &str {
        self.names().head
    }

    /// The output head, `vocab_size × hidden_size`, in a format; `None` where the embedding is used.
    ///
    /// # Errors
    /// If a weight is not finite or does not fit the format.
    pub fn head(&self, format: WeightFormat) -> Result<Option<Matrix>, ModelError> {
        if self.config.tied_head {
            return Ok(None);
        }
        self.tensors.get(&weight(self.names().head))?.matrix(format).map(Some)
    }

    /// What a projection is called, as [`ProjectionWeights::name`] and [`crate::PeftSite::module`] say it.
    #[must_use]
    pub fn projection_name(&self, layer: usize, proj: Proj) -> String {
        self.names().projection(layer, proj)
    }

    /// A projection's matrix in a format, and its bias if it has one.
    ///
    /// # Errors
    /// If there is no such layer, or a weight is not finite or does not fit the format.
    pub fn projection(
        &self,
        layer: usize,
        proj: Proj,
        format: WeightFormat,
    ) -> Result<ProjectionWeights, ModelError> {
        self.check_layer(layer)?;
        let rows = self.rows(proj);
        let module = self.names().projection_module(layer, proj);
        let weight = self.tensors.get(&weight(&module))?.rows(rows.clone());
        let bias = if self.config.has_bias(proj) {
            Some(self.tensors.get(&bias(&module))?.rows(rows).vector()?)
        } else {
            None
        };
        Ok(ProjectionWeights {
            name: self.names().projection(layer, proj),
            matrix: weight.matrix(format)?,
            bias,
        })
    }

    /// The norm before a layer's attention, `hidden_size` values.
    ///
    /// # Errors
    /// If there is no such layer, or a weight is not finite.
    pub fn input_norm(&self, layer: usize) -> Result<NormWeights, ModelError> {
        self.layer_norm(layer, self.names().input_norm)
    }

    /// The norm of each query head, `head_dim` values, before it is rotated; `None` where heads are not
    /// normed.
    ///
    /// # Errors
    /// If there is no such layer, or a weight is not finite.
    pub fn q_norm(&self, layer: usize) -> Result<Option<NormWeights>, ModelError> {
        self.optional_norm(layer, self.head_norms().map(|[q, _]| q))
    }

    /// The norm of each key head, likewise.
    ///
    /// # Errors
    /// If there is no such layer, or a weight is not finite.
    pub fn k_norm(&self, layer: usize) -> Result<Option<NormWeights>, ModelError> {
        self.optional_norm(layer, self.head_norms().map(|[_, k]| k))
    }

    /// The norm of attention's output, `hidden_size` values, before it is added to the residual stream;
    /// `None` where it is added as it is.
    ///
    /// # Errors
    /// If there is no such layer, or a weight is not finite.
    pub fn attention_out_norm(&self, layer: usize) -> Result<Option<NormWeights>, ModelError> {
        self.optional_norm(layer, self.names().attention_out_norm)
    }

    /// The norm before a layer's MLP, whatever the family calls it, `hidden_size` values.
    ///
    /// # Errors
    /// If there is no such layer, or a weight is not finite.
    pub fn mlp_norm(&self, layer: usize) -> Result<NormWeights, ModelError> {
        self.layer_norm(layer, self.names().mlp_norm)
    }

    /// The norm of the MLP's output, `hidden_size` values, before it is added to the residual stream;
    /// `None` where it is added as it is.
    ///
    /// # Errors
    /// If there is no such layer, or a weight is not finite.
    pub fn mlp_out_norm(&self, layer: usize) -> Result<Option<NormWeights>, ModelError> {
        self.optional_norm(layer, self.names().mlp_out_norm)
    }

    /// The norm after the last layer, `hidden_size` values.
    ///
    /// # Errors
    /// If a weight is not finite.
    pub fn final_norm(&self) -> Result<NormWeights, ModelError> {
        self.norm(self.names().final_norm.into())
    }

    /// Reads every weight that the config calls for and checks it for infinities and NaN. Norms, biases and
    /// matrices that are converted are checked when they are handed out; matrices as stored are not.
    ///
    /// # Errors
    /// Names the tensor and the first element in it that is not finite.
    pub fn check_finite(&self) -> Result<(), ModelError> {
        self.required().par_iter().try_for_each(|tensor| self.tensors.get(&tensor.name)?.check_finite())
    }

    /// What the model is, by content: everything in its config that a logit depends on, and every tensor's
    /// name, type, shape and bytes. Paths, the number of files and the spelling of the config do not
    /// matter. Every weight is read, where it is mapped.
    #[must_use]
    pub fn digest(&self) -> Digest {
        digest::of_model(&self.config, &self.tensors)
    }

    /// What the config computes, without the weights: all that an adapter's own digest depends on beside the
    /// adapter's files.
    #[must_use]
    pub fn config_digest(&self) -> Digest {
        digest::of_config(&self.config)
    }

    /// The tokenizer of `tokenizer.json`; `None` if the model comes without one.
    ///
    /// # Errors
    /// If the file cannot be read as a tokenizer, or a token has no row in the embedding.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>, ModelError> {
        Tokenizer::open(&self.source, self.config.vocab_size)
    }

    /// The chat template of `chat_template.jinja` or, failing that, of `tokenizer_config.json`;
    /// `None` if the model comes without one.
    ///
    /// # Errors
    /// If the template, or the file it is in, cannot be parsed.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, ModelError> {
        ChatTemplate::open(&self.source)
    }

    /// Every linear module with its path, in the model's order: those of the layers and the head, which may
    /// be the embedding.
    pub(crate) fn linear_modules(&self) -> impl Iterator<Item = (Module, String)> {
        let names = self.names();
        let first = |proj: &Proj| names.parts(*proj).next() == Some(*proj);
        let layer = move |layer| {
            let module = move |proj| (Module::Projection(layer, proj), names.projection_module(layer, proj));
            Proj::ALL.into_iter().filter(first).map(module)
        };
        let head = (Module::Head, names.head.to_owned());
        (0..self.config.layers).flat_map(layer).chain([head])
    }

    /// The module path of the embedding.
    pub(crate) fn embedding_name(&self) -> &'static str {
        self.names().embedding
    }

    /// Finds the linear module at a path. The error says why this model has none there.
    pub(crate) fn linear(&self, path: &str) -> Result<LinearModule, String> {
        let module = self.names().resolve(path);
        match module.ok_or_else(|| format!("the base model has no linear module {path}"))? {
            Module::Head if self.config.tied_head => {
                Err(format!("{path} of the base model is its embedding and cannot be adapted on its own"))
            }
            Module::Head => {
                let shape = self.head_shape();
                Ok(LinearModule { module: Module::Head, shape, parts: vec![(path.into(), 0..shape[0])] })
            }
            Module::Projection(layer, _) if layer >= self.config.layers => {
                Err(format!("the base model has {} layers and no {path}", self.config.layers))
            }
            module @ Module::Projection(layer, proj) => {
                let part = |proj| (self.names().projection(layer, proj), self.rows(proj));
                let parts = self.names().parts(proj).map(part).collect();
                Ok(LinearModule { module, shape: self.module_shape(proj), parts })
            }
        }
    }

    /// Checks the tensors against the config.
    fn check(&self) -> Result<(), ModelError> {
        let required = self.required();
        for Required { name, shape } in &required {
            self.tensors.get(name)?.expect(shape)?;
        }
        let required: BTreeSet<&str> = required.iter().map(|tensor| tensor.name.as_str()).collect();
        let in_layers = |name: &&str| self.names().split(name).is_some() && !name.ends_with(DERIVED);
        if let Some(name) = self.tensors.names().filter(in_layers).find(|name| !required.contains(name)) {
            let reason = format!("{} calls for no such tensor", self.source.describe(CONFIG));
            return Err(self.tensors.get(name)?.refusal(reason));
        }
        self.check_tied_head()
    }

    /// Checks that a head is the embedding where the config says so. One whose bytes differ was trained
    /// apart, and the embedding in its place would be another model.
    fn check_tied_head(&self) -> Result<(), ModelError> {
        let (embedding, head) = (weight(self.names().embedding), weight(self.names().head));
        if !self.config.tied_head || !self.tensors.names().any(|name| name == head) {
            return Ok(());
        }
        let (embedding, head) = (self.tensors.get(&embedding)?, self.tensors.get(&head)?);
        if head.dtype_name() == embedding.dtype_name() && head.data.bytes() == embedding.data.bytes() {
            return Ok(());
        }
        let config = self.source.describe(CONFIG);
        Err(head.refusal(format!("differs from {}, but {config} ties the two", embedding.name)))
    }

    /// Every tensor that the config calls for.
    fn required(&self) -> Vec<Required> {
        let (config, names) = (&self.config, self.names());
        let required = |name, shape: &[usize]| Required { name, shape: shape.into() };
        let mut all = vec![
            required(weight(names.embedding), &self.head_shape()),
            required(weight(names.final_norm), &[config.hidden_size]),
        ];
        if !config.tied_head {
            all.push(required(weight(names.head), &self.head_shape()));
        }
        for layer in 0..config.layers {
            let mut norm =
                |name, len: usize| all.push(required(weight(&names.in_layer(layer, name)), &[len]));
            norm(names.input_norm, config.hidden_size);
            norm(names.mlp_norm, config.hidden_size);
            let out_norms = [names.attention_out_norm, names.mlp_out_norm];
            out_norms.into_iter().flatten().for_each(|name| norm(name, config.hidden_size));
            self.head_norms().into_iter().flatten().for_each(|name| norm(name, config.head_dim));
            for proj in Proj::ALL {
                // A module of several projections is called for once, by its first.
                if names.parts(proj).next() != Some(proj) {
                    continue;
                }
                let module = names.projection_module(layer, proj);
                let [outputs, inputs] = self.module_shape(proj);
                all.push(required(weight(&module), &[outputs, inputs]));
                if config.has_bias(proj) {
                    all.push(required(bias(&module), &[outputs]));
                }
            }
        }
        all
    }

    fn check_layer(&self, layer: usize) -> Result<(), ModelError> {
        let layers = self.config.layers;
        if layer < layers {
            return Ok(());
        }
        Err(ModelError::NoSuchLayer { file: self.source.describe(CONFIG), layer, layers })
    }

    fn names(&self) -> &'static Names {
        &self.family.names
    }

    fn head_shape(&self) -> [usize; 2] {
        [self.config.vocab_size, self.config.hidden_size]
    }

    /// Outputs and inputs of the module that a projection is, or is part of.
    fn module_shape(&self, proj: Proj) -> [usize; 2] {
        let [_, inputs] = self.config.projection_shape(proj);
        let outputs = self.names().parts(proj).map(|part| self.config.projection_shape(part)[0]).sum();
        [outputs, inputs]
    }

    /// A projection's rows in its module.
    fn rows(&self, proj: Proj) -> Range<usize> {
        let before = self.names().parts(proj).take_while(|part| *part != proj);
        let start = before.map(|part| self.config.projection_shape(part)[0]).sum();
        start..start + self.config.projection_shape(proj)[0]
    }

    /// The names of the norms of query and key heads, where there are such norms.
    fn head_norms(&self) -> Option<[&'static str; 2]> {
        self.config.head_norms.then(|| [self.names().q_norm, self.names().k_norm])
    }

    fn optional_norm(&self, layer: usize, name: Option<&str>) -> Result<Option<NormWeights>, ModelError> {
        self.check_layer(layer)?;
        name.map(|name| self.layer_norm(layer, name)).transpose()
    }

    fn layer_norm(&self, layer: usize, name: &str) -> Result<NormWeights, ModelError> {
        self.check_layer(layer)?;
        self.norm(self.names().in_layer(layer, name))
    }

    fn norm(&self, name: String) -> Result<NormWeights, ModelError> {
        let mut values = self.tensors.get(&weight(&name))?.vector()?;
        values.iter_mut().for_each(|value| *value += self.family.norm_offset);
        Ok(NormWeights { name, values })
    }
}

/// The name of a module's weight.
fn weight(module: &str) -> String {
    format!("{module}.weight")
}

/// The name of a module's bias.
fn bias(module: &str) -> String {
    format!("{module}.bias")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{
        LLAMA_SHAPES, changed, counting, llama, llama_config, llama_tensors, model_folder, phi3_config,
        phi3_tensors,
    };
    use interleaf_contract::Dtype;
    use serde_json::json;

    #[test]
    fn lists_its_tensors_and_files() {
        let more = vec![counting("vision.weight", &[3])];
        let folder = model_folder(&llama_config(), &[llama_tensors(), more].concat());
        let model = Model::open(folder.source()).unwrap();
        assert_eq!(model.files().collect::<Vec<_>>(), ["config.json", "model.safetensors"]);
        assert_eq!(model.architecture(), "LlamaForCausalLM");
        let tensors = model.tensors();
        assert_eq!(tensors.len(), llama_tensors().len() + 1);
        let unused: Vec<_> = tensors.iter().filter(|tensor| !tensor.used).collect();
        let [TensorInfo { name, dtype, shape, bytes, .. }] = &*unused else { panic!("{unused:?}") };
        assert_eq!((&**name, &**dtype, &**shape, *bytes), ("vision.weight", "f32", &[3][..], 12));
        assert_eq!(unused[0].elements(), 3);
    }

    #[test]
    fn the_digest_of_the_config_is_without_weights() {
        let (_folder, model) = llama();
        let other = model_folder(&changed(llama_config(), json!({"rms_norm_eps": 1e-4})), &llama_tensors());
        let mut tensors = llama_tensors();
        tensors.push(counting("vision.weight", &[3]));
        let same = model_folder(&llama_config(), &tensors);
        let digest = |folder: &crate::fixture::Folder| Model::open(folder.source()).unwrap().config_digest();
        assert_eq!(digest(&same), model.config_digest());
        assert_ne!(digest(&other), model.config_digest());
        assert_ne!(model.config_digest(), model.digest());
    }

    #[test]
    fn hands_out_every_weight_by_its_module() {
        let (_folder, model) = llama();
        for (proj, (name, shape)) in Proj::ALL.into_iter().zip(LLAMA_SHAPES) {
            let weights = model.projection(1, proj, WeightFormat::Stored).unwrap();
            assert_eq!(weights.name, format!("model.layers.1.{name}"));
            assert_eq!([weights.matrix.rows(), weights.matrix.cols()], shape);
            assert_eq!(weights.matrix.name(), format!("model.layers.1.{name}.weight"));
            assert_eq!(weights.bias, None);
        }
        assert_eq!(model.input_norm(0).unwrap().name, "model.layers.0.input_layernorm");
        assert_eq!(model.mlp_norm(1).unwrap().name, "model.layers.1.post_attention_layernorm");
        let norm = model.final_norm().unwrap();
        assert_eq!((norm.name.as_str(), norm.values.len(), norm.values[7]), ("model.norm", 8, 7.0 / 64.0));
        assert_eq!(model.embedding(WeightFormat::F16).unwrap().dtype(), Dtype::F16);
        assert!(model.head(WeightFormat::Stored).unwrap().is_none());
        assert_eq!(model.head_name(), "lm_head");
        assert!(model.tokenizer().unwrap().is_none() && model.chat_template().unwrap().is_none());
    }

    #[test]
    fn reads_untied_heads_and_biases() {
        let mut config = llama_config();
        config["tie_word_embeddings"] = json!(false);
        config["mlp_bias"] = json!(true);
        let mut tensors = llama_tensors();
        tensors.push(counting("lm_head.weight", &[16, 8]));
        for layer in 0..2 {
            for (name, outputs) in [("gate_proj", 12), ("up_proj", 12), ("down_proj", 8)] {
                tensors.push(counting(&format!("model.layers.{layer}.mlp.{name}.bias"), &[outputs]));
            }
        }
        let folder = model_folder(&config, &tensors);
        let model = Model::open(folder.source()).unwrap();
        assert!(model.head(WeightFormat::Stored).unwrap().is_some());
        let bias = |proj| model.projection(0, proj, WeightFormat::Stored).unwrap().bias.map(|b| b.len());
        assert_eq!((bias(Proj::Q), bias(Proj::Gate), bias(Proj::Down)), (None, Some(12), Some(8)));
    }

    #[test]
    fn parts_of_a_fused_matrix_are_views_of_its_rows() {
        let folder = model_folder(&phi3_config(), &phi3_tensors());
        let model = Model::open(folder.source()).unwrap();
        let mut next = std::collections::HashMap::new();
        for (proj, module, part, rows) in [
            (Proj::Q, "self_attn.qkv_proj", "#q", 0..16),
            (Proj::K, "self_attn.qkv_proj", "#k", 16..24),
            (Proj::V, "self_attn.qkv_proj", "#v", 24..32),
            (Proj::O, "self_attn.o_proj", "", 0..16),
            (Proj::Gate, "mlp.gate_up_proj", "#gate", 0..12),
            (Proj::Up, "mlp.gate_up_proj", "#up", 12..24),
            (Proj::Down, "mlp.down_proj", "", 0..16),
        ] {
            let weights = model.projection(1, proj, WeightFormat::Stored).unwrap();
            let module = format!("model.layers.1.{module}");
            assert_eq!(weights.name, format!("{module}{part}"));
            assert_eq!(weights.matrix.name(), format!("{module}.weight"));
            assert_eq!([weights.matrix.rows(), weights.matrix.cols()], model.config().projection_shape(proj));
            // The fixture counts: an element is its index over 64.
            let first = (rows.start * weights.matrix.cols()) as f32 / 64.0;
            assert_eq!(weights.matrix.row(0)[..4], first.to_le_bytes());
            let bytes = weights.matrix.data().as_ptr_range();
            if let Some(end) = next.insert(module, bytes.end) {
                assert_eq!(end, bytes.start, "{proj:?} follows in place");
            }
            let converted = model.projection(1, proj, WeightFormat::F16).unwrap().matrix;
            assert_eq!((converted.rows(), converted.dtype()), (rows.len(), Dtype::F16));
        }
    }

    #[test]
    fn norms_are_found_by_what_they_do() {
        let (_folder, llama) = llama();
        let none = [Model::q_norm, Model::k_norm, Model::attention_out_norm, Model::mlp_out_norm];
        assert!(none.iter().all(|norm| norm(&llama, 0).unwrap().is_none()));
        assert!(none.iter().all(|norm| norm(&llama, 2).is_err()));

        let gemma3 = json!({"architectures": ["Gemma3ForCausalLM"], "sliding_window": 4, "hidden_act": null});
        let mut tensors = llama_tensors();
        for layer in 0..2 {
            for (name, len) in [
                ("pre_feedforward_layernorm", 8),
                ("post_feedforward_layernorm", 8),
                ("self_attn.q_norm", 4),
                ("self_attn.k_norm", 4),
            ] {
                tensors.push(counting(&format!("model.layers.{layer}.{name}.weight"), &[len]));
            }
        }
        let folder = model_folder(&changed(llama_config(), gemma3), &tensors);
        let gemma3 = Model::open(folder.source()).unwrap();
        for (norm, name, len) in [
            (gemma3.input_norm(1).unwrap(), "layers.1.input_layernorm", 8),
            (gemma3.q_norm(1).unwrap().unwrap(), "layers.1.self_attn.q_norm", 4),
            (gemma3.k_norm(1).unwrap().unwrap(), "layers.1.self_attn.k_norm", 4),
            (gemma3.attention_out_norm(1).unwrap().unwrap(), "layers.1.post_attention_layernorm", 8),
            (gemma3.mlp_norm(1).unwrap(), "layers.1.pre_feedforward_layernorm", 8),
            (gemma3.mlp_out_norm(1).unwrap().unwrap(), "layers.1.post_feedforward_layernorm", 8),
            (gemma3.final_norm().unwrap(), "norm", 8),
        ] {
            assert_eq!(norm.name, format!("model.{name}"));
            // Gemma multiplies by 1 plus what is stored.
            let stored: Vec<f32> = (0..len).map(|i| 1.0 + i as f32 / 64.0).collect();
            assert_eq!(norm.values, stored, "{name}");
        }
    }

    #[test]
    fn layers_out_of_range_are_errors() {
        let (_folder, model) = llama();
        let error = model.projection(2, Proj::Q, WeightFormat::Stored).unwrap_err();
        assert!(error.to_string().contains("layer 2 is out of range: the model has 2 layers"), "{error}");
        assert!(model.input_norm(usize::MAX).is_err() && model.mlp_norm(2).is_err());
    }

    #[test]
    fn a_folder_without_a_config_is_named() {
        let error = Model::open(Source::dir("/nonexistent")).unwrap_err();
        assert_eq!(error.to_string(), "/nonexistent/config.json: no such file");
    }
}
