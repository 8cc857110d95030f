//! `sample` over a vocabulary of 128 thousand, by rule: one token of one row.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput};
use interleaf_contract::{Numerics, Sampler};
use interleaf_tests::backends;
use interleaf_tests::data::Random;
use interleaf_tests::sampling::choose;

const VOCABULARY: usize = 128_256;

criterion::criterion_group!(
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = cpu, gpu
);

fn cpu(c: &mut Criterion) {
    bench(c, "cpu", || Some(backends::cpu(1, Numerics::ActF32)));
}

fn gpu(c: &mut Criterion) {
    bench(c, "gpu", backends::gpu);
}

fn bench(c: &mut Criterion, name: &str, open: impl FnOnce() -> Option<backends::Boxed>) {
    // Sums of a few uniform values have tails as those of a model's logits, which sorting and cutting off feel.
    let mut random = Random::new(21);
    let mut logit = || random.values(6).iter().sum::<f32>() * 3.0;
    let logits: Arc<[f32]> = (0..VOCABULARY).map(|_| logit()).collect();
    let greedy = Sampler::greedy();
    let warm = Sampler { temperature: 0.8, seed: 5, ..greedy.clone() };
    let samplers = [
        ("greedy", greedy),
        ("temperature", warm.clone()),
        ("top-k 40", Sampler { top_k: 40, ..warm.clone() }),
        ("top-p 0.9", Sampler { top_p: 0.9, ..warm.clone() }),
        ("min-p 0.05", Sampler { min_p: 0.05, ..warm }),
    ];
    let Some(mut backend) = open() else { return };
    let mut group = c.benchmark_group(format!("sample/{name}"));
    group.throughput(Throughput::Elements(VOCABULARY as u64));
    let mut reference = backends::reference(Numerics::ActF32);
    for (name, sampler) in samplers {
        let sampler = [sampler];
        assert_eq!(
            choose(&mut *backend, &logits, &sampler),
            choose(&mut *reference, &logits, &sampler),
            "{name}: the token that the reference chooses"
        );
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| choose(&mut *backend, &logits, &sampler));
        });
    }
    group.finish();
}
