//! The tensors of an adapter, paired into sites of the base model.
//!
//! What is not an A or a B of a module that the base has is refused, so nothing in the file is ignored. The
//! modules must be those that the config adapts: one more is from another training, and one fewer would be
//! half an adapter.

use std::collections::BTreeMap;

use super::PeftSite;
use super::config::{LoraConfig, RankAndScale};
use crate::families::Module;
use crate::model::LinearModule;
use crate::tensor_file::{Tensor, TensorFile};
use crate::{Model, ModelError};

const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// What PEFT puts before a module's path, and what others leave of it. The longest comes first.
const PREFIXES: [&str; 3] = [PREFIX, HEADLESS, ""];
const PREFIX: &str = "base_model.model.";
/// All that is left of it before the path of a base that was trained on without its head: PEFT's prefix then
/// ends with what such a base leaves out, [`BODY`].
const HEADLESS: &str = "base_model.";
const BODY: &str = "model.";
const EMBEDDING_A: &str = ".lora_embedding_A";

/// Tensors of things other than LoRA of linear layers, by a part of their names, and what they are.
const FOREIGN: [(&str, &str); 4] = [
    (".lora_embedding_", "LoRA of an embedding is not supported"),
    (".lora_magnitude_vector", "DoRA is not supported"),
    (".lora_B.bias", "a bias of B is not supported"),
    (".modules_to_save", "full weights of a module are not supported"),
];

/// A module of the base model with the names of the tensors found for it.
struct Found<'a> {
    /// The tensors' names up to `.lora_A` or `.lora_B`.
    stem: &'a str,
    /// What of them comes before the module's path: one of [`PREFIXES`].
    prefix: &'static str,
    /// The module's path in the base that was trained on: what the config's patterns are for.
    path: &'a str,
    /// Its shape, and the projections it is made of.
    linear: LinearModule,
    a: Option<&'a str>,
    b: Option<&'a str>,
}

/// Reads every site of an adapter, in the base model's order.
pub(super) fn read(
    file: &TensorFile,
    config: &LoraConfig,
    model: &Model,
) -> Result<Vec<PeftSite>, ModelError> {
    refuse_foreign(file)?;
    let found = pair(file, model)?;
    if found.is_empty() {
        let reason = format!("there is no tensor *{A}: nothing is adapted");
        return Err(ModelError::Safetensors { file: file.file().into(), reason });
    }
    check_targets(file, &found, config, model)?;
    let mut sites = Vec::with_capacity(found.len());
    for module in found.into_values() {
        module.read(file, config, &mut sites)?;
    }
    Ok(sites)
}

/// Refuses tensors of anything but a plain LoRA before modules are looked at: what kind of adapter it
/// is says more than that its first module is not there.
fn refuse_foreign(file: &TensorFile) -> Result<(), ModelError> {
    for name in file.names() {
        let foreign = FOREIGN.into_iter().find(|(part, _)| name.contains(part));
        if let Some((_, reason)) = foreign {
            return Err(refusal(file, name, reason));
        }
        if !name.ends_with(A) && !name.ends_with(B) {
            return Err(refusal(file, name, format!("a LoRA has only tensors *{A} and *{B}")));
        }
    }
    Ok(())
}

/// Sorts the tensors by module.
fn pair<'a>(file: &'a TensorFile, model: &Model) -> Result<BTreeMap<Module, Found<'a>>, ModelError> {
    let mut found = BTreeMap::new();
    for name in file.names() {
        let (stem, is_a) = match name.strip_suffix(A) {
            Some(stem) => (stem, true),
            None => (name.strip_suffix(B).unwrap_or(name), false),
        };
        let (prefix, path, linear) =
            find_module(stem, model).map_err(|reason| refusal(file, name, reason))?;
        let path = trained_as(prefix, path).unwrap_or(path);
        let new = Found { stem, prefix, path, linear, a: None, b: None };
        let site = found.entry(new.linear.module).or_insert(new);
        let factor = if is_a { &mut site.a } else { &mut site.b };
        if let Some(other) = factor.replace(name) {
            return Err(refusal(file, name, format!("names the same factor as {other}")));
        }
    }
    Ok(found)
}

/// Splits a tensor's stem into one of the prefixes and the path of a module of the base model. The error is
/// that of PEFT's own prefix.
fn find_module<'a>(stem: &'a str, model: &Model) -> Result<(&'static str, &'a str, LinearModule), String> {
    let mut first_error = None;
    for prefix in PREFIXES {
        let Some(path) = stem.strip_prefix(prefix) else { continue };
        match model.linear(path) {
            Ok(linear) => return Ok((prefix, path, linear)),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_default())
}

/// A module's path in the base that was trained on, if that base has the module.
fn trained_as<'a>(prefix: &str, path: &'a str) -> Option<&'a str> {
    if prefix == HEADLESS { path.strip_prefix(BODY) } else { Some(path) }
}

/// Checks that the modules found are those that the config adapts.
fn check_targets(
    file: &TensorFile,
    found: &BTreeMap<Module, Found<'_>>,
    config: &LoraConfig,
    model: &Model,
) -> Result<(), ModelError> {
    let Some(prefix) = found.values().next().map(|module| module.prefix) else { return Ok(()) };
    if let Some(other) = found.values().find(|module| module.prefix != prefix) {
        let reason = format!("begins otherwise than the tensors of {prefix}*: one file, one prefix");
        return Err(refusal(file, other.a.or(other.b).unwrap_or(other.stem), reason));
    }
    let targets = &config.modules;
    if !targets.are_known() {
        return Ok(());
    }
    for module in found.values() {
        let in_layer = module.linear.module != Module::Head;
        if let Some(reason) = targets.objection(module.path, in_layer)? {
            let tensor = module.a.or(module.b).unwrap_or(module.stem);
            let reason = format!("adapter_config.json does not adapt {}: {reason}", module.path);
            return Err(refusal(file, tensor, reason));
        }
    }
    let is_missing = |path: &str, in_layer| match trained_as(prefix, path) {
        Some(path) => targets.objection(path, in_layer).map(|objection| objection.is_none()),
        None => Ok(false),
    };
    let missing = |path: &str, factor: &str, why: &str| {
        let reason =
            format!("missing, though adapter_config.json adapts its module by {}", targets.describe());
        refusal(file, &format!("{prefix}{path}{factor}"), reason + why)
    };
    for (module, path) in model.linear_modules() {
        if !found.contains_key(&module) && is_missing(&path, module != Module::Head)? {
            let mut why = model.linear(&path).err().map(|why| format!("; but {why}")).unwrap_or_default();
            // Nothing in this layer or above it: rather the adapter of a smaller model than a damaged one.
            if let Module::Projection(missing, _) = module
                && found.keys().all(|other| matches!(other, Module::Projection(layer, _) if *layer < missing))
            {
                let layers = model.config().layers;
                why += &format!("; the base has {layers} layers, and the file ends below: another base?");
            }
            return Err(missing(&path, A, &why));
        }
    }
    let embedding = model.embedding_name();
    if is_missing(embedding, false)? {
        return Err(missing(embedding, EMBEDDING_A, "; but LoRA of an embedding is not supported"));
    }
    Ok(())
}

impl Found<'_> {
    /// Reads the pair into a site for each projection of its module.
    fn read(
        self,
        file: &TensorFile,
        config: &LoraConfig,
        sites: &mut Vec<PeftSite>,
    ) -> Result<(), ModelError> {
        let [outputs, inputs] = self.linear.shape;
        let expected = config.rank_and_scale(self.path)?;
        // A factor that was not found is asked for by the name it should have, for the error.
        let factor = |name: Option<&str>, suffix: &str| match name {
            Some(name) => file.get(name),
            None => file.get(&format!("{}{suffix}", self.stem)),
        };
        let (a, b) = (factor(self.a, A)?, factor(self.b, B)?);
        if let [rank, width] = *a.shape
            && width == inputs
        {
            check_rank(&a, rank, &expected)?;
        }
        if let [width, rank] = *b.shape
            && width == outputs
        {
            check_rank(&b, rank, &expected)?;
        }
        a.expect(&[expected.rank, inputs])?;
        b.expect(&[outputs, expected.rank])?;
        let RankAndScale { rank, scale, .. } = expected;
        let dtypes = [a.float()?.dtype(), b.float()?.dtype()];
        let shrink = a.factor()?;
        for (module, rows) in self.linear.parts {
            let (a, b) = (shrink.clone(), b.clone().rows(rows).factor()?);
            sites.push(PeftSite { module, rank, scale, a, b, dtypes });
        }
        Ok(())
    }
}

/// Checks the rank of a factor that fits the base's width: if that is wrong, the config is likelier to
/// be at fault than the tensor.
fn check_rank(factor: &Tensor<'_>, found: usize, expected: &RankAndScale) -> Result<(), ModelError> {
    if found == expected.rank {
        return Ok(());
    }
    Err(ModelError::AdapterRank {
        file: factor.file.into(),
        tensor: factor.name.into(),
        found,
        field: expected.rank_field.clone(),
        expected: expected.rank,
    })
}

fn refusal(file: &TensorFile, tensor: &str, reason: impl Into<String>) -> ModelError {
    ModelError::Tensor { file: file.file().into(), tensor: tensor.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{
        Folder, TestTensor, counting, llama, llama_config, llama_tensors, model_folder, phi3_config,
        phi3_tensors, safetensors_bytes, tensor_bf16, tensor_f16, tensor_f32,
    };
    use crate::{PeftAdapter, Proj, Source, WeightFormat};
    use interleaf_contract::Dtype;
    use serde_json::{Value, json};

    const Q0: &str = "base_model.model.model.layers.0.self_attn.q_proj";
    const DOWN1: &str = "base_model.model.model.layers.1.mlp.down_proj";

    /// A pair of factors of rank 2 for a module of `[out, in]`.
    fn pair(stem: &str, [outputs, inputs]: [usize; 2]) -> Vec<TestTensor> {
        vec![counting(&format!("{stem}{A}"), &[2, inputs]), counting(&format!("{stem}{B}"), &[outputs, 2])]
    }

    fn plain() -> Vec<TestTensor> {
        [pair(DOWN1, [8, 12]), pair(Q0, [16, 8])].concat()
    }

    /// A config of adapters of some modules.
    fn config_of(targets: Value) -> Value {
        json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": targets})
    }

    /// That of the plain adapter.
    fn config() -> Value {
        config_of(json!(["layers.0.self_attn.q_proj", "1.mlp.down_proj"]))
    }

    fn adapter(config: &Value, tensors: &[TestTensor]) -> Folder {
        let folder = Folder::new();
        folder.write("adapter_config.json", config.to_string());
        folder.write("adapter_model.safetensors", safetensors_bytes(tensors));
        folder
    }

    fn open(config: &Value, tensors: &[TestTensor]) -> Result<PeftAdapter, ModelError> {
        let (_folder, model) = llama();
        PeftAdapter::open("test", &adapter(config, tensors).source(), &model)
    }

    /// The error of the plain adapter with one tensor replaced or, by `None`, taken out.
    fn refusal_with(name: &str, replacement: Option<TestTensor>) -> String {
        let mut tensors = plain();
        tensors.retain(|t| t.name != name);
        tensors.extend(replacement);
        let text = open(&config(), &tensors).unwrap_err().to_string();
        assert!(text.contains("adapter_model.safetensors"), "{text}");
        text
    }

    #[test]
    fn reads_sites_in_the_order_of_the_base() {
        let adapter = open(&config(), &plain()).unwrap();
        assert_eq!((adapter.name.as_str(), adapter.rank, adapter.alpha), ("test", 2, 4.0));
        let modules: Vec<_> = adapter.sites.iter().map(|site| site.module.as_str()).collect();
        assert_eq!(modules, ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]);
        let site = &adapter.sites[0];
        assert_eq!((site.rank, site.scale), (2, 2.0));
        assert_eq!((site.a.rows(), site.a.cols(), site.b.rows(), site.b.cols()), (2, 8, 16, 2));
        assert_eq!(site.b.name(), format!("{Q0}{B}"));
    }

    #[test]
    fn accepts_shorter_prefixes() {
        for prefix in PREFIXES {
            let stem = format!("{prefix}model.layers.0.self_attn.q_proj");
            let adapter = open(&config_of(json!(["0.self_attn.q_proj"])), &pair(&stem, [16, 8])).unwrap();
            assert_eq!(adapter.sites[0].module, "model.layers.0.self_attn.q_proj");
        }
        let twice = [pair(Q0, [16, 8]), pair("model.layers.0.self_attn.q_proj", [16, 8])].concat();
        let text = open(&config(), &twice).unwrap_err().to_string();
        assert!(text.contains("names the same factor as base_model.model.model.layers.0"), "{text}");
    }

    #[test]
    fn adapts_a_head_of_its_own_only() {
        let head = pair("base_model.model.lm_head", [16, 8]);
        let text = open(&config(), &head).unwrap_err().to_string();
        assert!(text.contains("lm_head of the base model is its embedding"), "{text}");
        let mut untied = llama_config();
        untied["tie_word_embeddings"] = json!(false);
        let folder =
            model_folder(&untied, &[llama_tensors(), vec![counting("lm_head.weight", &[16, 8])]].concat());
        let model = Model::open(folder.source()).unwrap();
        let adapter = adapter(&config_of(json!(["lm_head"])), &head);
        let adapter = PeftAdapter::open("head", &adapter.source(), &model).unwrap();
        assert_eq!(adapter.sites[0].module, model.head_name());
    }

    #[test]
    fn keeps_f16_and_widens_bf16() {
        let config = config_of(json!(["0.self_attn.q_proj"]));
        let factors = |make: fn(&str, &[usize], &[f32]) -> TestTensor| {
            [make(&format!("{Q0}{A}"), &[2, 8], &[0.5; 16]), make(&format!("{Q0}{B}"), &[16, 2], &[0.5; 32])]
        };
        for (tensors, dtype) in [
            (factors(tensor_f32), Dtype::F32),
            (factors(tensor_f16), Dtype::F16),
            (factors(tensor_bf16), Dtype::F32),
        ] {
            let adapter = open(&config, &tensors).unwrap();
            assert_eq!((adapter.sites[0].a.dtype(), adapter.sites[0].b.dtype()), (dtype, dtype));
        }
        let adapter = open(&config, &factors(tensor_bf16)).unwrap();
        assert_eq!(adapter.sites[0].dtypes, [Dtype::Bf16; 2]);
    }

    #[test]
    fn an_adapter_of_a_fused_module_has_a_site_for_each_projection() {
        let folder = model_folder(&phi3_config(), &phi3_tensors());
        let model = Model::open(folder.source()).unwrap();
        let stem = |module: &str| format!("base_model.model.model.layers.1.{module}");
        // Null: which modules they are is not what is tested.
        let config = config_of(Value::Null);
        let open =
            |tensors: &[TestTensor]| PeftAdapter::open("test", &adapter(&config, tensors).source(), &model);
        let qkv = pair(&stem("self_attn.qkv_proj"), [32, 16]);
        let tensors = [pair(&stem("mlp.gate_up_proj"), [24, 16]), qkv.clone()].concat();
        let sites = open(&tensors).unwrap().sites;
        let expected = [(Proj::Q, 0), (Proj::K, 16), (Proj::V, 24), (Proj::Gate, 0), (Proj::Up, 12)];
        assert_eq!(sites.len(), expected.len());
        for (site, (proj, first)) in sites.iter().zip(expected) {
            let base = model.projection(1, proj, WeightFormat::Stored).unwrap();
            assert_eq!(site.module, base.name);
            assert_eq!((site.b.rows(), site.b.cols()), (base.matrix.rows(), 2));
            // The fixture counts: an element is its index over 64.
            assert_eq!(site.b.row(0)[..4], (first as f32 * 2.0 / 64.0).to_le_bytes());
        }
        assert!(sites[..3].iter().all(|site| site.a.data().as_ptr() == sites[0].a.data().as_ptr()));
        assert_eq!(sites[2].b.name(), format!("{}{B}", stem("self_attn.qkv_proj")));

        let text = open(&pair(&stem("self_attn.q_proj"), [16, 16])).unwrap_err().to_string();
        assert!(text.contains("no linear module model.layers.1.self_attn.q_proj"), "{text}");
        let text = open(&pair(&stem("self_attn.qkv_proj#q"), [16, 16])).unwrap_err().to_string();
        assert!(text.contains("no linear module"), "{text}");
        let b = format!("{}{B}", stem("self_attn.qkv_proj"));
        let mut values = [0.5; 64];
        values[50] = f32::INFINITY;
        let text = open(&[qkv[0].clone(), tensor_f32(&b, &[32, 2], &values)]).unwrap_err().to_string();
        assert!(text.contains(&format!("tensor {b} has the value inf at element 50")), "{text}");
    }

    #[test]
    fn an_activated_lora_carries_its_invocation() {
        let mut activated = config();
        activated["alora_invocation_tokens"] = json!([3, 1, 4]);
        assert_eq!(open(&activated, &plain()).unwrap().invocation, Some(vec![3, 1, 4]));
        assert_eq!(open(&config(), &plain()).unwrap().invocation, None);
        activated["alora_invocation_tokens"] = json!([3, 99]);
        let text = open(&activated, &plain()).unwrap_err().to_string();
        assert!(text.contains("alora_invocation_tokens must be null or a list of"), "{text}");
    }

    #[test]
    fn refuses_modules_that_the_base_does_not_have() {
        for (stem, reason) in [
            (
                "base_model.model.model.layers.0.self_attn.z_proj",
                "no linear module model.layers.0.self_attn.z_proj",
            ),
            (
                "base_model.model.model.layers.7.self_attn.q_proj",
                "has 2 layers and no model.layers.7.self_attn.q_proj",
            ),
            ("base_model.model.model.embed_tokens", "no linear module model.embed_tokens"),
        ] {
            let text = open(&config(), &[plain(), pair(stem, [16, 8])].concat()).unwrap_err().to_string();
            assert!(text.contains(stem) && text.contains(reason), "{text}");
        }
    }

    const K0: &str = "base_model.model.model.layers.0.self_attn.k_proj";

    #[test]
    fn refuses_modules_that_the_config_does_not_adapt() {
        let more = [plain(), pair(K0, [8, 8])].concat();
        let text = open(&config(), &more).unwrap_err().to_string();
        for part in ["adapter_model.safetensors", &format!("{K0}{A}"), r#"target_modules ["layers.0.self_"#] {
            assert!(text.contains(part), "{text}");
        }
        let mut excluded = config_of(json!(["0.self_attn.q_proj", "k_proj", "1.mlp.down_proj"]));
        excluded["exclude_modules"] = json!(".*k_proj");
        let text = open(&excluded, &more).unwrap_err().to_string();
        assert!(text.contains(K0) && text.ends_with(r#"exclude_modules ".*k_proj" names it"#), "{text}");
        assert!(open(&config_of(Value::Null), &more).is_ok());
    }

    #[test]
    fn refuses_to_leave_out_modules_that_the_config_adapts() {
        let text = open(&config_of(json!(["q_proj", "1.mlp.down_proj"])), &plain()).unwrap_err().to_string();
        for part in [
            "adapter_model.safetensors: tensor base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight",
            r#"missing, though adapter_config.json adapts its module by target_modules ["q_proj","#,
        ] {
            assert!(text.contains(part), "{text}");
        }
        for (module, reason) in [
            ("lm_head", "base_model.model.lm_head.lora_A.weight: missing"),
            ("lm_head", "is its embedding and cannot be adapted on its own"),
            ("embed_tokens", "base_model.model.model.embed_tokens.lora_embedding_A: missing"),
        ] {
            let targets = json!(["0.self_attn.q_proj", "1.mlp.down_proj", module]);
            let text = open(&config_of(targets), &plain()).unwrap_err().to_string();
            assert!(text.contains(reason), "{text}");
        }
        // What the base does not have cannot be left out.
        let targets = json!(["0.self_attn.q_proj", "1.mlp.down_proj", "c_attn", "2.mlp.down_proj"]);
        assert!(open(&config_of(targets), &plain()).is_ok());
    }

    #[test]
    fn a_config_for_a_base_without_its_head_names_modules_as_that_base_does() {
        let tensors = pair("base_model.model.layers.1.mlp.down_proj", [8, 12]);
        let mut config = config_of(json!(r"layers\.1\.mlp\.down_proj"));
        config["r"] = json!(5);
        config["rank_pattern"] = json!({"^layers.1.mlp.down_proj": 2});
        assert_eq!(open(&config, &tensors).unwrap().sites[0].module, "model.layers.1.mlp.down_proj");
        config["target_modules"] = json!(r"layers\.[01]\.mlp\.down_proj");
        let text = open(&config, &tensors).unwrap_err().to_string();
        assert!(text.contains("base_model.model.layers.0.mlp.down_proj.lora_A.weight: missing"), "{text}");
        config["target_modules"] = json!(["1.mlp.down_proj", "lm_head", "embed_tokens"]);
        let text = open(&config, &tensors).unwrap_err().to_string();
        assert!(text.contains("base_model.model.embed_tokens.lora_embedding_A: missing"), "{text}");
    }

    #[test]
    fn refuses_factors_without_a_partner() {
        for gone in [A, B] {
            let text = refusal_with(&format!("{Q0}{gone}"), None);
            assert!(text.ends_with(&format!("tensor {Q0}{gone} is missing")), "{text}");
        }
        let text = open(&config(), &[]).unwrap_err().to_string();
        assert!(text.contains("nothing is adapted"), "{text}");
    }

    #[test]
    fn refuses_shapes_and_ranks_that_do_not_fit() {
        let a = format!("{Q0}{A}");
        let text = refusal_with(&a, Some(counting(&a, &[2, 6])));
        assert!(text.ends_with(&format!("tensor {a} is [2, 6], expected [2, 8]")), "{text}");
        let text = refusal_with(&a, Some(counting(&a, &[16])));
        assert!(text.ends_with("is [16], expected [2, 8]"), "{text}");
        let text = refusal_with(&a, Some(counting(&a, &[0, 8])));
        assert!(text.contains("has rank 0, but r in adapter_config.json is 2"), "{text}");
        let b = format!("{Q0}{B}");
        let text = refusal_with(&b, Some(counting(&b, &[16, 3])));
        assert!(text.contains(&format!("tensor {b} has rank 3, but r")), "{text}");
        let mut pattern = config();
        pattern["rank_pattern"] = json!({"q_proj": 4});
        let text = open(&pattern, &plain()).unwrap_err().to_string();
        assert!(text.contains(&format!("{a} has rank 2, but rank_pattern.q_proj")), "{text}");
    }

    #[test]
    fn refuses_values_that_are_not_finite() {
        let b = format!("{Q0}{B}");
        let mut values = [0.0; 32];
        values[5] = f32::NAN;
        let text = refusal_with(&b, Some(tensor_f32(&b, &[16, 2], &values)));
        assert!(text.contains(&format!("tensor {b} has the value NaN at element 5")), "{text}");
    }

    #[test]
    fn refuses_tensors_that_are_no_lora_of_a_linear_layer() {
        for (name, reason) in [
            ("base_model.model.model.embed_tokens.lora_embedding_A", "LoRA of an embedding"),
            (&format!("{Q0}.lora_magnitude_vector"), "DoRA"),
            (&format!("{Q0}.lora_B.bias"), "a bias of B"),
            (&format!("{Q0}.lora_A.default.weight"), "a LoRA has only tensors"),
            ("base_model.model.lm_head.weight", "a LoRA has only tensors"),
        ] {
            let text =
                open(&config(), &[plain(), vec![counting(name, &[1])]].concat()).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains(reason), "{text}");
        }
    }

    #[test]
    fn says_that_pickles_are_not_read() {
        let (_folder, model) = llama();
        let folder = Folder::new();
        folder.write("adapter_config.json", config().to_string());
        let refusal = |source: &Source| PeftAdapter::open("test", source, &model).unwrap_err().to_string();
        assert!(refusal(&folder.source()).contains("adapter_model.safetensors: no such file"));
        folder.write("adapter_model.bin", b"x");
        let text = refusal(&folder.source());
        assert!(
            text.contains("adapter_model.bin: a pickle") && text.contains("adapter_model.safetensors"),
            "{text}"
        );
    }
}
