//! PEFT's own decisions, from `tests/data/peft-decisions.json`: for each config the modules it adapts, their
//! ranks and scalings. An adapter of exactly these modules is read so, and one module more or fewer is refused
//! by name. Where Interleaf does otherwise on purpose, the case says so in a field `interleaf_…`, which is
//! tested too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use interleaf_model::{Model, ModelError, PeftAdapter, Source};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::support::data;

/// Modules by path, each with the rank of its factors.
type Modules = BTreeMap<String, usize>;

/// A model of the table, with zeros for weights.
struct Base {
    _folder: TempDir,
    model: Model,
    /// Outputs and inputs of every linear module.
    shapes: BTreeMap<String, [usize; 2]>,
}

/// A case of the table.
struct Case<'a> {
    fields: &'a Value,
    base: &'a Base,
}

fn write_zeros(file: &Path, tensors: impl IntoIterator<Item = (String, Vec<usize>)>) {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * 4;
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; end]].concat();
    std::fs::write(file, bytes).expect("writes");
}

impl Base {
    fn new(table: &Value) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = &table["config"];
        std::fs::write(folder.path().join("config.json"), config.to_string()).expect("writes");
        let shapes: BTreeMap<String, [usize; 2]> =
            serde_json::from_value(table["linear"].clone()).expect("shapes by path");
        let size = |field: &str| config[field].as_u64().expect("a size") as usize;
        let hidden = size("hidden_size");
        let mut tensors = vec![
            ("model.embed_tokens.weight".into(), vec![size("vocab_size"), hidden]),
            ("model.norm.weight".into(), vec![hidden]),
        ];
        for layer in 0..size("num_hidden_layers") {
            let norms = ["input_layernorm", "post_attention_layernorm"];
            tensors.extend(norms.map(|norm| (format!("model.layers.{layer}.{norm}.weight"), vec![hidden])));
        }
        let tied = config["tie_word_embeddings"] == true;
        let own = shapes.iter().filter(|(path, _)| !tied || *path != "lm_head");
        tensors.extend(own.map(|(path, shape)| (format!("{path}.weight"), shape.to_vec())));
        write_zeros(&folder.path().join("model.safetensors"), tensors);
        let model = Model::open(Source::dir(folder.path())).expect("it opens");
        Self { _folder: folder, model, shapes }
    }

    /// Every module whose path a condition holds for, at rank 4.
    fn modules(&self, choose: impl Fn(&str) -> bool) -> Modules {
        self.shapes.keys().filter(|path| choose(path)).map(|path| (path.clone(), 4)).collect()
    }
}

impl Case<'_> {
    /// The modules that PEFT adapts, with rank and scaling; `None` where it raises.
    fn adapted(&self) -> Option<BTreeMap<String, (usize, f32)>> {
        let groups = self.fields.get("adapted")?.as_array().expect("groups");
        let modules = groups.iter().flat_map(|group| {
            let rank = group["r"].as_u64().expect("a rank") as usize;
            let scale = group["scaling"].as_f64().expect("a number") as f32;
            let paths = group["modules"].as_array().expect("paths");
            paths.iter().map(move |path| (path.as_str().expect("a path").to_owned(), (rank, scale)))
        });
        Some(modules.collect())
    }

    /// Opens an adapter with these factors and the case's config, with `target_modules` of its own or other
    /// ones.
    fn open(&self, targets: &Value, modules: &Modules) -> Result<PeftAdapter, ModelError> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = self.fields["config"].clone();
        config["peft_type"] = "LORA".into();
        config["target_modules"] = targets.clone();
        std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).expect("writes");
        let tensors = modules.iter().flat_map(|(path, &rank)| {
            // Of what is no linear module PEFT saves tensors by other names.
            let (names, [outputs, inputs]) = match self.base.shapes.get(path) {
                Some(shape) => (["lora_A.weight", "lora_B.weight"], *shape),
                None => (["lora_embedding_A", "lora_embedding_B"], [8, 16]),
            };
            names
                .into_iter()
                .zip([vec![rank, inputs], vec![outputs, rank]])
                .map(move |(name, shape)| (format!("base_model.model.{path}.{name}"), shape))
        });
        write_zeros(&folder.path().join("adapter_model.safetensors"), tensors);
        PeftAdapter::open("case", &Source::dir(folder.path()), &self.base.model)
    }

    /// The error of an adapter that must not open.
    fn refusal(&self, targets: &Value, modules: &Modules) -> String {
        match self.open(targets, modules) {
            Ok(adapter) => panic!("{}: opens with {} sites", self.fields, adapter.sites.len()),
            Err(error) => error.to_string(),
        }
    }

    fn check(&self) {
        let own = &self.fields["config"]["target_modules"];
        let words = self.fields.get("interleaf_refuses").map(|words| words.as_array().expect("a list"));
        let compares = self.fields.get("interleaf_compares").is_none_or(|compares| compares == true);
        match (self.adapted(), words) {
            (Some(adapted), Some(words)) => self.check_refused(&adapted, words),
            (Some(adapted), None) => {
                self.check_read(own, &adapted, compares);
                let saved = &self.fields["saved_target_modules"];
                if saved != own {
                    self.check_read(saved, &adapted, true);
                }
            }
            (None, _) => self.check_candidates(own, compares),
        }
    }

    /// Checks that what PEFT adapts is read as PEFT has it and, where the config is compared, that another
    /// module, and one fewer, are refused by name.
    fn check_read(&self, targets: &Value, adapted: &BTreeMap<String, (usize, f32)>, compares: bool) {
        let modules: Modules = adapted.iter().map(|(path, (rank, _))| (path.clone(), *rank)).collect();
        let sites = self.open(targets, &modules).unwrap_or_else(|e| panic!("{}: {e}", self.fields)).sites;
        let part_of = |module: &str| module.split('#').next().expect("a path").to_owned();
        let found: BTreeMap<_, _> =
            sites.iter().map(|site| (part_of(&site.module), (site.rank, site.scale))).collect();
        assert_eq!(found, *adapted, "{}", self.fields);

        // Layers that names and regexes may take for each other; the rest would only take longer.
        let layers = [0, 1, 2, 11].map(|layer| format!("model.layers.{layer}."));
        let telling =
            |path: &&String| *path == "lm_head" || layers.iter().any(|layer| path.starts_with(layer));
        for path in self.base.shapes.keys().filter(telling) {
            let mut other = modules.clone();
            let adapts = other.remove(path).is_some();
            if !adapts {
                other.insert(path.clone(), 4);
            }
            if other.is_empty() {
                continue;
            }
            if !compares {
                self.open(targets, &other).unwrap_or_else(|e| panic!("{}: {e}", self.fields));
                continue;
            }
            let text = self.refusal(targets, &other);
            let tensor = format!("adapter_model.safetensors: tensor base_model.model.{path}.lora_A.weight: ");
            let tied = path == "lm_head" && self.base.model.config().tied_head;
            let reason = if adapts { "missing, though" } else { "adapter_config.json does not adapt" };
            let reason = if tied { "is its embedding" } else { reason };
            assert!(text.contains(&tensor) && text.contains(reason), "{}: {path}: {text}", self.fields);
        }
    }

    /// Checks that an adapter as PEFT makes it is refused in so many words, whether the tensors that are not
    /// supported are there or not.
    fn check_refused(&self, adapted: &BTreeMap<String, (usize, f32)>, words: &[Value]) {
        let modules: Modules = adapted.iter().map(|(path, (rank, _))| (path.clone(), *rank)).collect();
        let mut linear = modules.clone();
        linear.retain(|path, _| path.starts_with("model.layers."));
        for modules in [modules, linear] {
            let text = self.refusal(&self.fields["config"]["target_modules"], &modules);
            for word in words {
                assert!(text.contains(word.as_str().expect("words")), "{}: {text}", self.fields);
            }
        }
    }

    /// Checks that, where PEFT raises, no likely choice of modules is taken but those that the case names.
    fn check_candidates(&self, targets: &Value, compares: bool) {
        let name = |path: &str| path.rsplit('.').next().expect("a name").to_owned();
        let names: BTreeSet<String> = self.base.shapes.keys().map(|path| name(path)).collect();
        let mut candidates: Vec<(&str, Modules)> = vec![
            (
                "one",
                self.base.modules(|path| path.starts_with("model.layers.1.") && path.ends_with("qkv_proj")),
            ),
            ("one", self.base.modules(|path| path == "model.layers.1.self_attn.q_proj")),
            ("q_proj, v_proj", self.base.modules(|path| ["q_proj", "v_proj"].contains(&name(path).as_str()))),
            ("layer 1", self.base.modules(|path| path.contains(".1."))),
            ("all", self.base.modules(|path| path != "lm_head")),
        ];
        candidates.extend(names.iter().map(|n| (n.as_str(), self.base.modules(|path| name(path) == *n))));
        candidates.retain(|(_, modules)| !modules.is_empty());
        for (name, modules) in candidates {
            let takes = self.fields.get("interleaf_takes").and_then(Value::as_array);
            let takes = takes.is_some_and(|names| names.iter().any(|taken| taken == name)) || !compares;
            let opened = self.open(targets, &modules);
            assert_eq!(opened.is_ok(), takes, "{}: {name}: {:?}", self.fields, opened.err());
        }
    }
}

#[test]
fn adapters_are_taken_and_refused_as_peft_decides() {
    let text = std::fs::read_to_string(data("peft-decisions.json")).expect("the table is here");
    let table: Value = serde_json::from_str(&text).expect("JSON");
    let models = table["models"].as_object().expect("models by name");
    let bases: BTreeMap<&str, Base> =
        models.iter().map(|(name, model)| (name.as_str(), Base::new(model))).collect();
    let cases = table["cases"].as_array().expect("cases");
    assert!(cases.len() >= 100, "{} cases", cases.len());
    for fields in cases {
        let base = &bases[fields["model"].as_str().expect("a model")];
        Case { fields, base }.check();
    }
}
