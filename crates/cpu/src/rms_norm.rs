//! Root-mean-square norm over rows or heads. The residual is taken in first, by `add`.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use crate::isa::{Isa, Kernel};
use crate::math::{dot, load_first, store_first};

/// `out = x / √(mean(x²) + epsilon) · weight` over each group of `weight.len()` of n values, from `x` to `out`.
pub struct RmsNorm<'a> {
    /// Where the groups are read; may be where they are written.
    pub x: *const f32,
    pub out: *mut f32,
    pub n: usize,
    pub weight: &'a [f32],
    pub epsilon: f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    /// # Safety
    /// n elements of `x` are readable and of `out` writable, and the two are the same or apart.
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let n = self.weight.len();
        for group in 0..self.n / n {
            let (x, out) = (self.x.add(group * n), self.out.add(group * n));
            let factor = I::splat(1.0 / (dot::<I>(x, x, n) / n as f32 + self.epsilon).sqrt());
            for i in (0..n).step_by(I::LANES) {
                let lanes = I::LANES.min(n - i);
                let weight = load_first::<I>(self.weight.as_ptr().add(i), lanes);
                let value = I::mul(I::mul(load_first::<I>(x.add(i), lanes), factor), weight);
                store_first::<I>(out.add(i), value, lanes);
            }
        }
    }
}
