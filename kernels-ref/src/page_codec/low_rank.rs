//! Pages of coefficients in a basis that all pages of an adapter's layer share: the anchor plus `mean + z·directions`.
//! Keys are expanded before the rotary embedding and turned then: it is there that their differences have few directions.

use half::f16;
use interleaf_contract::{CHUNK_TOKENS, CoefficientLayout, Coefficients, PageCodec, PageHalf};

use super::PageContext;
use super::codes::{best_step, code, pack, scale, set_scale, unpack};
use crate::rope::rope;

/// Encodes values over the anchor: the coefficients are `(difference − mean)·directionsᵀ`, of directions that are
/// orthonormal.
pub fn encode(codec: PageCodec, context: &PageContext<'_>, values: &[f32], page: &mut [u8]) {
    let PageCodec::LowRank { rank, .. } = codec else { return };
    let channels = context.channels();
    let (mean, directions) = context.constants.split_at(channels);
    let mut coefficients = Vec::with_capacity(CHUNK_TOKENS * usize::from(rank));
    for token in 0..CHUNK_TOKENS {
        let mut difference = row(context, token, values);
        for (d, a) in difference.iter_mut().zip(row(context, token, context.anchor)) {
            *d -= a;
        }
        turn(context, token, &mut difference, false);
        for (d, m) in difference.iter_mut().zip(mean) {
            *d -= m;
        }
        let project = |direction: &[f32]| crate::lora_matmul::dot(&difference, direction) as f32;
        coefficients.extend(directions.chunks_exact(channels).take(rank.into()).map(project));
    }
    encode_coefficients(codec, context, &coefficients, values, page);
}

/// Encodes coefficients that are already known, 16 tokens × rank; of `values` only the first token's are read, where the
/// codec keeps them.
pub fn encode_coefficients(
    codec: PageCodec,
    context: &PageContext<'_>,
    coefficients: &[f32],
    values: &[f32],
    page: &mut [u8],
) {
    let PageCodec::LowRank { rank, coefficients: stored, keeps_first } = codec else { return };
    let layout = CoefficientLayout::new(rank, stored, keeps_first, context.kv_heads, context.head_dim);
    page.fill(0);
    for (token, row) in coefficients.chunks_exact(rank.into()).enumerate() {
        let bytes = token * layout.token_bytes..(token + 1) * layout.token_bytes;
        match stored {
            Coefficients::F16 => {
                for (to, z) in page[bytes].chunks_exact_mut(2).zip(row) {
                    to.copy_from_slice(&f16::from_f32(*z).to_le_bytes());
                }
            }
            Coefficients::Codes(bits) => {
                for (i, group) in row.chunks(layout.group).enumerate() {
                    let step = best_step(bits, group);
                    set_scale(page, layout.scales_at, token * layout.token_scales + i, step);
                    for (j, z) in group.iter().enumerate() {
                        pack(&mut page[bytes.clone()], bits, i * layout.group + j, code(bits, *z, step));
                    }
                }
            }
        }
    }
    if let Some(first_at) = layout.first_at {
        let first = row(context, 0, values);
        for (to, value) in page[first_at..].chunks_exact_mut(2).zip(first) {
            to.copy_from_slice(&f16::from_f32(value).to_le_bytes());
        }
    }
}

/// Decodes a page, the anchor added.
pub fn decode(codec: PageCodec, context: &PageContext<'_>, page: &[u8], values: &mut [f32]) {
    let PageCodec::LowRank { rank, coefficients: stored, keeps_first } = codec else { return };
    let layout = CoefficientLayout::new(rank, stored, keeps_first, context.kv_heads, context.head_dim);
    let channels = context.channels();
    let (mean, directions) = context.constants.split_at(channels);
    for token in 0..CHUNK_TOKENS {
        let bytes = &page[token * layout.token_bytes..(token + 1) * layout.token_bytes];
        let coefficient = |i: usize| match stored {
            Coefficients::F16 => f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32(),
            Coefficients::Codes(bits) => {
                let step = scale(page, layout.scales_at, token * layout.token_scales + i / layout.group);
                (f32::from(unpack(bytes, bits, i)) + bits.lowest()) * step
            }
        };
        let mut sums: Vec<f64> = mean.iter().copied().map(f64::from).collect();
        for (i, direction) in directions.chunks_exact(channels).take(rank.into()).enumerate() {
            let z = f64::from(coefficient(i));
            for (sum, q) in sums.iter_mut().zip(direction) {
                *sum += z * f64::from(*q);
            }
        }
        let mut expanded: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
        turn(context, token, &mut expanded, true);
        for (channel, value) in expanded.into_iter().enumerate() {
            let at = context.element(channel / context.head_dim, token, channel % context.head_dim);
            values[at] = context.anchor[at] + value;
        }
    }
    if let Some(first_at) = layout.first_at {
        for (channel, bytes) in page[first_at..].chunks_exact(2).take(channels).enumerate() {
            let at = context.element(channel / context.head_dim, 0, channel % context.head_dim);
            values[at] = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        }
    }
}

/// A token's elements, heads side by side.
fn row(context: &PageContext<'_>, token: usize, values: &[f32]) -> Vec<f32> {
    (0..context.kv_heads)
        .flat_map(|head| &values[context.element(head, token, 0)..][..context.head_dim])
        .copied()
        .collect()
}

/// Turns a token's keys by their position's angles, or back.
fn turn(context: &PageContext<'_>, token: usize, row: &mut [f32], forth: bool) {
    let Some(table) = context.rope.filter(|_| context.half == PageHalf::K) else { return };
    let position = context.position + token;
    if forth {
        rope(row, context.head_dim, &[position as u32], table);
    } else {
        crate::rope::unrope(row, context.head_dim, &[position as u32], table);
    }
}
