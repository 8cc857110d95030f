//! Round trips: how far off each codec may be, and what it gives back to the bit.

use interleaf_contract::{
    Bits, CHUNK_TOKENS, CodeLayout, CoefficientLayout, Coefficients, GROUP_CHANNELS, PageCodec, PageElement,
    PageHalf, RopeTable, Width,
};
use proptest::prelude::*;

use super::{PageContext, decode_page, encode_coefficients, encode_page, steps_width, transpose};

const ALL_BITS: [Bits; 3] = [Bits::Two, Bits::Four, Bits::Eight];

/// Of shaped codes.
const FEW_BITS: [Bits; 2] = [Bits::Two, Bits::Four];

/// A page and what it is encoded with.
#[derive(Debug, Clone)]
struct Page {
    half: PageHalf,
    kv_heads: usize,
    head_dim: usize,
    values: Vec<f32>,
    anchor: Vec<f32>,
    profile: Vec<f32>,
}

impl Page {
    fn context<'a>(&'a self, codec: PageCodec, constants: &'a [f32]) -> PageContext<'a> {
        let anchor: &[f32] = if codec.stands_alone() { &[] } else { &self.anchor };
        let Self { half, kv_heads, head_dim, .. } = *self;
        PageContext { half, kv_heads, head_dim, position: 48, anchor, constants, rope: None }
    }

    fn round_trip(&self, codec: PageCodec, context: &PageContext<'_>) -> (Vec<u8>, Vec<f32>) {
        let mut words = vec![!0u32; codec.page_bytes(self.half, self.kv_heads, self.head_dim) / 4];
        let page: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        encode_page(codec, context, &self.values, page);
        let mut values = vec![f32::NAN; self.values.len()];
        decode_page(codec, context, page, &mut values);
        (page.to_vec(), values)
    }

    /// What is stored as codes.
    fn stored(&self, codec: PageCodec) -> Vec<f32> {
        match codec.stands_alone() {
            true => self.values.clone(),
            false => self.values.iter().zip(&self.anchor).map(|(v, a)| v - a).collect(),
        }
    }

    /// Elements that share a scale with one: those of its group of channels, or of its channel.
    fn group(&self, layout: &CodeLayout, at: usize) -> Vec<usize> {
        let dim = self.head_dim;
        let (row, channel) = (at / dim, at % dim);
        match layout.group {
            Some(group) => {
                let first = channel / group * group;
                (first..(first + group).min(dim)).map(|channel| row * dim + channel).collect()
            }
            None => {
                let head = row / CHUNK_TOKENS * CHUNK_TOKENS;
                (head..head + CHUNK_TOKENS).map(|row| row * dim + channel).collect()
            }
        }
    }
}

/// The step of shaped codes of some values.
fn shaped_step(bits: Bits, values: &[f32]) -> f32 {
    let largest = values.iter().fold(0.0, |largest: f32, v| largest.max(v.abs()));
    half::f16::from_f32(bits.shaped_clip().unwrap() * largest / bits.reach()).to_f32()
}

/// A page of one head's values whose first channel makes the steps. No other is clipped: these are at most half as large, and
/// no token is twice as large as the next, so that what is carried is less than the next step.
fn unclipped_page() -> impl Strategy<Value = Page> {
    let token = |head_dim| (0.51f32..1.0, prop::collection::vec(-0.5f32..0.5, head_dim - 1));
    let shape = (prop::sample::select(vec![2, 6, 24, 66]), -12i32..6);
    shape.prop_flat_map(move |(head_dim, exponent)| {
        prop::collection::vec(token(head_dim), CHUNK_TOKENS).prop_map(move |tokens| {
            let size = |share: f32| share * 2f32.powi(exponent);
            let row = |(share, rest): (f32, Vec<f32>)| {
                std::iter::once(1.0).chain(rest).map(|v| v * size(share)).collect::<Vec<_>>()
            };
            let values = tokens.into_iter().flat_map(row).collect();
            Page { half: PageHalf::V, kv_heads: 1, head_dim, values, anchor: vec![], profile: vec![] }
        })
    })
}

fn any_page() -> impl Strategy<Value = Page> {
    let shape = (any::<bool>(), 1usize..3, prop::sample::select(vec![2, 6, 24, 32, 64, 66, 80]));
    shape.prop_flat_map(|(is_key, kv_heads, head_dim)| {
        let elements = CHUNK_TOKENS * kv_heads * head_dim;
        let value = prop_oneof![4 => -4.0f32..4.0, 1 => Just(0.0), 1 => -200.0f32..200.0];
        let values = prop::collection::vec(value.clone(), elements);
        let anchor = prop::collection::vec(value, elements);
        let profile = prop::collection::vec(0.25f32..4.0, kv_heads * head_dim);
        (values, anchor, profile).prop_map(move |(values, anchor, profile)| {
            let half = if is_key { PageHalf::K } else { PageHalf::V };
            Page { half, kv_heads, head_dim, values, anchor, profile }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn exact_pages_give_back_what_they_hold(page in any_page()) {
        let codec = PageElement::F32.into();
        prop_assert_eq!(&page.round_trip(codec, &page.context(codec, &[])).1, &page.values);
        let codec = PageElement::F16.into();
        let halves = page.values.iter().map(|v| half::f16::from_f32(*v).to_f32());
        prop_assert_eq!(page.round_trip(codec, &page.context(codec, &[])).1, halves.collect::<Vec<_>>());
    }

    /// Without clipping an element is half a step off at most, and a step is as large as the group's largest element
    /// makes it, rounded up where a scale is rounded. Clipping is for less squared error of the group. Of shaped codes the
    /// tests are the next ones.
    #[test]
    fn codes_are_half_a_step_off_at_most(page in any_page()) {
        for bits in ALL_BITS {
            for codec in [PageCodec::Quantised(bits), PageCodec::Grouped(bits), PageCodec::Delta(bits)] {
                let (_, found) = page.round_trip(codec, &page.context(codec, &[]));
                let stored = page.stored(codec);
                let layout = CodeLayout::new(codec, page.half, page.kv_heads, page.head_dim).unwrap();
                if layout.is_shaped {
                    continue;
                }
                let errors: Vec<f32> = page.values.iter().zip(&found).map(|(v, f)| (v - f).abs()).collect();
                for at in 0..page.values.len() {
                    let group = page.group(&layout, at);
                    let largest = group.iter().map(|i| stored[*i].abs()).fold(0.0, f32::max);
                    // A channel's own scale is a multiple of the 256th part of its head's.
                    let head_len = CHUNK_TOKENS * page.head_dim;
                    let of_head = stored[at / head_len * head_len..][..head_len].iter();
                    let part = of_head.map(|v| v.abs()).fold(0.0, f32::max) / 256.0;
                    let part = if layout.channels_at.is_some() { part } else { 0.0 };
                    let step = (largest + part) / bits.reach() * (1.0 + 1.0 / 1024.0) + 1e-6;
                    // Adding the anchor rounds once more, and so did taking it away.
                    let rounding = if codec.stands_alone() { 0.0 } else { 400.0 * f32::EPSILON };
                    let half = 0.501 * step + rounding;
                    if bits == Bits::Eight {
                        prop_assert!(errors[at] <= half, "{codec}: {} as {}", page.values[at], found[at]);
                    } else {
                        let sum: f32 = group.iter().map(|i| errors[*i].powi(2)).sum();
                        // A step that is rounded up no longer has the least error.
                        let slack = if part > 0.0 { 2.0 } else { 1.01 };
                        prop_assert!(sum <= slack * half.powi(2) * group.len() as f32, "{codec}: {sum}");
                    }
                }
            }
        }
    }

    /// Half a step off the value and what was carried to it, or the last code of those on its side.
    #[test]
    fn shaped_codes_are_half_a_step_off_what_is_carried_to_them(page in any_page()) {
        let page = Page { half: PageHalf::V, ..page };
        for bits in FEW_BITS {
            let codec = PageCodec::Quantised(bits);
            let (_, found) = page.round_trip(codec, &page.context(codec, &[]));
            let last = bits.lowest() + ((1 << bits.count()) - 1) as f32;
            let mut carries = vec![0.0f32; page.head_dim];
            for (row, (values, found)) in
                page.values.chunks(page.head_dim).zip(found.chunks(page.head_dim)).enumerate()
            {
                if row % CHUNK_TOKENS == 0 {
                    carries.fill(0.0);
                }
                let step = shaped_step(bits, values);
                for ((value, found), carry) in values.iter().zip(found).zip(&mut carries) {
                    let off = value + *carry - found;
                    let is_last = if off > 0.0 { *found == last * step } else { *found == bits.lowest() * step };
                    prop_assert!(is_last || off.abs() <= 0.50001 * step, "{codec}: {value} + {carry} as {found}");
                    *carry = off.clamp(-step, step);
                }
            }
        }
    }

    /// What attention's averages are off by: of nearest codes it would be up to eight steps.
    #[test]
    fn errors_of_shaped_codes_add_up_to_less_than_a_step(page in unclipped_page()) {
        for bits in FEW_BITS {
            let codec = PageCodec::Quantised(bits);
            let (_, found) = page.round_trip(codec, &page.context(codec, &[]));
            let dim = page.head_dim;
            let steps = page.values.chunks(dim).map(|values| shaped_step(bits, values));
            let largest = steps.fold(0.0, f32::max);
            for channel in 1..dim {
                let errors = page.values.iter().zip(&found).skip(channel).step_by(dim);
                let sum: f64 = errors.map(|(value, found)| f64::from(*value) - f64::from(*found)).sum();
                prop_assert!(sum.abs() <= 0.501 * f64::from(largest), "{codec}: {sum}, a step is {largest}");
            }
        }
    }

    #[test]
    fn profiled_codes_follow_their_profile(page in any_page()) {
        let page = Page { half: PageHalf::K, ..page };
        for bits in ALL_BITS {
            let codec = PageCodec::Profiled(bits);
            let (_, found) = page.round_trip(codec, &page.context(codec, &page.profile));
            let dim = page.head_dim;
            for kv_head in 0..page.kv_heads {
                let head = kv_head * CHUNK_TOKENS * dim..(kv_head + 1) * CHUNK_TOKENS * dim;
                let profile = &page.profile[kv_head * dim..(kv_head + 1) * dim];
                let relative = page.values[head.clone()].iter().enumerate().map(|(i, v)| v.abs() / profile[i % dim]);
                let scale = relative.fold(0.0, f32::max) / bits.reach() * (1.0 + 1.0 / 1024.0) + 1e-6;
                for (i, (value, found)) in page.values[head.clone()].iter().zip(&found[head]).enumerate() {
                    let step = scale * profile[i % dim];
                    // What is clipped keeps its sign.
                    let clipped = if bits == Bits::Eight { 0.0 } else { value.abs() };
                    prop_assert!((value - found).abs() <= clipped.max(0.501 * step), "{value} as {found}, {step}");
                }
            }
        }
    }

    /// MobiLoRA's bound: ln(1+ε) at most, ε of the least alike pages.
    #[test]
    fn steps_are_off_by_half_of_the_largest_step(page in any_page()) {
        let width = steps_width(&page.values, &page.anchor);
        let codec = PageCodec::Steps(width);
        let (_, found) = page.round_trip(codec, &page.context(codec, &[]));
        for ((value, found), anchor) in page.values.iter().zip(&found).zip(&page.anchor) {
            let rounding = 4.0 * f32::EPSILON * (value.abs() + anchor.abs());
            prop_assert!((value - found).abs() <= 0.01f32.ln_1p() * 1.001 + rounding, "{value} as {found}");
        }
        if let Width::Two | Width::Four = width {
            let reach = if width == Width::Two { 127.0 } else { 32767.0 };
            let differences = page.values.iter().zip(&page.anchor).map(|(v, a)| (v - a).abs());
            prop_assert!(differences.fold(0.0, f32::max) >= reach * 2.0 * 1e-4f32.ln_1p() * 0.99);
        }
    }

    /// What lies in the span of the directions comes back, before the rotary embedding for keys.
    #[test]
    fn low_rank_pages_keep_what_their_directions_span(
        page in any_page(),
        seed in prop::collection::vec(-3.0f32..3.0, CHUNK_TOKENS * 2),
    ) {
        let channels = page.kv_heads * page.head_dim;
        let mut constants = page.profile.clone();
        // The first two channels are the directions.
        for direction in 0..2 {
            constants.extend((0..channels).map(|channel| f32::from(u8::from(channel == direction))));
        }
        let positions = 64;
        let angles = |turn: fn(f32) -> f32| {
            (0..positions * (page.head_dim / 2)).map(|i| turn(i as f32 * 0.37)).collect::<Vec<_>>()
        };
        let rope =
            RopeTable { rotary_dim: page.head_dim, positions, cos: angles(f32::cos), sin: angles(f32::sin) };
        for coefficients in [Coefficients::F16, Coefficients::Codes(Bits::Eight)] {
            // Rows of whole words.
            let rank = if coefficients == Coefficients::F16 { 2 } else { 4 };
            let mut constants = constants.clone();
            constants.resize((1 + rank) * channels, 0.0);
            for keeps_first in [false, true] {
                let codec = PageCodec::LowRank { rank: rank as u8, coefficients, keeps_first };
                let context = PageContext { rope: Some(&rope), ..page.context(codec, &constants) };
                let known: Vec<f32> = seed
                    .chunks_exact(2)
                    .flat_map(|pair| pair.iter().copied().chain(std::iter::repeat_n(0.0, rank - 2)))
                    .collect();
                let mut words = vec![0u32; codec.page_bytes(page.half, page.kv_heads, page.head_dim) / 4];
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
                encode_coefficients(codec, &context, &known, &page.values, bytes);
                let mut spanned = vec![0.0; page.values.len()];
                decode_page(codec, &context, bytes, &mut spanned);
                // Encoded from values, the coefficients are the same but for rounding.
                let again = Page { values: spanned.clone(), ..page.clone() };
                let (_, found) = again.round_trip(codec, &context);
                let layout = CoefficientLayout::new(rank as u8, coefficients, keeps_first, page.kv_heads, page.head_dim);
                prop_assert_eq!(layout.first_at.is_some(), keeps_first);
                for (i, (value, found)) in spanned.iter().zip(&found).enumerate() {
                    let token = i / page.head_dim % CHUNK_TOKENS;
                    let first = keeps_first && token == 0;
                    let bound = if first { value.abs() / 2048.0 } else { 0.05 + value.abs().max(200.0) * 1e-5 };
                    prop_assert!((value - found).abs() <= bound, "{codec}: {value} as {found}");
                }
            }
        }
    }

    #[test]
    fn a_page_over_itself_is_itself(page in any_page()) {
        let same = Page { anchor: page.values.clone(), ..page };
        for bits in ALL_BITS {
            let codec = PageCodec::Delta(bits);
            prop_assert_eq!(&same.round_trip(codec, &same.context(codec, &[])).1, &same.values);
        }
        let codec = PageCodec::Steps(Width::One);
        prop_assert_eq!(&same.round_trip(codec, &same.context(codec, &[])).1, &same.values);
    }
}

/// A channel that is the same in every token, as a mean is, comes back as that mean, wherever it lies between two codes.
#[test]
fn shaped_codes_keep_the_mean_of_a_constant_channel() {
    let row: Vec<f32> = std::iter::once(1.0).chain((0..165).map(|i| i as f32 * 0.01 - 0.82)).collect();
    let (kv_heads, head_dim) = (1, row.len());
    for bits in FEW_BITS {
        let step = shaped_step(bits, &row);
        let values = row.repeat(CHUNK_TOKENS);
        let page = Page { half: PageHalf::V, kv_heads, head_dim, values, anchor: vec![], profile: vec![] };
        let codec = PageCodec::Quantised(bits);
        let (_, found) = page.round_trip(codec, &page.context(codec, &[]));
        for (channel, value) in row.iter().enumerate().skip(1) {
            let sum: f32 = found.iter().skip(channel).step_by(head_dim).sum();
            let mean = sum / CHUNK_TOKENS as f32;
            assert!((mean - value).abs() <= step / 16.0, "{codec}: {value} as {mean}, a step is {step}");
        }
    }
}

#[test]
fn codes_are_laid_out_from_the_lowest_bit_up() {
    // One head of 2 channels; 32 codes of 4 bits, then a scale for each token.
    let values: Vec<f32> = (0..32).map(|i| if i % 2 == 0 { 7.0 } else { (i / 2) as f32 - 8.0 }).collect();
    let page = Page { half: PageHalf::V, kv_heads: 1, head_dim: 2, values, anchor: vec![], profile: vec![] };
    let codec = PageCodec::Grouped(Bits::Four);
    let (bytes, found) = page.round_trip(codec, &page.context(codec, &[]));
    assert_eq!(bytes.len(), 16 + 32);
    // 7 is code 15; -8 would need a step of 8/7, and clips to it with a step of 1.
    assert_eq!(bytes[1], 15 | (1 << 4));
    assert_eq!(found[2..4], [7.0, -7.0]);
    assert_eq!(bytes[16 + 2..16 + 4], half::f16::ONE.to_le_bytes());
    const { assert!(GROUP_CHANNELS == 32) }
}

#[test]
fn heads_and_tokens_change_places() {
    let by_head: Vec<f32> = (0..12u8).map(f32::from).collect();
    let by_token = transpose(&by_head, 2, 3);
    assert_eq!(by_token, [0.0, 1.0, 6.0, 7.0, 2.0, 3.0, 8.0, 9.0, 4.0, 5.0, 10.0, 11.0]);
    assert_eq!(transpose(&by_token, 3, 2), by_head);
}
