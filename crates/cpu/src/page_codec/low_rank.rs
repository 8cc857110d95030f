//! Pages of coefficients in a basis that all pages of an adapter's layer share: the anchor plus `mean + z·directions`,
//! keys turned once they are expanded. Sums over the rank are of f32, in ascending order.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use bytemuck::cast_slice;
use half::f16;
use interleaf_contract::{
    Bits, CHUNK_TOKENS, CoefficientLayout, Coefficients, ConstantRows, GROUP_CHANNELS, PageCodec,
    PageElement, PageHalf,
};

use super::codes::{SIXTEEN, sixteen};
use super::encode::{best_steps, divisors, pack, quantise};
use super::exact::halves;
use super::page::Constants;
use super::{Page, Scratch, transpose};
use crate::isa::{Isa, Kernel, each_of};
use crate::lines::Floats;
use crate::math::{MOST_LANES, dot, load_first, store_first};
use crate::rope::Rope;

/// What one head's coefficients are expanded with, as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Basis<'a> {
    constants: Constants<'a>,
    kv_head: usize,
    dim: usize,
    pub rank: usize,
}

impl<'a> Basis<'a> {
    /// The basis of a page; `None` where it is not of coefficients.
    pub fn of(page: &Page<'a>, kv_head: usize) -> Option<Self> {
        let PageCodec::LowRank { rank, .. } = page.codec else { return None };
        Some(Self { constants: page.constants, kv_head, dim: page.head_dim, rank: rank as usize })
    }

    /// Whether two are the same.
    pub fn is(&self, other: &Self) -> bool {
        let same = |(a, b): (&ConstantRows, &ConstantRows)| std::ptr::eq(a, b);
        self.constants.rows.zip(other.constants.rows).is_some_and(same)
            && (self.kv_head, self.rank) == (other.kv_head, other.rank)
    }

    /// The scale of each direction, in `out`.
    pub fn scales(&self, out: &mut Floats) {
        read_scales(self.constants, self.rank, out);
    }

    /// As numbers, in `values`: directions in steps of their scales, which coefficients take in.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(always)]
    pub unsafe fn numbers<'v, I: Isa>(&self, values: &'v mut Floats) -> Directions<'v> {
        values.resize((1 + self.rank) * self.dim);
        let (mean, directions) = values.split_at_mut(self.dim);
        halves::<I>(self.constants.first(self.kv_head), mean);
        for (k, direction) in directions.chunks_exact_mut(self.dim).enumerate() {
            steps::<I>(self.constants.direction(k, self.kv_head).1, direction);
        }
        Directions { mean, directions, stride: self.dim, rank: self.rank }
    }
}

/// Codes of 8 bits as the steps that they stand for.
#[inline(always)]
unsafe fn steps<I: Isa>(codes: &[u8], out: &mut [f32]) {
    assert!(codes.len() == out.len(), "a code for each");
    let whole = out.len() / SIXTEEN * SIXTEEN;
    for first in (0..whole).step_by(SIXTEEN) {
        let steps = sixteen::<I, 8>(codes.as_ptr().add(first));
        for (i, step) in steps.as_ref().iter().enumerate() {
            I::store(out.as_mut_ptr().add(first + i * I::LANES), *step);
        }
    }
    for (step, code) in out[whole..].iter_mut().zip(&codes[whole..]) {
        *step = f32::from(*code) + Bits::Eight.lowest();
    }
}

/// A head's mean and directions, in steps of their scales.
#[derive(Debug, Clone, Copy)]
pub struct Directions<'a> {
    mean: &'a [f32],
    directions: &'a [f32],
    /// From one direction to the next.
    stride: usize,
    rank: usize,
}

impl Directions<'_> {
    /// `out += weight · mean + z·directions`.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(always)]
    pub unsafe fn add<I: Isa>(&self, weight: f32, z: &[f32], out: &mut [f32]) {
        assert!(z.len() == self.rank && out.len() == self.mean.len(), "one row");
        /// Vectors at once, lest every product wait for the one before it.
        const WIDE: usize = 4;
        let wide = out.len() / (WIDE * I::LANES) * (WIDE * I::LANES);
        for i in (0..wide).step_by(WIDE * I::LANES) {
            let (p, mean) = (out[i..].as_mut_ptr(), self.mean[i..].as_ptr());
            let mut sums = each_of!(WIDE, I::splat(0.0), |v| {
                let at = v * I::LANES;
                I::fma(I::splat(weight), I::load(mean.add(at)), I::load(p.add(at)))
            });
            for (k, z) in z.iter().enumerate() {
                let direction = self.directions[k * self.stride + i..][..WIDE * I::LANES].as_ptr();
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = I::fma(I::splat(*z), I::load(direction.add(v * I::LANES)), *sum);
                }
            }
            for (v, sum) in sums.into_iter().enumerate() {
                I::store(p.add(v * I::LANES), sum);
            }
        }
        for i in (wide..out.len()).step_by(I::LANES) {
            let lanes = I::LANES.min(out.len() - i);
            let p = out[i..].as_mut_ptr();
            let mean = load_first::<I>(self.mean[i..].as_ptr(), lanes);
            let mut sum = I::fma(I::splat(weight), mean, load_first::<I>(p, lanes));
            for (k, z) in z.iter().enumerate() {
                let direction = &self.directions[k * self.stride + i..][..lanes];
                sum = I::fma(I::splat(*z), load_first::<I>(direction.as_ptr(), lanes), sum);
            }
            store_first::<I>(p, sum, lanes);
        }
    }

    /// `mean + z·directions` of every token.
    #[inline(always)]
    unsafe fn expand<I: Isa>(&self, z: &[f32], out: &mut [f32]) {
        /// Tokens and vectors at once: eight sums that do not wait for each other, in any tier's registers.
        const TOKENS: usize = 2;
        const WIDE: usize = 4;
        let dim = self.mean.len();
        let whole = self.rank / I::FACTORS * I::FACTORS;
        let wide = dim / (WIDE * I::LANES) * (WIDE * I::LANES);
        for token in (0..CHUNK_TOKENS).step_by(TOKENS) {
            let z = each_of!(TOKENS, z.as_ptr(), |t| z[(token + t) * self.rank..][..self.rank].as_ptr());
            for i in (0..wide).step_by(WIDE * I::LANES) {
                let zero = I::splat(0.0);
                let mean = each_of!(WIDE, zero, |v| I::load(self.mean[i + v * I::LANES..].as_ptr()));
                let mut sums = [mean; TOKENS];
                let directions = self.directions[i..].as_ptr();
                for k in (0..whole).step_by(I::FACTORS) {
                    let z = each_of!(TOKENS, z[0], |t| z[t].add(k));
                    I::rank_update(z, directions.add(k * self.stride), self.stride, &mut sums);
                }
                for k in whole..self.rank {
                    let direction = directions.add(k * self.stride);
                    let w = each_of!(WIDE, zero, |v| I::load(direction.add(v * I::LANES)));
                    let z = each_of!(TOKENS, 0.0, |t| *z[t].add(k));
                    I::rank_1_update(z.as_ptr(), w, &mut sums);
                }
                for (t, sums) in sums.into_iter().enumerate() {
                    let out = out[(token + t) * dim + i..][..WIDE * I::LANES].as_mut_ptr();
                    for (v, sum) in sums.into_iter().enumerate() {
                        I::store(out.add(v * I::LANES), sum);
                    }
                }
            }
        }
        if wide == dim {
            return;
        }
        let rest = Self { mean: &self.mean[wide..], directions: &self.directions[wide..], ..*self };
        for (z, row) in z.chunks_exact(self.rank).zip(out.chunks_exact_mut(dim)) {
            row[wide..].fill(0.0);
            rest.add::<I>(1.0, z, &mut row[wide..]);
        }
    }
}

/// Whether a page keeps the first token as it is.
pub fn keeps_first(page: &Page<'_>) -> bool {
    matches!(page.codec, PageCodec::LowRank { keeps_first: true, .. })
}

/// A page's coefficients, tokens × rank, each times its step; their directions' scales are left to whoever sums them.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn coefficients<'s, I: Isa>(page: &Page<'_>, scratch: &'s mut Scratch) -> &'s [f32] {
    let PageCodec::LowRank { rank, coefficients, .. } = page.codec else { return &[] };
    let (layout, rank) = (layout(page), usize::from(rank));
    let Scratch { steps, coefficients: z, .. } = scratch;
    z.resize(CHUNK_TOKENS * rank);
    let stored = &page.bytes[..CHUNK_TOKENS * layout.token_bytes];
    match coefficients {
        Coefficients::F16 => {
            halves::<I>(cast_slice(stored), z);
            return z;
        }
        Coefficients::Codes(Bits::Two) => unpack::<I, 2>(stored, z),
        Coefficients::Codes(Bits::Four) => unpack::<I, 4>(stored, z),
        Coefficients::Codes(Bits::Eight) => unpack::<I, 8>(stored, z),
    }
    steps.resize(CHUNK_TOKENS * layout.token_scales);
    halves::<I>(cast_slice(&page.bytes[layout.scales_at..][..2 * steps.len()]), steps);
    for (row, steps) in z.chunks_exact_mut(rank).zip(steps.chunks_exact(layout.token_scales)) {
        for i in (0..rank).step_by(I::LANES) {
            let (p, lanes) = (row[i..].as_mut_ptr(), I::LANES.min(rank - i));
            let step = I::splat(steps[i / GROUP_CHANNELS]);
            store_first::<I>(p, I::mul(load_first::<I>(p, lanes), step), lanes);
        }
    }
    z
}

/// The same, each times the scale of its direction, too.
#[inline(always)]
unsafe fn scaled<'s, I: Isa>(page: &Page<'_>, scratch: &'s mut Scratch) -> &'s [f32] {
    let PageCodec::LowRank { rank, .. } = page.codec else { return &[] };
    let mut scales = std::mem::take(&mut scratch.scales);
    read_scales(page.constants, rank.into(), &mut scales);
    coefficients::<I>(page, scratch);
    for row in scratch.coefficients.chunks_exact_mut(rank.into()) {
        for (z, scale) in row.iter_mut().zip(&*scales) {
            *z *= scale;
        }
    }
    scratch.scales = scales;
    &scratch.coefficients
}

/// The scale of each direction.
fn read_scales(constants: Constants<'_>, rank: usize, out: &mut Floats) {
    out.resize(rank);
    for (direction, scale) in out.iter_mut().enumerate() {
        *scale = constants.direction(direction, 0).0;
    }
}

#[inline(always)]
unsafe fn unpack<I: Isa, const BITS: usize>(stored: &[u8], z: &mut [f32]) {
    for first in (0..z.len()).step_by(SIXTEEN) {
        let codes = sixteen::<I, BITS>(stored[first * BITS / 8..][..SIXTEEN * BITS / 8].as_ptr());
        let z = z[first..first + SIXTEEN].as_mut_ptr();
        for (i, code) in codes.as_ref().iter().enumerate() {
            I::store(z.add(i * I::LANES), *code);
        }
    }
}

fn layout<'a>(page: &'a Page<'_>) -> &'a CoefficientLayout {
    let Some(layout) = page.coefficients() else { unreachable!("{} is not of coefficients", page.codec) };
    layout
}

/// Decodes one head over its anchor.
///
/// # Safety
/// The machine has the tier. `out` and `anchor` are tokens × head_dim.
#[inline(always)]
pub unsafe fn decode<I: Isa>(
    page: &Page<'_>,
    kv_head: usize,
    anchor: &[f32],
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let Some(basis) = Basis::of(page, kv_head) else { return };
    let mut directions = std::mem::take(&mut scratch.directions);
    let z = scaled::<I>(page, scratch);
    basis.numbers::<I>(&mut directions).expand::<I>(z, out);
    scratch.directions = directions;
    for (token, row) in out.chunks_exact_mut(page.head_dim).enumerate() {
        turn::<I>(page, token, row, 1.0);
    }
    for (value, anchor) in out.iter_mut().zip(anchor) {
        *value += anchor;
    }
    if let Some(first_at) = layout(page).first_at {
        let first = &page.bytes[first_at + 2 * kv_head * page.head_dim..][..2 * page.head_dim];
        halves::<I>(cast_slice(first), &mut out[..page.head_dim]);
    }
}

/// Turns whole heads of a token's keys by their position's angles; by −1 back.
#[inline(always)]
unsafe fn turn<I: Isa>(page: &Page<'_>, token: usize, row: &mut [f32], direction: f32) {
    let Some(table) = page.constants.rope.filter(|_| page.half == PageHalf::K) else { return };
    Rope::new(row, page.head_dim, table, page.position + token, direction).run::<I>();
}

/// Encodes all heads' values over an anchor: the coefficients are `(difference − mean)·directionsᵀ`.
///
/// # Safety
/// The machine has the tier. `values` and `anchor` are kv_heads × tokens × head_dim.
#[inline(always)]
pub unsafe fn encode<I: Isa>(page: &Page<'_>, values: &[f32], anchor: &[f32], out: &mut [u8]) {
    let PageCodec::LowRank { rank, coefficients, .. } = page.codec else { return };
    let (channels, dim, rank) = (page.channels(), page.head_dim, usize::from(rank));
    let (mut mean, mut directions) = (vec![0.0; channels], vec![0.0; rank * channels]);
    for (head, mean) in mean.chunks_exact_mut(dim).enumerate() {
        halves::<I>(page.constants.first(head), mean);
    }
    for (k, direction) in directions.chunks_exact_mut(channels).enumerate() {
        for (head, direction) in direction.chunks_exact_mut(dim).enumerate() {
            steps::<I>(page.constants.direction(k, head).1, direction);
        }
    }
    let scales: Vec<f32> = (0..rank).map(|k| page.constants.direction(k, 0).0).collect();
    let (mut z, mut row) = (Vec::with_capacity(CHUNK_TOKENS * rank), vec![0.0; channels]);
    for token in 0..CHUNK_TOKENS {
        for (head, row) in row.chunks_exact_mut(dim).enumerate() {
            let place = (head * CHUNK_TOKENS + token) * dim..(head * CHUNK_TOKENS + token + 1) * dim;
            for ((d, v), a) in row.iter_mut().zip(&values[place.clone()]).zip(&anchor[place]) {
                *d = v - a;
            }
        }
        turn::<I>(page, token, &mut row, -1.0);
        for (d, m) in row.iter_mut().zip(&mean) {
            *d -= m;
        }
        for (direction, scale) in directions.chunks_exact(channels).zip(&scales) {
            z.push(scale * dot::<I>(row.as_ptr(), direction.as_ptr(), channels));
        }
    }
    match coefficients {
        Coefficients::F16 => super::exact::encode(PageElement::F16, out, 0, &z),
        Coefficients::Codes(bits) => encode_codes::<I>(page, bits, &z, out),
    }
    if let Some(first_at) = layout(page).first_at {
        let heads = values.chunks_exact(CHUNK_TOKENS * dim).flat_map(|head| &head[..dim]);
        for (to, value) in out[first_at..].chunks_exact_mut(2).zip(heads) {
            to.copy_from_slice(&f16::from_f32(*value).to_le_bytes());
        }
    }
}

/// Codes of coefficients, tokens × rank, with a scale for each group of a token.
#[inline(always)]
unsafe fn encode_codes<I: Isa>(page: &Page<'_>, bits: Bits, z: &[f32], out: &mut [u8]) {
    let (layout, rank) = (layout(page), z.len() / CHUNK_TOKENS);
    let mut columns = vec![0.0; z.len()];
    transpose::<I>(z, rank, &mut columns);
    let mut codes = vec![0u8; z.len()];
    for (g, column) in columns.chunks(layout.group * CHUNK_TOKENS).enumerate() {
        let mut steps = [0.0; CHUNK_TOKENS];
        best_steps::<I>(bits, column, CHUNK_TOKENS, &mut steps);
        let first = g * layout.group;
        let last = rank.min(first + layout.group);
        for (token, step) in steps.into_iter().enumerate() {
            let scale = layout.scales_at + 2 * (token * layout.token_scales + g);
            out[scale..scale + 2].copy_from_slice(&f16::from_f32(step).to_le_bytes());
            let row = token * rank + first..token * rank + last;
            let divisors = divisors([step; MOST_LANES]);
            let (z, codes) = (z[row.clone()].chunks(MOST_LANES), codes[row].chunks_mut(MOST_LANES));
            for (z, codes) in z.zip(codes) {
                quantise::<I>(bits, z, &divisors, codes);
            }
        }
    }
    pack(bits, &codes, &mut out[..CHUNK_TOKENS * layout.token_bytes]);
}
