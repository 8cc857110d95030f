//! Caches out of an engine and into it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use interleaf_calibrate::Kv;
use interleaf_demo_model as demo_model;
use interleaf_runtime::{
    BackendChoice, Engine, EngineError, EngineOptions, Feed, PageElement, RowKind, SequenceHandle, Source,
    Want,
};

fn engine() -> Engine {
    let options =
        EngineOptions { backend: BackendChoice::Cpu, pages: PageElement::F32, ..EngineOptions::default() };
    let base = Source::Embedded { name: demo_model::NAME, files: demo_model::BASE };
    let mut engine = Engine::open(base, &options, &mut |_| ()).unwrap();
    let (name, files) = demo_model::ADAPTERS[0];
    engine.register_adapter(name, &Source::Embedded { name, files }).unwrap();
    engine.reserve_kv(2, 64).unwrap();
    engine
}

fn feed(engine: &mut Engine, sequence: SequenceHandle, tokens: &[u32]) -> Vec<f32> {
    let feed = Feed { sequence, tokens, kind: RowKind::Prompt, want: Want::Logits };
    engine.feed(&[feed]).unwrap().remove(0).logits
}

/// 21 tokens: a page and a part of one.
fn prompt() -> Vec<u32> {
    (0..21).map(|i| 100 + 7 * i).collect()
}

#[test]
fn a_cache_that_is_written_is_what_is_read_on_over() {
    let mut engine = engine();
    let (adapter, prompt, next) = (demo_model::ADAPTERS[0].0, prompt(), [40, 41]);
    let own = Kv::compute(&mut engine, Some(adapter), &prompt).unwrap();
    let exact = engine.open_sequence(Some(adapter), &prompt).unwrap();
    feed(&mut engine, exact, &prompt);
    let expected = feed(&mut engine, exact, &next);

    // Other pages, then its own in their place.
    let sequence = engine.open_sequence(Some(adapter), &prompt).unwrap();
    feed(&mut engine, sequence, &prompt);
    let mut other = own.clone();
    other.layers.iter_mut().flatten().flatten().for_each(|v| *v *= 0.5);
    other.write(&mut engine, sequence).unwrap();
    assert_eq!(Kv::read(&mut engine, sequence, prompt.len()).unwrap(), other);
    assert_ne!(feed(&mut engine, sequence, &next), expected);
    engine.truncate_sequence(sequence, prompt.len()).unwrap();
    own.write(&mut engine, sequence).unwrap();
    assert_eq!(feed(&mut engine, sequence, &next), expected);
}

#[test]
fn what_is_not_one_value_for_each_element_is_refused() {
    let mut engine = engine();
    let sequence = engine.open_sequence(None, &[]).unwrap();
    feed(&mut engine, sequence, &prompt());
    let error = engine.write_kv(sequence, 1, &[0.0; 21 * 128], &[0.0; 20 * 128]).unwrap_err();
    let expected = EngineError::KvElements { layer: 1, expected: 21 * 128, found: 20 * 128 };
    assert_eq!(error.to_string(), expected.to_string());
}

#[test]
fn pages_that_others_may_find_are_not_written() {
    let mut engine = engine();
    let (sequence, _) = engine.resume_sequence(None, &prompt(), 0.0).unwrap();
    feed(&mut engine, sequence, &prompt());
    let kv = Kv::read(&mut engine, sequence, 21).unwrap();
    assert!(matches!(kv.write(&mut engine, sequence), Err(EngineError::SharedPages)));
}
