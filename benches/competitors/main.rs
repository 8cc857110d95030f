//! Our `lora_matmul` beside what other crates have for the same work.

mod adapter;
mod candle;
mod float;
mod gemm;
mod quantised;
#[path = "../kernels/rig.rs"]
mod rig;

use criterion::Criterion;
use interleaf_contract::{Numerics, RowKind};
use interleaf_tests::backends::{self, Boxed};

use rig::Shape;

const SHAPES: [Shape; 3] = [(1, RowKind::Generated), (16, RowKind::Generated), (512, RowKind::Prompt)];

/// Threads of everyone: candle cannot be told, so it is asked. `RAYON_NUM_THREADS` decides, or the machine's
/// cores.
fn threads() -> usize {
    candle_core::utils::get_num_threads()
}

fn ours() -> Boxed {
    backends::cpu(threads(), Numerics::ActQ8_0)
}

criterion::criterion_group!(
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = float::f32, float::f16, quantised::q8_0, quantised::q4_0, adapter::f32
);
criterion::criterion_main!(benches);
