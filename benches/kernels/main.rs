//! Kernel benches, by stem.

mod attention_mass;
mod coded_attention;
mod lora_matmul;
mod model;
mod paged_attention;
mod rig;
mod sample;
mod step_overhead;

/// Whether figures are asked for, as by `cargo bench`. Else benches run once, for the answers that they check.
fn is_measuring() -> bool {
    std::env::args().any(|word| word == "--bench")
}

criterion::criterion_main!(
    lora_matmul::benches,
    paged_attention::benches,
    coded_attention::benches,
    attention_mass::benches,
    sample::benches,
    step_overhead::benches
);
