//! Pages of keys as scores take them, with tokens side by side: head_dim × tokens. Those of codes lie so that a vector reads
//! a word of each token; others are decoded as they lie and transposed.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use bytemuck::cast_slice;
use interleaf_contract::{Bits, CHUNK_TOKENS, CodeLayout, PageCodec};

use super::codes::{by_group, read_steps};
use super::{Anchor, Decode, Order, Page, Scratch, low_rank, transpose, transpose_back};
use crate::isa::Isa;

/// A block for each of some numbers, known to the compiler in each.
macro_rules! unrolled {
    ($nth:ident in $($number:literal)* => $body:block) => {
        $({
            let $nth: usize = $number;
            $body
        })*
    };
}

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
    match page.codes() {
        Some(layout) => {
            let mut store = Store(out.as_mut_ptr());
            of_codes::<I>(layout, page, kv_head, anchor, &mut store, scratch);
        }
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
    keys.resize(out.len());
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
    rows.resize(out.len());
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
        below.resize(under.len());
        transpose_back::<I>(under, page.head_dim, &mut below);
        let anchor = if under.is_empty() { Anchor::None } else { Anchor::Values(&below) };
        Decode { page, kv_head, order, anchor, out: &mut rows, scratch }.on::<I>();
        transpose::<I>(&rows, page.head_dim, out);
        scratch.below = below;
    }
    scratch.rows = rows;
}

/// Decodes one head of a page of codes, for whatever takes the keys.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn of_codes<I: Isa>(
    layout: &CodeLayout,
    page: &Page<'_>,
    kv_head: usize,
    anchor: Anchor<'_>,
    taker: &mut impl Taker<I>,
    scratch: &mut Scratch,
) {
    let Scratch { steps, anchor_steps, group_steps, .. } = scratch;
    read_steps::<I>(layout, page, kv_head, steps);
    let dim = page.head_dim;
    let steps = match layout.group {
        Some(group) => by_group::<I>(steps, dim.div_ceil(group), group_steps),
        None => steps,
    };
    let head = Head { codes: codes(layout, page, kv_head), dim, steps, group: layout.group };
    match anchor {
        Anchor::None => head.of_bits::<I>(layout.bits, Nothing, taker),
        Anchor::Values(values) => {
            assert!(values.len() == CHUNK_TOKENS * dim, "an anchor of the same head");
            head.of_bits::<I>(layout.bits, Keys(values.as_ptr()), taker);
        }
        Anchor::Page(under) => {
            let Some(of) = under.codes() else { unreachable!("{} is not added as it is read", under.codec) };
            read_steps::<I>(of, under, kv_head, anchor_steps);
            let under = Codes { codes: codes(of, under, kv_head), steps: anchor_steps };
            head.of_bits::<I>(layout.bits, under, taker);
        }
    }
}

/// Words of a token × tokens.
fn codes(layout: &CodeLayout, page: &Page<'_>, kv_head: usize) -> *const u32 {
    cast_slice::<u8, u32>(&page.bytes[kv_head * layout.head_bytes..][..layout.head_bytes]).as_ptr()
}

/// What differences are added to, a vector of tokens at a time.
trait Under: Copy {
    /// What is read once for the channels of a word of codes.
    type Read<I: Isa>: Copy;

    /// Reads it of some channels, no more than a word has.
    unsafe fn read<I: Isa>(self, channels: Range<usize>, token: usize) -> Self::Read<I>;

    /// `code · step` plus what there is of a channel, the `nth` of those that were read: which is known to the compiler where
    /// the channel is not.
    unsafe fn plus<I: Isa>(
        self,
        read: Self::Read<I>,
        code: I::V,
        step: I::V,
        channel: usize,
        nth: usize,
        token: usize,
    ) -> I::V;
}

#[derive(Clone, Copy)]
struct Nothing;

impl Under for Nothing {
    type Read<I: Isa> = ();

    #[inline(always)]
    unsafe fn read<I: Isa>(self, _channels: Range<usize>, _token: usize) {}

    #[inline(always)]
    unsafe fn plus<I: Isa>(
        self,
        _read: (),
        code: I::V,
        step: I::V,
        _channel: usize,
        _nth: usize,
        _token: usize,
    ) -> I::V {
        I::mul(code, step)
    }
}

/// Numbers, head_dim × tokens.
#[derive(Clone, Copy)]
struct Keys(*const f32);

impl Under for Keys {
    type Read<I: Isa> = ();

    #[inline(always)]
    unsafe fn read<I: Isa>(self, _channels: Range<usize>, _token: usize) {}

    #[inline(always)]
    unsafe fn plus<I: Isa>(
        self,
        _read: (),
        code: I::V,
        step: I::V,
        channel: usize,
        _nth: usize,
        token: usize,
    ) -> I::V {
        I::fma(code, step, I::load(self.0.add(channel * CHUNK_TOKENS + token)))
    }
}

/// Channels of a word of codes of 8 bits, and how many such words go with one of the narrowest codes.
const CHANNELS: usize = 4;
const MOST_WORDS: usize = 4;

/// Codes of 8 bits with a step for each channel.
#[derive(Clone, Copy)]
struct Codes<'a> {
    codes: *const u32,
    steps: &'a [f32],
}

impl Under for Codes<'_> {
    type Read<I: Isa> = [I::Words; MOST_WORDS];

    #[inline(always)]
    unsafe fn read<I: Isa>(self, channels: Range<usize>, token: usize) -> Self::Read<I> {
        let words = self.codes.add(channels.start / CHANNELS * CHUNK_TOKENS + token);
        let count = channels.len().div_ceil(CHANNELS);
        let mut read = [I::words(words); MOST_WORDS];
        for (i, read) in read.iter_mut().enumerate().take(count).skip(1) {
            *read = I::words(words.add(i * CHUNK_TOKENS));
        }
        read
    }

    #[inline(always)]
    unsafe fn plus<I: Isa>(
        self,
        read: Self::Read<I>,
        code: I::V,
        step: I::V,
        channel: usize,
        nth: usize,
        _token: usize,
    ) -> I::V {
        let own = I::steps_of_words::<8>(read[nth / CHANNELS], nth % CHANNELS);
        I::fma(code, step, I::mul(own, I::splat(*self.steps.as_ptr().add(channel))))
    }
}

/// What is done with keys, a vector of tokens of one channel after another.
pub trait Taker<I: Isa> {
    /// Takes a channel's, from a token on; `nth` as in [`Under::plus`].
    ///
    /// # Safety
    /// The machine has the tier.
    unsafe fn take(&mut self, key: I::V, channel: usize, nth: usize, token: usize);

    /// All channels have come of the tokens from one on.
    ///
    /// # Safety
    /// The machine has the tier.
    unsafe fn end(&mut self, _token: usize) {}
}

/// Keeps them, head_dim × tokens.
struct Store(*mut f32);

impl<I: Isa> Taker<I> for Store {
    #[inline(always)]
    unsafe fn take(&mut self, key: I::V, channel: usize, _nth: usize, token: usize) {
        I::store(self.0.add(channel * CHUNK_TOKENS + token), key);
    }
}

/// How large a code's step is, of a vector of tokens.
trait Steps<I: Isa>: Copy {
    /// A channel's.
    unsafe fn of(self, channel: usize) -> I::V;
}

#[derive(Clone, Copy)]
struct ByChannel<'a>(&'a [f32]);

impl<I: Isa> Steps<I> for ByChannel<'_> {
    #[inline(always)]
    unsafe fn of(self, channel: usize) -> I::V {
        I::splat(*self.0.as_ptr().add(channel))
    }
}

/// The same for all channels.
#[derive(Clone, Copy)]
struct ByToken<V>(V);

impl<I: Isa> Steps<I> for ByToken<I::V> {
    #[inline(always)]
    unsafe fn of(self, _channel: usize) -> I::V {
        self.0
    }
}

/// One head's codes and steps.
struct Head<'a> {
    /// Words of a token × tokens.
    codes: *const u32,
    dim: usize,
    /// Groups × tokens, or one for each channel.
    steps: &'a [f32],
    group: Option<usize>,
}

impl Head<'_> {
    #[inline(always)]
    unsafe fn of_bits<I: Isa>(self, bits: Bits, under: impl Under, taker: &mut impl Taker<I>) {
        match bits {
            Bits::Two => self.decode::<I, 2>(under, taker),
            Bits::Four => self.decode::<I, 4>(under, taker),
            Bits::Eight => self.decode::<I, 8>(under, taker),
        }
    }

    #[inline(always)]
    unsafe fn decode<I: Isa, const BITS: usize>(self, under: impl Under, taker: &mut impl Taker<I>) {
        let groups = self.group.map_or(1, |group| self.dim.div_ceil(group));
        let steps = if self.group.is_some() { groups * CHUNK_TOKENS } else { self.dim };
        assert!(self.steps.len() == steps, "a step for each channel, or token and group");
        for token in (0..CHUNK_TOKENS).step_by(I::LANES) {
            match self.group {
                None => {
                    let steps = ByChannel(self.steps);
                    self.channels::<I, BITS>(0..self.dim, token, steps, under, taker);
                }
                Some(group) => {
                    for (g, of_group) in self.steps.chunks_exact(CHUNK_TOKENS).enumerate() {
                        let channels = g * group..self.dim.min((g + 1) * group);
                        let steps = ByToken(I::load(of_group[token..][..I::LANES].as_ptr()));
                        self.channels::<I, BITS>(channels, token, steps, under, taker);
                    }
                }
            }
            taker.end(token);
        }
    }

    /// Some channels of a vector of tokens, from the first of a word on.
    #[inline(always)]
    unsafe fn channels<I: Isa, const BITS: usize>(
        &self,
        channels: Range<usize>,
        token: usize,
        steps: impl Steps<I>,
        under: impl Under,
        taker: &mut impl Taker<I>,
    ) {
        let of_word = u32::BITS as usize / BITS;
        for first in channels.clone().step_by(of_word) {
            if first + of_word <= channels.end {
                self.word::<I, BITS, true>(first..first + of_word, token, steps, under, taker);
            } else {
                self.word::<I, BITS, false>(first..channels.end, token, steps, under, taker);
            }
        }
    }

    /// The channels of a word of each token: as many as it has, or not.
    #[inline(always)]
    unsafe fn word<I: Isa, const BITS: usize, const WHOLE: bool>(
        &self,
        channels: Range<usize>,
        token: usize,
        steps: impl Steps<I>,
        under: impl Under,
        taker: &mut impl Taker<I>,
    ) {
        let of_word = u32::BITS as usize / BITS;
        let Range { start: first, end } = channels;
        let words = I::words(self.codes.add(first / of_word * CHUNK_TOKENS + token));
        let read = under.read::<I>(channels, token);
        // Written out: where `nth` is known, so are shifts, and sums stay in registers.
        unrolled!(nth in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 => {
            if nth < of_word && (WHOLE || first + nth < end) {
                let code = I::steps_of_words::<BITS>(words, nth);
                let key = under.plus::<I>(read, code, steps.of(first + nth), first + nth, nth, token);
                taker.take(key, first + nth, nth, token);
            }
        });
    }
}
