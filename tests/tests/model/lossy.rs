//! Calls that allow a loss: their pages take less room over the base's, what is read costs what is said or less, and exact
//! calls never notice.

use std::ops::ControlFlow;

use interleaf_contract::CHUNK_TOKENS;
use interleaf_runtime::{
    BackendChoice, Completion, Engine, EngineOptions, Feed, PageElement, Request, RowKind, SamplingOptions,
    Want,
};
use interleaf_tests::backends;
use interleaf_tests::tolerance::assert_bits;

use super::support::{demo, models, options};

pub(super) const BUDGET: f32 = 1e-3;

/// Whole chunks of a shared beginning.
pub(super) const SHARED: usize = 12 * 16;

/// Those that encode pages.
pub(super) fn all() -> Vec<BackendChoice> {
    let gpu = backends::gpu().map(|_| BackendChoice::Gpu);
    std::iter::once(BackendChoice::Cpu).chain(gpu).collect()
}

fn engine(backend: BackendChoice, prefix_cache: bool) -> Engine {
    let options = EngineOptions { prefix_cache, pages: PageElement::F16, ..options(backend) };
    let mut engine = demo(&options);
    engine.reserve_kv(40, 512).expect("a small pool");
    engine
}

/// A beginning that all have in common, and some tokens of one's own.
pub(super) fn prompt(engine: &Engine, own: u32) -> Vec<u32> {
    let text =
        "A trait tells the compiler what a type can do. A vector owns its elements and grows. ".repeat(20);
    let tokens = engine.tokenizer("a test").expect("it has one").encode(&text, true).expect("plain text");
    tokens[..SHARED].iter().copied().chain((0..20).map(|i| 300 + 7 * own + i)).collect()
}

pub(super) fn request(prompt: &[u32], adapter: Option<&str>, drift: f32) -> Request {
    Request {
        prompt: prompt.to_vec(),
        adapter: adapter.map(str::to_owned),
        max_tokens: 4,
        sampling: SamplingOptions::default(),
        stop: Vec::new(),
        end_tokens: Vec::new(),
        drift,
    }
}

pub(super) fn answer(engine: &mut Engine, prompt: &[u32], adapter: Option<&str>, drift: f32) -> Completion {
    let request = request(prompt, adapter, drift);
    engine.generate(&[request], &mut |_| ControlFlow::Continue(())).expect("it answers").remove(0)
}

/// The base answers first, then every adapter, each as the same text's next call.
pub(super) fn warm(engine: &mut Engine, drift: f32) {
    for adapter in models() {
        let prompt = prompt(engine, 0);
        answer(engine, &prompt, adapter, drift);
    }
}

/// Logits of the tokens behind the shared ones, and how many were in the cache.
pub(super) fn logits(
    engine: &mut Engine,
    adapter: Option<&str>,
    tokens: &[u32],
    drift: f32,
) -> (Vec<f32>, usize) {
    let (sequence, cached) = engine.resume_sequence(adapter, tokens, drift).expect("it opens");
    assert!(cached <= SHARED, "nothing of one's own is there");
    let before = &tokens[cached..SHARED];
    if !before.is_empty() {
        let feed = Feed { sequence, tokens: before, kind: RowKind::Prompt, want: Want::Nothing };
        engine.feed(&[feed]).expect("it runs");
    }
    let feed = Feed { sequence, tokens: &tokens[SHARED..], kind: RowKind::Prompt, want: Want::Logits };
    let fed = engine.feed(&[feed]).expect("it runs").remove(0);
    engine.close_sequence(sequence).expect("open");
    (fed.logits, cached)
}

/// The mean divergence of rows of logits from others, in nats.
pub(super) fn divergence(exact: &[f32], found: &[f32], vocabulary: usize) -> f64 {
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|l| f64::from(l - largest).exp()).sum();
        row.iter().map(|l| f64::from(l - largest) - sum.ln()).collect()
    };
    let rows = exact.chunks_exact(vocabulary).zip(found.chunks_exact(vocabulary));
    let of_row = rows.map(|(exact, found)| {
        let (p, q) = (log_softmax(exact), log_softmax(found));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
    });
    of_row.sum::<f64>() / (exact.len() / vocabulary) as f64
}

#[test]
fn what_is_read_costs_no_more_than_is_allowed_and_takes_less_room() {
    all().into_iter().for_each(costs_and_room);
}

fn costs_and_room(backend: BackendChoice) {
    let (mut exact, mut lossy) = (engine(backend, true), engine(backend, true));
    warm(&mut exact, 0.0);
    warm(&mut lossy, BUDGET);
    let (all, less) = (exact.memory(), lossy.memory());
    assert_eq!(all.kv_encoded, 0);
    assert!(less.kv_encoded > 0);
    println!("{backend:?}, cached: {} bytes exact, {} with a budget", all.kv_cached, less.kv_cached);
    assert!(less.kv_cached * 10 < all.kv_cached * 5, "{less:?} against {all:?}");

    let (mut cold, vocabulary) = (engine(backend, false), exact.config().vocab_size);
    for adapter in models() {
        let tokens = prompt(&lossy, 5);
        let (expected, none) = logits(&mut cold, adapter, &tokens, 0.0);
        let (found, cached) = logits(&mut lossy, adapter, &tokens, BUDGET);
        assert_eq!((none, cached), (0, SHARED), "{adapter:?}");
        let cost = divergence(&expected, &found, vocabulary);
        println!("{backend:?} {adapter:?}: {cost:.1e}");
        assert!(cost > 0.0 && cost <= f64::from(BUDGET), "{adapter:?}: {cost}");
        let completion = answer(&mut lossy, &prompt(&exact, 6), adapter, BUDGET);
        assert_eq!(completion.reused_tokens, SHARED, "{adapter:?}");
        assert!(completion.drift > 0.0 && completion.drift <= BUDGET, "{adapter:?}: {}", completion.drift);
    }
}

/// A lossy run, then an exact one of the same tokens, whose answer is a cold run's to the bit; and back again.
#[test]
fn exact_calls_read_nothing_that_has_lost_anything() {
    all().into_iter().for_each(exact_calls);
}

fn exact_calls(backend: BackendChoice) {
    let (mut lossy, mut cold) = (engine(backend, true), engine(backend, false));
    warm(&mut lossy, BUDGET);
    for adapter in models() {
        let tokens = prompt(&lossy, 9);
        let (expected, _) = logits(&mut cold, adapter, &tokens, 0.0);
        let (found, cached) = logits(&mut lossy, adapter, &tokens, 0.0);
        assert_eq!(cached, 0, "{adapter:?}");
        assert_bits("logits", &expected, &found);
        // What an exact call has computed answers for the next one.
        let completion = answer(&mut lossy, &prompt(&cold, 11), adapter, 0.0);
        assert_eq!((completion.reused_tokens, completion.drift), (SHARED, 0.0), "{adapter:?}");
    }
}

/// One adapter's text makes way for another's and comes back: exact calls answer as if there were no cache, to the bit where
/// generated rows are computed as a prompt's are, and others within their budget.
#[test]
fn what_was_evicted_comes_back_as_it_was_or_within_its_budget() {
    all().into_iter().for_each(evicted);
}

fn evicted(backend: BackendChoice) {
    let mut cold = engine(backend, false);
    let vocabulary = cold.config().vocab_size;
    let (a, b) = (Some("rust-code"), Some("api-docs"));
    // Chunks that the base's pages and one adapter's fit into, exact ones or encoded: another text needs most of them.
    for (drift, chunks) in [(0.0, 34), (BUDGET, 22)] {
        let mut small = engine(backend, true);
        small.reserve_kv(1, chunks * CHUNK_TOKENS).expect("a small pool");
        let mut call = 0;
        let mut agrees = |small: &mut Engine, when: &str| {
            // Of what is its own alone nothing is there.
            call += 1;
            let tokens = prompt(small, call);
            let (expected, _) = logits(&mut cold, a, &tokens, 0.0);
            let (found, cached) = logits(small, a, &tokens, drift);
            println!("{backend:?}, budget {drift}, {when}: {cached} tokens were there");
            if drift == 0.0 {
                assert_bits(when, &expected, &found);
            } else {
                let cost = divergence(&expected, &found, vocabulary);
                assert!(cost <= f64::from(drift), "{when}: {cost}");
            }
            cached
        };
        let mut evicted = 0;
        // A GPU in software takes its time.
        let rounds = if backend == BackendChoice::Cpu { 3 } else { 1 };
        for round in 0..rounds {
            let tokens = prompt(&small, 20 + round);
            logits(&mut small, None, &tokens, drift);
            agrees(&mut small, "over the base");
            // Each as often as what is to go.
            for other in 0..4 {
                for (i, adapter) in [b, None, b, None, b, None].into_iter().enumerate() {
                    let mut tokens = prompt(&small, 40 + i as u32);
                    tokens[..SHARED].rotate_left(1 + 4 * round as usize + other);
                    logits(&mut small, adapter, &tokens, 0.0);
                }
            }
            evicted += SHARED - agrees(&mut small, "after others");
            // The base's are computed again for it, and its own encoded over them.
            while small.tend(64).expect("it runs") > 0 {}
            agrees(&mut small, "after idle work");
        }
        assert!(evicted > 0, "there was room for everything");
    }
}

/// Adapters read a text that the base never saw: idle work computes the base's pages where that saves more than they take.
#[test]
fn idle_work_brings_the_bases_pages() {
    let readers = [Some("rust-code"), Some("error-codes"), Some("release-notes")];
    for backend in all() {
        let (mut engine, mut cold) = (engine(backend, true), engine(backend, false));
        let (first, second) = (prompt(&engine, 3), prompt(&engine, 4));
        logits(&mut engine, readers[0], &first, BUDGET);
        assert_eq!(engine.tend(48).expect("it runs"), 0, "one adapter's take less alone");
        readers[1..].iter().for_each(|adapter| drop(logits(&mut engine, *adapter, &first, BUDGET)));
        let alone = engine.memory().kv_cached;
        assert!(engine.kv_by_codec().iter().all(|(codec, _)| !codec.starts_with("delta")));
        let mut computed = 0;
        loop {
            match engine.tend(48).expect("it runs") {
                0 => break,
                more => computed += more,
            }
        }
        assert!(computed >= SHARED, "{computed}");
        let (by_codec, held) = (engine.kv_by_codec(), engine.memory().kv_cached);
        assert!(by_codec.iter().any(|(codec, _)| codec == "delta-4"), "{by_codec:?}");
        assert!(held < alone, "{held} bytes with the base's, {alone} before: {by_codec:?}");
        for adapter in readers {
            let (expected, _) = logits(&mut cold, adapter, &second, 0.0);
            let (found, cached) = logits(&mut engine, adapter, &second, BUDGET);
            assert_eq!(cached, SHARED);
            let cost = divergence(&expected, &found, engine.config().vocab_size);
            assert!(cost <= f64::from(BUDGET), "{cost}");
        }
        // Exact calls leave nothing to do.
        let mut exact = self::engine(backend, true);
        readers.iter().for_each(|adapter| drop(logits(&mut exact, *adapter, &first, 0.0)));
        assert_eq!(exact.tend(48).expect("it runs"), 0);
    }
}

#[test]
fn a_budget_is_a_divergence() {
    for backend in all() {
        let mut engine = engine(backend, true);
        let tokens = prompt(&engine, 0);
        for drift in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(engine.resume_sequence(None, &tokens, drift).is_err(), "{drift}");
            let request = request(&tokens, None, drift);
            assert!(engine.generate(&[request], &mut |_| ControlFlow::Continue(())).is_err(), "{drift}");
        }
    }
}

/// A sequence that is cut within a chunk it reads in codes goes on in exact pages of its own that hold the same numbers.
#[test]
fn a_sequence_is_cut_within_an_encoded_chunk() {
    const KEPT: usize = SHARED - 5;
    for backend in all() {
        let (mut cold, mut lossy) = (engine(backend, false), engine(backend, true));
        warm(&mut lossy, BUDGET);
        let vocabulary = cold.config().vocab_size;
        for adapter in models() {
            let tokens = prompt(&cold, 3);
            let rest = |engine: &mut Engine, sequence| {
                let (kind, want) = (RowKind::Prompt, Want::Logits);
                let feed = Feed { sequence, tokens: &tokens[KEPT..], kind, want };
                let fed = engine.feed(&[feed]).expect("it runs").remove(0);
                engine.close_sequence(sequence).expect("open");
                fed.logits
            };
            let (sequence, cached) = lossy.resume_sequence(adapter, &tokens, BUDGET).expect("it opens");
            assert_eq!(cached, SHARED);
            lossy.truncate_sequence(sequence, KEPT).expect("there is room for a chunk");
            let found = rest(&mut lossy, sequence);
            let (sequence, _) = cold.resume_sequence(adapter, &tokens[..KEPT], 0.0).expect("it opens");
            let before =
                Feed { sequence, tokens: &tokens[..KEPT], kind: RowKind::Prompt, want: Want::Nothing };
            cold.feed(&[before]).expect("it runs");
            let expected = rest(&mut cold, sequence);
            let cost = divergence(&expected, &found, vocabulary);
            assert!(cost > 0.0 && cost <= f64::from(BUDGET), "{backend:?}, {adapter:?}: {cost}");
        }
    }
}
