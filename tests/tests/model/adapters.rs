//! Adapters by name: none, one, many; scale 0; what is unknown or taken.

use std::path::Path;

use interleaf_demo_model as demo_model;
use interleaf_runtime::{BackendChoice, Engine, EngineError, Feed, RowKind, Source, Want};
use interleaf_tests::tolerance::assert_bits;

use crate::support::{demo, embedded, models, options, prompts};

fn logits(engine: &mut Engine, adapter: Option<&str>, prompt: &[u32]) -> Vec<f32> {
    let sequence = engine.open_sequence(adapter, prompt).expect("registered");
    let feed = Feed { sequence, tokens: prompt, kind: RowKind::Prompt, want: Want::Logits };
    let fed = engine.feed(&[feed]).expect("it runs").remove(0);
    engine.close_sequence(sequence).expect("open");
    fed.logits
}

/// A copy of an embedded adapter with one field of its configuration changed.
fn altered(adapter: &str, folder: &Path, alter: impl Fn(&mut serde_json::Value)) -> Source {
    let (_, files) = demo_model::ADAPTERS.iter().find(|(name, _)| *name == adapter).expect("embedded");
    for (name, bytes) in *files {
        let bytes = if *name == "adapter_config.json" {
            let mut config = serde_json::from_slice(bytes).expect("JSON");
            alter(&mut config);
            serde_json::to_vec(&config).expect("JSON")
        } else {
            bytes.to_vec()
        };
        std::fs::write(folder.join(name), bytes).expect("writes");
    }
    Source::dir(folder)
}

#[test]
fn scale_zero_and_none_are_the_base_to_the_bit() {
    for backend in [BackendChoice::Cpu, BackendChoice::Ref] {
        let folder = tempfile::tempdir().expect("a folder");
        let zero = altered("book-prose", folder.path(), |config| config["lora_alpha"] = 0.into());
        let mut engine = demo(&options(backend));
        let summary = engine.register_adapter("zero", &zero).expect("scale 0 is lawful");
        assert_eq!((summary.sites, summary.bytes), (0, 0), "zero-scale factors cost nothing");
        engine.reserve_kv(8, 160).expect("a small pool");
        let prompt = prompts(&engine).remove(0);
        let base = logits(&mut engine, None, &prompt);
        assert_bits("scale 0", &base, &logits(&mut engine, Some("zero"), &prompt));
        assert_ne!(base, logits(&mut engine, Some("book-prose"), &prompt), "and with its scale it is not");

        // In one batch with an adapter that does something.
        let sequences = [Some("zero"), Some("book-prose"), None]
            .map(|a| engine.open_sequence(a, &prompt).expect("registered"));
        let feeds = sequences.map(|sequence| Feed {
            sequence,
            tokens: &prompt,
            kind: RowKind::Prompt,
            want: Want::Logits,
        });
        let fed = engine.feed(&feeds).expect("it runs");
        assert_bits("scale 0 in a mixed batch", &base, &fed[0].logits);
        assert_bits("none in a mixed batch", &base, &fed[2].logits);
    }
}

#[test]
fn every_adapter_changes_the_answer_and_each_its_own_way() {
    let mut engine = demo(&options(BackendChoice::Cpu));
    engine.reserve_kv(1, 160).expect("a small pool");
    let prompt = prompts(&engine).remove(1);
    let results: Vec<Vec<f32>> = models().iter().map(|a| logits(&mut engine, *a, &prompt)).collect();
    for (i, a) in results.iter().enumerate() {
        for b in &results[i + 1..] {
            assert!(a.iter().zip(b).any(|(a, b)| (a - b).abs() > 0.1));
        }
    }
}

#[test]
fn one_and_two_and_many_adapters_answer_alike() {
    let base = || embedded(demo_model::NAME, demo_model::BASE);
    let (name, files) = demo_model::ADAPTERS[4];
    let mut expected: Option<Vec<f32>> = None;
    for others in [0, 1, 5, 40] {
        let mut engine = Engine::open(base(), &options(BackendChoice::Cpu), &mut |_| ()).expect("loads");
        for i in 0..others {
            let (other, files) = demo_model::ADAPTERS[i % 4];
            engine.register_adapter(&format!("{other}-{i}"), &embedded(other, files)).expect("loads");
        }
        engine.register_adapter(name, &embedded(name, files)).expect("loads");
        assert_eq!(engine.adapters().count(), others + 1);
        engine.reserve_kv(1, 160).expect("a small pool");
        let prompt = prompts(&engine).remove(5);
        let found = logits(&mut engine, Some(name), &prompt);
        match &expected {
            Some(expected) => assert_bits(&format!("beside {others} others"), expected, &found),
            None => expected = Some(found),
        }
    }
}

#[test]
fn unknown_and_duplicate_names_are_refused_and_harm_nothing() {
    let mut engine = demo(&options(BackendChoice::Cpu));
    engine.reserve_kv(1, 160).expect("a small pool");
    let prompt = prompts(&engine).remove(0);
    let before = logits(&mut engine, Some("api-docs"), &prompt);
    match engine.open_sequence(Some("nonsense"), &[]) {
        Err(EngineError::UnknownAdapter { name, known }) => {
            assert_eq!(name, "nonsense");
            assert_eq!(known.len(), 6);
        }
        other => panic!("{other:?}"),
    }
    let (name, files) = demo_model::ADAPTERS[0];
    let refused = engine.register_adapter(name, &embedded(name, files));
    assert!(matches!(refused, Err(EngineError::DuplicateAdapter(n)) if n == name));
    let folder = tempfile::tempdir().expect("a folder");
    let dora = altered("book-prose", folder.path(), |config| config["use_dora"] = true.into());
    let refused = engine.register_adapter("dora", &dora).expect_err("DoRA is not supported").to_string();
    assert!(refused.contains("use_dora"), "{refused}");
    assert_eq!(engine.adapters().count(), 6);
    assert_bits("after refusals", &before, &logits(&mut engine, Some("api-docs"), &prompt));
}
