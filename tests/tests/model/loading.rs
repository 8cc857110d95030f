//! Model folders: both spellings of the configuration, and weights converted while loading.

use interleaf_runtime::{
    BackendChoice, Engine, EngineOptions, Feed, RowKind, SequenceHandle, Source, Want, WeightFormat,
};
use interleaf_tests::tolerance::assert_bits;

use crate::support::{data, options};

const PROMPT: [u32; 6] = [154, 152, 425, 172, 428, 21];

fn logits(source: Source, options: &EngineOptions) -> (Engine, Vec<f32>) {
    let mut engine = Engine::open(source, options, &mut |_| ()).expect("it loads");
    engine.reserve_kv(1, 32).expect("a small pool");
    let sequence: SequenceHandle = engine.open_sequence(None).expect("the base");
    let feed = Feed { sequence, tokens: &PROMPT, kind: RowKind::Prompt, want: Want::Logits };
    let logits = engine.feed(&[feed]).expect("it runs").remove(0).logits;
    (engine, logits)
}

#[test]
fn both_spellings_of_config_json_give_the_same_bits() {
    let family = data("families/llama-rope3");
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(&family).expect("the family is here") {
        let entry = entry.expect("readable");
        if entry.path().is_file() {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copies");
        }
    }
    std::fs::copy(family.join("config.v4.json"), folder.path().join("config.json")).expect("copies");
    let options = options(BackendChoice::Cpu);
    let (_, new) = logits(Source::dir(&family), &options);
    let (_, old) = logits(Source::dir(folder.path()), &options);
    assert_bits("old and new spelling", &new, &old);
}

#[test]
fn converted_weights_take_the_bytes_of_their_format() {
    let source = || Source::dir(data("families/llama-rope3"));
    let with = |weights| EngineOptions { weights, ..options(BackendChoice::Cpu) };
    let (stored, exact) = logits(source(), &with(WeightFormat::Stored));
    for (weights, largest_error, share) in [
        (WeightFormat::Bf16, 0.0, 1.0),
        (WeightFormat::F16, 0.02, 1.0),
        (WeightFormat::Q8_0, 1.0, 0.6),
        (WeightFormat::Q4_0, 8.0, 0.4),
    ] {
        let (engine, found) = logits(source(), &with(weights));
        let error = exact.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        assert!(error <= largest_error, "{weights:?}: {error}");
        let bytes = engine.memory().backend.base as f64 / stored.memory().backend.base as f64;
        assert!(bytes <= share, "{weights:?}: {bytes}");
    }
}
