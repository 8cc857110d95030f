//! A head from its file: bound to its model, and every tensor checked.

use super::{Looks, MOST_LABELS, MOST_SCORED, Pooling, RouterHead, RouterLabel, RouterOrigin, VERSION};
use crate::config::limits;
use crate::json::Object;
use crate::tensor_file::TensorFile;
use crate::{Digest, ModelConfig, ModelError, Source};

impl RouterHead {
    /// Reads a head. `model` is the digest of the model that it is to be for, `config` that model's.
    ///
    /// # Errors
    /// If the file is missing or damaged, is of another version or model, lacks a tensor, or a tensor has the wrong shape or a
    /// value that is not finite.
    pub fn read(
        source: &Source,
        file: &str,
        config: &ModelConfig,
        model: Digest,
    ) -> Result<Self, ModelError> {
        let file = &TensorFile::open(source, file)?;
        let header = Object::of_metadata(file, super::write::HEADER)?;
        if header.size("version", limits::LONG)? != VERSION {
            return Err(header.unsupported("version", VERSION.to_string()));
        }
        if digest(&header, "model")? != Some(model) {
            return Err(header.error("model", model.to_string()));
        }
        let looks = looks(&header, config)?;
        let labels = labels(&header)?;
        let values = |name: &str, shape: &[usize]| {
            let tensor = file.get(name)?;
            tensor.expect(shape)?;
            tensor.vector()
        };
        Ok(Self {
            model,
            origin: origin(&header)?,
            temperature: header.positive("temperature")? as f32,
            weight: values("weight", &[labels.len(), looks.features(config.hidden_size)])?,
            bias: values("bias", &[labels.len()])?,
            looks,
            labels,
        })
    }
}

fn digest(header: &Object, field: &str) -> Result<Option<Digest>, ModelError> {
    let wrong = || header.error(field, "64 hexadecimal digits");
    header.string(field)?.map(|text| Digest::from_hex(text).ok_or_else(wrong)).transpose()
}

fn origin(header: &Object) -> Result<RouterOrigin, ModelError> {
    Ok(RouterOrigin {
        data: header.string("data")?.ok_or_else(|| header.error("data", "a string"))?.into(),
        data_digest: digest(header, "data_digest")?
            .ok_or_else(|| header.error("data_digest", "64 hexadecimal digits"))?,
        prompts: header.size("prompts", limits::LONG)?,
        is_chat: header.boolean("chat")?.ok_or_else(|| header.error("chat", "true or false"))?,
    })
}

fn looks(header: &Object, config: &ModelConfig) -> Result<Looks, ModelError> {
    let pooling = header.string("pooling")?.and_then(Pooling::named);
    let pooling = pooling.ok_or_else(|| {
        let names = Pooling::ALL.map(Pooling::name).join(", ");
        header.error("pooling", format!("one of {names}"))
    })?;
    let layers = header.list("layers")?.unwrap_or_default().iter();
    let layers: Option<Vec<usize>> =
        layers.map(|layer| layer.as_u64().and_then(|layer| usize::try_from(layer).ok())).collect();
    let is_lawful = |layers: &Vec<usize>| {
        layers.windows(2).all(|pair| pair[0] < pair[1])
            && layers.last().is_some_and(|last| *last <= config.layers)
    };
    let layers = layers.filter(is_lawful).ok_or_else(|| {
        header.error("layers", format!("at least one number from 0 to {}, ascending", config.layers))
    })?;
    let tokens = header.size("tokens", MOST_SCORED)?;
    Ok(Looks { layers, pooling, tokens })
}

fn labels(header: &Object) -> Result<Vec<RouterLabel>, ModelError> {
    let wrong = || header.error("labels", format!("from 1 to {MOST_LABELS} different names"));
    let names = header.list("labels")?.filter(|list| (1..=MOST_LABELS).contains(&list.len()));
    let names: Option<Vec<&str>> = names.ok_or_else(wrong)?.iter().map(|name| name.as_str()).collect();
    let names = names.ok_or_else(wrong)?;
    let mut sorted = names.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(wrong());
    }
    let unknown = || header.error("adapters", "for each label 64 hexadecimal digits, or null");
    let digests = header.list("adapters")?.filter(|list| list.len() == names.len()).ok_or_else(unknown)?;
    let label = |(name, digest): (&str, &serde_json::Value)| {
        let adapter = match digest {
            serde_json::Value::Null => None,
            text => Some(text.as_str().and_then(Digest::from_hex).ok_or_else(unknown)?),
        };
        Ok(RouterLabel { name: name.into(), adapter })
    };
    names.into_iter().zip(digests).map(label).collect()
}
