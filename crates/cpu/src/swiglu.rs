//! The gated activation between the two halves of the MLP.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use interleaf_contract::Activation;

use crate::isa::{Isa, Kernel};
use crate::math::{gelu_tanh, load_first, silu, store_first};

/// `out = activation(gate) · up`, element by element.
pub struct SwiGlu<'a> {
    pub activation: Activation,
    /// May be where `out` is.
    pub gate: *const f32,
    pub up: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for SwiGlu<'_> {
    type Output = ();

    /// # Safety
    /// `gate` has as many readable elements as `up` and `out`.
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let n = self.out.len().min(self.up.len());
        for i in (0..n).step_by(I::LANES) {
            let lanes = I::LANES.min(n - i);
            let gate = load_first::<I>(self.gate.add(i), lanes);
            let gate = match self.activation {
                Activation::Silu => silu::<I>(gate),
                Activation::GeluTanh => gelu_tanh::<I>(gate),
            };
            let up = load_first::<I>(self.up.as_ptr().add(i), lanes);
            store_first::<I>(self.out.as_mut_ptr().add(i), I::mul(gate, up), lanes);
        }
    }
}
