//! Pages as numbers: encode and decode of each codec. A page is decoded one head at a time, to where a kernel reads it
//! from the first-level cache; it is encoded whole. Which page is in which codec is decided elsewhere.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

mod codes;
mod encode;
mod exact;
mod keys;
mod low_rank;
mod mix;
mod page;
mod recode;
mod score;
mod steps;
mod upcoming;

use interleaf_contract::{CHUNK_TOKENS, PageCodec, PageHalf};

pub use self::exact::{decode as read, encode};
pub use self::low_rank::{Basis, coefficients};
pub use self::mix::Mix;
pub use self::page::{Page, Pages};
pub use self::recode::{compare, recode};
pub use self::score::Score;
pub use self::upcoming::Upcoming;
use crate::isa::{Isa, Kernel};
use crate::lines::Floats;

/// Queries that are multiplied with a page as it is decoded: as many as it is worth decoding for, and as have their sums in
/// registers beside it.
pub const ABREAST: usize = 4;

/// What decoding works on besides its result; kept by whoever decodes many pages.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Steps of one head, or of all tokens' coefficients.
    steps: Floats,
    /// Those of its anchor, where both are read at once.
    anchor_steps: Floats,
    /// Steps of one group's tokens after another's.
    group_steps: Floats,
    /// Scales of directions.
    scales: Floats,
    /// Coefficients, tokens × rank.
    coefficients: Floats,
    /// What they are expanded with, of one head.
    directions: Floats,
    /// Keys as they lie, tokens × head_dim, and those of their anchor.
    rows: Floats,
    below: Floats,
    /// What is fetched while pages are decoded.
    pub upcoming: Upcoming,
}

/// What a page is decoded over.
#[derive(Debug, Clone, Copy)]
pub enum Anchor<'a> {
    /// It stands alone.
    None,
    /// What the anchor decodes to, one head.
    Values(&'a [f32]),
    /// The anchor itself, if [`adds_as_read`]: the same bits, without a way through memory.
    Page(&'a Page<'a>),
}

/// Whether a page's differences can be added to its anchor as both are read.
pub fn adds_as_read(page: &Page<'_>, anchor: &Page<'_>) -> bool {
    match page.half {
        PageHalf::K => keys::adds_as_read(page, anchor),
        PageHalf::V => codes::adds_as_read(page, anchor),
    }
}

/// How the elements of a head follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Tokens × head_dim.
    ByToken,
    /// head_dim × tokens, as scores take keys.
    ByChannel,
}

/// Decodes one head of a page.
pub struct Decode<'a> {
    pub page: &'a Page<'a>,
    pub kv_head: usize,
    /// Of what is decoded, and of an anchor's values.
    pub order: Order,
    pub anchor: Anchor<'a>,
    pub out: &'a mut [f32],
    pub scratch: &'a mut Scratch,
}

impl Kernel for Decode<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { page, kv_head, order, anchor, out, scratch } = self;
        let elements = CHUNK_TOKENS * page.head_dim;
        let values = match anchor {
            Anchor::Values(values) => values,
            Anchor::None | Anchor::Page(_) => &[],
        };
        assert!(
            out.len() == elements && (values.is_empty() || values.len() == elements),
            "one head of a page"
        );
        if order == Order::ByChannel {
            return keys::decode::<I>(page, kv_head, anchor, out, scratch);
        }
        match page.codec {
            PageCodec::Exact(element) => {
                exact::decode::<I>(element, page.bytes, kv_head * elements, out, &mut scratch.upcoming)
            }
            PageCodec::Steps(width) => steps::decode(width, page.bytes, kv_head * elements, values, out),
            PageCodec::LowRank { .. } => low_rank::decode::<I>(page, kv_head, values, out, scratch),
            PageCodec::Quantised(_)
            | PageCodec::Profiled(_)
            | PageCodec::Grouped(_)
            | PageCodec::Delta(_) => {
                let Some(layout) = page.codes() else { unreachable!("{} is of codes", page.codec) };
                match page.half {
                    PageHalf::V => codes::decode::<I>(layout, page, kv_head, anchor, out, scratch),
                    PageHalf::K => keys::rows::<I>(page, kv_head, values, out, scratch),
                }
            }
        }
    }
}

impl Decode<'_> {
    /// Does it. A function of its own on every tier: it is long, and called from several places.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(never)]
    pub unsafe fn on<I: Isa>(self) {
        I::enter(self);
    }
}

/// And back: `[width][token]` to `[token][width]`.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn transpose_back<I: Isa>(columns: &[f32], width: usize, page: &mut [f32]) {
    assert!(page.len() == columns.len() && (page.is_empty() || page.len() == CHUNK_TOKENS * width));
    let whole = if page.is_empty() { 0 } else { width / I::LANES * I::LANES };
    for i in (0..whole).step_by(I::LANES) {
        for token in (0..CHUNK_TOKENS).step_by(I::LANES) {
            let from = columns.as_ptr().add(i * CHUNK_TOKENS + token);
            I::transpose(from, CHUNK_TOKENS, page.as_mut_ptr().add(token * width + i), width);
        }
    }
    for (at, value) in columns.iter().enumerate().skip(whole * CHUNK_TOKENS) {
        page[at % CHUNK_TOKENS * width + at / CHUNK_TOKENS] = *value;
    }
}

/// A page with its tokens side by side: `[token][width]` to `[width][token]`.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn transpose<I: Isa>(page: &[f32], width: usize, columns: &mut [f32]) {
    assert!(page.len() == CHUNK_TOKENS * width && columns.len() == page.len());
    let whole = width / I::LANES * I::LANES;
    for i in (0..whole).step_by(I::LANES) {
        for token in (0..CHUNK_TOKENS).step_by(I::LANES) {
            let from = page.as_ptr().add(token * width + i);
            I::transpose(from, width, columns.as_mut_ptr().add(i * CHUNK_TOKENS + token), CHUNK_TOKENS);
        }
    }
    for i in whole..width {
        for token in 0..CHUNK_TOKENS {
            columns[i * CHUNK_TOKENS + token] = page[token * width + i];
        }
    }
}
