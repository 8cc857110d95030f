//! Operations that a backend runs as one kernel: a layer against the reference, and against itself with its operations
//! kept apart and with a row alone, to the bit.

use interleaf_contract::{Activation, Backend, Dtype, Numerics, RowKind};
use interleaf_tests::backends::{self, label};
use interleaf_tests::layer::{LayerData, LayerShape, Rows};
use interleaf_tests::tolerance::{assert_bits, error};

/// Layers that small and large workgroups norm, with and without norms of heads and residuals.
const SHAPES: [LayerShape; 4] = [
    LayerShape {
        dtype: Dtype::F16,
        hidden: 96,
        heads: 6,
        kv_heads: 2,
        head_dim: 16,
        mlp: 100,
        head_norms: false,
        residual_norms: false,
        activation: Activation::Silu,
    },
    LayerShape {
        dtype: Dtype::Q8_0,
        hidden: 1088,
        heads: 2,
        kv_heads: 2,
        head_dim: 64,
        mlp: 96,
        head_norms: true,
        residual_norms: true,
        activation: Activation::GeluTanh,
    },
    LayerShape {
        dtype: Dtype::Q4_0,
        hidden: 1056,
        heads: 4,
        kv_heads: 1,
        head_dim: 32,
        mlp: 160,
        head_norms: false,
        residual_norms: true,
        activation: Activation::Silu,
    },
    LayerShape {
        dtype: Dtype::F32,
        hidden: 70,
        heads: 3,
        kv_heads: 3,
        head_dim: 10,
        mlp: 33,
        head_norms: true,
        residual_norms: false,
        activation: Activation::GeluTanh,
    },
];

const BASE: Rows = Rows { kind: RowKind::Generated, count: 1, adapter: -1 };

/// Prompts and generated rows under two adapters and none.
fn rows() -> Vec<Rows> {
    let rows = |kind, count, adapter| Rows { kind, count, adapter };
    vec![
        rows(RowKind::Generated, 1, 0),
        rows(RowKind::Prompt, 19, 1),
        BASE,
        rows(RowKind::Generated, 1, 0),
        rows(RowKind::Prompt, 3, -1),
    ]
}

/// Adapters whose A are of one dtype, as the fused norm needs, or of two.
const RANKS: [[(usize, Dtype); 2]; 2] =
    [[(5, Dtype::F16), (16, Dtype::F16)], [(5, Dtype::F16), (20, Dtype::F32)]];

fn every_backend() -> Vec<backends::Boxed> {
    let mut all = backends::cpu_tiers(2, Numerics::ActF32);
    all.extend(backends::gpu_variants());
    all
}

/// Results off by no more than roundings of one order or another; where codes are made of activations or halves of
/// weights, by what a value in the middle between two of them may move.
fn largest_nmse(backend: &dyn Backend) -> f64 {
    let info = backend.info();
    match (info.tier, info.numerics) {
        ("staged-half", _) => 1e-5,
        // A few codes the other way, where a device divides less exactly.
        (_, Numerics::ActQ8_0) => 1e-4,
        _ => 1e-11,
    }
}

#[test]
fn a_layer_is_the_references_and_its_own_with_operations_apart_and_rows_alone() {
    for backend in &mut every_backend() {
        for (i, shape) in SHAPES.into_iter().enumerate() {
            for ranks in &RANKS {
                let data = LayerData::new(shape, ranks, &rows(), i as u64);
                let label = format!("{}, layer {i}", label(&**backend));
                let mut run = |apart| {
                    backend.take_work();
                    let found = data.run(&mut **backend, apart).unwrap_or_else(|e| panic!("{label}: {e}"));
                    (found, backend.take_work().map(|work| work.dispatches()))
                };
                let (found, fused) = run(false);
                let (apart, kernels) = run(true);
                // Where kernels are counted, some were fused.
                assert!(fused.is_none() || fused < kernels, "{label}: {fused:?} of {kernels:?}");
                found.iter().zip(&apart).for_each(|(a, b)| assert_bits(&label, a, b));
                let mut reference = backends::reference(backend.info().numerics);
                let expected = data.run(&mut *reference, false).expect("the reference runs it");
                for (expected, found) in expected.iter().zip(&found) {
                    let e = error(expected, found);
                    assert!(e.nmse <= largest_nmse(&**backend), "{label}: {e:?}");
                }

                // A row of the base: alone, no norm is fused to a shrink.
                let at = rows().iter().position(|r| *r == BASE).expect("one");
                let before: usize = rows()[..at].iter().map(|r| r.count).sum();
                let alone = data.alone(at).run(&mut **backend, false).expect("it ran before");
                for (alone, beside) in alone.iter().zip(&found) {
                    assert_bits(&label, alone, &beside[before * alone.len()..(before + 1) * alone.len()]);
                }
            }
        }
    }
}
