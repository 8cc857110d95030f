//! Kernel benches, by stem.

mod lora_matmul;

criterion::criterion_main!(lora_matmul::benches);
