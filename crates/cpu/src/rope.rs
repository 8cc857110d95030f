//! Rotary position embedding, rotate-half form.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use crate::isa::{Isa, Kernel};
use crate::math::{load_first, store_first};

/// Rotates every head of one row in place.
pub struct Rope<'a> {
    pub row: &'a mut [f32],
    pub head_dim: usize,
    /// Factors of the row's position, one for each pair that turns.
    pub cos: &'a [f32],
    pub sin: &'a [f32],
}

impl Kernel for Rope<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let half = self.cos.len().min(self.sin.len());
        for head in self.row.chunks_exact_mut(self.head_dim) {
            let (first, second) = head.split_at_mut(half);
            for i in (0..half).step_by(I::LANES) {
                let lanes = I::LANES.min(half - i);
                let (a, b) = (first.as_mut_ptr().add(i), second.as_mut_ptr().add(i));
                let (x, y) = (load_first::<I>(a, lanes), load_first::<I>(b, lanes));
                let cos = load_first::<I>(self.cos.as_ptr().add(i), lanes);
                let sin = load_first::<I>(self.sin.as_ptr().add(i), lanes);
                store_first::<I>(a, I::sub(I::mul(x, cos), I::mul(y, sin)), lanes);
                store_first::<I>(b, I::add(I::mul(y, cos), I::mul(x, sin)), lanes);
            }
        }
    }
}
