//! Heads as files, and what they score.

use std::path::Path;

use super::*;
use crate::{Model, ModelConfig, ModelError, Source};

fn config() -> ModelConfig {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/families/llama-rope3");
    Model::open(Source::dir(data)).unwrap().config().clone()
}

fn head(config: &ModelConfig) -> RouterHead {
    let looks = Looks { layers: vec![1, config.layers], pooling: Pooling::MeanAndLast, tokens: 7 };
    let features = looks.features(config.hidden_size);
    let label = |name: &str, adapter| RouterLabel { name: name.into(), adapter };
    RouterHead {
        model: Digest::of_bytes(b"model"),
        origin: RouterOrigin {
            data: "prompts".into(),
            data_digest: Digest::of_bytes(b"data"),
            prompts: 5,
            is_chat: true,
        },
        looks,
        temperature: 1.25,
        labels: vec![label("a", Some(Digest::of_bytes(b"a"))), label("b", None)],
        weight: (0..2 * features).map(|i| (i as f32 * 0.37).sin()).collect(),
        bias: vec![0.5, -0.25],
    }
}

fn read(bytes: &[u8], config: &ModelConfig) -> Result<RouterHead, ModelError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("r.safetensors"), bytes).unwrap();
    RouterHead::read(&Source::dir(folder.path()), "r.safetensors", config, Digest::of_bytes(b"model"))
}

fn refused(bytes: &[u8], words: &[&str]) {
    let error = read(bytes, &config()).unwrap_err().to_string();
    for word in words.iter().chain(&["r.safetensors"]) {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[test]
fn a_head_comes_back_as_it_was() {
    let config = config();
    let head = head(&config);
    let bytes = head.to_bytes().unwrap();
    assert_eq!(read(&bytes, &config).unwrap(), head);
    assert_eq!(head.to_bytes().unwrap(), bytes);
}

#[test]
fn what_is_not_a_head_of_this_model_is_refused() {
    let config = config();
    let good = head(&config);
    let bytes = |change: &dyn Fn(&mut RouterHead)| {
        let mut head = good.clone();
        change(&mut head);
        head.to_bytes().unwrap()
    };
    refused(&bytes(&|head| head.model = Digest::of_bytes(b"other")), &["model must be"]);
    let whole = bytes(&|_| ());
    for length in [0, 7, 60, whole.len() - 1] {
        refused(&whole[..length], &[]);
    }
    refused(&bytes(&|head| head.weight[3] = f32::NAN), &["weight", "NaN", "element 3"]);
    refused(&bytes(&|head| head.bias[1] = f32::INFINITY), &["bias", "inf"]);
    refused(&bytes(&|head| head.looks.pooling = Pooling::Last), &["weight", "expected [2, "]);
    refused(&bytes(&|head| head.looks.layers = vec![1, config.layers + 1]), &["layers must be"]);
    refused(&bytes(&|head| head.looks.layers = vec![2, 1]), &["layers must be"]);
    refused(&bytes(&|head| head.looks.layers = Vec::new()), &["layers must be"]);
    refused(&bytes(&|head| head.looks.tokens = 0), &["tokens must be"]);
    refused(&bytes(&|head| head.temperature = 0.0), &["temperature must be"]);
    refused(&bytes(&|head| head.labels[1].name = "a".into()), &["labels must be"]);
    let mut short = good.clone();
    short.bias.pop();
    assert!(short.to_bytes().is_err(), "parts of two sizes");
}

#[test]
fn probabilities_are_of_each_label_alone() {
    let config = config();
    let mut head = head(&config);
    let mut features = vec![0.0; head.features()];
    assert_eq!(features.len(), 4 * config.hidden_size);
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x / 1.25).exp());
    let scores = head.score(&features);
    assert!((scores[0] - sigmoid(0.5)).abs() < 1e-6 && (scores[1] - sigmoid(-0.25)).abs() < 1e-6);
    head.weight[2] = 3.0;
    features[2] = 2.0;
    assert!((head.score(&features)[0] - sigmoid(6.5)).abs() < 1e-6);
}

#[test]
fn states_are_pooled_by_layer() {
    let states = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0];
    let pooled = |pooling: Pooling| {
        let mut features = vec![7.0];
        pooling.pool(&states, 2, &mut features);
        features
    };
    assert_eq!(pooled(Pooling::Mean), [7.0, 3.0, 5.0]);
    assert_eq!(pooled(Pooling::Last), [7.0, 5.0, 9.0]);
    assert_eq!(pooled(Pooling::MeanAndLast), [7.0, 3.0, 5.0, 5.0, 9.0]);
    let mut none = Vec::new();
    Pooling::MeanAndLast.pool(&[], 2, &mut none);
    assert!(none.is_empty());
}
