//! `interleaf bench` as a user runs it: its rows, its formats and what it refuses. Times are not judged.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

use serde_json::Value;

/// Runs a bench of the demo model, a small one in what `args` leave open.
fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interleaf"));
    command.arg("bench").args(args);
    for (option, small) in [("-p", "24"), ("-n", "3"), ("-r", "2"), ("--threads", "1")] {
        if !args.contains(&option) {
            command.args([option, small]);
        }
    }
    command.output().expect("the binary starts")
}

fn text(args: &[&str]) -> String {
    let output = bench(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&text(&[args, &["--output", "json"]].concat())).expect("one JSON object")
}

fn refused(args: &[&str], words: &[&str]) {
    let output = bench(args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
    assert!(output.stdout.is_empty() && !message.contains("panicked"), "{message}");
    for word in words {
        assert!(message.contains(word), "{args:?}: {message:?} does not say {word:?}");
    }
}

const FIELDS: [&str; 12] = [
    "test",
    "backend",
    "tier",
    "weights",
    "threads",
    "batch",
    "adapters",
    "depth",
    "tokens_per_second",
    "stddev",
    "bandwidth_fraction",
    "peak_fraction",
];

/// What a bench on the GPU prints, or `None` after printing why there is none.
fn on_gpu(args: &[&str]) -> Option<String> {
    let output = bench(args);
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(std::env::var_os("INTERLEAF_REQUIRE_GPU").is_none(), "no GPU: {message}");
        println!("SKIPPED: {message}");
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What the GPU's kernels are asked for: eleven dispatches a layer with adapters on every projection, one submission a
/// token, and hardly a byte more than a step must read.
#[test]
fn a_step_on_the_gpu_is_few_dispatches_and_loads_little_twice() {
    let args = ["--backend", "gpu", "-p", "0", "-n", "2", "-r", "1", "--adapters", "0,1", "--profile"];
    let Some(printed) = on_gpu(&args) else { return };
    let report = json(&args);
    for (row, dispatches) in report["rows"].as_array().expect("rows").iter().zip([9.0, 11.0]) {
        let device = &row["device"];
        let number = |name: &str| device[name].as_f64().expect("a number");
        // Six layers; and the embedding, the last norm, the head and the choice of a token.
        assert_eq!(number("dispatches_per_step"), 6.0 * dispatches + 4.0, "{device}");
        assert_eq!(number("submits_per_step"), 1.0, "{device}");
        assert!((1.0..=1.1).contains(&number("loaded_ratio")), "{device}");
        let kernels = device["kernels"].as_array().expect("kernels");
        assert!(
            kernels.iter().all(|k| k["microseconds_per_step"].as_f64().is_some_and(|us| us > 0.0)),
            "{device}"
        );
        assert!(kernels.iter().any(|k| k["kernel"] == "lora_matmul_decode"), "{device}");
    }
    assert!(printed.contains("70.0 dispatches and 1.00 submits a step"), "{printed}");
    assert!(printed.contains("GB/s") && printed.contains("lora_matmul_shrink"), "{printed}");
}

/// On the host a step's time is shared out among its operations.
#[test]
fn kernels_of_the_cpu_take_the_time_of_its_steps() {
    let args = ["--backend", "cpu", "-p", "0", "-n", "4", "-r", "1", "--profile"];
    let report = json(&args);
    let row = &report["rows"].as_array().expect("rows")[0];
    let kernels = row["device"]["kernels"].as_array().expect("kernels");
    let took = |k: &Value| k["microseconds_per_step"].as_f64().expect("a number");
    let all: f64 = kernels.iter().map(took).sum();
    assert!(all > 0.0 && kernels.iter().any(|k| k["kernel"] == "lora_matmul"), "{row}");
    assert!(row["device"].get("loaded_per_step").is_none(), "{row}");
}

/// The GPU is probed by its own kernels, over as much memory as on the host.
#[test]
fn rows_of_the_gpu_are_put_beside_what_the_gpu_can_do() {
    let args = ["--backend", "gpu", "--roofline", "-r", "1"];
    let Some(printed) = on_gpu(&args) else { return };
    for words in ["GB/s over 1.0 GiB", "GFLOP/s", "an empty step takes", "ms of latency"] {
        assert!(printed.contains(words), "{printed}");
    }
    let report = json(&args);
    assert_eq!(report["machine"]["roofline"], Value::Null, "the processor is not in question");
    let peaks = &report["machine"]["gpu_roofline"];
    let peak = |name: &str| peaks[name].as_f64().expect("a number");
    assert!(peak("read_bytes") >= f64::from(1 << 30) && peaks["device"].is_string(), "{peaks}");
    for rate in ["read_bytes_per_second", "f32_operations_per_second"] {
        assert!((1e8..1e16).contains(&peak(rate)), "{peaks}");
    }
    assert!(peak("step_seconds") > 0.0 && peak("dispatch_seconds") >= 0.0, "{peaks}");
    let rows = report["rows"].as_array().expect("rows");
    let device = |row: &Value, name: &str| row["device"][name].as_f64().expect("a number");
    for row in rows {
        let latency =
            peak("step_seconds") + (device(row, "dispatches_per_step") - 1.0) * peak("dispatch_seconds");
        assert!((device(row, "latency_ms_per_step") / (1e3 * latency) - 1.0).abs() < 1e-9, "{row}");
        assert!(row["peak_fraction"].as_f64().is_some_and(|share| share > 0.0), "{row}");
    }
    // What kernels load in a step of generating, in a step's time.
    let rate = 1e3 * device(&rows[1], "loaded_per_step") / rows[1]["ms_per_step"].as_f64().expect("a time");
    let share = rows[1]["bandwidth_fraction"].as_f64().expect("a share");
    assert!((share * peak("read_bytes_per_second") / rate - 1.0).abs() < 1e-9, "{}", rows[1]);
}

#[test]
fn rows_in_turn_stand_beside_the_one_without_adapters() {
    let report = json(&["--batch", "1,2", "--adapters", "0,2", "--in-turn", "-r", "3"]);
    let rows = report["rows"].as_array().expect("rows");
    let of = |row: &Value| (row["test"].clone(), row["batch"].clone(), row["adapters"].clone());
    let found: Vec<_> = rows.iter().map(of).collect();
    let expected =
        [("pp24", 1, 0), ("pp24", 1, 2), ("tg3", 1, 0), ("tg3", 1, 2), ("tg3", 2, 0), ("tg3", 2, 2)];
    assert_eq!(found, expected.map(|(test, batch, adapters)| (test.into(), batch.into(), adapters.into())));
    for pair in rows.chunks(2) {
        assert_eq!(pair[0]["time_ratio"].as_f64(), Some(1.0));
        let times = |row: &Value| -> Vec<f64> {
            let rates = row["samples"].as_array().expect("a list").iter().filter_map(Value::as_f64);
            rates.map(f64::recip).collect()
        };
        let mut ratios: Vec<f64> = times(&pair[1]).iter().zip(times(&pair[0])).map(|(a, b)| a / b).collect();
        ratios.sort_by(f64::total_cmp);
        assert!((pair[1]["time_ratio"].as_f64().expect("a ratio") / ratios[1] - 1.0).abs() < 1e-9);
    }
    refused(&["--adapters", "1,2", "--in-turn"], &["--in-turn", "--adapters", "0"]);
    refused(&["--adapters", "0", "--in-turn"], &["--in-turn", "--adapters", "0"]);
    let apart = json(&["--adapters", "0,2"]);
    assert!(apart["rows"].as_array().expect("rows").iter().all(|row| row["time_ratio"].is_null()));
}

#[test]
fn rows_say_what_was_measured_and_where() {
    let report = json(&["--depth", "32", "--adapters", "2", "--rank", "4", "--weights", "q8"]);
    assert_eq!((&report["model"], &report["parameters"]), (&"tiny-rust-llama".into(), &5_770_496.into()));
    assert!(!report["machine"]["cpu"].as_str().expect("a name").is_empty());
    assert_eq!(report["machine"]["roofline"], Value::Null);
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.iter().map(|row| &row["test"]).collect::<Vec<_>>(), ["pp24", "tg3"]);
    for row in rows {
        for field in FIELDS {
            assert!(row.get(field).is_some(), "{field}: {row}");
        }
        let words = ["backend", "tier", "weights", "numerics", "pages"].map(|f| row[f].as_str());
        let tier = words[1].filter(|tier| !tier.is_empty());
        assert_eq!(words, [Some("cpu"), tier, Some("q8"), Some("act=q8_0"), Some("f16")]);
        assert!(tier.is_some());
        let counts = ["threads", "batch", "adapters", "rank", "depth"].map(|f| row[f].as_u64());
        assert_eq!(counts, [1, 1, 2, 4, 32].map(Some));
        let samples: Vec<f64> =
            row["samples"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect();
        let (rate, mean) =
            (row["tokens_per_second"].as_f64().expect("a rate"), samples.iter().sum::<f64>() / 2.0);
        assert!(samples.len() == 2 && (rate / mean - 1.0).abs() < 1e-9, "{row}");
        assert!(row["stddev"].as_f64().expect("a deviation") >= 0.0);
        // Both are one step's tokens a step: 24 of a prompt, one of an answer.
        let a_step = rate * row["ms_per_step"].as_f64().expect("a time") / 1e3;
        assert!((a_step - if row["test"] == "pp24" { 24.0 } else { 1.0 }).abs() < 1e-6, "{row}");
        assert_eq!((&row["bandwidth_fraction"], &row["peak_fraction"]), (&Value::Null, &Value::Null));
    }
}

#[test]
fn every_combination_is_a_row() {
    let lists = ["-p", "8,40", "-n", "2", "--batch", "1,3", "--adapters", "0,2", "--depth", "0,16"];
    let report = json(&[&lists[..], &["--weights", "stored,q4", "--prefill-rows", "16", "-r", "1"]].concat());
    let rows = report["rows"].as_array().expect("rows");
    // Two prompts and two batches, for each of the others; a prompt is one sequence's.
    assert_eq!(rows.len(), 2 * 2 * 2 * (2 + 2));
    let distinct: std::collections::BTreeSet<String> = (rows.iter())
        .map(|row| ["test", "weights", "batch", "adapters", "depth"].map(|f| row[f].to_string()).join(" "))
        .collect();
    assert_eq!(distinct.len(), rows.len());
    assert!(rows.iter().all(|row| row["stddev"] == 0.0), "one sample does not deviate");
    let prompts = json(&["-n", "0", "--batch", "1,3"]);
    assert_eq!(prompts["rows"].as_array().map(Vec::len), Some(1));
}

#[test]
fn tables_have_a_header_and_as_many_cells_in_every_row() {
    let csv = text(&["--output", "csv"]);
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let [header, rows @ ..] = &lines[..] else { panic!("no header: {csv}") };
    assert!(FIELDS.iter().all(|field| header.contains(field)), "{header:?}");
    assert!(rows.len() == 2 && rows.iter().all(|row| row.len() == header.len()), "{csv}");
    let rate = header.iter().position(|name| *name == "tokens_per_second").expect("a column");
    assert!(rows.iter().all(|row| row[rate].parse::<f64>().is_ok_and(|rate| rate > 0.0)), "{csv}");
    assert!(rows.iter().all(|row| row.last() == Some(&"")), "not measured: {csv}");

    let md = text(&[]);
    let table: Vec<&str> = md.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(table.len(), 2 + 2, "{md}");
    assert!(FIELDS.iter().all(|field| table[0].contains(field)) && table[1].contains("--:"), "{md}");
    let cells = |line: &str| line.matches('|').count();
    assert!(table.iter().all(|line| cells(line) == header.len() + 1), "{md}");
    assert!(md.starts_with("tiny-rust-llama, 5,770,496 parameters\n"), "{md}");
}

#[test]
fn rows_are_put_beside_what_the_machine_can_do() {
    let report = json(&["--roofline", "--weights", "stored,q4"]);
    let roofline = report["machine"]["roofline"].as_array().expect("peaks");
    assert_eq!(roofline.len(), 1, "of one number of threads");
    for peak in ["read_bytes_per_second", "f32_operations_per_second", "int8_operations_per_second"] {
        assert!(roofline[0][peak].as_f64().is_some_and(|rate| rate > 1e8), "{}", roofline[0]);
    }
    for row in report["rows"].as_array().expect("rows") {
        for share in ["bandwidth_fraction", "peak_fraction"] {
            // The demo model fits in some caches, so that it may be read faster than memory is.
            assert!(row[share].as_f64().is_some_and(|share| share > 0.0 && share < 100.0), "{row}");
        }
    }
}

#[test]
fn what_cannot_be_measured_is_refused_before_it_runs() {
    refused(&["--shape", "llama-9"], &["--shape", "llama-9", "smollm2-135m", "llama-3.1-8b"]);
    refused(&["--shape", "smollm2-135m", "--model", "x"], &["--model", "cannot be used with"]);
    refused(
        &["--shape", "llama-3.1-8b", "--depth", "131060"],
        &["pp24 at --depth 131060", "131084 positions", "131048"],
    );
    refused(&["--depth", "99999999"], &["pp24 at --depth 99999999", "--depth must be at most"]);
    refused(&["-p", "4000"], &["pp4000 at --depth 0", "--prompt must be at most 2048"]);
    refused(&["-n", "4000"], &["tg4000 at --depth 0", "--generate must be at most 2048"]);
    refused(&["-r", "0"], &["--repetitions must be at least 1"]);
    refused(&["--batch", "1,0"], &["--batch must be at least 1"]);
    refused(&["--rank", "0"], &["--rank must be at least 1"]);
    refused(&["--prefill-rows", "0"], &["--prefill-rows must be at least 1"]);
    refused(&["-p", "0", "-n", "0"], &["nothing is to be measured"]);
    refused(&["--backend", "gpu", "--gpu-adapter", "abacus"], &["no adapter named like"]);
    refused(&["--backend", "ref", "--profile"], &["ref", "a profile by kernel"]);
    refused(&["--model", "/nonexistent"], &["config.json: no such file"]);
}
