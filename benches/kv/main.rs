//! What deciding takes, over a hundred thousand chunks: nothing is moved. Targets: a lookup of 4,096 tokens 100 µs, an
//! eviction 3 µs, a tick 1 ms.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

mod forest;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use interleaf_contract::CHUNK_TOKENS;
use interleaf_kv::policy::{Combined, Policy};

use self::forest::{CHUNKS, DEEP, Forest, WIDE};

/// Room beyond what is there.
const SPARE: usize = 10_000;

criterion::criterion_group!(
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = lookup, insert, evict, tick
);
criterion::criterion_main!(benches);

/// A prompt of 4,096 tokens, all of which are there.
fn lookup(c: &mut Criterion) {
    let forest = Forest::new(DEEP, Policy::Lru, CHUNKS + SPARE);
    let texts: Vec<Vec<u32>> = (1..300).map(|context| forest.text(context)).collect();
    let mut turn = texts.iter().cycle();
    c.bench_function("kv/lookup/4096 tokens", |b| {
        b.iter(|| {
            let text = turn.next().unwrap();
            let found = forest.manager.look_up(&forest.request(text, text.len())).unwrap();
            assert_eq!(found, 4096);
            found
        });
    });
    let other: Vec<u32> = texts[0].iter().map(|token| token ^ 1 << 20).collect();
    assert_eq!(forest.manager.look_up(&forest.request(&other, other.len())), Ok(0));
}

/// A chunk is full and goes into the tree.
fn insert(c: &mut Criterion) {
    let mut group = c.benchmark_group("kv/insert");
    for shape in [DEEP, WIDE] {
        let mut forest = Forest::new(shape, Policy::Combined(Combined::default()), CHUNKS + SPARE);
        group.bench_function(shape.name, |b| b.iter_custom(|times| by_chunk(&mut forest, times, false)));
    }
    group.finish();
}

/// Memory is full: the room for a chunk is another's.
fn evict(c: &mut Criterion) {
    let mut group = c.benchmark_group("kv/evict");
    for shape in [DEEP, WIDE] {
        for (name, policy) in Policy::all() {
            let mut forest = Forest::new(shape, policy, CHUNKS);
            // Until nothing is free.
            by_chunk(&mut forest, 1000, true);
            assert_eq!(forest.manager.held_bytes(0), forest.manager.budget_bytes(0));
            group.bench_function(BenchmarkId::new(shape.name, name), |b| {
                b.iter_custom(|times| by_chunk(&mut forest, times, true));
            });
        }
    }
    group.finish();
}

/// The time that so many chunks take, written one after the other: to get room for them, or to put them into the tree.
fn by_chunk(forest: &mut Forest, times: u64, is_room: bool) -> Duration {
    let (mut total, mut left) = (Duration::ZERO, times);
    while left > 0 {
        let (sequence, tokens) = forest.begin();
        for chunk in tokens.chunks(CHUNK_TOKENS).take(left as usize) {
            left -= 1;
            let start = Instant::now();
            forest.manager.append(sequence, chunk.len()).unwrap();
            let middle = Instant::now();
            forest.manager.commit(sequence, chunk, 0.0).unwrap();
            total += if is_room { middle - start } else { middle.elapsed() };
        }
        forest.end(sequence);
    }
    total
}

/// Time passes.
fn tick(c: &mut Criterion) {
    let mut group = c.benchmark_group("kv/tick");
    for shape in [DEEP, WIDE] {
        for (name, policy) in Policy::all() {
            let mut forest = Forest::new(shape, policy, CHUNKS + SPARE);
            group.bench_function(BenchmarkId::new(shape.name, name), |b| {
                b.iter(|| {
                    forest.now += 0.1;
                    let now = forest.now;
                    assert!(black_box(forest.manager.tick(now)).is_empty());
                });
            });
        }
    }
    group.finish();
}
