//! Many adapters: sixteen answers under twenty adapters in one batch, against one after the other, each under its own; and requests
//! by a law of popularity under adapters that share the pool with pages, twenty of them registered or two thousand, of rank 8 on
//! queries and values (EdgeLoRA, arXiv 2507.01438, serves by such a law, and has as many).
//!
//! What is timed takes turns; medians and their shares are printed, and answers are compared.

use std::ops::ControlFlow;
use std::time::Instant;

use interleaf_demo_model as demo;
use interleaf_runtime::{
    Completion, Engine, EngineOptions, PeftAdapter, Request, SamplingOptions, Shape, Source, WeightFormat,
};
use interleaf_tests::adapter_files;
use interleaf_tests::data::Random;

const ADAPTERS: usize = 20;
const ROWS: usize = 16;
const MANY: usize = 2000;

/// What so many adapters are drawn by: the i-th is asked for as i to the minus this.
const POPULARITY: f64 = 1.2;

/// Requests of a turn, by so many at a time, and the tokens of each answer.
const REQUESTS: usize = 256;
const AT_ONCE: usize = 8;
const TOKENS: usize = 32;

pub fn adapters() {
    let base = Source::Embedded { name: demo::NAME, files: demo::BASE };
    batch("the demo model", base, WeightFormat::Stored, 48, crate::turns(9));
    if crate::is_measuring() {
        let shape = Source::Generated { shape: Shape::named("llama-3.2-1b").expect("a shape"), seed: 1 };
        batch("llama-3.2-1b, generated, Q4_0", shape, WeightFormat::Q4_0, 16, 3);
    }
    registered(if crate::is_measuring() { MANY } else { 5 * ADAPTERS }, crate::turns(5));
}

fn request(seed: usize, adapter: String, max_tokens: usize) -> Request {
    Request {
        prompt: (0..8).map(|i| 300 + ((seed * 31 + i * 7) % 900) as u32).collect(),
        adapter: Some(adapter),
        max_tokens,
        sampling: SamplingOptions::default(),
        stop: Vec::new(),
        end_tokens: Vec::new(),
        drift: 0.0,
    }
}

fn answer(engine: &mut Engine, requests: &[Request]) -> Vec<Completion> {
    engine.generate(requests, &mut |_| ControlFlow::Continue(())).expect("it answers")
}

/// Sixteen rows under twenty adapters, in one batch and in turn.
fn batch(name: &str, source: Source, weights: WeightFormat, tokens: usize, turns: usize) {
    let options = EngineOptions { weights, prefix_cache: false, ..EngineOptions::default() };
    let mut engine = Engine::open(source, &options, &mut |_| ()).expect("the model loads");
    for adapter in 0..ADAPTERS {
        let adapter = PeftAdapter::generated(&format!("adapter {adapter}"), 16, 1, engine.model());
        engine.register_opened(adapter.expect("it fits")).expect("it is new");
    }
    engine.reserve_kv(ROWS, 32 + tokens).expect("a small pool");
    let (mut together, mut in_turn) = (Vec::new(), Vec::new());
    for turn in 0..=turns {
        let of_row = |row: usize| format!("adapter {}", (turn * ROWS + row) % ADAPTERS);
        let requests: Vec<Request> =
            (0..ROWS).map(|row| request(turn * ROWS + row, of_row(row), tokens)).collect();
        let start = Instant::now();
        let mixed = answer(&mut engine, &requests);
        let mixed_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let single: Vec<Completion> = requests
            .iter()
            .map(|request| answer(&mut engine, std::slice::from_ref(request)).remove(0))
            .collect();
        let single_seconds = start.elapsed().as_secs_f64();
        assert!(
            mixed.iter().zip(&single).all(|(mixed, single)| mixed.tokens == single.tokens),
            "mixed as alone"
        );
        // The first turn finds nothing in place.
        if turn > 0 {
            together.push(mixed_seconds);
            in_turn.push(single_seconds);
        }
    }
    let rate = |seconds: f64| (ROWS * tokens) as f64 / seconds;
    let (together, in_turn) = (median(together), median(in_turn));
    println!("{name}, {ROWS} answers of {tokens} tokens under {ADAPTERS} adapters of rank 16:");
    println!("  in one batch           {:>8.1} tokens/s  {:>5.2} x", rate(together), in_turn / together);
    println!("  one after the other    {:>8.1} tokens/s", rate(in_turn));
}

/// Requests under few adapters of few, under the same few of many, and under many.
fn registered(most: usize, turns: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let options = EngineOptions { pool_adapters: true, ..EngineOptions::default() };
    let open = || {
        let source = Source::Embedded { name: demo::NAME, files: demo::BASE };
        Engine::open(source, &options, &mut |_| ()).expect("the model loads")
    };
    let mut engines = [ADAPTERS, most].map(|_| open());
    for (engine, count) in engines.iter_mut().zip([ADAPTERS, most]) {
        for adapter in 0..count {
            let name = format!("adapter {adapter}");
            let files =
                adapter_files::write(folder.path(), &name, &["q_proj", "v_proj"], (8, 1), engine.model());
            let source = Source::Dir(files.expect("it is written"));
            engine.register_adapter(&name, &source).expect("it fits");
        }
        engine.reserve_kv(16, 160).expect("a pool");
    }
    let [few, many] = &mut engines;
    let mut rows = [Vec::new(), Vec::new(), Vec::new()];
    let mut loads = [0, 0, 0];
    for turn in 0..=turns {
        let under = |count: usize| -> Vec<Request> {
            let random = &mut Random::new(turn as u64 + 1);
            (0..REQUESTS)
                .map(|i| request(turn * REQUESTS + i, format!("adapter {}", drawn(random, count)), TOKENS))
                .collect()
        };
        let same = under(ADAPTERS);
        let mut answers = Vec::new();
        for (place, requests) in [same.clone(), same, under(most)].into_iter().enumerate() {
            let engine = if place == 0 { &mut *few } else { &mut *many };
            let before = engine.adapter_stats().loads;
            let start = Instant::now();
            let said: Vec<Completion> =
                requests.chunks(AT_ONCE).flat_map(|requests| answer(engine, requests)).collect();
            // The first turn finds nothing in place.
            if turn > 0 {
                rows[place].push(start.elapsed().as_secs_f64());
                loads[place] += engine.adapter_stats().loads - before;
            }
            answers.push(said);
        }
        let is_same = answers[0].iter().zip(&answers[1]).all(|(few, many)| few.tokens == many.tokens);
        assert!(is_same, "whoever else is registered");
    }
    let names = [
        format!("{ADAPTERS} registered"),
        format!("{most} registered, the same asked for"),
        format!("{most} registered, any asked for"),
    ];
    let medians = rows.map(median);
    println!(
        "the demo model, {REQUESTS} requests, {AT_ONCE} at a time, adapters of rank 8 on q and v that share the pool:"
    );
    for ((name, seconds), loads) in names.iter().zip(medians).zip(loads) {
        println!(
            "  {name:<38} {:>8.1} tokens/s  {:>5.3} x the time  {:>4} loads",
            (REQUESTS * TOKENS) as f64 / seconds,
            seconds / medians[0],
            loads / turns as u64
        );
    }
    println!("  {:?}", many.adapter_stats());
}

/// A number by the law of popularity.
fn drawn(random: &mut Random, count: usize) -> usize {
    let weight = |i: usize| (i as f64 + 1.0).powf(-POPULARITY);
    let unit = (random.bits() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut left = unit * (0..count).map(weight).sum::<f64>();
    (0..count)
        .find(|&i| {
            left -= weight(i);
            left <= 0.0
        })
        .unwrap_or(count - 1)
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_unstable_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
