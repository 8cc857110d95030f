//! One safetensors file: its header, checked before anything is believed, and views of its tensors.
//!
//! Knows no model: names and shapes are whatever the file says.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;

use interleaf_contract::Dtype;
use safetensors::{SafeTensorError, SafeTensors};
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::generated::Drawn;
use crate::tensor_data::TensorData;
use crate::{ModelError, Source};

/// Bytes before the header: its length, little-endian.
const LENGTH_BYTES: usize = size_of::<u64>();

/// The largest header that is parsed, as in the safetensors crate: a thousand times that of a large model.
const HEADER_LIMIT: u64 = 100_000_000;

/// The entry of a header that is no tensor.
const METADATA: &str = "__metadata__";

/// The element types that weights are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    /// The same type in the contract's words.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
        }
    }
}

/// A tensor of an open file, or some of its rows.
#[derive(Debug, Clone)]
pub(crate) struct Tensor<'a> {
    /// The file, for messages.
    pub file: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its shape.
    pub shape: Cow<'a, [usize]>,
    /// Its elements.
    pub data: TensorData,
    /// The element of the whole tensor that is the first one here, for messages.
    pub first: usize,
    dtype: safetensors::Dtype,
}

impl<'a> Tensor<'a> {
    /// A tensor that is in no file; `file` is for messages.
    pub fn drawn(file: &'a str, name: &'a str, shape: Cow<'a, [usize]>, data: Drawn) -> Self {
        Self { file, name, shape, data: TensorData::Drawn(data), first: 0, dtype: safetensors::Dtype::BF16 }
    }

    /// The element type, if it is one that weights are read from.
    pub fn float(&self) -> Result<Float, ModelError> {
        match self.dtype {
            safetensors::Dtype::F32 => Ok(Float::F32),
            safetensors::Dtype::F16 => Ok(Float::F16),
            safetensors::Dtype::BF16 => Ok(Float::Bf16),
            other => Err(ModelError::TensorDtype {
                file: self.file.into(),
                tensor: self.name.into(),
                found: format!("{other:?}"),
            }),
        }
    }

    /// Its dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type, as safetensors calls it.
    pub fn dtype_name(&self) -> String {
        format!("{:?}", self.dtype)
    }

    /// The same tensor with only some of its rows, or of its elements where it has one dimension.
    /// Rows that it does not have are left out.
    pub fn rows(mut self, rows: Range<usize>) -> Self {
        let all = self.shape.first().copied().unwrap_or(0);
        let (start, end) = (rows.start.min(all), rows.end.min(all));
        let (row_bytes, row_len) =
            (self.data.len().checked_div(all), self.shape.iter().skip(1).product::<usize>());
        let row_bytes = row_bytes.unwrap_or(0);
        self.data = self.data.slice(start * row_bytes..end.max(start) * row_bytes);
        self.first += start * row_len;
        if let Some(count) = self.shape.to_mut().first_mut() {
            *count = end.saturating_sub(start);
        }
        self
    }

    /// The error that this tensor cannot be used.
    pub fn refusal(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Tensor { file: self.file.into(), tensor: self.name.into(), reason: reason.into() }
    }

    /// Checks that the tensor has a shape and a floating-point element type.
    pub fn expect(&self, shape: &[usize]) -> Result<(), ModelError> {
        if *self.shape != *shape {
            return Err(ModelError::TensorShape {
                file: self.file.into(),
                tensor: self.name.into(),
                expected: shape.into(),
                found: self.shape.to_vec(),
            });
        }
        self.float().map(|_| ())
    }
}

#[derive(Debug)]
struct Entry {
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    data: TensorData,
}

/// An open safetensors file.
#[derive(Debug)]
pub(crate) struct TensorFile {
    file: String,
    // Ordered, so that the first error found does not depend on a hash.
    tensors: BTreeMap<String, Entry>,
    /// What the header says besides its tensors.
    metadata: HashMap<String, String>,
}

impl TensorFile {
    /// Maps a file and reads its header. Tensors' bytes are not touched.
    pub fn open(source: &Source, file: &str) -> Result<Self, ModelError> {
        let data = source.read(file)?;
        let file = source.describe(file);
        let damaged = |reason| ModelError::Safetensors { file: file.clone(), reason };
        let header = check_length(&data).map_err(damaged)?;
        let (names, values) = data[LENGTH_BYTES..].split_at(header);
        check_extents(names, values.len()).map_err(damaged)?;
        let (_, metadata) =
            SafeTensors::read_metadata(&data).map_err(|e| damaged(explain(&e, data.len())))?;
        let base = LENGTH_BYTES + header;
        let mut tensors = BTreeMap::new();
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let data = TensorData::Stored(data.slice(base + start..base + end));
            tensors.insert(name, Entry { dtype: info.dtype, shape: info.shape.clone(), data });
        }
        Ok(Self { file, tensors, metadata: metadata.metadata().clone().unwrap_or_default() })
    }

    /// Tensors of these names and shapes that are in no file, drawn by a seed; `file` is for messages.
    pub fn drawn(file: String, seed: u64, tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let entry = |(name, shape): (String, Vec<usize>)| {
            let data = TensorData::Drawn(Drawn::weights(seed, &name, &shape));
            (name, Entry { dtype: safetensors::Dtype::BF16, shape, data })
        };
        Self { file, tensors: tensors.into_iter().map(entry).collect(), metadata: HashMap::new() }
    }

    /// The file, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// An entry of the header that is no tensor.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor by its name.
    pub fn get(&self, name: &str) -> Result<Tensor<'_>, ModelError> {
        match self.tensors.get_key_value(name) {
            Some((name, entry)) => Ok(Tensor {
                file: &self.file,
                name,
                shape: Cow::Borrowed(&entry.shape),
                data: entry.data.clone(),
                first: 0,
                dtype: entry.dtype,
            }),
            None => Err(ModelError::MissingTensor { file: self.file.clone(), tensor: name.into() }),
        }
    }
}

/// The header's length in bytes, if it makes sense and the file is long enough to hold it.
fn check_length(data: &[u8]) -> Result<usize, String> {
    let Some((length, rest)) = data.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!("{} bytes are too few for a safetensors header", data.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > HEADER_LIMIT && length <= rest.len() as u64 {
        return Err(format!("the header is said to be {length} bytes long, more than {HEADER_LIMIT}"));
    }
    usize::try_from(length).ok().filter(|n| *n <= rest.len()).ok_or_else(|| {
        format!("the header is said to be {length} bytes long, but only {} bytes follow", rest.len())
    })
}

/// Checks what the header's parser takes on trust: that no tensor is there twice, of which it would keep the
/// last, and that none ends beyond the `len` bytes of data, with whose number it calculates.
fn check_extents(header: &[u8], len: usize) -> Result<(), String> {
    let Extents(extents) =
        serde_json::from_slice(header).map_err(|e| format!("the header is not valid: {e}"))?;
    match extents.into_iter().find(|(_, end)| *end > len as u64) {
        Some((tensor, end)) => Err(format!(
            "tensor {tensor} ends at byte {end} of the data, but there are {len}: the file is cut short"
        )),
        None => Ok(()),
    }
}

/// Where every tensor of a header ends.
struct Extents(BTreeMap<String, u64>);

/// The field of a tensor in a header that says where it is.
#[derive(Deserialize)]
struct Extent {
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Extents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Extents;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Extents, A::Error> {
                let mut extents = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let (_, end) = map.next_value::<Extent>()?.data_offsets;
                    if extents.contains_key(&name) {
                        return Err(A::Error::custom(format!("tensor {name} is there twice")));
                    }
                    extents.insert(name, end);
                }
                Ok(Extents(extents))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// What is wrong with a header, in the words of the file rather than of the parser.
fn explain(error: &SafeTensorError, len: usize) -> String {
    match error {
        SafeTensorError::InvalidHeaderDeserialization(e) => format!("the header is not valid: {e}"),
        SafeTensorError::InvalidOffset(tensor) => {
            format!("tensor {tensor} does not start where the one before it ends")
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            format!("the tensors do not end where the file ends, at {len} bytes: cut short or padded")
        }
        other => format!("the header is not valid: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Folder, safetensors_bytes, tensor_f32};

    fn open(bytes: &[u8]) -> Result<TensorFile, ModelError> {
        let folder = Folder::new();
        folder.write("t.safetensors", bytes);
        TensorFile::open(&folder.source(), "t.safetensors")
    }

    fn reason(bytes: &[u8]) -> String {
        let error = open(bytes).unwrap_err();
        assert!(matches!(error, ModelError::Safetensors { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("t.safetensors"), "{text}");
        text
    }

    fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn reads_names_shapes_and_bytes() {
        let file =
            open(&safetensors_bytes(&[tensor_f32("b", &[1, 2], &[1.0, 2.0]), tensor_f32("a", &[1], &[3.0])]));
        let file = file.unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
        let b = file.get("b").unwrap();
        assert_eq!((&*b.shape, b.float().unwrap()), (&[1, 2][..], Float::F32));
        assert_eq!(&b.data.bytes()[..], [1.0f32.to_le_bytes(), 2.0f32.to_le_bytes()].concat());
        assert!(b.expect(&[2, 1]).is_err());
        assert!(matches!(file.get("c"), Err(ModelError::MissingTensor { .. })));
    }

    #[test]
    fn rows_are_views_that_remember_where_they_are() {
        let values: Vec<f32> = (0..6u8).map(f32::from).collect();
        let file =
            open(&safetensors_bytes(&[tensor_f32("m", &[3, 2], &values), tensor_f32("v", &[6], &values)]));
        let file = file.unwrap();
        let whole = file.get("m").unwrap();
        let rows = whole.clone().rows(1..3);
        assert_eq!((&*rows.shape, rows.first), (&[2, 2][..], 2));
        assert_eq!(rows.data.bytes(), whole.data.bytes().slice(8..));
        assert_eq!(rows.data.bytes().as_ptr(), whole.data.bytes()[8..].as_ptr());
        assert_eq!(rows.rows(1..2).first, 4);
        let part = file.get("v").unwrap().rows(4..6);
        assert_eq!((&*part.shape, part.first, part.data.len()), (&[2][..], 4, 8));
        let beyond = file.get("m").unwrap().rows(2..9);
        assert_eq!((&*beyond.shape, beyond.data.len()), (&[1, 2][..], 8));
        assert!(file.get("m").unwrap().rows(7..9).data.bytes().is_empty());
    }

    #[test]
    fn refuses_lengths_that_the_file_does_not_have() {
        assert!(reason(b"").contains("too few"));
        assert!(reason(&[0; 7]).contains("too few"));
        let mut absurd = safetensors_bytes(&[tensor_f32("a", &[1], &[0.0])]);
        absurd[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(reason(&absurd).contains("1152921504606846976 bytes"));
        let huge = HEADER_LIMIT as usize + 1;
        let huge = [&(huge as u64).to_le_bytes()[..], &vec![b' '; huge]].concat();
        assert!(reason(&huge).contains("100000001 bytes long, more than 100000000"));
        let whole = safetensors_bytes(&[tensor_f32("a", &[4], &[0.0; 4])]);
        assert!(reason(&whole[..whole.len() - 1]).contains("cut short"));
        assert!(reason(&[&whole[..], &[0]].concat()).contains("padded"));
    }

    #[test]
    fn refuses_headers_that_contradict_themselves() {
        assert!(reason(&with_header("{\"a\":", b"")).contains("not valid"));
        assert!(reason(&with_header("\u{1}", b"")).contains("not valid"));
        let entry = |name: &str, from: usize, to: usize| {
            format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{from},{to}]}}"#)
        };
        let overlapping = format!("{{{},{}}}", entry("a", 0, 4), entry("b", 2, 6));
        assert!(reason(&with_header(&overlapping, &[0; 6])).contains("tensor b"));
        let beyond = format!("{{{}}}", entry("a", 0, 4));
        assert!(reason(&with_header(&beyond, &[0; 2])).contains("cut short"));
        let far = format!(r#"{{"a":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}}}}"#, u64::MAX - 7);
        assert!(reason(&with_header(&far, &[0; 4])).contains("tensor a ends at byte 18446744073709551608"));
        let twice = format!("{{{},{}}}", entry("a", 4, 8), entry("a", 0, 4));
        assert!(reason(&with_header(&twice, &[0; 4])).contains("tensor a is there twice"));
        let backwards = format!("{{{}}}", entry("a", 4, 0));
        assert!(reason(&with_header(&backwards, &[0; 4])).contains("tensor a"));
        let wrong_size = format!("{{{}}}", entry("a", 0, 8));
        assert!(reason(&with_header(&wrong_size, &[0; 8])).contains("not valid"));
    }

    #[test]
    fn refuses_integers_as_weights() {
        let header = r#"{"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}"#;
        let file = open(&with_header(header, &[0; 4])).unwrap();
        let error = file.get("a").unwrap().expect(&[1]).unwrap_err();
        assert!(error.to_string().contains("tensor a is I32"), "{error}");
    }
}
