//! The `interleaf` binary as a user runs it: what it prints, where, and how it exits.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::{Command, Output};

use interleaf_runtime::{Model, Source};
use serde_json::Value;

fn interleaf(args: &[&str]) -> Output {
    // Not the user's own.
    let store = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("store");
    let mut command = Command::new(env!("CARGO_BIN_EXE_interleaf"));
    command.args(args).env("INTERLEAF_STORE", store).output().expect("the binary starts")
}

fn json(args: &[&str]) -> Value {
    let output = interleaf(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn refused(args: &[&str], words: &[&str]) {
    let output = interleaf(args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{args:?}: {message:?} does not say {word:?}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

fn family(name: &str) -> String {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/families");
    tests.join(name).display().to_string()
}

#[test]
fn the_demo_answers_under_every_adapter() {
    let report = json(&["--json", "--max-tokens", "8"]);
    let rows = report["rows"].as_array().expect("rows");
    let adapters: Vec<&str> = rows.iter().filter_map(|r| r["adapter"].as_str()).collect();
    assert_eq!(
        adapters,
        ["book-prose", "rust-code", "error-codes", "cargo-toml", "api-docs", "release-notes"]
    );
    assert_eq!(rows.len(), 7, "and the base");
    for row in rows {
        assert!(row["tokens"].as_u64().expect("a count") > 0, "{row}");
        assert!(!row["text"].as_str().expect("text").is_empty());
        assert!(row["ttft_ms"].as_f64().expect("a time") > 0.0);
        assert!(row["tokens_per_second"].as_f64().expect("a rate") > 0.0);
        assert_eq!(row["drift"].as_f64(), Some(0.0), "it allows none: {row}");
    }
    let memory = &report["memory"];
    // 5,770,496 parameters in f16, besides rope tables and f32 norms.
    assert!(memory["base"].as_u64().expect("bytes") > 11_000_000);
    assert!(
        memory["adapters"].as_u64().expect("bytes") > 2_500_000 && memory["kv"].as_u64().expect("bytes") > 0
    );
    assert!(report["backend"].as_str().expect("a backend").starts_with("cpu"));
}

#[test]
fn the_demo_has_an_app_killed_and_come_back() {
    let report = json(&["--json", "--max-tokens", "8"]);
    let steps = report["comeback"].as_array().expect("steps");
    let whats: Vec<&str> = steps.iter().filter_map(|step| step["what"].as_str()).collect();
    assert_eq!(whats, ["asks", "goes on", "is killed", "comes back"]);
    let number = |step: usize, field: &str| steps[step]["turn"][field].as_u64().expect("a count");
    for step in [0, 1, 3] {
        assert!(number(step, "tokens") > 0 && number(step, "computed_tokens") > 0);
        assert_eq!(
            number(step, "prompt_tokens"),
            number(step, "reused_tokens") + number(step, "computed_tokens")
        );
    }
    assert!(number(1, "reused_tokens") > number(0, "prompt_tokens"), "the first turn: {report}");
    assert!(number(3, "prompt_tokens") > number(1, "prompt_tokens"), "the conversation goes on: {report}");
    let held = |step: usize| steps[step]["kv_held"].as_u64().expect("bytes");
    assert!(held(2) < held(1) && held(2) < held(3), "what it alone had: {report}");
    let tokens = |step: usize, field: &str| steps[step][field].as_u64().expect("a count");
    assert!(tokens(2, "flash_held") > held(2), "what left memory is on flash: {report}");
    assert!(tokens(3, "flash_tokens") + tokens(3, "recomputed_tokens") > 0, "and comes back: {report}");
    let plain = interleaf(&["--max-tokens", "6"]);
    let text = String::from_utf8(plain.stdout).expect("UTF-8");
    for word in ["comes back", "is killed", "computed", "KV in memory", "from flash", "on flash"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn the_embedded_model_is_saved_as_folders() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |under: &str| folder.path().join(under).display().to_string();
    let saved = interleaf(&["--save", &path("demo")]);
    assert!(saved.status.success());
    assert_eq!(String::from_utf8_lossy(&saved.stdout).lines().count(), 7, "the base and six adapters");
    let (base, adapter) = (path("demo/base"), format!("api-docs={}", path("demo/adapters/api-docs")));
    let short = ["generate", "--json", "--max-tokens", "6"];
    let of_folder = json(&[&short[..], &["--model", &base, "--adapter", &adapter]].concat());
    let embedded = json(&[&short[..], &["--use", "api-docs"]].concat());
    assert_eq!(of_folder["token_ids"], embedded["token_ids"]);
    refused(&["--save", &path("demo")], &["demo/base: exists already"]);
    std::fs::write(path("file"), "").expect("a folder to write in");
    refused(&["--save", &path("file")], &["file"]);
    refused(&["--save", &path("other"), "--json"], &["--json"]);
}

#[test]
fn the_demo_prints_plain_lines_where_nobody_watches() {
    let output = interleaf(&["--max-tokens", "6"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(!text.contains('\u{1b}'), "no escape codes: {text:?}");
    for word in ["(base)", "release-notes", "tokens/s", "first token", "drift, nats", "exact", "memory: base"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn generate_runs_the_demo_model_by_default() {
    let greedy = json(&["generate", "--json", "--max-tokens", "12"]);
    assert_eq!(greedy["adapter"], Value::Null);
    assert_eq!(greedy, {
        let mut again = json(&["generate", "--json", "--max-tokens", "12", "--use", "none"]);
        for field in ["ttft_ms", "tokens_per_second"] {
            again[field] = greedy[field].clone();
        }
        again
    });
    let ids = greedy["token_ids"].as_array().expect("a list").iter();
    let ids: Vec<u32> = ids.map(|id| id.as_u64().and_then(|id| id.try_into().ok()).expect("an id")).collect();
    assert_eq!(ids.len() as u64, greedy["tokens"]);
    let source = Source::Embedded { name: interleaf_demo_model::NAME, files: interleaf_demo_model::BASE };
    let tokenizer = Model::open(source).expect("it opens").tokenizer().expect("sound").expect("it has one");
    assert_eq!(tokenizer.decode(&ids, true).expect("known tokens"), greedy["text"].as_str().expect("text"));
    let adapted = json(&["generate", "--json", "--max-tokens", "12", "--use", "api-docs"]);
    assert_eq!(adapted["adapter"], "api-docs");
    assert_ne!(adapted["text"], greedy["text"]);

    let output = interleaf(&["generate", "--max-tokens", "12"]);
    let shown = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(shown.trim_end_matches('\n'), greedy["text"].as_str().expect("text").trim_end_matches('\n'));
    let summary = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(summary.contains("prompt tokens") && summary.contains("backend: cpu"), "{summary}");
}

#[test]
fn sampling_is_reproducible_and_stops_stop() {
    let drawn = |seed: &str| {
        let args = [
            "generate",
            "--json",
            "--max-tokens",
            "24",
            "--temperature",
            "1.2",
            "--top-k",
            "50",
            "--seed",
            seed,
        ];
        json(&args)["text"].clone()
    };
    assert_eq!(drawn("7"), drawn("7"));
    assert_ne!(drawn("7"), drawn("8"));

    let whole =
        json(&["generate", "--json", "--max-tokens", "24"])["text"].as_str().expect("text").to_owned();
    let stop: String = whole.chars().skip(10).take(4).collect();
    let cut = json(&["generate", "--json", "--max-tokens", "24", "--stop", &stop]);
    assert_eq!(cut["finish_reason"], "stop");
    assert_eq!(cut["text"].as_str().expect("text"), &whole[..whole.find(&stop).expect("it is there")]);
}

#[test]
fn adapters_from_disk_are_used_by_name() {
    let (model, adapter) = (family("llama-bias"), format!("own={}/adapter", family("llama-bias")));
    // No tokenizer there: the model and the adapter load, and the refusal names what is missing.
    refused(&["generate", "--model", &model, "--adapter", &adapter], &["tokenizer.json"]);
    refused(&["generate", "--model", &model, "--adapter", &adapter, "--use", "other"], &["other", "own"]);
    refused(&["generate", "--use", "nobody"], &["nobody", "api-docs"]);
    refused(&["generate", "--model", "/nowhere"], &["/nowhere"]);
    refused(&["generate", "--adapter", "broken=/nowhere"], &["/nowhere"]);
    let wrong_base = format!("other={}/adapter", family("llama-bias"));
    refused(&["generate", "--adapter", &wrong_base], &["adapter_model.safetensors"]);
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    refused(&["generate", "--temperature", "-1"], &["temperature"]);
    refused(&["generate", "--top-p", "0"], &["top-p", "above 0"]);
    refused(&["generate", "--min-p", "2"], &["min-p"]);
    refused(&["generate", "--raw", "--system", "x"], &["--system"]);
    refused(&["generate", "--adapter", "nameless"], &["NAME=DIR"]);
    refused(&["perplexity", "--text", "/nowhere"], &["/nowhere"]);
    refused(&["frobnicate"], &["frobnicate"]);
}

/// Whether there is a GPU; says so if not, which is a failure where one is required.
fn has_gpu() -> bool {
    let found = interleaf(&["--backend", "gpu", "--max-tokens", "1"]).status.success();
    assert!(found || std::env::var_os("INTERLEAF_REQUIRE_GPU").is_none(), "no GPU");
    if !found {
        println!("SKIPPED: there is no GPU");
    }
    found
}

#[test]
fn the_gpu_answers_as_the_cpu_does() {
    if !has_gpu() {
        return;
    }
    let answers = |backend| {
        let report = json(&["--json", "--max-tokens", "8", "--backend", backend]);
        report["rows"].as_array().expect("a list").iter().map(|a| a["text"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(answers("gpu"), answers("cpu"));
}

#[test]
fn a_gpu_that_is_not_there_is_refused_by_name() {
    refused(&["--backend", "gpu", "--gpu-adapter", "abacus"], &["gpu", "no adapter named like", "abacus"]);
    refused(
        &["generate", "--backend", "gpu", "--gpu-variant", "fastest"],
        &["fastest", "baseline", "staged-half"],
    );
}

#[test]
fn the_doctor_examines_every_variant() {
    if !has_gpu() {
        return;
    }
    let store = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("doctor");
    let store = store.display().to_string();
    let found = json(&["doctor", "--json", "--store", &store]);
    let adapters = found["adapters"].as_array().expect("a list");
    assert!(!adapters.is_empty());
    for adapter in adapters {
        let variants = adapter["variants"].as_array().expect("a list");
        assert_eq!(variants.len(), 7, "the best and each by name");
        assert!(variants.iter().all(|v| v["right"] != false), "{variants:?}");
        assert_eq!(variants[1]["right"], true, "the baseline runs everywhere: {variants:?}");
        assert!(adapter["chosen"].is_array() && adapter["faster"].is_array(), "{adapter}");
    }
    // A CPU that poses as a GPU is not faster than the CPU.
    if adapters.iter().all(|a| a["kind"] == "Cpu") {
        assert_eq!(found["auto"], "cpu");
    }
    let kept = std::fs::read_to_string(PathBuf::from(&store).join("gpu-verdicts.json")).expect("verdicts");
    assert!(kept.contains(adapters[0]["driver"].as_str().expect("a name")), "{kept}");
}

#[test]
fn verify_reports_cases_and_exits_by_the_verdict() {
    let folder = family("llama-bias");
    let golden = format!("{folder}/golden");
    let args = ["verify", "--model", &folder, "--golden", &golden, "--pages", "f32", "--json"];
    let report = json(&args);
    assert_eq!(report["passed"], true);
    let cases = report["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 6);
    let fields = [
        "model",
        "adapter",
        "prompt",
        "max_abs_logit_error",
        "mean_abs_logit_error",
        "top1_agreement",
        "greedy_equal",
        "kv_max_abs_error",
        "perplexity",
        "perplexity_golden",
    ];
    for field in fields {
        assert!(cases[1].as_object().expect("an object").contains_key(field), "{field}");
    }

    // Another model's golden: the same shapes, other numbers.
    let other = family("llama-rope3");
    let adapter = format!("{other}/adapter");
    let output = interleaf(&["verify", "--model", &other, "--golden", &golden, "--adapters", &adapter]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("FAILED") && text.contains("max |logit|"), "{text}");

    refused(&["verify", "--golden", "/nowhere"], &["/nowhere"]);
    refused(&["verify", "--model", &folder, "--golden", &folder], &["index.json"]);
    refused(&["verify", "--model", &folder, "--golden", &golden, "--adapters", "/nowhere"], &["/nowhere"]);
}

#[test]
fn a_suite_is_every_golden_set_on_every_backend() {
    let families = family("");
    let report = json(&["verify", "--suite", &families, "--pages", "f32", "--json"]);
    assert_eq!(report["passed"], true);
    let runs = report["runs"].as_array().expect("runs");
    let found: Vec<(&str, &str)> =
        runs.iter().filter_map(|run| Some((run["set"].as_str()?, run["backend"].as_str()?))).collect();
    let sets = std::fs::read_dir(&families).expect("lists").count();
    assert_eq!((found.len(), found[0], found[1]), (2 * sets, ("gemma2", "ref"), ("gemma2", "cpu")));
    assert!(found.contains(&("llama-rope3-alora", "cpu")), "its base is beside it");
    for run in runs {
        let targets = run["targets"].as_array().expect("targets");
        assert_eq!((&targets[0]["adapter"], &targets[1]["adapter"]), (&"base".into(), &"adapter".into()));
        for target in targets {
            let error = target["max_abs_logit_error"].as_f64().expect("a number");
            assert!(error > 0.0 && error <= target["logit_error_bound"].as_f64().expect("a number"), "{run}");
            assert_eq!((&target["greedy_equal"], &target["passed"]), (&true.into(), &true.into()));
        }
    }
}

/// A suite with a wrong golden set and one that is refused: each is said, and the others run.
#[test]
fn a_suite_says_what_is_wrong() {
    let suite = tempfile::tempdir().expect("a folder");
    let copy = |from: String, to: PathBuf| {
        std::fs::create_dir_all(&to).expect("a folder");
        for path in std::fs::read_dir(from).expect("lists").map(|entry| entry.expect("an entry").path()) {
            if path.is_file() {
                std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copies");
            }
        }
    };
    for (set, model, golden) in [("good", "qwen2", "qwen2"), ("wrong", "llama-rope3", "llama-bias")] {
        let folder = suite.path().join(set);
        copy(family(model), folder.clone());
        copy(family(&format!("{model}/adapter")), folder.join("adapter"));
        copy(family(&format!("{golden}/golden")), folder.join("golden"));
    }
    let path = suite.path().display().to_string();
    let run = |code: i32, words: &[&str]| {
        let output = interleaf(&["verify", "--suite", &path, "--backends", "cpu"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        for word in words {
            assert!(text.contains(word), "{text:?} does not say {word:?}");
        }
    };
    run(1, &["FAILED: 1 of 2 runs", "wrong on cpu: beyond a bound: base p0"]);
    std::fs::remove_file(suite.path().join("wrong/model.safetensors.index.json")).expect("it is there");
    run(2, &["refused", "wrong on cpu: ", "model.safetensors", "FAILED: 1 of 2 runs"]);

    refused(&["verify"], &["--golden"]);
    refused(&["verify", "--suite", &path, "--golden", &path], &["--suite", "--golden"]);
    refused(&["verify", "--suite", &path, "--backend", "cpu"], &["--suite", "--backend"]);
    refused(&["verify", "--golden", &path, "--backends", "cpu"], &["--backends", "--golden"]);
    refused(&["verify", "--suite", "/nowhere"], &["/nowhere"]);
    refused(&["verify", "--suite", &format!("{path}/good/adapter")], &["golden/"]);
}

#[test]
fn perplexity_of_a_text() {
    let text = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/text/heldout_mixed.txt");
    let text = text.display().to_string();
    let base = json(&["perplexity", "--text", &text, "--json"]);
    let adapted = json(&["perplexity", "--text", &text, "--json", "--use", "api-docs"]);
    let value = |report: &Value| report["perplexity"].as_f64().expect("a number");
    // The golden perplexity of about the same text, cut into the same number of windows, is 14.96.
    assert!((13.0..17.0).contains(&value(&base)), "{base}");
    assert!(value(&adapted) > 1.3 * value(&base), "{adapted}");
    assert_eq!(base["tokens"].as_u64().expect("a count"), adapted["tokens"].as_u64().expect("a count"));
    refused(&["perplexity", "--text", &text, "--window", "0"], &["--window"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_answer_and_still_prints_the_summary() {
    use std::io::Read;
    let mut child = Command::new(env!("CARGO_BIN_EXE_interleaf"))
        .args(["generate", "--backend", "ref", "--max-tokens", "1800", "--raw", "--prompt", "fn main"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdout = child.stdout.take().expect("piped");
    let mut first = [0];
    stdout.read_exact(&mut first).expect("the answer begins");
    let killed =
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert!(killed.success());
    let output = child.wait_with_output().expect("it ends");
    let summary = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{summary}");
    assert!(summary.contains("(cancelled)") && summary.contains("memory:"), "{summary}");
}

#[test]
fn a_router_is_trained_kept_measured_and_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("prompts.jsonl");
    let line = |at: usize, split: &str| {
        let (adapter, prompt) = match at % 2 {
            0 => ("error-codes", format!("The compiler says E04{at:02}. Why?")),
            _ => ("cargo-toml", format!("Where in Cargo.toml do I set feature {at}?")),
        };
        serde_json::json!({ "prompt": prompt, "adapter": adapter, "split": split }).to_string()
    };
    let lines: Vec<String> = (0..32).map(|at| line(at, if at < 24 { "train" } else { "test" })).collect();
    std::fs::write(&data, lines.join("\n")).expect("it is written");
    let (data, store) = (data.display().to_string(), folder.path().join("store").display().to_string());
    let of = |more: &[&'static str]| -> Vec<String> {
        let all = more.iter().map(ToString::to_string);
        all.chain(["--store".into(), store.clone(), "--json".into()]).collect()
    };
    let run = |args: Vec<String>| json(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let with_data = |mut args: Vec<String>| {
        args.extend(["--data".into(), data.clone()]);
        args
    };

    let args = of(&["generate", "--route", "--max-tokens", "4"]);
    refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), &["no router is kept", "router train"]);
    let trained = run(with_data(of(&["router", "train", "--tokens", "64"])));
    assert_eq!((trained["prompts"].as_u64(), trained["scored_tokens"].as_u64()), (Some(24), Some(64)));
    assert_eq!(trained["labels"], serde_json::json!(["cargo-toml", "error-codes"]));
    let file = trained["file"].as_str().expect("a path");
    assert!(file.starts_with(&store) && std::fs::metadata(file).is_ok_and(|file| file.len() > 1000));

    let found = run(with_data(of(&["router", "eval"])));
    assert_eq!(found["prompts"].as_u64(), Some(8));
    let ways: Vec<&str> =
        found["ways"].as_array().expect("ways").iter().filter_map(|w| w["way"].as_str()).collect();
    assert_eq!(ways, ["best single", "bag of tokens", "hidden states", "oracle"]);
    assert_eq!(found["ways"][2]["top"][0].as_f64(), Some(1.0), "nothing is easier: {found}");
    assert_eq!(found["residents"].as_array().map(Vec::len), Some(4));
    assert!(found["cost"]["share_of_prefill"].as_f64().is_some_and(|share| share > 0.0));

    let answer =
        run(of(&["generate", "--route", "--max-tokens", "4", "--prompt", "The compiler says E0499. Why?"]));
    assert_eq!(answer["adapter"], "error-codes");
    assert_eq!(answer["routed"][0]["label"], "error-codes");
}

#[test]
fn prompts_that_are_none_are_refused_by_file_and_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("prompts.jsonl");
    std::fs::write(&data, "{\"prompt\": \"p\", \"adapter\": \"a\"}\n{\"prompt\": 3}\n")
        .expect("it is written");
    let data = data.display().to_string();
    refused(&["router", "train", "--data", &data], &["prompts.jsonl, line 2", "prompt must be a text"]);
    refused(&["router", "eval", "--data", "absent.jsonl"], &["absent.jsonl"]);
    refused(&["router", "train", "--tokens", "0"], &["--tokens"]);
    refused(&["router", "train", "--model", "x"], &["--data"]);
    refused(&["router", "eval", "--router", "absent.safetensors"], &["absent.safetensors", "no such file"]);
    refused(&["generate", "--route", "--use", "api-docs"], &["--use"]);
}
