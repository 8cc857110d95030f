//! Whole-model benches through the engine.

mod decode;

criterion::criterion_main!(decode::benches);
