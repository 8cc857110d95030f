//! `paged_attention` over pages in other codecs, with the heads of Llama 3.2 1B at 4096 tokens: one generated row over
//! exact pages and over differences, seven rows over caches of their own and over one anchor with six differences, and
//! what storing differences takes. Runs go round through the layers of a pool that no cache holds; before Criterion's own
//! tables, the ways are run in turn and the ratios of their medians are printed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use interleaf_contract::{
    AttentionShape, Batch, Bits, Bytes, CHUNK_TOKENS, ChunkEntry, Coefficients, ConstantRows, Numerics, Op,
    PageCodec, PageConstants, PageData, PageElement, PageEntry, PageHalf, PageRecode, PageTable,
    PoolGeometry, Row, RowKind, RowSet, Sequence, Step,
};
use interleaf_tests::backends::{self, Boxed};
use interleaf_tests::data::Random;

const TOKENS: usize = 4096;
const CHUNKS: usize = TOKENS / CHUNK_TOKENS;
const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 64;
/// So many that no cache of a CPU holds them.
const LAYERS: usize = 12;
/// A software device has no cache of its own, and takes long.
const GPU_LAYERS: usize = 1;
/// The base and six adapters.
const ROWS: usize = 7;
const ROUNDS: usize = 60;
const GPU_ROUNDS: usize = 3;
/// Tokens of a prompt whose pages are stored as differences.
const PREFILL: usize = 512;

const Q8: PageCodec = PageCodec::Quantised(Bits::Eight);
const DELTA: PageCodec = PageCodec::Delta(Bits::Four);
const LOW_RANK: PageCodec =
    PageCodec::LowRank { rank: 16, coefficients: Coefficients::Codes(Bits::Four), keeps_first: false };

criterion::criterion_group!(
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = cpu, gpu
);

fn cpu(c: &mut Criterion) {
    let mut rig = Rig::new(backends::cpu(0, Numerics::ActF32), LAYERS);
    let alone = rig.alone();
    let seven = rig.seven();
    print_ratios("one row", &mut rig, &alone, ROUNDS);
    print_ratios("seven rows", &mut rig, &seven, ROUNDS);
    print_encoding(&mut rig);
    for (name, ways) in [("one row", alone), ("seven rows", seven)] {
        let mut group = c.benchmark_group(format!("coded_attention/cpu/{name}"));
        for way in ways {
            group.throughput(Throughput::Bytes(way.bytes as u64));
            group.bench_function(BenchmarkId::new(way.name, TOKENS), |b| b.iter(|| rig.run(&way.batch)));
        }
        group.finish();
    }
}

fn gpu(_: &mut Criterion) {
    if let Some(gpu) = backends::gpu() {
        let mut rig = Rig::new(gpu, GPU_LAYERS);
        let (alone, seven) = (rig.alone(), rig.seven());
        print_ratios("gpu, one row", &mut rig, &alone, GPU_ROUNDS);
        print_ratios("gpu, seven rows", &mut rig, &seven, GPU_ROUNDS);
    }
}

/// Pages of the same contents, stored in one way.
struct Way {
    name: &'static str,
    batch: Batch,
    /// Bytes that are read.
    bytes: usize,
}

/// The ways in turn, each against the first.
fn print_ratios(what: &str, rig: &mut Rig, ways: &[Way], rounds: usize) {
    let mut times = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for (way, times) in ways.iter().zip(&mut times) {
            times.push(rig.run(&way.batch));
        }
    }
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    for (way, time) in ways.iter().zip(&medians) {
        let bytes = way.bytes as f64 / ways[0].bytes as f64;
        println!(
            "{what}, {}: {:.3} ms, {:.2} of the time and {bytes:.2} of the bytes",
            way.name,
            time * 1e3,
            time / medians[0]
        );
    }
}

fn print_encoding(rig: &mut Rig) {
    for (name, v) in [("delta-4", DELTA), ("low-rank-16-int4 of V", LOW_RANK)] {
        let times = (0..9).map(|_| rig.encode(v)).collect();
        println!("storing {PREFILL} tokens of 16 layers, K delta-4, V {name}: {:.1} ms", median(times) * 1e3);
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

/// A pool with pages in every way, the same in every layer.
struct Rig {
    backend: Boxed,
    pool: PoolGeometry,
    next: u32,
    layer: u32,
    queries: Arc<[f32]>,
    /// Exact pages of the base and the adapters.
    exact: Vec<Vec<ChunkEntry>>,
    /// Constants of V.
    basis: interleaf_contract::ConstantsId,
}

impl Rig {
    fn new(mut backend: Boxed, layers: usize) -> Self {
        let slots = CHUNKS * (ROWS + 6);
        let pool =
            PoolGeometry { layers, kv_heads: KV_HEADS, head_dim: HEAD_DIM, slots, element: PageElement::F16 };
        backend.create_pool(pool).expect("room for the pages");
        let mut random = Random::new(4);
        let values: Vec<f32> = random.values(17 * KV_HEADS * HEAD_DIM).iter().map(|v| v / 16.0).collect();
        let rows = ConstantRows::nearest(&values, KV_HEADS, HEAD_DIM).expect("finite values");
        let basis = PageConstants { name: "V".into(), rows, rope: None };
        let basis = backend.create_constants(basis).expect("room for a basis");
        let queries = random.values(ROWS * HEADS * HEAD_DIM).iter().map(|v| 6.0 * v).collect();
        let mut rig = Self { backend, pool, next: 0, layer: 0, queries, exact: Vec::new(), basis };
        let mut page = || random.values(pool.page_elements());
        let base: Vec<[Vec<f32>; 2]> = (0..CHUNKS).map(|_| [page(), page()]).collect();
        for row in 0..ROWS {
            let mut other = |values: &[f32]| {
                let difference = if row == 0 { 0.0 } else { 0.1 };
                let values =
                    values.iter().map(|v| half::f16::from_f32(v + difference * random.value()).to_bits());
                Bytes::from(values.flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
            };
            let pages: Vec<[Bytes; 2]> =
                base.iter().map(|halves| [other(&halves[0]), other(&halves[1])]).collect();
            let entries: Vec<ChunkEntry> =
                pages.iter().map(|_| rig.entries(pool.element.into(), pool.element.into(), None)).collect();
            for layer in 0..pool.layers as u32 {
                for (entry, [k, v]) in entries.iter().zip(&pages) {
                    let at = |half, bytes: &Bytes| PageData {
                        address: pool.address(layer, half, entry.half(half)),
                        bytes: bytes.clone(),
                    };
                    let pages = [at(PageHalf::K, k), at(PageHalf::V, v)];
                    rig.backend.write_pages(&pages).expect("pages of the pool");
                }
            }
            rig.exact.push(entries);
        }
        rig
    }

    /// Room for a chunk's pages.
    fn entries(&mut self, k: PageCodec, v: PageCodec, anchor: Option<ChunkEntry>) -> ChunkEntry {
        let mut entry = |codec: PageCodec, half| {
            let constants = Some(self.basis).filter(|_| codec.constant_rows() > 0);
            let anchor = anchor.map(|anchor| anchor.half(half).place());
            let entry = PageEntry { codec, at: self.next, constants, anchor };
            self.next += self.pool.address(0, half, entry).units;
            entry
        };
        ChunkEntry { k: entry(k, PageHalf::K), v: entry(v, PageHalf::V) }
    }

    /// A row's pages in other codecs.
    fn stored(
        &mut self,
        row: usize,
        k: PageCodec,
        v: PageCodec,
        anchors: Option<&[ChunkEntry]>,
    ) -> Vec<ChunkEntry> {
        let entries: Vec<ChunkEntry> =
            (0..CHUNKS).map(|chunk| self.entries(k, v, anchors.map(|anchors| anchors[chunk]))).collect();
        for layer in 0..self.pool.layers as u32 {
            let recodes = recodes(layer, &self.exact[row], &entries);
            self.backend.recode_pages(&recodes).expect("every codec is stored");
        }
        entries
    }

    fn way(&self, name: &'static str, tables: &[Vec<ChunkEntry>]) -> Way {
        let mut batch = Batch::default();
        let mut read = std::collections::HashSet::new();
        for (sequence, table) in tables.iter().enumerate() {
            let mut pages = PageTable::default();
            // The row's own page, of one token: what is appended to is exact.
            table.iter().chain(&self.exact[sequence][..1]).for_each(|entry| pages.push(1, |_| *entry));
            batch.sequences.push(Sequence { pages });
            let (sequence, position) = (sequence as u32, TOKENS as u32);
            batch.rows.push(Row { token: 0, position, sequence, adapter: -1, kind: RowKind::Generated });
            for (half, entry) in table.iter().flat_map(|e| [(PageHalf::K, e.k), (PageHalf::V, e.v)]) {
                read.insert(self.pool.address(0, half, entry));
                read.extend(entry.anchor.map(|anchor| self.pool.address(0, half, anchor.into())));
            }
        }
        Way { name, batch, bytes: read.iter().map(|page| page.bytes().len()).sum() }
    }

    /// One adapter's row.
    fn alone(&mut self) -> Vec<Way> {
        let exact = self.exact[0].clone();
        let q8 = self.stored(0, Q8, Q8, None);
        let mut ways =
            vec![self.way("f16", &[self.exact[1].clone()]), self.way("q8", std::slice::from_ref(&q8))];
        for (name, v, anchors) in [
            ("delta-4 over q8", DELTA, &q8),
            ("K delta-4, V low-rank-16-int4 over q8", LOW_RANK, &q8),
            ("delta-4 over f16", DELTA, &exact),
            ("K delta-4, V low-rank-16-int4 over f16", LOW_RANK, &exact),
        ] {
            let stored = self.stored(1, DELTA, v, Some(anchors));
            ways.push(self.way(name, &[stored]));
        }
        ways
    }

    /// The base's row and six adapters'.
    fn seven(&mut self) -> Vec<Way> {
        let mut ways = vec![self.way("caches of their own", &self.exact.clone())];
        let q8 = self.stored(0, Q8, Q8, None);
        for (name, v) in [
            ("one q8 anchor and six of delta-4", DELTA),
            ("one q8 anchor and six of K delta-4, V low-rank-16-int4", LOW_RANK),
        ] {
            let mut tables = vec![q8.clone()];
            tables.extend((1..ROWS).map(|row| self.stored(row, DELTA, v, Some(&q8))));
            ways.push(self.way(name, &tables));
        }
        ways
    }

    /// One layer's attention of all rows, then the next layer's turn.
    fn run(&mut self, batch: &Batch) -> Duration {
        let rows = batch.rows.len();
        let mut step = Step::new(batch.clone()).expect("a well-formed batch");
        let cols = (HEADS * HEAD_DIM) as u32;
        let (q, out) = (step.tensor(RowSet::All, cols), step.tensor(RowSet::All, cols));
        step.push(Op::Load { out: q, data: self.queries[..rows * cols as usize].into() });
        let (heads, kv_heads, head_dim) = (HEADS as u32, KV_HEADS as u32, HEAD_DIM as u32);
        let (scale, softcap, window) = (0.125, None, None);
        let shape = AttentionShape { heads, kv_heads, head_dim, scale, softcap, window };
        step.push(Op::PagedAttention { layer: self.layer, shape, q, out });
        self.layer = (self.layer + 1) % self.pool.layers as u32;
        let begun = Instant::now();
        let ticket = self.backend.submit(step).expect("the step is lawful");
        self.backend.wait(ticket).expect("the step ends");
        begun.elapsed()
    }

    /// Stores a prompt's pages of sixteen layers anew.
    fn encode(&mut self, v: PageCodec) -> Duration {
        let room = self.next;
        let chunks = PREFILL / CHUNK_TOKENS;
        let to: Vec<ChunkEntry> =
            (0..chunks).map(|chunk| self.entries(DELTA, v, Some(self.exact[0][chunk]))).collect();
        self.next = room;
        let begun = Instant::now();
        for layer in 0..16 {
            let recodes = recodes(layer % self.pool.layers as u32, &self.exact[1][..chunks], &to);
            self.backend.recode_pages(&recodes).expect("every codec is stored");
        }
        begun.elapsed()
    }
}

fn recodes(layer: u32, from: &[ChunkEntry], to: &[ChunkEntry]) -> Vec<PageRecode> {
    let pairs = from.iter().zip(to).enumerate();
    let both = pairs.flat_map(|(chunk, (from, to))| {
        [PageHalf::K, PageHalf::V].map(|half| {
            let (from, to) = (from.half(half), to.half(half));
            PageRecode { layer, half, chunk: chunk as u32, from, to }
        })
    });
    both.collect()
}
