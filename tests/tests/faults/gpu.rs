//! What goes wrong on a GPU: pipelines that are refused, a device that is lost, one that is suspended. Each leads to the
//! next variant or to a typed error that keeps what there was, and never to an abort.

use std::ops::ControlFlow;

use interleaf_contract::{Backend, BackendError};
use interleaf_gpu::{GpuBackend, GpuFailure, GpuOptions};
use interleaf_runtime::doctor::Verdict;
use interleaf_runtime::{
    BackendChoice, CallOptions, Context, Engine, EngineError, EngineOptions, Event, FinishReason,
    GpuSettings, Prompt, Request, SamplingOptions, Service, ServiceOptions, Source,
};
use interleaf_tests::backends;
use interleaf_tests::lora::{AdapterSpec, LoraCase};

use crate::measure::alone;

fn case() -> LoraCase {
    use interleaf_contract::{Dtype, RowKind};
    LoraCase {
        inputs: 64,
        outputs: vec![40],
        dtype: Dtype::Q4_0,
        bias: false,
        adapters: vec![AdapterSpec { ranks: vec![Some(4)], dtype: Dtype::F16, scale: 1.0 }],
        rows: vec![(RowKind::Generated, 0), (RowKind::Prompt, -1)],
        seed: 1,
    }
}

fn gpu(failure: GpuFailure) -> Option<GpuBackend> {
    backends::gpu()?;
    Some(GpuBackend::new(GpuOptions { failure: Some(failure), ..GpuOptions::default() }).expect("it opens"))
}

#[test]
fn refused_pipelines_lead_to_the_next_variant() {
    let _alone = alone();
    let Some(mut gpu) = gpu(GpuFailure::Pipelines) else { return };
    let mut baseline = GpuBackend::new(GpuOptions {
        variant: Some(interleaf_gpu::GpuVariant::Baseline),
        ..GpuOptions::default()
    })
    .expect("every device has it");
    let data = case().data();
    let found = data.run(&mut gpu).expect("the baseline runs");
    assert_eq!(gpu.info().tier, "baseline");
    assert_eq!(found, data.run(&mut baseline).expect("likewise"));
    data.run(&mut gpu).expect("and goes on");
}

#[test]
fn when_the_last_variant_is_refused_the_error_is_typed() {
    let _alone = alone();
    let Some(mut gpu) = gpu(GpuFailure::AllPipelines) else { return };
    for _ in 0..2 {
        let refused = case().data().run(&mut gpu).expect_err("nothing is left");
        assert!(matches!(&refused, BackendError::Device { .. }), "{refused:?}");
        assert!(refused.to_string().contains("lora_matmul"), "{refused}");
    }
}

fn engine(failure: Option<GpuFailure>) -> Option<Engine> {
    backends::gpu()?;
    let lost_after = failure.and_then(|failure| match failure {
        GpuFailure::Lost { after } => Some(after),
        _ => None,
    });
    let gpu = GpuSettings { lost_after, ..GpuSettings::default() };
    let options = EngineOptions { backend: BackendChoice::Gpu, gpu, ..EngineOptions::default() };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/data/families/llama-bias");
    let mut engine = Engine::open(Source::dir(folder), &options, &mut |_| ()).expect("it loads");
    engine.reserve_kv(2, 64).expect("a small pool");
    Some(engine)
}

fn request(tokens: usize) -> Request {
    Request {
        prompt: vec![3, 4, 5],
        adapter: None,
        max_tokens: tokens,
        sampling: SamplingOptions { temperature: 0.0, ..SamplingOptions::default() },
        stop: Vec::new(),
        end_tokens: Vec::new(),
        drift: 0.0,
    }
}

#[test]
fn a_lost_device_is_a_typed_error_and_the_tokens_are_kept() {
    let _alone = alone();
    let Some(mut whole) = engine(None) else { return };
    let expected =
        whole.generate(&[request(8)], &mut |_| ControlFlow::Continue(())).expect("it answers").remove(0);
    for after in 0..8 {
        let mut engine = engine(Some(GpuFailure::Lost { after })).expect("as before");
        let mut told = [0, 0];
        let lost = engine.generate(&[request(8), request(8)], &mut |event| {
            if let Event::Text { request, tokens, .. } = event {
                told[request] = tokens;
            }
            ControlFlow::Continue(())
        });
        let Err(EngineError::DeviceFailed { cause, completions }) = lost else { panic!("{lost:?}") };
        let is_lost = |e: &BackendError| matches!(e, BackendError::DeviceLost { reason, .. } if reason.contains("lost"));
        assert!(is_lost(&cause), "{cause}");
        // The step that was under way when the next one lost the device went with it.
        let read = after.saturating_sub(1) as usize;
        assert_eq!((told, completions.len()), ([read; 2], 2));
        for completion in completions {
            assert_eq!(completion.reason, FinishReason::DeviceLost);
            assert_eq!(completion.tokens, expected.tokens[..read], "lost after {after} steps");
        }
        assert_eq!(engine.memory().kv_in_use, 0);
        let again = engine.generate(&[request(1)], &mut |_| ControlFlow::Continue(()));
        let still = |e: &EngineError| matches!(e, EngineError::DeviceFailed { cause, .. } if is_lost(cause));
        assert!(again.as_ref().is_err_and(still), "{again:?}");
    }
}

#[test]
fn a_service_ends_its_calls_with_what_they_had_when_the_gpu_is_lost() {
    let _alone = alone();
    let Some(mut whole) = engine(None) else { return };
    let expected =
        whole.generate(&[request(8)], &mut |_| ControlFlow::Continue(())).expect("it answers").remove(0);
    for after in 1..6 {
        let engine = engine(Some(GpuFailure::Lost { after })).expect("as before");
        let service = Service::start(engine, ServiceOptions::default()).expect("it starts");
        let app = service.app("mail", None).expect("there is a place");
        let options = CallOptions { max_tokens: 8, end_tokens: Some(Vec::new()), ..CallOptions::default() };
        let say = |context: &Context| {
            let generation = context.call(&Prompt::Tokens(vec![3, 4, 5]), &options).expect("it is taken");
            generation.wait().expect("what it had").completion
        };
        let context = app.new_context().expect("it begins");
        let said = say(&context);
        assert_eq!(said.reason, FinishReason::DeviceLost, "after {after}");
        assert!(said.tokens.len() < 8 && expected.tokens.starts_with(&said.tokens), "after {after}");
        let text = [&[3, 4, 5][..], &said.tokens].concat();
        assert_eq!(context.tokens().expect("it is there"), text);
        // It stays lost, and whoever calls hears of it.
        let again = say(&app.new_context().expect("it begins"));
        assert_eq!((again.reason, again.tokens.len()), (FinishReason::DeviceLost, 0));
        assert_eq!(service.stop().expect("nothing has panicked").memory().kv_in_use, 0);
    }
}

#[test]
fn a_suspended_gpu_does_nothing_until_it_is_resumed() {
    let _alone = alone();
    let Some(mut engine) = engine(None) else { return };
    let expected = engine.generate(&[request(6)], &mut |_| ControlFlow::Continue(())).expect("it answers");
    let gate = engine.gpu_gate().expect("it runs on a GPU");
    engine.take_work();
    // Suspended by what hears of the third token, resumed by another thread once the answer waits.
    let mut suspended = 0;
    let found = engine.generate(&[request(6)], &mut |event| {
        match event {
            Event::Text { tokens: 3, .. } => gate.suspend(),
            Event::Suspended => {
                suspended += 1;
                let gate = gate.clone();
                std::thread::spawn(move || gate.resume());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    assert_eq!((suspended, &found.expect("it goes on")[0].tokens), (1, &expected[0].tokens));

    engine.suspend_gpu().expect("it drains");
    let sequence = engine.open_sequence(None, &[]).expect("the base");
    let feed = interleaf_runtime::Feed {
        sequence,
        tokens: &[3],
        kind: interleaf_runtime::RowKind::Prompt,
        want: interleaf_runtime::Want::Nothing,
    };
    let refused = engine.feed(std::slice::from_ref(&feed));
    assert!(matches!(refused, Err(EngineError::GpuSuspended)), "{refused:?}");
    engine.resume_gpu();
    engine.feed(&[feed]).expect("and runs again");
    // Whoever is told may also break off.
    engine.suspend_gpu().expect("it drains");
    let broken = engine.generate(&[request(6)], &mut |event| match event {
        Event::Suspended => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert_eq!(broken.expect("cancelled")[0].reason, FinishReason::Cancelled);
}

/// What `auto` opens with verdicts in the store, on a GPU that is lost after so many steps.
fn auto_with(verdicts: &[Verdict], lost_after: Option<u64>) -> Engine {
    let store = tempfile::tempdir().expect("a folder");
    let verdicts = serde_json::to_vec(verdicts).expect("JSON");
    std::fs::write(store.path().join("gpu-verdicts.json"), verdicts).expect("writes");
    let options = EngineOptions {
        backend: BackendChoice::Auto,
        gpu: GpuSettings { lost_after, ..GpuSettings::default() },
        store: Some(store.path().into()),
        threads: 1,
        ..EngineOptions::default()
    };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/data/families/llama-bias");
    Engine::open(Source::dir(folder), &options, &mut |_| ()).expect("something runs it")
}

/// A verdict that prefers the first GPU there is.
fn faster() -> Option<Verdict> {
    let adapter = interleaf_gpu::adapters().into_iter().next().filter(|_| backends::gpu().is_some())?;
    let (key, variant) = (adapter.key(), Some("baseline".into()));
    Some(Verdict { key, kernels: adapter.suits.to_owned(), variant, faster: Some(2.0) })
}

#[test]
fn auto_takes_the_gpu_that_was_found_faster_and_else_the_cpu() {
    let _alone = alone();
    let Some(faster) = faster() else { return };
    let taken = |verdict: &Verdict| auto_with(std::slice::from_ref(verdict), None).backend().name;
    assert_eq!(taken(&faster), "gpu");
    assert_eq!(taken(&Verdict { faster: None, ..faster.clone() }), "cpu");
    assert_eq!(taken(&Verdict { variant: None, ..faster.clone() }), "cpu", "no variant was right");
    let before = Verdict { key: format!("{} of yesterday", faster.key), ..faster.clone() };
    assert_eq!(taken(&before), "cpu", "another driver was examined");
    // Of a driver that was replaced nothing follows for the one that is here.
    assert_eq!(auto_with(&[before, faster.clone()], None).backend().name, "gpu");
    let gone = Verdict { key: "abacus".into(), ..faster.clone() };
    assert_eq!(taken(&gone), "cpu", "it is gone");
    // Kernels that were not examined are tested when the device is opened.
    assert_eq!(taken(&Verdict { kernels: "others".into(), ..faster.clone() }), "gpu");
    // Nor is a verdict followed that names what no examination chooses, or what the device lacks.
    for variant in ["warp", "dot", "matrix"] {
        assert_eq!(taken(&Verdict { variant: Some(variant.into()), ..faster.clone() }), "gpu", "{variant}");
    }
}

/// An answer to two requests, one under an adapter.
fn answers(engine: &mut Engine) -> Vec<Vec<u32>> {
    let adapter = concat!(env!("CARGO_MANIFEST_DIR"), "/data/families/llama-bias/adapter");
    engine.register_adapter("a", &Source::dir(adapter)).expect("it loads");
    engine.reserve_kv(2, 64).expect("a small pool");
    let requests = [request(8), Request { adapter: Some("a".into()), ..request(8) }];
    let answers = engine.generate(&requests, &mut |_| ControlFlow::Continue(())).expect("it answers");
    answers.into_iter().map(|answer| answer.tokens).collect()
}

#[test]
fn under_auto_the_cpu_goes_on_from_a_gpu_that_is_lost() {
    let _alone = alone();
    let Some(faster) = faster() else { return };
    let mut whole = auto_with(std::slice::from_ref(&faster), None);
    let expected = answers(&mut whole);
    assert_eq!(whole.backend().name, "gpu");
    for after in 0..8 {
        let mut engine = auto_with(std::slice::from_ref(&faster), Some(after));
        assert_eq!(engine.backend().name, "gpu");
        assert_eq!((answers(&mut engine), engine.backend().name), (expected.clone(), "cpu"), "{after}");
    }
}

#[test]
fn under_auto_the_cpu_runs_what_every_variant_of_the_gpu_refuses() {
    let _alone = alone();
    let Some(gpu) = gpu(GpuFailure::AllPipelines) else { return };
    let options = EngineOptions { threads: 1, ..EngineOptions::default() };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/data/families/llama-bias");
    let opened = Engine::open_on(Box::new(gpu), Source::dir(folder), &options, &mut |_| ());
    let mut engine = opened.expect("it loads");
    assert_eq!(engine.backend().name, "gpu");
    let cpu = EngineOptions { backend: BackendChoice::Cpu, ..options };
    let mut expected = Engine::open(Source::dir(folder), &cpu, &mut |_| ()).expect("it loads");
    assert_eq!(answers(&mut engine), answers(&mut expected));
    assert_eq!(engine.backend().name, "cpu");
}
