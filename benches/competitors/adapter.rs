//! The layer with one adapter on all rows: our fused kernel, and three products of `gemm`.

use std::sync::Arc;

use criterion::Criterion;
use interleaf_contract::{Dtype, Numerics};
use interleaf_tests::data::Random;

use crate::gemm::{Element, Layout, Weights};
use crate::rig::{self, HIDDEN, Numbers, RANK, Reference, Rig, Round};
use crate::{SHAPES, ours};

/// Weights, A and B in f32.
pub fn f32(c: &mut Criterion) {
    let numbers = Numbers::new(Dtype::F32, 1, Dtype::F32);
    let reference = Reference::new(&numbers, Numerics::ActF32);
    let mut rig = Rig::new(ours(), &numbers);
    let mut gemms: Vec<_> = f32::LAYOUTS.iter().map(|&layout| Products::new(&numbers, layout)).collect();
    for shape in SHAPES {
        let mut group = rig::group(c, "competitors/f32 + adapter", Dtype::F32, shape);
        let x: Arc<[f32]> = Random::new(9).values(shape.0 * HIDDEN).into();

        let found = rig.answer(&x, shape, 1);
        reference.check("interleaf", &found, &x, shape, 1, rig::f32_roundings());
        group.bench_function("interleaf", |b| b.iter(|| rig.run(&x, shape, 1, false)));

        let (mut z, mut y) = (vec![0.0; shape.0 * RANK], vec![0.0; shape.0 * HIDDEN]);
        for products in &mut gemms {
            products.base.rewind();
            products.run(&x, &mut z, &mut y);
            reference.check(products.label, &y, &x, shape, 1, f32::roundings());
            group.bench_function(products.label, |b| b.iter(|| products.run(&x, &mut z, &mut y)));
        }
        group.finish();
    }
}

/// `y = x·Wᵀ + (x·Aᵀ)·Bᵀ`, one product after the other.
struct Products {
    label: &'static str,
    base: Round<Weights<f32>>,
    a: Weights<f32>,
    b: Weights<f32>,
}

impl Products {
    fn new(numbers: &Numbers, layout: Layout) -> Self {
        let base = numbers.weights.iter().map(|w| Weights::new(w, layout)).collect();
        let (a, b) = &numbers.factors[0];
        let (a, b) = (Weights::new(a, layout), Weights::new(b, layout));
        Self { label: layout.label(), base: Round::new(base), a, b }
    }

    fn run(&mut self, x: &[f32], z: &mut [f32], y: &mut [f32]) {
        self.base.next().product(x, y, false);
        self.a.product(x, z, false);
        self.b.product(z, y, true);
    }
}
