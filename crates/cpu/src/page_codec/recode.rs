//! Pages of the pool stored in other codecs: many at once, each by one worker.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use interleaf_contract::host::{Pool, Resident};
use interleaf_contract::{BackendError, CHUNK_TOKENS, PageEntry, PageLoss, PageRecode};
use rayon::prelude::*;

use super::encode::encode_page;
use super::{Anchor, Decode, Order, Page, Pages, Scratch};
use crate::isa::{Isa, Kernel};
use crate::packed::Packed;
use crate::tier::{Call, Tier};

/// Pages whose new bytes are held until they are all written: enough for every worker, some MiB at most.
const AT_ONCE: usize = 256;

/// Stores pages in other codecs, on the workers of the pool that this is called in. None reads what another one writes.
///
/// # Errors
/// If a page or constants are not there.
pub fn recode(
    pages: &[PageRecode],
    tier: Tier,
    resident: &Resident<Packed>,
    pool: &mut Pool,
) -> Result<(), BackendError> {
    for pages in pages.chunks(AT_ONCE) {
        let held: &Pool = pool;
        let encoded = pages.par_iter().map(|page| tier.call(One { page, held, resident }));
        let encoded: Vec<_> = encoded.collect::<Result<_, _>>()?;
        for (PageRecode { layer, half, to, .. }, words) in pages.iter().zip(encoded) {
            let address = pool.geometry().address(*layer, *half, *to);
            pool.page_mut(address)?.copy_from_slice(bytemuck::cast_slice(&words));
        }
    }
    Ok(())
}

/// One page, encoded to words that are aligned for any codec.
struct One<'a> {
    page: &'a PageRecode,
    held: &'a Pool,
    resident: &'a Resident<Packed>,
}

impl Call for One<'_> {
    type Output = Result<Vec<u32>, BackendError>;

    fn call<I: Isa>(self) -> Self::Output {
        let Self { page: &PageRecode { layer, half, chunk, from, to }, held, resident } = self;
        let pages = Pages::new(held, resident);
        let page = |entry: PageEntry| pages.page(layer, half, chunk as usize, entry.place());
        let over = |entry: PageEntry| entry.anchor.map(|anchor| page(anchor.into())).transpose();
        let source = (page(from)?, over(from)?);
        let (target, anchor) = (page(to)?, over(to)?);
        let mut words = vec![0u32; target.bytes.len() / size_of::<u32>()];
        let out: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        // SAFETY: the backend was opened because the machine has the tier.
        unsafe { I::enter(Recode { source, target, anchor, out }) };
        Ok(words)
    }
}

struct Recode<'a> {
    /// What is read, over its anchor.
    source: (Page<'a>, Option<Page<'a>>),
    target: Page<'a>,
    anchor: Option<Page<'a>>,
    out: &'a mut [u8],
}

impl Kernel for Recode<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { source: (source, under), target, anchor, out } = self;
        let under = under.map(|page| read::<I>(&page, &[])).unwrap_or_default();
        let values = read::<I>(&source, &under);
        let anchor = anchor.map(|page| read::<I>(&page, &[])).unwrap_or_default();
        encode_page::<I>(&target, &values, &anchor, out);
    }
}

/// What pages have lost that were stored in other codecs, on the workers of the pool that this is called in.
///
/// # Errors
/// If a page or constants are not there.
pub fn compare(
    pages: &[PageRecode],
    tier: Tier,
    resident: &Resident<Packed>,
    pool: &Pool,
) -> Result<Vec<PageLoss>, BackendError> {
    pages.par_iter().map(|page| tier.call(Loss { page, held: pool, resident })).collect()
}

struct Loss<'a> {
    page: &'a PageRecode,
    held: &'a Pool,
    resident: &'a Resident<Packed>,
}

impl Call for Loss<'_> {
    type Output = Result<PageLoss, BackendError>;

    fn call<I: Isa>(self) -> Self::Output {
        let Self { page: &PageRecode { layer, half, chunk, from, to }, held, resident } = self;
        let pages = Pages::new(held, resident);
        let page = |entry: PageEntry| pages.page(layer, half, chunk as usize, entry.place());
        let over = |entry: PageEntry| entry.anchor.map(|anchor| page(anchor.into())).transpose();
        let [before, after] = [(page(from)?, over(from)?), (page(to)?, over(to)?)];
        // SAFETY: the backend was opened because the machine has the tier.
        Ok(unsafe { I::enter(Difference { before, after }) })
    }
}

struct Difference<'a> {
    /// Each over its anchor.
    before: (Page<'a>, Option<Page<'a>>),
    after: (Page<'a>, Option<Page<'a>>),
}

impl Kernel for Difference<'_> {
    type Output = PageLoss;

    #[inline(always)]
    unsafe fn run<I: Isa>(self) -> PageLoss {
        let [before, after] = [self.before, self.after].map(|(page, anchor)| {
            let anchor = anchor.map(|page| read::<I>(&page, &[])).unwrap_or_default();
            read::<I>(&page, &anchor)
        });
        let squares = before.iter().zip(&after).map(|(b, a)| ((b - a) * (b - a), b * b));
        let (error, norm) = squares.fold((0.0, 0.0), |(error, norm), (e, n)| (error + e, norm + n));
        PageLoss { error, norm }
    }
}

/// All heads of a page over those of its anchor.
#[inline(always)]
unsafe fn read<I: Isa>(page: &Page<'_>, anchor: &[f32]) -> Vec<f32> {
    let len = CHUNK_TOKENS * page.head_dim;
    let (mut values, mut scratch) = (vec![0.0; page.kv_heads * len], Scratch::default());
    for (kv_head, out) in values.chunks_exact_mut(len).enumerate() {
        let anchor = anchor.get(kv_head * len..(kv_head + 1) * len).map_or(Anchor::None, Anchor::Values);
        Decode { page, kv_head, order: Order::ByToken, anchor, out, scratch: &mut scratch }.on::<I>();
    }
    values
}
