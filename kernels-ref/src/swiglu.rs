//! The gated activation between the two halves of the MLP (SwiGLU and GeGLU, Shazeer 2020).

use interleaf_contract::Activation;

/// `out = activation(gate) · up`, element by element.
pub fn swiglu(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((o, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        *o = (activate(activation, f64::from(g)) * f64::from(u)) as f32;
    }
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_and_both_tails() {
        let mut out = [0.0; 4];
        swiglu(Activation::Silu, &[1.0, -1.0, 100.0, -1e30], &[1.0; 4], &mut out);
        assert!((out[0] - 0.731_058_6).abs() < 1e-6 && (out[1] + 0.268_941_4).abs() < 1e-6);
        assert_eq!((out[2], out[3]), (100.0, -0.0));
        swiglu(Activation::GeluTanh, &[1.0, -1.0, 100.0, -100.0], &[2.0; 4], &mut out);
        assert!((out[0] - 1.682_384).abs() < 1e-5 && (out[1] + 0.317_616).abs() < 1e-5);
        assert_eq!((out[2], out[3]), (200.0, -0.0));
    }
}
