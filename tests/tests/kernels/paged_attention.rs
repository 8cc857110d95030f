//! `paged_attention` against the reference: page borders, split borders, grouped heads, mixed batches.

use interleaf_contract::{
    AttentionShape, Batch, Op, PageData, PageElement, PoolGeometry, Row, RowKind, RowSet,
};
use interleaf_tests::attention::{AttentionCase, SequenceSpec, naive, naive_shaped};
use interleaf_tests::backends::{self, Boxed, label};
use interleaf_tests::data::Random;
use interleaf_tests::single;
use interleaf_tests::tolerance::{assert_bits, assert_twice_naive};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn check(case: &AttentionCase, backend: &mut Boxed) {
    let data = case.data();
    let numerics = backend.info().numerics;
    let reference = case.run(&data, &mut *backends::reference(numerics)).expect("the reference runs");
    let naive: Vec<f32> = data.iter().flat_map(|s| naive(case, s)).collect();
    let label = format!("{} {case:?}", label(&**backend));
    let found = case.run(&data, &mut **backend).unwrap_or_else(|e| panic!("{label}: {e}"));
    assert_twice_naive(&label, &reference, &naive, &found);
}

fn case(
    heads: (usize, usize),
    head_dim: usize,
    element: PageElement,
    sequences: Vec<SequenceSpec>,
) -> AttentionCase {
    let seed = (head_dim * 7 + sequences.len()) as u64;
    AttentionCase { heads: heads.0, kv_heads: heads.1, head_dim, element, sequences, seed }
}

fn decode(tokens: usize) -> SequenceSpec {
    SequenceSpec { tokens, queries: 1, kind: RowKind::Generated }
}

fn prompt(tokens: usize, queries: usize) -> SequenceSpec {
    SequenceSpec { tokens, queries, kind: RowKind::Prompt }
}

#[test]
fn lengths_around_pages_and_splits() {
    for backend in &mut backends::all() {
        for codec in [PageElement::F16, PageElement::F32] {
            let lengths = [1, 2, 15, 16, 17, 31, 255, 256, 257, 300, 513];
            let generated = lengths.map(decode).to_vec();
            check(&case((4, 2), 64, codec, generated), backend);
            let whole = [1, 5, 16, 17, 40].map(|n| prompt(n, n)).to_vec();
            check(&case((4, 2), 32, codec, whole), backend);
            let tails = vec![prompt(257, 3), prompt(256, 17), prompt(300, 60)];
            check(&case((4, 2), 64, codec, tails), backend);
        }
    }
}

#[test]
fn head_shapes() {
    for backend in &mut backends::all() {
        for (heads, dim) in
            [((1, 1), 16), ((4, 1), 64), ((6, 3), 80), ((5, 1), 64), ((8, 8), 32), ((3, 1), 128)]
        {
            let sequences = vec![decode(70), prompt(33, 20), decode(1)];
            check(&case(heads, dim, PageElement::F16, sequences.clone()), backend);
            check(&case(heads, dim, PageElement::F32, sequences), backend);
        }
    }
}

#[test]
fn every_variant_of_the_gpu() {
    for backend in &mut backends::gpu_variants() {
        for codec in [PageElement::F16, PageElement::F32] {
            let sequences = vec![decode(1), decode(300), prompt(290, 40), prompt(17, 17)];
            check(&case((4, 2), 64, codec, sequences.clone()), backend);
            check(&case((3, 1), 66, codec, sequences), backend);
        }
    }
}

/// Batches of an [`AttentionCase`], by property.
fn any_case() -> impl Strategy<Value = AttentionCase> {
    let head_dim = prop::sample::select(vec![2usize, 8, 16, 24, 64, 66, 96, 160]);
    let sequence = (1usize..300, 1usize..40, any::<bool>());
    let sequences = prop::collection::vec(sequence, 1..5);
    let parts = (1usize..6, 1usize..3, head_dim, any::<bool>(), sequences, any::<u64>());
    parts.prop_map(|(group, kv_heads, head_dim, half, sequences, seed)| {
        let sequences = sequences
            .into_iter()
            .map(
                |(tokens, queries, generated)| {
                    if generated { decode(tokens) } else { prompt(tokens, queries.min(tokens)) }
                },
            )
            .collect();
        let element = if half { PageElement::F16 } else { PageElement::F32 };
        AttentionCase { heads: group * kv_heads, kv_heads, head_dim, element, sequences, seed }
    })
}

#[test]
fn any_batch() {
    // One set of backends for all cases: opening a device is slow.
    let backends = std::cell::RefCell::new(backends::all());
    let mut runner = TestRunner::new(ProptestConfig { cases: 32, ..ProptestConfig::default() });
    let outcome = runner.run(&any_case(), |case| {
        backends.borrow_mut().iter_mut().for_each(|backend| check(&case, backend));
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
}

/// Law: neither the other sequences nor how a prompt was cut may change a row's bits.
#[test]
fn a_row_alone_has_the_bits_it_has_in_a_batch() {
    for backend in &mut backends::all() {
        let specs = vec![prompt(300, 40), decode(270), prompt(18, 18), decode(17)];
        let case = case((4, 2), 64, PageElement::F16, specs);
        let data = case.data();
        let cols = case.heads * case.head_dim;
        let batch = case.run(&data, &mut **backend).expect("the batch runs");
        let mut first = 0;
        for sequence in &data {
            let whole = &batch[first * cols..(first + sequence.spec.queries) * cols];
            let alone = case.run(std::slice::from_ref(sequence), &mut **backend).expect("it runs alone");
            assert_bits(&format!("{} alone", label(&**backend)), &alone, whole);
            if sequence.spec.kind == RowKind::Prompt {
                // The last rows of the same prompt, as if the rest had been read before.
                let mut piece = sequence.clone();
                let cut = piece.spec.queries / 3;
                piece.spec.queries -= cut;
                piece.q.drain(..cut * cols);
                let found = case.run(&[piece], &mut **backend).expect("the piece runs");
                assert_bits(&format!("{} in pieces", label(&**backend)), &found, &whole[cut * cols..]);
            }
            first += sequence.spec.queries;
        }
    }
}

/// Generated rows that name the same pages read them together, and have the bits that they have alone: other lengths,
/// windows that begin in other blocks, and a block that one of them joins late.
#[test]
fn rows_that_share_pages_have_the_bits_they_have_alone() {
    for backend in &mut backends::all() {
        for window in [None, Some(512)] {
            let longest = 1100;
            let mut case = case((4, 2), 32, PageElement::F16, vec![decode(longest)]);
            case.seed = 5;
            let whole = case.data().remove(0);
            let shape = AttentionShape { window, ..case.shape() };
            // The same pages, read as if at these positions.
            let positions = [1000, 700, 1099, 255, 256, 700, 0];
            let (mut batch, pages, geometry) = case.batch(std::slice::from_ref(&whole));
            let row = batch.rows[0];
            let sequence = batch.sequences[0].clone();
            batch.sequences = vec![sequence; positions.len()];
            batch.rows = positions
                .iter()
                .enumerate()
                .map(|(i, &position)| Row { position, sequence: i as u32, ..row })
                .collect();
            let cols = case.heads * case.head_dim;
            let q: Vec<f32> = Random::new(8).values(positions.len() * cols).iter().map(|v| 6.0 * v).collect();
            let label = format!("{} window {window:?}", label(&**backend));
            let numerics = backend.info().numerics;
            let expected =
                run_batch(&mut backends::reference(numerics), shape, geometry, &pages, batch.clone(), &q);
            let found = run_batch(backend, shape, geometry, &pages, batch.clone(), &q);
            for (i, row) in batch.rows.iter().enumerate() {
                let mut alone = batch.clone();
                alone.rows = vec![Row { sequence: 0, ..*row }];
                alone.sequences.truncate(1);
                let place = i * cols..(i + 1) * cols;
                let bits = run_batch(backend, shape, geometry, &pages, alone, &q[place.clone()]);
                assert_bits(&format!("{label} position {}", row.position), &bits, &found[place.clone()]);
                let largest = expected[place.clone()].iter().fold(0f32, |m, v| m.max(v.abs()));
                // A score of some tens is off by some 10⁻⁶ in f32, and what it weighs by as much.
                let error = interleaf_tests::tolerance::error(&expected[place.clone()], &found[place]);
                assert!(error.max_abs <= 1e-5 * f64::from(largest), "{label} position {}", row.position);
            }
        }
    }
}

/// Attention of layer 1 over pages that are written first.
fn run_batch(
    backend: &mut Boxed,
    shape: AttentionShape,
    geometry: PoolGeometry,
    pages: &[PageData],
    batch: Batch,
    q: &[f32],
) -> Vec<f32> {
    backend.create_pool(geometry).expect("room for a pool");
    backend.write_pages(pages).expect("pages of the pool");
    let cols = shape.heads * shape.head_dim;
    let output = single::run(&mut **backend, batch, &[(cols, q.to_vec())], |step, t| {
        let out = step.tensor(RowSet::All, cols);
        step.push(Op::PagedAttention { layer: 1, shape, q: t[0], out });
        vec![out]
    });
    output.expect("attention runs").probes.remove(0)
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let case = case((6, 2), 64, PageElement::F16, vec![prompt(290, 70), decode(600), decode(5)]);
    let data = case.data();
    let numerics = interleaf_contract::Numerics::ActF32;
    let run = |threads| {
        let tiers = backends::cpu_tiers(threads, numerics);
        tiers.into_iter().map(|mut tier| (label(&*tier), case.run(&data, &mut *tier).expect("it runs")))
    };
    let one: Vec<_> = run(1).collect();
    for threads in [2, 3, 5] {
        for ((label, one), (_, many)) in one.iter().zip(run(threads)) {
            assert_bits(&format!("{label} {threads} threads"), one, &many);
        }
    }
}

#[test]
fn repeated_gpu_runs_give_the_same_bits() {
    let Some(mut gpu) = backends::gpu() else { return };
    let case = case((4, 2), 64, PageElement::F16, vec![prompt(290, 30), decode(600), decode(5)]);
    let data = case.data();
    let first = case.run(&data, &mut *gpu).expect("the GPU runs");
    for _ in 0..2 {
        assert_bits("again", &first, &case.run(&data, &mut *gpu).expect("the GPU runs"));
    }
}

/// Windows around pages and splits, with and without a softcap, on the backends that have them.
#[test]
fn windows_and_softcaps() {
    let sequences = vec![decode(300), decode(16), prompt(290, 40), prompt(20, 20), decode(513)];
    let case = case((4, 2), 32, PageElement::F16, sequences);
    let data = case.data();
    for mut backend in backends::all() {
        for window in [None, Some(1), Some(16), Some(17), Some(250), Some(257), Some(1000)] {
            for softcap in [None, Some(2.0)] {
                let shape = AttentionShape { window, softcap, ..case.shape() };
                let label = format!("{} {shape:?}", label(&*backend));
                let found = case.run_shaped(shape, &data, &mut *backend);
                let found = found.unwrap_or_else(|e| panic!("{label}: {e}"));
                let mut reference = backends::reference(backend.info().numerics);
                let reference = case.run_shaped(shape, &data, &mut *reference).expect("the reference runs");
                let naive: Vec<f32> = data.iter().flat_map(|s| naive_shaped(&case, shape, s)).collect();
                assert_twice_naive(&label, &reference, &naive, &found);
            }
        }
    }
}
