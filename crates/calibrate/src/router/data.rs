//! Prompts that say which adapters they belong to, from lines of JSON. Knows no model.

use std::collections::BTreeSet;

use interleaf_model::Digest;
use serde_json::{Map, Value};

use crate::CalibrateError;

/// A prompt and the adapters that suit it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// What is asked.
    pub prompt: String,
    /// Places in [`Prompts::labels`], ascending; none where no adapter suits it.
    pub labels: Vec<usize>,
}

/// Prompts by which a router is trained and measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompts {
    /// Where they are from, for messages and for the file of a router.
    pub data: String,
    /// The bytes that they were read from ([`Digest::of_bytes`]).
    pub digest: Digest,
    /// Names of adapters, in alphabetical order.
    pub labels: Vec<String>,
    /// What is trained on.
    pub train: Vec<Labelled>,
    /// What is measured on and never trained on.
    pub test: Vec<Labelled>,
}

/// A line, before labels have numbers.
struct Line {
    prompt: String,
    adapters: Vec<String>,
    is_test: bool,
}

/// Reads prompts, a JSON object a line: `prompt`, `adapter` (a name) or `adapters` (a list of them), and `split`, `train` or
/// `test`, `train` where it is not said. Other fields are passed over, and so are empty lines.
///
/// # Errors
/// If a line is not that, or no line names an adapter. The error names the file and the line.
pub fn read_prompts(data: &str, bytes: &[u8]) -> Result<Prompts, CalibrateError> {
    let refused = |line, field: &str, expected: &str, found: String| CalibrateError::Prompts {
        data: data.into(),
        line,
        field: field.into(),
        expected: expected.into(),
        found,
    };
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        refused(line, "the line", "UTF-8", "other bytes".into())
    })?;
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let object: Map<String, Value> = serde_json::from_str(line)
            .map_err(|e| refused(number, "the line", "a JSON object", e.to_string()))?;
        let read = parse(&object).map_err(|(field, expected)| {
            let found = object.get(field).map_or_else(|| "nothing".into(), Value::to_string);
            refused(number, field, expected, found)
        });
        lines.push(read?);
    }
    let names: BTreeSet<&str> = lines.iter().flat_map(|line| &line.adapters).map(String::as_str).collect();
    if names.is_empty() {
        return Err(refused(1, "adapter", "the name of an adapter in some line", "none".into()));
    }
    let labels: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for Line { prompt, adapters, is_test } in lines {
        let place = |(at, label): (usize, &String)| adapters.contains(label).then_some(at);
        let labelled = Labelled { prompt, labels: labels.iter().enumerate().filter_map(place).collect() };
        if is_test { test.push(labelled) } else { train.push(labelled) }
    }
    Ok(Prompts { data: data.into(), digest: Digest::of_bytes(bytes), labels, train, test })
}

/// A line's fields, or which of them is not what.
fn parse(object: &Map<String, Value>) -> Result<Line, (&'static str, &'static str)> {
    let name = |value: &Value| value.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    let prompt = object.get("prompt").and_then(name).ok_or(("prompt", "a text"))?;
    let adapters = match (object.get("adapters"), object.get("adapter")) {
        (Some(_), Some(_)) => return Err(("adapters", "absent where there is `adapter`")),
        (Some(list), None) => {
            let names = list.as_array().map(|list| list.iter().map(name).collect::<Option<Vec<_>>>());
            names.flatten().ok_or(("adapters", "a list of names"))?
        }
        (None, one) => vec![one.and_then(name).ok_or(("adapter", "a name"))?],
    };
    let is_test = match object.get("split").map(Value::as_str) {
        None | Some(Some("train")) => false,
        Some(Some("test")) => true,
        Some(_) => return Err(("split", "\"train\" or \"test\"")),
    };
    Ok(Line { prompt, adapters, is_test })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_one_adapter_or_several() {
        let text = "{\"id\": 3, \"prompt\": \"p\", \"adapter\": \"b\", \"split\": \"train\"}\n\n\
                    {\"prompt\": \"q\", \"adapters\": [\"c\", \"a\"], \"split\": \"test\"}\n\
                    {\"prompt\": \"r\", \"adapters\": []}";
        let prompts = read_prompts("p.jsonl", text.as_bytes()).unwrap();
        assert_eq!(prompts.labels, ["a", "b", "c"]);
        let of = |all: &[Labelled]| -> Vec<(String, Vec<usize>)> {
            all.iter().map(|one| (one.prompt.clone(), one.labels.clone())).collect()
        };
        assert_eq!(of(&prompts.train), [("p".into(), vec![1]), ("r".into(), vec![])]);
        assert_eq!(of(&prompts.test), [("q".into(), vec![0, 2])]);
        assert_eq!(prompts.digest, Digest::of_bytes(text.as_bytes()));
    }

    #[test]
    fn what_is_wrong_is_named_by_file_and_line() {
        let good = "{\"prompt\": \"p\", \"adapter\": \"a\"}\n";
        for (line, words) in [
            ("{\"prompt\": \"p\"", "the line must be a JSON object"),
            ("[1]", "the line must be a JSON object"),
            ("{\"adapter\": \"a\"}", "prompt must be a text, found nothing"),
            ("{\"prompt\": 3, \"adapter\": \"a\"}", "prompt must be a text, found 3"),
            ("{\"prompt\": \"p\"}", "adapter must be a name, found nothing"),
            ("{\"prompt\": \"p\", \"adapters\": [\"a\", 2]}", "adapters must be a list of names"),
            ("{\"prompt\": \"p\", \"adapters\": [], \"adapter\": \"a\"}", "adapters must be absent"),
            (
                "{\"prompt\": \"p\", \"adapter\": \"a\", \"split\": \"x\"}",
                "split must be \"train\" or \"test\"",
            ),
        ] {
            let error = read_prompts("p.jsonl", [good, line].concat().as_bytes()).unwrap_err().to_string();
            assert!(error.contains("p.jsonl, line 2: ") && error.contains(words), "{error}");
        }
        let error = read_prompts("p.jsonl", &[good.as_bytes(), &[0xff]].concat()).unwrap_err().to_string();
        assert!(error.contains("p.jsonl, line 2: the line must be UTF-8"), "{error}");
        assert!(read_prompts("p.jsonl", b"").is_err());
    }
}
