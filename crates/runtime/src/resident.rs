//! The base model on a backend: every tensor uploaded once, in the format asked for, one at a time.

use interleaf_contract::{Backend, MatrixId, Projection, ProjectionId, VectorId};
use interleaf_model::{Model, Proj, ProjectionWeights, WeightFormat};

use crate::{EngineError, LoadProgress};

/// Handles of one layer.
#[derive(Debug)]
pub struct Layer {
    /// Before attention.
    pub input_norm: VectorId,
    /// Queries, keys, values.
    pub qkv: [ProjectionId; 3],
    /// The attention's output projection.
    pub o: ProjectionId,
    /// Before the MLP.
    pub post_attention_norm: VectorId,
    /// Gate and up.
    pub gate_up: [ProjectionId; 2],
    /// Down.
    pub down: ProjectionId,
}

/// Handles of a whole model.
#[derive(Debug)]
pub struct Resident {
    /// The embedding.
    pub embedding: MatrixId,
    /// The layers.
    pub layers: Vec<Layer>,
    /// Before the head.
    pub final_norm: VectorId,
    /// The head.
    pub head: ProjectionId,
    /// Every projection by its module path, for adapters to attach to.
    pub modules: Vec<(String, ProjectionId)>,
}

/// Uploads a model's weights.
pub fn upload(
    model: &Model,
    format: WeightFormat,
    backend: &mut dyn Backend,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Resident, EngineError> {
    let layers = model.config().layers;
    let embedding = backend.create_matrix(model.embedding(format)?)?;
    let mut loader = Loader { model, format, backend, modules: Vec::new() };
    let mut resident_layers = Vec::with_capacity(layers);
    for layer in 0..layers {
        progress(LoadProgress { done: layer, total: layers });
        resident_layers.push(loader.layer(layer)?);
    }
    progress(LoadProgress { done: layers, total: layers });
    let final_norm = loader.vector(model.final_norm()?)?;
    let head_matrix = match model.head(format)? {
        Some(matrix) => loader.backend.create_matrix(matrix)?,
        None => embedding,
    };
    let name = model.head_name().to_owned();
    let head = loader.backend.create_projection(Projection {
        name: name.clone(),
        matrix: head_matrix,
        bias: None,
    })?;
    let mut modules = loader.modules;
    modules.push((name, head));
    Ok(Resident { embedding, layers: resident_layers, final_norm, head, modules })
}

struct Loader<'a> {
    model: &'a Model,
    format: WeightFormat,
    backend: &'a mut dyn Backend,
    modules: Vec<(String, ProjectionId)>,
}

impl Loader<'_> {
    fn layer(&mut self, layer: usize) -> Result<Layer, EngineError> {
        let input_norm = self.vector(self.model.input_norm(layer)?)?;
        let mut projection = |proj| self.projection(layer, proj);
        let qkv = [projection(Proj::Q)?, projection(Proj::K)?, projection(Proj::V)?];
        let o = projection(Proj::O)?;
        let gate_up = [projection(Proj::Gate)?, projection(Proj::Up)?];
        let down = projection(Proj::Down)?;
        let post_attention_norm = self.vector(self.model.post_attention_norm(layer)?)?;
        Ok(Layer { input_norm, qkv, o, post_attention_norm, gate_up, down })
    }

    fn vector(&mut self, weights: interleaf_model::NormWeights) -> Result<VectorId, EngineError> {
        Ok(self.backend.create_vector(&weights.name, &weights.values)?)
    }

    fn projection(&mut self, layer: usize, proj: Proj) -> Result<ProjectionId, EngineError> {
        let ProjectionWeights { name, matrix, bias } = self.model.projection(layer, proj, self.format)?;
        let matrix = self.backend.create_matrix(matrix)?;
        let bias = match bias {
            Some(values) => Some(self.backend.create_vector(&format!("{name}.bias"), &values)?),
            None => None,
        };
        let id = self.backend.create_projection(Projection { name: name.clone(), matrix, bias })?;
        self.modules.push((name, id));
        Ok(id)
    }
}
