//! Activated LoRA: nothing before the last invocation in the prompt, everything from it on.

use interleaf_runtime::{BackendChoice, Engine, Feed, RowKind, Source, Want};
use interleaf_tests::tolerance::assert_bits;

use crate::support::{data, options};

const INVOCATION: [u32; 3] = [41, 300, 7];

fn engine(backend: BackendChoice) -> Engine {
    let source = Source::dir(data("families/llama-rope3"));
    let mut engine = Engine::open(source, &options(backend), &mut |_| ()).expect("it loads");
    let adapter = Source::dir(data("families/llama-rope3-alora/adapter"));
    assert!(engine.register_adapter("alora", &adapter).expect("it loads").activated);
    engine.reserve_kv(2, 128).expect("a small pool");
    engine
}

/// Keys and values of every layer.
type Kv = Vec<(Vec<f32>, Vec<f32>)>;

/// Logits of a prompt read in pieces, its keys and values, and where the adapter acts.
fn run(
    engine: &mut Engine,
    adapter: Option<&str>,
    prompt: &[u32],
    piece: usize,
) -> (Vec<f32>, Kv, Option<usize>) {
    let sequence = engine.open_sequence(adapter, prompt).expect("registered");
    let mut logits = Vec::new();
    for tokens in prompt.chunks(piece) {
        let feed = Feed { sequence, tokens, kind: RowKind::Prompt, want: Want::Logits };
        logits.extend(engine.feed(&[feed]).expect("it runs").remove(0).logits);
    }
    let layers = engine.config().layers;
    let kv = (0..layers).map(|layer| engine.read_kv(sequence, layer).expect("it reads")).collect();
    engine.close_sequence(sequence).expect("open");
    (logits, kv, sequence.adapter_from())
}

fn prompt(before: u32, after: u32) -> Vec<u32> {
    let text = |n: u32| (0..n).map(|i| 100 + i * 13 % 150);
    text(before).chain(INVOCATION).chain(text(after)).collect()
}

#[test]
fn before_the_invocation_everything_is_the_base_bit_for_bit() {
    for backend in [BackendChoice::Cpu, BackendChoice::Ref] {
        let mut engine = engine(backend);
        let vocabulary = engine.config().vocab_size;
        let tokens = prompt(19, 20);
        let (base, base_kv, none) = run(&mut engine, None, &tokens, 1000);
        assert_eq!(none, None);
        for piece in [1, 7, 16, 1000] {
            let (found, kv, from) = run(&mut engine, Some("alora"), &tokens, piece);
            assert_eq!(from, Some(19));
            assert_bits("logits before it", &base[..19 * vocabulary], &found[..19 * vocabulary]);
            assert_ne!(base[19 * vocabulary..20 * vocabulary], found[19 * vocabulary..20 * vocabulary]);
            let (heads, dim) = (engine.config().kv_heads, engine.config().head_dim);
            for ((k, v), (base_k, base_v)) in kv.iter().zip(&base_kv) {
                for (found, base) in [(k, base_k), (v, base_v)] {
                    for head in 0..heads {
                        let at = head * tokens.len() * dim;
                        assert_bits("K and V before it", &base[at..at + 19 * dim], &found[at..at + 19 * dim]);
                        assert_ne!(base[at + 19 * dim..at + 20 * dim], found[at + 19 * dim..at + 20 * dim]);
                    }
                }
            }
        }
    }
}

#[test]
fn the_last_invocation_counts_and_without_one_the_base_answers() {
    let mut engine = engine(BackendChoice::Cpu);
    let twice = [prompt(10, 17), prompt(0, 15)].concat();
    assert_eq!(run(&mut engine, Some("alora"), &twice, 1000).2, Some(30));
    assert_eq!(run(&mut engine, Some("alora"), &prompt(0, 5), 1000).2, Some(0));
    assert_eq!(run(&mut engine, Some("alora"), &prompt(8, 0), 1000).2, Some(8));
    let absent: Vec<u32> = [41, 300, 9, 300, 7, 41].to_vec();
    let (found, _, from) = run(&mut engine, Some("alora"), &absent, 1000);
    assert_eq!(from, None);
    assert_bits("absent", &run(&mut engine, None, &absent, 1000).0, &found);
}
