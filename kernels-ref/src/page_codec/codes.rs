//! Pages of codes: a value is its code, counted from the lowest, times a step that a group of them shares. How large a
//! group is, and where its step is kept, is the codec's layout.

use half::f16;
use interleaf_contract::{Bits, CHUNK_TOKENS, CodeLayout, PageCodec};

use super::PageContext;

/// Encodes `values`, which are those of the page or their differences from its anchor.
pub fn encode(codec: PageCodec, context: &PageContext<'_>, values: &[f32], page: &mut [u8]) {
    let Some(layout) = CodeLayout::new(codec, context.half, context.kv_heads, context.head_dim) else {
        return;
    };
    page.fill(0);
    for kv_head in 0..context.kv_heads {
        let head = &values[context.element(kv_head, 0, 0)..][..CHUNK_TOKENS * context.head_dim];
        match layout.group {
            Some(group) => by_token(&layout, group, kv_head, context.head_dim, head, page),
            None => by_channel(&layout, kv_head, context, head, page),
        }
    }
}

/// One step for each group of a token's channels. Where codes are shaped, what rounding takes from a channel is carried to its
/// next token.
fn by_token(layout: &CodeLayout, group: usize, kv_head: usize, dim: usize, head: &[f32], page: &mut [u8]) {
    let (bits, groups) = (layout.bits, dim.div_ceil(group));
    let mut carries = vec![0.0f32; dim];
    for (token, row) in head.chunks_exact(dim).enumerate() {
        let groups_of_row = row.chunks(group).zip(carries.chunks_mut(group)).enumerate();
        for (g, (values, carries)) in groups_of_row {
            let step = match layout.shaped_clip() {
                Some(clip) => clipped_step(bits, clip, largest(values)),
                None => best_step(bits, values),
            };
            set_scale(page, layout.scales_at, kv_head * layout.head_scales + token * groups + g, step);
            for (i, (value, carry)) in values.iter().zip(carries).enumerate() {
                let wanted = value + *carry;
                let code = code(bits, wanted, step);
                if layout.is_shaped {
                    // One step at most, so that what is clipped does not run away.
                    *carry = (wanted - decoded(bits, code, step)).clamp(-step, step);
                }
                set_code(layout, page, kv_head, layout.code_of(token, g * group + i, dim), code);
            }
        }
    }
}

/// One step for each channel: the head's scale times the channel's own part, of 8 bits in the page or of the profile.
fn by_channel(layout: &CodeLayout, kv_head: usize, context: &PageContext<'_>, head: &[f32], page: &mut [u8]) {
    let dim = context.head_dim;
    let column = |channel: usize| head.iter().skip(channel).step_by(dim).copied().collect::<Vec<f32>>();
    let wanted: Vec<f32> = (0..dim).map(|channel| best_step(layout.bits, &column(channel))).collect();
    let steps: Vec<f32> = match layout.channels_at {
        Some(channels_at) => {
            let scale = f16_above(wanted.iter().copied().fold(0.0, f32::max));
            set_scale(page, layout.scales_at, kv_head, scale);
            let parts = &mut page[channels_at + kv_head * dim..][..dim];
            let part = |step: f32| (step / scale * 256.0).ceil().clamp(1.0, 256.0) - 1.0;
            for (p, step) in parts.iter_mut().zip(&wanted) {
                *p = if scale == 0.0 { 0 } else { part(*step) as u8 };
            }
            parts.iter().map(|p| scale * part_of(*p)).collect()
        }
        None => {
            let profile = &context.constants[kv_head * dim..][..dim];
            let scale = wanted.iter().zip(profile).map(|(step, p)| step / p).fold(0.0, f32::max);
            let scale = f16_above(scale);
            set_scale(page, layout.scales_at, kv_head, scale);
            profile.iter().map(|p| scale * p).collect()
        }
    };
    for (i, value) in head.iter().enumerate() {
        let index = layout.code_of(i / dim, i % dim, dim);
        set_code(layout, page, kv_head, index, code(layout.bits, *value, steps[i % dim]));
    }
}

/// Decodes a page to values, or to differences from its anchor.
pub fn decode(codec: PageCodec, context: &PageContext<'_>, page: &[u8], values: &mut [f32]) {
    let Some(layout) = CodeLayout::new(codec, context.half, context.kv_heads, context.head_dim) else {
        return;
    };
    let dim = context.head_dim;
    for kv_head in 0..context.kv_heads {
        let head = &mut values[context.element(kv_head, 0, 0)..][..CHUNK_TOKENS * dim];
        for (i, value) in head.iter_mut().enumerate() {
            let (token, channel) = (i / dim, i % dim);
            let step = match (layout.group, layout.channels_at) {
                (Some(group), _) => {
                    let of_token = token * dim.div_ceil(group) + channel / group;
                    scale(page, layout.scales_at, kv_head * layout.head_scales + of_token)
                }
                (None, Some(channels_at)) => {
                    scale(page, layout.scales_at, kv_head)
                        * part_of(page[channels_at + kv_head * dim + channel])
                }
                (None, None) => {
                    scale(page, layout.scales_at, kv_head) * context.constants[kv_head * dim + channel]
                }
            };
            let index = layout.code_of(token, channel, dim);
            *value = decoded(layout.bits, get_code(&layout, page, kv_head, index), step);
        }
    }
}

/// What a channel's 8 bits stand for: 1/256 to 1.
fn part_of(byte: u8) -> f32 {
    (f32::from(byte) + 1.0) / 256.0
}

/// The smallest f16 that is not below a magnitude, so that nothing is clipped by the rounding of its scale.
fn f16_above(value: f32) -> f32 {
    let near = f16::from_f32(value);
    let above = if near.to_f32() < value { f16::from_bits(near.to_bits() + 1) } else { near };
    above.to_f32()
}

/// The step, an f16, under which a group's codes are nearest to its values, of those that clip it differently.
pub fn best_step(bits: Bits, values: &[f32]) -> f32 {
    let largest = largest(values);
    let error = |step: f32| -> f32 {
        values.iter().map(|v| (v - decoded(bits, code(bits, *v, step), step)).powi(2)).sum()
    };
    let steps = bits.clips().iter().map(|clip| clipped_step(bits, *clip, largest));
    let (mut best, mut least) = (0.0, f32::INFINITY);
    for step in steps {
        let error = error(step);
        if error < least {
            (best, least) = (step, error);
        }
    }
    best
}

/// The largest magnitude.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, v| largest.max(v.abs()))
}

/// The step, an f16, under which the largest code stands for a share of the largest magnitude.
fn clipped_step(bits: Bits, clip: f32, largest: f32) -> f32 {
    f16::from_f32(clip * largest / bits.reach()).to_f32()
}

/// What a code stands for.
fn decoded(bits: Bits, code: u8, step: f32) -> f32 {
    (f32::from(code) + bits.lowest()) * step
}

/// The code nearest to a value, of two the even one.
pub fn code(bits: Bits, value: f32, step: f32) -> u8 {
    let last = (1u32 << bits.count()) - 1;
    let steps = if step == 0.0 { 0.0 } else { value / step };
    (steps - bits.lowest()).round_ties_even().clamp(0.0, last as f32) as u8
}

pub fn set_scale(page: &mut [u8], scales_at: usize, index: usize, scale: f32) {
    page[scales_at + 2 * index..][..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
}

pub fn scale(page: &[u8], scales_at: usize, index: usize) -> f32 {
    f16::from_le_bytes([page[scales_at + 2 * index], page[scales_at + 2 * index + 1]]).to_f32()
}

/// Packs a code into bytes that were zero; codes of a byte are counted from its lowest bits, which is what packing into
/// little-endian words comes to.
pub fn pack(bytes: &mut [u8], bits: Bits, index: usize, code: u8) {
    let at = index * bits.count();
    bytes[at / 8] |= code << (at % 8);
}

pub fn unpack(bytes: &[u8], bits: Bits, index: usize) -> u8 {
    let at = index * bits.count();
    bytes[at / 8] >> (at % 8) & ((1u32 << bits.count()) - 1) as u8
}

fn set_code(layout: &CodeLayout, page: &mut [u8], kv_head: usize, index: usize, code: u8) {
    pack(&mut page[kv_head * layout.head_bytes..][..layout.head_bytes], layout.bits, index, code);
}

fn get_code(layout: &CodeLayout, page: &[u8], kv_head: usize, index: usize) -> u8 {
    unpack(&page[kv_head * layout.head_bytes..][..layout.head_bytes], layout.bits, index)
}
