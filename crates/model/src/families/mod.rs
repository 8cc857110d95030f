//! The model families: for each its architecture's name, how its `config.json` is read, and what its
//! modules are called.
//!
//! A family is data. What a config means once it is read is in [`crate::ModelConfig`], and nothing
//! else in this crate knows a family's names.

mod fields;
mod gemma;
mod gemma2;
mod gemma3;
mod llama;
mod phi3;
mod qwen2;
mod qwen3;
mod smollm3;

use serde_json::Value;

use crate::json::Object;
use crate::{ModelConfig, ModelError, Proj};

/// Every family that can be opened.
const FAMILIES: [&Family; 7] = [
    &llama::LLAMA,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &smollm3::SMOLLM3,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &phi3::PHI3,
];

/// The names of Llama, which most families keep.
const NAMES: Names = Names {
    embedding: "model.embed_tokens",
    final_norm: "model.norm",
    head: "lm_head",
    layers: "model.layers",
    input_norm: "input_layernorm",
    attention_out_norm: None,
    mlp_norm: "post_attention_layernorm",
    mlp_out_norm: None,
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    projection,
};

fn projection(proj: Proj) -> Place {
    let module = match proj {
        Proj::Q => "self_attn.q_proj",
        Proj::K => "self_attn.k_proj",
        Proj::V => "self_attn.v_proj",
        Proj::O => "self_attn.o_proj",
        Proj::Gate => "mlp.gate_proj",
        Proj::Up => "mlp.up_proj",
        Proj::Down => "mlp.down_proj",
    };
    Place { module, part: None }
}

/// A family of models.
#[derive(Debug)]
pub(crate) struct Family {
    /// As in `architectures` of config.json.
    pub architecture: &'static str,
    /// Reads config.json.
    read: fn(&Object) -> Result<ModelConfig, ModelError>,
    /// What its modules are called.
    pub names: Names,
    /// What every norm's stored weights lack: they multiply by `offset + weight`.
    pub norm_offset: f32,
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
    pub input_norm: &'static str,
    /// In a layer: the norm of attention's output, where there is one.
    pub attention_out_norm: Option<&'static str>,
    /// In a layer: the norm before the MLP.
    pub mlp_norm: &'static str,
    /// In a layer: the norm of the MLP's output, where there is one.
    pub mlp_out_norm: Option<&'static str>,
    /// In a layer: the norm of each query head, where heads are normed.
    pub q_norm: &'static str,
    /// In a layer: the norm of each key head, likewise.
    pub k_norm: &'static str,
    /// In a layer: where a projection is.
    projection: fn(Proj) -> Place,
}

/// Where a projection's rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// The module's path in its layer.
    module: &'static str,
    /// What these rows are called where the module has others too. Those before them are the module's
    /// other parts in the order of [`Proj::ALL`].
    part: Option<&'static str>,
}

/// A linear module of a model, which may be out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Module {
    /// The module of a layer whose first rows, or all, are those of a projection.
    Projection(usize, Proj),
    /// The output head.
    Head,
}

impl Names {
    /// The path of a projection: its module's, with `#` and the part's name where it is not all of it.
    pub fn projection(&self, layer: usize, proj: Proj) -> String {
        let Place { module, part } = (self.projection)(proj);
        match part {
            Some(part) => format!("{}#{part}", self.in_layer(layer, module)),
            None => self.in_layer(layer, module),
        }
    }

    /// The path of the module that a projection is, or is part of.
    pub fn projection_module(&self, layer: usize, proj: Proj) -> String {
        self.in_layer(layer, (self.projection)(proj).module)
    }

    /// The projections of the module that a projection is, or is part of, in the order of their rows.
    pub fn parts(&self, proj: Proj) -> impl Iterator<Item = Proj> + use<> {
        let place = self.projection;
        Proj::ALL.into_iter().filter(move |other| place(*other).module == place(proj).module)
    }

    /// The linear module that a path names, if there is one by that name in any layer.
    pub fn resolve(&self, path: &str) -> Option<Module> {
        if path == self.head {
            return Some(Module::Head);
        }
        let (layer, rest) = self.split(path)?;
        let layer = layer.parse().ok()?;
        let proj = Proj::ALL.into_iter().find(|proj| (self.projection)(*proj).module == rest)?;
        // `+1` and `01` are numbers too, but no names of layers.
        (self.projection_module(layer, proj) == path).then_some(Module::Projection(layer, proj))
    }

    /// The path of a module in a layer.
    pub fn in_layer(&self, layer: usize, module: &str) -> String {
        format!("{}.{layer}.{module}", self.layers)
    }

    /// Splits what is in a layer into the layer's name and the path from there.
    pub fn split<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        path.strip_prefix(self.layers)?.strip_prefix('.')?.split_once('.')
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

/// Reads a config by whichever family it names.
#[cfg(test)]
fn read_config(config: &Value) -> Result<ModelConfig, ModelError> {
    let object = Object::parse("config.json".into(), &config.to_string())?;
    read(&object).map(|(_, config)| config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_resolve_to_modules_and_back() {
        for family in FAMILIES {
            let names = &family.names;
            for proj in Proj::ALL {
                let first = names.parts(proj).next().unwrap();
                let path = names.projection_module(11, proj);
                assert_eq!(names.resolve(&path), Some(Module::Projection(11, first)), "{path}");
            }
            assert_eq!(names.resolve("lm_head"), Some(Module::Head));
            for path in [
                "model.layers.0.self_attn.z_proj",
                "model.layers.01.self_attn.o_proj",
                "model.layers.+1.self_attn.o_proj",
                "model.layers.self_attn.o_proj",
                "model.layers0.self_attn.o_proj",
                "model.layers.0.self_attn.qkv_proj#q",
                "model.embed_tokens",
                "",
            ] {
                assert_eq!(names.resolve(path), None, "{path}");
            }
        }
    }

    #[test]
    fn parts_of_a_module_have_names_of_their_own() {
        let names = &phi3::PHI3.names;
        assert_eq!(names.projection(2, Proj::Q), "model.layers.2.self_attn.qkv_proj#q");
        assert_eq!(names.projection(2, Proj::Up), "model.layers.2.mlp.gate_up_proj#up");
        assert_eq!(names.projection(2, Proj::Down), "model.layers.2.mlp.down_proj");
        assert_eq!(names.parts(Proj::V).collect::<Vec<_>>(), [Proj::Q, Proj::K, Proj::V]);
        assert_eq!(names.parts(Proj::Gate).collect::<Vec<_>>(), [Proj::Gate, Proj::Up]);
        assert_eq!(names.parts(Proj::O).collect::<Vec<_>>(), [Proj::O]);
        assert_eq!(names.resolve("model.layers.2.self_attn.q_proj"), None);
    }
}
