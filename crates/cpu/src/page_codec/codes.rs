//! Pages of codes: a value is its code's steps times a step that a group of them shares. Decoding; what is encoded how
//! is in `encode`.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use bytemuck::cast_slice;
use interleaf_contract::{Bits, CHUNK_TOKENS, CodeLayout};

use super::Page;
use super::exact::halves;
use crate::isa::Isa;
use crate::math::{f16_to_f32, load_first, store_first};

/// Codes that are unpacked together.
pub const SIXTEEN: usize = 16;

/// Decodes one head, and adds its anchor if there is one.
///
/// # Safety
/// The machine has the tier. `out` is tokens × head_dim, and `anchor` as long or empty.
#[inline(always)]
pub unsafe fn decode<I: Isa>(
    layout: &CodeLayout,
    page: &Page<'_>,
    kv_head: usize,
    anchor: &[f32],
    out: &mut [f32],
    steps: &mut Vec<f32>,
) {
    let codes = &page.bytes[kv_head * layout.head_bytes..][..layout.head_bytes];
    read_steps::<I>(layout, page, kv_head, steps);
    let head = Head { codes, steps, anchor, dim: page.head_dim, group: layout.group };
    match layout.bits {
        Bits::Two => head.decode::<I, 2>(out),
        Bits::Four => head.decode::<I, 4>(out),
        Bits::Eight => head.decode::<I, 8>(out),
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
#[inline(always)]
unsafe fn read_steps<I: Isa>(layout: &CodeLayout, page: &Page<'_>, kv_head: usize, steps: &mut Vec<f32>) {
    let first = layout.scales_at + 2 * kv_head * layout.head_scales;
    let scales: &[u16] = cast_slice(&page.bytes[first..first + 2 * layout.head_scales]);
    let dim = page.head_dim;
    if layout.group.is_some() {
        steps.resize(scales.len(), 0.0);
        return halves::<I>(scales, steps);
    }
    steps.resize(dim, 0.0);
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
            let profile = &page.constants.values[kv_head * dim..][..dim];
            for (step, part) in steps.iter_mut().zip(profile) {
                *step = scale * part;
            }
        }
    }
}

/// One head's codes and steps.
struct Head<'a> {
    codes: &'a [u8],
    steps: &'a [f32],
    anchor: &'a [f32],
    dim: usize,
    group: Option<usize>,
}

impl Head<'_> {
    #[inline(always)]
    unsafe fn decode<I: Isa, const BITS: usize>(&self, out: &mut [f32]) {
        let is_whole = self.dim.is_multiple_of(SIXTEEN);
        match (self.group, self.anchor.is_empty()) {
            (Some(32), true) if self.dim.is_multiple_of(32) => self.by_token::<I, BITS, 2, false>(out),
            (Some(32), false) if self.dim.is_multiple_of(32) => self.by_token::<I, BITS, 2, true>(out),
            (Some(64), true) if self.dim == 64 => self.by_token::<I, BITS, 4, false>(out),
            (Some(128), true) if self.dim == 128 => self.by_token::<I, BITS, 8, false>(out),
            (None, true) if is_whole => self.by_channel::<I, BITS>(out),
            _ => self.any::<I, BITS>(out),
        }
    }

    /// A step for each so many sixteens, one after another: whole groups of a token's channels, or tokens of the usual
    /// lengths.
    #[inline(always)]
    unsafe fn by_token<I: Isa, const BITS: usize, const SIXTEENS: usize, const OVER: bool>(
        &self,
        out: &mut [f32],
    ) {
        assert_eq!(self.steps.len() * SIXTEENS * SIXTEEN, out.len(), "a step for each group");
        let (codes, anchor, out) = (self.codes.as_ptr(), self.anchor.as_ptr(), out.as_mut_ptr());
        for (group, step) in self.steps.iter().enumerate() {
            let step = I::splat(*step);
            for part in 0..SIXTEENS {
                let nth = group * SIXTEENS + part;
                let codes = sixteen::<I, BITS>(codes.add(nth * BITS * SIXTEEN / 8));
                for (i, code) in codes.as_ref().iter().enumerate() {
                    let at = nth * SIXTEEN + i * I::LANES;
                    let mut value = I::mul(*code, step);
                    if OVER {
                        value = I::add(value, I::load(anchor.add(at)));
                    }
                    I::store(out.add(at), value);
                }
            }
        }
    }

    /// A step for each channel, of which there are whole sixteens.
    #[inline(always)]
    unsafe fn by_channel<I: Isa, const BITS: usize>(&self, out: &mut [f32]) {
        let stride = self.dim * BITS / 8;
        for first in (0..self.dim).step_by(SIXTEEN) {
            let steps = self.steps.as_ptr().add(first);
            for token in 0..CHUNK_TOKENS {
                let codes = sixteen::<I, BITS>(self.codes.as_ptr().add(token * stride + first * BITS / 8));
                let out = out.as_mut_ptr().add(token * self.dim + first);
                for (i, code) in codes.as_ref().iter().enumerate() {
                    I::store(out.add(i * I::LANES), I::mul(*code, I::load(steps.add(i * I::LANES))));
                }
            }
        }
    }

    /// Rows of any length: the codes first, then row by row what they are multiplied with.
    #[inline(always)]
    unsafe fn any<I: Isa, const BITS: usize>(&self, out: &mut [f32]) {
        for first in (0..out.len()).step_by(SIXTEEN) {
            let codes = sixteen::<I, BITS>(self.codes.as_ptr().add(first * BITS / 8));
            for (i, code) in codes.as_ref().iter().enumerate() {
                I::store(out.as_mut_ptr().add(first + i * I::LANES), *code);
            }
        }
        let group = self.group.unwrap_or(self.dim);
        let groups = self.dim.div_ceil(group);
        for (token, row) in out.chunks_exact_mut(self.dim).enumerate() {
            for (g, values) in row.chunks_mut(group).enumerate() {
                for i in (0..values.len()).step_by(I::LANES) {
                    let lanes = I::LANES.min(values.len() - i);
                    let step = match self.group {
                        Some(_) => I::splat(self.steps[token * groups + g]),
                        None => load_first::<I>(self.steps[i..].as_ptr(), lanes),
                    };
                    let p = values[i..].as_mut_ptr();
                    let mut value = I::mul(load_first::<I>(p, lanes), step);
                    if !self.anchor.is_empty() {
                        let at = token * self.dim + g * group + i;
                        value = I::add(value, load_first::<I>(self.anchor[at..].as_ptr(), lanes));
                    }
                    store_first::<I>(p, value, lanes);
                }
            }
        }
    }
}
