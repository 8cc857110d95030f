//! Kernel benches, by stem.

mod lora_matmul;
mod rig;

criterion::criterion_main!(lora_matmul::benches);
