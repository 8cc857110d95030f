//! A device that fails while a service answers: under `auto` the CPU takes over and no caller can tell; under a GPU asked for by name
//! the calls under way end with what they had, contexts keep that, and the service goes on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use interleaf_contract::{BackendError, Numerics};
use interleaf_demo_model as demo;
use interleaf_runtime::{
    AdapterChoice, Answer, AppState, BackendChoice, CallOptions, Context, Digest, Engine, EngineOptions,
    FinishReason, Looks, Pooling, Progress, Prompt, RouterHead, RouterLabel, RouterOrigin, Service,
    ServiceOptions, Source, SwapOptions, write_router,
};
use interleaf_tests::backends;
use interleaf_tests::data::Random;

use crate::failing::{Call, Failing, KINDS, after_steps, lost};
use crate::measure::alone;

const CALLS: usize = 4;
const ANSWER: usize = 24;

fn engine(
    choice: BackendChoice,
    store: &Path,
    pool_adapters: bool,
    fault: impl FnMut(Call) -> Result<(), BackendError> + Send + 'static,
) -> Engine {
    let device = Failing::boxed(backends::cpu(1, Numerics::ActQ8_0), fault);
    let options = EngineOptions {
        backend: choice,
        threads: 1,
        prefill_rows: 24,
        store: Some(store.into()),
        swap: Some(SwapOptions::new(16 << 20)),
        pool_adapters,
        ..EngineOptions::default()
    };
    let source = |name, files| Source::Embedded { name, files };
    let mut engine =
        Engine::open_on(device, source(demo::NAME, demo::BASE), &options, &mut |_| ()).expect("it loads");
    for &(name, files) in &demo::ADAPTERS[..3] {
        engine.register_adapter(name, &source(name, files)).expect("its adapters load");
    }
    engine.reserve_kv(CALLS, 160).expect("a small pool");
    engine
}

fn sound(_: Call) -> Result<(), BackendError> {
    Ok(())
}

/// A sound device whose steps take so long that whoever acts during an answer of a hundred tokens is in time.
fn slow(
    mut see: impl FnMut(&Call) + Send + 'static,
) -> impl FnMut(Call) -> Result<(), BackendError> + Send + 'static {
    move |call| {
        see(&call);
        if call == Call::Step {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// The base and three adapters, each in a context of its own, all at once.
fn ask(service: &Service) -> Vec<(Context, Answer)> {
    let random = &mut Random::new(6);
    let app = service.app("mail", None).expect("there is a place");
    let adapters = [None, Some(0), Some(1), Some(2)].map(|at| at.map(|at: usize| demo::ADAPTERS[at].0));
    let asked = adapters.map(|adapter| {
        let context = app.new_context().expect("it begins");
        let prompt: Vec<u32> = (0..40).map(|_| 16 + random.below(1000) as u32).collect();
        let options = CallOptions {
            adapter: adapter.into(),
            max_tokens: ANSWER,
            end_tokens: Some(Vec::new()),
            ..CallOptions::default()
        };
        let generation = context.call(&Prompt::Tokens(prompt), &options).expect("it is taken");
        (context, generation)
    });
    let answers = asked.map(|(context, generation)| (context, generation.wait().expect("it is answered")));
    answers.into()
}

fn start(engine: Engine) -> Service {
    Service::start(engine, ServiceOptions::default()).expect("it starts")
}

fn said(answers: &[(Context, Answer)]) -> Vec<Vec<u32>> {
    answers.iter().map(|(_, answer)| answer.completion.tokens.clone()).collect()
}

fn expected() -> Vec<Vec<u32>> {
    let store = tempfile::tempdir().expect("a folder");
    said(&ask(&start(engine(BackendChoice::Gpu, store.path(), false, sound))))
}

#[test]
fn under_auto_callers_of_a_service_cannot_tell_that_the_device_was_lost() {
    let _alone = alone();
    let expected = expected();
    for pool_adapters in [false, true] {
        for steps in [0, 3, 9, 17, 28] {
            let store = tempfile::tempdir().expect("a folder");
            let fault = after_steps(steps, lost);
            let service = start(engine(BackendChoice::Auto, store.path(), pool_adapters, fault));
            let answers = ask(&service);
            assert_eq!(said(&answers), expected, "lost after {steps} steps, pooled: {pool_adapters}");
            assert!(answers.iter().all(|(_, answer)| answer.is_durable));
            assert_eq!(said(&ask(&service)), expected, "and again on the CPU");
            let stats = service.stats().expect("it serves");
            assert_eq!((stats.answered, stats.failed), (2 * CALLS as u64, 0), "{stats:?}");
            let engine = service.stop().expect("nothing has panicked");
            assert_eq!((engine.backend().name, engine.memory().kv_in_use), ("cpu", 0));
            engine.check_pages().expect("everything fits together");
        }
    }
}

#[test]
fn what_a_device_asked_for_by_name_had_said_stays_and_the_service_goes_on() {
    let _alone = alone();
    let expected = expected();
    let reasons = [FinishReason::DeviceLost, FinishReason::OutOfMemory, FinishReason::DeviceFailed];
    for pool_adapters in [false, true] {
        for (error, reason) in KINDS.into_iter().zip(reasons) {
            let store = tempfile::tempdir().expect("a folder");
            let mut steps = 0;
            // One step fails, the others run.
            let fault = move |call| {
                steps += usize::from(call == Call::Step);
                if call == Call::Step && steps == 17 { Err(error()) } else { Ok(()) }
            };
            let service = start(engine(BackendChoice::Gpu, store.path(), pool_adapters, fault));
            let answers = ask(&service);
            let cut = answers.iter().filter(|(_, answer)| answer.completion.reason == reason).count();
            assert!(cut > 0, "{reason:?}: the failure met nobody");
            for ((context, answer), expected) in answers.iter().zip(&expected) {
                let tokens = &answer.completion.tokens;
                assert!(expected.starts_with(tokens), "{tokens:?}, {expected:?}");
                let is_cut = answer.completion.reason == reason;
                assert!(is_cut || tokens == expected, "{:?}", answer.completion.reason);
                let text = context.tokens().expect("it is there");
                assert!(answer.is_durable && text.ends_with(tokens) && text.len() == 40 + tokens.len());
            }
            assert_eq!(said(&ask(&service)), expected, "it failed once");
            let stats = service.stats().expect("it serves");
            assert_eq!((stats.answered, stats.failed), (2 * CALLS as u64, 0), "{stats:?}");
            let texts: Vec<Vec<u32>> =
                answers.iter().map(|(context, _)| context.tokens().expect("it is there")).collect();
            let engine = service.stop().expect("nothing has panicked");
            assert_eq!((engine.backend().name, engine.memory().kv_in_use), ("gpu", 0));
            engine.check_pages().expect("everything fits together");
            drop(engine);
            // The next run has what they had.
            let service = start(self::engine(BackendChoice::Gpu, store.path(), pool_adapters, sound));
            let app = service.app("mail", None).expect("there is a place");
            let there = app.contexts().into_iter().take(CALLS);
            assert!(there.map(|context| context.tokens().expect("it is there")).eq(texts));
        }
    }
}

/// Chooses the first adapter, whatever the prompt.
fn router(engine: &Engine) -> RouterHead {
    let looks = Looks { layers: vec![0], pooling: Pooling::Last, tokens: 32 };
    let origin = RouterOrigin {
        data: "a test".into(),
        data_digest: Digest::of_bytes(b""),
        prompts: 1,
        is_chat: false,
    };
    RouterHead {
        model: engine.model_digest(),
        origin,
        weight: vec![0.0; looks.features(engine.config().hidden_size)],
        looks,
        temperature: 1.0,
        labels: vec![RouterLabel { name: demo::ADAPTERS[0].0.into(), adapter: None }],
        bias: vec![1.0],
    }
}

#[test]
fn whatever_needs_the_device_while_something_is_done_with_it_does_not_wait_for_itself() {
    let _alone = alone();
    let store = tempfile::tempdir().expect("a folder");
    let mut engine = engine(BackendChoice::Gpu, store.path(), true, sound);
    let file = store.path().join("router.safetensors");
    write_router(&file, &router(&engine)).expect("it is written");
    engine.open_router(Some(&file)).expect("it is the model's");
    let (done, is_done) = std::sync::mpsc::channel();
    let work = std::thread::spawn(move || {
        let prompt: Vec<u32> = (0..40).map(|token| 16 + token).collect();
        // Scored, which leaves chunks to be written; under an adapter that is to be loaded.
        engine.route(&prompt, 1).expect("it is scored");
        for &(name, _) in &demo::ADAPTERS[..3] {
            let (sequence, _) = engine.resume_sequence(Some(name), &prompt, 0.0).expect("it opens");
            engine.close_sequence(sequence).expect("it closes");
        }
        let service = start(engine);
        let context = service.app("mail", None).expect("there is a place").new_context().expect("it begins");
        let adapter = AdapterChoice::Auto { k: 1 };
        let options = CallOptions { adapter, max_tokens: 4, ..CallOptions::default() };
        let other: Vec<u32> = (0..40).map(|token| 116 + token).collect();
        let answer = context.call(&Prompt::Tokens(other), &options).expect("it is taken").wait();
        assert!(answer.expect("an answer").completion.routed.is_some());
        service.suspend_gpu();
        service.resume_gpu();
        done.send(()).expect("somebody waits");
    });
    is_done.recv_timeout(Duration::from_secs(120)).expect("it waits for itself, or has panicked");
    work.join().expect("no panic");
}

/// Ends another thread's loop, also where a test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_gpu_that_is_taken_away_while_adapters_are_loaded_costs_no_call() {
    let _alone = alone();
    let expected = expected();
    let store = tempfile::tempdir().expect("a folder");
    let mut engine = engine(BackendChoice::Gpu, store.path(), true, sound);
    // One adapter at a time finds room, so that each call loads its own.
    engine.reserve_kv(3, 160).expect("a small pool");
    let service = start(engine);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let random = &mut Random::new(3);
            while !is_over.load(Ordering::SeqCst) {
                service.suspend_gpu();
                std::thread::sleep(Duration::from_micros(random.below(1500) as u64));
                service.resume_gpu();
                std::thread::sleep(Duration::from_micros(random.below(1500) as u64));
            }
        });
        let _end = End(&is_over);
        for round in 0..6 {
            assert_eq!(said(&ask(&service)), expected, "{round}");
        }
    });
    let stats = service.stats().expect("it serves");
    assert!(stats.failed == 0 && stats.adapters.loads > 6, "{stats:?}");
}

#[test]
fn a_device_that_is_lost_while_it_is_given_an_adapter_is_left() {
    let _alone = alone();
    let expected = expected();
    for error in KINDS {
        let store = tempfile::tempdir().expect("a folder");
        let mut is_gone = false;
        let fault = move |call| {
            is_gone |= matches!(call, Call::Adapter(_));
            if is_gone && call != Call::Results { Err(error()) } else { Ok(()) }
        };
        let service = start(engine(BackendChoice::Auto, store.path(), true, fault));
        assert_eq!(said(&ask(&service)), expected);
        let engine = service.stop().expect("nothing has panicked");
        assert_eq!(engine.backend().name, "cpu");
        engine.check_pages().expect("everything fits together");
    }
}

#[test]
fn an_app_that_is_killed_while_the_gpu_is_suspended_leaves_memory() {
    let _alone = alone();
    let store = tempfile::tempdir().expect("a folder");
    let service = start(engine(BackendChoice::Gpu, store.path(), false, slow(|_| ())));
    let app = service.app("mail", None).expect("there is a place");
    let prompt = Prompt::Tokens((0..40).map(|token| 16 + token).collect());
    let options = CallOptions { max_tokens: 100, end_tokens: Some(Vec::new()), ..CallOptions::default() };
    let call = app.new_context().expect("it begins").call(&prompt, &options).expect("it is taken");
    while !matches!(call.next().expect("it is under way"), Progress::Text { .. }) {}
    service.suspend_gpu();
    app.set_state(AppState::Killed).expect("it serves");
    let memory = service.memory().expect("it serves");
    assert_eq!((memory.kv_in_use, memory.kv_cached), (0, 0), "{memory:?}");
    service.resume_gpu();
    assert_eq!(call.wait().expect("what it had").completion.reason, FinishReason::Cancelled);
}

#[test]
fn a_call_is_cancelled_within_one_step() {
    let _alone = alone();
    let store = tempfile::tempdir().expect("a folder");
    let steps = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&steps);
    let count = slow(move |call| _ = counted.fetch_add(usize::from(*call == Call::Step), Ordering::SeqCst));
    let service = start(engine(BackendChoice::Gpu, store.path(), false, count));
    let app = service.app("mail", None).expect("there is a place");
    let options = CallOptions { max_tokens: 100, end_tokens: Some(Vec::new()), ..CallOptions::default() };
    for round in 0..8 {
        let prompt = Prompt::Tokens((0..20).map(|token| 16 + round * 20 + token).collect());
        let call = app.new_context().expect("it begins").call(&prompt, &options).expect("it is taken");
        while !matches!(call.next().expect("it is under way"), Progress::Text { .. }) {}
        call.cancel();
        let before = steps.load(Ordering::SeqCst);
        let answer = call.wait().expect("what it had").completion;
        let after = steps.load(Ordering::SeqCst);
        assert_eq!(answer.reason, FinishReason::Cancelled);
        // The one under way, and the one that was begun ahead of its end.
        assert!(after <= before + 2, "{round}: {} steps", after - before);
    }
}
