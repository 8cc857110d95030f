//! Decoding on the demo model: one sequence, and sixteen with none, one and six adapters.

use std::ops::ControlFlow;

use criterion::{BenchmarkId, Criterion, Throughput};
use interleaf_demo_model as demo;
use interleaf_runtime::{Completion, Engine, EngineOptions, Request, SamplingOptions, Source};

/// Tokens of each answer.
const TOKENS: usize = 32;

criterion::criterion_group!(
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = decode
);

fn engine() -> Engine {
    let source = |name, files| Source::Embedded { name, files };
    let options = EngineOptions::default();
    let mut engine =
        Engine::open(source(demo::NAME, demo::BASE), &options, &mut |_| ()).expect("the model loads");
    for &(name, files) in demo::ADAPTERS {
        engine.register_adapter(name, &source(name, files)).expect("its adapters load");
    }
    engine.reserve_kv(16, 16 + TOKENS).expect("a small pool");
    engine
}

/// Prompts of a few tokens, so that nearly all the time is decoding; answers never end early.
fn requests(count: usize, adapters: usize) -> Vec<Request> {
    let request = |i: usize| Request {
        prompt: vec![0, 300 + i as u32, 41, 7],
        adapter: (adapters > 0).then(|| demo::ADAPTERS[i % adapters].0.to_owned()),
        max_tokens: TOKENS,
        sampling: SamplingOptions::default(),
        stop: Vec::new(),
        end_tokens: Vec::new(),
        drift: 0.0,
    };
    (0..count).map(request).collect()
}

fn answer(engine: &mut Engine, requests: &[Request]) -> Vec<Completion> {
    engine.generate(requests, &mut |_| ControlFlow::Continue(())).expect("it answers")
}

fn decode(c: &mut Criterion) {
    let mut engine = engine();
    let mut group = c.benchmark_group("decode");
    for (count, adapters) in [(1, 0), (1, 1), (16, 0), (16, 1), (16, 6)] {
        let requests = requests(count, adapters);
        for (request, mixed) in requests.iter().zip(answer(&mut engine, &requests)) {
            let single = answer(&mut engine, std::slice::from_ref(request)).remove(0);
            assert_eq!(single.tokens, mixed.tokens, "the batch answers as its rows do alone");
            assert_eq!(single.tokens.len(), TOKENS);
        }
        group.throughput(Throughput::Elements((count * TOKENS) as u64));
        group.bench_function(
            BenchmarkId::new(format!("{count} rows"), format!("{adapters} adapters")),
            |b| {
                b.iter(|| answer(&mut engine, &requests));
            },
        );
    }
    group.finish();
}
