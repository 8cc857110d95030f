//! The pages of a block as a task reads them: decoded one head at a time, and fetched ahead.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use interleaf_contract::{ChunkEntry, PageCodec, PageHalf, PagePlace};

use super::Task;
use super::plan::{self, anchor};
use crate::isa::Isa;
use crate::lines::LINE;
use crate::page_codec::{Anchor, Basis, Decode, Order, Page, Pages, Scratch, adds_as_read};

/// Pages that are fetched ahead of the one at hand: the hardware's own prefetch does not know where the next one is.
const PAGES_AHEAD: usize = 2;

/// The pages of a block: K of every chunk, then V.
pub struct Load<'a, 'b> {
    pub pages: &'b Pages<'a>,
    pub layer: u32,
    pub task: Task<'b>,
    pub chunks: Range<usize>,
}

impl<'a> Load<'a, '_> {
    /// Decodes what the task's pages of a chunk are differences from, or are themselves: keys dim × tokens, values
    /// tokens × dim.
    #[inline(always)]
    pub unsafe fn anchor<I: Isa>(
        &self,
        half: PageHalf,
        chunk: usize,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let pages = self.task.group.pages();
        self.fetch_later::<I>(half, chunk, |half, chunk| anchor(self.entry(pages, chunk).half(half)));
        let page = self.find(half, chunk, anchor(self.entry(pages, chunk).half(half)));
        self.decode::<I>(&page, Anchor::None, out, scratch);
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
        Decode { page, kv_head: self.task.kv_head, order, anchor, out, scratch }.on::<I>();
    }

    /// A chunk's page as one of the tables has it: the anchor, or `out` with the difference added to it.
    #[inline(always)]
    pub unsafe fn over<'o, I: Isa>(
        &self,
        pages: &[ChunkEntry],
        half: PageHalf,
        chunk: usize,
        anchor: &'o [f32],
        out: &'o mut [f32],
        scratch: &mut Scratch,
    ) -> &'o [f32] {
        let entry = self.entry(pages, chunk).half(half);
        if entry.codec.stands_alone() {
            return anchor;
        }
        self.fetch_later::<I>(half, chunk, |half, chunk| self.entry(pages, chunk).half(half).place());
        let page = self.find(half, chunk, entry.place());
        self.decode::<I>(&page, Anchor::Values(anchor), out, scratch);
        out
    }

    /// Decodes a chunk's page at once with its anchor; says whether it could: of a task whose rows all have the same pages,
    /// and in codecs that allow it.
    #[inline(always)]
    pub unsafe fn at_once<I: Isa>(
        &self,
        half: PageHalf,
        chunk: usize,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> bool {
        let pages = self.task.group.pages();
        let entry = self.entry(pages, chunk).half(half);
        let Some(anchor) = entry.anchor.filter(|_| self.task.group.is_of_one()) else { return false };
        let (page, under) = (self.find(half, chunk, entry.place()), self.find(half, chunk, anchor));
        if !adds_as_read(&page, &under) {
            return false;
        }
        self.fetch_later::<I>(half, chunk, |half, chunk| plan::anchor(self.entry(pages, chunk).half(half)));
        self.fetch_later::<I>(half, chunk, |half, chunk| self.entry(pages, chunk).half(half).place());
        self.decode::<I>(&page, Anchor::Page(&under), out, scratch);
        true
    }

    /// V of a chunk, if it is in coefficients for every token: they can be weighted as they are.
    #[inline(always)]
    pub unsafe fn coefficients<I: Isa>(
        &self,
        pages: &[ChunkEntry],
        chunk: usize,
    ) -> Option<(Page<'a>, Basis<'a>)> {
        let place = |chunk| self.entry(pages, chunk).v.place();
        if !matches!(place(chunk).codec, PageCodec::LowRank { keeps_first: false, .. }) {
            return None;
        }
        self.fetch_later::<I>(PageHalf::V, chunk, |_, chunk| place(chunk));
        let page = self.find(PageHalf::V, chunk, place(chunk));
        Some((page, Basis::of(&page, self.task.kv_head)?))
    }

    /// Asks for the head's part of the page that is read after a few others.
    #[inline(always)]
    unsafe fn fetch_later<I: Isa>(
        &self,
        half: PageHalf,
        chunk: usize,
        place: impl Fn(PageHalf, usize) -> PagePlace,
    ) {
        let later = chunk + PAGES_AHEAD;
        let next = match half {
            _ if later < self.chunks.end => Some((half, later)),
            PageHalf::K => Some((PageHalf::V, later - self.chunks.len())),
            PageHalf::V => None,
        };
        let Some((half, chunk)) = next.filter(|(_, chunk)| self.chunks.contains(chunk)) else { return };
        let page = self.find(half, chunk, place(half, chunk));
        for part in page.parts(self.task.kv_head) {
            // Pages begin on no line of their own: the last byte may be on one more.
            let last = part.end.checked_sub(1).filter(|last| part.contains(last));
            for byte in part.step_by(LINE).chain(last) {
                I::prefetch(page.bytes[byte..].as_ptr());
            }
        }
    }

    #[inline(always)]
    fn entry(&self, pages: &[ChunkEntry], chunk: usize) -> ChunkEntry {
        // The step was checked: tables reach as far as their rows' positions.
        let Some(entry) = pages.get(chunk) else { unreachable!("no page of chunk {chunk}") };
        *entry
    }

    #[inline(always)]
    fn find(&self, half: PageHalf, chunk: usize, place: PagePlace) -> Page<'a> {
        // As above: every entry is in the pool, and its constants are there.
        match self.pages.page(self.layer, half, chunk, place) {
            Ok(page) => page,
            Err(error) => unreachable!("{error}"),
        }
    }
}
