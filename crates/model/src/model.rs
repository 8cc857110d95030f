//! An opened model folder: everything in it checked, nothing of it loaded until it is asked for.

use interleaf_contract::Matrix;

use crate::families::{self, Family, Module, Names};
use crate::json::Object;
use crate::tensor_file::Tensor;
use crate::tensor_index::TensorIndex;
use crate::{
    ChatTemplate, GenerationDefaults, ModelConfig, ModelError, Proj, Source, Tokenizer, WeightFormat,
};

const CONFIG: &str = "config.json";

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
    /// The module's path, such as `model.layers.0.self_attn.q_proj`: what adapters name.
    pub name: String,
    /// `out × in`.
    pub matrix: Matrix,
    /// One value per output.
    pub bias: Option<Vec<f32>>,
}

/// The weights of an RMS norm.
#[derive(Debug, Clone, PartialEq)]
pub struct NormWeights {
    /// The module's path, such as `model.norm`.
    pub name: String,
    /// One value per column.
    pub values: Vec<f32>,
}

impl Model {
    /// Opens a model: reads `config.json` and `generation_config.json`, maps `model.safetensors` or
    /// its shards, and checks that every tensor the config calls for is there, with the right shape
    /// and in F32, F16 or BF16. Tensors that nothing calls for are left alone.
    ///
    /// # Errors
    /// Names the file and the field or tensor that is missing, damaged, contradictory or unsupported.
    pub fn open(source: Source) -> Result<Self, ModelError> {
        let (family, config) = families::read(&Object::read(&source, CONFIG)?)?;
        let generation = GenerationDefaults::read(&source, &config.eos)?;
        let tensors = TensorIndex::open(&source)?;
        let model = Self { source, family, config, generation, tensors };
        model.check()?;
        Ok(model)
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
        self.embedding_tensor()?.matrix(format)
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
        self.head_tensor()?.matrix(format).map(Some)
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
        let matrix = self.projection_tensor(layer, proj)?.matrix(format)?;
        let bias = self.bias_tensor(layer, proj)?.map(|tensor| tensor.vector()).transpose()?;
        Ok(ProjectionWeights { name: self.names().projection(layer, proj), matrix, bias })
    }

    /// The norm before a layer's attention, `hidden_size` values.
    ///
    /// # Errors
    /// If there is no such layer, or a weight is not finite.
    pub fn input_norm(&self, layer: usize) -> Result<NormWeights, ModelError> {
        self.check_layer(layer)?;
        self.norm(self.names().input_norm(layer))
    }

    /// The norm before a layer's MLP, `hidden_size` values.
    ///
    /// # Errors
    /// If there is no such layer, or a weight is not finite.
    pub fn post_attention_norm(&self, layer: usize) -> Result<NormWeights, ModelError> {
        self.check_layer(layer)?;
        self.norm(self.names().post_attention_norm(layer))
    }

    /// The norm after the last layer, `hidden_size` values.
    ///
    /// # Errors
    /// If a weight is not finite.
    pub fn final_norm(&self) -> Result<NormWeights, ModelError> {
        self.norm(self.names().final_norm.into())
    }

    /// The tokenizer of `tokenizer.json`; `None` if the model comes without one.
    ///
    /// # Errors
    /// If the file cannot be read as a tokenizer.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>, ModelError> {
        Tokenizer::open(&self.source)
    }

    /// The chat template of `chat_template.jinja` or, failing that, of `tokenizer_config.json`;
    /// `None` if the model comes without one.
    ///
    /// # Errors
    /// If the template, or the file it is in, cannot be parsed.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, ModelError> {
        ChatTemplate::open(&self.source)
    }

    /// Finds the linear module at a path, with its outputs and inputs. The error says why this model
    /// has none there.
    pub(crate) fn linear(&self, path: &str) -> Result<(Module, [usize; 2]), String> {
        let module = self.names().resolve(path);
        match module.ok_or_else(|| format!("the base model has no linear module {path}"))? {
            Module::Head if self.config.tied_head => {
                Err(format!("{path} of the base model is its embedding and cannot be adapted on its own"))
            }
            Module::Head => Ok((Module::Head, self.head_shape())),
            Module::Projection(layer, _) if layer >= self.config.layers => {
                Err(format!("the base model has {} layers and no {path}", self.config.layers))
            }
            module @ Module::Projection(_, proj) => Ok((module, self.config.projection_shape(proj))),
        }
    }

    /// Checks every tensor that the config calls for.
    fn check(&self) -> Result<(), ModelError> {
        self.embedding_tensor()?;
        self.norm_tensor(self.names().final_norm)?;
        if !self.config.tied_head {
            self.head_tensor()?;
        }
        for layer in 0..self.config.layers {
            self.norm_tensor(&self.names().input_norm(layer))?;
            self.norm_tensor(&self.names().post_attention_norm(layer))?;
            for proj in Proj::ALL {
                self.projection_tensor(layer, proj)?;
                self.bias_tensor(layer, proj)?;
            }
        }
        Ok(())
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

    fn embedding_tensor(&self) -> Result<Tensor<'_>, ModelError> {
        self.tensor(self.names().embedding, "weight", &self.head_shape())
    }

    fn head_tensor(&self) -> Result<Tensor<'_>, ModelError> {
        self.tensor(self.names().head, "weight", &self.head_shape())
    }

    fn norm_tensor(&self, module: &str) -> Result<Tensor<'_>, ModelError> {
        self.tensor(module, "weight", &[self.config.hidden_size])
    }

    fn projection_tensor(&self, layer: usize, proj: Proj) -> Result<Tensor<'_>, ModelError> {
        let module = self.names().projection(layer, proj);
        self.tensor(&module, "weight", &self.config.projection_shape(proj))
    }

    fn bias_tensor(&self, layer: usize, proj: Proj) -> Result<Option<Tensor<'_>>, ModelError> {
        if !self.config.has_bias(proj) {
            return Ok(None);
        }
        let [outputs, _] = self.config.projection_shape(proj);
        self.tensor(&self.names().projection(layer, proj), "bias", &[outputs]).map(Some)
    }

    fn tensor(&self, module: &str, kind: &str, shape: &[usize]) -> Result<Tensor<'_>, ModelError> {
        let tensor = self.tensors.get(&format!("{module}.{kind}"))?;
        tensor.expect(shape)?;
        Ok(tensor)
    }

    fn norm(&self, name: String) -> Result<NormWeights, ModelError> {
        let values = self.norm_tensor(&name)?.vector()?;
        Ok(NormWeights { name, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{
        LLAMA_SHAPES, TestTensor, counting, llama, llama_config, llama_tensors, model_folder, tensor_f16,
    };
    use interleaf_contract::Dtype;
    use serde_json::json;

    fn refusal(tensors: &[TestTensor]) -> String {
        let folder = model_folder(&llama_config(), tensors);
        Model::open(folder.source()).unwrap_err().to_string()
    }

    /// The model's tensors, with the one of a name replaced, or taken out by `None`.
    fn with(name: &str, replacement: Option<TestTensor>) -> Vec<TestTensor> {
        let mut tensors = llama_tensors();
        tensors.retain(|t| t.name != name);
        tensors.extend(replacement);
        tensors
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
        assert_eq!(model.post_attention_norm(1).unwrap().name, "model.layers.1.post_attention_layernorm");
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
    fn refuses_tensors_that_do_not_fit_the_config() {
        let q = "model.layers.1.self_attn.q_proj.weight";
        let message = refusal(&with(q, None));
        assert!(message.ends_with(&format!("model.safetensors: tensor {q} is missing")), "{message}");
        let message = refusal(&with(q, Some(counting(q, &[8, 16]))));
        assert!(message.ends_with(&format!("tensor {q} is [8, 16], expected [16, 8]")), "{message}");
        // Of the right size, but no matrix.
        assert!(refusal(&with(q, Some(tensor_f16(q, &[128], &[0.0; 128])))).contains("is [128]"));
    }

    #[test]
    fn layers_out_of_range_are_errors() {
        let (_folder, model) = llama();
        let error = model.projection(2, Proj::Q, WeightFormat::Stored).unwrap_err();
        assert!(error.to_string().contains("layer 2 is out of range: the model has 2 layers"), "{error}");
        assert!(model.input_norm(usize::MAX).is_err() && model.post_attention_norm(2).is_err());
    }

    #[test]
    fn a_folder_without_a_config_is_named() {
        let error = Model::open(Source::dir("/nonexistent")).unwrap_err();
        assert_eq!(error.to_string(), "/nonexistent/config.json: no such file");
    }
}
