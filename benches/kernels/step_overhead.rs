//! What a step costs apart from its kernels: planning it, waking the workers, and a barrier after every operation.
//!
//! The operations of one decoded token over sixteen layers, as Llama 3.2 1B has them, are timed at two widths. At width
//! 32 there is next to nothing to compute, so that the time is the step's own; at the model's own widths it is the step
//! that the first is a share of.

use criterion::{BenchmarkId, Criterion};
use interleaf_contract::{Numerics, RowKind};
use interleaf_tests::backends::{self, Boxed};

use crate::model::{Model, Widths};

const HEAD_DIM: usize = 32;

criterion::criterion_group!(
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = cpu
);

fn cpu(c: &mut Criterion) {
    let mut group = c.benchmark_group("step/cpu");
    for (name, widths) in [
        ("width 32", Widths::new(32, 32, 32, 32, HEAD_DIM)),
        ("1b", Widths::new(2048, 512, 8192, 128_256, HEAD_DIM)),
    ] {
        let model = |backend: Boxed| Model::new(backend, widths, 1);
        let expected = token(&mut model(backends::reference(Numerics::ActQ8_0)));
        for threads in [1, 2] {
            let mut model = model(backends::cpu(threads, Numerics::ActQ8_0));
            assert_eq!(token(&mut model), expected, "the token that the reference chooses");
            group.bench_function(BenchmarkId::new(name, format!("{threads} threads")), |b| {
                b.iter(|| token(&mut model));
            });
        }
    }
    group.finish();
}

/// Decodes one token at the first position.
fn token(model: &mut Model) -> u32 {
    let step = model.step(RowKind::Generated, 0..1);
    model.run(step).tokens[0].token.expect("finite logits")
}
