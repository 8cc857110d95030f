//! Kernel benches, by stem.

mod lora_matmul;
mod rig;
mod step_overhead;

criterion::criterion_main!(lora_matmul::benches, step_overhead::benches);
