//! The gated activation between the two halves of the MLP.

use interleaf_contract::Activation;
use rayon::prelude::*;

/// Elements handled by one worker at a time.
const CHUNK: usize = 4096;

/// `out = activation(gate) · up`, element by element.
pub fn swiglu(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let chunks = out.par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK)).zip(up.par_chunks(CHUNK));
    chunks.for_each(|((out, gate), up)| {
        let elements = out.iter_mut().zip(gate).zip(up);
        match activation {
            Activation::Silu => elements.for_each(|((o, g), u)| *o = g / (1.0 + (-g).exp()) * u),
            Activation::GeluTanh => elements.for_each(|((o, g), u)| *o = gelu_tanh(*g) * u),
        }
    });
}

fn gelu_tanh(x: f32) -> f32 {
    /// √(2/π)
    const FACTOR: f32 = 0.797_884_6;
    0.5 * x * (1.0 + (FACTOR * (x + 0.044_715 * x * x * x)).tanh())
}
