//! A memory budget is looked at before anything is allocated, and kept in every sample after that.

use std::ops::ControlFlow;

use interleaf_demo_model as demo_model;
use interleaf_runtime::{
    BackendChoice, Engine, EngineError, EngineOptions, MemoryUse, Request, SamplingOptions,
};

use super::support::{embedded, models, options, prompts};

fn open(memory_budget: Option<u64>) -> Result<Engine, EngineError> {
    let base = embedded(demo_model::NAME, demo_model::BASE);
    let options = EngineOptions { memory_budget, pool_adapters: true, ..options(BackendChoice::Cpu) };
    let mut engine = Engine::open(base, &options, &mut |_| ())?;
    for &(name, files) in demo_model::ADAPTERS {
        engine.register_adapter(name, &embedded(name, files))?;
    }
    Ok(engine)
}

fn held(memory: &MemoryUse) -> u64 {
    let backend = memory.backend;
    backend.base + backend.adapters + backend.kv + backend.activations
}

#[test]
fn what_cannot_fit_is_refused_by_number_before_it_is_allocated() {
    let needed = match open(Some(1 << 20)).map(|_| ()) {
        Err(EngineError::DoesNotFit { needed, budget, what }) => {
            assert!(budget == 1 << 20 && needed > 11 << 20, "{what}: {needed}");
            needed
        }
        other => panic!("{other:?}"),
    };
    let mut engine = open(Some(needed + (8 << 20))).expect("the weights fit");
    let before = engine.memory().backend.kv;
    let refused = engine.reserve_kv(64, 512).expect_err("the pool does not");
    assert!(matches!(refused, EngineError::DoesNotFit { .. }), "{refused}");
    assert_eq!(engine.memory().backend.kv, before);
    engine.reserve_kv(1, 320).expect("a small one does");
}

#[test]
fn what_did_not_end_is_begun_again_when_that_is_asked_for() {
    let store = tempfile::tempdir().expect("a folder");
    let open = |retry_load| {
        let base = embedded(demo_model::NAME, demo_model::BASE);
        let store = Some(store.path().to_owned());
        let options = EngineOptions { store, retry_load, ..options(BackendChoice::Cpu) };
        let mut engine = Engine::open(base, &options, &mut |_| ())?;
        engine.reserve_kv(1, 64).map(|()| engine)
    };
    open(false).expect("it loads");
    let model = "embedded:tiny-rust-llama with its weights as stored".to_owned();
    // As a process leaves it that is ended while it loads, and while it reserves.
    for (file, what) in
        [("loading", model.clone()), ("reserving", format!("{model} with a KV pool of 64 tokens"))]
    {
        let mark = store.path().join(file);
        std::fs::write(&mark, &what).expect("it is written");
        for _ in 0..2 {
            match open(false).map(|_| ()) {
                Err(EngineError::LastLoadFailed { mark: found, what: found_what }) => {
                    assert_eq!((found, found_what), (mark.display().to_string(), what.clone()));
                }
                other => panic!("{other:?}"),
            }
        }
        open(true).expect("it was asked for");
        assert!(!mark.exists());
        open(false).expect("it loads");
    }
}

#[test]
fn no_sample_is_beyond_the_budget() {
    let mut engine = open(None).expect("the model loads");
    engine.reserve_kv(2, 320).expect("a pool");
    let prompts = prompts(&engine);
    let request = |(adapter, prompt): (Option<&str>, &Vec<u32>)| Request {
        prompt: prompt.clone(),
        adapter: adapter.map(str::to_owned),
        max_tokens: 16,
        sampling: SamplingOptions::default(),
        stop: Vec::new(),
        end_tokens: Vec::new(),
        drift: 0.0,
    };
    let requests: Vec<Request> = models().into_iter().zip(prompts.iter().cycle()).map(request).collect();
    // The least that it can be told to keep to with this pool, adapters of all its blocks included.
    let mut budget = held(&engine.memory());
    let mut tight = loop {
        let mut engine = open(Some(budget)).expect("the weights fit");
        match engine.reserve_kv(2, 320) {
            Ok(()) => break engine,
            Err(EngineError::DoesNotFit { needed, .. }) => budget = needed,
            Err(error) => panic!("{error}"),
        }
    };
    for _ in 0..2 {
        for requests in requests.chunks(3) {
            let completions = tight.generate(requests, &mut |_| ControlFlow::Continue(())).expect("answers");
            assert!(completions.iter().all(|completion| !completion.tokens.is_empty()));
            let memory = tight.memory();
            let pool = memory.kv_in_use + memory.kv_cached + memory.kv_adapters;
            assert!(pool <= memory.backend.kv, "{memory:?}");
            assert!(held(&memory) <= budget, "{budget}: {memory:?}");
        }
    }
}
