//! Cases of pages in mixed codecs: sequences whose pages are a base's, differences from them in any codec, or their own,
//! K and V apart. The reference stores them, so that a backend under test reads the same bits.

use interleaf_contract::{
    AttentionShape, Backend, BackendError, Batch, Bits, Bytes, CHUNK_TOKENS, ChunkEntry, Coefficients,
    ConstantRows, ConstantsId, Numerics, Op, PageAddress, PageCodec, PageConstants, PageData, PageElement,
    PageEntry, PageHalf, PagePlace, PageRecode, PageTable, PoolGeometry, RopeTable, Row, RowKind, RowSet,
    Sequence, Width,
};
use interleaf_kernels_ref::page_codec;

use crate::attention::SequenceSpec;
use crate::data::{Random, aligned};
use crate::{backends, single};

pub const HALVES: [PageHalf; 2] = [PageHalf::K, PageHalf::V];

/// The layer whose pages are filled.
pub const LAYER: u32 = 1;

const ALL_BITS: [Bits; 3] = [Bits::Two, Bits::Four, Bits::Eight];

/// Codecs that stand alone, of a half.
pub fn alone(half: PageHalf, element: PageElement) -> Vec<PageCodec> {
    let bits = ALL_BITS.into_iter();
    let of = bits.flat_map(|b| [PageCodec::Quantised(b), PageCodec::Grouped(b), PageCodec::Profiled(b)]);
    let all = std::iter::once(element.into()).chain(of);
    all.filter(|codec: &PageCodec| codec.is_sound(half)).collect()
}

/// Codecs of differences whose decoding has no sums.
pub fn differences() -> Vec<PageCodec> {
    let widths = [Width::One, Width::Two, Width::Four].map(PageCodec::Steps);
    ALL_BITS.map(PageCodec::Delta).into_iter().chain(widths).collect()
}

/// Pages of coefficients, in every way of storing them, with ranks below and above a group of one scale.
pub fn low_ranks() -> Vec<PageCodec> {
    let codes = |bits| (Coefficients::Codes(bits), [16, 64]);
    let ways = [(Coefficients::F16, [6, 40]), codes(Bits::Two), codes(Bits::Four), codes(Bits::Eight)];
    let of = |(coefficients, ranks): (_, [u8; 2])| {
        ranks.into_iter().flat_map(move |rank| {
            [false, true].map(|keeps_first| PageCodec::LowRank { rank, coefficients, keeps_first })
        })
    };
    ways.into_iter().flat_map(of).collect()
}

/// What pages are decoded with, for K and V: profiles, and bases whose directions have length 1.
#[derive(Debug, Clone)]
pub struct Constants {
    pub rope: RopeTable,
    rows: [ConstantRows; 2],
}

/// Directions in a basis, the most of [`low_ranks`].
const DIRECTIONS: usize = 64;

impl Constants {
    pub fn new(kv_heads: usize, head_dim: usize, positions: usize, random: &mut Random) -> Self {
        let channels = kv_heads * head_dim;
        // Some dimensions do not turn.
        let rotary_dim = head_dim / 4 * 2;
        let angles: Vec<f32> = (0..positions * rotary_dim / 2).map(|_| 3.0 * random.value()).collect();
        let (cos, sin) = (angles.iter().map(|a| a.cos()).collect(), angles.iter().map(|a| a.sin()).collect());
        let mut of_half = || {
            // The first row is a profile or a mean.
            let mut values: Vec<f32> = random.values(channels).iter().map(|v| 0.6 + 0.4 * v).collect();
            for _ in 0..DIRECTIONS {
                let direction = random.values(channels);
                let length = direction.iter().map(|v| v * v).sum::<f32>().sqrt();
                values.extend(direction.iter().map(|v| v / length));
            }
            ConstantRows::nearest(&values, kv_heads, head_dim).expect("finite values")
        };
        let rows = [of_half(), of_half()];
        Self { rope: RopeTable { rotary_dim, positions, cos, sin }, rows }
    }

    /// The rows of a half.
    pub fn of(&self, half: PageHalf) -> &ConstantRows {
        &self.rows[usize::from(half == PageHalf::V)]
    }

    /// Makes them resident; returns those of K and V.
    ///
    /// # Errors
    /// If the backend refuses them.
    pub fn create(&self, backend: &mut dyn Backend) -> Result<[ConstantsId; 2], BackendError> {
        let rope = backend.create_rope(self.rope.clone())?;
        let mut create = |half| {
            let (name, rows) = (format!("{half:?}"), self.of(half).clone());
            let rope = Some(rope).filter(|_| half == PageHalf::K);
            backend.create_constants(PageConstants { name, rows, rope })
        };
        Ok([create(PageHalf::K)?, create(PageHalf::V)?])
    }
}

/// Gives pages room in a stripe, one behind the other.
#[derive(Debug, Default)]
pub struct Room {
    next: u32,
}

impl Room {
    /// The entry of a page in a codec; its constants are those of its half, by [`Constants::create`].
    pub fn entry(
        &mut self,
        pool: &PoolGeometry,
        half: PageHalf,
        codec: PageCodec,
        anchor: Option<PagePlace>,
    ) -> PageEntry {
        let id = ConstantsId(u32::from(half == PageHalf::V));
        let constants = Some(id).filter(|_| codec.constant_rows() > 0);
        let anchor = anchor.filter(|_| !codec.stands_alone());
        let entry = PageEntry { codec, at: self.next, constants, anchor };
        self.next += pool.address(LAYER, half, entry).units;
        entry
    }
}

/// An entry whose constants are known to a backend by these names.
pub fn named(entry: PageEntry, ids: [ConstantsId; 2]) -> PageEntry {
    let name = |id: Option<ConstantsId>| id.map(|id| ids[id.0 as usize]);
    let anchor = entry.anchor.map(|anchor| PagePlace { constants: name(anchor.constants), ..anchor });
    PageEntry { constants: name(entry.constants), anchor, ..entry }
}

/// Pages that are stored one after another: sources as numbers, anchors of them, and what is stored over anchors.
#[derive(Debug, Default)]
pub struct Stored {
    pub sources: Vec<PageData>,
    pub anchors: Vec<PageRecode>,
    pub pages: Vec<PageRecode>,
}

impl Stored {
    /// A page of numbers.
    pub fn source(
        &mut self,
        room: &mut Room,
        pool: &PoolGeometry,
        half: PageHalf,
        values: &[f32],
    ) -> PageEntry {
        let entry = room.entry(pool, half, pool.element.into(), None);
        let mut words = vec![0u32; pool.page_bytes() / 4];
        page_codec::encode(pool.element, bytemuck::cast_slice_mut(&mut words), 0, values);
        let bytes = aligned(bytemuck::cast_slice(&words));
        self.sources.push(PageData { address: pool.address(LAYER, half, entry), bytes });
        entry
    }

    /// Stores everything on a backend, in a new pool.
    ///
    /// # Errors
    /// If it refuses something.
    pub fn store(
        &self,
        pool: PoolGeometry,
        constants: &Constants,
        backend: &mut dyn Backend,
    ) -> Result<[ConstantsId; 2], BackendError> {
        backend.create_pool(pool)?;
        let ids = constants.create(backend)?;
        backend.write_pages(&self.sources)?;
        for recodes in [&self.anchors, &self.pages] {
            let name = |recode: &PageRecode| {
                let (from, to) = (named(recode.from, ids), named(recode.to, ids));
                PageRecode { from, to, ..*recode }
            };
            backend.recode_pages(&recodes.iter().map(name).collect::<Vec<_>>())?;
        }
        Ok(ids)
    }
}

/// All bytes of the layer.
pub fn stripe(pool: &PoolGeometry) -> PageAddress {
    PageAddress { layer: LAYER, at: 0, units: pool.stripe_units() as u32 }
}

/// The bytes of some pages as they are now.
///
/// # Errors
/// If the backend refuses to read them.
pub fn read(backend: &mut dyn Backend, page: PageAddress) -> Result<Bytes, BackendError> {
    let ticket = backend.read_pages(&[page])?;
    Ok(backend.wait_pages(ticket)?.remove(0).bytes)
}

/// Sequences whose pages are in mixed codecs.
#[derive(Debug, Clone)]
pub struct CodedCase {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub element: PageElement,
    pub window: Option<u32>,
    pub softcap: Option<f32>,
    /// How values are stored that lie over an anchor; in any way if `None`.
    pub values: Option<PageCodec>,
    /// The first reads the anchors themselves where its pages are not its own.
    pub sequences: Vec<SequenceSpec>,
    pub seed: u64,
}

/// A case whose pages are stored: what to run on any backend.
#[derive(Debug)]
pub struct Coded {
    pub shape: AttentionShape,
    pub pool: PoolGeometry,
    pub batch: Batch,
    pub q: Vec<f32>,
    constants: Constants,
    tables: Vec<Vec<ChunkEntry>>,
    stripe: Bytes,
}

impl CodedCase {
    /// Stores the case's pages by the reference.
    pub fn coded(&self) -> Coded {
        let mut random = Random::new(self.seed);
        let tokens = self.sequences.iter().map(|spec| spec.tokens).max().unwrap_or(1);
        let chunks = tokens.div_ceil(CHUNK_TOKENS);
        let (kv_heads, head_dim, element) = (self.kv_heads, self.head_dim, self.element);
        // A source, an anchor and a page for each sequence, none longer than in F32.
        let slots = 2 * chunks * (2 + 2 * self.sequences.len());
        let pool = PoolGeometry { layers: 2, kv_heads, head_dim, slots, element };
        let constants = Constants::new(kv_heads, head_dim, chunks * CHUNK_TOKENS, &mut random);
        let (mut room, mut stored) = (Room::default(), Stored::default());
        let mut tables = vec![Vec::new(); self.sequences.len()];
        let over: Vec<PageCodec> = differences().into_iter().chain(low_ranks()).collect();
        for chunk in 0..chunks {
            let mut entries = vec![Vec::new(); self.sequences.len()];
            for half in HALVES {
                let pick = |codecs: &[PageCodec], random: &mut Random| codecs[random.below(codecs.len())];
                let recode = |from, to| PageRecode { layer: LAYER, half, chunk: chunk as u32, from, to };
                let values = random.values(pool.page_elements());
                let source = stored.source(&mut room, &pool, half, &values);
                let codec = match random.below(3) {
                    0 => PageCodec::Exact(element),
                    1 => PageCodec::Quantised(Bits::Eight),
                    _ => pick(&alone(half, element), &mut random),
                };
                let anchor = room.entry(&pool, half, codec, None);
                stored.anchors.push(recode(source, anchor));
                for (index, entries) in entries.iter_mut().enumerate() {
                    let mut values = values.clone();
                    values.iter_mut().for_each(|v| *v += 0.2 * random.value());
                    // What a step's rows are appended to is exact, and no number behind the last of them.
                    let spec = self.sequences[index];
                    let is_appended_to = chunk >= (spec.tokens - spec.queries) / CHUNK_TOKENS;
                    for (token, values) in (0..).zip(values.chunks_exact_mut(head_dim)) {
                        if is_appended_to && chunk * CHUNK_TOKENS + token % CHUNK_TOKENS >= spec.tokens {
                            values.fill(f32::NAN);
                        }
                    }
                    let own = stored.source(&mut room, &pool, half, &values);
                    // By the block, so that whole blocks have the same anchors: few are of pages that have none.
                    let block = Random::new(self.seed ^ (chunk / 16 * 8 + index) as u64).below(4);
                    let codec = match block {
                        0 => pick(&alone(half, element), &mut random),
                        _ => match self.values.filter(|_| half == PageHalf::V) {
                            Some(codec) => codec,
                            None => pick(&over, &mut random),
                        },
                    };
                    entries.push(if is_appended_to {
                        own
                    } else if block > 0 && index == 0 {
                        anchor
                    } else {
                        let page = room.entry(&pool, half, codec, Some(anchor.place()));
                        stored.pages.push(recode(own, page));
                        page
                    });
                }
            }
            for (table, entries) in tables.iter_mut().zip(entries) {
                table.push(ChunkEntry { k: entries[0], v: entries[1] });
            }
        }
        let mut reference = backends::reference(Numerics::ActF32);
        stored.store(pool, &constants, &mut *reference).expect("the reference stores every codec");
        let stripe = read(&mut *reference, stripe(&pool)).expect("the stripe is in the pool");
        let batch = self.batch();
        let n = |n: usize| u32::try_from(n).expect("a small shape");
        let (heads, kv_heads, head_dim) = (n(self.heads), n(kv_heads), n(head_dim));
        let (scale, softcap, window) = (1.0 / (self.head_dim as f32).sqrt(), self.softcap, self.window);
        let shape = AttentionShape { heads, kv_heads, head_dim, scale, softcap, window };
        // Scores of a few units, so that the softmax is neither flat nor a single spike.
        let q = random.values(batch.rows.len() * self.heads * self.head_dim);
        let q = q.into_iter().map(|v| 6.0 * v).collect();
        Coded { shape, pool, batch, q, constants, tables, stripe }
    }

    fn batch(&self) -> Batch {
        let mut batch = Batch::default();
        for (index, spec) in self.sequences.iter().enumerate() {
            let (sequence, kind) = (index as u32, spec.kind);
            let row = |p: usize| Row { token: 0, position: p as u32, sequence, adapter: -1, kind };
            batch.rows.extend((spec.tokens - spec.queries..spec.tokens).map(row));
            batch.sequences.push(Sequence { pages: PageTable::default() });
        }
        batch
    }
}

impl Coded {
    /// Writes the pages to a backend; returns the batch as it names them.
    ///
    /// # Errors
    /// If the backend refuses something.
    pub fn write(&self, backend: &mut dyn Backend) -> Result<Batch, BackendError> {
        backend.create_pool(self.pool)?;
        let ids = self.constants.create(backend)?;
        backend.write_pages(&[PageData { address: stripe(&self.pool), bytes: self.stripe.clone() }])?;
        let mut batch = self.batch.clone();
        for (sequence, table) in batch.sequences.iter_mut().zip(&self.tables) {
            for entry in table {
                let entry = ChunkEntry { k: named(entry.k, ids), v: named(entry.v, ids) };
                sequence.pages.push(1, |_| entry);
            }
        }
        Ok(batch)
    }

    /// Attention of some rows of a batch that was written.
    ///
    /// # Errors
    /// If the backend refuses it.
    pub fn run(
        &self,
        backend: &mut dyn Backend,
        batch: &Batch,
        rows: std::ops::Range<usize>,
    ) -> Result<Vec<f32>, BackendError> {
        let cols = self.shape.heads * self.shape.head_dim;
        let place = rows.start * cols as usize..rows.end * cols as usize;
        let batch = Batch { rows: batch.rows[rows].to_vec(), ..batch.clone() };
        let output = single::run(backend, batch, &[(cols, self.q[place].to_vec())], |step, t| {
            let out = step.tensor(RowSet::All, cols);
            step.push(Op::PagedAttention { layer: LAYER, shape: self.shape, q: t[0], out });
            vec![out]
        });
        Ok(output?.probes.remove(0))
    }
}

/// A row that was generated, of a sequence of so many tokens.
pub fn generated(tokens: usize) -> SequenceSpec {
    SequenceSpec { tokens, queries: 1, kind: RowKind::Generated }
}
