//! What `paged_attention` of generated rows loads of coded pages on a GPU, over a context of 4096 tokens, relative to
//! pages of f16 numbers. The GPU counts by its cost functions, which its own tests hold to what its shaders load.

use interleaf_contract::{
    AttentionShape, Backend, Batch, Bits, ChunkEntry, Op, PageCodec, PageElement, PageEntry, PageHalf,
    PagePlace, PageTable, PoolGeometry, Row, RowKind, RowSet, Sequence,
};
use interleaf_tests::{backends, single};

const TOKENS: u32 = 4096;
const CHUNKS: u32 = TOKENS / 16;

/// The base's and those of six adapters.
const ROWS: u32 = 7;

/// Two heads to a KV head of 128 channels.
const SHAPE: AttentionShape =
    AttentionShape { heads: 4, kv_heads: 2, head_dim: 128, scale: 0.1, softcap: None, window: None };

const Q8: PageCodec = PageCodec::Grouped(Bits::Eight);
const Q8_BY_CHANNEL: PageCodec = PageCodec::Quantised(Bits::Eight);
const DELTA: PageCodec = PageCodec::Delta(Bits::Four);

fn pool() -> PoolGeometry {
    let (kv_heads, head_dim) = (SHAPE.kv_heads as usize, SHAPE.head_dim as usize);
    PoolGeometry { layers: 1, kv_heads, head_dim, slots: (ROWS * CHUNKS) as usize, element: PageElement::F16 }
}

/// How the pages of a sequence are stored.
#[derive(Debug, Clone, Copy)]
enum Stored {
    /// Its own, that stand alone.
    Alone(PageCodec),
    /// Those that all sequences share.
    Anchor(PageCodec),
    /// Differences of 4 bits from those.
    Over(PageCodec),
}

impl Stored {
    /// Page by page, in room for f16 numbers of every sequence; the last chunk is what is appended to.
    fn pages(self, sequence: u32) -> PageTable {
        let page = |owner: u32, chunk: u32, half: PageHalf| {
            let slot = pool().slot(owner * CHUNKS + chunk);
            slot.half(half).at
        };
        let entry = |chunk: u32, half: PageHalf| {
            let own = page(sequence, chunk, half);
            let anchor = |codec| PagePlace { codec, at: page(0, chunk, half), constants: None };
            match self {
                _ if chunk + 1 == CHUNKS => PageEntry::exact(PageElement::F16, own),
                Self::Alone(codec) => PageEntry::alone(codec, own),
                Self::Anchor(codec) => anchor(codec).into(),
                Self::Over(codec) => {
                    PageEntry { codec: DELTA, at: own, constants: None, anchor: Some(anchor(codec)) }
                }
            }
        };
        let mut pages = PageTable::default();
        for chunk in 0..CHUNKS {
            let entry = ChunkEntry { k: entry(chunk, PageHalf::K), v: entry(chunk, PageHalf::V) };
            pages.push(1, |_| entry);
        }
        pages
    }
}

/// Dispatches of a step with a row for each sequence, and bytes that its blocks load.
fn work(backend: &mut dyn Backend, sequences: &[Stored]) -> (u64, f64) {
    let mut batch = Batch::default();
    for (sequence, stored) in (0..).zip(sequences) {
        let (position, kind) = (TOKENS - 1, RowKind::Generated);
        batch.rows.push(Row { token: 0, position, sequence, adapter: -1, kind });
        batch.sequences.push(Sequence { pages: stored.pages(sequence) });
    }
    let cols = SHAPE.heads * SHAPE.head_dim;
    let q = vec![0.5; batch.rows.len() * cols as usize];
    backend.take_work();
    single::run(backend, batch, &[(cols, q)], |step, t| {
        let out = step.tensor(RowSet::All, cols);
        step.push(Op::PagedAttention { layer: 0, shape: SHAPE, q: t[0], out });
        vec![out]
    })
    .expect("it runs");
    let work = backend.take_work().expect("a GPU counts");
    let blocks = work.kernels.iter().find(|kernel| kernel.kernel == "paged_attention_decode");
    (work.dispatches(), blocks.expect("rows are generated").loaded as f64)
}

#[test]
fn bytes_fall_with_the_bits_of_codes_and_rows_share_their_anchor() {
    let Some(mut gpu) = backends::gpu() else { return };
    gpu.create_pool(pool()).expect("room for a pool");
    let f16 = Stored::Alone(PageElement::F16.into());
    let (dispatches, exact) = work(&mut *gpu, &[f16]);
    let mut of = |sequences: &[Stored]| {
        let (found, loaded) = work(&mut *gpu, sequences);
        assert_eq!(found, dispatches, "{sequences:?}");
        loaded / exact
    };
    let bytes = |codec: PageCodec| {
        let of = |codec| {
            [PageHalf::K, PageHalf::V].map(|half| pool().coded_bytes(codec, half)).iter().sum::<usize>()
        };
        of(codec) as f64 / of(PageElement::F16.into()) as f64
    };
    // Pages of codes: of values each thread loads the scale of its eight channels, and of keys by channel four tokens load
    // the channels' own parts once more.
    for (codec, most) in [(Q8, 1.25), (PageCodec::Grouped(Bits::Four), 1.45), (Q8_BY_CHANNEL, 1.4)] {
        let loaded = of(&[Stored::Alone(codec)]);
        println!("{codec}: {:.3} of the bytes, {loaded:.3} loaded", bytes(codec));
        assert!(loaded >= bytes(codec) && loaded <= most * bytes(codec), "{codec}: {loaded}");
    }
    for (codec, alone, shared) in [(Q8, 1.05, 0.55), (Q8_BY_CHANNEL, 1.1, 0.55)] {
        let over = of(&[Stored::Over(codec)]);
        let anchor = of(&[Stored::Alone(codec)]);
        // The difference adds what codes of 4 bits load that stand alone, queries and the last chunk aside.
        let four = of(&[Stored::Alone(PageCodec::Grouped(Bits::Four))]);
        assert!((over - anchor - four).abs() < 0.02, "{over} over {anchor}, {four} apart");
        let mut rows = vec![Stored::Over(codec); ROWS as usize];
        rows[0] = Stored::Anchor(codec);
        let together = of(&rows) / of(&vec![f16; ROWS as usize]);
        println!("{DELTA} over {codec}: {over:.3} of f16 for one row, {together:.3} for {ROWS}");
        assert!(over <= alone, "{codec}: {over}");
        assert!(together <= shared, "{codec}: {together}");
    }
}
