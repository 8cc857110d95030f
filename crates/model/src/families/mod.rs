//! The model families: for each its architecture's name, how its `config.json` is read, and what its
//! modules are called.
//!
//! A family is data. What a config means once it is read is in [`crate::ModelConfig`], and nothing
//! else in this crate knows a family's names.

mod llama;

use serde_json::Value;

use crate::json::Object;
use crate::{ModelConfig, ModelError, Proj};

/// Every family that can be opened.
const FAMILIES: [&Family; 1] = [&llama::LLAMA];

/// A family of models.
#[derive(Debug)]
pub(crate) struct Family {
    /// As in `architectures` of config.json.
    architecture: &'static str,
    /// Reads config.json.
    read: fn(&Object) -> Result<ModelConfig, ModelError>,
    /// What its modules are called.
    pub names: Names,
}

/// Module paths. A weight is `<module>.weight`, a bias `<module>.bias`.
#[derive(Debug)]
pub(crate) struct Names {
    /// The embedding.
    pub embedding: &'static str,
    /// The norm after the last layer.
    pub final_norm: &'static str,
    /// The output head, where it is not the embedding.
    pub head: &'static str,
    /// What a layer's number follows, with a dot between and another one after it.
    layers: &'static str,
    /// In a layer: the norm before attention.
    input_norm: &'static str,
    /// In a layer: the norm before the MLP.
    post_attention_norm: &'static str,
    /// In a layer: the path of a projection.
    projection: fn(Proj) -> &'static str,
}

/// A linear module of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Module {
    /// A projection of a layer, which may be out of range.
    Projection(usize, Proj),
    /// The output head.
    Head,
}

impl Names {
    /// The module path of a projection.
    pub fn projection(&self, layer: usize, proj: Proj) -> String {
        self.in_layer(layer, (self.projection)(proj))
    }

    /// The module path of the norm before attention.
    pub fn input_norm(&self, layer: usize) -> String {
        self.in_layer(layer, self.input_norm)
    }

    /// The module path of the norm before the MLP.
    pub fn post_attention_norm(&self, layer: usize) -> String {
        self.in_layer(layer, self.post_attention_norm)
    }

    /// The linear module that a path names, if there is one by that name in any layer.
    pub fn resolve(&self, path: &str) -> Option<Module> {
        if path == self.head {
            return Some(Module::Head);
        }
        let (layer, rest) = path.strip_prefix(self.layers)?.strip_prefix('.')?.split_once('.')?;
        let layer = layer.parse().ok()?;
        let proj = Proj::ALL.into_iter().find(|proj| (self.projection)(*proj) == rest)?;
        // `+1` and `01` are numbers too, but no names of layers.
        (self.projection(layer, proj) == path).then_some(Module::Projection(layer, proj))
    }

    fn in_layer(&self, layer: usize, module: &str) -> String {
        format!("{}.{layer}.{module}", self.layers)
    }
}

/// The architectures that can be opened, as `config.json` names them.
#[must_use]
pub fn supported_architectures() -> Vec<&'static str> {
    FAMILIES.iter().map(|family| family.architecture).collect()
}

/// Finds the family that a config is of and reads it.
pub(crate) fn read(config: &Object) -> Result<(&'static Family, ModelConfig), ModelError> {
    let supported = supported_architectures().join(", ");
    let Some(Value::Array(names)) = config.get("architectures") else {
        return Err(config.error("architectures", format!("a list that names one of: {supported}")));
    };
    let known = |name: &Value| FAMILIES.into_iter().find(|family| Some(family.architecture) == name.as_str());
    match names.iter().find_map(known) {
        Some(family) => Ok((family, (family.read)(config)?)),
        None => Err(config.unsupported("architectures", supported)),
    }
}
