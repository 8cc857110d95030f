//! A head as the bytes of its file.

use std::collections::HashMap;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError};
use serde_json::json;

use super::{RouterHead, VERSION};
use crate::ModelError;

/// The metadata's one entry.
pub(super) const HEADER: &str = "router";

impl RouterHead {
    /// The bytes of its file. The same head always has the same bytes.
    ///
    /// # Errors
    /// If its parts are not of one size.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let refused = |error: SafeTensorError| ModelError::Safetensors {
            file: format!("the router of model {}", self.model),
            reason: error.to_string(),
        };
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let (weight, bias): (Vec<u8>, Vec<u8>) = (bytes(&self.weight), bytes(&self.bias));
        let labels = self.labels.len();
        let views = [
            ("weight", TensorView::new(Dtype::F32, vec![labels, self.features()], &weight)),
            ("bias", TensorView::new(Dtype::F32, vec![labels], &bias)),
        ];
        let views = views.into_iter().map(|(name, view)| Ok((name, view.map_err(refused)?)));
        let views = views.collect::<Result<Vec<_>, ModelError>>()?;
        // One entry, so that its order is not a hash's.
        let metadata = HashMap::from([(HEADER.to_owned(), self.header())]);
        safetensors::serialize(views, Some(metadata)).map_err(refused)
    }

    fn header(&self) -> String {
        let names: Vec<&str> = self.labels.iter().map(|label| label.name.as_str()).collect();
        let adapters: Vec<Option<String>> =
            self.labels.iter().map(|label| label.adapter.map(|digest| digest.to_string())).collect();
        json!({
            "version": VERSION,
            "model": self.model.to_string(),
            "data": self.origin.data,
            "data_digest": self.origin.data_digest.to_string(),
            "prompts": self.origin.prompts,
            "chat": self.origin.is_chat,
            "layers": self.looks.layers,
            "pooling": self.looks.pooling.name(),
            "tokens": self.looks.tokens,
            "temperature": self.temperature,
            "labels": names,
            "adapters": adapters,
        })
        .to_string()
    }
}
