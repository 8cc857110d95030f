//! The layer without adapters over weights in floating point: `gemm`, and candle, which calls it.

use std::sync::Arc;

use criterion::Criterion;
use interleaf_contract::{Dtype, Numerics};
use interleaf_tests::data::Random;

use crate::gemm::{Element, Weights};
use crate::rig::{self, HIDDEN, Numbers, Reference, Rig, Round};
use crate::{SHAPES, candle, ours};

pub fn f32(c: &mut Criterion) {
    bench::<f32>(c, Dtype::F32);
}

pub fn f16(c: &mut Criterion) {
    bench::<gemm::f16>(c, Dtype::F16);
}

fn bench<E: Element>(c: &mut Criterion, dtype: Dtype) {
    let numbers = Numbers::new(dtype, 0, Dtype::F32);
    let reference = Reference::new(&numbers, Numerics::ActF32);
    let mut rig = Rig::new(ours(), &numbers);
    let mut gemms: Vec<_> = E::LAYOUTS
        .iter()
        .map(|&layout| {
            let weights = numbers.weights.iter().map(|w| Weights::<E>::new(w, layout));
            (layout.label(), Round::new(weights.collect()))
        })
        .collect();
    let mut candles = Round::new(numbers.weights.iter().map(candle::float).collect());
    for shape in SHAPES {
        let mut group = rig::group(c, &format!("competitors/{dtype}"), dtype, shape);
        // Activations that the element has: the others keep them and the answer in it, we in f32.
        let activations = Random::new(9).values(shape.0 * HIDDEN);
        let x_theirs: Vec<E> = activations.into_iter().map(E::from_f32).collect();
        let x: Arc<[f32]> = x_theirs.iter().map(|v| v.to_f32()).collect();

        let found = rig.answer(&x, shape, 0);
        reference.check("interleaf", &found, &x, shape, 0, rig::f32_roundings());
        group.bench_function("interleaf", |b| b.iter(|| rig.run(&x, shape, 0, false)));

        let mut y = vec![E::ZERO; shape.0 * HIDDEN];
        for (label, weights) in &mut gemms {
            weights.rewind();
            weights.next().product(&x_theirs, &mut y, false);
            let found: Vec<f32> = y.iter().map(|v| v.to_f32()).collect();
            reference.check(label, &found, &x, shape, 0, E::roundings());
            group.bench_function(*label, |b| b.iter(|| weights.next().product(&x_theirs, &mut y, false)));
        }

        candles.rewind();
        let first = candles.next();
        let x_candle = candle::rows(&x).to_dtype(first.dtype()).expect("a conversion");
        let found = candle::values(&candle::float_product(&x_candle, first));
        reference.check("candle", &found, &x, shape, 0, E::roundings());
        group.bench_function("candle", |b| b.iter(|| candle::float_product(&x_candle, candles.next())));
        group.finish();
    }
}
