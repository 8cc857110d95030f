//! A model's tensors, whether they are in one safetensors file or in shards with an index.
//!
//! Knows which file a tensor is in, and nothing of what it is for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use crate::json::Object;
use crate::tensor_file::{Tensor, TensorFile};
use crate::{ModelError, Source};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Every tensor of a model by name.
#[derive(Debug, Default)]
pub(crate) struct TensorIndex {
    file: String,
    /// Each shard's name in the folder.
    names: Vec<String>,
    shards: Vec<TensorFile>,
    // Ordered, so that the first error found does not depend on a hash.
    shard_of: BTreeMap<String, usize>,
}

impl TensorIndex {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub fn open(source: &Source) -> Result<Self, ModelError> {
        if source.exists(SINGLE) {
            return Self::new(source, source.describe(SINGLE), &[SINGLE]);
        }
        if source.exists(INDEX) {
            return Self::open_sharded(source);
        }
        let file = source.describe(SINGLE);
        match PICKLES.into_iter().find(|pickle| source.exists(pickle)) {
            Some(pickle) => Err(ModelError::Pickle { file: source.describe(pickle), needed: SINGLE }),
            None => Err(ModelError::MissingFile { file }),
        }
    }

    /// Tensors of these names and shapes that are in no file, drawn by a seed; `file` is for messages.
    pub fn drawn(file: String, seed: u64, tensors: Vec<(String, Vec<usize>)>) -> Self {
        let shard_of = tensors.iter().map(|(name, _)| (name.clone(), 0)).collect();
        let shards = vec![TensorFile::drawn(file.clone(), seed, tensors)];
        Self { file, names: Vec::new(), shards, shard_of }
    }

    fn open_sharded(source: &Source) -> Result<Self, ModelError> {
        let index = Object::read(source, INDEX)?;
        let missing = || index.error("weight_map", "an object of tensor names and file names");
        let weight_map = index.object("weight_map")?.ok_or_else(missing)?;
        let mut claims = Vec::new();
        for (tensor, value) in weight_map.entries() {
            let shard = value.as_str().filter(|name| is_file_name(name));
            let shard =
                shard.ok_or_else(|| weight_map.error(tensor, "the name of a file beside the index"))?;
            claims.push((tensor, shard));
        }
        let names: Vec<&str> =
            claims.iter().map(|(_, shard)| *shard).collect::<BTreeSet<_>>().into_iter().collect();
        let this = Self::new(source, source.describe(INDEX), &names)?;
        for (tensor, shard) in claims {
            if this.shard_of.get(tensor).and_then(|i| names.get(*i)) != Some(&shard) {
                return Err(ModelError::MissingTensor {
                    file: source.describe(shard),
                    tensor: tensor.into(),
                });
            }
        }
        Ok(this)
    }

    fn new(source: &Source, file: String, names: &[&str]) -> Result<Self, ModelError> {
        let shards: Vec<TensorFile> =
            names.iter().map(|name| TensorFile::open(source, name)).collect::<Result<_, _>>()?;
        let mut shard_of = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            for name in shard.names() {
                if let Some(first) = shard_of.insert(name.to_owned(), i) {
                    return Err(ModelError::DuplicateTensor {
                        tensor: name.into(),
                        first: shards[first].file().into(),
                        second: shard.file().into(),
                    });
                }
            }
        }
        Ok(Self { file, names: names.iter().map(|&name| name.into()).collect(), shards, shard_of })
    }

    /// The files that the tensors are in.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The names of all tensors of all shards, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.shard_of.keys().map(String::as_str)
    }

    /// Every tensor of every shard, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = Tensor<'_>> {
        // Every name is from its shard, so nothing is left out.
        self.names().filter_map(|name| self.get(name).ok())
    }

    /// A tensor by its name.
    pub fn get(&self, name: &str) -> Result<Tensor<'_>, ModelError> {
        match self.shard_of.get(name).and_then(|i| self.shards.get(*i)) {
            Some(shard) => shard.get(name),
            None => Err(ModelError::MissingTensor { file: self.file.clone(), tensor: name.into() }),
        }
    }
}

/// Whether a shard's name stays in its folder.
fn is_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Folder, TestTensor, safetensors_bytes, tensor_f32};

    fn one(name: &str) -> Vec<u8> {
        safetensors_bytes(&[value(name)])
    }

    fn value(name: &str) -> TestTensor {
        tensor_f32(name, &[1], &[1.0])
    }

    fn sharded(weight_map: &str) -> Folder {
        let folder = Folder::new();
        folder.write(INDEX, format!(r#"{{"weight_map": {weight_map}}}"#));
        folder.write("1.safetensors", one("a"));
        folder.write("2.safetensors", one("b"));
        folder
    }

    fn refusal(folder: &Folder) -> String {
        TensorIndex::open(&folder.source()).unwrap_err().to_string()
    }

    #[test]
    fn finds_tensors_in_their_shards() {
        let folder = sharded(r#"{"a": "1.safetensors", "b": "2.safetensors"}"#);
        let index = TensorIndex::open(&folder.source()).unwrap();
        assert!(index.get("a").unwrap().file.ends_with("1.safetensors"));
        assert!(index.get("b").unwrap().file.ends_with("2.safetensors"));
        assert!(index.get("c").unwrap_err().to_string().contains("index.json: tensor c is missing"));
    }

    #[test]
    fn names_the_shard_that_is_missing() {
        let message = refusal(&sharded(r#"{"a": "1.safetensors", "c": "3.safetensors"}"#));
        assert!(message.contains("3.safetensors: no such file"), "{message}");
    }

    #[test]
    fn names_the_tensor_that_its_shard_does_not_hold() {
        let message = refusal(&sharded(r#"{"a": "2.safetensors", "b": "2.safetensors"}"#));
        assert!(message.contains("2.safetensors: tensor a is missing"), "{message}");
        let message = refusal(&sharded(r#"{"a": "2.safetensors", "b": "1.safetensors"}"#));
        assert!(message.contains("2.safetensors: tensor a is missing"), "{message}");
    }

    #[test]
    fn refuses_a_tensor_in_two_shards() {
        let folder = sharded(r#"{"a": "1.safetensors", "b": "2.safetensors"}"#);
        folder.write("2.safetensors", safetensors_bytes(&[value("a"), value("b")]));
        let message = refusal(&folder);
        assert!(message.contains("tensor a is in") && message.contains("1.safetensors"), "{message}");
    }

    #[test]
    fn refuses_shards_outside_the_folder() {
        for shard in ["../1.safetensors", "/etc/passwd", "x/1.safetensors", "..", ""] {
            let message = refusal(&sharded(&format!(r#"{{"a": "{shard}"}}"#)));
            assert!(message.contains("weight_map.a must be the name of a file"), "{message}");
        }
        assert!(refusal(&sharded("[]")).contains("weight_map must be an object"));
    }

    #[test]
    fn says_that_pickles_are_not_read() {
        let folder = Folder::new();
        assert!(refusal(&folder).contains("model.safetensors: no such file"));
        folder.write("pytorch_model.bin", b"x");
        let message = refusal(&folder);
        assert!(message.contains("pytorch_model.bin") && message.contains("safetensors"), "{message}");
    }
}
