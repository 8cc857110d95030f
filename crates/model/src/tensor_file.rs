//! One safetensors file: its header, checked before anything is believed, and views of its tensors.
//!
//! Knows no model: names and shapes are whatever the file says.

use std::collections::BTreeMap;
use std::ops::Range;

use interleaf_contract::{Bytes, Dtype};
use safetensors::{SafeTensorError, SafeTensors};

use crate::{ModelError, Source};

/// Bytes before the header: its length, little-endian.
const LENGTH_BYTES: usize = size_of::<u64>();

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

/// A tensor of an open file.
#[derive(Debug, Clone)]
pub(crate) struct Tensor<'a> {
    /// The file, for messages.
    pub file: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its bytes: a view of the file, aligned or not.
    pub data: Bytes,
    dtype: safetensors::Dtype,
}

impl Tensor<'_> {
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

    /// Checks that the tensor has a shape and a floating-point element type.
    pub fn expect(&self, shape: &[usize]) -> Result<(), ModelError> {
        if self.shape != shape {
            return Err(ModelError::TensorShape {
                file: self.file.into(),
                tensor: self.name.into(),
                expected: shape.into(),
                found: self.shape.into(),
            });
        }
        self.float().map(|_| ())
    }
}

#[derive(Debug)]
struct Entry {
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// An open safetensors file.
#[derive(Debug)]
pub(crate) struct TensorFile {
    file: String,
    data: Bytes,
    // Ordered, so that the first error found does not depend on a hash.
    tensors: BTreeMap<String, Entry>,
}

impl TensorFile {
    /// Maps a file and reads its header. Tensors' bytes are not touched.
    pub fn open(source: &Source, file: &str) -> Result<Self, ModelError> {
        let data = source.read(file)?;
        let file = source.describe(file);
        let damaged = |reason| ModelError::Safetensors { file: file.clone(), reason };
        let header = check_length(&data).map_err(damaged)?;
        let (_, metadata) =
            SafeTensors::read_metadata(&data).map_err(|e| damaged(explain(&e, data.len())))?;
        let base = LENGTH_BYTES + header;
        let mut tensors = BTreeMap::new();
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let range = base + start..base + end;
            tensors.insert(name, Entry { dtype: info.dtype, shape: info.shape.clone(), range });
        }
        Ok(Self { file, data, tensors })
    }

    /// The file, for messages.
    pub fn file(&self) -> &str {
        &self.file
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
                shape: &entry.shape,
                data: self.data.slice(entry.range.clone()),
                dtype: entry.dtype,
            }),
            None => Err(ModelError::MissingTensor { file: self.file.clone(), tensor: name.into() }),
        }
    }
}

/// The header's length in bytes, if the file is long enough to hold it.
fn check_length(data: &[u8]) -> Result<usize, String> {
    let Some((length, rest)) = data.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!("{} bytes are too few for a safetensors header", data.len()));
    };
    let length = u64::from_le_bytes(*length);
    usize::try_from(length).ok().filter(|n| *n <= rest.len()).ok_or_else(|| {
        format!("the header is said to be {length} bytes long, but only {} bytes follow", rest.len())
    })
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
        assert_eq!((b.shape, b.float().unwrap()), (&[1, 2][..], Float::F32));
        assert_eq!(&b.data[..], [1.0f32.to_le_bytes(), 2.0f32.to_le_bytes()].concat());
        assert!(b.expect(&[2, 1]).is_err());
        assert!(matches!(file.get("c"), Err(ModelError::MissingTensor { .. })));
    }

    #[test]
    fn refuses_lengths_that_the_file_does_not_have() {
        assert!(reason(b"").contains("too few"));
        assert!(reason(&[0; 7]).contains("too few"));
        let mut absurd = safetensors_bytes(&[tensor_f32("a", &[1], &[0.0])]);
        absurd[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(reason(&absurd).contains("1152921504606846976 bytes"));
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
