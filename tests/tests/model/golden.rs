//! `verify` on every public golden set: Hugging Face transformers + PEFT in f32.

use std::ops::ControlFlow;
use std::path::PathBuf;

use interleaf_cli::args::{
    BackendArg, EngineArgs, GpuArgs, KeysArg, NumericsArg, PagesArg, StoreArgs, VerifyArgs, WeightsArg,
};
use interleaf_cli::verify::{Report, verify};
use interleaf_runtime::{BackendChoice, Engine, EngineError, Request, SamplingOptions, Source};

use crate::support::{data, options};

fn args(model: Option<PathBuf>, golden: PathBuf, backend: BackendArg, pages: PagesArg) -> VerifyArgs {
    let (weights, numerics, store) = (WeightsArg::Stored, NumericsArg::ActQ8, StoreArgs::default());
    let gpu = GpuArgs::default();
    let (threads, all_cores, no_prefix_cache, no_first_touch) = (0, false, false, false);
    let keys = KeysArg::Measured;
    let engine = EngineArgs {
        backend,
        weights,
        pages,
        numerics,
        keys,
        threads,
        all_cores,
        no_prefix_cache,
        no_first_touch,
        gpu,
        store,
    };
    let (golden, suite, backends) = (Some(golden), None, Vec::new());
    VerifyArgs { model, golden, suite, backends, adapters: None, json: false, engine }
}

pub fn demo(backend: BackendArg, pages: PagesArg) -> VerifyArgs {
    args(None, data("tiny-rust-llama-golden"), backend, pages)
}

pub fn family(name: &str, backend: BackendArg, pages: PagesArg) -> VerifyArgs {
    let folder = data("families").join(name);
    args(Some(folder.clone()), folder.join("golden"), backend, pages)
}

pub fn narrow(backend: BackendArg, pages: PagesArg) -> VerifyArgs {
    let folder = data("tiny-narrow-llama");
    args(Some(folder.join("base")), folder.join("golden"), backend, pages)
}

pub fn passes(args: &VerifyArgs, cases: usize) -> Report {
    let report = verify(args).unwrap_or_else(|e| panic!("{args:?}: {e}"));
    let failed: Vec<_> = report.cases.iter().filter(|c| !c.passed).collect();
    assert!(report.passed && failed.is_empty(), "{failed:#?}");
    assert_eq!(report.cases.len(), cases, "{args:?}");
    assert!(report.skipped.is_empty());
    report
}

/// The bounds of the README, checked here again on the report's own numbers.
pub fn within(report: &Report, logit: f64) {
    for case in &report.cases {
        if case.prompt == "ppl" {
            let (found, golden) = (case.perplexity.expect("given"), case.perplexity_golden.expect("given"));
            assert!((found / golden - 1.0).abs() < 1e-3, "{case:?}");
        } else {
            assert!(case.max_abs_logit_error.expect("given") <= logit, "{case:?}");
            assert_eq!(case.greedy_equal, Some(true), "{case:?}");
            assert_eq!(case.top1_agreement, Some(1.0), "{case:?}");
        }
    }
    let with_kv = report.cases.iter().filter(|c| c.kv_max_abs_error.is_some()).count();
    assert_eq!(with_kv, report.cases.iter().filter(|c| c.prompt == "len17").count());
}

/// Seven models, five prompts and the perplexity windows of each.
pub const DEMO_CASES: usize = 7 * 6;

#[test]
fn demo_model_on_the_reference() {
    within(&passes(&demo(BackendArg::Ref, PagesArg::F32), DEMO_CASES), 1e-4);
}

#[test]
fn demo_model_on_the_cpu() {
    within(&passes(&demo(BackendArg::Cpu, PagesArg::F32), DEMO_CASES), 1e-3);
}

#[test]
fn demo_model_on_the_cpu_with_f16_pages() {
    let report = passes(&demo(BackendArg::Cpu, PagesArg::F16), DEMO_CASES);
    for case in &report.cases {
        for d in &case.greedy_differences {
            assert!(f64::from(d.margin) < 2.0 * case.max_abs_logit_error.expect("given"), "{case:?}");
        }
    }
}

/// Five models, three prompts and the perplexity windows of each.
pub const NARROW_CASES: usize = 5 * 4;

/// One key/value head, and adapters that change much of what is cached.
#[test]
fn narrow_model_on_both_backends() {
    for (backend, logit) in [(BackendArg::Ref, 1e-4), (BackendArg::Cpu, 1e-3)] {
        within(&passes(&narrow(backend, PagesArg::F32), NARROW_CASES), logit);
    }
    passes(&narrow(BackendArg::Cpu, PagesArg::F16), NARROW_CASES);
}

pub const FAMILIES: [&str; 8] =
    ["llama-rope3", "llama-bias", "qwen2", "qwen3", "smollm3", "gemma2", "gemma3-text", "phi3"];

#[test]
fn families_on_both_backends() {
    for name in FAMILIES {
        for (backend, logit) in [(BackendArg::Ref, 1e-4), (BackendArg::Cpu, 1e-3)] {
            within(&passes(&family(name, backend, PagesArg::F32), 6), logit);
            passes(&family(name, backend, PagesArg::F16), 6);
        }
    }
}

/// An activated LoRA: the invocation in the middle, twice, at the end, at the start, and absent.
#[test]
fn activated_lora_on_both_backends() {
    for (backend, logit) in [(BackendArg::Ref, 1e-4), (BackendArg::Cpu, 1e-3)] {
        let mut args = family("llama-rope3", backend, PagesArg::F32);
        args.golden = Some(data("families/llama-rope3-alora/golden"));
        args.adapters = Some(data("families/llama-rope3-alora/adapter"));
        let report = passes(&args, 10);
        for case in &report.cases {
            assert!(case.max_abs_logit_error.expect("given") <= logit, "{case:?}");
            assert_eq!(case.greedy_equal, Some(true), "{case:?}");
            assert_eq!(case.kv_max_abs_error.is_some(), case.prompt == "p0", "{case:?}");
        }
    }
}

#[test]
fn quantised_weights_equal_the_reference_under_the_same_numerics() {
    for name in ["llama-rope3", "llama-bias"] {
        for weights in [WeightsArg::Q8, WeightsArg::Q4] {
            for numerics in [NumericsArg::ActF32, NumericsArg::ActQ8] {
                let mut args = family(name, BackendArg::Cpu, PagesArg::F32);
                (args.engine.weights, args.engine.numerics) = (weights, numerics);
                let report = passes(&args, 6);
                assert_eq!(report.compared_with, "reference");
            }
        }
    }
}

/// A copy of llama-bias's golden set, its safetensors altered.
fn altered(alter: impl FnOnce(&mut Vec<u8>)) -> (tempfile::TempDir, VerifyArgs) {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["golden.json", "golden.safetensors"] {
        std::fs::copy(data("families/llama-bias/golden").join(file), folder.path().join(file))
            .expect("copies");
    }
    let path = folder.path().join("golden.safetensors");
    let mut bytes = std::fs::read(&path).expect("just written");
    alter(&mut bytes);
    std::fs::write(&path, bytes).expect("writes");
    let mut args = family("llama-bias", BackendArg::Cpu, PagesArg::F32);
    args.golden = Some(folder.path().to_owned());
    args.adapters = Some(data("families/llama-bias/adapter"));
    (folder, args)
}

/// Where a tensor's values begin.
fn offset(bytes: &[u8], tensor: &str) -> usize {
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let index: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    8 + header + index[tensor]["data_offsets"][0].as_u64().expect("an offset") as usize
}

/// What a golden set lacks must not pass for a case that is right.
#[test]
fn a_golden_set_that_lacks_something_is_refused_by_name() {
    for tensor in [
        "adapter.p0.last_logits",
        "base.p1.greedy_ids",
        "base.p2.top5_ids",
        "adapter.p2.greedy_lead",
        "p1.ids",
    ] {
        // The same length, so that the header stays well-formed.
        let renamed: String = tensor.chars().map(|c| if c == 'p' { 'q' } else { c }).collect();
        let quoted = format!("\"{tensor}\"");
        let (_folder, args) = altered(|bytes| {
            let at = bytes.windows(quoted.len()).position(|w| w == quoted.as_bytes()).expect("it is there");
            bytes[at + 1..at + 1 + tensor.len()].copy_from_slice(renamed.as_bytes());
        });
        let refused = verify(&args).expect_err(tensor).to_string();
        assert!(refused.contains(tensor), "{refused}");
    }
    let (_folder, args) = altered(|bytes| {
        let at = offset(bytes, "base.p0.last_logits");
        bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let refused = verify(&args).expect_err("NaN").to_string();
    assert!(refused.contains("base.p0.last_logits") && refused.contains("finite"), "{refused}");
    let (_folder, args) = altered(|bytes| {
        let at = offset(bytes, "adapter.p1.top5_ids");
        bytes[at..at + 4].copy_from_slice(&4000i32.to_le_bytes());
    });
    let refused = verify(&args).expect_err("out of the vocabulary").to_string();
    assert!(refused.contains("adapter p1") && refused.contains("4000"), "{refused}");
    let (_folder, args) = altered(|bytes| {
        let at = offset(bytes, "adapter.p1.greedy_ids");
        bytes[at] ^= 1;
    });
    let refused = verify(&args).expect_err("another token than the index says").to_string();
    assert!(refused.contains("golden.json: greedy.adapter.p1"), "{refused}");
}

/// An index that contradicts its tensors, or names a prompt twice, is wrong somewhere.
#[test]
fn a_golden_index_that_contradicts_itself_is_refused_by_name() {
    let (folder, args) = altered(|_| ());
    let path = folder.path().join("golden.json");
    let sound: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).expect("reads")).expect("an index");
    let refuse = |alter: &dyn Fn(&mut serde_json::Value), word: &str| {
        let mut index = sound.clone();
        alter(&mut index);
        std::fs::write(&path, index.to_string()).expect("writes");
        let refused = verify(&args).expect_err(word).to_string();
        assert!(refused.contains("golden.json") && refused.contains(word), "{refused}");
    };
    refuse(&|index| index["prompts"][1]["ids"][0] = 9999.into(), "prompts.p1.ids");
    refuse(&|index| index["prompts"][1]["ids"] = serde_json::json!([]), "prompts.p1.ids");
    refuse(&|index| index["greedy"]["base.p2"][3] = "x".into(), "greedy.base.p2");
    refuse(&|index| index["prompts"][2] = index["prompts"][1].clone(), "two named p1");
}

/// A weight that is no number makes every answer wrong, whatever else is or is not judged.
#[test]
fn damaged_weights_never_pass() {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(data("families/llama-bias").join(file), folder.path().join(file)).expect("copies");
    }
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("just written");
    let at = offset(&bytes, "model.layers.1.mlp.down_proj.weight");
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).expect("writes");
    let mut args = family("llama-bias", BackendArg::Ref, PagesArg::F32);
    args.model = Some(folder.path().to_owned());
    args.adapters = Some(data("families/llama-bias/adapter"));
    let report = verify(&args).expect("it loads: mapped weights are not read to be checked");
    assert!(report.cases.iter().all(|case| !case.passed));

    let options = options(BackendChoice::Cpu);
    let mut engine = Engine::open(Source::dir(folder.path()), &options, &mut |_| ()).expect("it loads");
    engine.reserve_kv(1, 32).expect("a small pool");
    for temperature in [0.0, 1.0] {
        let request = Request {
            prompt: vec![3, 4],
            adapter: None,
            max_tokens: 4,
            sampling: SamplingOptions { temperature, ..SamplingOptions::default() },
            stop: Vec::new(),
            end_tokens: Vec::new(),
            drift: 0.0,
        };
        let refused = engine.generate(&[request], &mut |_| ControlFlow::Continue(()));
        assert!(matches!(refused, Err(EngineError::NotANumber)), "{refused:?}");
    }
}

/// Converted weights are compared with the reference on the same bits.
#[test]
fn half_precision_weights_equal_the_reference() {
    for weights in [WeightsArg::F16, WeightsArg::Bf16] {
        let mut args = family("llama-rope3", BackendArg::Cpu, PagesArg::F32);
        args.engine.weights = weights;
        let report = passes(&args, 6);
        assert_eq!(report.compared_with, "reference");
    }
}

/// A check that cannot fail checks nothing: a wrong adapter, wrong weights and a wrong golden must be seen.
#[test]
fn what_is_wrong_fails() {
    let mut swapped = family("llama-bias", BackendArg::Cpu, PagesArg::F32);
    swapped.model = Some(data("families/llama-rope3"));
    swapped.adapters = Some(data("families/llama-rope3/adapter"));
    let report = verify(&swapped).expect("it runs");
    assert!(!report.passed, "another model's weights");

    let mut coarse = demo(BackendArg::Ref, PagesArg::F16);
    coarse.golden = Some(data("families/llama-rope3/golden"));
    assert!(verify(&coarse).is_err(), "another vocabulary");

    let (_folder, wrong) = altered(|bytes| {
        let at = offset(bytes, "adapter.p1.last_logits");
        let logit = f32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        bytes[at..at + 4].copy_from_slice(&(logit + 0.01).to_le_bytes());
    });
    let report = verify(&wrong).expect("it runs");
    let failed: Vec<_> =
        report.cases.iter().filter(|c| !c.passed).map(|c| (&*c.adapter, &*c.prompt)).collect();
    assert_eq!(failed, [("adapter", "p1")], "one logit of one case, by 0.01");
}
