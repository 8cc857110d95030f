//! Values added to others in place: columns of a tensor, or the residual before a norm.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use crate::isa::{Isa, Kernel};
use crate::math::{load_first, store_first};

/// `x += delta`, element by element.
pub struct Add<'a> {
    pub x: &'a mut [f32],
    pub delta: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let n = self.x.len().min(self.delta.len());
        for i in (0..n).step_by(I::LANES) {
            let lanes = I::LANES.min(n - i);
            let (x, delta) = (self.x.as_mut_ptr().add(i), self.delta.as_ptr().add(i));
            store_first::<I>(x, I::add(load_first::<I>(x, lanes), load_first::<I>(delta, lanes)), lanes);
        }
    }
}
