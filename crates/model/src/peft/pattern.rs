//! `rank_pattern` and `alpha_pattern`: values by the first regex that matches a module's path.
//!
//! The rule is that of PEFT's `get_pattern_key`: `re.match(rf"(.*\.)?({key})$", path)`, keys in the
//! file's order. So a key is a whole path, or a suffix of one that starts after a dot, or a regex for
//! either.

use fancy_regex::{Regex, RegexBuilder};

use crate::ModelError;
use crate::json::Object;

/// Bytes that a regex may compile to: any path and any choice of numbers needs less.
const SMALL: usize = 32 << 10;

/// Bytes that a few may compile to, such as those of `\w`, which is all of Unicode.
const LARGE: usize = 1 << 20;

/// How many those are. A key of ten bytes can ask for megabytes, and a file holds many keys.
const MANY: usize = 16;

/// Values by pattern.
#[derive(Debug)]
pub(super) struct Patterns<T> {
    file: String,
    field: &'static str,
    entries: Vec<(String, Regex, T)>,
}

impl<T: Copy> Patterns<T> {
    /// Reads a field that is an object of regexes and values; absent and null are no patterns.
    pub fn read(
        config: &Object,
        field: &'static str,
        value: impl Fn(&Object, &str) -> Result<T, ModelError>,
    ) -> Result<Self, ModelError> {
        let (mut entries, mut large) = (Vec::new(), 0);
        if let Some(object) = config.object(field)? {
            for (key, _) in object.entries() {
                // `re.match` anchors at the start. PEFT's groups stay as they are: a key may refer to them.
                let pattern = format!(r"^(.*\.)?({key})$");
                let regex = compile(&pattern, SMALL)
                    .or_else(|error| {
                        large += 1;
                        if large > MANY { Err(error) } else { compile(&pattern, LARGE) }
                    })
                    .map_err(|e| object.error(key, format!("keyed by a regex ({e})")))?;
                entries.push((key.to_owned(), regex, value(&object, key)?));
            }
        }
        Ok(Self { file: config.file().into(), field, entries })
    }

    /// The first entry whose key matches a module's path.
    pub fn find(&self, path: &str) -> Result<Option<(&str, T)>, ModelError> {
        for (key, regex, value) in &self.entries {
            let matched = regex.is_match(path).map_err(|e| ModelError::Field {
                file: self.file.clone(),
                field: format!("{}.{key}", self.field),
                expected: format!("a regex that can be matched with {path}"),
                found: e.to_string(),
            })?;
            if matched {
                return Ok(Some((key, *value)));
            }
        }
        Ok(None)
    }
}

/// Compiles a regex within a limit in bytes.
fn compile(pattern: &str, limit: usize) -> Result<Regex, Box<fancy_regex::Error>> {
    let mut builder = RegexBuilder::new(pattern);
    builder.delegate_size_limit(limit).delegate_dfa_size_limit(limit).build().map_err(Box::new)
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

    #[test]
    fn many_regexes_may_be_small_and_few_large() {
        let read = |keys: &[String]| {
            let patterns: serde_json::Map<String, Value> =
                keys.iter().map(|k| (k.clone(), json!(4))).collect();
            let text = json!({"rank_pattern": patterns}).to_string();
            let config = Object::parse("adapter_config.json".into(), &text).unwrap();
            Patterns::read(&config, "rank_pattern", |o, field| o.size(field, 1000)).map(|_| ())
        };
        let keys = |count: usize, key: &dyn Fn(usize) -> String| (0..count).map(key).collect::<Vec<_>>();
        read(&keys(2000, &|i| format!(r"^model\.layers\.{i}\.self_attn\.(q|k|v|o)_proj"))).unwrap();
        read(&keys(MANY, &|i| format!(r"\w+\.{i}\.\w+"))).unwrap();
        let error = read(&keys(MANY + 1, &|i| format!(r"\w+\.{i}\.\w+"))).unwrap_err().to_string();
        assert!(error.contains(r"rank_pattern.\w+\.16\.\w+ must be keyed by a regex"), "{error}");
        let error = read(&[r"\pL{100}".into()]).unwrap_err().to_string();
        assert!(error.contains(r"rank_pattern.\pL{100} must be keyed by a regex"), "{error}");
    }
}
