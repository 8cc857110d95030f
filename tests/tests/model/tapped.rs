//! What attention is given, read back: of every backend, and without changing what is computed.

use interleaf_runtime::{BackendChoice, Engine, Feed, RowKind, SequenceHandle, Want};
use interleaf_tests::backends;
use interleaf_tests::tolerance::assert_bits;

use crate::support;

const ADAPTER: &str = "api-docs";

fn engine(backend: BackendChoice) -> (Engine, SequenceHandle) {
    let mut engine = support::demo(&support::options(backend));
    engine.reserve_kv(2, 64).expect("a small pool");
    let sequence = engine.open_sequence(Some(ADAPTER), &prompt()).expect("room for one");
    (engine, sequence)
}

fn prompt() -> Vec<u32> {
    (0..21).map(|i| 100 + 7 * i).collect()
}

/// In two pieces, of which the second begins within a page.
fn inputs(backend: BackendChoice) -> Vec<Vec<f32>> {
    let (mut engine, sequence) = engine(backend);
    let (first, second) = (&prompt()[..13], &prompt()[13..]);
    let mut inputs = engine.attention_inputs(sequence, first).expect("it runs");
    let rest = engine.attention_inputs(sequence, second).expect("it runs");
    inputs.iter_mut().zip(rest).for_each(|(inputs, rest)| inputs.extend(rest));
    inputs
}

#[test]
fn every_backend_gives_the_same() {
    let expected = inputs(BackendChoice::Ref);
    assert_eq!(expected.len(), 6);
    let gpu = backends::gpu().map(|_| BackendChoice::Gpu);
    for backend in [BackendChoice::Cpu].into_iter().chain(gpu) {
        for (layer, (expected, found)) in expected.iter().zip(inputs(backend)).enumerate() {
            assert_eq!((expected.len(), found.len()), (21 * 256, 21 * 256));
            let off = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-3, "{backend:?}, layer {layer}: off by {off}");
            assert!(expected.iter().any(|value| value.abs() > 0.1));
        }
    }
}

#[test]
fn a_sequence_goes_on_as_if_it_had_been_fed() {
    let next = |engine: &mut Engine, sequence| {
        let feed = Feed { sequence, tokens: &[40], kind: RowKind::Prompt, want: Want::Logits };
        engine.feed(&[feed]).expect("it runs").remove(0).logits
    };
    let (mut tapped, sequence) = engine(BackendChoice::Cpu);
    let none = tapped.attention_inputs(sequence, &[]).expect("nothing to do");
    assert!(none.len() == 6 && none.iter().all(Vec::is_empty));
    tapped.attention_inputs(sequence, &prompt()).expect("it runs");
    let found = next(&mut tapped, sequence);
    let (mut fed, sequence) = engine(BackendChoice::Cpu);
    let feed = Feed { sequence, tokens: &prompt(), kind: RowKind::Prompt, want: Want::Nothing };
    fed.feed(&[feed]).expect("it runs");
    assert_bits("after a tap", &next(&mut fed, sequence), &found);
    // What is refused leaves the sequence as it was.
    let vocabulary = fed.config().vocab_size as u32;
    assert!(fed.attention_inputs(sequence, &[vocabulary]).is_err());
    fed.truncate_sequence(sequence, prompt().len()).expect("it is open");
    assert_bits("after a refusal", &next(&mut fed, sequence), &found);
}
