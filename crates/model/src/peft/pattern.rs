//! `rank_pattern` and `alpha_pattern`: values by the first regex that matches a module's path.
//!
//! The rule is that of PEFT's `get_pattern_key`: `re.match(rf"(.*\.)?({key})$", path)`, keys in the
//! file's order. So a key is a whole path, or a suffix of one that starts after a dot, or a regex for
//! either.

use super::path_regex::{Budget, PathRegex};
use crate::ModelError;
use crate::json::Object;

/// Values by pattern.
#[derive(Debug)]
pub(super) struct Patterns<T> {
    file: String,
    field: &'static str,
    entries: Vec<(String, PathRegex, T)>,
}

impl<T: Copy> Patterns<T> {
    /// Reads a field that is an object of regexes and values; absent and null are no patterns.
    pub fn read(
        config: &Object,
        field: &'static str,
        value: impl Fn(&Object, &str) -> Result<T, ModelError>,
    ) -> Result<Self, ModelError> {
        let (mut entries, mut budget) = (Vec::new(), Budget::default());
        if let Some(object) = config.object(field)? {
            for (key, _) in object.entries() {
                // PEFT's groups stay as they are: a key may refer to them.
                let regex = PathRegex::prefix(&format!(r"(.*\.)?({key})$"), &mut budget)
                    .map_err(|expected| object.error(key, format!("keyed by {expected}")))?;
                entries.push((key.to_owned(), regex, value(&object, key)?));
            }
        }
        Ok(Self { file: config.file().into(), field, entries })
    }

    /// The first entry whose key matches a module's path.
    pub fn find(&self, path: &str) -> Result<Option<(&str, T)>, ModelError> {
        for (key, regex, value) in &self.entries {
            let matched = regex.is_match(path).map_err(|expected| ModelError::Field {
                file: self.file.clone(),
                field: self.field.into(),
                expected: format!("keyed by {expected}"),
                found: key.clone(),
            })?;
            if matched {
                return Ok(Some((key, *value)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn find(patterns: Value, path: &str) -> Option<usize> {
        let text = json!({"rank_pattern": patterns}).to_string();
        let config = Object::parse("adapter_config.json".into(), &text).unwrap();
        let read = Patterns::read(&config, "rank_pattern", |o, field| o.size(field, 1000)).unwrap();
        read.find(path).unwrap().map(|(_, value)| value)
    }

    const V2: &str = "model.layers.2.self_attn.v_proj";

    #[test]
    fn keys_match_as_in_peft() {
        for (key, path, matches) in [
            // A suffix that starts after a dot, or the whole path.
            ("v_proj", V2, true),
            ("self_attn.v_proj", V2, true),
            ("layers.2.self_attn.v_proj", V2, true),
            (V2, V2, true),
            ("v_proj", "v_proj", true),
            // Not part of a word, and not the front of a path.
            ("proj", V2, false),
            ("2.self_attn.v_proj", "model.layers.12.self_attn.v_proj", false),
            ("self_attn", V2, false),
            ("model.layers.2", V2, false),
            ("q_proj", V2, false),
            // Regexes.
            (".*proj", V2, true),
            (r"[kv]_proj", V2, true),
            (r"^model\.layers\.[23]\.self_attn\.v_proj", V2, true),
            (r"^model\.layers\.[23]\.self_attn\.v_proj", "model.layers.1.self_attn.v_proj", false),
            ("^v_proj", V2, false),
            ("q_proj|v_proj", V2, true),
            ("v_proj|layers", V2, true),
            (r"(?!model\.layers\.2\.).*v_proj", V2, true),
            (r"^(?!model\.layers\.2\.).*v_proj", V2, false),
            // A dot in a key is any character, as it is in PEFT.
            ("self_attn.v_proj", "model.layers.2.self_attn_v_proj", true),
        ] {
            assert_eq!(find(json!({key: 4}), path).is_some(), matches, "{key} on {path}");
        }
    }

    #[test]
    fn the_first_hit_in_the_order_of_the_file_wins() {
        assert_eq!(find(json!({"v_proj": 1, V2: 2}), V2), Some(1));
        assert_eq!(find(json!({V2: 2, "v_proj": 1}), V2), Some(2));
        assert_eq!(find(json!({"k_proj": 3, V2: 2}), V2), Some(2));
        assert_eq!(find(json!({}), V2), None);
    }
}
