//! Model folders that are damaged or contradict themselves: each refused by a message that names the file
//! and the tensor or field, and what was expected.

mod configs;
mod folders;
mod headers;
mod tensors;
mod tokenizers;

use interleaf_runtime::{
    BackendChoice, Engine, EngineError, EngineOptions, Feed, PageElement, RowKind, Source, Want, WeightFormat,
};
use interleaf_tests::tolerance::assert_bits;
use serde_json::Value;

use crate::build::{Folder, Parts, Tensor, family, filled};
use crate::measure::{alone, measure};

const BASE: &str = "llama-bias";
const Q1: &str = "model.layers.1.self_attn.q_proj.weight";

/// The most that a refusal may hold, in bytes. Most hold far less; a config of 4096 layers has the names of
/// all their tensors listed before the first is missed.
const MEMORY_LIMIT: usize = 16 << 20;

/// What is wrong, a folder with it, and what the refusal must say.
type Case = (&'static str, Folder, Vec<&'static str>);

fn options(weights: WeightFormat) -> EngineOptions {
    let (backend, pages) = (BackendChoice::Cpu, PageElement::F32);
    EngineOptions { backend, pages, weights, threads: 1, ..EngineOptions::default() }
}

fn open(source: Source, weights: WeightFormat) -> Result<Engine, EngineError> {
    Engine::open(source, &options(weights), &mut |_| ())
}

fn logits(engine: &mut Engine) -> Vec<f32> {
    engine.reserve_kv(1, 16).expect("a small pool");
    let sequence = engine.open_sequence(None, &[]).expect("the base");
    let feed = Feed { sequence, tokens: &[3, 141, 59, 26], kind: RowKind::Prompt, want: Want::Logits };
    engine.feed(&[feed]).expect("it runs").remove(0).logits
}

/// Every folder is refused as its row says, at little cost, and an engine beside it answers as before.
///
/// The folders are made while no other test is measured: making them takes memory too.
fn are_refused(cases: impl FnOnce() -> Vec<Case>) {
    let _alone = alone();
    let mut engine = open(Source::dir(family(BASE)), WeightFormat::Stored).expect("it is sound");
    let before = logits(&mut engine);
    for (what, folder, words) in cases() {
        let (result, held, _) = measure(|| open(folder.source(), WeightFormat::Stored));
        let error = result.expect_err(what);
        assert!(matches!(error, EngineError::Model(_)), "{what}: {error:?}");
        let message = error.to_string();
        for word in words {
            assert!(message.contains(word), "{what}: {word:?} is not in: {message}");
        }
        assert!(held <= MEMORY_LIMIT, "{what}: {held} bytes held");
        assert_bits(what, &before, &logits(&mut engine));
    }
}

fn sound() -> Parts {
    Parts::of(BASE)
}

fn with_config(changes: Value) -> Folder {
    sound().config(changes).write()
}

/// What older tools leave behind, and another way to write the same model, change nothing.
#[test]
fn harmless_leftovers_are_left_alone() {
    let _alone = alone();
    let expected = logits(&mut open(Source::dir(family(BASE)), WeightFormat::Stored).expect("it is sound"));
    let head = {
        let parts = sound();
        let embedding =
            parts.tensors.iter().find(|t| t.name == "model.embed_tokens.weight").expect("it is there");
        let head = embedding.clone();
        parts.tensor(Tensor { name: "lm_head.weight".into(), ..head })
    };
    for (what, folder) in [
        ("written again", sound().write()),
        ("in shards", sound().write_shards(0, |_| ())),
        ("a tied head that is stored", head.write()),
        (
            "frequencies that follow from the config",
            sound().tensor(filled("model.layers.0.self_attn.rotary_emb.inv_freq", &[8], 1.0)).write(),
        ),
        ("a tower that nothing calls for", sound().tensor(filled("vision_tower.weight", &[3], 1.0)).write()),
        ("a pickle beside", sound().write().file("pytorch_model.bin", "x")),
    ] {
        let mut engine = open(folder.source(), WeightFormat::Stored).expect(what);
        assert_bits(what, &expected, &logits(&mut engine));
    }
}
