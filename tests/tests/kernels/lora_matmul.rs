//! `lora_matmul` against the reference: every weight dtype and numerics, awkward shapes by table and by
//! property, mixed batches, and the independence of a row from its neighbours.

use interleaf_contract::{Backend, Dtype, Numerics, RowKind};
use interleaf_tests::backends::{self, label};
use interleaf_tests::lora::{AdapterSpec, LoraCase};
use interleaf_tests::tolerance::{assert_bits, assert_within, error, roundings};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

const DTYPES: [Dtype; 5] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8_0, Dtype::Q4_0];

/// Adapters of every kind a batch may hold: none at all, ranks 0, 1, odd and 64, f16 and f32, and sites
/// on only some of the projections.
fn adapters(projections: usize) -> Vec<AdapterSpec> {
    let spec = |ranks: &[Option<usize>], dtype, scale| AdapterSpec {
        ranks: ranks.iter().cycle().take(projections).copied().collect(),
        dtype,
        scale,
    };
    vec![
        spec(&[Some(8)], Dtype::F32, 2.0),
        spec(&[None, Some(64), Some(1)], Dtype::F16, 0.5),
        spec(&[Some(3), Some(0), None], Dtype::F16, -1.25),
        spec(&[None], Dtype::F32, 1.0),
    ]
}

/// Prompt and generated rows in turn, each with the next adapter or none.
fn mixed_rows(rows: usize, adapters: usize) -> Vec<(RowKind, i32)> {
    let kind = |i: usize| if i.is_multiple_of(3) { RowKind::Generated } else { RowKind::Prompt };
    let adapter = |i: usize| i32::try_from(i % (adapters + 1)).expect("few adapters") - 1;
    (0..rows).map(|i| (kind(i), adapter(i))).collect()
}

fn case(dtype: Dtype, inputs: usize, outputs: &[usize], rows: usize, seed: u64) -> LoraCase {
    let adapters = adapters(outputs.len());
    let rows = mixed_rows(rows, adapters.len());
    LoraCase { inputs, outputs: outputs.to_vec(), dtype, bias: seed % 2 == 1, adapters, rows, seed }
}

/// Runs a case on a backend and on the reference under its numerics.
fn check(case: &LoraCase, backend: &mut dyn Backend) {
    let data = case.data();
    let numerics = backend.info().numerics;
    let reference = data.run(&mut *backends::reference(numerics)).expect("the reference runs every case");
    // Magnitudes meet f32 activations; a quantised activation is at most a hundredth larger than its block.
    let staged = backend.info().tier == "staged-half";
    let slack = if numerics == Numerics::ActQ8_0 { 2.0 } else { 1.0 };
    let magnitude = data.magnitudes().run(&mut *backends::reference(numerics)).expect("likewise");
    let found = data.run(backend).unwrap_or_else(|e| panic!("{}: {case:?}: {e}", label(backend)));
    for (p, ((reference, found), magnitude)) in reference.iter().zip(&found).zip(&magnitude).enumerate() {
        let label = format!("{} {} projection {p} of {case:?}", label(backend), case.dtype);
        // A weight that is staged as f16 is off by half a unit of 2⁻¹⁰, which is so many of 2⁻²³.
        let (staged, largest) = if staged { (4096.0, 1e-6) } else { (0.0, 1e-10) };
        let terms = slack * roundings(case.inputs, case.max_rank()) + staged;
        assert_within(&label, reference, found, magnitude, terms);
        let nmse = error(reference, found).nmse;
        assert!(nmse < largest, "{label}: NMSE {nmse:.2e}");
    }
}

#[test]
fn awkward_shapes() {
    for backend in &mut backends::all() {
        for dtype in DTYPES {
            let quantised = dtype.is_quantised();
            for inputs in if quantised { vec![32, 64, 96, 256] } else { vec![1, 7, 31, 32, 33, 64, 97, 256] }
            {
                for rows in [0, 1, 2, 5, 17] {
                    let outputs = [1, 3, 15, 16, 17, 64, 65];
                    let seed = (inputs * 31 + rows) as u64;
                    check(&case(dtype, inputs, &outputs[..3], rows, seed), &mut **backend);
                    check(&case(dtype, inputs, &outputs[3..], rows, seed + 1), &mut **backend);
                }
            }
        }
    }
}

#[test]
fn every_variant_of_the_gpu() {
    for backend in &mut backends::gpu_variants() {
        for dtype in DTYPES {
            check(&case(dtype, 96, &[33, 64, 17], 37, 3), &mut **backend);
            check(&case(dtype, 2080, &[70, 130], 9, 4), &mut **backend);
            // A lone row of either kind, and few: what is staged of them is less than a tile.
            for rows in 1..=3 {
                for kind in [RowKind::Prompt, RowKind::Generated] {
                    let mut case = case(dtype, 2048, &[48, 33], rows, 6);
                    case.rows.iter_mut().for_each(|row| row.0 = kind);
                    check(&case, &mut **backend);
                }
            }
            let data = case(dtype, 160, &[40, 48], 7, 5).data();
            let first = data.run(&mut **backend).expect("it runs");
            for _ in 0..2 {
                let again = data.run(&mut **backend).expect("it runs again");
                first.iter().zip(&again).for_each(|(a, b)| assert_bits(&label(&**backend), a, b));
            }
        }
    }
}

#[test]
fn model_sized() {
    for backend in &mut backends::all() {
        for dtype in DTYPES {
            check(&case(dtype, 2048, &[512, 128], 3, 5), &mut **backend);
            check(&case(dtype, 256, &[768], 70, 6), &mut **backend);
            // More inputs than any tile takes at once.
            check(&case(dtype, 4128, &[70], 19, 7), &mut **backend);
        }
    }
}

#[test]
fn without_adapters_and_with_one() {
    for backend in &mut backends::all() {
        for count in [0, 1] {
            let mut case = case(Dtype::F16, 64, &[48, 33], 9, 11);
            case.adapters.truncate(count);
            case.rows = mixed_rows(9, count);
            check(&case, &mut **backend);
        }
    }
}

/// Shapes of a [`LoraCase`], by property.
fn any_case() -> impl Strategy<Value = LoraCase> {
    let rank = prop::option::of(prop::sample::select(vec![0usize, 1, 2, 5, 16, 33, 64]));
    let shape = (prop::sample::select(DTYPES.to_vec()), 1usize..6, 0usize..32, 1usize..20);
    let outputs = prop::collection::vec(1usize..80, 1..4);
    let ranks = prop::collection::vec(rank, 3);
    let parts = (shape, outputs, ranks, any::<bool>(), any::<bool>(), any::<u64>());
    parts.prop_map(|((dtype, blocks, tail, rows), outputs, ranks, half, bias, seed)| {
        let inputs = if dtype.is_quantised() { 32 * blocks } else { 32 * blocks - tail };
        let adapter = |scale| AdapterSpec {
            ranks: ranks.iter().copied().take(outputs.len()).collect(),
            dtype: if half { Dtype::F16 } else { Dtype::F32 },
            scale,
        };
        let adapters = vec![adapter(0.75), adapter(-2.0)];
        LoraCase { inputs, outputs, dtype, bias, rows: mixed_rows(rows, 2), adapters, seed }
    })
}

#[test]
fn any_shape() {
    // One set of backends for all cases: opening a device is slow.
    let backends = std::cell::RefCell::new(backends::all());
    let mut runner = TestRunner::new(ProptestConfig { cases: 48, ..ProptestConfig::default() });
    let outcome = runner.run(&any_case(), |case| {
        backends.borrow_mut().iter_mut().for_each(|backend| check(&case, &mut **backend));
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
}

/// Law: a row's bits depend on its own tokens, shape, dtype and kind alone.
#[test]
fn a_row_alone_has_the_bits_it_has_in_a_batch() {
    for backend in &mut backends::all() {
        for dtype in DTYPES {
            let data = case(dtype, 96, &[33, 64], 37, 3).data();
            let batch = data.run(&mut **backend).expect("the batch runs");
            for row in [0, 1, 2, 3, 8, 35, 36] {
                let alone = data.select(&[row]).run(&mut **backend).expect("the row runs");
                for (batch, alone) in batch.iter().zip(&alone) {
                    let outputs = alone.len();
                    let label = format!("{} {dtype} row {row}", label(&**backend));
                    assert_bits(&label, alone, &batch[row * outputs..(row + 1) * outputs]);
                }
            }
        }
    }
}

#[test]
fn rows_of_one_adapter_have_the_bits_they_have_alone() {
    // Whole tiles of one adapter, tiles that a run begins or ends in, and single rows between.
    let runs = [(19, 0), (2, -1), (1, 2), (34, 1), (3, 2), (1, -1), (8, 2)];
    let rows = runs.iter().flat_map(|&(n, adapter)| std::iter::repeat_n((RowKind::Prompt, adapter), n));
    let rows: Vec<(RowKind, i32)> = rows.collect();
    for backend in &mut backends::all() {
        for dtype in DTYPES {
            let case = LoraCase { rows: rows.clone(), ..case(dtype, 160, &[33, 64, 17], 0, 5) };
            let data = case.data();
            let batch = data.run(&mut **backend).expect("the batch runs");
            for row in 0..rows.len() {
                let alone = data.select(&[row]).run(&mut **backend).expect("the row runs");
                for (batch, alone) in batch.iter().zip(&alone) {
                    let outputs = alone.len();
                    let label = format!("{} {dtype} row {row}", label(&**backend));
                    assert_bits(&label, alone, &batch[row * outputs..(row + 1) * outputs]);
                }
            }
            check(&case, &mut **backend);
        }
    }
}

#[test]
fn repeated_runs_and_any_number_of_threads_give_the_same_bits() {
    for dtype in DTYPES {
        let data = case(dtype, 128, &[96, 31], 21, 9).data();
        for numerics in [Numerics::ActF32, Numerics::ActQ8_0] {
            let run = |threads| {
                let tiers = backends::cpu_tiers(threads, numerics);
                tiers.into_iter().map(|mut tier| (label(&*tier), data.run(&mut *tier).expect("it runs")))
            };
            let one: Vec<_> = run(1).collect();
            for threads in [2, 3, 4, 7] {
                for ((label, one), (_, many)) in one.iter().zip(run(threads)) {
                    let label = format!("{label} {dtype} {threads} threads");
                    one.iter().zip(&many).for_each(|(a, b)| assert_bits(&label, a, b));
                }
            }
        }
        if let Some(mut gpu) = backends::gpu() {
            let first = data.run(&mut *gpu).expect("the GPU runs");
            for _ in 0..2 {
                let again = data.run(&mut *gpu).expect("the GPU runs");
                first.iter().zip(&again).for_each(|(a, b)| assert_bits("gpu again", a, b));
            }
        }
    }
}

#[test]
fn a_row_with_no_adapter_is_the_base_to_the_bit() {
    for backend in &mut backends::all() {
        let with = case(Dtype::F16, 64, &[40], 8, 21);
        let mut without = with.clone();
        without.rows.iter_mut().for_each(|(_, adapter)| *adapter = -1);
        let base = without.data().run(&mut **backend).expect("base rows run");
        let mixed = with.data().run(&mut **backend).expect("mixed rows run");
        for (i, _) in with.rows.iter().enumerate().filter(|(_, (_, adapter))| *adapter == -1) {
            assert_bits(&label(&**backend), &base[0][i * 40..(i + 1) * 40], &mixed[0][i * 40..(i + 1) * 40]);
        }
    }
}
