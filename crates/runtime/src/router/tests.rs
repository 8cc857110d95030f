//! Routing on the demo model, by heads whose choice is known.

use std::ops::ControlFlow;
use std::path::Path;

use interleaf_demo_model as demo;
use interleaf_model::{Digest, Looks, Pooling, RouterOrigin};

use super::*;
use crate::{
    BackendChoice, CallOptions, Completion, EngineOptions, PageElement, Progress, Prompt, Request,
    SamplingOptions, Service, ServiceError, ServiceOptions, write_router,
};

fn options(store: Option<&Path>) -> EngineOptions {
    let store = store.map(Path::to_path_buf);
    EngineOptions {
        backend: BackendChoice::Cpu,
        pages: PageElement::F32,
        threads: 2,
        store,
        ..EngineOptions::default()
    }
}

fn engine(store: Option<&Path>) -> Engine {
    let base = Source::Embedded { name: demo::NAME, files: demo::BASE };
    let mut engine = Engine::open(base, &options(store), &mut |_| ()).unwrap();
    for &(name, files) in demo::ADAPTERS {
        engine.register_adapter(name, &Source::Embedded { name, files }).unwrap();
    }
    engine.reserve_kv(6, 256).unwrap();
    engine
}

fn prompt(engine: &Engine, at: usize) -> Vec<u32> {
    let text = format!("<|bos|><|system|>\n{}\n<|user|>\n{}\n", demo::SYSTEM, demo::QUESTIONS[at].1);
    engine.tokenizer("a test").unwrap().encode(&text, false).unwrap()
}

/// A head that finds the labels likely in this order, whatever the prompt; what it looks at counts a little.
fn head(engine: &Engine, labels: &[&str], tokens: usize) -> RouterHead {
    let looks = Looks { layers: vec![0, 3, 6], pooling: Pooling::MeanAndLast, tokens };
    let features = labels.len() * looks.features(engine.config().hidden_size);
    let label = |name: &&str| RouterLabel { name: (*name).into(), adapter: None };
    RouterHead {
        model: engine.model_digest(),
        origin: RouterOrigin {
            data: "a test".into(),
            data_digest: Digest::of_bytes(b""),
            prompts: 1,
            is_chat: false,
        },
        looks,
        temperature: 1.0,
        labels: labels.iter().map(label).collect(),
        weight: (0..features).map(|i| 1e-5 * (i as f32 * 0.7).sin()).collect(),
        bias: (0..labels.len()).map(|place| 2.0 - place as f32).collect(),
    }
}

fn answer(engine: &mut Engine, prompt: &[u32], adapter: Option<&str>) -> Completion {
    let request = Request {
        prompt: prompt.to_vec(),
        adapter: adapter.map(str::to_owned),
        max_tokens: 8,
        sampling: SamplingOptions::default(),
        stop: Vec::new(),
        end_tokens: Vec::new(),
        drift: 0.0,
    };
    engine.generate(&[request], &mut |_| ControlFlow::Continue(())).unwrap().remove(0)
}

#[test]
fn what_was_scored_is_not_computed_again() {
    let mut engine = engine(None);
    let prompt = prompt(&engine, 1);
    engine.use_router(head(&engine, &["none of these"], 128)).unwrap();
    let routed = engine.route(&prompt, 3).unwrap();
    assert_eq!((routed.adapter, routed.computed_tokens), (None, prompt.len()));
    assert!(prompt.len() < 128);
    let alone = answer(&mut self::engine(None), &prompt, None);
    let found = answer(&mut engine, &prompt, None);
    assert_eq!((found.reused_tokens, &found.tokens), (prompt.len() - 1, &alone.tokens), "all but the last");

    // No more than is scored.
    let mut engine = self::engine(None);
    engine.use_router(head(&engine, &["rust-code"], 40)).unwrap();
    let routed = engine.route(&prompt, 1).unwrap();
    assert_eq!((routed.scored_tokens, routed.computed_tokens), (40, 40));
    let found = answer(&mut engine, &prompt, None);
    assert_eq!((found.reused_tokens, found.tokens), (40, alone.tokens));
}

#[test]
fn an_adapter_shares_the_layers_below_the_first_that_it_changes() {
    let mut engine = engine(None);
    let prompt = prompt(&engine, 4);
    engine.use_router(head(&engine, &["cargo-toml"], 128)).unwrap();
    let routed = engine.route(&prompt, 1).unwrap();
    assert_eq!(routed.adapter.as_deref(), Some("cargo-toml"));
    assert_eq!(engine.memory().kv_shared_layers, 0);
    answer(&mut engine, &prompt, Some("cargo-toml"));
    assert!(engine.memory().kv_shared_layers > 0, "its first layer is the base's, whose pages are there");
}

#[test]
fn an_activated_adapter_goes_on_from_what_was_scored_before_its_invocation() {
    let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/families");
    let base = Source::dir(families.join("llama-rope3"));
    let mut engine = Engine::open(base, &options(None), &mut |_| ()).unwrap();
    engine.register_adapter("alora", &Source::dir(families.join("llama-rope3-alora/adapter"))).unwrap();
    engine.reserve_kv(3, 64).unwrap();
    let looks = Looks { layers: vec![1], pooling: Pooling::Mean, tokens: 64 };
    let weight = vec![0.0; looks.features(engine.config().hidden_size)];
    let head = RouterHead { looks, weight, ..head(&engine, &["alora"], 64) };
    engine.use_router(head).unwrap();
    let text: Vec<u32> = (0..21).map(|i| 100 + i * 13 % 150).collect();
    let asked = [text, vec![41, 300, 7, 12, 13]].concat();
    assert_eq!(engine.route(&asked, 1).unwrap().adapter.as_deref(), Some("alora"));
    let found = answer(&mut engine, &asked, Some("alora"));
    assert_eq!((found.reused_tokens, found.adapter_from), (21, Some(21)));
}

#[test]
fn a_score_does_not_depend_on_what_is_cached() {
    let mut fresh = engine(None);
    let prompt = prompt(&fresh, 2);
    let head = head(&fresh, &["api-docs", "rust-code", "book-prose"], 128);
    fresh.use_router(head.clone()).unwrap();
    let expected = fresh.route(&prompt, 2).unwrap();
    let again = fresh.route(&prompt, 2).unwrap();
    assert_eq!((&again.scores, again.computed_tokens), (&expected.scores, 0), "it is known");

    // By the states themselves.
    let sequence = fresh.open_sequence(None, &prompt).unwrap();
    let states = fresh.hidden_states(sequence, &prompt, &head.looks.layers).unwrap();
    fresh.close_sequence(sequence).unwrap();
    let mut features = Vec::new();
    states.iter().for_each(|layer| head.looks.pooling.pool(layer, 256, &mut features));
    let probabilities: Vec<f32> = expected.scores.iter().map(|score| score.probability).collect();
    assert_eq!(probabilities, head.score(&features));

    for cut in [16, 30, prompt.len()] {
        let mut engine = engine(None);
        engine.use_router(head.clone()).unwrap();
        answer(&mut engine, &prompt[..cut], None);
        let held = engine.memory();
        let found = engine.route(&prompt, 2).unwrap();
        assert_eq!((&found.scores, found.computed_tokens), (&expected.scores, prompt.len()), "{cut} cached");
        let memory = engine.memory();
        assert_eq!(memory.kv_in_use, 0);
        if cut == prompt.len() {
            assert_eq!(memory.kv_cached, held.kv_cached, "what was there is not held twice");
        }
        let found = answer(&mut engine, &prompt, None);
        assert_eq!(found.reused_tokens, prompt.len() - 1);
    }
}

#[test]
fn who_is_registered_is_told_by_content_where_that_is_known() {
    let mut engine = engine(None);
    let prompt = prompt(&engine, 0);
    let digest = |engine: &Engine, name| engine.adapters().find(|a| a.name == name).unwrap().digest;
    let mut head = head(&engine, &["rust-code", "renamed", "book-prose"], 16);
    head.labels[0].adapter = Some(Digest::of_bytes(b"another version"));
    head.labels[1].adapter = Some(digest(&engine, "api-docs"));
    engine.use_router(head).unwrap();
    let routed = engine.route(&prompt, 1).unwrap();
    assert_eq!(routed.adapter.as_deref(), Some("api-docs"));
    let registered: Vec<Option<&str>> = routed.scores.iter().map(|score| score.adapter.as_deref()).collect();
    assert_eq!(registered, [None, Some("api-docs"), Some("book-prose")]);
    assert_eq!(routed.scores.iter().map(|score| score.is_resident).collect::<Vec<_>>(), [false, true, true]);
}

#[test]
fn what_cannot_be_routed_is_refused_and_changes_nothing() {
    let store = tempfile::tempdir().unwrap();
    let mut engine = engine(Some(store.path()));
    let refused = |result: Result<Routed, EngineError>| result.unwrap_err().to_string();
    assert!(matches!(engine.route(&[1], 1), Err(EngineError::NoRouter)));
    assert!(matches!(engine.open_router(None), Err(EngineError::NoRouter)));
    let missing = engine.open_router(Some(&store.path().join("absent"))).unwrap_err().to_string();
    assert!(missing.contains("absent: no such file"), "{missing}");
    let good = head(&engine, &["rust-code"], 16);
    let kept = engine.store.router_file(engine.model_digest()).unwrap();
    write_router(&kept, &good).unwrap();
    assert_eq!(engine.open_router(None).unwrap(), &good);

    assert!(refused(engine.route(&[1], 0)).contains("k must be at least 1"));
    assert!(refused(engine.route(&[], 1)).contains("no tokens"));
    assert!(matches!(engine.route(&[1, 5000], 1), Err(EngineError::UnknownToken { token: 5000, .. })));
    assert_eq!((engine.memory().kv_in_use, engine.memory().kv_cached), (0, 0));
    let other = RouterHead { model: Digest::of_bytes(b"another"), ..good.clone() };
    assert!(engine.use_router(other.clone()).unwrap_err().to_string().contains("router must be"));
    let file = store.path().join("other.safetensors");
    write_router(&file, &other).unwrap();
    let error = engine.open_router(Some(&file)).unwrap_err().to_string();
    assert!(error.contains("other.safetensors") && error.contains("model must be"), "{error}");
    assert_eq!(engine.router(), Some(&good), "the one that was open stays open");
    let infinite = RouterHead { bias: vec![f32::NAN], ..good };
    engine.use_router(infinite).unwrap();
    assert!(matches!(engine.route(&[1], 1), Err(EngineError::NotANumber)));
}

/// What a service answers, and the adapters that it told of.
fn ask(service: &Service, app: &str, prompt: &[u32], adapter: AdapterChoice) -> (Completion, Vec<Progress>) {
    let context = service.app(app, None).unwrap().new_context().unwrap();
    let options =
        CallOptions { adapter, max_tokens: 8, end_tokens: Some(Vec::new()), ..CallOptions::default() };
    let call = context.call(&Prompt::Tokens(prompt.to_vec()), &options).unwrap();
    let mut told = Vec::new();
    while let Some(progress) = call.next() {
        if matches!(progress, Progress::Adapter { .. }) {
            told.push(progress);
        }
    }
    (call.wait().unwrap().completion, told)
}

#[test]
fn a_service_answers_as_if_what_it_chose_had_been_named() {
    let mut engine = engine(None);
    let prompt = prompt(&engine, 1);
    let alone = answer(&mut self::engine(None), &prompt, Some("rust-code"));
    let service = Service::start(engine, ServiceOptions::default()).unwrap();
    let context = service.app("a", None).unwrap().new_context().unwrap();
    let auto = |k| CallOptions { adapter: AdapterChoice::Auto { k }, ..CallOptions::default() };
    let tokens = Prompt::Tokens(prompt.clone());
    assert!(context.call(&tokens, &auto(0)).unwrap_err().to_string().contains("k must be"));
    match context.call(&tokens, &auto(2)).unwrap().wait() {
        Err(ServiceError::Engine(error)) => assert!(matches!(*error, EngineError::NoRouter), "{error}"),
        other => panic!("there is no router, and {other:?}"),
    }
    engine = service.stop().unwrap();
    engine.use_router(head(&engine, &["rust-code", "api-docs"], 32)).unwrap();
    let service = Service::start(engine, ServiceOptions::default()).unwrap();

    let (found, told) = ask(&service, "a", &prompt, AdapterChoice::Auto { k: 2 });
    assert_eq!(told, [Progress::Adapter { name: Some("rust-code".into()) }]);
    assert_eq!((&found.tokens, found.adapter_from), (&alone.tokens, Some(0)));
    let routed = found.routed.unwrap();
    assert_eq!((routed.adapter.as_deref(), routed.computed_tokens), (Some("rust-code"), 32));
    let (named, told) = ask(&service, "a", &prompt, "rust-code".into());
    assert_eq!((named.tokens, named.routed, told), (alone.tokens.clone(), None, vec![]));
    assert_eq!(named.reused_tokens, prompt.len() - 1, "the adapter's own");

    // The base finds what was scored. Scores are kept for who asked, and others' are not looked at.
    let (base, _) = ask(&service, "b", &prompt, AdapterChoice::Base);
    assert_eq!(base.reused_tokens, 32);
    let routed = |app| ask(&service, app, &prompt, AdapterChoice::Auto { k: 2 }).0.routed.unwrap();
    assert_eq!(
        [routed("a").computed_tokens, routed("b").computed_tokens, routed("b").computed_tokens],
        [0, 32, 0]
    );
}

#[test]
fn who_finds_no_room_to_be_scored_waits() {
    let mut engine = engine(None);
    let prompts: Vec<Vec<u32>> = (0..6).map(|at| prompt(&engine, at)).collect();
    let expected: Vec<Completion> =
        prompts.iter().map(|prompt| answer(&mut self::engine(None), prompt, Some("api-docs"))).collect();
    engine.reserve_kv(1, 192).unwrap();
    engine.use_router(head(&engine, &["api-docs"], 128)).unwrap();
    let service = Service::start(engine, ServiceOptions::default()).unwrap();
    std::thread::scope(|scope| {
        let asked: Vec<_> = prompts
            .iter()
            .map(|prompt| scope.spawn(|| ask(&service, "a", prompt, AdapterChoice::Auto { k: 1 }).0))
            .collect();
        for (asked, expected) in asked.into_iter().zip(&expected) {
            assert_eq!(asked.join().unwrap().tokens, expected.tokens);
        }
    });
}

#[test]
fn who_waits_with_the_adapter_that_was_chosen_keeps_it() {
    let mut engine = engine(None);
    let prompt = prompt(&engine, 1);
    let expected = answer(&mut self::engine(None), &prompt.repeat(2), Some("rust-code"));
    // Room for what is scored beside a long answer, and not for all of the prompt.
    engine.reserve_kv(1, 4 * prompt.len()).unwrap();
    engine.use_router(head(&engine, &["rust-code"], 32)).unwrap();
    let service = Service::start(engine, ServiceOptions::default()).unwrap();
    let app = service.app("a", None).unwrap();
    let call = |prompt: &[u32], adapter, max_tokens| {
        let options =
            CallOptions { adapter, max_tokens, end_tokens: Some(Vec::new()), ..CallOptions::default() };
        app.new_context().unwrap().call(&Prompt::Tokens(prompt.to_vec()), &options).unwrap()
    };
    let long = call(&prompt.repeat(3)[7..], AdapterChoice::Base, prompt.len());
    while !matches!(long.next().unwrap(), Progress::Text { .. }) {}
    let waiting = call(&prompt.repeat(2), AdapterChoice::Auto { k: 1 }, 8);
    while !matches!(waiting.next().unwrap(), Progress::Adapter { .. }) {}
    let (_, files) = demo::ADAPTERS[3];
    service.replace_adapter("rust-code", Source::Embedded { name: "another", files }).unwrap();
    assert_eq!(waiting.wait().unwrap().completion.tokens, expected.tokens);
    long.wait().unwrap();
}
