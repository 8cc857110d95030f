//! What a model is, by its config and the headers of its files.

use std::collections::BTreeSet;
use std::time::SystemTime;

use interleaf_runtime::{
    Activation, DigestOrigin, Model, ModelConfig, PageElement, Source, Store, TensorInfo,
};
use serde::Serialize;

use super::groups::{group, ranges, split_layer};
use super::positions::{self, Kind};
use crate::CliError;
use crate::table::{self, Align, bytes, count};

/// A model.
#[derive(Debug, Serialize)]
pub struct Report {
    folder: String,
    architecture: &'static str,
    family: &'static str,
    /// Of the tensors that the model is computed with.
    parameters: u64,
    dtypes: BTreeSet<String>,
    files: Vec<File>,
    bytes_on_disk: u64,
    digest: String,
    /// Whether an earlier run had computed it.
    digest_cached: bool,
    /// Whether every weight was read and found finite.
    checked: bool,
    layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    activation: &'static str,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    attention_scale: f32,
    attention_softcap: Option<f32>,
    vocab_size: usize,
    embedding_scale: f32,
    tied_head: bool,
    logit_softcap: Option<f32>,
    context: usize,
    layer_kinds: Vec<Kind>,
    norm_epsilon: f32,
    head_norms: bool,
    post_norms: bool,
    biases: Vec<&'static str>,
    bos: Option<u32>,
    eos: Vec<u32>,
    /// Tokens that the tokenizer knows.
    tokenizer: Option<usize>,
    chat_template: bool,
    kv_bytes_per_token_f16: usize,
    tensors: Vec<Tensor>,
    #[serde(skip)]
    config: ModelConfig,
}

/// A file that the model is in.
#[derive(Debug, Serialize)]
struct File {
    name: String,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    bytes: u64,
    used: bool,
}

impl Report {
    /// Opens a model and describes it.
    pub fn read(source: Source, check: bool, store: &Store) -> Result<Self, CliError> {
        let opening = SystemTime::now();
        let model = Model::open(source)?;
        let (tokenizer, template) = (model.tokenizer()?, model.chat_template()?);
        if check {
            model.check_finite()?;
        }
        let file =
            |name: &str| Ok(File { name: name.into(), bytes: model.source().read(name)?.len() as u64 });
        let files: Vec<File> = model.files().map(file).collect::<Result<_, CliError>>()?;
        let tensors = model.tensors();
        let (digest, origin) = store.model_digest(&model, opening);
        let used = || tensors.iter().filter(|tensor| tensor.used);
        let config = model.config().clone();
        Ok(Self {
            folder: folder(model.source()),
            architecture: model.architecture(),
            family: config.family,
            parameters: used().map(TensorInfo::elements).sum(),
            dtypes: used().map(|tensor| tensor.dtype.clone()).collect(),
            bytes_on_disk: files.iter().map(|file| file.bytes).sum(),
            files,
            digest: digest.to_string(),
            digest_cached: origin == DigestOrigin::Cached,
            checked: check,
            layers: config.layers,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            activation: match config.activation {
                Activation::Silu => "silu",
                Activation::GeluTanh => "gelu_tanh",
            },
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            attention_scale: config.attention_scale,
            attention_softcap: config.attention_softcap,
            vocab_size: config.vocab_size,
            embedding_scale: config.embedding_scale,
            tied_head: config.tied_head,
            logit_softcap: config.logit_softcap,
            context: config.max_positions,
            layer_kinds: positions::kinds(&config),
            norm_epsilon: config.norm_epsilon,
            head_norms: config.head_norms,
            post_norms: config.post_norms,
            biases: biases(&config),
            bos: config.bos,
            eos: model.generation_defaults().eos.clone(),
            tokenizer: tokenizer.map(|tokenizer| tokenizer.vocab_size()),
            chat_template: template.is_some(),
            kv_bytes_per_token_f16: PageElement::F16
                .bytes(2 * config.layers * config.kv_heads * config.head_dim),
            tensors: tensors.into_iter().map(Tensor::from).collect(),
            config,
        })
    }

    /// The same for a person.
    pub fn lines(&self) -> Vec<String> {
        let mut facts = self.content();
        facts.extend(self.shape());
        let mut lines = table::facts(&facts);
        lines.push(String::new());
        lines.extend(self.tensor_table());
        lines
    }

    fn content(&self) -> Vec<(&'static str, String)> {
        let dtypes: Vec<&str> = self.dtypes.iter().map(String::as_str).collect();
        let weights: Vec<&str> = self.files.iter().skip(1).map(|file| file.name.as_str()).collect();
        let weights = match *weights {
            [one] => one.to_owned(),
            _ => format!("{} files of tensors", weights.len()),
        };
        let cached = if self.digest_cached { " (kept from an earlier run)" } else { "" };
        let mut facts = vec![
            ("model", self.folder.clone()),
            ("architecture", format!("{} (family {})", self.architecture, self.family)),
            ("parameters", format!("{} in {}", count(self.parameters), dtypes.join(", "))),
            ("on disk", format!("{} in config.json and {weights}", bytes(self.bytes_on_disk))),
            ("digest", format!("{}{cached}", self.digest)),
        ];
        if self.checked {
            facts.push(("checked", "every weight is finite".into()));
        }
        facts
    }

    fn shape(&self) -> Vec<(&'static str, String)> {
        let softcap = |cap: Option<f32>| cap.map(|cap| format!(", softcap {cap}")).unwrap_or_default();
        let Self { heads, kv_heads, head_dim, attention_scale, .. } = self;
        let attention = format!(
            "{heads} query heads, {kv_heads} key/value heads, {head_dim} wide, scale {attention_scale}{}",
            softcap(self.attention_softcap)
        );
        let scaled = if self.embedding_scale == 1.0 {
            String::new()
        } else {
            format!(", embeddings × {}", self.embedding_scale)
        };
        let head = if self.tied_head { "tied to the embedding" } else { "of its own" };
        let mut norms = vec!["before attention and MLP"];
        norms.extend(self.post_norms.then_some("after each of them"));
        norms.extend(self.head_norms.then_some("on each query and key head"));
        let biases = if self.biases.is_empty() { "none".into() } else { self.biases.join(", ") };
        let ids = |ids: &[u32]| {
            let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
            if ids.is_empty() { "none".into() } else { ids.join(", ") }
        };
        let bos: Vec<u32> = self.bos.into_iter().collect();
        let kv = self.kv_bytes_per_token_f16 as u64;
        let full = kv.saturating_mul(self.context as u64);
        let mut facts = vec![
            ("layers", self.layers.to_string()),
            ("hidden", format!("{}, MLP {} ({})", self.hidden_size, self.intermediate_size, self.activation)),
            ("attention", attention),
        ];
        let mut label = "positions";
        for kind in &self.layer_kinds {
            facts.push((std::mem::take(&mut label), kind.line(&self.config)));
        }
        let tokens = |n: usize| format!("{} tokens", count(n as u64));
        facts.extend([
            ("context", tokens(self.context)),
            ("vocabulary", format!("{}{scaled}", tokens(self.vocab_size))),
            ("head", format!("{head}{}", softcap(self.logit_softcap))),
            ("norms", format!("RMS, epsilon {:e}: {}", self.norm_epsilon, norms.join(", "))),
            ("biases", biases),
            ("bos; eos", format!("{}; {}", ids(&bos), ids(&self.eos))),
            ("tokenizer", self.tokenizer.map_or_else(|| "none".into(), tokens)),
            ("chat template", if self.chat_template { "yes" } else { "none" }.into()),
            ("KV cache", format!("{} a token in f16, {} for the whole context", bytes(kv), bytes(full))),
        ]);
        facts
    }

    /// Tensors that differ in nothing but their layer are one row.
    fn tensor_table(&self) -> Vec<String> {
        let columns = [
            ("tensor", Align::Left),
            ("layers", Align::Left),
            ("dtype", Align::Left),
            ("shape", Align::Right),
            ("bytes", Align::Right),
            ("", Align::Left),
        ];
        let keyed = self.tensors.iter().map(|tensor| {
            let layer = split_layer(&tensor.name);
            let name =
                layer.map_or_else(|| tensor.name.clone(), |(before, _, rest)| format!("{before}.*.{rest}"));
            let key = (name, &tensor.dtype, &tensor.shape, tensor.used);
            (key, (layer.map(|(_, layer, _)| layer), tensor.bytes))
        });
        let rows: Vec<Vec<String>> = (group(keyed).into_iter())
            .map(|((name, dtype, shape, used), members)| {
                let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
                vec![
                    name,
                    ranges(members.iter().filter_map(|(layer, _)| *layer)),
                    dtype.clone(),
                    shape.join(" × "),
                    bytes(members.iter().map(|(_, bytes)| bytes).sum()),
                    if used { String::new() } else { "not used".into() },
                ]
            })
            .collect();
        table::render(&columns, &rows)
    }
}

impl From<TensorInfo> for Tensor {
    fn from(TensorInfo { name, dtype, shape, bytes, used }: TensorInfo) -> Self {
        Self { name, dtype, shape, bytes, used }
    }
}

fn folder(source: &Source) -> String {
    match source {
        Source::Dir(folder) => folder.display().to_string(),
        Source::Embedded { name, .. } => format!("embedded:{name}"),
        Source::Memory { name, .. } => name.clone(),
        Source::Generated { shape, .. } => format!("generated:{}", shape.name),
    }
}

fn biases(config: &ModelConfig) -> Vec<&'static str> {
    let kinds = [
        (config.biases.qkv, "queries, keys and values"),
        (config.biases.o, "attention's output"),
        (config.biases.mlp, "MLP"),
    ];
    kinds.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect()
}
