//! The pages of a block as a task reads them: found once for all heads of a group, decoded one head at a time, and fetched
//! ahead.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use interleaf_contract::{
    ATTENTION_SPLIT, CHUNK_TOKENS, ChunkEntry, PageCodec, PageElement, PageEntry, PageHalf,
};

use super::plan::{Group, anchor};
use super::seeing;
use crate::isa::Isa;
use crate::page_codec::{Anchor, Basis, Decode, Mix, Order, Page, Pages, Scratch, Upcoming, adds_as_read};

const HALVES: [PageHalf; 2] = [PageHalf::K, PageHalf::V];

/// Chunks whose pages are fetched ahead of the one at hand: the hardware's own prefetch does not know where the next one is.
const CHUNKS_AHEAD: usize = 2;

/// The pages of a block that a group reads.
#[derive(Default)]
pub struct Found<'p> {
    /// Whose they are: a group of the plan, and its chunks.
    of: Option<(usize, Range<usize>)>,
    /// K of every chunk, then V, in the order in which they are read: what all members' pages are differences from or are
    /// themselves, then each member's own, if it is a difference and one of its rows sees the chunk.
    pages: Vec<Option<Page<'p>>>,
}

impl<'p> Found<'p> {
    /// Finds the pages of a group, unless they are at hand; `seen` is what each of its rows sees of the block.
    pub fn load(
        &mut self,
        pages: &'p Pages<'_>,
        layer: u32,
        (index, group): (usize, &Group<'_>),
        seen: &[Range<usize>],
        chunks: Range<usize>,
        kv_head: usize,
    ) -> Load<'_, 'p> {
        if self.of.as_ref().is_none_or(|(of, at)| (*of, at) != (index, &chunks)) {
            self.pages.clear();
            for half in HALVES {
                for chunk in chunks.clone() {
                    let find = |entry: PageEntry| match pages.page(layer, half, chunk, entry.place()) {
                        Ok(page) => page,
                        // The step was checked: every entry that a row reads is in the pool, and its constants are there.
                        // All members' anchors are those of the row that does.
                        Err(error) => unreachable!("{error}"),
                    };
                    self.pages.push(Some(find(anchor(entry(group.pages(), chunk).half(half)).into())));
                    let at = chunk * CHUNK_TOKENS % ATTENTION_SPLIT;
                    for member in group.members() {
                        let own = entry(member.pages, chunk).half(half);
                        // Behind its rows nobody has looked at what its table names.
                        let is_read = !seeing(seen, &member.rows, at).is_empty();
                        let own = Some(own).filter(|own| is_read && !own.codec.stands_alone());
                        self.pages.push(own.map(find));
                    }
                }
            }
            self.of = Some((index, chunks.clone()));
        }
        let (members, is_all) = (group.members().count(), group.blocks.len() == 1);
        Load { pages: &self.pages, members, chunks, is_all, kv_head }
    }
}

fn entry(pages: &[ChunkEntry], chunk: usize) -> ChunkEntry {
    // Tables reach as far as their rows' positions, and where members share a block, over all of it.
    let Some(entry) = pages.get(chunk) else { unreachable!("no page of chunk {chunk}") };
    *entry
}

/// The same for one head.
pub struct Load<'a, 'p> {
    pages: &'a [Option<Page<'p>>],
    members: usize,
    chunks: Range<usize>,
    /// Whether the group reads no other block.
    is_all: bool,
    kv_head: usize,
}

impl<'a, 'p> Load<'a, 'p> {
    /// Decodes what the members' pages of a chunk are differences from, or are themselves: keys dim × tokens, values
    /// tokens × dim. A lone member's differences are added at once, if their codec allows it; says whether they were.
    #[inline(always)]
    pub unsafe fn anchor<I: Isa>(
        &self,
        half: PageHalf,
        chunk: usize,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> bool {
        let at = self.place(half, chunk);
        self.fetch_later::<I>(at, &mut scratch.upcoming);
        let page = self.page(at);
        if self.is_of_one()
            && let Some(own) = &self.pages[at + 1]
            && adds_as_read(own, page)
        {
            self.fetch_later::<I>(at + 1, &mut scratch.upcoming);
            self.decode::<I>(own, Anchor::Page(page), out, scratch);
            return true;
        }
        self.decode::<I>(page, Anchor::None, out, scratch);
        false
    }

    /// A chunk's page as one of the members has it: the anchor, or `out` with the difference added to it.
    #[inline(always)]
    pub unsafe fn over<'o, I: Isa>(
        &self,
        member: usize,
        half: PageHalf,
        chunk: usize,
        anchor: &'o [f32],
        out: &'o mut [f32],
        scratch: &mut Scratch,
    ) -> &'o [f32] {
        let at = self.place(half, chunk) + 1 + member;
        let Some(page) = &self.pages[at] else { return anchor };
        self.fetch_later::<I>(at, &mut scratch.upcoming);
        self.decode::<I>(page, Anchor::Values(anchor), out, scratch);
        out
    }

    /// What a member's page of a chunk is decoded from while it is multiplied, if keys are of codes and values of codes or f16:
    /// its own page over the anchor's values, or over the anchor as it is read, or the anchor alone.
    #[inline(always)]
    pub unsafe fn codes<'k, I: Isa>(
        &'k self,
        member: usize,
        half: PageHalf,
        chunk: usize,
        anchor: Option<&'k [f32]>,
        upcoming: &mut Upcoming,
    ) -> Option<(&'k Page<'p>, Anchor<'k>)> {
        let at = self.place(half, chunk);
        let under = self.page(at);
        let own = at + 1 + member;
        let (page, over) = match (&self.pages[own], anchor) {
            (None, None) => (under, Anchor::None),
            (Some(page), None) if adds_as_read(page, under) => (page, Anchor::Page(under)),
            (Some(page), Some(values)) => (page, Anchor::Values(values)),
            _ => return None,
        };
        let can = match half {
            PageHalf::K => page.codes().is_some(),
            PageHalf::V => Mix::can(page),
        };
        if !can {
            return None;
        }
        if anchor.is_none() {
            self.fetch_later::<I>(at, upcoming);
        }
        self.fetch_later::<I>(own, upcoming);
        Some((page, over))
    }

    /// What all members' values of a chunk are over, if that can be decoded while it is multiplied.
    #[inline(always)]
    pub unsafe fn codes_under<I: Isa>(&self, chunk: usize, upcoming: &mut Upcoming) -> Option<&Page<'p>> {
        let at = self.place(PageHalf::V, chunk);
        let page = Some(self.page(at)).filter(|page| Mix::can(page))?;
        self.fetch_later::<I>(at, upcoming);
        Some(page)
    }

    /// Whether there is one member alone.
    pub fn is_of_one(&self) -> bool {
        self.members == 1
    }

    /// Which head's they are.
    pub fn kv_head(&self) -> usize {
        self.kv_head
    }

    /// V of a chunk, if a member has it in coefficients for every token: they can be weighted as they are.
    #[inline(always)]
    pub unsafe fn coefficients<I: Isa>(
        &self,
        member: usize,
        chunk: usize,
        upcoming: &mut Upcoming,
    ) -> Option<(&'a Page<'p>, Basis<'p>)> {
        let at = self.place(PageHalf::V, chunk) + 1 + member;
        let page = self.pages[at].as_ref()?;
        if !matches!(page.codec, PageCodec::LowRank { keeps_first: false, .. }) {
            return None;
        }
        self.fetch_later::<I>(at, upcoming);
        Some((page, Basis::of(page, self.kv_head)?))
    }

    #[inline(always)]
    unsafe fn decode<I: Isa>(
        &self,
        page: &Page<'_>,
        anchor: Anchor<'_>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let order = match page.half {
            PageHalf::K => Order::ByChannel,
            PageHalf::V => Order::ByToken,
        };
        Decode { page, kv_head: self.kv_head, order, anchor, out, scratch }.on::<I>();
    }

    /// Where a chunk's pages begin.
    #[inline(always)]
    fn place(&self, half: PageHalf, chunk: usize) -> usize {
        (half as usize * self.chunks.len() + chunk - self.chunks.start) * (1 + self.members)
    }

    #[inline(always)]
    fn page(&self, at: usize) -> &'a Page<'p> {
        let Some(page) = &self.pages[at] else { unreachable!("a page for every chunk") };
        page
    }

    /// Asks for the head's part of the page that is read a few chunks after another; V's come after K's, and the next head's
    /// K after V where that comes next.
    #[inline(always)]
    unsafe fn fetch_later<I: Isa>(&self, at: usize, upcoming: &mut Upcoming) {
        let (mut later, mut kv_head) = (at + CHUNKS_AHEAD * (1 + self.members), self.kv_head);
        if later >= self.pages.len() && self.is_all {
            (later, kv_head) = (later - self.pages.len(), kv_head + 1);
        }
        let Some(Some(page)) = self.pages.get(later) else { return };
        if kv_head == page.kv_heads {
            return;
        }
        let [values, scales, channels] = page.parts(kv_head).map(|part| &page.bytes[part]);
        if page.codec == PageCodec::Exact(PageElement::F16) {
            return upcoming.begin::<I>(values);
        }
        for part in [values, scales, channels] {
            Upcoming::fetch::<I>(part);
        }
    }
}
