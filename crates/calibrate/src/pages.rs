//! The keys or the values of one layer through encoded pages: what is counted are the bytes of these, and what is read on over
//! is what they decode to.

use interleaf_contract::{CHUNK_TOKENS, Coefficients, PageCodec, PageHalf, RopeTable};
use interleaf_kernels_ref::page_codec::{
    PageContext, decode_page, encode_coefficients, encode_page, steps_width, transpose,
};

/// How pages are stored.
#[derive(Debug)]
pub enum Form<'a> {
    /// In one codec; of those that keep the first token, only in the first page.
    Coded { codec: PageCodec, constants: Vec<f32>, rope: Option<&'a RopeTable> },
    /// In coefficients that are known already, tokens × rank, as f16 numbers.
    Known { rank: u8, coefficients: Vec<f32>, constants: Vec<f32>, rope: Option<&'a RopeTable> },
    /// In MobiLoRA's steps, each of the smallest width that does.
    Steps,
    /// Not at all: the anchor's stand for them.
    Nothing,
}

impl Form<'_> {
    /// Of a codec that needs nothing but the page and its anchor.
    pub const fn plain(codec: PageCodec) -> Self {
        Self::Coded { codec, constants: Vec::new(), rope: None }
    }
}

/// Stores whole pages of values over those of an anchor, each tokens × width, and reads them back. Returns what was read and
/// the bytes that were stored.
pub fn through(
    form: &Form<'_>,
    half: PageHalf,
    kv_heads: usize,
    width: usize,
    values: &[f32],
    anchor: &[f32],
) -> (Vec<f32>, usize) {
    let (head_dim, elements) = (width / kv_heads, CHUNK_TOKENS * width);
    let (mut out, mut stored) = (Vec::with_capacity(values.len()), 0);
    for (chunk, (values, anchor)) in
        values.chunks_exact(elements).zip(anchor.chunks_exact(elements)).enumerate()
    {
        let values = transpose(values, CHUNK_TOKENS, kv_heads);
        let anchor = transpose(anchor, CHUNK_TOKENS, kv_heads);
        let (codec, constants, rope, known) = match form {
            Form::Steps => (PageCodec::Steps(steps_width(&values, &anchor)), &[][..], None, None),
            Form::Coded { codec, constants, rope } => (in_chunk(*codec, chunk), &constants[..], *rope, None),
            Form::Known { rank, coefficients, constants, rope } => {
                let of_page = CHUNK_TOKENS * usize::from(*rank);
                let known = &coefficients[chunk * of_page..][..of_page];
                (of_numbers(*rank), &constants[..], *rope, Some(known))
            }
            Form::Nothing => {
                out.extend(transpose(&anchor, kv_heads, CHUNK_TOKENS));
                continue;
            }
        };
        let anchor: &[f32] = if codec.stands_alone() { &[] } else { &anchor };
        let position = chunk * CHUNK_TOKENS;
        let context = PageContext { half, kv_heads, head_dim, position, anchor, constants, rope };
        // Words, since a page is aligned to them.
        let bytes = codec.page_bytes(half, kv_heads, head_dim);
        let mut words = vec![0u32; bytes.div_ceil(size_of::<u32>())];
        let page: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut words)[..bytes];
        match known {
            Some(coefficients) => encode_coefficients(codec, &context, coefficients, &values, page),
            None => encode_page(codec, &context, &values, page),
        }
        let mut decoded = vec![0.0; elements];
        decode_page(codec, &context, page, &mut decoded);
        out.extend(transpose(&decoded, kv_heads, CHUNK_TOKENS));
        stored += bytes;
    }
    (out, stored)
}

const fn of_numbers(rank: u8) -> PageCodec {
    PageCodec::LowRank { rank, coefficients: Coefficients::F16, keeps_first: false }
}

/// Only the first token of a sequence is like no other.
const fn in_chunk(codec: PageCodec, chunk: usize) -> PageCodec {
    match codec {
        PageCodec::LowRank { rank, coefficients, keeps_first } => {
            PageCodec::LowRank { rank, coefficients, keeps_first: keeps_first && chunk == 0 }
        }
        codec => codec,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use interleaf_contract::{Bits, PageElement};

    #[test]
    fn pages_come_back_token_by_token() {
        let values: Vec<f32> = (0..2 * 16 * 8).map(|i| (i as f32 * 0.7).sin()).collect();
        let anchor = vec![0.25; values.len()];
        let exact = Form::plain(PageElement::F32.into());
        assert_eq!(through(&exact, PageHalf::V, 2, 8, &values, &anchor), (values.clone(), 4 * values.len()));
        for form in [Form::plain(PageCodec::Delta(Bits::Eight)), Form::Steps] {
            let (found, _) = through(&form, PageHalf::V, 2, 8, &values, &anchor);
            values.iter().zip(found).for_each(|(v, f)| assert!((v - f).abs() < 0.01, "{v} {f}"));
        }
    }
}
