//! `interleaf inspect` as a user runs it, on models and adapters, good and bad.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/families").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Runs `inspect` in a folder, with a store of its own there.
fn inspect_in(here: &Path, store: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interleaf"));
    command.arg("inspect").args(args).current_dir(here).env("INTERLEAF_STORE", store);
    command.output().expect("the binary starts")
}

fn inspect(args: &[&str]) -> Output {
    inspect_in(&data(""), folder().path(), args)
}

fn stdout(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(inspect(&[args, &["--json"]].concat()))).expect("one JSON object")
}

/// A line of the text by its first words, with single spaces.
fn line(text: &str, starts: &str) -> String {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines()
        .map(words)
        .find(|line| line.starts_with(starts))
        .unwrap_or_else(|| panic!("{starts}: {text}"))
}

fn refused(code: i32, args: &[&str], words: &[&str]) {
    let output = inspect(args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(output.stdout.is_empty(), "{args:?}");
    for word in words {
        assert!(message.contains(word), "{args:?}: {message:?} does not say {word:?}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

/// A copy of a folder's files, one of them altered.
fn altered(from: &Path, file: &str, alter: impl FnOnce(&mut Vec<u8>)) -> TempDir {
    let copy = folder();
    for path in std::fs::read_dir(from).expect("lists").map(|entry| entry.expect("an entry").path()) {
        if path.is_file() {
            std::fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("copies");
        }
    }
    let path = copy.path().join(file);
    let mut bytes = std::fs::read(&path).expect("just written");
    alter(&mut bytes);
    std::fs::write(path, bytes).expect("writes");
    copy
}

#[test]
fn a_model_as_text() {
    let shown = stdout(inspect(&["gemma3-text", "--check"]));
    for expected in [
        "architecture Gemma3ForCausalLM (family gemma3)",
        "parameters 309,088 in bf16",
        "checked every weight is finite",
        "attention 4 query heads, 2 key/value heads, 32 wide, scale 0.20412415",
        "positions layers 0–1, 3: rope theta 10000, window 16",
        "layer 2: rope theta 1000000, linear ×8",
        "head tied to the embedding",
        "tokenizer none",
        "KV cache 1.0 KiB a token in f16, 512.0 KiB for the whole context",
        "model.layers.*.self_attn.q_proj.weight 0–3 bf16 128 × 96 96.0 KiB",
    ] {
        assert_eq!(line(&shown, expected), expected);
    }
    assert!(!shown.contains('\u{1b}') && shown.lines().all(|line| line.trim_end() == line), "{shown}");
}

#[test]
fn a_model_as_json() {
    let report = json(&["gemma2"]);
    let expected = json!({"kind": "model", "architecture": "Gemma2ForCausalLM", "family": "gemma2",
        "checked": false, "tokenizer": null, "chat_template": false, "tied_head": true, "post_norms": true});
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(report[field], *value, "{field}");
    }
    assert!(report["attention_softcap"].is_number() && report["logit_softcap"].is_number());
    let tensors = report["tensors"].as_array().expect("a list");
    let sum = |field: &str| tensors.iter().filter_map(|tensor| tensor[field].as_u64()).sum::<u64>();
    assert!(report["bytes_on_disk"].as_u64().expect("bytes") > sum("bytes"));
    assert_eq!(report["dtypes"], json!(["f32"]));
    assert_eq!(report["parameters"].as_u64().expect("a count") * 4, sum("bytes"));
    assert_eq!(report["digest"].as_str().expect("hexadecimal").len(), 64);
    let layers: usize = report["layer_kinds"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|k| k["layers"].as_array().map_or(0, Vec::len))
        .sum();
    assert_eq!(layers as u64, report["layers"].as_u64().expect("a count"));
}

#[test]
fn without_a_folder_it_is_the_demo_model() {
    let report = json(&[]);
    assert_eq!((&report["family"], &report["parameters"]), (&json!("llama"), &json!(5_770_496)));
    assert_eq!((&report["chat_template"], &report["digest_cached"]), (&json!(true), &json!(false)));
}

#[test]
fn an_adapter_as_text() {
    let base = data("llama-rope3");
    let shown = stdout(inspect(&["llama-rope3-alora/adapter", "--model", text(&base)]));
    for expected in [
        "acts from the last 41 300 7 in a prompt on (activated LoRA)",
        "config r 8, alpha 16, scale alpha/r",
        "self_attn.q_proj 0–3 8 2 f16 128 × 64",
        "mlp.down_proj 0–3 8 2 f16 64 × 160",
    ] {
        assert_eq!(line(&shown, expected), expected);
    }
    // In the folder above them, the base is where the adapter says.
    let shown = stdout(inspect(&["qwen2/adapter"]));
    assert_eq!(line(&shown, "fits base"), "fits base qwen2 (Qwen2ForCausalLM, by base_model_name_or_path)");
    assert!(shown.contains("rslora"));
}

/// Ranks and scales that differ are not one row.
#[test]
fn an_adapters_patterns_are_told_apart() {
    let patterned = altered(&data("qwen2/adapter"), "adapter_config.json", |config| {
        let mut value: Value = serde_json::from_slice(config).expect("JSON");
        value["alpha_pattern"] = json!({"layers.1.self_attn.q_proj": 12});
        *config = value.to_string().into_bytes();
    });
    let base = data("qwen2");
    let shown = stdout(inspect(&[text(patterned.path()), "--model", text(&base)]));
    assert!(shown.contains("self_attn.q_proj  0, 2 "), "{shown}");
    let report = json(&[text(patterned.path()), "--model", text(&base)]);
    let scales: Vec<_> = (report["targets"].as_array().expect("a list").iter())
        .filter(|target| target["module"].as_str().is_some_and(|module| module.ends_with("q_proj")))
        .map(|target| (target["layer"].as_u64(), target["scale"].as_f64()))
        .collect();
    assert_eq!(scales, [(Some(0), Some(3.0)), (Some(1), Some(6.0)), (Some(2), Some(3.0))]);
}

#[test]
fn an_adapter_as_json() {
    let report = json(&["phi3/adapter", "--model", "phi3", "--check"]);
    assert_eq!((&report["kind"], &report["base"]["checked"]), (&json!("adapter"), &json!(true)));
    assert_eq!(report["base"]["named_by"], "--model");
    assert_eq!(report["alora_invocation_tokens"], Value::Null);
    // Fused modules share their A: it is counted once, as it is stored once.
    let (bytes, disk) =
        (report["bytes"].as_u64().expect("bytes"), report["bytes_on_disk"].as_u64().expect("bytes"));
    assert!(
        bytes == 2 * report["parameters"].as_u64().expect("a count") && bytes < disk,
        "{bytes} of {disk}"
    );
    let header = disk - bytes;
    assert!(header < 8192, "{header} bytes besides the factors");
}

#[test]
fn a_digest_is_computed_once() {
    let (store, of) = (folder(), data("qwen3"));
    let run = || {
        let output = inspect_in(Path::new("/"), store.path(), &[text(&of), "--json"]);
        serde_json::from_str::<Value>(&stdout(output)).expect("one JSON object")
    };
    // Files that were checked out a moment ago are not trusted for two seconds.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let (first, second) = (run(), run());
    assert_eq!((&first["digest_cached"], &second["digest_cached"]), (&json!(false), &json!(true)));
    assert_eq!(first["digest"], second["digest"]);
    assert!(store.path().join("digests.json").is_file());
}

#[test]
fn what_is_refused_exits_with_one_and_prints_nothing() {
    refused(1, &["/nowhere"], &["/nowhere", "no such folder"]);
    refused(1, &["."], &["config.json", "adapter_config.json"]);
    refused(1, &["qwen2/config.json"], &["no such folder"]);
    refused(1, &["gemma2/adapter", "--model", "qwen3"], &["adapter_model.safetensors", "expected"]);
    refused(1, &["gemma2/adapter", "--model", "/nowhere"], &["/nowhere"]);
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo-model/files/adapters/rust-code");
    refused(1, &[text(&demo)], &["--model", "tiny-rust-llama"]);

    let cut = altered(&data("qwen3"), "model.safetensors", |bytes| bytes.truncate(bytes.len() - 1));
    refused(1, &[text(cut.path())], &["model.safetensors"]);
    let damaged = altered(&data("qwen3"), "model.safetensors", |bytes| {
        let last = bytes.len() - 2;
        bytes[last..].copy_from_slice(&[0xff, 0x7f]);
    });
    assert!(inspect(&[text(damaged.path())]).status.success(), "weights are not read to be checked");
    refused(1, &[text(damaged.path()), "--check"], &["model.safetensors", "finite"]);
    let damaged = altered(&data("qwen3/adapter"), "adapter_model.safetensors", |bytes| {
        let last = bytes.len() - 2;
        bytes[last..].copy_from_slice(&[0xff, 0x7f]);
    });
    refused(1, &[text(damaged.path()), "--model", "qwen3"], &["adapter_model.safetensors", "finite"]);
    for odd in ["", "{", "[]", "3", "{\"base_model_name_or_path\": 3}", "\u{0}"] {
        let odd = altered(&data("qwen3/adapter"), "adapter_config.json", |bytes| *bytes = odd.into());
        refused(1, &[text(odd.path())], &[text(odd.path())]);
        refused(1, &[text(odd.path()), "--model", "qwen3"], &["adapter_config.json"]);
    }
}

#[test]
fn what_is_misused_exits_with_two() {
    refused(2, &["gemma2", "--model", "qwen3"], &["--model", "gemma2"]);
    refused(2, &["--model", "qwen3"], &["DIR"]);
    refused(2, &["gemma2", "qwen3"], &["qwen3"]);
}
