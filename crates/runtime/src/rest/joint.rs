//! Chunks at rest as numbers: predicted from the base's, and what is left as coefficients. Touches no device; what the numbers
//! mean is defined by `joint_low_rank` of the reference.

use interleaf_contract::{CHUNK_TOKENS, JointCodec, Matrix, RopeTable};
use interleaf_kernels_ref::joint_low_rank::{load, store};
use interleaf_kernels_ref::{rope, weight};
use interleaf_model::{JointCalibration, ModelConfig};

use super::panels::Panels;

/// K and V of a chunk in each layer, keys as pages hold them: tokens × width each, where channel `head_dim · kv_head + element`
/// of `width` is one element.
pub type Numbers = Vec<[Vec<f32>; 2]>;

/// What an adapter's chunks at rest are decoded with.
#[derive(Debug)]
pub struct Joint {
    width: usize,
    head_dim: usize,
    /// The rope of each layer's keys.
    by_layer: Vec<Option<usize>>,
    tables: Vec<RopeTable>,
    embedding: Matrix,
    /// From the base's keys and values, the token's embedding and 1 to what is between.
    down: Panels,
    /// From there to differences, over their scales.
    up: Panels,
    /// From what that leaves, over its scales, to coefficients.
    coefficients: Panels,
    /// And back.
    directions: Panels,
    scales: Vec<f32>,
}

impl Joint {
    /// For so many positions.
    pub fn new(config: &ModelConfig, joint: &JointCalibration, embedding: Matrix, positions: usize) -> Self {
        let width = config.kv_heads * config.head_dim;
        let (outputs, rank) = (2 * config.layers * width, joint.rank());
        let (inputs, residual) = (outputs + embedding.cols() + 1, &joint.residual);
        Self {
            width,
            head_dim: config.head_dim,
            by_layer: config.layer_kinds.iter().map(|kind| kind.rope).collect(),
            tables: config.ropes.iter().map(|rope| rope.table(positions)).collect(),
            embedding,
            down: Panels::new(inputs, rank, |input, column| joint.down[input * rank + column]),
            up: Panels::new(rank, outputs, |column, output| joint.up[column * outputs + output]),
            coefficients: Panels::new(outputs, residual.rank(), |output, direction| {
                residual.rows[direction * outputs + output]
            }),
            directions: Panels::new(residual.rank(), outputs, |direction, output| {
                residual.rows[direction * outputs + output]
            }),
            scales: joint.scales.clone(),
        }
    }

    /// Stores a chunk, `JointCodec::chunk_bytes` of a codec that the map has directions for.
    pub fn encode(
        &self,
        codec: JointCodec,
        tokens: &[u32; CHUNK_TOKENS],
        chunk: u32,
        base: &Numbers,
        own: &Numbers,
    ) -> Vec<u8> {
        let base = self.joined(base, chunk);
        let mut left = self.joined(own, chunk);
        left.iter_mut().zip(&base).for_each(|(own, base)| *own -= base);
        self.scale(&mut left, |scale| if scale == 0.0 { 0.0 } else { 1.0 / scale });
        let predicted = self.predicted(tokens, &base);
        left.iter_mut().zip(&predicted).for_each(|(left, predicted)| *left -= predicted);
        let all = self.coefficients.times(&left, self.outputs());
        let mut bytes = vec![0; codec.chunk_bytes()];
        let of_tokens = all.chunks_exact(self.coefficients.outputs().max(1));
        for (all, bytes) in of_tokens.zip(bytes.chunks_exact_mut(codec.token_bytes())) {
            store(codec, &all[..usize::from(codec.rank).min(all.len())], bytes);
        }
        bytes
    }

    /// What was stored, keys as pages hold them.
    pub fn decode(
        &self,
        codec: JointCodec,
        tokens: &[u32; CHUNK_TOKENS],
        chunk: u32,
        base: &Numbers,
        bytes: &[u8],
    ) -> Numbers {
        let base = self.joined(base, chunk);
        let mut difference = self.predicted(tokens, &base);
        let rank = usize::from(codec.rank);
        let mut coefficients = vec![0.0; CHUNK_TOKENS * rank];
        let of_tokens = bytes.chunks_exact(codec.token_bytes());
        for (coefficients, bytes) in coefficients.chunks_exact_mut(rank).zip(of_tokens) {
            load(codec, bytes, coefficients);
        }
        let left = self.directions.times(&coefficients, rank);
        difference.iter_mut().zip(&left).for_each(|(difference, left)| *difference += left);
        self.scale(&mut difference, |scale| scale);
        difference.iter_mut().zip(&base).for_each(|(value, base)| *value += base);
        self.parted(&difference, chunk)
    }

    /// Values of a token in all layers.
    fn outputs(&self) -> usize {
        2 * self.by_layer.len() * self.width
    }

    /// Differences from the base's, over their scales.
    fn predicted(&self, tokens: &[u32; CHUNK_TOKENS], base: &[f32]) -> Vec<f32> {
        let mut embedded = vec![0.0; self.embedding.cols()];
        let inputs = self.outputs() + embedded.len() + 1;
        let mut x = Vec::with_capacity(CHUNK_TOKENS * inputs);
        for (token, base) in tokens.iter().zip(base.chunks_exact(self.outputs())) {
            weight::decode_row(&self.embedding, *token as usize, &mut embedded);
            x.extend_from_slice(base);
            x.extend_from_slice(&embedded);
            x.push(1.0);
        }
        self.up.times(&self.down.times(&x, inputs), self.down.outputs())
    }

    /// All layers of a token side by side, keys turned back.
    fn joined(&self, numbers: &Numbers, chunk: u32) -> Vec<f32> {
        let mut out = vec![0.0; CHUNK_TOKENS * self.outputs()];
        for (layer, [keys, values]) in numbers.iter().enumerate() {
            let mut keys = keys.clone();
            if let Some(table) = self.table(layer) {
                rope::unrope(&mut keys, self.head_dim, &positions(chunk), table);
            }
            for (half, values) in [&keys, values].into_iter().enumerate() {
                let rows = out.chunks_exact_mut(self.outputs()).zip(values.chunks_exact(self.width));
                for (out, row) in rows {
                    out[(2 * layer + half) * self.width..][..self.width].copy_from_slice(row);
                }
            }
        }
        out
    }

    /// And back.
    fn parted(&self, joined: &[f32], chunk: u32) -> Numbers {
        let half = |matrix: usize| -> Vec<f32> {
            let rows = joined.chunks_exact(self.outputs());
            rows.flat_map(|row| &row[matrix * self.width..(matrix + 1) * self.width]).copied().collect()
        };
        let layer = |layer: usize| {
            let mut keys = half(2 * layer);
            if let Some(table) = self.table(layer) {
                rope::rope(&mut keys, self.head_dim, &positions(chunk), table);
            }
            [keys, half(2 * layer + 1)]
        };
        (0..self.by_layer.len()).map(layer).collect()
    }

    fn table(&self, layer: usize) -> Option<&RopeTable> {
        self.by_layer[layer].and_then(|rope| self.tables.get(rope))
    }

    fn scale(&self, values: &mut [f32], of: impl Fn(f32) -> f32) {
        for token in values.chunks_exact_mut(self.outputs()) {
            for (matrix, scale) in token.chunks_exact_mut(self.width).zip(&self.scales) {
                let factor = of(*scale);
                matrix.iter_mut().for_each(|value| *value *= factor);
            }
        }
    }
}

fn positions(chunk: u32) -> [u32; CHUNK_TOKENS] {
    std::array::from_fn(|token| chunk * CHUNK_TOKENS as u32 + token as u32)
}
