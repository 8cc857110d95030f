//! Which modules a config adapts: `target_modules`, `exclude_modules`, `layers_to_transform` and
//! `layers_pattern`.
//!
//! The rule is that of PEFT's `check_target_module_exists`, with what `all-linear` stands for. It decides
//! over paths; which modules there are, and which of them have tensors, is not known here.

use serde_json::Value;

use super::path_regex::{Budget, PathRegex};
use crate::ModelError;
use crate::json::{Object, excerpt};

const TARGETS: &str = "target_modules";
const EXCLUDED: &str = "exclude_modules";
const LAYERS: &str = "layers_to_transform";
const LISTS: &str = "layers_pattern";

/// Every linear module but the output head, in place of names. PEFT writes it in any case.
const ALL_LINEAR: &str = "all-linear";

/// The modules that a config adapts.
#[derive(Debug)]
pub(super) struct Targets {
    config: Object,
    /// `None` if the config leaves it to PEFT's defaults for a family, which files are not to depend on.
    chosen: Option<Chosen>,
    excluded: Option<Names>,
    layers: Option<Layers>,
}

/// `target_modules`.
#[derive(Debug)]
enum Chosen {
    AllLinear,
    Names(Names),
}

/// Modules by name.
#[derive(Debug)]
enum Names {
    /// One regex for whole paths.
    Regex(PathRegex),
    /// Paths, and what follows a dot in them.
    List(Vec<String>),
}

/// `layers_to_transform`, and how a path's layer is found.
#[derive(Debug)]
struct Layers {
    numbers: Vec<i64>,
    /// By `layers_pattern`: the first that matches has the number in its group `idx`, if anywhere. Without
    /// any it is the first number in the path that two names come before.
    lists: Vec<PathRegex>,
}

/// Why a module is adapted or not.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    Adapted,
    NotNamed,
    Excluded,
    OtherLayer,
}

impl Targets {
    /// Reads the fields, which must not contradict each other.
    pub fn read(config: &Object) -> Result<Self, ModelError> {
        let chosen = match config.get(TARGETS) {
            Some(Value::String(name)) if name.eq_ignore_ascii_case(ALL_LINEAR) => Some(Chosen::AllLinear),
            _ => Names::read(config, TARGETS)?.map(Chosen::Names),
        };
        // PEFT takes an empty string for nothing to exclude, and not for a regex.
        let excluded = match config.get(EXCLUDED) {
            Some(Value::String(regex)) if regex.is_empty() => None,
            _ => Names::read(config, EXCLUDED)?,
        };
        let layers = Layers::read(config)?;
        if matches!(config.get(TARGETS), Some(Value::String(_))) {
            for field in [LAYERS, LISTS] {
                if config.get(field).is_some() {
                    return Err(config.error(field, format!("null where {TARGETS} is no list")));
                }
            }
        }
        Ok(Self { config: config.clone(), chosen, excluded, layers })
    }

    /// Whether the config says which modules it adapts.
    pub fn are_known(&self) -> bool {
        self.chosen.is_some()
    }

    /// Why a module is not adapted, for a message; `None` if it is, or if the config does not say. `counted`
    /// is whether it is one of those that `all-linear` stands for.
    pub fn objection(&self, path: &str, counted: bool) -> Result<Option<String>, ModelError> {
        Ok(match self.verdict(path, counted)? {
            Verdict::Adapted => None,
            Verdict::NotNamed => Some(format!("{} does not name it", self.show(TARGETS))),
            Verdict::Excluded => Some(format!("{} names it", self.show(EXCLUDED))),
            Verdict::OtherLayer => {
                Some(format!("{} names it, but {} not its layer", self.show(TARGETS), self.show(LAYERS)))
            }
        })
    }

    /// `target_modules` with its value, cut to a length that fits a message.
    pub fn describe(&self) -> String {
        self.show(TARGETS)
    }

    fn show(&self, field: &str) -> String {
        format!("{field} {}", self.config.get(field).map_or_else(|| "null".into(), excerpt))
    }

    fn verdict(&self, path: &str, counted: bool) -> Result<Verdict, ModelError> {
        let Some(chosen) = &self.chosen else { return Ok(Verdict::Adapted) };
        if let Some(excluded) = &self.excluded
            && excluded.name(path).map_err(|expected| self.config.error(EXCLUDED, expected))?
        {
            return Ok(Verdict::Excluded);
        }
        let named = match chosen {
            Chosen::AllLinear => counted,
            Chosen::Names(names) => {
                names.name(path).map_err(|expected| self.config.error(TARGETS, expected))?
            }
        };
        match &self.layers {
            _ if !named => Ok(Verdict::NotNamed),
            // A module that is named by its whole path is adapted in whichever layer it is.
            Some(layers) if !chosen.has_path(path) => {
                let in_one = layers.hold(path).map_err(|expected| self.config.error(LISTS, expected))?;
                Ok(if in_one { Verdict::Adapted } else { Verdict::OtherLayer })
            }
            _ => Ok(Verdict::Adapted),
        }
    }
}

impl Chosen {
    fn has_path(&self, path: &str) -> bool {
        matches!(self, Self::Names(Names::List(names)) if names.iter().any(|name| name == path))
    }
}

impl Names {
    /// Reads a field that is a regex or a list; absent and null are `None`.
    fn read(config: &Object, field: &str) -> Result<Option<Self>, ModelError> {
        match config.get(field) {
            None => Ok(None),
            Some(Value::String(regex)) => match PathRegex::whole(regex, &mut Budget::default()) {
                Ok(regex) => Ok(Some(Self::Regex(regex))),
                Err(expected) => Err(config.error(field, expected)),
            },
            Some(_) => Ok(strings(config, field)?.map(Self::List)),
        }
    }

    /// Whether a path is named. The error says what the regex is not.
    fn name(&self, path: &str) -> Result<bool, String> {
        match self {
            Self::Regex(regex) => regex.is_match(path),
            Self::List(names) => Ok(names.iter().any(|name| {
                path.strip_suffix(name.as_str()).is_some_and(|front| front.is_empty() || front.ends_with('.'))
            })),
        }
    }
}

/// What Python takes for false.
fn is_nothing(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_i64() == Some(0)
}

impl Layers {
    fn read(config: &Object) -> Result<Option<Self>, ModelError> {
        let lists = match config.get(LISTS) {
            Some(Value::String(list)) if list.is_empty() => Vec::new(),
            Some(Value::String(list)) => vec![list.clone()],
            _ => strings(config, LISTS)?.unwrap_or_default(),
        };
        let numbers = match config.get(LAYERS) {
            // PEFT takes an empty list and layer 0 for no choice here, and refuses patterns without one.
            number if !lists.is_empty() && number.is_none_or(is_nothing) => {
                return Err(config.error(LAYERS, format!("a layer above 0 or a list of them beside {LISTS}")));
            }
            None => return Ok(None),
            // In PEFT too, a list of no layers is no choice of layers.
            Some(Value::Array(numbers)) if numbers.is_empty() => return Ok(None),
            Some(Value::Array(numbers)) => numbers.iter().map(Value::as_i64).collect(),
            Some(number) => number.as_i64().map(|number| vec![number]),
        };
        let numbers: Option<Vec<i64>> = numbers;
        let numbers =
            numbers.ok_or_else(|| config.error(LAYERS, "null, an integer or a list of integers"))?;
        let mut budget = Budget::default();
        let regex =
            |list: &String| PathRegex::prefix(&format!(r"(?:^|.*?\.){list}\.(?P<idx>\d+)\."), &mut budget);
        let lists = lists.iter().map(regex).collect::<Result<_, String>>();
        Ok(Some(Self { numbers, lists: lists.map_err(|expected| config.error(LISTS, expected))? }))
    }

    /// Whether a path is in one of the layers. The error says what a regex is not.
    fn hold(&self, path: &str) -> Result<bool, String> {
        Ok(self.layer(path)?.is_some_and(|layer| self.numbers.contains(&layer)))
    }

    fn layer(&self, path: &str) -> Result<Option<i64>, String> {
        let number =
            |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        for list in &self.lists {
            if let Some(groups) = list.captures(path)? {
                return Ok(groups.name("idx").and_then(|group| number(group.as_str())));
            }
        }
        if !self.lists.is_empty() {
            return Ok(None);
        }
        // What follows the last dot is the module's name, whatever it is.
        let parents = path.rsplit_once('.').map_or("", |(parents, _)| parents);
        Ok(parents.split('.').skip(2).find_map(number))
    }
}

/// A field that is a list of strings; absent and null are `None`.
fn strings(config: &Object, field: &str) -> Result<Option<Vec<String>>, ModelError> {
    let Some(value) = config.get(field) else { return Ok(None) };
    let list = value.as_array().and_then(|list| {
        list.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
    });
    list.map(Some).ok_or_else(|| config.error(field, "null, a string or a list of strings"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const Q: [&str; 3] = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.11.self_attn.q_proj",
    ];

    fn read(config: &Value) -> Result<Targets, ModelError> {
        Targets::read(&Object::parse("adapter_config.json".into(), &config.to_string()).unwrap())
    }

    #[test]
    fn says_which_field_leaves_a_module_out() {
        let names = json!(["q_proj", "v_proj"]);
        for (config, reason) in [
            (json!({"target_modules": names}), None),
            (json!({"target_modules": null}), None),
            (json!({}), None),
            (json!({"target_modules": "All-Linear"}), None),
            (json!({"target_modules": []}), Some("target_modules [] does not name it")),
            (json!({"target_modules": ["proj"]}), Some(r#"target_modules ["proj"] does not name it"#)),
            (json!({"target_modules": "q_proj"}), Some(r#"target_modules "q_proj" does not name it"#)),
            (
                json!({"target_modules": names, "exclude_modules": ["q_proj"]}),
                Some(r#"exclude_modules ["q_proj"] names it"#),
            ),
            (json!({"target_modules": names, "exclude_modules": ""}), None),
            (
                json!({"target_modules": names, "layers_to_transform": 0}),
                Some(
                    r#"target_modules ["q_proj","v_proj"] names it, but layers_to_transform 0 not its layer"#,
                ),
            ),
            (json!({"target_modules": names, "layers_to_transform": []}), None),
        ] {
            let found = read(&config).unwrap().objection(Q[1], true).unwrap();
            assert_eq!(found.as_deref(), reason, "{config}");
        }
        let all = read(&json!({"target_modules": "all-linear"})).unwrap();
        assert!(all.objection("lm_head", false).unwrap().is_some());
    }

    #[test]
    fn layers_are_found_by_number_or_by_pattern() {
        let adapted = |layers: Value, pattern: Value, path: &str| {
            let config = json!({"target_modules": ["q_proj"], "layers_to_transform": layers,
                "layers_pattern": pattern});
            read(&config).unwrap().objection(path, true).unwrap().is_none()
        };
        for (layers, pattern, expected) in [
            (json!(1), json!(null), [false, true, false]),
            (json!([0, 11, -1]), json!(null), [true, false, true]),
            (json!([1]), json!("layers"), [false, true, false]),
            (json!([1]), json!(["h", "layers"]), [false, true, false]),
            (json!([1]), json!(["", "layers"]), [false, true, false]),
            (json!([1]), json!("blocks"), [false; 3]),
            // The first of the two matches on its own, and has no number.
            (json!([1]), json!("model|layers"), [false; 3]),
        ] {
            assert_eq!(Q.map(|path| adapted(layers.clone(), pattern.clone(), path)), expected, "{pattern}");
        }
        // The first number after two names, and none at the end.
        assert!(adapted(json!(1), json!(null), "model.layers.1.experts.0.q_proj"));
        assert!(!adapted(json!(0), json!(null), "model.layers.1.experts.0.q_proj"));
        assert!(!adapted(json!(1), json!(null), "layers.1.q_proj"));
        assert!(adapted(json!(1), json!("layers"), "layers.1.q_proj"));
    }

    #[test]
    fn refuses_what_says_nothing_or_two_things() {
        for (config, field) in [
            (json!({"target_modules": 7}), "target_modules"),
            (json!({"target_modules": ["q_proj", 7]}), "target_modules"),
            (json!({"target_modules": "q_("}), "target_modules"),
            (json!({"target_modules": [], "exclude_modules": "q_("}), "exclude_modules"),
            (json!({"target_modules": [], "exclude_modules": {"q": 1}}), "exclude_modules"),
            (json!({"target_modules": "q", "layers_to_transform": []}), "layers_to_transform"),
            (json!({"target_modules": "q", "layers_pattern": ""}), "layers_pattern"),
            (json!({"target_modules": "all-linear", "layers_to_transform": [1]}), "layers_to_transform"),
            (json!({"target_modules": [], "layers_to_transform": [0.5]}), "layers_to_transform"),
            (json!({"target_modules": [], "layers_to_transform": "1"}), "layers_to_transform"),
            (json!({"target_modules": [], "layers_pattern": "layers"}), "layers_to_transform"),
            (
                json!({"target_modules": [], "layers_to_transform": 1, "layers_pattern": "("}),
                "layers_pattern",
            ),
        ] {
            let text = read(&config).unwrap_err().to_string();
            assert!(text.contains(&format!("adapter_config.json: {field} must be")), "{text}");
        }
        let slow = read(&json!({"target_modules": "(.*.*.*.*.*)*x(?=y)"})).unwrap();
        let text = slow.objection(Q[0], true).unwrap_err().to_string();
        assert!(text.contains("target_modules must be a regex that can be matched with"), "{text}");
    }
}
