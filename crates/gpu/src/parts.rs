//! Pages in any codec as kernels read them: a base that stands alone, and perhaps a page over it. Which these are, how
//! tables say so, and what is loaded of them. How they are decoded is in `shaders/lib/keys_coded.wgsl`,
//! `values_coded.wgsl` and `coefficient_sums.wgsl`, which the loads mirror.

use std::collections::HashMap;

use interleaf_contract::{
    BackendError, CHUNK_TOKENS, CodeLayout, CoefficientLayout, Coefficients, GROUP_CHANNELS, PageCodec,
    PageEntry, PageHalf, PagePlace, PoolGeometry, RopeId, Step,
};

use crate::command::word;
use crate::constants::Constants;
use crate::decide::{CODED_KEYS, CODED_SPAN, WORKGROUP};
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
    pub(crate) const fn at(self) -> u32 {
        self.at
    }

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
    /// The kind, the bits of a code, and what else the kind needs, as `page_form.wgsl` takes it apart.
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

/// Which kinds of pages there are, of keys and of values: kernels are built for these and for no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Kinds {
    k: Roles,
    v: Roles,
}

/// Kinds of what stands alone and of what lies over it, a bit for each by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Roles {
    base: u32,
    over: u32,
}

/// Kinds of forms, as `page_form.wgsl` numbers them.
const KINDS: [&str; 6] = ["EXACT", "BY_TOKEN", "BY_CHANNEL", "PROFILED", "STEPS", "LOW_RANK"];

/// The bit behind those of the kinds: keys of coefficients that are turned with channels that stand in two quads.
const APART: u32 = 1 << KINDS.len();

impl Kinds {
    /// All of them.
    pub const ALL: Self = {
        let every = Roles { base: 0b00_1111, over: 0b11_0010 | APART };
        Self { k: every, v: every }
    };

    /// With what is decoded from a chunk's parts.
    fn with(self, [k, v]: &[Parts; 2]) -> Self {
        Self { k: self.k.with(k), v: self.v.with(v) }
    }

    /// Whether keys are expanded, which takes so much code that no kernel should have it twice.
    pub const fn expands_keys(self) -> bool {
        self.k.over & 1 << 5 != 0
    }

    /// The constants by which shaders leave out what is not there.
    pub fn constants(self) -> Vec<(&'static str, String)> {
        let is = |kinds: u32, of: u32| u32::from(kinds & of != 0).to_string();
        let of = |name, kinds: u32, kind: &str| {
            let number = KINDS.iter().position(|k| *k == kind).unwrap_or(KINDS.len());
            (name, is(kinds, 1 << number))
        };
        vec![
            of("K_BASE_EXACT", self.k.base, "EXACT"),
            of("K_BASE_BY_TOKEN", self.k.base, "BY_TOKEN"),
            of("K_BASE_BY_CHANNEL", self.k.base, "BY_CHANNEL"),
            of("K_BASE_PROFILED", self.k.base, "PROFILED"),
            ("K_BASE_CODES", is(self.k.base, !1)),
            of("K_OVER_BY_TOKEN", self.k.over, "BY_TOKEN"),
            of("K_OVER_STEPS", self.k.over, "STEPS"),
            of("K_OVER_LOW_RANK", self.k.over, "LOW_RANK"),
            ("K_OVER_APART", is(self.k.over, APART)),
            of("V_BASE_EXACT", self.v.base, "EXACT"),
            of("V_BASE_BY_TOKEN", self.v.base, "BY_TOKEN"),
            of("V_OVER_BY_TOKEN", self.v.over, "BY_TOKEN"),
            of("V_OVER_STEPS", self.v.over, "STEPS"),
            of("V_OVER_LOW_RANK", self.v.over, "LOW_RANK"),
        ]
    }
}

impl Roles {
    fn with(self, Parts { base, over }: &Parts) -> Self {
        let apart = |part: &Part| if part.form.turn == Turn::Apart { APART } else { 0 };
        let kind = |part: &Part| 1 << (part.form.word() & 7) | apart(part);
        Self { base: self.base | kind(base), over: self.over | over.as_ref().map_or(0, kind) }
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

    /// What stands alone.
    pub(crate) const fn base(self) -> Part {
        self.base
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
        let kinds = sequences.iter().flatten().fold(Kinds::default(), Kinds::with);
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
    /// Of keys by tiles of a chunk, of values by tokens.
    known: HashMap<Form, Vec<u64>>,
}

impl PartLoads {
    pub(crate) fn new(pool: PoolGeometry) -> Self {
        Self { pool, known: HashMap::new() }
    }

    /// A page of one half: number `at` of a chunk's tiles of keys, or of its tokens' values.
    pub(crate) fn page(&mut self, parts: Parts, at: usize) -> u64 {
        self.part(parts.base, at) + parts.over.map_or(0, |over| self.part(over, at))
    }

    /// The same for a vector that reads beside one that reads `theirs`: nothing of what they share.
    pub(crate) fn beside(&mut self, parts: Parts, theirs: Parts, at: usize) -> u64 {
        if parts == theirs {
            return 0;
        }
        let base = if parts.base == theirs.base { 0 } else { self.part(parts.base, at) };
        base + parts.over.map_or(0, |over| self.part(over, at))
    }

    fn part(&mut self, part: Part, at: usize) -> u64 {
        let pool = &self.pool;
        let known = self.known.entry(part.form).or_insert_with(|| match part.form.half {
            PageHalf::K => every_head(pool, CHUNK_TOKENS / KEYS, |head, at| {
                Reader::new(part.form, pool, head, KEYS * at).keys()
            }),
            PageHalf::V => every_head(pool, CHUNK_TOKENS, |head, token| {
                Reader::new(part.form, pool, head, token).values()
            }),
        });
        known.get(at).copied().unwrap_or_default()
    }

    /// What coefficients add to one vector's values: of some chunks' pages of values, with how many tokens of each are
    /// read. Neighbours in one form over the same constants are summed together.
    pub(crate) fn sums(&self, pages: &[(Parts, usize)]) -> u64 {
        let PoolGeometry { kv_heads, head_dim, .. } = self.pool;
        let threads = WORKGROUP as usize;
        let elements = threads * head_dim.div_ceil(threads);
        let over = |(parts, tokens): &(Parts, usize)| Some((parts.over?, *tokens));
        let alike = |a: &(Parts, usize), b: &(Parts, usize)| match (over(a), over(b)) {
            (Some((a, _)), Some((b, _))) => a.form == b.form && a.constants == b.constants,
            (None, None) => true,
            _ => false,
        };
        let of_run = |run: &[(Parts, usize)]| {
            let Some((part, _)) = run.first().and_then(over) else { return 0 };
            let PageCodec::LowRank { rank, coefficients, keeps_first } = part.form.codec else { return 0 };
            let tokens: usize = run.iter().map(|(_, tokens)| tokens - usize::from(keeps_first)).sum();
            let rank = usize::from(rank);
            let portions = rank / (u32::BITS as usize / coefficients.bits()).min(PORTION);
            // A word of each portion, and its scale.
            let words = tokens * portions * if coefficients == Coefficients::F16 { 1 } else { 2 };
            // The mean and every direction, by each thread for its own elements, and the directions' scales.
            words + rank + (1 + rank) * elements
        };
        let words: usize = pages.chunk_by(alike).map(of_run).sum();
        (kv_heads * words) as u64 * WORD
    }
}

/// Tokens whose keys are read at once.
const KEYS: usize = CODED_KEYS as usize;

/// Coefficients that a thread sums of a token, at most.
const PORTION: usize = 8;

/// For each place of a chunk, over all KV heads.
fn every_head(pool: &PoolGeometry, places: usize, of: impl Fn(usize, usize) -> u64) -> Vec<u64> {
    (0..places).map(|at| (0..pool.kv_heads).map(|kv_head| of(kv_head, at)).sum()).collect()
}

/// Reads a part as a kernel does: keys quad by quad, of neighbouring tokens at once, values a few quads to a thread. A word
/// that is still there is not loaded again. Words are counted from the page's first.
struct Reader<'a> {
    form: Form,
    pool: &'a PoolGeometry,
    kv_head: usize,
    /// The first token.
    token: usize,
    /// The word of codes that is there of each token, and the other word.
    codes: Option<usize>,
    word: Option<usize>,
    bytes: u64,
}

impl<'a> Reader<'a> {
    const fn new(form: Form, pool: &'a PoolGeometry, kv_head: usize, token: usize) -> Self {
        Self { form, pool, kv_head, token, codes: None, word: None, bytes: 0 }
    }

    const fn quads(&self) -> usize {
        self.pool.head_dim.div_ceil(4)
    }

    /// Of a few tokens.
    fn keys(mut self) -> u64 {
        let PoolGeometry { kv_heads, head_dim, .. } = *self.pool;
        let codec = self.form.codec;
        let layout = CodeLayout::new(codec, PageHalf::K, kv_heads, head_dim);
        for quad in 0..self.quads() {
            if quad.is_multiple_of(GROUP_CHANNELS / 4) {
                let groups = head_dim.div_ceil(GROUP_CHANNELS);
                let is_second = groups.is_multiple_of(2) && quad / (GROUP_CHANNELS / 4) % 2 == 1;
                self.words(match (codec, layout.and_then(|layout| layout.group)) {
                    (PageCodec::Exact(_) | PageCodec::LowRank { .. }, _) => 0,
                    (_, Some(_)) if is_second => 0,
                    (_, Some(_)) => KEYS,
                    (_, None) => 1,
                });
            }
            match codec {
                PageCodec::Exact(element) => self.bytes += (KEYS * element.bytes(4)) as u64,
                PageCodec::Steps(width) => (0..KEYS).for_each(|t| self.integers(quad, t, width as usize)),
                PageCodec::LowRank { rank, coefficients, keeps_first } => {
                    self.expanded(rank, coefficients, 1);
                    match self.form.turn {
                        Turn::Not => {}
                        Turn::Quads => self.expanded(rank, coefficients, 1),
                        Turn::Apart => self.expanded(rank, coefficients, 4),
                    }
                    self.words(if keeps_first && self.token == 0 { 2 } else { 0 });
                }
                PageCodec::Quantised(bits)
                | PageCodec::Profiled(bits)
                | PageCodec::Grouped(bits)
                | PageCodec::Delta(bits) => {
                    let codes = 4 * quad * bits.count() / 32;
                    if self.codes.replace(codes) != Some(codes) {
                        self.words(KEYS);
                    }
                    if let Some(at) = layout.and_then(|layout| layout.channels_at) {
                        for channel in self.pairs(quad) {
                            self.word((at + self.kv_head * head_dim + channel) / 4);
                        }
                    }
                    self.words(if matches!(codec, PageCodec::Profiled(_)) { 2 } else { 0 });
                }
            }
        }
        self.bytes
    }

    /// Of one token, but for what coefficients add.
    fn values(mut self) -> u64 {
        let PoolGeometry { kv_heads, head_dim, .. } = *self.pool;
        let codec = self.form.codec;
        let layout = CodeLayout::new(codec, PageHalf::V, kv_heads, head_dim);
        for quad in 0..self.quads() {
            if quad.is_multiple_of(CODED_SPAN as usize) {
                self.word = None;
                let has_step = layout.is_some() || matches!(codec, PageCodec::Steps(_));
                self.words(usize::from(has_step));
            }
            match codec {
                PageCodec::Exact(element) => self.bytes += element.bytes(4) as u64,
                PageCodec::Steps(width) => self.integers(quad, 0, width as usize),
                PageCodec::LowRank { keeps_first, .. } => {
                    self.words(if keeps_first && self.token == 0 { 2 } else { 0 });
                }
                PageCodec::Quantised(bits)
                | PageCodec::Profiled(bits)
                | PageCodec::Grouped(bits)
                | PageCodec::Delta(bits) => {
                    for channel in self.pairs(quad) {
                        self.word((self.token * head_dim + channel) * bits.count() / 32);
                    }
                }
            }
        }
        self.bytes
    }

    /// The first channels of the two pairs of a quad, the last pair again behind a row.
    const fn pairs(&self, quad: usize) -> [usize; 2] {
        let (first, last) = (4 * quad, self.pool.head_dim - 2);
        [first, if first + 2 < last { first + 2 } else { last }]
    }

    /// A quad of integers of the token that is so many behind the first.
    fn integers(&mut self, quad: usize, behind: usize, width: usize) {
        let head_dim = self.pool.head_dim;
        let row = (self.kv_head * CHUNK_TOKENS + self.token + behind) * head_dim;
        for channel in 4 * quad..4 * quad + 4 {
            self.word((row + channel.min(head_dim - 1)) * width / 4);
        }
    }

    /// Four channels that stand in so many quads: of each the first row's, and every direction's besides its scale; and the
    /// coefficients of every token.
    fn expanded(&mut self, rank: u8, stored: Coefficients, quads: usize) {
        let PoolGeometry { kv_heads, head_dim, .. } = *self.pool;
        let layout = CoefficientLayout::new(rank, stored, false, kv_heads, head_dim);
        self.words(2 * quads + usize::from(rank) * (1 + quads));
        self.words(KEYS * (layout.token_bytes / 4 + layout.token_scales));
    }

    fn words(&mut self, words: usize) {
        self.bytes += words as u64 * WORD;
    }

    fn word(&mut self, word: usize) {
        if self.word.replace(word) != Some(word) {
            self.words(1);
        }
    }
}

const _: () = assert!(GROUP_CHANNELS.is_multiple_of(4), "a quad has one scale");

#[cfg(test)]
mod tests {
    use interleaf_contract::{Bits, PageElement};

    use super::*;

    /// What reading a token loads, per KV head and relative to f16 numbers, as the documentation says it.
    #[test]
    fn loads_fall_with_the_bits_of_codes() {
        let pool =
            PoolGeometry { layers: 1, kv_heads: 2, head_dim: 128, slots: 1, element: PageElement::F16 };
        let bytes = |codec, half| {
            let part = Part { form: Form { codec, half, turn: Turn::Not }, at: 0, constants: 0 };
            let mut loads = PartLoads::new(pool);
            let places = if half == PageHalf::K { CHUNK_TOKENS / KEYS } else { CHUNK_TOKENS };
            let parts = Parts { base: part, over: None };
            (0..places).map(|at| loads.page(parts, at)).sum::<u64>() / (2 * 16)
        };
        let low_rank = PageCodec::LowRank {
            rank: 16,
            coefficients: Coefficients::Codes(Bits::Four),
            keeps_first: false,
        };
        for (codec, k, v) in [
            (PageElement::F16.into(), 256, 256),
            // Scales of groups of 32 channels of keys by pairs, and of values one for each thread, which has eight codes.
            (PageCodec::Grouped(Bits::Eight), 128 + 8, 128 + 64),
            (PageCodec::Delta(Bits::Four), 64 + 8, 64 + 64),
            (PageCodec::Delta(Bits::Two), 32 + 8, 64 + 64),
            // Each channel's own part, once for four tokens.
            (PageCodec::Quantised(Bits::Eight), 128 + 4 + 32, 128 + 64),
            // The directions once for four tokens, the coefficients once more for each four channels; values' are sums.
            (low_rank, 8 * (8 + 16 * 8) + 32 * 12, 0),
        ] {
            assert_eq!([bytes(codec, PageHalf::K), bytes(codec, PageHalf::V)], [k, v], "{codec}");
        }
        // Of a block of values: two words and two scales of each token's coefficients, and 17 rows of constants.
        let part =
            |codec| Part { form: Form { codec, half: PageHalf::V, turn: Turn::Not }, at: 0, constants: 0 };
        let parts = Parts { base: part(PageElement::F16.into()), over: Some(part(low_rank)) };
        let loads = PartLoads::new(pool).sums(&[(parts, 16); 16]);
        assert_eq!(loads / 2, 256 * 16 + 4 * 16 + 17 * 4 * 128);
    }
}
