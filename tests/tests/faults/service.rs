//! A device that fails while a service answers: under `auto` the CPU takes over and no caller can tell; under a GPU asked for by name
//! the calls under way end with what they had, contexts keep that, and the service goes on.

use std::path::Path;

use interleaf_contract::{BackendError, Numerics};
use interleaf_demo_model as demo;
use interleaf_runtime::{
    Answer, BackendChoice, CallOptions, Context, Engine, EngineOptions, FinishReason, Prompt, Service,
    ServiceOptions, Source, SwapOptions,
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
