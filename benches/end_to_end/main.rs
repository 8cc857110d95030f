//! Whole-model benches through the engine.

mod adapters;
mod decode;
mod first_touch;
mod switch;

criterion::criterion_main!(decode::benches, first_touch::benches, switch::benches, adapters::benches);
