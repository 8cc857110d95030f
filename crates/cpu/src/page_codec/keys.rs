//! Pages of keys as scores take them, with tokens side by side: head_dim × tokens. Those of codes lie so that a vector reads
//! a word of each token; others are decoded as they lie and transposed.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use bytemuck::cast_slice;
use interleaf_contract::{Bits, CHUNK_TOKENS, CodeLayout, PageCodec};

use super::codes::read_steps;
use super::{Anchor, Decode, Order, Page, Scratch, low_rank, transpose, transpose_back};
use crate::isa::Isa;

/// Decodes one head of a page of keys, head_dim × tokens; an anchor's values lie as `out` does.
///
/// # Safety
/// The machine has the tier. `out` is as long as a head is, and an anchor's values as long as `out`.
#[inline(always)]
pub unsafe fn decode<I: Isa>(
    page: &Page<'_>,
    kv_head: usize,
    anchor: Anchor<'_>,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    match CodeLayout::new(page.codec, page.half, page.kv_heads, page.head_dim) {
        Some(layout) => of_codes::<I>(&layout, page, kv_head, anchor, out, scratch),
        None => of_rows::<I>(page, kv_head, anchor, out, scratch),
    }
}

/// Whether a page's differences can be added to its anchor as both are read.
pub fn adds_as_read(page: &Page<'_>, anchor: &Page<'_>) -> bool {
    matches!(anchor.codec, PageCodec::Quantised(Bits::Eight) | PageCodec::Profiled(Bits::Eight))
        && matches!(page.codec, PageCodec::Delta(_))
}

/// A head's tokens as rows, over those of an anchor.
///
/// # Safety
/// The machine has the tier. `out` is tokens × head_dim, and `anchor` as long, or empty of a page that stands alone.
#[inline(always)]
pub unsafe fn rows<I: Isa>(
    page: &Page<'_>,
    kv_head: usize,
    anchor: &[f32],
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let mut keys = std::mem::take(&mut scratch.rows);
    keys.resize(out.len(), 0.0);
    Decode { page, kv_head, order: Order::ByChannel, anchor: Anchor::None, out: &mut keys, scratch }
        .on::<I>();
    transpose_back::<I>(&keys, page.head_dim, out);
    out.iter_mut().zip(anchor).for_each(|(value, anchor)| *value += anchor);
    scratch.rows = keys;
}

/// Through rows of tokens.
#[inline(always)]
unsafe fn of_rows<I: Isa>(
    page: &Page<'_>,
    kv_head: usize,
    anchor: Anchor<'_>,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let under = match anchor {
        Anchor::Values(values) => values,
        Anchor::None | Anchor::Page(_) => &[],
    };
    let order = Order::ByToken;
    let mut rows = std::mem::take(&mut scratch.rows);
    rows.resize(out.len(), 0.0);
    if matches!(page.codec, PageCodec::LowRank { .. }) {
        // What is added to the anchor is added where it lies.
        Decode { page, kv_head, order, anchor: Anchor::None, out: &mut rows, scratch }.on::<I>();
        transpose::<I>(&rows, page.head_dim, out);
        let keeps_first = low_rank::keeps_first(page);
        for (out, under) in out.chunks_exact_mut(CHUNK_TOKENS).zip(under.chunks_exact(CHUNK_TOKENS)) {
            let first = out[0];
            out.iter_mut().zip(under).for_each(|(value, under)| *value += under);
            if keeps_first {
                out[0] = first;
            }
        }
    } else {
        let mut below = std::mem::take(&mut scratch.below);
        below.resize(under.len(), 0.0);
        transpose_back::<I>(under, page.head_dim, &mut below);
        let anchor = if under.is_empty() { Anchor::None } else { Anchor::Values(&below) };
        Decode { page, kv_head, order, anchor, out: &mut rows, scratch }.on::<I>();
        transpose::<I>(&rows, page.head_dim, out);
        scratch.below = below;
    }
    scratch.rows = rows;
}

#[inline(always)]
unsafe fn of_codes<I: Isa>(
    layout: &CodeLayout,
    page: &Page<'_>,
    kv_head: usize,
    anchor: Anchor<'_>,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let Scratch { steps, anchor_steps, .. } = scratch;
    read_steps::<I>(layout, page, kv_head, steps);
    let dim = page.head_dim;
    let head = Head { codes: codes(layout, page, kv_head), dim, steps, group: layout.group };
    assert!(out.len() == CHUNK_TOKENS * dim, "one head of a page");
    match anchor {
        Anchor::None => head.of_bits::<I>(layout.bits, Nothing, out),
        Anchor::Values(values) => {
            assert!(values.len() == out.len(), "an anchor of the same head");
            head.of_bits::<I>(layout.bits, Keys(values.as_ptr()), out);
        }
        Anchor::Page(under) => {
            let of = CodeLayout::new(under.codec, under.half, under.kv_heads, under.head_dim);
            let Some(of) = of else { unreachable!("{} is not added as it is read", under.codec) };
            read_steps::<I>(&of, under, kv_head, anchor_steps);
            let under = Codes { codes: codes(&of, under, kv_head), steps: anchor_steps };
            head.of_bits::<I>(layout.bits, under, out);
        }
    }
}

/// Words of a token × tokens.
fn codes(layout: &CodeLayout, page: &Page<'_>, kv_head: usize) -> *const u32 {
    cast_slice::<u8, u32>(&page.bytes[kv_head * layout.head_bytes..][..layout.head_bytes]).as_ptr()
}

/// What differences are added to, a vector of tokens at a time.
trait Under: Copy {
    /// `value` plus what there is of a channel, from a token on. The channel is the `nth` of whole words of any codes, which
    /// is known to the compiler where the channel is not.
    unsafe fn add_to<I: Isa>(self, value: I::V, channel: usize, nth: usize, token: usize) -> I::V;
}

#[derive(Clone, Copy)]
struct Nothing;

impl Under for Nothing {
    #[inline(always)]
    unsafe fn add_to<I: Isa>(self, value: I::V, _channel: usize, _nth: usize, _token: usize) -> I::V {
        value
    }
}

/// Numbers, head_dim × tokens.
#[derive(Clone, Copy)]
struct Keys(*const f32);

impl Under for Keys {
    #[inline(always)]
    unsafe fn add_to<I: Isa>(self, value: I::V, channel: usize, _nth: usize, token: usize) -> I::V {
        I::add(value, I::load(self.0.add(channel * CHUNK_TOKENS + token)))
    }
}

/// Codes of 8 bits with a step for each channel.
#[derive(Clone, Copy)]
struct Codes<'a> {
    codes: *const u32,
    steps: &'a [f32],
}

impl Under for Codes<'_> {
    #[inline(always)]
    unsafe fn add_to<I: Isa>(self, value: I::V, channel: usize, nth: usize, token: usize) -> I::V {
        let steps = I::steps_of_words::<8>(self.codes.add(channel / 4 * CHUNK_TOKENS + token), nth % 4);
        I::add(value, I::mul(steps, I::splat(*self.steps.as_ptr().add(channel))))
    }
}

/// How large a code's step is.
trait Steps: Copy {
    /// A channel's, for the tokens from one on.
    unsafe fn of<I: Isa>(self, channel: usize, token: usize) -> I::V;
}

#[derive(Clone, Copy)]
struct ByChannel<'a>(&'a [f32]);

impl Steps for ByChannel<'_> {
    #[inline(always)]
    unsafe fn of<I: Isa>(self, channel: usize, _token: usize) -> I::V {
        I::splat(*self.0.as_ptr().add(channel))
    }
}

/// The same for all channels.
#[derive(Clone, Copy)]
struct ByToken<'a>(&'a [f32; CHUNK_TOKENS]);

impl Steps for ByToken<'_> {
    #[inline(always)]
    unsafe fn of<I: Isa>(self, _channel: usize, token: usize) -> I::V {
        I::load(self.0.as_ptr().add(token))
    }
}

/// One head's codes and steps.
struct Head<'a> {
    /// Words of a token × tokens.
    codes: *const u32,
    dim: usize,
    /// Tokens × groups, or one for each channel.
    steps: &'a [f32],
    group: Option<usize>,
}

impl Head<'_> {
    #[inline(always)]
    unsafe fn of_bits<I: Isa>(self, bits: Bits, under: impl Under, out: &mut [f32]) {
        match bits {
            Bits::Two => self.decode::<I, 2>(under, out),
            Bits::Four => self.decode::<I, 4>(under, out),
            Bits::Eight => self.decode::<I, 8>(under, out),
        }
    }

    #[inline(always)]
    unsafe fn decode<I: Isa, const BITS: usize>(self, under: impl Under, out: &mut [f32]) {
        let Some(group) = self.group else {
            assert!(self.steps.len() == self.dim, "a step for each channel");
            return self.channels::<I, BITS>(0..self.dim, ByChannel(self.steps), under, out);
        };
        let groups = self.dim.div_ceil(group);
        assert!(self.steps.len() == groups * CHUNK_TOKENS, "a step for each token and group");
        for g in 0..groups {
            let mut of_group = [0.0; CHUNK_TOKENS];
            for (step, of_token) in of_group.iter_mut().zip(self.steps.chunks_exact(groups)) {
                *step = of_token[g];
            }
            let channels = g * group..self.dim.min((g + 1) * group);
            self.channels::<I, BITS>(channels, ByToken(&of_group), under, out);
        }
    }

    /// Some channels, from the first of a word on.
    #[inline(always)]
    unsafe fn channels<I: Isa, const BITS: usize>(
        &self,
        channels: Range<usize>,
        steps: impl Steps,
        under: impl Under,
        out: &mut [f32],
    ) {
        let of_word = u32::BITS as usize / BITS;
        let out = out.as_mut_ptr();
        for token in (0..CHUNK_TOKENS).step_by(I::LANES) {
            let whole = channels.end / of_word * of_word;
            for first in (channels.start..whole).step_by(of_word) {
                let words = self.codes.add(first / of_word * CHUNK_TOKENS + token);
                for nth in 0..of_word {
                    let channel = first + nth;
                    let value = I::mul(I::steps_of_words::<BITS>(words, nth), steps.of::<I>(channel, token));
                    let value = under.add_to::<I>(value, channel, nth, token);
                    I::store(out.add(channel * CHUNK_TOKENS + token), value);
                }
            }
            for channel in whole.max(channels.start)..channels.end {
                let words = self.codes.add(channel / of_word * CHUNK_TOKENS + token);
                let nth = channel % of_word;
                let value = I::mul(I::steps_of_words::<BITS>(words, nth), steps.of::<I>(channel, token));
                let value = under.add_to::<I>(value, channel, nth, token);
                I::store(out.add(channel * CHUNK_TOKENS + token), value);
            }
        }
    }
}
