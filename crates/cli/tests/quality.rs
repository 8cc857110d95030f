//! `interleaf quality` and `interleaf calibrate` as a user runs them.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use interleaf_demo_model as demo_model;
use interleaf_runtime::{Calibration, Digest, Model, Source, write_calibration};
use serde_json::Value;

fn interleaf(store: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interleaf"));
    command.args(args).env("INTERLEAF_STORE", store).output().expect("the binary starts")
}

fn data(path: &str) -> String {
    format!("{}/../../tests/data/{path}", env!("CARGO_MANIFEST_DIR"))
}

fn json(store: &Path, args: &[&str]) -> Value {
    let output = interleaf(store, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn codecs_are_measured_and_drawn() {
    let folder = tempfile::tempdir().expect("a folder");
    let plot = folder.path().join("quality.svg");
    let plot = plot.to_str().expect("a path of text");
    let args =
        ["quality", "--adapters", "rust-code", "--codecs", "f16,base,delta-4,mobilora", "--sequences", "1"];
    let report = json(folder.path(), &[&args[..], &["--json", "--plot", plot]].concat());
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 4 * 2);
    let number = |codec: &str, field: &str| -> f64 {
        let row = rows.iter().find(|row| row["codec"] == codec).expect("a row");
        row[field].as_f64().expect("a number")
    };
    assert_eq!([number("f16", "bits"), number("base", "bits"), number("delta-4", "bits")], [16.0, 0.0, 4.5]);
    assert_eq!(number("delta-4", "bytes_per_token_with_base"), 864.0 + 3072.0);
    assert_eq!(number("delta-4", "bytes_per_token_shared"), (864.0 + 3072.0) / 2.0);
    assert!(number("f16", "kl_mean") < 1e-6);
    assert!(number("delta-4", "kl_mean") < 0.1 * number("base", "kl_mean"));
    assert!(number("mobilora", "e_k") < number("delta-4", "e_k"));
    assert!(number("delta-4", "top1") > 0.95 && (number("delta-4", "ppl_ratio") - 1.0).abs() < 0.01);
    let svg = std::fs::read_to_string(plot).expect("a plot");
    assert!(svg.starts_with("<svg") && svg.contains("delta-4") && svg.ends_with("</svg>\n"));
    // Nothing was calibrated, for nothing needed it.
    assert!(!folder.path().join("calibrations").exists());
}

#[test]
fn what_the_machine_takes_is_measured_and_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = ["calibrate", "--device", "--backend", "cpu"];
    let report = json(folder.path(), &[&args[..], &["--json"]].concat());
    for (points, each) in [("computed", "recompute"), ("bytes_read", "read")] {
        let seconds = report["measure"][points].as_array().expect("points").iter().map(|at| at[1].as_f64());
        assert!(seconds.clone().count() == 5 && seconds.flatten().all(|took| took > 0.0), "{report}");
        assert!(report["measure"][each][0].as_f64().is_some_and(|fixed| fixed >= 0.0), "{report}");
    }
    let kept: Vec<_> = std::fs::read_dir(folder.path().join("swap")).expect("a folder").collect();
    let names: Vec<_> = kept.into_iter().map(|file| file.expect("a file").file_name()).collect();
    assert!(names.len() == 1 && names[0].to_string_lossy().starts_with("costs-"), "{names:?}");
    let plain = String::from_utf8(interleaf(folder.path(), &args).stdout).expect("UTF-8");
    for words in
        ["computing again", "for each chunk of 16 tokens", "MB/s", "compute 16 chunks", "read 8.0 MiB"]
    {
        assert!(plain.contains(words), "{words}: {plain}");
    }
}

#[test]
fn budgets_are_kept_and_what_is_held_shrinks_with_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let plot = folder.path().join("budgets.svg");
    let plot = plot.to_str().expect("a path of text");
    let args = ["quality", "--adapters", "release-notes", "--budgets", "1e-5,1e-3", "--uncalibrated"];
    let more = ["--anchor", "q8", "--sequences", "3", "--json", "--plot", plot];
    let report = json(folder.path(), &[&args[..], &more].concat());
    let (pairs, held) =
        (report["pairs"].as_array().expect("pairs"), report["held"].as_array().expect("held"));
    // Two settings, three windows, two budgets; all on one prefix exact, and within each.
    assert_eq!((pairs.len(), held.len()), (2 * 3 * 2, 3));
    let number = |of: &Value, field: &str| of[field].as_f64().expect("a number");
    for pair in pairs {
        let (lost, said) = (number(pair, "kl_mean"), number(pair, "estimated"));
        assert!(lost > 0.0 && lost <= said && said <= number(pair, "budget"), "{pair}");
    }
    assert_eq!(number(&held[0], "kl_mean"), 0.0);
    assert_eq!(held[0]["bytes"], held[0]["unshared_bytes"], "{}", held[0]);
    assert!(number(&held[2], "bytes") < number(&held[1], "bytes"), "{held:?}");
    assert!(number(&held[2], "ratio") < 0.5 && held[2]["bytes_by_codec"]["delta-4"].is_u64(), "{}", held[2]);
    let svg = std::fs::read_to_string(plot).expect("a plot");
    assert!(svg.starts_with("<svg") && svg.contains("100.0 % kept") && svg.ends_with("</svg>\n"));
}

#[test]
fn a_first_touch_is_measured_beside_what_the_engine_makes_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = ["quality", "--first-touch", "--adapters", "cargo-toml", "--prefixes", "128,256"];
    let report = json(folder.path(), &[&args[..], &["--sequences", "2", "--json"]].concat());
    let rows = report["rows"].as_array().expect("rows");
    // Two settings; nine methods, of which one leaves nothing to translate of 128 tokens.
    assert_eq!(rows.len(), 2 * (8 + 9));
    let kl = |prefix: u64, method: &str| -> f64 {
        let is_it = |row: &&Value| row["prefix"] == prefix && row["method"] == method;
        let found: Vec<f64> =
            rows.iter().filter(is_it).map(|row| row["kl_mean"].as_f64().expect("a number")).collect();
        assert_eq!(found.len(), 2, "{prefix} {method}");
        found.iter().sum::<f64>() / 2.0
    };
    for prefix in [128, 256] {
        assert!(kl(prefix, "full prefill") < 1e-6);
        assert!(kl(prefix, "translated") < 0.5 * kl(prefix, "base"));
        assert!(kl(prefix, "translated + last 64") < 0.5 * kl(prefix, "translated"));
        assert!(kl(prefix, "translated + last 64") < kl(prefix, "base + last 64"));
    }
    let share = |method: &str| -> f64 {
        let row = rows.iter().find(|row| row["prefix"] == 256 && row["method"] == method).expect("a row");
        row["flops"].as_f64().expect("a number")
    };
    assert_eq!((share("base"), share("full prefill")), (0.0, 1.0));
    assert!(share("translated") < 0.05 && share("translated + last 64") < 0.35);
    assert_eq!(report["choices"].as_array().expect("choices").len(), 2 * 3);
    for budget in report["budgets"].as_array().expect("budgets") {
        assert_eq!(budget["pairs"], 2 * 2 * 2);
        assert_eq!(budget["kept"], budget["translated"], "{budget}");
    }
    assert_eq!(report["budgets"][2]["translated"], report["budgets"][2]["pairs"]);
    // Nothing is calibrated twice.
    let before = std::fs::read_dir(folder.path().join("calibrations")).expect("a folder").count();
    assert_eq!(before, 1);
    let refused = interleaf(folder.path(), &["quality", "--first-touch", "--prefixes", "4000"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--prefixes must be from 1 to 1856"));
}

#[test]
fn first_touches_of_a_model_of_narrow_keys_keep_their_budgets() {
    let folder = tempfile::tempdir().expect("a folder");
    let [base, adapter] =
        ["base", "adapters/cargo-toml"].map(|part| data(&format!("tiny-narrow-llama/{part}")));
    let args = ["quality", "--first-touch", "--model", &base, "--adapters", &adapter, "--prefixes", "256"];
    let report = json(folder.path(), &[&args[..], &["--sequences", "2", "--json"]].concat());
    let rows = report["rows"].as_array().expect("rows");
    let computes_64: Vec<f64> = rows
        .iter()
        .filter(|row| row["method"] == "translated + last 64")
        .map(|row| row["kl_mean"].as_f64().expect("a number"))
        .collect();
    assert!(computes_64.len() == 2 && computes_64.iter().all(|kl| *kl < 2e-4), "{computes_64:?}");
    let budgets = report["budgets"].as_array().expect("budgets");
    assert_eq!(budgets.len(), 3);
    for budget in budgets {
        assert_eq!(
            (&budget["kept"], &budget["translated"]),
            (&budget["translated"], &budget["pairs"]),
            "{budget}"
        );
    }
}

#[test]
fn widths_by_attention_are_measured_beside_other_orders_of_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let args =
        ["quality", "--widths", "--adapters", "rust-code", "--sequences", "3", "--ratios", "0.375,0.5,0.53"];
    let report = json(folder.path(), &[&args[..], &["--json"]].concat());
    let rows = report["rows"].as_array().expect("rows");
    // Two settings: six orders at three ratios, and what all chunks cost in one width.
    assert_eq!(rows.len(), 2 * (3 * 6 + 7));
    let mean = |ratio: Value, method: &str, field: &str| -> f64 {
        let is_it = |row: &&Value| row["ratio"] == ratio && row["method"] == method;
        let found: Vec<f64> =
            rows.iter().filter(is_it).map(|row| row[field].as_f64().expect("a number")).collect();
        assert_eq!(found.len(), 2, "{ratio} {method}");
        found.iter().sum::<f64>() / 2.0
    };
    let at = |method: &str, field: &str| mean(0.375.into(), method, field);
    let all = |method: &str, field: &str| mean(Value::Null, method, field);
    let [mass, random, oldest] =
        ["by attention mass", "at random", "oldest widest"].map(|method| at(method, "kl_mean"));
    assert!(2.0 * mass <= random && 2.0 * mass <= oldest, "{mass}, {random}, {oldest}");
    for method in ["by attention mass", "at random", "oldest widest", "newest widest"] {
        assert!(at(method, "bytes") <= 0.375, "{method}");
        assert!(all("all 8 bits", "kl_mean") < at(method, "kl_mean"), "{method}");
        assert!(at(method, "kl_mean") < all("all 2 bits", "kl_mean"), "{method}");
    }
    // Of a few layers and heads it costs hardly more.
    assert!(at("by attention mass, 1 of 2 layers and 2 heads", "kl_mean") < 1.5 * mass);
    let half = |method: &str, field: &str| mean(0.5.into(), method, field);
    let [mass, random, oldest] =
        ["by attention mass", "at random", "oldest widest"].map(|method| half(method, "kl_mean"));
    assert!(mass < random && 2.0 * mass <= oldest, "{mass}, {random}, {oldest}");
    assert!(half("by attention mass", "bytes") <= 0.5);
    assert!((half("by attention mass", "ppl_ratio") - 1.0).abs() < 0.005);
    // With as many bytes as 4 bits take for all the rule finds nothing better than these.
    let four = mean(0.53.into(), "by attention mass", "kl_mean");
    assert!(mass > four && four <= 1.0001 * all("all 4 bits", "kl_mean"), "{four}");
    for mass in report["mass"].as_array().expect("masses") {
        let [tenth, half] = [0, 2].map(|place| mass["top"][place].as_f64().expect("a share"));
        assert!(tenth > 0.1 && half > 0.5 && tenth < half && half < 1.0, "{mass}");
        let agreement = mass["samplings"][0]["agreement"][0].as_f64().expect("a number");
        assert!(agreement > 0.8, "{mass}");
    }
    // Less than all take at 2 bits.
    let refused = interleaf(folder.path(), &["quality", "--widths", "--sequences", "1", "--ratios", "0.2"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("at their narrowest"));
    let refused = interleaf(folder.path(), &["quality", "--widths", "--newest", "32"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--newest"));
}

/// A model with the demo's tokenizer, under adapters that are called as the demo's.
#[test]
fn another_model_is_measured_on_the_demo_models_windows() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, adapter) = (data("tiny-narrow-llama/base"), data("tiny-narrow-llama/adapters/rust-code"));
    let codecs = "q8,base,delta-4,own-products";
    let args = ["quality", "--model", &model, "--adapters", &adapter, "--codecs", codecs, "--anchor", "q8"];
    let report = json(folder.path(), &[&args[..], &["--sequences", "1", "--json"]].concat());
    assert_eq!((&report["model"], &report["anchor"]), (&"tiny-narrow-llama".into(), &"q8".into()));
    let text = "the demo model's windows, same document";
    assert_eq!((&report["windows"][0]["text"], &report["windows"][0]["windows"]), (&text.into(), &1.into()));
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 4 * 2);
    let number = |codec: &str, field: &str| -> f64 {
        let row = rows.iter().find(|row| row["codec"] == codec).expect("a row");
        row[field].as_f64().expect("a number")
    };
    // Twelve matrices of 64 channels: codes, and scales by the page for keys and by the token for values.
    let base = number("q8", "bytes_per_token");
    assert_eq!([base, number("delta-4", "bytes_per_token")], [810.0, 12.0 * 36.0]);
    for codec in ["base", "delta-4", "own-products"] {
        assert_eq!(number(codec, "base_bytes_per_token"), base);
    }
    assert_eq!(number("delta-4", "bytes_per_token_with_base"), 810.0 + 432.0);
    // 32 coefficients each.
    assert_eq!(number("own-products", "bytes_per_token"), 12.0 * 64.0);
    assert!(number("own-products", "kl_mean") < 0.8 * number("base", "kl_mean"));
    assert!(number("delta-4", "kl_mean") < 0.1 * number("own-products", "kl_mean"));
}

#[test]
fn another_models_adapter_is_calibrated_on_the_demo_models_windows() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, adapter) = (data("tiny-narrow-llama/base"), data("tiny-narrow-llama/adapters/book-prose"));
    let report = json(folder.path(), &["calibrate", "--model", &model, "--adapter", &adapter, "--json"]);
    assert_eq!(report["rows"][0]["text"], "the demo model's windows for book-prose");
}

#[test]
fn a_calibration_is_kept_and_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo-model/files/calib/cargo-toml.txt");
    let report = json(folder.path(), &["calibrate", "--adapter", "cargo-toml", "--text", text, "--json"]);
    let row = &report["rows"][0];
    assert!(row["fitted_windows"].as_u64().expect("windows") > 8, "{row}");
    assert!(Path::new(row["file"].as_str().expect("a file")).starts_with(folder.path()));
    let args =
        ["quality", "--adapters", "cargo-toml", "--codecs", "base,low-rank-16-int4", "--sequences", "1"];
    let output = interleaf(folder.path(), &[&args[..], &["--json"]].concat());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !message.contains("calibrated first"), "{message}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let kl = |i: usize| report["rows"][i]["kl_mean"].as_f64().expect("a number");
    assert!(kl(1) < 0.3 * kl(0), "{report}");
    let of = &report["calibrations"][0];
    assert_eq!((&of["text"], &of["is_measured_on"]), (&text.into(), &false.into()));
    // Of the same text, wherever it lies, the figures are said to be worth little.
    let copy = folder.path().join("copy.txt");
    std::fs::copy(text, &copy).expect("copies");
    let copy = copy.to_str().expect("a path of text");
    let args = ["quality", "--adapters", "cargo-toml", "--sequences", "3", "--text", copy];
    let output = interleaf(folder.path(), &[&args[..], &["--budgets", "1e-3", "--json"]].concat());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let told = format!("warning: cargo-toml: calibrated on {} of {text}, the very text", of["windows"]);
    assert!(output.status.success() && message.contains(&told), "{message}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let same = &report["calibrations"][0];
    assert_eq!((&same["is_measured_on"], &same["text_digest"]), (&true.into(), &of["text_digest"]));
    assert_eq!((&report["windows"][0]["text"], &report["windows"][0]["windows"]), (&copy.into(), &3.into()));
    goes_to_rest(folder.path());
    is_not_replaced_unasked(folder.path(), Path::new(row["file"].as_str().expect("a file")), text);
}

const AT_REST: [&str; 9] =
    ["quality", "--adapters", "cargo-toml", "--sequences", "3", "--budgets", "1e-3", "--at-rest", "--json"];

/// What is kept of calls within a budget goes to rest, and the budget holds.
fn goes_to_rest(store: &Path) {
    let report = json(store, &AT_REST);
    assert_eq!(report["at_rest"], true);
    let number = |of: &Value, field: &str| of[field].as_f64().expect("a number");
    for pair in report["pairs"].as_array().expect("pairs") {
        let (lost, said) = (number(pair, "kl_mean"), number(pair, "estimated"));
        assert!(lost > 0.0 && lost <= said && said <= number(pair, "budget"), "{pair}");
    }
    let held = report["held"].as_array().expect("held");
    let rests = |held: &Value| -> bool {
        let codecs = held["bytes_by_codec"].as_object().expect("codecs");
        codecs.iter().any(|(codec, bytes)| codec.starts_with("joint+") && bytes.as_u64() > Some(0))
    };
    let map_bytes = |held: &Value| held["map_bytes"].as_u64().expect("bytes");
    assert_eq!((held.len(), rests(&held[0]), rests(&held[1])), (2, false, true), "{held:?}");
    assert!(map_bytes(&held[0]) == 0 && map_bytes(&held[1]) > 0, "{held:?}");
}

/// What was calibrated on a text that somebody chose stays in the store, whatever is asked of it that it does not say.
fn is_not_replaced_unasked(store: &Path, file: &Path, text: &str) {
    let refused = |args: &[&str], words: &[&str]| {
        let before = std::fs::read(file).expect("it is there");
        let output = interleaf(store, args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        words.iter().for_each(|word| assert!(message.contains(word), "{word}: {message}"));
        assert_eq!(std::fs::read(file).expect("it is there"), before);
    };
    let base = Source::Embedded { name: demo_model::NAME, files: demo_model::BASE };
    let model = Model::open(base).expect("it opens");
    let [name, stem] = [file.file_name(), file.file_stem()].map(|name| name.and_then(|name| name.to_str()));
    let adapter = stem.and_then(Digest::from_hex).expect("a digest");
    let source = Source::dir(file.parent().expect("a folder"));
    let kept = Calibration::read(&source, name.expect("a name"), model.config(), model.digest(), adapter);
    let mut calibration = kept.expect("it is whole");
    // As one of old, then as one of a model that is too wide for a map, then damaged.
    calibration.rest.clear();
    write_calibration(file, &calibration).expect("room on the disk");
    refused(&AT_REST, &["cargo-toml: its calibration in the store is not replaced unasked", text, "at rest"]);
    calibration.joint = None;
    calibration.touches.clear();
    write_calibration(file, &calibration).expect("room on the disk");
    refused(&AT_REST, &["--at-rest: nothing of cargo-toml goes to rest", "6144"]);
    let bytes = std::fs::read(file).expect("it is there");
    std::fs::write(file, &bytes[..bytes.len() / 2]).expect("room on the disk");
    let args = ["quality", "--adapters", "cargo-toml", "--codecs", "low-rank-16-int4", "--sequences", "1"];
    refused(&args, &["not replaced unasked", name.expect("a name"), "`interleaf calibrate`"]);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let [qwen3, its_adapter] = [data("families/qwen3"), data("families/qwen3/adapter")];
    let other = folder.path().join("other");
    std::fs::create_dir(&other).expect("a folder");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let from = Path::new(&data("tiny-narrow-llama/adapters/book-prose")).join(file);
        std::fs::copy(from, other.join(file)).expect("copies");
    }
    let (narrow, other) = (data("tiny-narrow-llama/base"), other.display().to_string());
    for (args, words) in [
        (&["quality", "--codecs", "delta-3"][..], "no codec \"delta-3\"; there are: f16, q8-grouped"),
        (&["quality", "--sequences", "0"], "--sequences must be at least 1"),
        (&["quality", "--budgets", "1e-4", "--codecs", "q8"], "cannot be used with"),
        (&["quality", "--uncalibrated"], "--budgets"),
        (&["quality", "--codecs", "q8", "--uncalibrated"], "cannot be used with"),
        (&["quality", "--codecs", "q8", "--at-rest"], "cannot be used with"),
        (
            &[
                "quality",
                "--budgets",
                "1e-4",
                "--uncalibrated",
                "--adapters",
                "rust-code",
                "--sequences",
                "1",
            ],
            "needs more windows than 1",
        ),
        (&["quality", "--model", &narrow], "--adapters"),
        (
            &["quality", "--model", &qwen3, "--adapters", &its_adapter, "--codecs", "base"],
            "adapter: the model's tokenizer is not the demo model's; say what is read with --text",
        ),
        (
            &["quality", "--model", &narrow, "--adapters", &other, "--codecs", "base"],
            "other: the demo model has no windows for an adapter of that name",
        ),
        (
            &["quality", "--model", &qwen3, "--adapters", &its_adapter, "--codecs", "own-products"],
            "no products of adapter's own: the model's keys are normed after their projection",
        ),
        (&["calibrate", "--adapter", "no-such-adapter"], "no-such-adapter/adapter_config.json: no such file"),
    ] {
        let output = interleaf(folder.path(), args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(words), "{args:?}: {message}");
    }
}
