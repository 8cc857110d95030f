//! Model folders to be spoilt: a sound one of `tests/data/families`, taken apart and written again with
//! something changed. Whatever is written is written as told, sound or not.

use std::path::{Path, PathBuf};

use interleaf_runtime::Source;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

pub const CONFIG: &str = "config.json";
pub const MODEL: &str = "model.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";

pub fn family(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/families").join(name)
}

/// A tensor as a file has it.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

/// An f32 tensor of one value.
pub fn filled(name: &str, shape: &[usize], value: f32) -> Tensor {
    let data = value.to_le_bytes().repeat(shape.iter().product());
    Tensor { name: name.into(), dtype: "F32".into(), shape: shape.into(), data }
}

/// An f32 tensor with one value that is unlike the others.
pub fn with_value(name: &str, shape: &[usize], at: usize, value: f32) -> Tensor {
    let mut tensor = filled(name, shape, 0.25);
    tensor.data[at * 4..][..4].copy_from_slice(&value.to_le_bytes());
    tensor
}

/// The header of a safetensors file with these tensors, one after the other.
pub fn header(tensors: &[Tensor]) -> Value {
    let mut header = Map::new();
    let mut start = 0;
    for Tensor { name, dtype, shape, data } in tensors {
        let end = start + data.len();
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
        start = end;
    }
    header.into()
}

/// A safetensors file: a header as it is, and data.
pub fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// The tensors of a sound file.
fn tensors(bytes: &[u8]) -> Vec<Tensor> {
    let (length, rest) = bytes.split_first_chunk::<8>().expect("a length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: Map<String, Value> = serde_json::from_slice(header).expect("a header");
    let number = |value: &Value| value.as_u64().expect("a number") as usize;
    let tensor = |(name, entry): (&String, &Value)| Tensor {
        name: name.clone(),
        dtype: entry["dtype"].as_str().expect("a type").into(),
        shape: entry["shape"].as_array().expect("a shape").iter().map(number).collect(),
        data: data[number(&entry["data_offsets"][0])..number(&entry["data_offsets"][1])].to_vec(),
    };
    header.iter().filter(|(name, _)| *name != "__metadata__").map(tensor).collect()
}

fn data(tensors: &[Tensor]) -> Vec<u8> {
    tensors.iter().flat_map(|tensor| tensor.data.iter().copied()).collect()
}

/// A model in parts.
#[derive(Debug, Clone)]
pub struct Parts {
    pub config: Value,
    pub tensors: Vec<Tensor>,
}

impl Parts {
    /// The parts of a sound family, in one file or in shards.
    pub fn of(name: &str) -> Self {
        let entries = std::fs::read_dir(family(name)).expect("the family is here");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        files.sort();
        let read = |path: &Path| std::fs::read(path).expect("a readable file");
        let config = serde_json::from_slice(&read(&family(name).join(CONFIG))).expect("JSON");
        Self { config, tensors: files.iter().flat_map(|path| tensors(&read(path))).collect() }
    }

    /// The same with fields of the config changed; null removes a field.
    pub fn config(mut self, changes: Value) -> Self {
        for (field, value) in changes.as_object().expect("fields") {
            match value {
                Value::Null => self.config.as_object_mut().expect("fields").remove(field),
                value => self.config.as_object_mut().expect("fields").insert(field.clone(), value.clone()),
            };
        }
        self
    }

    /// The same with one tensor more, or in place of that of its name.
    pub fn tensor(self, tensor: Tensor) -> Self {
        let mut parts = self.without(&tensor.name);
        parts.tensors.push(tensor);
        parts
    }

    /// The same without a tensor.
    pub fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    /// The same with a tensor changed.
    pub fn change(mut self, name: &str, change: impl FnOnce(&mut Tensor)) -> Self {
        change(self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("it is there"));
        self
    }

    /// The file of all tensors.
    pub fn bytes(&self) -> Vec<u8> {
        file(&header(&self.tensors).to_string(), &data(&self.tensors))
    }

    /// The folder of the model.
    pub fn write(&self) -> Folder {
        let folder = Folder::new();
        folder.file(CONFIG, self.config.to_string()).file(MODEL, self.bytes())
    }

    /// A folder whose tensors' file has another header.
    pub fn write_with_header(&self, change: impl FnOnce(&str) -> String) -> Folder {
        let header = change(&header(&self.tensors).to_string());
        self.write().file(MODEL, file(&header, &data(&self.tensors)))
    }

    /// A folder whose tensors' file has other bytes.
    pub fn write_with_bytes(&self, change: impl FnOnce(&mut Vec<u8>)) -> Folder {
        let mut bytes = self.bytes();
        change(&mut bytes);
        self.write().file(MODEL, bytes)
    }

    /// A folder of two shards, `1.safetensors` and `2.safetensors`, with some tensors in both. The index may
    /// be changed.
    pub fn write_shards(&self, in_both: usize, change: impl FnOnce(&mut Map<String, Value>)) -> Folder {
        let middle = self.tensors.len() / 2;
        let shards = [
            ("1.safetensors", &self.tensors[..middle]),
            ("2.safetensors", &self.tensors[middle - in_both..]),
        ];
        let (mut folder, mut map) = (self.write().without(MODEL), Map::new());
        for (name, tensors) in shards {
            folder = folder.file(name, file(&header(tensors).to_string(), &data(tensors)));
            map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), json!(name))));
        }
        change(&mut map);
        folder.file(INDEX, json!({"weight_map": map}).to_string())
    }
}

/// A folder that is removed with its owner.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn source(&self) -> Source {
        Source::dir(self.path())
    }

    pub fn file(self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.path().join(name), contents).expect("writes");
        self
    }

    pub fn without(self, name: &str) -> Self {
        std::fs::remove_file(self.path().join(name)).expect("it was there");
        self
    }

    /// A folder in place of a file.
    pub fn folder(self, name: &str) -> Self {
        let this = self.without(name);
        std::fs::create_dir(this.path().join(name)).expect("a folder");
        this
    }
}
