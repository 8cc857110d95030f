//! Model folders: both spellings of the configuration, and weights converted while loading.

use interleaf_runtime::{
    BackendChoice, Engine, EngineOptions, Feed, RowKind, SequenceHandle, Source, Want, WeightFormat,
};
use interleaf_tests::tolerance::assert_bits;

use crate::support::{data, embedded, options};

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

/// FNV-1a, 64 bits.
fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let bytes = parts.into_iter().flatten();
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// The hashes are of what `gguf.quants.quantize` of PyPI's gguf 0.19.0 makes of the same tensors: the demo
/// model's embedding and the seven projections of its first layer.
#[test]
fn quantised_blocks_are_those_of_gguf_bit_for_bit() {
    let source = embedded(interleaf_demo_model::NAME, interleaf_demo_model::BASE);
    let model = interleaf_model::Model::open(source).expect("the demo model opens");
    for (format, bytes, expected) in [
        (WeightFormat::Q8_0, 1_949_696, 0xf297_a392_46b5_5093),
        (WeightFormat::Q4_0, 1_032_192, 0xc612_1e59_e88f_6192),
    ] {
        let mut matrices = vec![model.embedding(format).expect("it converts")];
        for proj in interleaf_model::Proj::ALL {
            matrices.push(model.projection(0, proj, format).expect("it converts").matrix);
        }
        assert_eq!(matrices.iter().map(|m| m.data().len()).sum::<usize>(), bytes);
        assert_eq!(hash(matrices.iter().map(|m| &m.data()[..])), expected, "{format:?}");
    }
}
