//! Values of codes or of f16, weighted as they are decoded: for few queries, storing and loading them costs more than the
//! products.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use bytemuck::cast_slice;
use interleaf_contract::{ATTENTION_SPLIT, Bits, CHUNK_TOKENS, PageCodec, PageElement};

use super::codes::{Head, SIXTEEN, Taker, Under, of_codes, sixteen};
use super::{ABREAST, Anchor, Page, Scratch, Upcoming};
use crate::isa::{Isa, Kernel, each_of};

/// Adds one head's values, weighted, to what queries have of a block, as they are decoded: the same sums as of values that
/// are kept.
pub struct Mix<'a> {
    pub page: &'a Page<'a>,
    pub kv_head: usize,
    pub anchor: Anchor<'a>,
    /// A weight for each of the page's tokens, a query's [`ATTENTION_SPLIT`] behind another's.
    pub weights: &'a [f32],
    /// head_dim sums each.
    pub sums: [&'a mut [f32]; ABREAST],
    pub scratch: &'a mut Scratch,
}

impl Mix<'_> {
    /// Whether a page's values can be added as they are decoded: of f16, or of codes whose steps change at whole columns.
    pub fn can(page: &Page<'_>) -> bool {
        let whole = |group: usize| group.is_multiple_of(COLUMN);
        let is_of_columns = match page.codes() {
            Some(layout) => layout.group.is_none_or(whole),
            None => page.codec == PageCodec::Exact(PageElement::F16),
        };
        is_of_columns && whole(page.head_dim)
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
        assert!(Self::can(page), "{} is not of columns", page.codec);
        assert!(sums.iter().all(|sums| sums.len() == page.head_dim), "whole values");
        assert!(weights.len() >= (ABREAST - 1) * ATTENTION_SPLIT + CHUNK_TOKENS, "a weight for each token");
        let mut upcoming = scratch.upcoming;
        let weighted = Weighted {
            weights: weights.as_ptr(),
            sums: each_of!(ABREAST, std::ptr::null_mut(), |i| sums[i].as_mut_ptr()),
            upcoming: &mut upcoming,
        };
        match page.codes() {
            Some(layout) => of_codes::<I>(layout, page, kv_head, anchor, weighted, scratch),
            None => {
                let elements = CHUNK_TOKENS * page.head_dim;
                let values = &cast_slice::<u8, u16>(page.bytes)[kv_head * elements..][..elements];
                let columns = OfHalves { values: values.as_ptr(), dim: page.head_dim };
                weighted.add::<I>(page.head_dim, columns);
            }
        }
        scratch.upcoming = upcoming;
    }
}

/// Channels within which a step does not change.
const COLUMN: usize = 2 * SIXTEEN;

/// Adds them to sums, tokens in order.
struct Weighted<'a> {
    /// One address, whatever query.
    weights: *const f32,
    sums: [*mut f32; ABREAST],
    upcoming: &'a mut Upcoming,
}

impl Taker for Weighted<'_> {
    #[inline(always)]
    unsafe fn take<I: Isa>(self, head: &Head<'_>, bits: Bits, under: impl Under) {
        match bits {
            Bits::Two => self.of_codes::<I, 2>(head, under),
            Bits::Four => self.of_codes::<I, 4>(head, under),
            Bits::Eight => self.of_codes::<I, 8>(head, under),
        }
    }
}

impl Weighted<'_> {
    #[inline(always)]
    unsafe fn of_codes<I: Isa, const BITS: usize>(self, head: &Head<'_>, under: impl Under) {
        let (of_token, groups) = (head.dim / SIXTEEN, head.dim / head.group);
        assert!(head.steps.len() == groups * CHUNK_TOKENS, "a step for each token and group");
        self.add::<I>(head.dim, OfCodes::<_, BITS> { head, under, of_token, groups, column: 0, group: 0 });
    }

    /// All columns of all tokens. Where sixteen are one vector, two of them lest weights be loaded as often as they are
    /// multiplied.
    #[inline(always)]
    unsafe fn add<I: Isa>(self, dim: usize, columns: impl Columns) {
        if I::LANES < SIXTEEN {
            self.columns::<I, 1>(dim / SIXTEEN, columns);
        } else {
            self.columns::<I, 2>(dim / SIXTEEN, columns);
        }
    }

    /// So many sixteens of all tokens, then the next.
    #[inline(always)]
    unsafe fn columns<I: Isa, const WIDE: usize>(self, of_token: usize, columns: impl Columns) {
        let Self { weights, sums: all, upcoming } = self;
        for column in (0..of_token).step_by(WIDE) {
            let mut sums = [[I::steps_8([0; SIXTEEN].as_ptr()); WIDE]; ABREAST];
            for (sums, from) in sums.iter_mut().zip(all) {
                for (w, sums) in sums.iter_mut().enumerate() {
                    for (i, sum) in sums.as_mut().iter_mut().enumerate() {
                        *sum = I::load(from.add((column + w) * SIXTEEN + i * I::LANES));
                    }
                }
            }
            let columns = columns.at(column);
            for token in 0..CHUNK_TOKENS {
                let values = columns.of::<I, WIDE>(token);
                upcoming.step::<I>();
                for (query, sums) in sums.iter_mut().enumerate() {
                    let weight = I::splat(*weights.add(query * ATTENTION_SPLIT + token));
                    for (sums, values) in sums.iter_mut().zip(&values) {
                        for (sum, value) in sums.as_mut().iter_mut().zip(values.as_ref()) {
                            *sum = I::fma(weight, *value, *sum);
                        }
                    }
                }
            }
            for (sums, to) in sums.iter().zip(all) {
                for (w, sums) in sums.iter().enumerate() {
                    for (i, sum) in sums.as_ref().iter().enumerate() {
                        I::store(to.add((column + w) * SIXTEEN + i * I::LANES), *sum);
                    }
                }
            }
        }
    }
}

/// Where a head's values are, sixteen channels of a token after another.
trait Columns: Copy {
    /// From a sixteen of every token on: what is worked out once for all tokens.
    fn at(self, column: usize) -> Self;

    /// So many sixteens of a token, which are within [`COLUMN`] channels.
    ///
    /// # Safety
    /// The machine has the tier, and so many are there.
    unsafe fn of<I: Isa, const WIDE: usize>(self, token: usize) -> [I::Sixteen; WIDE];
}

#[derive(Clone, Copy)]
struct OfCodes<'a, U, const BITS: usize> {
    head: &'a Head<'a>,
    under: U,
    /// Sixteens of a token, and groups.
    of_token: usize,
    groups: usize,
    column: usize,
    /// The one that the column is in.
    group: usize,
}

impl<U: Under, const BITS: usize> Columns for OfCodes<'_, U, BITS> {
    #[inline(always)]
    fn at(self, column: usize) -> Self {
        Self { column, group: column * SIXTEEN / self.head.group, ..self }
    }

    #[inline(always)]
    unsafe fn of<I: Isa, const WIDE: usize>(self, token: usize) -> [I::Sixteen; WIDE] {
        let Self { head, under, column, group, .. } = self;
        let step = I::splat(*head.steps.as_ptr().add(token * self.groups + group));
        each_of!(WIDE, I::steps_8([0; SIXTEEN].as_ptr()), |w| {
            let nth = token * self.of_token + column + w;
            let codes = sixteen::<I, BITS>(head.codes.as_ptr().add(nth * BITS * SIXTEEN / 8));
            under.plus::<I>(codes, step, nth, token)
        })
    }
}

#[derive(Clone, Copy)]
struct OfHalves {
    values: *const u16,
    dim: usize,
}

impl Columns for OfHalves {
    #[inline(always)]
    fn at(self, column: usize) -> Self {
        Self { values: self.values.wrapping_add(column * SIXTEEN), ..self }
    }

    #[inline(always)]
    unsafe fn of<I: Isa, const WIDE: usize>(self, token: usize) -> [I::Sixteen; WIDE] {
        let first = self.values.add(token * self.dim);
        let mut values = [I::steps_8([0; SIXTEEN].as_ptr()); WIDE];
        for (w, values) in values.iter_mut().enumerate() {
            for (i, value) in values.as_mut().iter_mut().enumerate() {
                *value = I::load_f16(first.add(w * SIXTEEN + i * I::LANES));
            }
        }
        values
    }
}
