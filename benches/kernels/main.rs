//! Kernel benches, by stem.

mod coded_attention;
mod lora_matmul;
mod paged_attention;
mod rig;
mod sample;
mod step_overhead;

criterion::criterion_main!(
    lora_matmul::benches,
    paged_attention::benches,
    coded_attention::benches,
    sample::benches,
    step_overhead::benches
);
