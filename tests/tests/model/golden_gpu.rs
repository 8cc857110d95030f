//! `verify` on the GPU: every golden set by the kernels that suit the device, and families by each variant.

use interleaf_cli::args::{BackendArg, GpuTierArg, NumericsArg, PagesArg, VerifyArgs, WeightsArg};
use interleaf_cli::verify::{Report, verify};
use interleaf_runtime::{BackendChoice, Engine, Feed, RowKind, Source, Want};
use interleaf_tests::backends;
use interleaf_tests::tolerance::assert_bits;

use crate::golden::{DEMO_CASES, FAMILIES, NARROW_CASES, demo, family, narrow, passes, within};
use crate::support::{self, data, options};

/// `verify` on the GPU, on the lowest tier or by a variant of its kernels.
fn on_gpu(mut args: VerifyArgs, tier: GpuTierArg, variant: Option<&str>) -> VerifyArgs {
    args.engine.backend = BackendArg::Gpu;
    args.engine.gpu.gpu_tier = tier;
    args.engine.gpu.gpu_variant = variant.map(Into::into);
    args
}

fn gpu_family(name: &str, pages: PagesArg, variant: Option<&str>) -> VerifyArgs {
    on_gpu(family(name, BackendArg::Gpu, pages), GpuTierArg::Best, variant)
}

/// Under the margin rule, no logit is further off than this.
fn within_the_cap(report: &Report) {
    for case in &report.cases {
        assert!(case.max_abs_logit_error.is_none_or(|error| error <= 5e-2), "{case:?}");
    }
}

/// The whole model within the limits that every phone has; steps split over command buffers.
#[test]
fn demo_model_on_the_lowest_tier() {
    if backends::gpu().is_some() {
        let mut args = on_gpu(demo(BackendArg::Gpu, PagesArg::F32), GpuTierArg::Lowest, None);
        args.engine.gpu.gpu_dispatches = 30;
        within(&passes(&args, DEMO_CASES), 2e-3);
    }
}

#[test]
fn demo_model_with_f16_pages() {
    if backends::gpu().is_some() {
        let args = on_gpu(demo(BackendArg::Gpu, PagesArg::F16), GpuTierArg::Best, None);
        within_the_cap(&passes(&args, DEMO_CASES));
    }
}

#[test]
fn narrow_model_with_either_page() {
    if backends::gpu().is_some() {
        let on = |pages| on_gpu(narrow(BackendArg::Gpu, pages), GpuTierArg::Best, None);
        within(&passes(&on(PagesArg::F32), NARROW_CASES), 2e-3);
        within_the_cap(&passes(&on(PagesArg::F16), NARROW_CASES));
    }
}

#[test]
fn families_with_either_page() {
    if backends::gpu().is_some() {
        for name in FAMILIES {
            within(&passes(&gpu_family(name, PagesArg::F32, None), 6), 2e-3);
            within_the_cap(&passes(&gpu_family(name, PagesArg::F16, None), 6));
        }
    }
}

/// Every family by every variant that the device can run, each by name.
#[test]
fn families_by_each_variant() {
    if backends::gpu().is_none() {
        return;
    }
    // Weights as stored are not quantised, and meet no bytes.
    for variant in ["baseline", "subgroup", "half", "staged-half", "matrix"] {
        for name in FAMILIES {
            match verify(&gpu_family(name, PagesArg::F16, Some(variant))) {
                Ok(report) => {
                    assert!(report.passed && report.cases.len() == 6, "{variant}: {report:#?}");
                    within_the_cap(&report);
                }
                // A device that lacks something says so by name.
                Err(e) if e.to_string().contains("which has no") => {
                    println!("SKIPPED: {e}");
                    break;
                }
                Err(e) => panic!("{variant}: {e}"),
            }
        }
    }
}

/// The invocation of an activated LoRA in the middle, twice, at the end, at the start, and absent.
#[test]
fn activated_lora() {
    if backends::gpu().is_none() {
        return;
    }
    let mut args = gpu_family("llama-rope3", PagesArg::F32, None);
    args.golden = Some(data("families/llama-rope3-alora/golden"));
    args.adapters = Some(data("families/llama-rope3-alora/adapter"));
    for case in &passes(&args, 10).cases {
        assert!(case.max_abs_logit_error.expect("given") <= 2e-3, "{case:?}");
        assert_eq!(case.greedy_equal, Some(true), "{case:?}");
    }
}

/// In f32 by whatever suits the device, and in bytes by name.
#[test]
fn quantised_weights_equal_the_reference_under_the_same_numerics() {
    if backends::gpu().is_none() {
        return;
    }
    for name in FAMILIES {
        for weights in [WeightsArg::Q8, WeightsArg::Q4] {
            for (numerics, variant) in [(NumericsArg::ActF32, None), (NumericsArg::ActQ8, Some("dot"))] {
                let mut args = gpu_family(name, PagesArg::F32, variant);
                (args.engine.weights, args.engine.numerics) = (weights, numerics);
                assert_eq!(passes(&args, 6).compared_with, "reference");
            }
        }
    }
}

/// Logits of a prompt and of two generated tokens under an adapter or none.
fn logits(engine: &mut Engine, adapter: Option<&str>, prompt: &[u32]) -> Vec<f32> {
    let sequence = engine.open_sequence(adapter, prompt).expect("room for one");
    let mut found = Vec::new();
    let parts = [(prompt, RowKind::Prompt), (&[5][..], RowKind::Generated), (&[7][..], RowKind::Generated)];
    for (tokens, kind) in parts {
        let fed = engine.feed(&[Feed { sequence, tokens, kind, want: Want::Logits }]).expect("it runs");
        found.extend(fed.into_iter().flat_map(|fed| fed.logits));
    }
    engine.close_sequence(sequence).expect("it is open");
    found
}

/// Every graph three times, and once more by an engine of its own: the same bits.
#[test]
fn every_graph_has_the_same_bits_each_time() {
    if backends::gpu().is_none() {
        return;
    }
    let open = |name: &str| match name {
        "demo" => support::demo(&options(BackendChoice::Gpu)),
        name => {
            let folder = data("families").join(name);
            let source = Source::dir(&folder);
            let mut engine =
                Engine::open(source, &options(BackendChoice::Gpu), &mut |_| ()).expect("it loads");
            engine.register_adapter("adapter", &Source::dir(folder.join("adapter"))).expect("it fits");
            engine
        }
    };
    let prompt: Vec<u32> = (0..40).map(|i| (i * 11 + 3) % 100).collect();
    for name in FAMILIES.into_iter().chain(["demo"]) {
        let mut engine = open(name);
        engine.reserve_kv(1, 64).expect("a small pool");
        let adapter = engine.adapters().next().expect("one").name.clone();
        for adapter in [None, Some(&*adapter)] {
            let first = logits(&mut engine, adapter, &prompt);
            assert!(first.iter().any(|l| *l != 0.0) && first.iter().all(|l| l.is_finite()), "{name}");
            for _ in 0..2 {
                assert_bits(name, &first, &logits(&mut engine, adapter, &prompt));
            }
            let mut other = open(name);
            other.reserve_kv(1, 64).expect("a small pool");
            assert_bits(name, &first, &logits(&mut other, adapter, &prompt));
        }
    }
}
