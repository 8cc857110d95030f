//! Keys of codes, multiplied with queries as they are decoded: for few queries, storing and loading them costs more than the
//! products.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use interleaf_contract::CHUNK_TOKENS;

use super::keys::{Taker, of_codes};
use super::{ABREAST, Anchor, Page, Scratch};
use crate::isa::{Isa, Kernel, each_of};

/// Multiplies one head's keys with queries as they are decoded: the same sums as of keys that are kept.
pub struct Score<'a> {
    pub page: &'a Page<'a>,
    pub kv_head: usize,
    pub anchor: Anchor<'a>,
    /// head_dim × queries.
    pub queries: &'a [f32],
    pub scale: f32,
    /// Where a query's scores with the page's tokens are put.
    pub scores: [&'a mut [f32]; ABREAST],
    pub scratch: &'a mut Scratch,
}

impl Kernel for Score<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { page, kv_head, anchor, queries, scale, scores, scratch } = self;
        let Some(layout) = page.codes() else { unreachable!("{} is of codes", page.codec) };
        assert!(queries.len() == ABREAST * page.head_dim, "whole queries");
        assert!(scores.iter().all(|scores| scores.len() == CHUNK_TOKENS), "a score for each token");
        let zeros = [I::splat(0.0); ABREAST];
        let mut products = Products::<I> {
            queries: queries.as_ptr(),
            scale: I::splat(scale),
            sums: zeros,
            odd: zeros,
            scores: each_of!(ABREAST, std::ptr::null_mut(), |i| scores[i].as_mut_ptr()),
        };
        of_codes::<I>(layout, page, kv_head, anchor, &mut products, scratch);
    }
}

impl Score<'_> {
    /// Does it. A function of its own on every tier, as decoding is.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(never)]
    pub unsafe fn on<I: Isa>(self) {
        I::enter(self);
    }
}

/// Sums of products in the order in which `paged_attention` adds those with keys that are kept.
struct Products<I: Isa> {
    /// Side by side: one address, whatever query.
    queries: *const f32,
    scale: I::V,
    sums: [I::V; ABREAST],
    /// Those of channels at odd places, where there are [`Isa::TWO_CHAINS`].
    odd: [I::V; ABREAST],
    scores: [*mut f32; ABREAST],
}

impl<I: Isa> Taker<I> for Products<I> {
    #[inline(always)]
    unsafe fn take(&mut self, key: I::V, channel: usize, nth: usize, _token: usize) {
        let sums = if I::TWO_CHAINS && nth % 2 == 1 { &mut self.odd } else { &mut self.sums };
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = I::fma(I::splat(*self.queries.add(channel * ABREAST + i)), key, *sum);
        }
    }

    #[inline(always)]
    unsafe fn end(&mut self, token: usize) {
        for ((sum, odd), scores) in self.sums.iter_mut().zip(&mut self.odd).zip(self.scores) {
            let all = if I::TWO_CHAINS { I::add(*sum, *odd) } else { *sum };
            I::store(scores.add(token), I::mul(all, self.scale));
            (*sum, *odd) = (I::splat(0.0), I::splat(0.0));
        }
    }
}
