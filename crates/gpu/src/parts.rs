//! Pages in any codec as kernels read them: a base that stands alone, and perhaps a page over it. Which these are, how
//! tables say so, and what is loaded of them. How they are decoded is in `shaders/lib/page_coded.wgsl`, which the loads
//! mirror.

use std::collections::HashMap;

use interleaf_contract::{
    BackendError, CHUNK_TOKENS, CodeLayout, CoefficientLayout, Coefficients, GROUP_CHANNELS, PageCodec,
    PageEntry, PageHalf, PagePlace, PoolGeometry, RopeId, Step,
};

use crate::command::word;
use crate::constants::Constants;
use crate::decide::CODED_SPAN;
use crate::error;
use crate::pages::chunks_read;

/// Bytes of a word.
const WORD: u64 = 4;

/// One page, as a part of what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Part {
    form: Form,
    /// Where in the stripe, in units.
    at: u32,
    /// The first of its words in the buffer of constants.
    constants: u32,
}

impl Part {
    fn words(self) -> [u32; 3] {
        [self.at, self.form.word(), self.constants]
    }
}

/// How a page is decoded, wherever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Form {
    codec: PageCodec,
    half: PageHalf,
    turn: Turn,
}

/// How keys are turned once they are expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Turn {
    Not,
    /// Four channels with four others that stand together, too.
    Quads,
    /// With others that may stand in two quads.
    Apart,
}

impl Form {
    /// The kind, the bits of a code, and what else the kind needs, as `page_coded.wgsl` takes it apart.
    fn word(self) -> u32 {
        let form = |kind: u32, bits: usize| kind | word(bits) << 3;
        let flag = |flag: u32, set: bool| u32::from(set) << (9 + flag);
        match (self.codec, self.half) {
            (PageCodec::Exact(_), _) => form(0, 0),
            (PageCodec::Quantised(bits), PageHalf::V) => form(1, bits.count()) | flag(0, true),
            (PageCodec::Grouped(bits) | PageCodec::Delta(bits), half) => {
                form(1, bits.count()) | flag(4, half == PageHalf::K)
            }
            (PageCodec::Quantised(bits), PageHalf::K) => form(2, bits.count()) | flag(4, true),
            (PageCodec::Profiled(bits), _) => form(3, bits.count()) | flag(4, true),
            (PageCodec::Steps(width), _) => form(4, 8 * width as usize),
            (PageCodec::LowRank { rank, coefficients, keeps_first }, _) => {
                let flags = flag(1, keeps_first)
                    | flag(2, self.turn != Turn::Not)
                    | flag(3, self.turn == Turn::Apart);
                form(5, coefficients.bits()) | flags | u32::from(rank) << 16
            }
        }
    }
}

/// Which kinds of pages there are besides numbers and codes: kernels are built with them or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Kinds {
    /// Integers of one step.
    pub steps: bool,
    /// Coefficients of directions.
    pub expands: bool,
    /// Pages that lie over others.
    pub over: bool,
}

impl Kinds {
    /// All of them.
    pub const ALL: Self = Self { steps: true, expands: true, over: true };

    /// With what is decoded from parts.
    fn with(self, Parts { base, over }: &Parts) -> Self {
        let is =
            |is: fn(PageCodec) -> bool| is(base.form.codec) || over.is_some_and(|over| is(over.form.codec));
        Self {
            steps: self.steps || is(|codec| matches!(codec, PageCodec::Steps(_))),
            expands: self.expands || is(|codec| matches!(codec, PageCodec::LowRank { .. })),
            over: self.over || over.is_some(),
        }
    }

    /// The constants by which shaders leave out what is not there.
    pub fn constants(self) -> [(&'static str, String); 3] {
        let count = |is: bool| u32::from(is).to_string();
        [("STEPS_TOO", count(self.steps)), ("EXPANDS", count(self.expands)), ("OVER", count(self.over))]
    }
}

/// What a page is decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Parts {
    /// What stands alone: the anchor, or the page itself.
    base: Part,
    /// The page, where it lies over an anchor.
    over: Option<Part>,
}

impl Parts {
    /// Of an entry that has been checked, and the rope table that its keys are turned by.
    pub(crate) fn of(
        entry: PageEntry,
        half: PageHalf,
        constants: &Constants,
    ) -> Result<(Self, Option<RopeId>), BackendError> {
        let part = |PagePlace { codec, at, constants: id }: PagePlace| -> Result<_, BackendError> {
            let resident = id.map(|id| constants.get(id)).transpose()?;
            let expands = half == PageHalf::K && matches!(codec, PageCodec::LowRank { .. });
            let rope = resident.and_then(|resident| resident.shape.rope).filter(|_| expands);
            let turn = match resident.filter(|_| rope.is_some()) {
                None => Turn::Not,
                Some(resident) if resident.rotary_dim.is_multiple_of(8) => Turn::Quads,
                Some(_) => Turn::Apart,
            };
            let form = Form { codec, half, turn };
            Ok((Part { form, at, constants: resident.map_or(0, |resident| resident.at()) }, rope))
        };
        let (page, rope) = part(entry.place())?;
        let parts = match entry.anchor {
            None => Self { base: page, over: None },
            Some(anchor) => Self { base: part(anchor)?.0, over: Some(page) },
        };
        Ok((parts, rope))
    }

    /// Whether it is numbers and nothing else.
    pub(crate) const fn is_exact(self) -> bool {
        matches!(self.base.form.codec, PageCodec::Exact(_)) && self.over.is_none()
    }

    /// Where what stands alone is.
    pub(crate) const fn base_at(self) -> u32 {
        self.base.at
    }

    /// The words by which kernels know the page itself.
    pub(crate) fn page_words(self) -> [u32; 3] {
        self.over.unwrap_or(self.base).words()
    }

    /// The words by which kernels know it and what it lies over.
    pub(crate) fn words(self) -> [u32; 6] {
        /// A form that is no page.
        const NOTHING: u32 = 6;
        let [at, form, constants] = self.base.words();
        let [over_at, over_form, over_constants] = self.over.map_or([0, NOTHING, 0], Part::words);
        [at, form, constants, over_at, over_form, over_constants]
    }
}

/// The pages of every sequence of a step in the layers of a band, up to its last row: K's and V's of each chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartTables {
    pub sequences: Vec<Vec<[Parts; 2]>>,
    /// The rope table that expanded keys are turned by.
    pub rope: Option<RopeId>,
    /// What any of them is of.
    pub kinds: Kinds,
}

impl PartTables {
    /// Those of a step whose entries have been checked; `None` where all of its pages are exact.
    ///
    /// # Errors
    /// If keys would be turned by two tables: a kernel binds one.
    pub(crate) fn of(step: &Step, band: usize, constants: &Constants) -> Result<Option<Self>, BackendError> {
        let is_exact = |entry: PageEntry| matches!(entry.codec, PageCodec::Exact(_));
        let entries = || {
            let chunks = chunks_read(step.batch());
            let sequences = step.batch().sequences.iter().zip(chunks);
            sequences.map(|(sequence, chunks)| sequence.pages.entries(band).iter().take(chunks))
        };
        if entries().flatten().all(|entry| is_exact(entry.k) && is_exact(entry.v)) {
            return Ok(None);
        }
        let mut rope = None;
        let mut parts = |entry, half| {
            let (parts, turned_by) = Parts::of(entry, half, constants)?;
            if turned_by.is_some() && *rope.get_or_insert(turned_by) != turned_by {
                return Err(error::unsupported("keys of one layer that two rope tables turn"));
            }
            Ok(parts)
        };
        let mut both = |entry: &interleaf_contract::ChunkEntry| {
            Ok([parts(entry.k, PageHalf::K)?, parts(entry.v, PageHalf::V)?])
        };
        let sequences = entries()
            .map(|chunks| chunks.map(&mut both).collect::<Result<Vec<_>, _>>())
            .collect::<Result<Vec<Vec<[Parts; 2]>>, BackendError>>()?;
        let kinds = sequences.iter().flatten().flatten().fold(Kinds::default(), Kinds::with);
        Ok(Some(Self { sequences, rope: rope.flatten(), kinds }))
    }

    /// The directory that kernels look pages up in, `half` rotated pairs and the place of their sines before it; and how
    /// many words those are.
    pub(crate) fn directory(&self, half: u32, sines_at: u32) -> (Vec<u32>, usize) {
        let turning = [half, sines_at];
        let mut words = vec![0; self.sequences.len()];
        for (i, chunks) in self.sequences.iter().enumerate() {
            words[i] = word(words.len());
            words.extend(chunks.iter().flatten().flat_map(|parts| parts.words()));
        }
        (turning.into_iter().chain(words).collect(), turning.len())
    }
}

/// Bytes that are loaded of coded pages, all KV heads together. What was counted once is kept.
#[derive(Debug)]
pub(crate) struct PartLoads {
    pool: PoolGeometry,
    known: HashMap<Form, [u64; CHUNK_TOKENS]>,
}

impl PartLoads {
    pub(crate) fn new(pool: PoolGeometry) -> Self {
        Self { pool, known: HashMap::new() }
    }

    /// A page's row.
    pub(crate) fn page(&mut self, parts: Parts, token: usize) -> u64 {
        self.part(parts.base, token) + parts.over.map_or(0, |over| self.part(over, token))
    }

    /// The same for a vector that reads beside one that reads `theirs`: nothing of what they share.
    pub(crate) fn beside(&mut self, parts: Parts, theirs: Parts, token: usize) -> u64 {
        if parts == theirs {
            return 0;
        }
        let base = if parts.base == theirs.base { 0 } else { self.part(parts.base, token) };
        base + parts.over.map_or(0, |over| self.part(over, token))
    }

    fn part(&mut self, part: Part, token: usize) -> u64 {
        let pool = self.pool;
        self.known.entry(part.form).or_insert_with(|| std::array::from_fn(|t| row(part.form, &pool, t)))
            [token]
    }
}

/// The row of a token, of all KV heads.
fn row(form: Form, pool: &PoolGeometry, token: usize) -> u64 {
    (0..pool.kv_heads).map(|kv_head| Reader::new(form, pool, kv_head, token).row()).sum()
}

/// Reads a row as a kernel does: keys quad by quad, with a word that is still there not loaded again; values a few quads to
/// a thread, likewise. Words are counted from the page's first.
struct Reader<'a> {
    form: Form,
    pool: &'a PoolGeometry,
    kv_head: usize,
    token: usize,
    code: Option<usize>,
    scale: Option<usize>,
    channel: Option<usize>,
    bytes: u64,
}

impl<'a> Reader<'a> {
    const fn new(form: Form, pool: &'a PoolGeometry, kv_head: usize, token: usize) -> Self {
        Self { form, pool, kv_head, token, code: None, scale: None, channel: None, bytes: 0 }
    }

    fn row(mut self) -> u64 {
        for quad in 0..self.pool.head_dim.div_ceil(4) {
            if self.form.half == PageHalf::V && quad.is_multiple_of(CODED_SPAN as usize) {
                (self.code, self.scale, self.channel) = (None, None, None);
            }
            self.quad(quad);
        }
        self.bytes
    }

    /// The first channels of the two pairs of a quad, the last pair again behind a row.
    const fn pairs(&self, quad: usize) -> [usize; 2] {
        let (first, last) = (4 * quad, self.pool.head_dim - 2);
        [first, if first + 2 < last { first + 2 } else { last }]
    }

    fn quad(&mut self, quad: usize) {
        let Form { codec, half, turn } = self.form;
        let PoolGeometry { kv_heads, head_dim, .. } = *self.pool;
        match codec {
            PageCodec::Exact(element) => self.bytes += element.bytes(4) as u64,
            PageCodec::Steps(width) => {
                self.scale(0);
                let row = (self.kv_head * CHUNK_TOKENS + self.token) * head_dim;
                for channel in 4 * quad..4 * quad + 4 {
                    self.code(4 + (row + channel.min(head_dim - 1)) * width as usize / 4);
                }
            }
            PageCodec::LowRank { rank, coefficients, keeps_first } => {
                let layout = CoefficientLayout::new(rank, coefficients, keeps_first, kv_heads, head_dim);
                if let Some(first_at) = layout.first_at.filter(|_| self.token == 0) {
                    for channel in self.pairs(quad) {
                        self.code((first_at + 2 * (self.kv_head * head_dim + channel)) / 4);
                    }
                    return;
                }
                self.expanded(rank.into(), coefficients, &layout, 1);
                match turn {
                    Turn::Not => {}
                    Turn::Quads => self.expanded(rank.into(), coefficients, &layout, 1),
                    Turn::Apart => self.expanded(rank.into(), coefficients, &layout, 4),
                }
            }
            PageCodec::Quantised(_)
            | PageCodec::Profiled(_)
            | PageCodec::Grouped(_)
            | PageCodec::Delta(_) => {
                if let Some(layout) = CodeLayout::new(codec, half, kv_heads, head_dim) {
                    self.codes(quad, &layout);
                }
            }
        }
    }

    fn codes(&mut self, quad: usize, layout: &CodeLayout) {
        let head_dim = self.pool.head_dim;
        for channel in self.pairs(quad) {
            let bit = layout.code_of(self.token, channel, head_dim) * layout.bits.count();
            self.code(self.kv_head * layout.head_bytes / 4 + bit / 32);
        }
        let of_token =
            layout.group.map_or(0, |group| self.token * head_dim.div_ceil(group) + 4 * quad / group);
        let index = self.kv_head * layout.head_scales + of_token;
        self.scale((layout.scales_at + 2 * index) / 4);
        match (layout.group, layout.channels_at) {
            (Some(_), _) => {}
            (None, Some(at)) => {
                for channel in self.pairs(quad) {
                    self.channel((at + self.kv_head * head_dim + channel) / 4);
                }
            }
            (None, None) => self.bytes += 2 * WORD,
        }
    }

    /// Four channels that stand in so many quads: of each the first row's, and every direction's besides its scale.
    fn expanded(&mut self, rank: usize, stored: Coefficients, layout: &CoefficientLayout, quads: usize) {
        self.bytes += (2 * quads + rank * (1 + quads)) as u64 * WORD;
        for i in 0..rank {
            self.code((self.token * layout.token_bytes * 8 + i * stored.bits()) / 32);
            if stored != Coefficients::F16 {
                let index = self.token * layout.token_scales + i / layout.group;
                self.scale((layout.scales_at + 2 * index) / 4);
            }
        }
    }

    fn code(&mut self, word: usize) {
        load(&mut self.code, word, &mut self.bytes);
    }

    fn scale(&mut self, word: usize) {
        load(&mut self.scale, word, &mut self.bytes);
    }

    fn channel(&mut self, word: usize) {
        load(&mut self.channel, word, &mut self.bytes);
    }
}

fn load(last: &mut Option<usize>, word: usize, bytes: &mut u64) {
    if *last != Some(word) {
        *last = Some(word);
        *bytes += WORD;
    }
}

const _: () = assert!(GROUP_CHANNELS.is_multiple_of(4), "a quad has one scale");

#[cfg(test)]
mod tests {
    use interleaf_contract::{Bits, PageElement};

    use super::*;

    /// What reading a row loads, per KV head and relative to f16 numbers, as the documentation says it.
    #[test]
    fn loads_fall_with_the_bits_of_codes() {
        let pool =
            PoolGeometry { layers: 1, kv_heads: 2, head_dim: 128, slots: 1, element: PageElement::F16 };
        let bytes = |codec, half| {
            let form = Form { codec, half, turn: Turn::Not };
            (0..CHUNK_TOKENS).map(|token| row(form, &pool, token)).sum::<u64>() / (2 * 16)
        };
        let low_rank = PageCodec::LowRank {
            rank: 16,
            coefficients: Coefficients::Codes(Bits::Four),
            keeps_first: false,
        };
        for (codec, k, v) in [
            (PageElement::F16.into(), 256, 256),
            // Of values a scale for each thread, which has eight codes.
            (PageCodec::Grouped(Bits::Eight), 128 + 8, 128 + 64),
            (PageCodec::Delta(Bits::Four), 64 + 8, 64 + 64),
            (PageCodec::Delta(Bits::Two), 32 + 8, 64 + 64),
            // Each channel's own part, once more for each token.
            (PageCodec::Quantised(Bits::Eight), 128 + 4 + 128, 128 + 64),
            (low_rank, 32 * (8 + 16 * 8) + 32 * 8 + 4, 32 * (8 + 16 * 8 + 8) + 64),
        ] {
            assert_eq!([bytes(codec, PageHalf::K), bytes(codec, PageHalf::V)], [k, v], "{codec}");
        }
    }
}
