//! Golden vectors in either layout, read into one form: a folder with `index.json` and one safetensors
//! file per model, or with `golden.json` and `golden.safetensors`.

use std::path::{Path, PathBuf};

use interleaf_runtime::ModelConfig;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::CliError;

/// A golden set.
#[derive(Debug)]
pub struct Golden {
    /// Its index, for messages.
    pub path: PathBuf,
    /// The base and its adapters.
    pub targets: Vec<Target>,
    /// Where `golden.json` says its adapter is.
    pub adapter_folder: Option<PathBuf>,
}

/// What one model computed.
#[derive(Debug)]
pub struct Target {
    /// `base`, or the adapter's name.
    pub name: String,
    /// Its prompts.
    pub prompts: Vec<Prompt>,
    /// Windows for perplexity.
    pub windows: Vec<Window>,
}

impl Target {
    /// The adapter to run it under.
    pub fn adapter(&self) -> Option<&str> {
        (self.name != BASE).then_some(self.name.as_str())
    }
}

/// The name of the target without an adapter.
pub const BASE: &str = "base";

/// The name of the other target of a set with one adapter.
pub const ADAPTER: &str = "adapter";

/// One prompt and what followed.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Its name.
    pub name: String,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Logits at the last position.
    pub last_logits: Vec<f32>,
    /// Tokens with the largest logits at every position, best first, positions × `best`.
    pub top_ids: Vec<u32>,
    /// Their logits.
    pub top_logits: Vec<f32>,
    /// How many per position.
    pub best: usize,
    /// Negative log likelihood of each next token, where given.
    pub token_nll: Option<Vec<f32>>,
    /// The greedy continuation.
    pub greedy: Vec<u32>,
    /// Each greedy step's lead over the runner-up.
    pub margins: Vec<f32>,
    /// The most likely tokens of each greedy step, steps × `best`, where given: `top_ids` of the answer.
    pub greedy_top_ids: Vec<u32>,
    /// Their logits.
    pub greedy_top_logits: Vec<f32>,
    /// Layers whose K and V are given.
    pub kv: Vec<LayerKv>,
}

/// K (after the rotary embedding) and V of one layer, `[kv_head][token][head_dim]`.
#[derive(Debug, Clone)]
pub struct LayerKv {
    /// The layer.
    pub layer: usize,
    /// Keys.
    pub k: Vec<f32>,
    /// Values.
    pub v: Vec<f32>,
}

/// A window of text and the negative log likelihood of each of its tokens but the first.
#[derive(Debug, Clone)]
pub struct Window {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// One value fewer.
    pub nll: Vec<f32>,
}

impl Golden {
    /// Checks every token, layer and length against the model that will run them.
    pub fn check(&self, config: &ModelConfig, context: usize) -> Result<(), CliError> {
        let vocabulary = config.vocab_size;
        for target in &self.targets {
            for prompt in &target.prompts {
                let field = format!("{} {}", target.name, prompt.name);
                let refuse = |reason: String| Err(wrong(&self.path, &field, &reason));
                if prompt.last_logits.len() != vocabulary {
                    let found = prompt.last_logits.len();
                    return refuse(format!("{found} logits, the model has a vocabulary of {vocabulary}"));
                }
                let tokens = prompt.ids.iter().chain(&prompt.greedy).chain(&prompt.top_ids);
                if let Some(token) = tokens.into_iter().find(|t| **t as usize >= vocabulary) {
                    return refuse(format!("token {token} is not in the model's vocabulary of {vocabulary}"));
                }
                if prompt.ids.len() + prompt.greedy.len() > context {
                    let length = prompt.ids.len() + prompt.greedy.len();
                    return refuse(format!(
                        "{length} tokens with its answer, the model's context is {context}"
                    ));
                }
                for kv in &prompt.kv {
                    let values = config.kv_heads * prompt.ids.len() * config.head_dim;
                    if kv.layer >= config.layers || kv.k.len() != values || kv.v.len() != values {
                        return refuse(format!(
                            "K or V of layer {} does not fit the model's shape",
                            kv.layer
                        ));
                    }
                }
            }
            for window in &target.windows {
                let reason = match window.ids.iter().find(|t| **t as usize >= vocabulary) {
                    Some(token) => format!("token {token} is not in the model's vocabulary of {vocabulary}"),
                    None if window.ids.len() > context => {
                        format!("longer than the model's context of {context}")
                    }
                    None => continue,
                };
                return Err(wrong(&self.path, &format!("{} ppl/input_ids", target.name), &reason));
            }
        }
        Ok(())
    }
}

const INDEX: &str = "index.json";
const SINGLE: &str = "golden.json";

/// Whether a folder is one of golden vectors.
pub fn is_one(folder: &Path) -> bool {
    [INDEX, SINGLE].iter().any(|file| folder.join(file).is_file())
}

/// The folder of the base model that `golden.json` names, beside the set's own: where vectors are of an
/// adapter whose base has a set of its own.
pub fn base(folder: &Path) -> Result<Option<String>, CliError> {
    let path = folder.join(SINGLE);
    if !path.is_file() {
        return Ok(None);
    }
    let index = json(&path)?;
    Ok(index["base"].as_str().filter(|name| is_file_name(name)).map(str::to_owned))
}

/// Reads a folder of golden vectors.
pub fn read(folder: &Path) -> Result<Golden, CliError> {
    let (index, single) = (folder.join(INDEX), folder.join(SINGLE));
    if index.is_file() {
        return read_index(folder, &index);
    }
    if single.is_file() {
        return read_single(folder, &single);
    }
    let reason = "expected index.json or golden.json in this folder".to_owned();
    Err(CliError::File { path: folder.to_owned(), reason })
}

fn read_index(folder: &Path, path: &Path) -> Result<Golden, CliError> {
    let index = json(path)?;
    let Some(targets) = index["targets"].as_object() else {
        return Err(wrong(path, "targets", "expected an object of models"));
    };
    let mut read = Vec::new();
    if targets.is_empty() {
        return Err(wrong(path, "targets", "expected at least one model"));
    }
    for (name, entry) in targets {
        let field = format!("targets.{name}");
        let file = entry["file"].as_str().filter(|file| is_file_name(file));
        let file =
            file.ok_or_else(|| wrong(path, &format!("{field}.file"), "expected the name of a file here"))?;
        let tensors = Tensors::open(folder.join(file))?;
        let parsed = tensors.parse()?;
        let prompts = entry["prompts"].as_array();
        let prompts = prompts.ok_or_else(|| wrong(path, &format!("{field}.prompts"), "expected a list"))?;
        if prompts.is_empty() {
            return Err(wrong(path, &format!("{field}.prompts"), "expected at least one prompt"));
        }
        let kv_prompt = entry["kv_prompt"].as_str();
        let mut target = Target { name: name.clone(), prompts: Vec::new(), windows: Vec::new() };
        for prompt in prompts {
            let name = prompt["name"].as_str();
            let name =
                name.ok_or_else(|| wrong(path, &format!("{field}.prompts.name"), "expected a string"))?;
            let names = Names {
                ids: format!("{name}/input_ids"),
                tensors: format!("{name}/"),
                margin: "greedy_margin",
                kv: (kv_prompt == Some(name)).then(|| ("kv/layer".to_owned(), '/')),
            };
            if target.prompts.iter().any(|p| p.name == name) {
                return Err(wrong(path, &format!("{field}.prompts"), &format!("there are two named {name}")));
            }
            target.prompts.push(parsed.prompt(name, &names)?);
        }
        if let Some(name) = kv_prompt
            && target.prompts.iter().all(|p| p.name != name || p.kv.is_empty())
        {
            let reason = format!("no prompt {name:?} with tensors kv/layer…");
            return Err(wrong(path, &format!("{field}.kv_prompt"), &reason));
        }
        target.windows = parsed.windows()?;
        read.push(target);
    }
    Ok(Golden { path: path.to_owned(), targets: read, adapter_folder: None })
}

/// Whether a name stays in its folder.
fn is_file_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|n| n == name)
}

fn read_single(folder: &Path, path: &Path) -> Result<Golden, CliError> {
    let index = json(path)?;
    let tensors = Tensors::open(folder.join("golden.safetensors"))?;
    let parsed = tensors.parse()?;
    let prompts = index["prompts"].as_array().ok_or_else(|| wrong(path, "prompts", "expected a list"))?;
    if prompts.is_empty() {
        return Err(wrong(path, "prompts", "expected at least one prompt"));
    }
    let mut targets = Vec::new();
    for target in [BASE, ADAPTER] {
        // The base is always asked for, an adapter where the index or the tensors speak of one. Then every
        // prompt must be there: a case that is quietly missing would quietly pass.
        let named = target == BASE || index["adapter"].is_string() || parsed.mentions(&format!("{target}."));
        if !named {
            continue;
        }
        let mut read = Vec::new();
        for prompt in prompts {
            let name =
                prompt["name"].as_str().ok_or_else(|| wrong(path, "prompts.name", "expected a string"))?;
            let prefix = format!("{target}.{name}.");
            let names = Names {
                ids: format!("{name}.ids"),
                kv: Some((format!("{prefix}layer"), '.')),
                tensors: prefix,
                margin: "greedy_lead",
            };
            let prompt_read = parsed.prompt(name, &names)?;
            // The index says some of it again, for people: what contradicts the tensors is wrong somewhere.
            let greedy = format!("{target}.{name}");
            agrees(path, &format!("prompts.{name}.ids"), &prompt["ids"], &prompt_read.ids)?;
            agrees(path, &format!("greedy.{greedy}"), &index["greedy"][&greedy], &prompt_read.greedy)?;
            if read.iter().any(|other: &Prompt| other.name == name) {
                return Err(wrong(path, "prompts", &format!("there are two named {name}")));
            }
            read.push(prompt_read);
        }
        targets.push(Target { name: target.into(), prompts: read, windows: Vec::new() });
    }
    let adapter_folder = index["adapter"].as_str().map(|a| folder.join(a));
    Ok(Golden { path: path.to_owned(), targets, adapter_folder })
}

/// Checks tokens of the index, where it has some, against those of the tensors.
fn agrees(path: &Path, field: &str, said: &Value, tensor: &[u32]) -> Result<(), CliError> {
    let equal = |list: &Vec<Value>| {
        list.len() == tensor.len()
            && list.iter().zip(tensor).all(|(said, id)| said.as_u64() == Some((*id).into()))
    };
    if said.is_null() || said.as_array().is_some_and(equal) {
        return Ok(());
    }
    Err(wrong(path, field, "not the tokens that golden.safetensors has"))
}

fn json(path: &Path) -> Result<Value, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| CliError::File { path: path.to_owned(), reason: e.to_string() })?;
    serde_json::from_str(&text).map_err(|e| CliError::File { path: path.to_owned(), reason: e.to_string() })
}

fn wrong(path: &Path, field: &str, reason: &str) -> CliError {
    CliError::Golden { path: path.to_owned(), field: field.into(), reason: reason.into() }
}

/// What the tensors of one prompt are called.
struct Names {
    ids: String,
    tensors: String,
    margin: &'static str,
    /// Before the layer's number, and what parts it from `k` and `v`.
    kv: Option<(String, char)>,
}

struct Tensors {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Tensors {
    fn open(path: PathBuf) -> Result<Self, CliError> {
        if !path.is_file() {
            return Err(CliError::File { path, reason: "expected a file".into() });
        }
        let bytes =
            std::fs::read(&path).map_err(|e| CliError::File { path: path.clone(), reason: e.to_string() })?;
        Ok(Self { path, bytes })
    }

    fn parse(&self) -> Result<Parsed<'_>, CliError> {
        let tensors = SafeTensors::deserialize(&self.bytes)
            .map_err(|e| CliError::File { path: self.path.clone(), reason: e.to_string() })?;
        Ok(Parsed { path: &self.path, tensors })
    }
}

struct Parsed<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl Parsed<'_> {
    fn mentions(&self, prefix: &str) -> bool {
        self.tensors.names().into_iter().any(|name| name.starts_with(prefix))
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    fn words<T: bytemuck::Pod>(&self, name: &str, dtype: Dtype) -> Result<(Vec<usize>, Vec<T>), CliError> {
        let tensor = self.tensors.tensor(name).map_err(|e| wrong(self.path, name, &e.to_string()))?;
        if tensor.dtype() != dtype {
            return Err(wrong(self.path, name, &format!("expected {dtype:?}, found {:?}", tensor.dtype())));
        }
        Ok((tensor.shape().to_vec(), bytemuck::pod_collect_to_vec(tensor.data())))
    }

    fn floats(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), CliError> {
        let (shape, values) = self.words::<f32>(name, Dtype::F32)?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(wrong(self.path, name, "a value is not finite"));
        }
        Ok((shape, values))
    }

    fn ids(&self, name: &str) -> Result<(Vec<usize>, Vec<u32>), CliError> {
        let (shape, ids) = self.words::<i32>(name, Dtype::I32)?;
        let ids = ids.into_iter().map(u32::try_from).collect::<Result<_, _>>();
        Ok((shape, ids.map_err(|_| wrong(self.path, name, "a token is negative"))?))
    }

    fn prompt(&self, name: &str, names: &Names) -> Result<Prompt, CliError> {
        let tensor = |what: &str| format!("{}{what}", names.tensors);
        let (_, ids) = self.ids(&names.ids)?;
        let (top_shape, top_ids) = self.ids(&tensor("top5_ids"))?;
        let (_, top_logits) = self.floats(&tensor("top5_logits"))?;
        let nll = tensor("token_nll");
        let token_nll = if self.has(&nll) { Some(self.floats(&nll)?.1) } else { None };
        let prompt = Prompt {
            name: name.into(),
            last_logits: self.floats(&tensor("last_logits"))?.1,
            best: top_shape.last().copied().unwrap_or(0),
            top_ids,
            top_logits,
            token_nll,
            greedy: self.ids(&tensor("greedy_ids"))?.1,
            margins: self.floats(&tensor(names.margin))?.1,
            greedy_top_ids: Vec::new(),
            greedy_top_logits: Vec::new(),
            kv: names.kv.as_ref().map_or(Ok(Vec::new()), |(prefix, part)| self.kv(prefix, *part))?,
            ids,
        };
        let lengths = [
            // A shape with a zero in it may have any other number beside it.
            ("top5_ids", prompt.top_ids.len(), prompt.ids.len().saturating_mul(prompt.best)),
            ("top5_logits", prompt.top_logits.len(), prompt.top_ids.len()),
            (names.margin, prompt.margins.len(), prompt.greedy.len()),
            (
                "token_nll",
                prompt.token_nll.as_ref().map_or(prompt.ids.len(), |n| n.len() + 1),
                prompt.ids.len(),
            ),
        ];
        for (what, found, expected) in lengths {
            if found != expected || prompt.ids.is_empty() || prompt.best == 0 || prompt.greedy.is_empty() {
                let reason = format!("{found} values do not fit a prompt of {} tokens", prompt.ids.len());
                return Err(wrong(self.path, &tensor(what), &reason));
            }
        }
        Ok(prompt)
    }

    /// Every layer `prefix{layer}{part}k` and `…v`.
    fn kv(&self, prefix: &str, part: char) -> Result<Vec<LayerKv>, CliError> {
        let suffix = format!("{part}k");
        let mut layers: Vec<usize> = (self.tensors.names().into_iter())
            .filter_map(|name| name.strip_prefix(prefix)?.strip_suffix(&suffix)?.parse().ok())
            .collect();
        layers.sort_unstable();
        let read = |layer| {
            let k = self.floats(&format!("{prefix}{layer}{part}k"))?.1;
            Ok(LayerKv { layer, k, v: self.floats(&format!("{prefix}{layer}{part}v"))?.1 })
        };
        layers.into_iter().map(read).collect()
    }

    fn windows(&self) -> Result<Vec<Window>, CliError> {
        let (ids, nll) = ("ppl/input_ids", "ppl/token_nll");
        if !self.has(ids) {
            return Ok(Vec::new());
        }
        let ((shape, ids), (nll_shape, values)) = (self.ids(ids)?, self.floats(nll)?);
        let (&[windows, tokens], &[nll_windows, scored]) = (&*shape, &*nll_shape) else {
            return Err(wrong(self.path, nll, "expected two dimensions"));
        };
        if windows != nll_windows || Some(tokens) != scored.checked_add(1) || scored == 0 {
            return Err(wrong(self.path, nll, &format!("{nll_shape:?} does not fit windows of {shape:?}")));
        }
        let windows = ids.chunks_exact(tokens).zip(values.chunks_exact(scored));
        Ok(windows.map(|(ids, nll)| Window { ids: ids.to_vec(), nll: nll.to_vec() }).collect())
    }
}
