//! Encoding of pages of codes, to the same bits as the reference: a step is chosen by squared errors that are added in
//! its order, of as many groups side by side as a vector has lanes, and as many channels are shaped side by side.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use half::f16;
use interleaf_contract::{Bits, CHUNK_TOKENS, CodeLayout, PageCodec};

use super::{Page, exact, low_rank, steps, transpose};
use crate::isa::Isa;
use crate::math::{MOST_LANES, f16_to_f32, load_first};

/// Encodes all heads' values, kv_heads × tokens × head_dim, into a page of zeros. `anchor` is as long, or empty for codecs
/// that stand alone.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn encode_page<I: Isa>(page: &Page<'_>, values: &[f32], anchor: &[f32], out: &mut [u8]) {
    match page.codec {
        PageCodec::Exact(element) => exact::encode(element, out, 0, values),
        PageCodec::Steps(width) => steps::encode(width, values, anchor, out),
        PageCodec::LowRank { .. } => low_rank::encode::<I>(page, values, anchor, out),
        PageCodec::Quantised(_) | PageCodec::Profiled(_) | PageCodec::Grouped(_) => {
            encode_codes::<I>(page, values, out);
        }
        PageCodec::Delta(_) => {
            let difference: Vec<f32> = values.iter().zip(anchor).map(|(v, a)| v - a).collect();
            encode_codes::<I>(page, &difference, out);
        }
    }
}

#[inline(always)]
unsafe fn encode_codes<I: Isa>(page: &Page<'_>, values: &[f32], out: &mut [u8]) {
    let Some(layout) = page.codes() else { unreachable!("{} is of codes", page.codec) };
    let mut codes = vec![0u8; CHUNK_TOKENS * page.head_dim];
    let mut work = vec![0.0; CHUNK_TOKENS * page.head_dim];
    for (kv_head, head) in values.chunks_exact(CHUNK_TOKENS * page.head_dim).enumerate() {
        match layout.group {
            Some(group) => by_token::<I>(layout, group, kv_head, head, &mut work, &mut codes, out),
            None => by_channel::<I>(layout, page, kv_head, head, &mut codes, out),
        }
        let out = &mut out[kv_head * layout.head_bytes..][..layout.head_bytes];
        match layout.token_words {
            Some(_) => pack_words(layout.bits, &codes, page.head_dim, out),
            None => pack(layout.bits, &codes, out),
        }
    }
}

/// One step for each group of a token's channels.
#[inline(always)]
unsafe fn by_token<I: Isa>(
    layout: &CodeLayout,
    group: usize,
    kv_head: usize,
    head: &[f32],
    columns: &mut [f32],
    codes: &mut [u8],
    out: &mut [u8],
) {
    let dim = head.len() / CHUNK_TOKENS;
    let groups = dim.div_ceil(group);
    transpose::<I>(head, dim, columns);
    for (g, columns) in columns.chunks(group * CHUNK_TOKENS).enumerate() {
        let mut steps = [0.0; CHUNK_TOKENS];
        match layout.shaped_clip() {
            Some(clip) => clipped_steps::<I>(layout.bits, clip, columns, CHUNK_TOKENS, &mut steps),
            None => best_steps::<I>(layout.bits, columns, CHUNK_TOKENS, &mut steps),
        }
        for (token, step) in steps.iter().enumerate() {
            set_scale(out, layout.scales_at, kv_head * layout.head_scales + token * groups + g, *step);
        }
        let channels = g * group..dim.min((g + 1) * group);
        if layout.is_shaped {
            quantise_shaped::<I>(layout.bits, head, channels, &steps, codes);
            continue;
        }
        for (token, step) in steps.into_iter().enumerate() {
            let divisors = divisors([step; MOST_LANES]);
            let place = token * dim + channels.start..token * dim + channels.end;
            let values = head[place.clone()].chunks(MOST_LANES);
            for (values, codes) in values.zip(codes[place].chunks_mut(MOST_LANES)) {
                quantise::<I>(layout.bits, values, &divisors, codes);
            }
        }
    }
}

/// One step for each channel: the head's scale times the channel's own part, of 8 bits in the page or of the profile.
#[inline(always)]
unsafe fn by_channel<I: Isa>(
    layout: &CodeLayout,
    page: &Page<'_>,
    kv_head: usize,
    head: &[f32],
    codes: &mut [u8],
    out: &mut [u8],
) {
    let dim = page.head_dim;
    let mut steps = vec![0.0; dim];
    best_steps::<I>(layout.bits, head, dim, &mut steps);
    let set = |out: &mut [u8], scale| set_scale(out, layout.scales_at, kv_head, scale);
    match layout.channels_at {
        Some(channels_at) => {
            let scale = f16_above(steps.iter().copied().fold(0.0, f32::max));
            set(out, scale);
            let parts = &mut out[channels_at + kv_head * dim..][..dim];
            for (part, step) in parts.iter_mut().zip(&mut steps) {
                let share = (*step / scale * 256.0).ceil().clamp(1.0, 256.0) - 1.0;
                *part = if scale == 0.0 { 0 } else { share as u8 };
                *step = scale * ((f32::from(*part) + 1.0) / 256.0);
            }
        }
        None => {
            let profile = page.constants.first(kv_head).iter().map(|part| f16_to_f32(*part));
            let scale = steps.iter().zip(profile.clone()).map(|(step, part)| step / part).fold(0.0, f32::max);
            let scale = f16_above(scale);
            set(out, scale);
            for (step, part) in steps.iter_mut().zip(profile) {
                *step = scale * part;
            }
        }
    }
    let steps = divisors(steps);
    for (values, codes) in head.chunks_exact(dim).zip(codes.chunks_exact_mut(dim)) {
        let steps = steps.chunks(MOST_LANES);
        for ((values, codes), steps) in values.chunks(MOST_LANES).zip(codes.chunks_mut(MOST_LANES)).zip(steps)
        {
            quantise::<I>(layout.bits, values, steps, codes);
        }
    }
}

/// The step, an f16, under which the codes of each column's values are nearest to them, of those that clip it differently:
/// `rows` are of so many columns each, of which there are as many as `steps`.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn best_steps<I: Isa>(bits: Bits, rows: &[f32], columns: usize, steps: &mut [f32]) {
    assert!(rows.len().is_multiple_of(columns) && steps.len() == columns, "whole rows");
    for first in (0..columns).step_by(I::LANES) {
        let lanes = I::LANES.min(columns - first);
        let magnitudes = magnitudes::<I>(rows, columns, first, lanes);
        let rows = || rows.chunks_exact(columns).map(|row| row[first..first + lanes].as_ptr());
        let mut least = [f32::INFINITY; MOST_LANES];
        let best = &mut steps[first..first + lanes];
        best.fill(0.0);
        for clip in bits.clips() {
            let step = magnitudes.map(|largest| clipped_step(bits, *clip, largest));
            let divisor = divisors(step);
            let (step_of, divisor) = (I::load(step.as_ptr()), I::load(divisor.as_ptr()));
            let mut sum = I::splat(0.0);
            for row in rows() {
                let v = load_first::<I>(row, lanes);
                let error = I::sub(v, decoded::<I>(bits, code::<I>(bits, v, divisor), step_of));
                sum = I::add(sum, I::mul(error, error));
            }
            let mut errors = [0.0f32; MOST_LANES];
            I::store(errors.as_mut_ptr(), sum);
            for (lane, best) in best.iter_mut().enumerate() {
                if errors[lane] < least[lane] {
                    (*best, least[lane]) = (step[lane], errors[lane]);
                }
            }
        }
    }
}

/// The same where they are not searched for: all columns are clipped alike.
#[inline(always)]
unsafe fn clipped_steps<I: Isa>(bits: Bits, clip: f32, rows: &[f32], columns: usize, steps: &mut [f32]) {
    assert!(rows.len().is_multiple_of(columns) && steps.len() == columns, "whole rows");
    for (i, steps) in steps.chunks_mut(I::LANES).enumerate() {
        let magnitudes = magnitudes::<I>(rows, columns, i * I::LANES, steps.len());
        for (step, largest) in steps.iter_mut().zip(magnitudes) {
            *step = clipped_step(bits, clip, largest);
        }
    }
}

/// The largest magnitude in each of a vector of columns.
#[inline(always)]
unsafe fn magnitudes<I: Isa>(rows: &[f32], columns: usize, first: usize, lanes: usize) -> [f32; MOST_LANES] {
    let mut largest = I::splat(0.0);
    for row in rows.chunks_exact(columns) {
        let v = load_first::<I>(row[first..first + lanes].as_ptr(), lanes);
        largest = I::max(largest, I::max(v, I::sub(I::splat(0.0), v)));
    }
    let mut magnitudes = [0.0; MOST_LANES];
    I::store(magnitudes.as_mut_ptr(), largest);
    magnitudes
}

/// The step, an f16, under which the largest code stands for a share of the largest magnitude.
fn clipped_step(bits: Bits, clip: f32, largest: f32) -> f32 {
    f16::from_f32(clip * largest / bits.reach()).to_f32()
}

/// What values are divided by: without a step every value is none of them.
pub fn divisors<T: AsMut<[f32]>>(mut steps: T) -> T {
    for step in steps.as_mut() {
        if *step == 0.0 {
            *step = f32::INFINITY;
        }
    }
    steps
}

/// The codes nearest to values, of two the even one, as f32.
#[inline(always)]
unsafe fn code<I: Isa>(bits: Bits, values: I::V, divisors: I::V) -> I::V {
    let last = ((1u32 << bits.count()) - 1) as f32;
    let nearest = I::round(I::sub(I::div(values, divisors), I::splat(bits.lowest())));
    I::min(I::splat(last), I::max(I::splat(0.0), nearest))
}

/// What codes stand for.
#[inline(always)]
unsafe fn decoded<I: Isa>(bits: Bits, codes: I::V, steps: I::V) -> I::V {
    I::mul(I::add(codes, I::splat(bits.lowest())), steps)
}

/// The shaped codes of some of a head's channels, a byte each, by each token's step: what rounding takes from a channel, a step
/// at most, is carried to its next token.
#[inline(always)]
unsafe fn quantise_shaped<I: Isa>(
    bits: Bits,
    head: &[f32],
    channels: Range<usize>,
    steps: &[f32; CHUNK_TOKENS],
    codes: &mut [u8],
) {
    let dim = head.len() / CHUNK_TOKENS;
    let divisors = divisors(*steps);
    for first in channels.clone().step_by(I::LANES) {
        let lanes = I::LANES.min(channels.end - first);
        let mut carry = I::splat(0.0);
        for (token, (step, divisor)) in steps.iter().zip(divisors).enumerate() {
            let place = token * dim + first..token * dim + first + lanes;
            let wanted = I::add(load_first::<I>(head[place.clone()].as_ptr(), lanes), carry);
            let nearest = code::<I>(bits, wanted, I::splat(divisor));
            let left = I::sub(wanted, decoded::<I>(bits, nearest, I::splat(*step)));
            carry = I::min(I::splat(*step), I::max(I::splat(-step), left));
            let mut found = [0.0f32; MOST_LANES];
            I::store(found.as_mut_ptr(), nearest);
            for (code, found) in codes[place].iter_mut().zip(found) {
                *code = found as u8;
            }
        }
    }
}

/// The codes of at most [`MOST_LANES`] values, a byte each.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn quantise<I: Isa>(bits: Bits, values: &[f32], divisors: &[f32], codes: &mut [u8]) {
    assert!(values.len() <= MOST_LANES && divisors.len() >= values.len() && codes.len() == values.len());
    let mut found = [0.0f32; MOST_LANES];
    for i in (0..values.len()).step_by(I::LANES) {
        let lanes = I::LANES.min(values.len() - i);
        let v = load_first::<I>(values[i..].as_ptr(), lanes);
        let divisor = load_first::<I>(divisors[i..].as_ptr(), lanes);
        I::store(found.as_mut_ptr().add(i), code::<I>(bits, v, divisor));
    }
    for (code, found) in codes.iter_mut().zip(found) {
        *code = found as u8;
    }
}

/// Packs codes, a byte each, from the lowest bits of each byte up.
pub fn pack(bits: Bits, codes: &[u8], out: &mut [u8]) {
    match bits {
        Bits::Two => {
            for (byte, c) in out.iter_mut().zip(codes.as_chunks::<4>().0) {
                *byte = c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6;
            }
        }
        Bits::Four => {
            for (byte, c) in out.iter_mut().zip(codes.as_chunks::<2>().0) {
                *byte = c[0] | c[1] << 4;
            }
        }
        Bits::Eight => out.copy_from_slice(codes),
    }
}

/// Packs each token's codes into words of its own, those of all tokens side by side.
fn pack_words(bits: Bits, codes: &[u8], dim: usize, out: &mut [u8]) {
    let of_word = u32::BITS as usize / bits.count();
    for (token, codes) in codes.chunks_exact(dim).enumerate() {
        for (word, codes) in codes.chunks(of_word).enumerate() {
            let packed = codes.iter().rev().fold(0, |packed, code| packed << bits.count() | u32::from(*code));
            out[(word * CHUNK_TOKENS + token) * 4..][..4].copy_from_slice(&packed.to_le_bytes());
        }
    }
}

fn set_scale(out: &mut [u8], scales_at: usize, index: usize, scale: f32) {
    out[scales_at + 2 * index..][..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
}

/// The smallest f16 that is not below a magnitude, so that nothing is clipped by the rounding of its scale.
fn f16_above(value: f32) -> f32 {
    let near = f16::from_f32(value);
    let above = if near.to_f32() < value { f16::from_bits(near.to_bits() + 1) } else { near };
    above.to_f32()
}
