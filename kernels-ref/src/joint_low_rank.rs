//! K and V of all layers at once: predicted from the base's by one linear map of low rank, and what is left in one basis over
//! all layers, as coefficients of few bits.
//!
//! *Outputs* are a token's differences from the base of the keys, before the rotary embedding, and the values of each layer,
//! layer by layer; *inputs* are whatever the map was fitted to. Every output belongs to a matrix, the keys or the values of
//! one layer, of which all have the same width; maps and bases are of outputs divided by their matrix's scale, so that no
//! layer counts for more than another.

use interleaf_contract::{Bits, GROUP_CHANNELS, JointCodec};

use crate::lora_matmul::dot;
use crate::page_codec::codes;

/// A map of low rank.
#[derive(Debug, Clone, Copy)]
pub struct JointMap<'a> {
    /// `inputs × rank`.
    pub down: &'a [f32],
    /// `rank × outputs`.
    pub up: &'a [f32],
    /// Columns between the two.
    pub rank: usize,
    /// Of each matrix.
    pub scales: &'a [f32],
}

/// Directions over all outputs.
#[derive(Debug, Clone, Copy)]
pub struct JointBasis<'a> {
    /// `rank × outputs`.
    pub directions: &'a [f32],
    /// How many.
    pub rank: usize,
    /// Of each matrix.
    pub scales: &'a [f32],
}

/// The product of `x`, rows × `inputs`, with the first `used` of the `outputs` columns of a matrix, `inputs × outputs`.
#[must_use]
pub fn linear(x: &[f32], inputs: usize, matrix: &[f32], outputs: usize, used: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len().checked_div(inputs).unwrap_or(0) * used);
    let mut sums = vec![0.0f64; used];
    for row in x.chunks_exact(inputs.max(1)) {
        sums.fill(0.0);
        for (value, weights) in row.iter().zip(matrix.chunks_exact(outputs.max(1))) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += f64::from(*value) * f64::from(*weight);
            }
        }
        out.extend(sums.iter().map(|sum| *sum as f32));
    }
    out
}

/// Predicts outputs, tokens × outputs, from `x`, tokens × inputs, by the map of the first `used` of its rank.
#[must_use]
pub fn predict(map: &JointMap<'_>, used: usize, x: &[f32]) -> Vec<f32> {
    let inputs = map.down.len() / map.rank;
    let outputs = map.up.len() / map.rank;
    let between = linear(x, inputs, map.down, map.rank, used);
    let mut out = linear(&between, used, map.up, outputs, outputs);
    scale(&mut out, outputs, map.scales, |scale| scale);
    out
}

/// Stores what a prediction leaves, tokens × outputs, as [`JointCodec::token_bytes`] for each token.
#[must_use]
pub fn encode(basis: &JointBasis<'_>, bits: Bits, left: &[f32]) -> Vec<u8> {
    let (outputs, codec) = (outputs(basis), codec(basis, bits));
    let mut scaled = left.to_vec();
    scale(&mut scaled, outputs, basis.scales, |scale| if scale == 0.0 { 0.0 } else { 1.0 / scale });
    let mut bytes = vec![0; left.len() / outputs * codec.token_bytes()];
    for (token, bytes) in scaled.chunks_exact(outputs).zip(bytes.chunks_exact_mut(codec.token_bytes())) {
        let directions = basis.directions.chunks_exact(outputs);
        let coefficients: Vec<f32> = directions.map(|direction| dot(token, direction) as f32).collect();
        store(codec, &coefficients, bytes);
    }
    bytes
}

/// Adds what [`encode`] stored to a prediction, tokens × outputs.
pub fn decode_onto(basis: &JointBasis<'_>, bits: Bits, bytes: &[u8], out: &mut [f32]) {
    let (outputs, codec) = (outputs(basis), codec(basis, bits));
    let mut coefficients = vec![0.0; basis.rank];
    let tokens = bytes.chunks_exact(codec.token_bytes()).zip(out.chunks_exact_mut(outputs));
    for (bytes, out) in tokens {
        load(codec, bytes, &mut coefficients);
        let mut sum = linear(&coefficients, basis.rank, basis.directions, outputs, outputs);
        scale(&mut sum, outputs, basis.scales, |scale| scale);
        out.iter_mut().zip(sum).for_each(|(o, s)| *o += s);
    }
}

/// Stores a token's coefficients: their codes, packed from the lowest bit up, then the scales of each [`GROUP_CHANNELS`] of
/// them, f16 each. `bytes` are [`JointCodec::token_bytes`].
pub fn store(codec: JointCodec, coefficients: &[f32], bytes: &mut [u8]) {
    bytes.fill(0);
    for (i, group) in coefficients.chunks(GROUP_CHANNELS).enumerate() {
        let step = codes::best_step(codec.bits, group);
        codes::set_scale(bytes, codec.code_bytes(), i, step);
        for (j, z) in group.iter().enumerate() {
            codes::pack(bytes, codec.bits, i * GROUP_CHANNELS + j, codes::code(codec.bits, *z, step));
        }
    }
}

/// What [`store`] stored.
pub fn load(codec: JointCodec, bytes: &[u8], coefficients: &mut [f32]) {
    for (i, coefficient) in coefficients.iter_mut().enumerate() {
        let step = codes::scale(bytes, codec.code_bytes(), i / GROUP_CHANNELS);
        *coefficient = (f32::from(codes::unpack(bytes, codec.bits, i)) + codec.bits.lowest()) * step;
    }
}

/// Bases are of few directions.
fn codec(basis: &JointBasis<'_>, bits: Bits) -> JointCodec {
    JointCodec { rank: u16::try_from(basis.rank).unwrap_or(u16::MAX), bits }
}

fn outputs(basis: &JointBasis<'_>) -> usize {
    basis.directions.len() / basis.rank.max(1)
}

/// Multiplies every output by a function of its matrix's scale.
fn scale(values: &mut [f32], outputs: usize, scales: &[f32], of: impl Fn(f32) -> f32) {
    let width = outputs / scales.len();
    for token in values.chunks_exact_mut(outputs) {
        for (matrix, scale) in token.chunks_exact_mut(width).zip(scales) {
            matrix.iter_mut().for_each(|value| *value *= of(*scale));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_predicts_scaled_outputs() {
        // Two inputs, one column between, two matrices of two outputs.
        let map = JointMap { down: &[1.0, 2.0], up: &[1.0, 0.0, -1.0, 3.0], rank: 1, scales: &[2.0, 0.5] };
        assert_eq!(predict(&map, 1, &[1.0, 1.0, 0.0, 1.0]), [6.0, 0.0, -1.5, 4.5, 4.0, 0.0, -1.0, 3.0]);
    }

    #[test]
    fn what_lies_in_the_basis_comes_back() {
        for (bits, rank) in [(Bits::Four, 3), (Bits::Eight, 2), (Bits::Two, 4)] {
            let mut directions = vec![0.0; rank * 4];
            (0..rank).for_each(|i| directions[i * 4 + i] = 1.0);
            let basis = JointBasis { directions: &directions, rank, scales: &[4.0, 0.25] };
            let reach = if bits == Bits::Two { 1.5 } else { 7.0 };
            let mut left = vec![4.0 * reach, -4.0 * reach, 0.25 * reach, -0.25 * reach];
            left[rank..].fill(0.0);
            let bytes = encode(&basis, bits, &left);
            assert_eq!(bytes.len(), codec(&basis, bits).token_bytes());
            let mut out = vec![1.0; 4];
            decode_onto(&basis, bits, &bytes, &mut out);
            for (o, l) in out.iter().zip(&left) {
                assert!((o - 1.0 - l).abs() < 1e-2, "{bits:?} {out:?} {left:?}");
            }
        }
    }

    #[test]
    fn a_matrix_without_a_scale_stays() {
        let basis = JointBasis { directions: &[0.6, 0.8], rank: 1, scales: &[1.0, 0.0] };
        let bytes = encode(&basis, Bits::Four, &[1.0, 5.0]);
        let mut out = [0.0, 0.0];
        decode_onto(&basis, Bits::Four, &bytes, &mut out);
        assert!((out[0] - 0.36).abs() < 1e-3 && out[1] == 0.0, "{out:?}");
    }
}
