//! Pages of values in codes: one is its code's steps times a step that a group of them shares. Decoding; what is encoded how
//! is in `encode`, and keys are in `keys`.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use bytemuck::cast_slice;
use interleaf_contract::{Bits, CHUNK_TOKENS, CodeLayout, GROUP_CHANNELS, PageCodec, PageElement};

use super::exact::halves;
use super::{Anchor, Page, Scratch};
use crate::isa::Isa;
use crate::lines::Floats;
use crate::math::{f16_to_f32, load_first, store_first};

/// Codes that are unpacked together.
pub const SIXTEEN: usize = 16;

/// Decodes one head of a page of values, and adds its anchor if there is one.
///
/// # Safety
/// The machine has the tier. `out` is tokens × head_dim, and what `anchor` gives as long.
#[inline(always)]
pub unsafe fn decode<I: Isa>(
    layout: &CodeLayout,
    page: &Page<'_>,
    kv_head: usize,
    anchor: Anchor<'_>,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    of_codes::<I>(layout, page, kv_head, anchor, Store(out), scratch);
}

/// One head of a page, for whatever takes the values.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn of_codes<I: Isa>(
    layout: &CodeLayout,
    page: &Page<'_>,
    kv_head: usize,
    anchor: Anchor<'_>,
    taker: impl Taker,
    scratch: &mut Scratch,
) {
    let Scratch { steps, anchor_steps, .. } = scratch;
    read_steps::<I>(layout, page, kv_head, steps);
    let group = layout.group.unwrap_or(page.head_dim);
    let head = Head { codes: codes(layout, page, kv_head), steps, dim: page.head_dim, group };
    let elements = CHUNK_TOKENS * page.head_dim;
    match anchor {
        Anchor::None => taker.take::<I>(&head, layout.bits, Nothing),
        Anchor::Values(values) => {
            assert!(values.len() == elements, "an anchor of the same head");
            taker.take::<I>(&head, layout.bits, Numbers(values));
        }
        Anchor::Page(under) => match under.codec {
            PageCodec::Exact(PageElement::F16) => {
                let numbers: &[u16] = cast_slice(under.bytes);
                let numbers = &numbers[kv_head * elements..][..elements];
                taker.take::<I>(&head, layout.bits, Halves(numbers));
            }
            _ => {
                let Some(of) = under.codes() else {
                    unreachable!("{} is not added as it is read", under.codec)
                };
                read_steps::<I>(of, under, kv_head, anchor_steps);
                let (codes, steps) = (codes(of, under, kv_head), &**anchor_steps);
                taker.take::<I>(&head, layout.bits, ByToken { codes, steps });
            }
        },
    }
}

/// What is done with a head's values.
pub trait Taker {
    /// Takes them.
    ///
    /// # Safety
    /// The machine has the tier.
    unsafe fn take<I: Isa>(self, head: &Head<'_>, bits: Bits, under: impl Under);
}

/// Keeps them, tokens × head_dim.
struct Store<'a>(&'a mut [f32]);

impl Taker for Store<'_> {
    #[inline(always)]
    unsafe fn take<I: Isa>(self, head: &Head<'_>, bits: Bits, under: impl Under) {
        match bits {
            Bits::Two => head.decode::<I, 2>(under, self.0),
            Bits::Four => head.decode::<I, 4>(under, self.0),
            Bits::Eight => head.decode::<I, 8>(under, self.0),
        }
    }
}

/// Whether a page's differences can be added to its anchor as both are read.
pub fn adds_as_read(page: &Page<'_>, anchor: &Page<'_>) -> bool {
    matches!(anchor.codec, PageCodec::Exact(PageElement::F16) | PageCodec::Quantised(Bits::Eight))
        && matches!(page.codec, PageCodec::Delta(_))
        && page.head_dim.is_multiple_of(GROUP_CHANNELS)
}

fn codes<'a>(layout: &CodeLayout, page: &Page<'a>, kv_head: usize) -> &'a [u8] {
    &page.bytes[kv_head * layout.head_bytes..][..layout.head_bytes]
}

/// What differences are added to, sixteen at a time.
pub trait Under: Copy {
    /// `codes · step` plus the `nth` sixteen of a head, which is of a token.
    ///
    /// # Safety
    /// The machine has the tier, and so many sixteens are there.
    unsafe fn plus<I: Isa>(self, codes: I::Sixteen, step: I::V, nth: usize, token: usize) -> I::Sixteen;

    /// All of it, where it is decoded: rows of any length are added to no other.
    fn numbers(&self) -> &[f32] {
        &[]
    }
}

#[derive(Clone, Copy)]
struct Nothing;

impl Under for Nothing {
    #[inline(always)]
    unsafe fn plus<I: Isa>(
        self,
        mut codes: I::Sixteen,
        step: I::V,
        _nth: usize,
        _token: usize,
    ) -> I::Sixteen {
        for code in codes.as_mut() {
            *code = I::mul(*code, step);
        }
        codes
    }
}

#[derive(Clone, Copy)]
struct Numbers<'a>(&'a [f32]);

impl Under for Numbers<'_> {
    #[inline(always)]
    unsafe fn plus<I: Isa>(self, mut codes: I::Sixteen, step: I::V, nth: usize, _token: usize) -> I::Sixteen {
        for (i, code) in codes.as_mut().iter_mut().enumerate() {
            *code = I::fma(*code, step, I::load(self.0.as_ptr().add(nth * SIXTEEN + i * I::LANES)));
        }
        codes
    }

    fn numbers(&self) -> &[f32] {
        self.0
    }
}

#[derive(Clone, Copy)]
struct Halves<'a>(&'a [u16]);

impl Under for Halves<'_> {
    #[inline(always)]
    unsafe fn plus<I: Isa>(self, mut codes: I::Sixteen, step: I::V, nth: usize, _token: usize) -> I::Sixteen {
        for (i, code) in codes.as_mut().iter_mut().enumerate() {
            *code = I::fma(*code, step, I::load_f16(self.0.as_ptr().add(nth * SIXTEEN + i * I::LANES)));
        }
        codes
    }
}

/// Codes of 8 bits with a step for each token.
#[derive(Clone, Copy)]
struct ByToken<'a> {
    codes: &'a [u8],
    steps: &'a [f32],
}

impl Under for ByToken<'_> {
    #[inline(always)]
    unsafe fn plus<I: Isa>(self, mut codes: I::Sixteen, step: I::V, nth: usize, token: usize) -> I::Sixteen {
        let own_step = I::splat(*self.steps.as_ptr().add(token));
        let own = I::steps_8(self.codes.as_ptr().add(nth * SIXTEEN));
        for (code, own) in codes.as_mut().iter_mut().zip(own.as_ref()) {
            *code = I::fma(*code, step, I::mul(*own, own_step));
        }
        codes
    }
}

/// Sixteen codes as steps.
///
/// # Safety
/// The machine has the tier, and so many codes are there.
#[inline(always)]
pub unsafe fn sixteen<I: Isa, const BITS: usize>(codes: *const u8) -> I::Sixteen {
    match BITS {
        2 => I::steps_2(codes),
        4 => I::steps_4(codes),
        _ => I::steps_8(codes),
    }
}

/// The steps of a head: one for each token and group, or for each channel.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn read_steps<I: Isa>(layout: &CodeLayout, page: &Page<'_>, kv_head: usize, steps: &mut Floats) {
    let first = layout.scales_at + 2 * kv_head * layout.head_scales;
    let scales: &[u16] = cast_slice(&page.bytes[first..first + 2 * layout.head_scales]);
    let dim = page.head_dim;
    if layout.group.is_some() {
        steps.resize(scales.len());
        return halves::<I>(scales, steps);
    }
    steps.resize(dim);
    let scale = f16_to_f32(scales[0]);
    match layout.channels_at {
        // A channel's 8 bits stand for 1/256 to 1.
        Some(channels_at) => {
            let parts = &page.bytes[channels_at + kv_head * dim..][..dim];
            for (step, part) in steps.iter_mut().zip(parts) {
                *step = scale * ((f32::from(*part) + 1.0) / 256.0);
            }
        }
        None => {
            for (step, part) in steps.iter_mut().zip(page.constants.first(kv_head)) {
                *step = scale * f16_to_f32(*part);
            }
        }
    }
}

/// Steps of tokens × groups as groups × tokens.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn by_group<'s, I: Isa>(steps: &'s [f32], groups: usize, out: &'s mut Floats) -> &'s [f32] {
    assert!(steps.len() == groups * CHUNK_TOKENS, "a step for each token and group");
    if groups == 1 {
        return steps;
    }
    out.resize(steps.len());
    if groups == 2 {
        for token in (0..CHUNK_TOKENS).step_by(I::LANES) {
            let pairs = steps.as_ptr().add(2 * token);
            let [first, second] = I::unzip(I::load(pairs), I::load(pairs.add(I::LANES)));
            I::store(out.as_mut_ptr().add(token), first);
            I::store(out.as_mut_ptr().add(CHUNK_TOKENS + token), second);
        }
        return out;
    }
    for (g, out) in out.chunks_exact_mut(CHUNK_TOKENS).enumerate() {
        for (out, of_token) in out.iter_mut().zip(steps.chunks_exact(groups)) {
            *out = of_token[g];
        }
    }
    out
}

/// One head's codes and steps.
pub struct Head<'a> {
    pub codes: &'a [u8],
    /// Tokens × groups.
    pub steps: &'a [f32],
    pub dim: usize,
    pub group: usize,
}

impl Head<'_> {
    #[inline(always)]
    unsafe fn decode<I: Isa, const BITS: usize>(&self, under: impl Under, out: &mut [f32]) {
        match self.group {
            32 if self.dim == 64 => self.by_token::<I, BITS, 2, 4>(under, out),
            32 if self.dim.is_multiple_of(32) => self.by_token::<I, BITS, 2, 0>(under, out),
            64 if self.dim == 64 => self.by_token::<I, BITS, 4, 4>(under, out),
            128 if self.dim == 128 => self.by_token::<I, BITS, 8, 8>(under, out),
            _ => self.any::<I, BITS>(under.numbers(), out),
        }
    }

    /// A step for each so many sixteens, one after another: whole groups of a token's channels, or tokens of the usual
    /// lengths. Sixteens of a token are given where they are known beforehand.
    #[inline(always)]
    unsafe fn by_token<I: Isa, const BITS: usize, const SIXTEENS: usize, const OF_TOKEN: usize>(
        &self,
        under: impl Under,
        out: &mut [f32],
    ) {
        assert_eq!(self.steps.len() * SIXTEENS * SIXTEEN, out.len(), "a step for each group");
        let of_token = if OF_TOKEN == 0 { self.dim / SIXTEEN } else { OF_TOKEN };
        let (codes, out) = (self.codes.as_ptr(), out.as_mut_ptr());
        for (group, step) in self.steps.iter().enumerate() {
            let step = I::splat(*step);
            for part in 0..SIXTEENS {
                let nth = group * SIXTEENS + part;
                let codes = sixteen::<I, BITS>(codes.add(nth * BITS * SIXTEEN / 8));
                let values = under.plus::<I>(codes, step, nth, nth / of_token);
                for (i, value) in values.as_ref().iter().enumerate() {
                    I::store(out.add(nth * SIXTEEN + i * I::LANES), *value);
                }
            }
        }
    }

    /// Rows of any length: the codes first, then row by row what they are multiplied with.
    #[inline(always)]
    unsafe fn any<I: Isa, const BITS: usize>(&self, anchor: &[f32], out: &mut [f32]) {
        for first in (0..out.len()).step_by(SIXTEEN) {
            let codes = sixteen::<I, BITS>(self.codes.as_ptr().add(first * BITS / 8));
            for (i, code) in codes.as_ref().iter().enumerate() {
                I::store(out.as_mut_ptr().add(first + i * I::LANES), *code);
            }
        }
        let groups = self.dim.div_ceil(self.group);
        for (token, row) in out.chunks_exact_mut(self.dim).enumerate() {
            for (g, values) in row.chunks_mut(self.group).enumerate() {
                for i in (0..values.len()).step_by(I::LANES) {
                    let lanes = I::LANES.min(values.len() - i);
                    let step = I::splat(self.steps[token * groups + g]);
                    let p = values[i..].as_mut_ptr();
                    let code = load_first::<I>(p, lanes);
                    let value = if anchor.is_empty() {
                        I::mul(code, step)
                    } else {
                        let at = token * self.dim + g * self.group + i;
                        I::fma(code, step, load_first::<I>(anchor[at..].as_ptr(), lanes))
                    };
                    store_first::<I>(p, value, lanes);
                }
            }
        }
    }
}
