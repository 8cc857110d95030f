//! Values of codes, weighted as they are decoded: for few queries, storing and loading them costs more than the products.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use interleaf_contract::{Bits, CHUNK_TOKENS};

use super::codes::{Head, SIXTEEN, Taker, Under, of_codes, sixteen};
use super::{ABREAST, Anchor, Page, Scratch};
use crate::isa::{Isa, Kernel, each_of};

/// Adds one head's values, weighted, to what queries have of a block, as they are decoded: the same sums as of values that
/// are kept.
pub struct Mix<'a> {
    pub page: &'a Page<'a>,
    pub kv_head: usize,
    pub anchor: Anchor<'a>,
    /// A weight for each of the page's tokens.
    pub weights: [&'a [f32]; ABREAST],
    /// head_dim sums each.
    pub sums: [&'a mut [f32]; ABREAST],
    pub scratch: &'a mut Scratch,
}

impl Mix<'_> {
    /// Whether a page's values can be added as they are decoded: of codes whose steps change at whole columns.
    pub fn can(page: &Page<'_>) -> bool {
        let whole = |group: usize| group.is_multiple_of(COLUMN);
        page.codes().is_some_and(|layout| whole(page.head_dim) && layout.group.is_none_or(whole))
    }

    /// Does it. A function of its own on every tier, as decoding is.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(never)]
    pub unsafe fn on<I: Isa>(self) {
        I::enter(self);
    }
}

impl Kernel for Mix<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { page, kv_head, anchor, weights, sums, scratch } = self;
        let Some(layout) = page.codes().filter(|_| Self::can(page)) else {
            unreachable!("{} is not of columns", page.codec)
        };
        assert!(sums.iter().all(|sums| sums.len() == page.head_dim), "whole values");
        assert!(weights.iter().all(|weights| weights.len() == CHUNK_TOKENS), "a weight for each token");
        let weighted = Weighted {
            weights: each_of!(ABREAST, std::ptr::null(), |i| weights[i].as_ptr()),
            sums: each_of!(ABREAST, std::ptr::null_mut(), |i| sums[i].as_mut_ptr()),
        };
        of_codes::<I>(layout, page, kv_head, anchor, weighted, scratch);
    }
}

/// Channels within which a step does not change.
const COLUMN: usize = 2 * SIXTEEN;

/// Adds them to sums, tokens in order.
struct Weighted {
    weights: [*const f32; ABREAST],
    sums: [*mut f32; ABREAST],
}

impl Taker for Weighted {
    #[inline(always)]
    unsafe fn take<I: Isa>(self, head: &Head<'_>, bits: Bits, under: impl Under) {
        // Where sixteen are one vector, two of them lest weights be loaded as often as they are multiplied.
        match (bits, I::LANES < SIXTEEN) {
            (Bits::Two, true) => self.columns::<I, 2, 1>(head, under),
            (Bits::Two, false) => self.columns::<I, 2, 2>(head, under),
            (Bits::Four, true) => self.columns::<I, 4, 1>(head, under),
            (Bits::Four, false) => self.columns::<I, 4, 2>(head, under),
            (Bits::Eight, true) => self.columns::<I, 8, 1>(head, under),
            (Bits::Eight, false) => self.columns::<I, 8, 2>(head, under),
        }
    }
}

impl Weighted {
    /// So many sixteens of all tokens, then the next.
    #[inline(always)]
    unsafe fn columns<I: Isa, const BITS: usize, const WIDE: usize>(
        &self,
        head: &Head<'_>,
        under: impl Under,
    ) {
        let (of_token, groups) = (head.dim / SIXTEEN, head.dim / head.group);
        assert!(head.steps.len() == groups * CHUNK_TOKENS, "a step for each token and group");
        for column in (0..of_token).step_by(WIDE) {
            let zeros = [I::steps_8([0; SIXTEEN].as_ptr()); WIDE];
            let mut sums = [zeros; ABREAST];
            for (sums, from) in sums.iter_mut().zip(self.sums) {
                for (w, sums) in sums.iter_mut().enumerate() {
                    for (i, sum) in sums.as_mut().iter_mut().enumerate() {
                        *sum = I::load(from.add((column + w) * SIXTEEN + i * I::LANES));
                    }
                }
            }
            let mut step = head.steps.as_ptr().add(column * SIXTEEN / head.group);
            for token in 0..CHUNK_TOKENS {
                let of_group = I::splat(*step);
                step = step.wrapping_add(groups);
                let values = each_of!(WIDE, zeros[0], |w| {
                    let nth = token * of_token + column + w;
                    let codes = sixteen::<I, BITS>(head.codes.as_ptr().add(nth * BITS * SIXTEEN / 8));
                    under.plus::<I>(codes, of_group, nth, of_token)
                });
                for (sums, weights) in sums.iter_mut().zip(self.weights) {
                    let weight = I::splat(*weights.add(token));
                    for (sums, values) in sums.iter_mut().zip(&values) {
                        for (sum, value) in sums.as_mut().iter_mut().zip(values.as_ref()) {
                            *sum = I::fma(weight, *value, *sum);
                        }
                    }
                }
            }
            for (sums, to) in sums.iter().zip(self.sums) {
                for (w, sums) in sums.iter().enumerate() {
                    for (i, sum) in sums.as_ref().iter().enumerate() {
                        I::store(to.add((column + w) * SIXTEEN + i * I::LANES), *sum);
                    }
                }
            }
        }
    }
}
