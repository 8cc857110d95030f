//! Pages of one request answer for the next: within an adapter, where no adapter has acted, and layer by layer where an
//! adapter leaves the base's alone. On every backend, to the bit of an engine that computes everything itself.

use std::ops::ControlFlow;

use interleaf_contract::{Backend, Numerics};
use interleaf_demo_model as demo;
use interleaf_runtime::{
    BackendChoice, Completion, Engine, EngineOptions, Feed, Request, RowKind, SamplingOptions,
    SequenceHandle, Source, Want,
};
use interleaf_tests::backends;
use interleaf_tests::tolerance::assert_bits;

use crate::support::{data, embedded, options, prompts};

type Boxed = Box<dyn Backend>;

/// How each backend is opened.
fn all_backends() -> Vec<fn() -> Option<Boxed>> {
    vec![
        || Some(backends::cpu(2, Numerics::ActQ8_0)),
        || Some(backends::reference(Numerics::ActF32)),
        backends::gpu,
    ]
}

/// The demo model with all its adapters and room for so many sequences of so many tokens.
fn engine(backend: Boxed, prefix_cache: bool, room: (usize, usize)) -> Engine {
    let options = EngineOptions { prefix_cache, ..options(BackendChoice::Gpu) };
    let mut engine = Engine::open_on(backend, embedded(demo::NAME, demo::BASE), &options, &mut |_| ())
        .expect("the model loads");
    for &(name, files) in demo::ADAPTERS {
        engine.register_adapter(name, &embedded(name, files)).expect("its adapters load");
    }
    engine.reserve_kv(room.0, room.1).expect("a small pool");
    engine
}

fn request(prompt: &[u32], adapter: Option<&str>) -> Request {
    Request {
        prompt: prompt.to_vec(),
        adapter: adapter.map(str::to_owned),
        max_tokens: 6,
        sampling: SamplingOptions::default(),
        stop: Vec::new(),
        end_tokens: Vec::new(),
        drift: 0.0,
    }
}

fn answers(engine: &mut Engine, requests: &[Request]) -> Vec<Completion> {
    engine.generate(requests, &mut |_| ControlFlow::Continue(())).expect("it answers")
}

/// Bytes of a chunk's K and V in so many layers.
fn chunk_bytes(engine: &Engine, layers: usize) -> u64 {
    let config = engine.config();
    // f32 pages.
    (layers * 2 * 16 * config.kv_heads * config.head_dim * 4) as u64
}

/// Computes tokens from nothing in one engine, finds them in another, and compares every layer.
fn same_as_cold(warm: &mut Engine, cold: &mut Engine, adapter: Option<&str>, tokens: &[u32]) -> usize {
    let (found, cached) = warm.resume_sequence(adapter, tokens, 0.0).expect("it opens");
    let own = cold.open_sequence(adapter, tokens).expect("it opens");
    let feed = Feed { sequence: own, tokens: &tokens[..cached], kind: RowKind::Prompt, want: Want::Nothing };
    cold.feed(&[feed]).expect("it runs");
    for layer in 0..warm.config().layers {
        let (k, v) = warm.read_kv(found, layer).expect("it reads");
        let (own_k, own_v) = cold.read_kv(own, layer).expect("it reads");
        assert_bits("K", &own_k, &k);
        assert_bits("V", &own_v, &v);
    }
    warm.close_sequence(found).expect("open");
    cold.close_sequence(own).expect("open");
    cached
}

#[test]
fn a_prompt_that_begins_alike_is_not_computed_again() {
    for open in all_backends() {
        let Some((warm, cold)) = open().zip(open()) else { continue };
        let (mut warm, mut cold) = (engine(warm, true, (4, 160)), engine(cold, false, (4, 160)));
        let prompts = prompts(&warm);
        let (first, second) = (&prompts[1], &prompts[2]);
        let common = first.iter().zip(second).take_while(|(a, b)| a == b).count();
        assert!(common > 16, "{common} tokens of a system prompt");
        for adapter in [None, Some("rust-code"), Some("cargo-toml")] {
            let one = answers(&mut warm, &[request(first, adapter)]).remove(0);
            assert_eq!(one.reused_tokens, 0, "{adapter:?}");
            let two = answers(&mut warm, &[request(second, adapter)]).remove(0);
            // Within a chunk it is copied, not shared.
            assert_eq!(two.reused_tokens, common, "{adapter:?}");
            let expected = answers(&mut cold, &[request(first, adapter), request(second, adapter)]);
            assert_eq!([&one.tokens, &two.tokens], [&expected[0].tokens, &expected[1].tokens]);
            assert_eq!(same_as_cold(&mut warm, &mut cold, adapter, first), first.len() - 1);
            assert_eq!(same_as_cold(&mut warm, &mut cold, adapter, second), second.len() - 1);
        }
        assert_eq!((cold.memory().kv_cached, warm.memory().kv_in_use), (0, 0));
        assert!(warm.memory().kv_cached > 0);
    }
}

#[test]
fn requests_of_one_batch_wait_for_what_another_computes() {
    for open in all_backends() {
        let Some((warm, cold)) = open().zip(open()) else { continue };
        let (mut warm, mut cold) = (engine(warm, true, (6, 160)), engine(cold, false, (6, 160)));
        let prompts = prompts(&warm);
        let long = [&prompts[1][..], &prompts[2][..8]].concat();
        let requests: Vec<Request> = [
            (&prompts[1], None),
            (&prompts[1], Some("rust-code")),
            (&prompts[2], None),
            (&prompts[1], None),
            (&long, Some("rust-code")),
        ]
        .map(|(prompt, adapter)| request(prompt, adapter))
        .to_vec();
        let found = answers(&mut warm, &requests);
        let expected = answers(&mut cold, &requests);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!((&found.tokens, expected.reused_tokens), (&expected.tokens, 0));
        }
        let whole = |tokens: usize| tokens / 16 * 16;
        let reused: Vec<usize> = found.iter().map(|a| a.reused_tokens).collect();
        assert_eq!(reused[..2], [0, 0], "other adapters share no token");
        let common = prompts[1].iter().zip(&prompts[2]).take_while(|(a, b)| a == b).count();
        assert!(reused[2] >= whole(common), "{reused:?}");
        assert!(
            reused[3] >= whole(prompts[1].len() - 1) && reused[4] >= whole(prompts[1].len()),
            "{reused:?}"
        );
    }
}

#[test]
fn what_had_to_go_is_computed_again() {
    for open in all_backends() {
        let Some((warm, cold)) = open().zip(open()) else { continue };
        // Room for one of them at a time.
        let (mut warm, mut cold) = (engine(warm, true, (1, 96)), engine(cold, false, (1, 96)));
        let prompts = prompts(&warm);
        let [a, b] = [(1, Some("rust-code")), (3, Some("api-docs"))].map(|(i, n)| request(&prompts[i], n));
        let expected = [&a, &b].map(|r| answers(&mut cold, std::slice::from_ref(r)).remove(0).tokens);
        let mut reused = Vec::new();
        for (request, expected) in [(&a, &expected[0]), (&b, &expected[1]), (&a, &expected[0])] {
            let answer = answers(&mut warm, std::slice::from_ref(request)).remove(0);
            assert_eq!(&answer.tokens, expected);
            reused.push(answer.reused_tokens);
        }
        assert_eq!(reused[..2], [0, 0]);
        assert!(reused[2] < a.prompt.len() - 1, "some of it had gone: {reused:?}");
        let again = answers(&mut warm, std::slice::from_ref(&a)).remove(0);
        // For a copy of the last chunk there is no room beside it.
        assert_eq!((again.reused_tokens, again.tokens), (a.prompt.len() / 16 * 16, expected[0].clone()));
    }
}

/// Feeds tokens to a sequence that others find.
fn compute(engine: &mut Engine, adapter: Option<&str>, tokens: &[u32]) -> SequenceHandle {
    let (sequence, cached) = engine.resume_sequence(adapter, tokens, 0.0).expect("it opens");
    let feed = Feed { sequence, tokens: &tokens[cached..], kind: RowKind::Prompt, want: Want::Nothing };
    engine.feed(&[feed]).expect("it runs");
    sequence
}

#[test]
fn layers_below_the_first_adapted_one_are_held_once() {
    for open in all_backends() {
        for base_first in [true, false] {
            let Some((warm, cold)) = open().zip(open()) else { continue };
            let (mut warm, mut cold) = (engine(warm, true, (3, 96)), engine(cold, false, (3, 96)));
            let layers = warm.config().layers;
            let tokens: Vec<u32> = prompts(&warm)[1][..33].to_vec();
            // This adapter leaves layer 0 alone.
            let order = if base_first { [None, Some("cargo-toml")] } else { [Some("cargo-toml"), None] };
            let open = order.map(|adapter| compute(&mut warm, adapter, &tokens));
            let two = 2 * (chunk_bytes(&warm, layers) + chunk_bytes(&warm, layers - 1));
            // The third chunk of each is not full, and its own.
            let tails = 2 * chunk_bytes(&warm, layers);
            let memory = warm.memory();
            assert_eq!(memory.kv_in_use, two + tails, "{order:?}");
            assert_eq!(memory.kv_shared_layers, 2 * chunk_bytes(&warm, layers), "the base's stand for both");
            for (sequence, adapter) in open.into_iter().zip(order) {
                let own = cold.open_sequence(adapter, &tokens).expect("it opens");
                let feed =
                    Feed { sequence: own, tokens: &tokens, kind: RowKind::Prompt, want: Want::Nothing };
                cold.feed(&[feed]).expect("it runs");
                for layer in 0..layers {
                    let (k, v) = warm.read_kv(sequence, layer).expect("it reads");
                    let (own_k, own_v) = cold.read_kv(own, layer).expect("it reads");
                    assert_bits("K", &own_k, &k);
                    assert_bits("V", &own_v, &v);
                }
                cold.close_sequence(own).expect("open");
                warm.close_sequence(sequence).expect("open");
            }
            assert_eq!(warm.memory().kv_in_use, 0);
            // An adapter that changes the first layer shares nothing with them.
            let other = compute(&mut warm, Some("rust-code"), &tokens);
            assert_eq!(warm.memory().kv_in_use, 3 * chunk_bytes(&warm, layers));
            warm.close_sequence(other).expect("open");
        }
    }
}

#[test]
fn one_adapter_under_two_names_shares_its_pages_and_other_weights_do_not() {
    let mut warm = engine(backends::cpu(2, Numerics::ActQ8_0), true, (3, 96));
    let tokens: Vec<u32> = prompts(&warm)[1][..40].to_vec();
    let files = |name: &str| demo::ADAPTERS.iter().find(|(n, _)| *n == name).expect("there").1;
    warm.register_adapter("a second name", &embedded("a second name", files("rust-code"))).expect("it loads");
    let one = compute(&mut warm, Some("rust-code"), &tokens);
    warm.close_sequence(one).expect("open");
    let found = |engine: &mut Engine, name| {
        let (sequence, found) = engine.resume_sequence(Some(name), &tokens, 0.0).expect("it opens");
        engine.close_sequence(sequence).expect("open");
        found
    };
    assert_eq!(found(&mut warm, "a second name"), tokens.len() - 1);
    assert_eq!(found(&mut warm, "api-docs"), 0);
    // A new pool has nothing of it, and knows the adapters.
    warm.reserve_kv(3, 96).expect("a small pool");
    assert_eq!((found(&mut warm, "rust-code"), warm.memory().kv_cached), (0, 0));
    let one = compute(&mut warm, Some("a second name"), &tokens);
    warm.close_sequence(one).expect("open");
    assert_eq!(found(&mut warm, "rust-code"), tokens.len() - 1);
}

/// An adapter whose scale is 0 is the base.
#[test]
fn what_changes_nothing_answers_from_the_bases_pages() {
    let source = Source::dir(data("families/llama-bias"));
    let mut engine = Engine::open(source, &options(BackendChoice::Cpu), &mut |_| ()).expect("it loads");
    let zero = Source::dir(data("bad-adapters/alpha-zero"));
    engine.register_adapter("zero", &zero).expect("it loads");
    engine.reserve_kv(2, 96).expect("a small pool");
    let tokens: Vec<u32> = (0..40).map(|i| 100 + i * 13 % 150).collect();
    let base = compute(&mut engine, None, &tokens);
    let (own, found) = engine.resume_sequence(Some("zero"), &tokens, 0.0).expect("it opens");
    // Its last chunk is being written still.
    assert_eq!(found, 32);
    for sequence in [base, own] {
        engine.close_sequence(sequence).expect("open");
    }
}
