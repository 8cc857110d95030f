//! The gated activation between the two halves of the MLP.

use interleaf_contract::Activation;
use rayon::prelude::*;

/// Elements handled by one worker at a time.
const CHUNK: usize = 4096;

/// `gate = activation(gate) · up`, element by element, in place.
pub fn swiglu(activation: Activation, gate: &mut [f32], up: &[f32]) {
    gate.par_chunks_mut(CHUNK).zip(up.par_chunks(CHUNK)).for_each(|(gate, up)| {
        let elements = gate.iter_mut().zip(up);
        match activation {
            Activation::Silu => elements.for_each(|(g, u)| *g = *g / (1.0 + (-*g).exp()) * u),
            Activation::GeluTanh => elements.for_each(|(g, u)| *g = gelu_tanh(*g) * u),
        }
    });
}

fn gelu_tanh(x: f32) -> f32 {
    /// √(2/π)
    const FACTOR: f32 = 0.797_884_6;
    0.5 * x * (1.0 + (FACTOR * (x + 0.044_715 * x * x * x)).tanh())
}
