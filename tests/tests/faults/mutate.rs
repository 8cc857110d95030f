//! Changes to sound files: some to bytes, some to the JSON in them, so that what they make is often still a
//! file of its kind.

use proptest::prelude::*;
use serde_json::Value;

/// One change. Positions and choices are taken modulo what there is.
#[derive(Debug, Clone)]
pub enum Mutation {
    /// Another bit.
    Flip { at: usize, bit: u8 },
    /// Fewer bytes.
    Cut { at: usize, len: usize },
    /// More bytes.
    Insert { at: usize, byte: u8, len: usize },
    /// A piece of another seed.
    Splice { at: usize, seed: usize, from: usize, len: usize },
    /// Another length of the header, where there is one.
    HeaderLength(u64),
    /// Another value somewhere in the JSON, from [`VALUES`].
    Replace { node: usize, value: usize },
    /// A value from elsewhere, or from another seed.
    Transplant { node: usize, seed: usize, from: usize },
    /// An entry of an object that is there again, with a value from [`VALUES`].
    Again { node: usize, entry: usize, value: usize },
    /// A value inside so many lists.
    Nest { node: usize, depth: usize },
}

/// Texts that are JSON values, or nearly.
const VALUES: [&str; 34] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1",
    "-1",
    "2",
    "3",
    "4",
    "0.5",
    "1e-300",
    "-1e-300",
    "5e-324",
    "1e300",
    "1e999",
    "4096",
    "65537",
    "1048576",
    "2147483648",
    "4294967296",
    "9007199254740993",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"../x\"",
    "\"(a*)*b\"",
    "[]",
    "{}",
    "[0, 18446744073709551615]",
    "{\"\": {\"\": []}}",
];

impl Arbitrary for Mutation {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        let (at, len, node, value) = (0..8192usize, 1..64usize, 0..512usize, 0..VALUES.len());
        prop_oneof![
            1 => (at.clone(), 0..8u8).prop_map(|(at, bit)| Self::Flip { at, bit }),
            1 => (at.clone(), len.clone()).prop_map(|(at, len)| Self::Cut { at, len }),
            1 => (at.clone(), any::<u8>(), len.clone())
                .prop_map(|(at, byte, len)| Self::Insert { at, byte, len }),
            1 => (at.clone(), 0..8usize, at, len)
                .prop_map(|(at, seed, from, len)| Self::Splice { at, seed, from, len }),
            1 => any::<u64>().prop_map(Self::HeaderLength),
            1 => (0..3000u64).prop_map(Self::HeaderLength),
            8 => (node.clone(), value.clone()).prop_map(|(node, value)| Self::Replace { node, value }),
            4 => (node.clone(), 0..8usize, node.clone())
                .prop_map(|(node, seed, from)| Self::Transplant { node, seed, from }),
            2 => (node.clone(), 0..32usize, value)
                .prop_map(|(node, entry, value)| Self::Again { node, entry, value }),
            1 => (node, prop_oneof![1..8usize, 100..200usize, 20_000..40_000usize])
                .prop_map(|(node, depth)| Self::Nest { node, depth }),
        ]
        .boxed()
    }
}

/// A seed, changed.
pub fn apply(seed: &[u8], mutations: &[Mutation], seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for mutation in mutations {
        let len = bytes.len().max(1);
        match *mutation {
            Mutation::Flip { at, bit } => {
                if let Some(byte) = bytes.get_mut(at % len) {
                    *byte ^= 1 << bit;
                }
            }
            Mutation::Cut { at, len: cut } => {
                let start = (at % len).min(bytes.len());
                bytes.drain(start..(start + cut).min(bytes.len()));
            }
            Mutation::Insert { at, byte, len: more } => {
                let at = (at % len).min(bytes.len());
                bytes.splice(at..at, std::iter::repeat_n(byte, more));
            }
            Mutation::Splice { at, seed, from, len: more } => {
                let other = &seeds[seed % seeds.len()];
                let from = from % other.len().max(1);
                let piece = other[from..(from + more).min(other.len())].to_vec();
                let at = (at % len).min(bytes.len());
                bytes.splice(at..at, piece);
            }
            Mutation::HeaderLength(length) => {
                if header(&bytes).is_some() {
                    bytes[..8].copy_from_slice(&length.to_le_bytes());
                }
            }
            Mutation::Replace { node, value } => change_json(&mut bytes, node, |_| VALUES[value].to_owned()),
            Mutation::Transplant { node, seed, from } => {
                let Some(mut other) = json(&seeds[seed % seeds.len()]) else { continue };
                let text = pick(&mut other, from).to_string();
                change_json(&mut bytes, node, |_| text);
            }
            Mutation::Again { node, entry, value } => change_json(&mut bytes, node, |old| match old {
                Value::Object(map) if !map.is_empty() => {
                    let (key, _) = map.iter().nth(entry % map.len()).expect("within");
                    let text = old.to_string();
                    format!("{},{}:{}}}", &text[..text.len() - 1], Value::from(key.as_str()), VALUES[value])
                }
                other => other.to_string(),
            }),
            Mutation::Nest { node, depth } => {
                change_json(&mut bytes, node, |old| {
                    format!("{}{old}{}", "[".repeat(depth), "]".repeat(depth))
                });
            }
        }
    }
    bytes
}

/// The header of a file that has one: its bytes after its length.
fn header(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// The JSON of a file, or of its header.
fn json(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(header(bytes).unwrap_or(bytes)).ok()
}

/// Puts a text in place of a value in a file's JSON, if it is JSON, and mends the length of its header.
fn change_json(bytes: &mut Vec<u8>, node: usize, text: impl FnOnce(&Value) -> String) {
    let Some(mut value) = json(bytes) else { return };
    // Not JSON itself, so that it can be told apart.
    const PLACE: &str = "\u{1}";
    let old = std::mem::replace(pick(&mut value, node), Value::from(PLACE));
    let changed = value.to_string().replacen(&Value::from(PLACE).to_string(), &text(&old), 1);
    let data = header(bytes).map(|header| bytes[8 + header.len()..].to_vec());
    *bytes = match data {
        Some(data) => [&(changed.len() as u64).to_le_bytes(), changed.as_bytes(), &data].concat(),
        None => changed.into_bytes(),
    };
}

/// One of the values in a value, itself included, in the order of the text.
fn pick(value: &mut Value, index: usize) -> &mut Value {
    let mut left = index % count(value);
    nth(value, &mut left).expect("within")
}

fn nth<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|child| nth(child, left)),
        Value::Object(map) => map.values_mut().find_map(|child| nth(child, left)),
        _ => None,
    }
}

/// How many values a value is made of.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum::<usize>(),
        _ => 0,
    }
}
