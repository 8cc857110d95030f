//! A stored page with all that it is decoded with, and where its bytes are that one head is decoded from.

use std::cell::{Cell, OnceCell};
use std::ops::{Deref, Range};

use bytemuck::cast_slice;
use interleaf_contract::host::{Pool, Resident};
use interleaf_contract::{
    BackendError, CHUNK_TOKENS, CodeLayout, CoefficientLayout, ConstantRows, ConstantsId, PAGE_UNIT,
    PageAddress, PageCodec, PageHalf, PagePlace, PoolGeometry, RopeTable,
};

use crate::packed::Packed;

/// What all pages of one half in one codec have in common.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub codec: PageCodec,
    pub half: PageHalf,
    pub kv_heads: usize,
    pub head_dim: usize,
    layout: Layout,
    units: u32,
}

/// Where the parts of a page are, of those that have parts.
#[derive(Debug, Clone, Copy)]
enum Layout {
    Plain,
    Codes(CodeLayout),
    Coefficients(CoefficientLayout),
}

impl Form {
    fn new(geometry: &PoolGeometry, codec: PageCodec, half: PageHalf) -> Self {
        let PoolGeometry { kv_heads, head_dim, .. } = *geometry;
        let layout = match codec {
            PageCodec::LowRank { rank, coefficients, keeps_first } => Layout::Coefficients(
                CoefficientLayout::new(rank, coefficients, keeps_first, kv_heads, head_dim),
            ),
            _ => CodeLayout::new(codec, half, kv_heads, head_dim).map_or(Layout::Plain, Layout::Codes),
        };
        let units = u32::try_from(geometry.coded_bytes(codec, half) / PAGE_UNIT).unwrap_or(u32::MAX);
        Self { codec, half, kv_heads, head_dim, layout, units }
    }

    /// Elements of a token.
    pub const fn channels(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Where codes are; `None` of pages that are not of codes.
    pub const fn codes(&self) -> Option<&CodeLayout> {
        match &self.layout {
            Layout::Codes(layout) => Some(layout),
            Layout::Plain | Layout::Coefficients(_) => None,
        }
    }

    /// Where coefficients are; `None` of pages that are not of coefficients.
    pub const fn coefficients(&self) -> Option<&CoefficientLayout> {
        match &self.layout {
            Layout::Coefficients(layout) => Some(layout),
            Layout::Plain | Layout::Codes(_) => None,
        }
    }

    /// Where the bytes are that a head is decoded from: its numbers or codes, their scales, and the channels' own.
    pub fn parts(&self, kv_head: usize) -> [Range<usize>; 3] {
        let elements = CHUNK_TOKENS * self.head_dim;
        let nth = |first: usize, bytes: usize| first + kv_head * bytes..first + (kv_head + 1) * bytes;
        match (self.codec, &self.layout) {
            (_, Layout::Codes(layout)) => [
                nth(0, layout.head_bytes),
                nth(layout.scales_at, 2 * layout.head_scales),
                layout.channels_at.map_or(0..0, |first| nth(first, self.head_dim)),
            ],
            (_, Layout::Coefficients(layout)) => {
                let first = layout.first_at.map_or(0..0, |first| nth(first, 2 * self.head_dim));
                [0..layout.first_at.unwrap_or(layout.end), first, 0..0]
            }
            (PageCodec::Exact(element), _) => [nth(0, element.bytes(elements)), 0..0, 0..0],
            (PageCodec::Steps(width), _) => [0..4, nth(PAGE_UNIT, elements * width as usize), 0..0],
            (_, Layout::Plain) => [0..0, 0..0, 0..0],
        }
    }
}

/// The bytes of a page and what they mean.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    form: &'a Form,
    pub bytes: &'a [u8],
    /// The position of its first token.
    pub position: usize,
    pub constants: Constants<'a>,
}

impl Deref for Page<'_> {
    type Target = Form;

    fn deref(&self) -> &Form {
        self.form
    }
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

/// The forms that were asked for, each worked out once: a page is found for every head that is read of it.
#[derive(Default)]
struct Forms {
    first: OnceCell<Box<Known>>,
}

struct Known {
    form: Form,
    next: OnceCell<Box<Known>>,
}

impl Forms {
    fn get(&self, geometry: &PoolGeometry, codec: PageCodec, half: PageHalf) -> &Form {
        let mut place = &self.first;
        loop {
            let known = place.get_or_init(|| {
                Box::new(Known { form: Form::new(geometry, codec, half), next: OnceCell::new() })
            });
            if (known.form.codec, known.form.half) == (codec, half) {
                return &known.form;
            }
            place = &known.next;
        }
    }
}

/// Where pages are found: the pool, and what is resident for decoding them.
pub struct Pages<'a> {
    pool: &'a Pool,
    resident: &'a Resident<Packed>,
    forms: Forms,
    /// The constants found last: most pages that are read one after another have the same.
    found: Cell<Option<(ConstantsId, Constants<'a>)>>,
}

impl<'a> Pages<'a> {
    pub fn new(pool: &'a Pool, resident: &'a Resident<Packed>) -> Self {
        Self { pool, resident, forms: Forms::default(), found: Cell::new(None) }
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
    ) -> Result<Page<'_>, BackendError> {
        let form = self.forms.get(self.geometry(), place.codec, half);
        let bytes = self.pool.page(PageAddress { layer, at: place.at, units: form.units })?;
        let constants = place.constants.map(|id| self.constants(id)).transpose()?.unwrap_or_default();
        Ok(Page { form, bytes, position: chunk * CHUNK_TOKENS, constants })
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
