//! The gated activation between the two halves of the MLP.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use interleaf_contract::Activation;

use crate::isa::{Isa, Kernel};
use crate::math::{gelu_tanh, load_first, silu, store_first};

/// `out = activation(gate) · up`, element by element of n.
pub struct SwiGlu {
    pub activation: Activation,
    /// May be where `out` is.
    pub gate: *const f32,
    pub up: *const f32,
    pub out: *mut f32,
    pub n: usize,
}

impl Kernel for SwiGlu {
    type Output = ();

    /// # Safety
    /// n elements of `gate` and `up` are readable and of `out` writable, and `out` is one of them or apart.
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let n = self.n;
        for i in (0..n).step_by(I::LANES) {
            let lanes = I::LANES.min(n - i);
            let gate = load_first::<I>(self.gate.add(i), lanes);
            let gate = match self.activation {
                Activation::Silu => silu::<I>(gate),
                Activation::GeluTanh => gelu_tanh::<I>(gate),
            };
            let up = load_first::<I>(self.up.add(i), lanes);
            store_first::<I>(self.out.add(i), I::mul(gate, up), lanes);
        }
    }
}
