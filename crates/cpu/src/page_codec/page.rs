//! A stored page with all that it is decoded with, and where its bytes are that one head is decoded from.

use std::cell::Cell;
use std::ops::Range;

use bytemuck::cast_slice;
use interleaf_contract::host::{Pool, Resident};
use interleaf_contract::{
    BackendError, CHUNK_TOKENS, CodeLayout, CoefficientLayout, ConstantRows, ConstantsId, PAGE_UNIT,
    PageCodec, PageEntry, PageHalf, PagePlace, PoolGeometry, RopeTable,
};

use crate::packed::Packed;

/// The bytes of a page and what they mean.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    pub codec: PageCodec,
    pub half: PageHalf,
    pub bytes: &'a [u8],
    pub kv_heads: usize,
    pub head_dim: usize,
    /// The position of its first token.
    pub position: usize,
    pub constants: Constants<'a>,
}

/// Constants of pages; nothing for codecs that have none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Constants<'a> {
    /// As many rows as the codec asks for, or more.
    pub rows: Option<&'a ConstantRows>,
    /// What expanded keys are turned by.
    pub rope: Option<&'a RopeTable>,
}

impl<'a> Constants<'a> {
    /// A head's part of the first row, as the bits of f16.
    pub fn first(self, kv_head: usize) -> &'a [u16] {
        self.rows.map_or(&[], |rows| &cast_slice(rows.words())[halves(rows.first_at(kv_head))])
    }

    /// A direction's scale, and its codes in a head.
    pub fn direction(self, direction: usize, kv_head: usize) -> (f32, &'a [u8]) {
        let Some(rows) = self.rows else { return (0.0, &[]) };
        let (scale, codes) = rows.direction_at(direction, kv_head);
        let words = rows.words();
        (f32::from_bits(words[scale / size_of::<u32>()]), &cast_slice(words)[codes])
    }
}

/// A range of bytes in halves.
const fn halves(bytes: Range<usize>) -> Range<usize> {
    bytes.start / size_of::<u16>()..bytes.end / size_of::<u16>()
}

impl Page<'_> {
    /// Elements of a token.
    pub const fn channels(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Where the bytes are that a head is decoded from: its numbers or codes, their scales, and the channels' own.
    pub fn parts(&self, kv_head: usize) -> [Range<usize>; 3] {
        let elements = CHUNK_TOKENS * self.head_dim;
        let nth = |first: usize, bytes: usize| first + kv_head * bytes..first + (kv_head + 1) * bytes;
        match self.codec {
            PageCodec::Exact(element) => [nth(0, element.bytes(elements)), 0..0, 0..0],
            PageCodec::Steps(width) => [0..4, nth(PAGE_UNIT, elements * width as usize), 0..0],
            PageCodec::LowRank { rank, coefficients, keeps_first } => {
                let (kv_heads, dim) = (self.kv_heads, self.head_dim);
                let layout = CoefficientLayout::new(rank, coefficients, keeps_first, kv_heads, dim);
                let first = layout.first_at.map_or(0..0, |first| nth(first, 2 * dim));
                [0..layout.first_at.unwrap_or(layout.end), first, 0..0]
            }
            PageCodec::Quantised(_)
            | PageCodec::Profiled(_)
            | PageCodec::Grouped(_)
            | PageCodec::Delta(_) => {
                match CodeLayout::new(self.codec, self.half, self.kv_heads, self.head_dim) {
                    Some(layout) => [
                        nth(0, layout.head_bytes),
                        nth(layout.scales_at, 2 * layout.head_scales),
                        layout.channels_at.map_or(0..0, |first| nth(first, self.head_dim)),
                    ],
                    None => [0..0, 0..0, 0..0],
                }
            }
        }
    }
}

/// Where pages are found: the pool, and what is resident for decoding them.
pub struct Pages<'a> {
    pool: &'a Pool,
    resident: &'a Resident<Packed>,
    /// The constants found last: most pages that are read one after another have the same.
    found: Cell<Option<(ConstantsId, Constants<'a>)>>,
}

impl<'a> Pages<'a> {
    pub fn new(pool: &'a Pool, resident: &'a Resident<Packed>) -> Self {
        Self { pool, resident, found: Cell::new(None) }
    }

    /// The pool's shape.
    pub fn geometry(&self) -> &'a PoolGeometry {
        self.pool.geometry()
    }

    /// The page of a chunk at a place.
    ///
    /// # Errors
    /// If it is outside the pool, or its constants are not there.
    pub fn page(
        &self,
        layer: u32,
        half: PageHalf,
        chunk: usize,
        place: PagePlace,
    ) -> Result<Page<'a>, BackendError> {
        let geometry = self.geometry();
        let bytes = self.pool.page(geometry.address(layer, half, PageEntry::from(place)))?;
        let constants = place.constants.map(|id| self.constants(id)).transpose()?.unwrap_or_default();
        let (codec, position) = (place.codec, chunk * CHUNK_TOKENS);
        let PoolGeometry { kv_heads, head_dim, .. } = *geometry;
        Ok(Page { codec, half, bytes, kv_heads, head_dim, position, constants })
    }

    fn constants(&self, id: ConstantsId) -> Result<Constants<'a>, BackendError> {
        if let Some((_, constants)) = self.found.get().filter(|(found, _)| *found == id) {
            return Ok(constants);
        }
        let held = self.resident.constants(id)?;
        let rope = held.rope.map(|id| self.resident.rope(id)).transpose()?;
        let constants = Constants { rows: Some(&held.rows), rope };
        self.found.set(Some((id, constants)));
        Ok(constants)
    }
}
