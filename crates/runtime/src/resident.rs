//! The base model on a backend: every tensor uploaded once, in the format asked for, one at a time.

use interleaf_contract::{Backend, LoraSite, MatrixId, Projection, ProjectionId, VectorId};
use interleaf_kv::shared_layers;
use interleaf_model::{LayerKind, Model, NormWeights, Proj, ProjectionWeights, WeightFormat};

use crate::{EngineError, LoadProgress};

/// Handles of one layer. Norms that a family does not have are `None`.
#[derive(Debug)]
pub struct Layer {
    /// Rope and window.
    pub kind: LayerKind,
    /// Before attention.
    pub input_norm: VectorId,
    /// Queries, keys, values.
    pub qkv: [ProjectionId; 3],
    /// On each head of the queries and of the keys, before the rotary embedding.
    pub head_norms: Option<[VectorId; 2]>,
    /// The attention's output projection.
    pub o: ProjectionId,
    /// On the attention's result, before it joins the residual stream.
    pub attention_out_norm: Option<VectorId>,
    /// Before the MLP.
    pub mlp_norm: VectorId,
    /// Gate and up.
    pub gate_up: [ProjectionId; 2],
    /// Down.
    pub down: ProjectionId,
    /// On the MLP's result, before it joins the residual stream.
    pub mlp_out_norm: Option<VectorId>,
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
    /// What a step reads of all this.
    pub bytes: WeightBytes,
}

impl Resident {
    /// Leading layers whose K and V an adapter leaves as they are.
    pub fn shared_layers(&self, sites: &[LoraSite]) -> usize {
        let changed = |site: &LoraSite| {
            // The head is in no layer and changes none.
            let index = self.layer_of(site)?;
            Some((index, self.layers[index].qkv[1..].contains(&site.projection)))
        };
        shared_layers(self.layers.len(), sites.iter().filter_map(changed))
    }

    fn layer_of(&self, site: &LoraSite) -> Option<usize> {
        let is_own = |layer: &Layer| {
            let own = [&layer.qkv[..], &[layer.o], &layer.gate_up[..], &[layer.down]];
            own.iter().any(|ids| ids.contains(&site.projection))
        };
        self.layers.iter().position(is_own)
    }

    /// Bytes of an adapter's factors in each layer; what it does to the head counts with the last.
    pub fn factor_bytes(&self, sites: &[LoraSite]) -> Vec<u64> {
        let mut bytes = vec![0; self.layers.len()];
        for site in sites {
            let layer = self.layer_of(site).unwrap_or(self.layers.len() - 1);
            bytes[layer] += (site.a.data().len() + site.b.data().len()) as u64;
        }
        bytes
    }
}

/// Bytes of weights as they are kept, by what reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WeightBytes {
    /// Matrices, biases and norms of all layers: every step reads them.
    pub layers: u64,
    /// The output head and the norm before it: steps that want logits read them.
    pub head: u64,
}

/// Uploads a model's weights.
pub fn upload(
    model: &Model,
    format: WeightFormat,
    backend: &mut dyn Backend,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Resident, EngineError> {
    let total = model.config().layers;
    let matrix = model.embedding(format)?;
    let mut head_bytes = matrix.data().len();
    let embedding = backend.create_matrix(matrix)?;
    let mut loader = Loader { model, format, backend, modules: Vec::new(), read: 0 };
    let mut layers = Vec::with_capacity(total);
    for (done, kind) in model.config().layer_kinds.iter().enumerate() {
        progress(LoadProgress { done, total });
        layers.push(loader.layer(done, *kind)?);
    }
    progress(LoadProgress { done: total, total });
    let layer_bytes = std::mem::take(&mut loader.read);
    let final_norm = loader.vector(model.final_norm()?)?;
    let matrix = match model.head(format)? {
        Some(matrix) => {
            head_bytes = matrix.data().len();
            loader.backend.create_matrix(matrix)?
        }
        None => embedding,
    };
    let name = model.head_name().to_owned();
    let head = loader.backend.create_projection(Projection { name: name.clone(), matrix, bias: None })?;
    let bytes = WeightBytes { layers: layer_bytes as u64, head: (loader.read + head_bytes) as u64 };
    let mut modules = loader.modules;
    modules.push((name, head));
    Ok(Resident { embedding, layers, final_norm, head, modules, bytes })
}

struct Loader<'a> {
    model: &'a Model,
    format: WeightFormat,
    backend: &'a mut dyn Backend,
    modules: Vec<(String, ProjectionId)>,
    /// Bytes uploaded since it was last asked for.
    read: usize,
}

impl Loader<'_> {
    fn layer(&mut self, layer: usize, kind: LayerKind) -> Result<Layer, EngineError> {
        let model = self.model;
        let qkv = self.projections(layer, [Proj::Q, Proj::K, Proj::V])?;
        let [o] = self.projections(layer, [Proj::O])?;
        let gate_up = self.projections(layer, [Proj::Gate, Proj::Up])?;
        let [down] = self.projections(layer, [Proj::Down])?;
        let head_norms = match (model.q_norm(layer)?, model.k_norm(layer)?) {
            (Some(q), Some(k)) => Some([self.vector(q)?, self.vector(k)?]),
            _ => None,
        };
        Ok(Layer {
            kind,
            input_norm: self.vector(model.input_norm(layer)?)?,
            qkv,
            head_norms,
            o,
            attention_out_norm: self.optional(model.attention_out_norm(layer)?)?,
            mlp_norm: self.vector(model.mlp_norm(layer)?)?,
            gate_up,
            down,
            mlp_out_norm: self.optional(model.mlp_out_norm(layer)?)?,
        })
    }

    fn vector(&mut self, weights: NormWeights) -> Result<VectorId, EngineError> {
        self.read += size_of_val(&*weights.values);
        Ok(self.backend.create_vector(&weights.name, &weights.values)?)
    }

    fn optional(&mut self, weights: Option<NormWeights>) -> Result<Option<VectorId>, EngineError> {
        weights.map(|weights| self.vector(weights)).transpose()
    }

    /// Projections that share an input.
    fn projections<const N: usize>(
        &mut self,
        layer: usize,
        of: [Proj; N],
    ) -> Result<[ProjectionId; N], EngineError> {
        let mut matrices = Vec::with_capacity(N);
        let mut parts = Vec::with_capacity(N);
        for proj in of {
            let ProjectionWeights { name, matrix, bias } = self.model.projection(layer, proj, self.format)?;
            self.read += matrix.data().len() + bias.as_deref().map_or(0, size_of_val);
            matrices.push(matrix);
            parts.push((name, bias));
        }
        let mut ids = [ProjectionId(0); N];
        let created = self.backend.create_matrices(matrices)?;
        for ((id, (name, bias)), matrix) in ids.iter_mut().zip(parts).zip(created) {
            let bias = match bias {
                Some(values) => Some(self.backend.create_vector(&format!("{name}.bias"), &values)?),
                None => None,
            };
            *id = self.backend.create_projection(Projection { name: name.clone(), matrix, bias })?;
            self.modules.push((name, *id));
        }
        Ok(ids)
    }
}
