//! Whole-model benches through the engine.

mod decode;
mod first_touch;

criterion::criterion_main!(decode::benches, first_touch::benches);
