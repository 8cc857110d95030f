//! `lora_matmul` at hidden 2048: rows × adapters × weight dtype, on every backend at hand.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion};
use interleaf_contract::{Dtype, Numerics, RowKind};
use interleaf_tests::backends::{self, Boxed};
use interleaf_tests::data::Random;

use crate::rig::{self, HIDDEN, Numbers, Reference, Rig, Shape};

const SHAPES: [Shape; 4] =
    [(1, RowKind::Generated), (4, RowKind::Generated), (16, RowKind::Generated), (512, RowKind::Prompt)];

criterion::criterion_group!(
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = cpu, gpu
);

fn cpu(c: &mut Criterion) {
    for dtype in [Dtype::F16, Dtype::Q8_0, Dtype::Q4_0] {
        bench(c, "cpu", backends::cpu(0, Numerics::ActQ8_0), dtype);
    }
}

fn gpu(c: &mut Criterion) {
    for dtype in [Dtype::F16, Dtype::Q8_0, Dtype::Q4_0] {
        if let Some(gpu) = backends::gpu() {
            bench(c, "gpu", gpu, dtype);
        }
    }
}

fn bench(c: &mut Criterion, name: &str, backend: Boxed, dtype: Dtype) {
    let numerics = backend.info().numerics;
    let numbers = Numbers::new(dtype, 16, Dtype::F16);
    let mut rig = Rig::new(backend, &numbers);
    let reference = Reference::new(&numbers, numerics);
    for shape in SHAPES {
        let mut group = rig::group(c, &format!("lora_matmul/{name}/{dtype}"), dtype, shape);
        let x: Arc<[f32]> = Random::new(9).values(shape.0 * HIDDEN).into();
        for adapters in [0, 1, 16] {
            // Sixteen are resident; a batch of fewer rows uses as many as it has rows.
            let found = rig.answer(&x, shape, adapters);
            reference.check("the bench's answer", &found, &x, shape, adapters, rig::f32_roundings());
            group.bench_function(BenchmarkId::new("adapters", adapters), |b| {
                b.iter(|| rig.run(&x, shape, adapters, false));
            });
        }
        group.finish();
    }
}
