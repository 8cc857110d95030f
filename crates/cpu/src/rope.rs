//! Rotary position embedding, rotate-half form.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use interleaf_contract::RopeTable;

use crate::isa::{Isa, Kernel};
use crate::math::{load_first, store_first};

/// Rotates every head of one row in place.
pub struct Rope<'a> {
    row: &'a mut [f32],
    head_dim: usize,
    /// Factors of the row's position, one for each pair that turns.
    cos: &'a [f32],
    sin: &'a [f32],
    direction: f32,
}

impl<'a> Rope<'a> {
    /// By the angles of a position, or by −1 back.
    #[inline(always)]
    pub fn new(
        row: &'a mut [f32],
        head_dim: usize,
        table: &'a RopeTable,
        position: usize,
        direction: f32,
    ) -> Self {
        let half = table.rotary_dim / 2;
        let angles = position * half..(position + 1) * half;
        Self { row, head_dim, cos: &table.cos[angles.clone()], sin: &table.sin[angles], direction }
    }
}

impl Kernel for Rope<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let half = self.cos.len().min(self.sin.len());
        let direction = I::splat(self.direction);
        for head in self.row.chunks_exact_mut(self.head_dim) {
            let (first, second) = head.split_at_mut(half);
            for i in (0..half).step_by(I::LANES) {
                let lanes = I::LANES.min(half - i);
                let (a, b) = (first.as_mut_ptr().add(i), second.as_mut_ptr().add(i));
                let (x, y) = (load_first::<I>(a, lanes), load_first::<I>(b, lanes));
                let cos = load_first::<I>(self.cos.as_ptr().add(i), lanes);
                let sin = I::mul(direction, load_first::<I>(self.sin.as_ptr().add(i), lanes));
                store_first::<I>(a, I::sub(I::mul(x, cos), I::mul(y, sin)), lanes);
                store_first::<I>(b, I::add(I::mul(y, cos), I::mul(x, sin)), lanes);
            }
        }
    }
}
