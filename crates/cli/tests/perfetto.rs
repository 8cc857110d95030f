//! `--perfetto FILE`: what is recorded opens as a trace, its spans nest, and the kernels have a track.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn interleaf(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interleaf"));
    command.args(args).current_dir(folder).env_remove("INTERLEAF_STORE").env_remove("RUST_LOG");
    command.output().expect("the binary starts")
}

fn succeeded(folder: &Path, args: &[&str]) {
    let output = interleaf(folder, args);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {}{told}", String::from_utf8_lossy(&output.stdout));
}

/// The names of a trace's spans and kernels, once it has been found to be one.
fn names(file: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let text = std::fs::read_to_string(file).expect("it was written");
    let events: Vec<Value> = serde_json::from_str(&text).expect("an array of events");
    let mut tracks: BTreeMap<u64, (f64, Vec<String>)> = BTreeMap::new();
    let mut called: BTreeMap<u64, String> = BTreeMap::new();
    let (mut spans, mut kernels) = (BTreeSet::new(), BTreeSet::new());
    for event in &events {
        let name = event["name"].as_str().expect("a name").to_owned();
        let (kind, tid) = (event["ph"].as_str().expect("a kind"), event["tid"].as_u64().expect("a track"));
        assert!(event["pid"].is_u64(), "{event}");
        if kind == "M" {
            if name == "thread_name" {
                called.insert(tid, event["args"]["name"].as_str().expect("a name").to_owned());
            }
            continue;
        }
        let at = event["ts"].as_f64().expect("a time");
        let (last, open) = tracks.entry(tid).or_default();
        assert!(at >= *last, "times ascend on each track: {event}");
        *last = at;
        match kind {
            "B" => open.push(name),
            "E" => {
                assert_eq!(open.pop().as_ref(), Some(&name), "spans nest: {event}");
                spans.insert(name);
            }
            "X" => {
                assert_eq!(called.get(&tid).map(String::as_str), Some("kernels"), "{event}");
                *last += event["dur"].as_f64().expect("a duration");
                assert!(event["args"]["dispatches"].as_u64().is_some_and(|count| count > 0), "{event}");
                kernels.insert(name);
            }
            "i" => {}
            other => panic!("a kind of event that is not written: {other}"),
        }
    }
    for (tid, (_, open)) in &tracks {
        assert!(open.is_empty(), "what began has ended: {open:?}");
        assert!(called.contains_key(tid), "every track has a name");
    }
    (spans, kernels)
}

#[test]
fn an_answer_is_recorded_with_its_steps_and_kernels() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("trace.json");
    let args = ["generate", "--backend", "cpu", "--max-tokens", "4", "--perfetto", "trace.json"];
    succeeded(folder.path(), &args);
    let (spans, kernels) = names(&file);
    for span in ["turn", "open", "step"] {
        assert!(spans.contains(span), "{span}: {spans:?}");
    }
    for kernel in ["embed", "rms_norm", "lora_matmul", "kv_append", "paged_attention", "sample"] {
        assert!(kernels.contains(kernel), "{kernel}: {kernels:?}");
    }
}

#[test]
fn a_service_is_recorded_with_what_it_swaps_and_loads() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = "app mail\nopen mail as a\nsay a adapter rust-code max 8 What is ownership?\nwait\n\
                  trim warning\nsay a adapter rust-code max 8 And borrowing?\nwait\nstats\n";
    std::fs::write(folder.path().join("play.txt"), script).expect("a folder to write in");
    let args =
        ["service", "--backend", "cpu", "--context", "512", "--script", "play.txt", "--store", "store"];
    let tiers = ["--swap", "16MiB", "--flash-profile", "ufs-4.0", "--pool-adapters"];
    succeeded(folder.path(), &[&args[..], &tiers, &["--perfetto", "trace.json"]].concat());
    let (spans, kernels) = names(&folder.path().join("trace.json"));
    for span in ["load_adapter", "read_adapter", "swap_out", "encode", "write_context", "step"] {
        assert!(spans.contains(span), "{span}: {spans:?}");
    }
    assert!(
        spans.contains("swap_in") || spans.contains("recompute"),
        "what was swapped comes back: {spans:?}"
    );
    assert!(kernels.contains("lora_matmul"), "{kernels:?}");
}

#[test]
fn a_file_that_cannot_be_written_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let output =
        interleaf(folder.path(), &["generate", "--backend", "cpu", "--perfetto", "no/such/trace.json"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("no/such/trace.json: "), "{told}");
    assert!(output.stdout.is_empty(), "nothing was computed for it");
}
