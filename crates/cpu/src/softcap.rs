//! Logits and scores held under a cap, smoothly.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use crate::isa::{Isa, Kernel};
use crate::math::{load_first, store_first, tanh};

/// `x = cap · tanh(x / cap)`, element by element.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn softcap<I: Isa>(x: &mut [f32], cap: f32) {
    for x in x.chunks_mut(I::LANES) {
        let capped = tanh::<I>(I::div(load_first::<I>(x.as_ptr(), x.len()), I::splat(cap)));
        store_first::<I>(x.as_mut_ptr(), I::mul(I::splat(cap), capped), x.len());
    }
}

/// The same as a kernel of its own.
pub struct Softcap<'a> {
    pub x: &'a mut [f32],
    pub cap: f32,
}

impl Kernel for Softcap<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        softcap::<I>(self.x, self.cap);
    }
}
