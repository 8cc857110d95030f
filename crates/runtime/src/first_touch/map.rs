//! A map over all layers as weights of a backend, and translating with it as a step: reads exact pages and writes them. When
//! and what is translated is not known here.
//!
//! What the map means is defined by `joint_low_rank` of the reference: from the base's keys, turned back, and values of all
//! layers, the token's embedding and 1, through columns of low rank, to differences over scales. Here scales are multiplied
//! into what comes out, and what 1 contributes is a bias. Where a backend multiplies quantised activations with weights of 8
//! bits, that is what the factors are: it is several times as fast, and what it rounds is little beside what the map leaves.

use half::f16;
use interleaf_contract::{
    Backend, BackendError, Bytes, Dtype, Matrix, MatrixId, Numerics, Op, Projection, ProjectionId, RopeId,
    RowSet, Step,
};
use interleaf_model::{JointCalibration, ModelConfig, q8_0_matrix};

/// Columns of a map that are used, the strongest: of two trained models twice as many took twice the time and lost hardly less.
pub const RANK: usize = 64;

/// Handles of one adapter's map.
#[derive(Debug)]
pub struct Map {
    rank: u32,
    /// From keys and values of all layers, and from the embedding.
    down: [ProjectionId; 2],
    /// By layer, to keys and to values; `None` where the adapter leaves both.
    up: Vec<Option<[ProjectionId; 2]>>,
    /// Bytes of its weights.
    pub bytes: u64,
}

/// What a translation reads besides pages.
pub struct Model<'a> {
    pub config: &'a ModelConfig,
    pub embedding: MatrixId,
    pub ropes: &'a [RopeId],
}

impl Map {
    /// Makes a map resident: its factors in 8 bits, or as f16 numbers, which a calibration's file has them in.
    ///
    /// # Errors
    /// If there is no room; nothing is held then.
    pub fn new(
        name: &str,
        config: &ModelConfig,
        joint: &JointCalibration,
        backend: &mut dyn Backend,
    ) -> Result<Self, BackendError> {
        let mut upload = Upload { name, backend, made: Vec::new(), bytes: 0 };
        match upload.map(config, joint) {
            Ok((down, up)) => {
                let rank = columns(joint.rank().min(RANK));
                Ok(Self { rank, down, up, bytes: upload.bytes })
            }
            Err(error) => {
                let made = std::mem::take(&mut upload.made);
                upload.backend.drop_projections(&made)?;
                Err(error)
            }
        }
    }

    /// Gives it back.
    ///
    /// # Errors
    /// If the backend does not know it.
    pub fn drop_from(&self, backend: &mut dyn Backend) -> Result<(), BackendError> {
        let all: Vec<ProjectionId> =
            self.down.iter().chain(self.up.iter().flatten().flatten()).copied().collect();
        backend.drop_projections(&all)
    }

    /// Records the translation of a step's rows, whose pages hold the base's keys and values.
    pub fn record(&self, step: &mut Step, model: &Model<'_>) {
        let Model { config, embedding, ropes } = model;
        let width = columns(config.kv_heads * config.head_dim);
        let layers = columns(config.layers);
        let all = |step: &mut Step, columns| step.tensor(RowSet::All, columns);
        let (x, e) = (all(step, 2 * layers * width), all(step, columns(config.hidden_size)));
        let [z, of_e] = [0; 2].map(|_| all(step, self.rank));
        let [k, v] = [0; 2].map(|_| all(step, width));
        let rope = |layer: u32| {
            let kind = config.layer_kinds.get(layer as usize)?;
            kind.rope.and_then(|rope| ropes.get(rope).copied())
        };
        for layer in 0..layers {
            step.push(Op::KvRead { layer, rope: rope(layer), out: x, at: 2 * layer * width });
        }
        step.push(Op::Embed { table: *embedding, scale: 1.0, out: e });
        for (x, down, z) in [(x, self.down[0], z), (e, self.down[1], of_e)] {
            step.push(Op::LoraMatmul { x, projections: vec![(down, z)] });
        }
        step.push(Op::Add { x: z, from: of_e, at: 0 });
        for (layer, up) in (0..layers).zip(&self.up) {
            let Some([to_k, to_v]) = *up else { continue };
            step.push(Op::LoraMatmul { x: z, projections: vec![(to_k, k), (to_v, v)] });
            let at = 2 * layer * width;
            step.push(Op::Add { x: k, from: x, at });
            step.push(Op::Add { x: v, from: x, at: at + width });
            if let Some(table) = rope(layer) {
                step.push(Op::Rope { x: k, head_dim: columns(config.head_dim), table });
            }
            step.push(Op::KvAppend { layer, k, v });
        }
    }
}

fn columns(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Weights on their way.
struct Upload<'a> {
    name: &'a str,
    backend: &'a mut dyn Backend,
    made: Vec<ProjectionId>,
    bytes: u64,
}

type Factors = ([ProjectionId; 2], Vec<Option<[ProjectionId; 2]>>);

impl Upload<'_> {
    fn map(&mut self, config: &ModelConfig, joint: &JointCalibration) -> Result<Factors, BackendError> {
        let (all, width) = (joint.rank(), config.kv_heads * config.head_dim);
        let rank = all.min(RANK);
        let outputs = 2 * config.layers * width;
        // What is multiplied into one factor and divided out of the other, so that scales of both fit their blocks.
        let largest = |values: &[f32]| values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let of_up = largest(&joint.up) * largest(&joint.scales);
        let balance = (of_up / largest(&joint.down)).sqrt().log2().round().exp2();
        let balance = if balance.is_normal() { balance } else { 1.0 };
        let bias = &joint.down[(outputs + config.hidden_size) * all..][..rank];
        let bias: Vec<f32> = bias.iter().map(|value| value * balance).collect();
        let down = |first: usize| {
            move |column: usize, input: usize| balance * joint.down[(first + input) * all + column]
        };
        let [of_kv] = self.projections([("down", rank, outputs)], Some(&bias), |_| down(0))?;
        let [of_e] =
            self.projections([("down.embedding", rank, config.hidden_size)], None, |_| down(outputs))?;
        let mut up = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let scales = &joint.scales[2 * layer..2 * layer + 2];
            if scales.iter().all(|scale| *scale == 0.0) {
                up.push(None);
                continue;
            }
            let of = |half: usize| {
                let first = (2 * layer + half) * width;
                move |output: usize, column: usize| {
                    joint.up[column * outputs + first + output] * scales[half] / balance
                }
            };
            up.push(Some(self.projections([("up.k", width, rank), ("up.v", width, rank)], None, of)?));
        }
        Ok(([of_kv, of_e], up))
    }

    fn matrix(&self, name: String, rows: usize, cols: usize, values: &[f32]) -> Result<Matrix, BackendError> {
        if self.backend.info().numerics == Numerics::ActQ8_0
            && let Some(matrix) = q8_0_matrix(name.clone(), rows, cols, values)
        {
            return Ok(matrix);
        }
        let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
        Ok(Matrix::new(name, Dtype::F16, rows, cols, Bytes::copy_from_slice(bytemuck::cast_slice(&halves)))?)
    }

    /// Linear layers that read the same input: a name, outputs and inputs each, and what `of` each weighs an input for an output.
    fn projections<const N: usize, W: Fn(usize, usize) -> f32>(
        &mut self,
        shapes: [(&str, usize, usize); N],
        bias: Option<&[f32]>,
        of: impl Fn(usize) -> W,
    ) -> Result<[ProjectionId; N], BackendError> {
        let mut matrices = Vec::with_capacity(N);
        for (place, (part, rows, cols)) in shapes.into_iter().enumerate() {
            let weight = of(place);
            let weights = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
            let values: Vec<f32> = weights.map(|(row, col)| weight(row, col)).collect();
            let name = format!("the translation of {}: {part}", self.name);
            matrices.push(self.matrix(name, rows, cols, &values)?);
        }
        let bytes: usize = matrices.iter().map(|matrix| matrix.data().len()).sum();
        let names: Vec<String> = matrices.iter().map(|matrix| matrix.name().to_owned()).collect();
        let mut ids = [ProjectionId(0); N];
        let created = self.backend.create_matrices(matrices)?;
        for ((id, matrix), name) in ids.iter_mut().zip(created).zip(names) {
            let bias =
                bias.map(|values| self.backend.create_vector(&format!("{name}.bias"), values)).transpose()?;
            *id = self.backend.create_projection(Projection { name, matrix, bias })?;
            self.made.push(*id);
        }
        self.bytes += (bytes + bias.map_or(0, size_of_val)) as u64;
        Ok(ids)
    }
}
