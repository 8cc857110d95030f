//! Adapters that look like plain, sound LoRA and are not: each refused by name or done as it asks, never
//! run as if it were plain, and never to the harm of what is loaded.

use std::collections::{BTreeMap, BTreeSet};

use interleaf_runtime::{
    AdapterSummary, BackendChoice, Engine, EngineError, Feed, MemoryUse, RowKind, Source, Want,
};
use interleaf_tests::tolerance::assert_bits;
use serde_json::Value;

use crate::support::{data, options};

const BACKENDS: [BackendChoice; 2] = [BackendChoice::Cpu, BackendChoice::Ref];

/// `alora_invocation_tokens` of the folder `alora`.
const INVOCATION: [u32; 3] = [7, 8, 9];

/// What is to be done with each folder, by `expected.json`.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// The error contains these.
    Refuse(Vec<String>),
    EqualsBase,
    Activated,
}

fn expected() -> BTreeMap<String, Verdict> {
    let text = std::fs::read(data("bad-adapters/expected.json")).expect("the table is here");
    let table: BTreeMap<String, Value> = serde_json::from_slice(&text).expect("a table");
    let verdict = |row: &Value| match row["verdict"].as_str() {
        Some("refuse") => {
            let words = row["must_name"].as_array().expect("words").iter();
            Verdict::Refuse(words.map(|word| word.as_str().expect("a word").to_owned()).collect())
        }
        Some("load: equals base") => Verdict::EqualsBase,
        Some("refuse, or do it as aLoRA does") => Verdict::Activated,
        other => panic!("an unknown verdict: {other:?}"),
    };
    table.iter().map(|(folder, row)| (folder.clone(), verdict(row))).collect()
}

fn bad(folder: &str) -> Source {
    Source::dir(data("bad-adapters").join(folder))
}

/// The base, with a sound adapter.
fn engine(backend: BackendChoice) -> Engine {
    let family = data("families/llama-bias");
    let mut engine =
        Engine::open(Source::dir(&family), &options(backend), &mut |_| ()).expect("the base is sound");
    engine.register_adapter("sound", &Source::dir(family.join("adapter"))).expect("it is sound");
    engine.reserve_kv(2, 64).expect("a small pool");
    engine
}

/// What a model makes of a prompt.
struct Answer {
    logits: Vec<f32>,
    /// K and V of every layer.
    kv: Vec<(Vec<f32>, Vec<f32>)>,
    adapter_from: Option<usize>,
}

fn answer(engine: &mut Engine, adapter: Option<&str>, tokens: &[u32]) -> Answer {
    let sequence = engine.open_sequence(adapter, tokens).expect("registered");
    let feed = Feed { sequence, tokens, kind: RowKind::Prompt, want: Want::Logits };
    let logits = engine.feed(&[feed]).expect("it runs").remove(0).logits;
    let layers = 0..engine.config().layers;
    let kv = layers.map(|layer| engine.read_kv(sequence, layer).expect("it reads")).collect();
    engine.close_sequence(sequence).expect("open");
    Answer { logits, kv, adapter_from: sequence.adapter_from() }
}

fn assert_same(label: &str, a: &Answer, b: &Answer) {
    assert_bits(&format!("{label}: logits"), &a.logits, &b.logits);
    assert_eq!(a.kv.len(), b.kv.len());
    for (layer, (a, b)) in a.kv.iter().zip(&b.kv).enumerate() {
        assert_bits(&format!("{label}: keys of layer {layer}"), &a.0, &b.0);
        assert_bits(&format!("{label}: values of layer {layer}"), &a.1, &b.1);
    }
}

fn text(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| 100 + i * 37 % 400).collect()
}

/// What an engine lists and holds.
fn state(engine: &Engine) -> (Vec<AdapterSummary>, MemoryUse) {
    (engine.adapters().cloned().collect(), engine.memory())
}

#[test]
fn the_table_and_the_folders_are_the_same_set() {
    let folders = std::fs::read_dir(data("bad-adapters")).expect("the folders are here");
    let folders = folders.map(|entry| entry.expect("readable")).filter(|entry| entry.path().is_dir());
    let folders: BTreeSet<String> =
        folders.map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
    let expected = expected();
    assert_eq!(folders, expected.keys().cloned().collect());
    // What the other tests take for granted of it.
    assert_eq!(expected["alora"], Verdict::Activated);
    assert_eq!(expected["alpha-zero"], Verdict::EqualsBase);
    assert_eq!(expected.values().filter(|v| !matches!(v, Verdict::Refuse(_))).count(), 2);
}

#[test]
fn what_is_refused_is_named_and_harms_nothing() {
    let mut engine = engine(BackendChoice::Cpu);
    let prompt = text(20);
    let before = [None, Some("sound")].map(|adapter| answer(&mut engine, adapter, &prompt));
    let held = state(&engine);
    assert_ne!(before[0].logits, before[1].logits, "the sound adapter does something");
    let mut refused = 0;
    for (folder, verdict) in expected() {
        let Verdict::Refuse(words) = verdict else { continue };
        let error = engine.register_adapter(&folder, &bad(&folder)).expect_err(&folder);
        assert!(matches!(error, EngineError::Model(_)), "{folder}: {error:?}");
        let message = error.to_string();
        for word in words {
            assert!(message.contains(&word), "{folder}: {word:?} is not in: {message}");
        }
        assert_eq!(state(&engine), held, "{folder}");
        let unknown = engine.open_sequence(Some(&folder), &prompt);
        assert!(matches!(unknown, Err(EngineError::UnknownAdapter { .. })), "{folder}");
        for (adapter, before) in [None, Some("sound")].into_iter().zip(&before) {
            assert_same(
                &format!("{adapter:?} after {folder}"),
                before,
                &answer(&mut engine, adapter, &prompt),
            );
        }
        refused += 1;
    }
    assert_eq!(refused, expected().len() - 2);
    // A name that was refused is free.
    engine.register_adapter("nan", &Source::dir(data("families/llama-bias/adapter"))).expect("sound");
    assert_same("under another name", &before[1], &answer(&mut engine, Some("nan"), &prompt));
}

#[test]
fn an_alpha_of_zero_is_the_base_to_the_bit() {
    for backend in BACKENDS {
        let mut engine = engine(backend);
        let summary = engine.register_adapter("alpha-zero", &bad("alpha-zero")).expect("lawful");
        assert_eq!((summary.sites, summary.bytes), (0, 0));
        let base = answer(&mut engine, None, &text(20));
        assert_same("alpha 0", &base, &answer(&mut engine, Some("alpha-zero"), &text(20)));
    }
}

#[test]
fn an_activated_lora_acts_from_its_invocation_on_and_nowhere_else() {
    const BEFORE: usize = 17;
    for backend in BACKENDS {
        let mut engine = engine(backend);
        assert!(engine.register_adapter("alora", &bad("alora")).expect("it loads").activated);
        let prompt = [&text(BEFORE)[..], &INVOCATION, &text(9)].concat();
        let (base, found) = (answer(&mut engine, None, &prompt), answer(&mut engine, Some("alora"), &prompt));
        assert_eq!(found.adapter_from, Some(BEFORE));
        let vocabulary = engine.config().vocab_size;
        let rows = |answer: &Answer, row: usize| answer.logits[row * vocabulary..][..vocabulary].to_vec();
        for row in 0..prompt.len() {
            if row < BEFORE {
                assert_bits(&format!("row {row}"), &rows(&base, row), &rows(&found, row));
            } else {
                assert_ne!(rows(&base, row), rows(&found, row), "row {row}");
            }
        }
        // `[kv_head][token][head_dim]`; keys are not adapted in the first layer, values are.
        let (dim, tokens) = (engine.config().head_dim, prompt.len());
        let per_token = |values: &[f32], token: usize| -> Vec<f32> {
            values.chunks_exact(tokens * dim).flat_map(|head| head[token * dim..][..dim].to_vec()).collect()
        };
        for ((base_k, base_v), (k, v)) in base.kv.iter().zip(&found.kv) {
            for token in 0..tokens {
                if token < BEFORE {
                    assert_bits("a key before it", &per_token(base_k, token), &per_token(k, token));
                    assert_bits("a value before it", &per_token(base_v, token), &per_token(v, token));
                } else {
                    assert_ne!(per_token(base_v, token), per_token(v, token), "token {token}");
                }
            }
        }
        let without = text(20);
        let found = answer(&mut engine, Some("alora"), &without);
        assert_eq!(found.adapter_from, None);
        assert_same("without an invocation", &answer(&mut engine, None, &without), &found);
    }
}
