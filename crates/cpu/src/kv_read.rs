//! K and V of a row back from the pages that they were appended to. Exact pages only, and of each the one token that is
//! asked for: whole pages in any codec are `page_codec`'s.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use interleaf_contract::host::Pool;
use interleaf_contract::{BackendError, Batch, PageHalf, PoolGeometry, RopeTable, Row};

use crate::isa::{Isa, Kernel};
use crate::kv_append::place;
use crate::page_codec::{Upcoming, read};
use crate::rope::Rope;

/// Reads one row's K and V.
pub struct KvRead<'a> {
    geometry: PoolGeometry,
    /// Those of K and of V.
    pages: [&'a [u8]; 2],
    /// Which of their tokens.
    token: usize,
    position: usize,
    /// What keys are turned back by.
    table: Option<&'a RopeTable>,
    /// K, then V: kv_heads · head_dim each.
    out: &'a mut [f32],
}

impl<'a> KvRead<'a> {
    /// The K and V of a row's own position, into so many values.
    ///
    /// # Errors
    /// If a page is outside the pool.
    pub fn new(
        batch: &Batch,
        layer: u32,
        row: &Row,
        table: Option<&'a RopeTable>,
        pool: &'a Pool,
        out: &'a mut [f32],
    ) -> Result<Self, BackendError> {
        let geometry = *pool.geometry();
        let (entry, token) = place(batch, layer, row);
        let page = |half| pool.page(geometry.address(layer, half, entry.half(half)));
        let pages = [page(PageHalf::K)?, page(PageHalf::V)?];
        Ok(Self { geometry, pages, token, position: row.position as usize, table, out })
    }
}

impl Kernel for KvRead<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let PoolGeometry { kv_heads, head_dim, element, .. } = self.geometry;
        let width = kv_heads * head_dim;
        for (page, out) in self.pages.iter().zip(self.out.chunks_exact_mut(width)) {
            for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
                let first = self.geometry.element_offset(head, self.token);
                read::<I>(element, page, first, out, &mut Upcoming::default());
            }
        }
        if let Some(table) = self.table {
            Rope::new(&mut self.out[..width], head_dim, table, self.position, -1.0).run::<I>();
        }
    }
}
