//! A JSON object whose fields are read with their type, and whose errors name file and field.
//!
//! Knows no particular file.

use serde_json::{Map, Value};

use crate::tensor_file::TensorFile;
use crate::{ModelError, Source};

/// Longest excerpt of a value in a message, in characters.
const EXCERPT: usize = 80;

/// A JSON object, the file it is in and the path of fields to it.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    file: String,
    prefix: String,
    map: Map<String, Value>,
}

impl Object {
    /// Reads a file that is one JSON object.
    pub fn read(source: &Source, file: &str) -> Result<Self, ModelError> {
        let text = source.read_text(file)?;
        Self::parse(source.describe(file), &text)
    }

    /// Parses a text that is one JSON object.
    pub fn parse(file: String, text: &str) -> Result<Self, ModelError> {
        match serde_json::from_str(text) {
            Ok(map) => Ok(Self { file, prefix: String::new(), map }),
            Err(source) => Err(ModelError::Json { file, source }),
        }
    }

    /// Parses an entry of a safetensors file's metadata that is one JSON object.
    pub fn of_metadata(file: &TensorFile, entry: &str) -> Result<Self, ModelError> {
        let text = file.metadata(entry).ok_or_else(|| ModelError::Field {
            file: file.file().into(),
            field: format!("__metadata__.{entry}"),
            expected: "a JSON object".into(),
            found: "nothing".into(),
        })?;
        Self::parse(format!("{}: {entry}", file.file()), text)
    }

    /// The file, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The fields in the file's order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether a field is there, if only as null.
    pub fn has(&self, field: &str) -> bool {
        self.map.contains_key(field)
    }

    /// A field that is there and not null.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// An error that says what a field must be and shows what it is.
    pub fn error(&self, field: &str, expected: impl Into<String>) -> ModelError {
        ModelError::Field {
            file: self.file.clone(),
            field: format!("{}{field}", self.prefix),
            expected: expected.into(),
            found: self.map.get(field).map_or_else(|| "nothing".into(), excerpt),
        }
    }

    /// An error that says that a field's value is understood but not supported.
    pub fn unsupported(&self, field: &str, supported: impl Into<String>) -> ModelError {
        ModelError::Unsupported {
            file: self.file.clone(),
            field: format!("{}{field}", self.prefix),
            value: self.map.get(field).map_or_else(|| "nothing".into(), excerpt),
            supported: supported.into(),
        }
    }

    /// A field converted by `convert`; absent and null are `None`, what `convert` refuses is an error.
    fn optional<'a, T>(
        &'a self,
        field: &str,
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => convert(value).map(Some).ok_or_else(|| self.error(field, expected)),
        }
    }

    /// A boolean, if the field is there.
    pub fn boolean(&self, field: &str) -> Result<Option<bool>, ModelError> {
        self.optional(field, "true or false", Value::as_bool)
    }

    /// A finite number, if the field is there.
    pub fn number(&self, field: &str) -> Result<Option<f64>, ModelError> {
        self.optional(field, "a number", |v| v.as_f64().filter(|n| n.is_finite()))
    }

    /// A number above zero that must be there.
    pub fn positive(&self, field: &str) -> Result<f64, ModelError> {
        self.optional_positive(field)?.ok_or_else(|| self.error(field, "a number above 0"))
    }

    /// A number above zero, if the field is there. Those are computed with in f32, where a number beyond
    /// its range would be 0 or infinite.
    pub fn optional_positive(&self, field: &str) -> Result<Option<f64>, ModelError> {
        match self.number(field)? {
            Some(n) if n <= 0.0 => Err(self.error(field, "a number above 0")),
            Some(n) if !(n as f32).is_normal() => {
                Err(self.error(field, "a number above 0 in the range of f32"))
            }
            n => Ok(n),
        }
    }

    /// A size from 1 to `limit`, if the field is there.
    pub fn optional_size(&self, field: &str, limit: usize) -> Result<Option<usize>, ModelError> {
        self.optional(field, &size_range(limit), |v| {
            v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=limit).contains(n))
        })
    }

    /// A size from 1 to `limit` that must be there.
    pub fn size(&self, field: &str, limit: usize) -> Result<usize, ModelError> {
        self.optional_size(field, limit)?.ok_or_else(|| self.error(field, size_range(limit)))
    }

    /// A string, if the field is there.
    pub fn string(&self, field: &str) -> Result<Option<&str>, ModelError> {
        self.optional(field, "a string", Value::as_str)
    }

    /// A non-negative integer below 2³², if the field is there.
    pub fn integer(&self, field: &str) -> Result<Option<u32>, ModelError> {
        self.optional(field, "an integer from 0", as_u32)
    }

    /// A list, if the field is there.
    pub fn list(&self, field: &str) -> Result<Option<&[Value]>, ModelError> {
        self.optional(field, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// Token ids, if the field is there: one id or a list.
    pub fn token_ids(&self, field: &str) -> Result<Option<Vec<u32>>, ModelError> {
        self.optional(field, "a token id or a list of token ids", |value| match value {
            Value::Array(ids) => ids.iter().map(as_u32).collect(),
            id => as_u32(id).map(|id| vec![id]),
        })
    }

    /// An object, if the field is there.
    pub fn object(&self, field: &str) -> Result<Option<Self>, ModelError> {
        let map = self.optional(field, "an object", Value::as_object)?;
        Ok(map.map(|map| Self {
            file: self.file.clone(),
            prefix: format!("{}{field}.", self.prefix),
            map: map.clone(),
        }))
    }
}

fn as_u32(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

fn size_range(limit: usize) -> String {
    format!("an integer from 1 to {limit}")
}

/// A value as JSON, cut to a length that fits a message.
pub(crate) fn excerpt(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Object {
        Object::parse("x.json".into(), text).unwrap()
    }

    #[test]
    fn reads_fields_with_their_type() {
        let o =
            object(r#"{"n": 3, "x": 0.5, "b": true, "s": "t", "ids": [1, 2], "null": null, "o": {"n": 0}}"#);
        assert_eq!(o.size("n", 10).unwrap(), 3);
        assert_eq!(o.positive("x").unwrap(), 0.5);
        assert_eq!(o.boolean("b").unwrap(), Some(true));
        assert_eq!(o.string("s").unwrap(), Some("t"));
        assert_eq!(o.token_ids("ids").unwrap(), Some(vec![1, 2]));
        assert_eq!(o.token_ids("n").unwrap(), Some(vec![3]));
        assert_eq!(o.token_ids("null").unwrap(), None);
        assert_eq!(o.object("absent").unwrap().map(|_| ()), None);
    }

    #[test]
    fn errors_name_file_field_and_both_values() {
        let o = object(r#"{"n": -1, "big": 1e300, "o": {"n": 0}}"#);
        let message = |e: ModelError| e.to_string();
        assert_eq!(
            message(o.size("n", 8).unwrap_err()),
            "x.json: n must be an integer from 1 to 8, found -1"
        );
        assert_eq!(
            message(o.object("o").unwrap().unwrap().size("n", 8).unwrap_err()),
            "x.json: o.n must be an integer from 1 to 8, found 0"
        );
        assert_eq!(
            message(o.size("absent", 8).unwrap_err()),
            "x.json: absent must be an integer from 1 to 8, found nothing"
        );
        assert_eq!(
            message(o.positive("big").unwrap_err()),
            "x.json: big must be a number above 0 in the range of f32, found 1e+300"
        );
        assert!(o.size("big", usize::MAX).is_err());
        assert!(matches!(Object::parse("x.json".into(), ""), Err(ModelError::Json { .. })));
        assert!(matches!(Object::parse("x.json".into(), "[1]"), Err(ModelError::Json { .. })));
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let text = excerpt(&Value::String("é".repeat(200)));
        assert_eq!(text.chars().count(), EXCERPT + 1);
    }
}
