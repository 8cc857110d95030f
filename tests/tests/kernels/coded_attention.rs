//! `paged_attention` over pages in mixed codecs: against the reference on the same bits, and rows that share anchors
//! against themselves alone.

use std::ops::Range;

use interleaf_contract::{
    Batch, Bits, CHUNK_TOKENS, ChunkEntry, Coefficients, Numerics, Op, PageCodec, PageElement, PageEntry,
    Row, RowKind, RowSet,
};
use interleaf_tests::attention::{AttentionCase, SequenceSpec};
use interleaf_tests::backends::{self, Boxed, label};
use interleaf_tests::coded::{Coded, CodedCase, generated};
use interleaf_tests::data::Random;
use interleaf_tests::single;
use interleaf_tests::tolerance::{assert_bits, error};

fn prompt(tokens: usize, queries: usize) -> SequenceSpec {
    SequenceSpec { tokens, queries, kind: RowKind::Prompt }
}

fn case(heads: (usize, usize), head_dim: usize, sequences: Vec<SequenceSpec>, seed: u64) -> CodedCase {
    let element = if seed.is_multiple_of(2) { PageElement::F16 } else { PageElement::F32 };
    let (heads, kv_heads) = heads;
    CodedCase {
        heads,
        kv_heads,
        head_dim,
        element,
        window: None,
        softcap: None,
        values: None,
        sequences,
        seed,
    }
}

/// Rows alone have the bits that they have together; returns these.
fn together(label: &str, coded: &Coded, backend: &mut Boxed) -> Vec<f32> {
    let batch = coded.write(&mut **backend).unwrap_or_else(|e| panic!("{label}: {e}"));
    let rows = batch.rows.len();
    let found = coded.run(&mut **backend, &batch, 0..rows).unwrap_or_else(|e| panic!("{label}: {e}"));
    let cols = found.len() / rows;
    for i in 0..rows {
        let alone = coded.run(&mut **backend, &batch, i..i + 1).expect("it runs alone");
        assert_bits(&format!("{label}, row {i} alone"), &alone, &found[i * cols..(i + 1) * cols]);
    }
    found
}

fn check(case: &CodedCase, backends: &mut [Boxed]) {
    let coded = case.coded();
    let mut expected: Option<Vec<f32>> = None;
    for backend in backends {
        let label = format!("{} {case:?}", label(&**backend));
        let found = together(&label, &coded, backend);
        // The reference comes first.
        let expected = expected.get_or_insert_with(|| found.clone());
        let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
        // A score of some tens is off by some 10⁻⁶ in f32, and what it weighs by as much.
        let error = error(expected, &found);
        assert!(error.max_abs <= 1e-5 * f64::from(largest), "{label}: {error:?}");
    }
}

#[test]
fn mixed_codecs() {
    let backends = &mut backends::of_every_codec();
    for (seed, (heads, dim)) in [
        ((4, 2), 64),
        ((4, 2), 32),
        ((3, 1), 66),
        ((3, 1), 80),
        ((4, 2), 128),
        ((2, 2), 6),
        // Four and eight queries of a head, for which pages are not kept as they are decoded.
        ((8, 2), 64),
        ((4, 1), 66),
        ((8, 1), 96),
    ]
    .into_iter()
    .enumerate()
    {
        let sequences = vec![generated(70), generated(300), prompt(40, 18), generated(1), generated(17)];
        check(&case(heads, dim, sequences, seed as u64), backends);
    }
}

/// Six whole blocks, which rows of other lengths join and leave, and windows that begin within one.
#[test]
fn rows_that_share_anchors() {
    let backends = &mut backends::of_every_codec();
    for (seed, heads, window) in
        [(20, 2, None), (21, 2, Some(300)), (22, 2, Some(16)), (24, 4, None), (25, 4, Some(300))]
    {
        let sequences = vec![generated(530), generated(512), generated(600), generated(530), prompt(530, 3)];
        check(&CodedCase { window, ..case((2 * heads, 2), 32, sequences, seed) }, backends);
    }
    // Two rows of a sequence after one of another's: four queries of a head that begin at its third.
    let two = |tokens| SequenceSpec { tokens, queries: 2, kind: RowKind::Generated };
    for seed in 26..30 {
        let sequences = vec![generated(530), two(540), two(560), generated(600), two(520)];
        check(&case((4, 2), 64, sequences, seed), backends);
    }
}

/// Values of a whole sequence in one form, whose coefficients are summed over many pages: windows that begin in several of
/// them, with ranks by which threads do and do not share a chunk's tokens evenly.
#[test]
fn coefficients_of_many_pages_in_windows() {
    let backends = &mut backends::of_every_codec();
    for (seed, rank, window) in [(40, 16, Some(100)), (41, 48, Some(100)), (42, 8, Some(70)), (43, 48, None)]
    {
        let coefficients = Coefficients::Codes(Bits::Four);
        let values = Some(PageCodec::LowRank { rank, coefficients, keeps_first: seed == 42 });
        let mut sequences: Vec<_> = [301, 317, 340, 301, 289].map(generated).into();
        sequences.push(prompt(330, 21));
        let case = CodedCase { window, values, ..case((4, 2), 32, sequences, seed) };
        check(&case, backends);
    }
}

/// Heads of every size and number, windows and caps, over blocks that rows of one length and of others share, among them several
/// rows of one sequence: what is multiplied as it is decoded, and what is kept.
#[test]
fn rows_of_all_kinds_over_the_same_blocks() {
    let backends = &mut backends::of_every_codec();
    let heads = [(4, 1), (8, 2), (8, 1), (12, 3), (2, 2), (6, 2), (3, 1), (16, 2)];
    let dims = [16, 64, 8, 40, 128, 24, 48, 96];
    let windows = [None, Some(257), Some(1), None, Some(100), Some(16), None, Some(300)];
    for (seed, ((heads, dim), window)) in (40..).zip(heads.into_iter().zip(dims).zip(windows)) {
        let softcap = [None, Some(5.0), Some(30.0)][seed as usize % 3];
        let joined = SequenceSpec { tokens: 560, queries: 3, kind: RowKind::Generated };
        let sequences = vec![generated(530), generated(560), generated(530), prompt(250, 3), joined];
        check(&CodedCase { window, softcap, ..case(heads, dim, sequences, seed) }, backends);
    }
}

/// A row of few positions shares a block with one of many: what its table names behind its reach nobody has looked at, and
/// nobody reads.
#[test]
fn a_table_is_read_as_far_as_its_rows_reach() {
    const POSITION: u32 = 39;
    let far = AttentionCase {
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        element: PageElement::F16,
        sequences: vec![generated(270)],
        seed: 3,
    };
    let (mut batch, pages, pool) = far.batch(&far.data());
    let mut near = batch.sequences[0].clone();
    let outside = |over: PageEntry| {
        let (codec, anchor) = (PageCodec::Delta(Bits::Four), Some(over.place()));
        PageEntry { codec, at: u32::MAX - 1000, constants: None, anchor }
    };
    for chunk in POSITION as usize / CHUNK_TOKENS + 1..near.pages.chunks() {
        let entry = near.pages.entry(0, chunk).expect("a chunk");
        near.pages.set(pool.layers, chunk, |_| ChunkEntry { k: outside(entry.k), v: outside(entry.v) });
    }
    batch.rows.insert(0, Row { position: POSITION, ..batch.rows[0] });
    batch.rows[1].sequence = 1;
    batch.sequences.insert(0, near);
    let cols = far.shape().heads * far.shape().head_dim;
    let q = Random::new(4).values(2 * cols as usize);
    let mut backends = backends::cpu_tiers(1, Numerics::ActF32);
    backends.insert(0, backends::reference(Numerics::ActF32));
    for backend in &mut backends {
        let label = label(&**backend);
        backend.create_pool(pool).expect("a small pool");
        backend.write_pages(&pages).expect("they are in the pool");
        let mut run = |rows: Range<usize>| {
            let values = q[rows.start * cols as usize..rows.end * cols as usize].to_vec();
            let batch = Batch { rows: batch.rows[rows].to_vec(), ..batch.clone() };
            let output = single::run(&mut **backend, batch, &[(cols, values)], |step, t| {
                let out = step.tensor(RowSet::All, cols);
                step.push(Op::PagedAttention { layer: 1, shape: far.shape(), q: t[0], out });
                vec![out]
            });
            output.unwrap_or_else(|e| panic!("{label}: {e}")).probes.remove(0)
        };
        let alone = [run(0..1), run(1..2)].concat();
        assert_bits(&label, &run(0..2), &alone);
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let sequences = vec![generated(530), generated(512), prompt(300, 20), generated(530)];
    let coded = case((6, 2), 64, sequences, 8).coded();
    let run = |threads| {
        backends::cpu_tiers(threads, Numerics::ActF32).into_iter().map(|mut tier| {
            let batch = coded.write(&mut *tier).expect("every codec is read");
            (label(&*tier), coded.run(&mut *tier, &batch, 0..batch.rows.len()).expect("it runs"))
        })
    };
    for ((label, one), (_, two)) in run(1).zip(run(2)) {
        assert_bits(&label, &one, &two);
    }
}

/// On the lowest tier too; heads of whole quads and others, and rows of both kinds.
#[test]
fn every_variant_of_the_gpu() {
    let mut backends = vec![backends::reference(Numerics::ActF32)];
    backends.extend(backends::gpu_variants_within(None));
    let sequences = vec![generated(290), generated(300), prompt(40, 18), generated(17)];
    check(&case((4, 2), 64, sequences.clone(), 30), &mut backends);
    check(&case((3, 1), 66, sequences, 31), &mut backends);
}
