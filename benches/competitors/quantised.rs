//! The layer without adapters over quantised weights, activations quantised too: candle.

use std::sync::Arc;

use criterion::Criterion;
use interleaf_contract::{Dtype, Numerics};
use interleaf_tests::data::Random;

use crate::rig::{self, HIDDEN, Numbers, Reference, Rig, Round};
use crate::{SHAPES, candle, ours};

pub fn q8_0(c: &mut Criterion) {
    bench(c, Dtype::Q8_0);
}

pub fn q4_0(c: &mut Criterion) {
    bench(c, Dtype::Q4_0);
}

fn bench(c: &mut Criterion, dtype: Dtype) {
    let numbers = Numbers::new(dtype, 0, Dtype::F32);
    let mut rig = Rig::new(ours(), &numbers);
    let mut candles = Round::new(numbers.weights.iter().map(candle::quantised).collect());
    let reference = Reference::new(&numbers, Numerics::ActQ8_0);
    // Candle's activations come to it as they are left by candle's quantiser.
    let candle_reference = Reference::new(&numbers, Numerics::ActF32);
    for shape in SHAPES {
        let mut group = rig::group(c, &format!("competitors/{dtype}"), dtype, shape);
        let x: Arc<[f32]> = Random::new(9).values(shape.0 * HIDDEN).into();

        let found = rig.answer(&x, shape, 0);
        reference.check("interleaf", &found, &x, shape, 0, rig::f32_roundings());
        group.bench_function("interleaf", |b| b.iter(|| rig.run(&x, shape, 0, false)));

        candles.rewind();
        let x_candle = candle::rows(&x);
        let found = candle::values(&candle::quantised_product(&x_candle, candles.next()));
        let left = candle::quantised_activations(&x_candle, dtype);
        candle_reference.check("candle", &found, &left, shape, 0, rig::f32_roundings());
        group.bench_function("candle", |b| b.iter(|| candle::quantised_product(&x_candle, candles.next())));
        group.finish();
    }
}
