//! `adapter_config.json`: what a LoRA's rank and scale are, and what makes it more than a plain LoRA.
//!
//! Knows PEFT's fields, and nothing of tensors.

use serde_json::Value;

use super::pattern::Patterns;
use super::target::Targets;
use crate::json::{Object, excerpt};
use crate::{ModelError, Source};

const FILE: &str = "adapter_config.json";
/// The largest rank that is believed; PEFT adapters in use stay below a thousandth of it.
const MAX_RANK: usize = 1 << 16;

/// Fields that change what an adapter computes, with the value that does not. False, null, and an empty
/// list or object never do.
const PLAIN: [(&str, &str); 15] = [
    ("use_dora", "false"),
    ("lora_bias", "false"),
    ("bias", "none"),
    ("fan_in_fan_out", "false"),
    ("modules_to_save", "null"),
    ("trainable_token_indices", "null"),
    ("layer_replication", "null"),
    ("target_parameters", "null"),
    ("use_qalora", "false"),
    ("use_bdlora", "false"),
    ("arrow_config", "null"),
    ("kasa_config", "null"),
    ("monteclora_config", "null"),
    ("velora_config", "null"),
    ("megatron_config", "null"),
];

/// Ways of initialising the factors that leave the base model's weights as they are. The others
/// (PiSSA, OLoRA, LoftQ, CorDA, EVA, …) come with a changed base, or are not known not to.
const PLAIN_INITS: [&str; 2] = ["gaussian", "orthogonal"];

/// Fields that are read elsewhere, or that say how an adapter was trained or what it is called.
const KNOWN: [&str; 34] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
    "_name_or_path",
    "created_by",
    "description",
    "model_type",
    "tags",
    "library_name",
    "license",
];

/// The facts of a LoRA.
#[derive(Debug)]
pub(super) struct LoraConfig {
    /// `r`.
    pub rank: usize,
    /// `lora_alpha`.
    pub alpha: f64,
    /// `use_rslora`.
    pub rslora: bool,
    /// `target_modules`, for display.
    pub targets: String,
    /// Which modules it adapts.
    pub modules: Targets,
    /// `alora_invocation_tokens`; never empty.
    pub invocation: Option<Vec<u32>>,
    file: String,
    ranks: Patterns<usize>,
    alphas: Patterns<f64>,
}

/// The rank and scale of one module, and the field that the rank is from.
#[derive(Debug, PartialEq)]
pub(super) struct RankAndScale {
    pub rank: usize,
    pub rank_field: String,
    pub scale: f32,
}

impl LoraConfig {
    /// Reads the file and refuses what is neither a plain LoRA nor an activated one, for a base model of
    /// so many tokens.
    pub fn read(source: &Source, vocab_size: usize) -> Result<Self, ModelError> {
        let config = Object::read(source, FILE)?;
        if config.string("peft_type")? != Some("LORA") {
            return Err(config.unsupported("peft_type", "LORA"));
        }
        refuse_variants(&config)?;
        let rank = |o: &Object, field: &str| o.size(field, MAX_RANK);
        let alpha = |o: &Object, field: &str| o.number(field)?.ok_or_else(|| o.error(field, "a number"));
        Ok(Self {
            rank: rank(&config, "r")?,
            alpha: alpha(&config, "lora_alpha")?,
            rslora: config.boolean("use_rslora")?.unwrap_or(false),
            targets: describe(config.get("target_modules")),
            modules: Targets::read(&config)?,
            invocation: invocation(&config, vocab_size)?,
            ranks: Patterns::read(&config, "rank_pattern", rank)?,
            alphas: Patterns::read(&config, "alpha_pattern", alpha)?,
            file: config.file().into(),
        })
    }

    /// The rank and scale of a module of the base model: `α/r`, or `α/√r` with `use_rslora`, where
    /// `rank_pattern` and `alpha_pattern` override `r` and `lora_alpha` apart from each other.
    pub fn rank_and_scale(&self, module: &str) -> Result<RankAndScale, ModelError> {
        let (rank, rank_field) = match self.ranks.find(module)? {
            Some((key, rank)) => (rank, format!("rank_pattern.{key}")),
            None => (self.rank, "r".into()),
        };
        let (alpha, alpha_field) = match self.alphas.find(module)? {
            Some((key, alpha)) => (alpha, format!("alpha_pattern.{key}")),
            None => (self.alpha, "lora_alpha".into()),
        };
        let divisor = if self.rslora { (rank as f64).sqrt() } else { rank as f64 };
        let scale = (alpha / divisor) as f32;
        if !scale.is_finite() {
            let (file, found) = (self.file.clone(), alpha.to_string());
            let expected = "small enough for a scale in f32".into();
            return Err(ModelError::Field { file, field: alpha_field, expected, found });
        }
        Ok(RankAndScale { rank, rank_field, scale })
    }
}

/// Whether a field changes nothing: absent, null, false, empty, or the one value that says so.
fn is_plain(value: Option<&Value>, supported: &str) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(object)) => object.is_empty(),
        Some(Value::Bool(on)) => !on,
        Some(value) => value.as_str().is_some_and(|text| text == supported),
    }
}

fn refuse_variants(config: &Object) -> Result<(), ModelError> {
    for (field, supported) in PLAIN {
        if !is_plain(config.get(field), supported) {
            return Err(config.unsupported(field, supported));
        }
    }
    for (field, value) in config.entries() {
        if KNOWN.contains(&field) || PLAIN.iter().any(|(name, _)| *name == field) || is_plain(Some(value), "")
        {
            continue;
        }
        // As PEFT names what makes an adapter another kind: to apply it as a plain one would be wrong.
        if field.starts_with("use_") || field.ends_with("_config") {
            return Err(config.unsupported(field, "null"));
        }
        tracing::warn!(file = config.file(), field, %value, "not a field that is known here; it is ignored");
    }
    let plain = match config.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => true,
        Some(value) => value.as_str().is_some_and(|kind| PLAIN_INITS.contains(&kind)),
    };
    if !plain {
        let supported = format!("true, false, {}", PLAIN_INITS.join(", "));
        return Err(config.unsupported("init_lora_weights", supported));
    }
    Ok(())
}

/// The tokens that turn an activated LoRA on. An empty list, which occurs everywhere, and tokens that
/// occur nowhere are mistakes.
fn invocation(config: &Object, vocab_size: usize) -> Result<Option<Vec<u32>>, ModelError> {
    let field = "alora_invocation_tokens";
    let Some(list) = config.list(field)? else { return Ok(None) };
    let known = |id: &u64| usize::try_from(*id).is_ok_and(|id| id < vocab_size);
    let token = |value: &Value| u32::try_from(value.as_u64().filter(known)?).ok();
    match list.iter().map(token).collect::<Option<Vec<u32>>>() {
        Some(tokens) if !tokens.is_empty() => Ok(Some(tokens)),
        _ => Err(config.error(field, format!("null or a list of at least one token below {vocab_size}"))),
    }
}

/// `target_modules` as a person would write it.
fn describe(targets: Option<&Value>) -> String {
    match targets {
        None => String::new(),
        Some(Value::String(regex)) => regex.clone(),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        Some(other) => excerpt(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Folder;
    use serde_json::json;

    fn read(changes: Value) -> Result<LoraConfig, ModelError> {
        let mut config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none",
            "init_lora_weights": true, "target_modules": ["q_proj", "v_proj"], "loftq_config": {},
            "rank_pattern": {}, "alpha_pattern": {}, "use_dora": false, "modules_to_save": null});
        for (field, value) in changes.as_object().unwrap() {
            config[field] = value.clone();
        }
        let folder = Folder::new();
        folder.write(FILE, config.to_string());
        LoraConfig::read(&folder.source(), 16)
    }

    const Q: &str = "model.layers.0.self_attn.q_proj";

    fn rank_and_scale(changes: Value, module: &str) -> (usize, f32) {
        let found = read(changes).unwrap().rank_and_scale(module).unwrap();
        (found.rank, found.scale)
    }

    #[test]
    fn scales_are_alpha_over_rank_or_over_its_root() {
        assert_eq!(rank_and_scale(json!({}), Q), (8, 2.0));
        assert_eq!(rank_and_scale(json!({"use_rslora": true, "r": 16}), Q), (16, 4.0));
        assert_eq!(rank_and_scale(json!({"lora_alpha": 0}), Q), (8, 0.0));
        assert_eq!(rank_and_scale(json!({"r": 3, "lora_alpha": 7.5}), Q), (3, 2.5));
    }

    #[test]
    fn patterns_override_rank_and_alpha_apart() {
        let changes = json!({"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 1.0}});
        assert_eq!(rank_and_scale(changes.clone(), Q), (4, 4.0));
        assert_eq!(rank_and_scale(changes.clone(), "model.layers.0.self_attn.v_proj"), (8, 0.125));
        let found = read(changes).unwrap().rank_and_scale(Q).unwrap();
        assert_eq!(found.rank_field, "rank_pattern.q_proj");
    }

    #[test]
    fn invocations_are_read_and_absent_ones_are_none() {
        let invocation = |value: Value| read(json!({"alora_invocation_tokens": value})).unwrap().invocation;
        assert_eq!(invocation(json!([7, 15, 7])), Some(vec![7, 15, 7]));
        assert_eq!((invocation(Value::Null), read(json!({})).unwrap().invocation), (None, None));
    }

    #[test]
    fn names_targets_as_the_config_does() {
        assert_eq!(read(json!({})).unwrap().targets, "q_proj, v_proj");
        assert_eq!(read(json!({"target_modules": ".*proj"})).unwrap().targets, ".*proj");
    }

    #[test]
    fn refuses_every_variant_by_field_and_value() {
        for (field, value) in [
            ("peft_type", json!("IA3")),
            ("peft_type", json!(null)),
            ("use_dora", json!(true)),
            ("lora_bias", json!(true)),
            ("bias", json!("all")),
            ("bias", json!("lora_only")),
            ("fan_in_fan_out", json!(true)),
            ("modules_to_save", json!(["lm_head"])),
            ("trainable_token_indices", json!([5, 9])),
            ("trainable_token_indices", json!({"embed_tokens": [1]})),
            ("layer_replication", json!([[0, 2]])),
            ("target_parameters", json!(["experts.down"])),
            ("use_qalora", json!(true)),
            ("use_bdlora", json!({"nblocks": 2})),
            ("use_bdlora", json!(true)),
            ("arrow_config", json!({"top_k": 3})),
            ("use_something_new", json!(true)),
            ("something_config", json!({"x": 3})),
            ("init_lora_weights", json!("pissa")),
            ("init_lora_weights", json!("pissa_niter_16")),
            ("init_lora_weights", json!("olora")),
            ("init_lora_weights", json!("loftq")),
            ("init_lora_weights", json!("corda")),
            ("init_lora_weights", json!("eva")),
        ] {
            let error = read(json!({field: value})).unwrap_err();
            assert!(matches!(&error, ModelError::Unsupported { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(&format!("{FILE}: {field} is ")), "{text}");
            assert!(text.contains(&value.to_string()), "{text}");
        }
        // What does not look like a kind of adapter is said, and does not stop it.
        assert!(read(json!({"trained_on": "Tuesday", "use_something_new": false})).is_ok());
        for init in [json!(false), json!("gaussian"), json!("orthogonal")] {
            assert!(read(json!({"init_lora_weights": init})).is_ok());
        }
    }

    #[test]
    fn refuses_ranks_and_scales_that_are_no_numbers() {
        for (changes, field) in [
            (json!({"r": 0}), "r"),
            (json!({"r": null}), "r"),
            (json!({"r": 1u64 << 40}), "r"),
            (json!({"lora_alpha": "16"}), "lora_alpha"),
            (json!({"use_rslora": 1}), "use_rslora"),
            (json!({"rank_pattern": {"q_proj": 0}}), "rank_pattern.q_proj"),
            (json!({"alpha_pattern": {"q_proj": null}}), "alpha_pattern.q_proj"),
            (json!({"alpha_pattern": []}), "alpha_pattern"),
            (json!({"rank_pattern": {"q_(": 4}}), "rank_pattern.q_("),
            (json!({"alora_invocation_tokens": []}), "alora_invocation_tokens"),
            (json!({"alora_invocation_tokens": [7, 16]}), "alora_invocation_tokens"),
            (json!({"alora_invocation_tokens": [7, -1]}), "alora_invocation_tokens"),
            (json!({"alora_invocation_tokens": ["7"]}), "alora_invocation_tokens"),
            (json!({"alora_invocation_tokens": 7}), "alora_invocation_tokens"),
        ] {
            let text = read(changes).unwrap_err().to_string();
            assert!(text.contains(&format!("{FILE}: {field} must be")), "{text}");
        }
        let error = read(json!({"lora_alpha": 1e300})).unwrap().rank_and_scale(Q).unwrap_err();
        assert!(error.to_string().contains("lora_alpha must be small enough"), "{error}");
        let folder = Folder::new();
        folder.write(FILE, "");
        assert!(matches!(LoraConfig::read(&folder.source(), 16), Err(ModelError::Json { .. })));
    }
}
