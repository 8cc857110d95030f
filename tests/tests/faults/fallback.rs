//! Under `auto` the CPU takes over from a GPU that fails, whatever it fails at, and nobody who holds an answer, a
//! conversation, a sequence or an adapter's name has to begin anew. A GPU that was asked for by name fails by name, and
//! what the answers had is kept.
//!
//! The device that fails here computes as the CPU does, so what comes out must be equal to the bit.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use interleaf_contract::{BackendError, Numerics};
use interleaf_demo_model as demo;
use interleaf_runtime::{
    BackendChoice, Completion, Conversation, Engine, EngineError, EngineOptions, Event, Feed, FinishReason,
    PeftAdapter, Request, RowKind, SamplingOptions, Source, Want,
};
use interleaf_tests::backends;
use tracing_subscriber::util::SubscriberInitExt;

use crate::failing::{Call, Failing, KINDS, after_steps, lost, no_room, unsupported};
use crate::measure::alone;

fn options(backend: BackendChoice) -> EngineOptions {
    EngineOptions { backend, threads: 1, prefill_rows: 24, ..EngineOptions::default() }
}

/// The demo model without adapters on a device that fails.
fn opened(
    choice: BackendChoice,
    fault: impl FnMut(Call) -> Result<(), BackendError> + Send + 'static,
) -> Engine {
    let device = Failing::boxed(backends::cpu(1, Numerics::ActQ8_0), fault);
    let source = Source::Embedded { name: demo::NAME, files: demo::BASE };
    Engine::open_on(device, source, &options(choice), &mut |_| ()).expect("it loads")
}

fn register(engine: &mut Engine, count: usize) {
    for &(name, files) in &demo::ADAPTERS[..count] {
        engine.register_adapter(name, &Source::Embedded { name, files }).expect("its adapters load");
    }
}

/// The same with two adapters and room for three answers.
fn engine(
    choice: BackendChoice,
    fault: impl FnMut(Call) -> Result<(), BackendError> + Send + 'static,
) -> Engine {
    let mut engine = opened(choice, fault);
    register(&mut engine, 2);
    engine.reserve_kv(3, 128).expect("a small pool");
    engine
}

fn sound(_: Call) -> Result<(), BackendError> {
    Ok(())
}

fn request(engine: &Engine, adapter: Option<&str>, question: &str) -> Request {
    let tokenizer = engine.tokenizer("a test").expect("the demo model has one");
    let text = format!("<|bos|><|system|>\n{}\n<|user|>\n{question}\n<|assistant|>\n", demo::SYSTEM);
    let sampling = SamplingOptions { temperature: 0.9, top_k: 40, seed: 7, ..SamplingOptions::default() };
    Request {
        prompt: tokenizer.encode(&text, false).expect("plain text"),
        adapter: adapter.map(str::to_owned),
        max_tokens: 14,
        sampling,
        stop: Vec::new(),
        end_tokens: Vec::new(),
        drift: 0.0,
    }
}

/// The base and two adapters, which draw their tokens.
fn requests(engine: &Engine) -> Vec<Request> {
    let adapters = [None, Some(demo::ADAPTERS[0].0), Some(demo::ADAPTERS[1].0)];
    adapters.map(|adapter| request(engine, adapter, "What is ownership?")).into()
}

/// What is the same however long it took, with the text that was told of as it came.
type Told = Vec<(String, String, Vec<u32>, FinishReason)>;

fn told(completions: Vec<Completion>, texts: Vec<String>) -> Told {
    completions.into_iter().zip(texts).map(|(c, told)| (told, c.text, c.tokens, c.reason)).collect()
}

fn generate(
    engine: &mut Engine,
    requests: &[Request],
) -> (Result<Vec<Completion>, EngineError>, Vec<String>) {
    let mut texts = vec![String::new(); requests.len()];
    let answers = engine.generate(requests, &mut |event| {
        if let Event::Text { request, text, .. } = event {
            texts[request].push_str(&text);
        }
        ControlFlow::Continue(())
    });
    (answers, texts)
}

fn answers(engine: &mut Engine) -> Told {
    let requests = requests(engine);
    let (completions, texts) = generate(engine, &requests);
    told(completions.expect("it answers"), texts)
}

/// The lines that were warned of while something ran.
fn warnings(act: impl FnOnce()) -> Vec<String> {
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("whole").write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink::default();
    let writer = sink.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let guard = subscriber.set_default();
    act();
    drop(guard);
    let bytes = sink.0.lock().expect("whole").clone();
    String::from_utf8(bytes).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn answers_go_on_where_they_were_and_that_is_said_once() {
    let _alone = alone();
    let expected = answers(&mut engine(BackendChoice::Auto, sound));
    for error in KINDS {
        // While prompts are read, at the first tokens, among later ones.
        for steps in [0, 2, 9, 15] {
            let mut engine = engine(BackendChoice::Auto, after_steps(steps, error));
            assert_eq!(engine.backend().name, "gpu");
            let lines = warnings(|| assert_eq!(answers(&mut engine), expected, "{steps} {}", error()));
            assert_eq!(engine.backend().name, "cpu");
            let is_it = |line: &String| line.contains("the CPU runs") && line.contains("on purpose");
            assert!(lines.len() == 1 && lines.iter().all(is_it), "{lines:?}");
            assert_eq!(engine.memory().kv_in_use, 0, "every page is free again");
            assert_eq!(answers(&mut engine), expected, "and again");
        }
    }
}

#[test]
fn who_waits_for_pages_to_come_back_may_break_off() {
    let _alone = alone();
    let mut engine = engine(BackendChoice::Auto, after_steps(12, lost));
    let requests = [request(&engine, None, "What is ownership?")];
    let mut text = 0;
    let broken = engine.generate(&requests, &mut |event| match event {
        Event::Text { tokens, .. } => {
            text = tokens;
            ControlFlow::Continue(())
        }
        // The prompt again, behind tokens of the answer.
        Event::Prefill { done, total, .. } if text > 0 => {
            assert!(done < total && total > requests[0].prompt.len(), "{done} of {total}");
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    let broken = broken.expect("breaking off is no error").remove(0);
    assert_eq!((broken.reason, broken.tokens.len()), (FinishReason::Cancelled, text));
    assert!(text > 0);
}

#[test]
fn conversations_and_sequences_outlive_their_device() {
    let _alone = alone();
    let mut device = engine(BackendChoice::Auto, after_steps(21, lost));
    let mut cpu = engine(BackendChoice::Auto, sound);
    let [question, adapted] =
        [None, Some(demo::ADAPTERS[0].0)].map(|adapter| request(&cpu, adapter, "What is a trait?"));
    let text: Vec<u32> = question.prompt[..30].to_vec();
    let on_each = [&mut device, &mut cpu].map(|engine| {
        let (mut one, mut other) = <[Conversation; 2]>::default().into();
        let turn = |conversation: &mut Conversation, request: &Request, engine: &mut Engine| {
            let turn = engine.converse(conversation, request, &mut |_| ControlFlow::Continue(()));
            let turn = turn.expect("it answers");
            (turn.tokens, turn.text, turn.reused_tokens)
        };
        let sequence = engine.open_sequence(adapted.adapter.as_deref(), &[]).expect("registered");
        let feed = |tokens: &[u32], engine: &mut Engine| {
            let feed = Feed { sequence, tokens, kind: RowKind::Prompt, want: Want::Logits };
            engine.feed(&[feed]).expect("it runs").remove(0).logits
        };
        let before = (feed(&text[..20], engine), turn(&mut one, &question, engine));
        let named = engine.backend().name;
        // Here the device is lost.
        let during = turn(&mut other, &adapted, engine);
        let (k, v) = engine.read_kv(sequence, 0).expect("it reads");
        let after = (feed(&text[20..], engine), turn(&mut one, &question, engine), k, v);
        (
            (before, (during.0, during.1), (after.0, (after.1.0, after.1.1), after.2, after.3)),
            named,
            after.1.2,
        )
    });
    let [(found, first, reused), (expected, _, reused_there)] = on_each;
    assert_eq!((first, device.backend().name), ("gpu", "cpu"));
    assert!(found == expected);
    assert_eq!(
        (reused, reused_there),
        (0, question.prompt.len() - 1),
        "what is computed again is not reused"
    );
}

#[test]
fn a_pool_that_the_gpu_has_no_room_for_is_the_cpus() {
    let _alone = alone();
    let fault = |call| if matches!(call, Call::Pool(slots) if slots > 30) { Err(no_room()) } else { Ok(()) };
    let mut small = engine(BackendChoice::Auto, fault);
    let expected = answers(&mut small);
    // Nobody has room for this, so it is no reason to leave.
    let refused = small.reserve_kv(usize::MAX, 4096).expect_err("more than can be addressed");
    assert!(matches!(&refused, EngineError::Backend(BackendError::OutOfMemory { backend: "gpu", .. })));
    assert_eq!(small.backend().name, "gpu");
    for error in [no_room, unsupported] {
        let fault =
            move |call| if matches!(call, Call::Pool(slots) if slots > 30) { Err(error()) } else { Ok(()) };
        let mut small = engine(BackendChoice::Auto, fault);
        let lines = warnings(|| small.reserve_kv(3, 256).expect("the CPU has room"));
        assert_eq!((small.backend().name, lines.len()), ("cpu", 1), "{lines:?}");
        assert_eq!(answers(&mut small), expected);
    }

    let mut forced = engine(BackendChoice::Gpu, fault);
    let refused = forced.reserve_kv(3, 256).expect_err("by name");
    assert!(matches!(refused, EngineError::Backend(BackendError::OutOfMemory { backend: "gpu", .. })));
    assert_eq!(forced.backend().name, "gpu");
}

#[test]
fn an_adapter_that_the_gpu_refuses_goes_to_the_cpu_and_takes_the_others_along() {
    let _alone = alone();
    let last = demo::ADAPTERS[1].0;
    for error in KINDS {
        let fault =
            move |call| if matches!(&call, Call::Adapter(n) if n == last) { Err(error()) } else { Ok(()) };
        let mut moved = opened(BackendChoice::Auto, fault);
        register(&mut moved, 1);
        moved.reserve_kv(3, 128).expect("a small pool");
        let (name, files) = demo::ADAPTERS[1];
        let adapter =
            PeftAdapter::open(name, &Source::Embedded { name, files }, moved.model()).expect("sound");
        let lines = warnings(|| assert!(moved.register_opened(adapter).is_ok()));
        assert_eq!((moved.backend().name, lines.len()), ("cpu", 1), "{lines:?}");
        assert_eq!(answers(&mut moved), answers(&mut engine(BackendChoice::Auto, sound)));

        let mut forced = opened(BackendChoice::Gpu, fault);
        register(&mut forced, 1);
        let refused = forced.register_adapter(name, &Source::Embedded { name, files }).expect_err("by name");
        assert!(matches!(refused, EngineError::Backend(e) if e == error()));
        assert_eq!((forced.backend().name, forced.adapters().count()), ("gpu", 1));
    }
}

/// A demo adapter with its factors, which are f16, stored as bf16: they are not held on the host.
fn bf16_adapter(folder: &std::path::Path) {
    use half::{bf16, f16};
    for (name, bytes) in demo::ADAPTERS[1].1 {
        let Some(stem) = name.strip_suffix(".safetensors") else {
            std::fs::write(folder.join(name), bytes).expect("writes");
            continue;
        };
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("a length")) as usize;
        let halves = bytes[header..].chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]));
        let data: Vec<u8> = halves.flat_map(|h| bf16::from_f32(h.to_f32()).to_le_bytes()).collect();
        let text =
            String::from_utf8(bytes[8..header].to_vec()).expect("a header").replace("\"F16\"", "\"BF16\"");
        let file = [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &data].concat();
        std::fs::write(folder.join(format!("{stem}.safetensors")), file).expect("writes");
    }
}

#[test]
fn an_adapter_whose_files_are_read_again_must_be_the_same() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    bf16_adapter(folder.path());
    let set_up = |fault: Box<dyn FnMut(Call) -> Result<(), BackendError> + Send>| {
        let mut engine = opened(BackendChoice::Auto, fault);
        engine.register_adapter("widened", &Source::dir(folder.path())).expect("sound");
        engine.reserve_kv(1, 128).expect("a small pool");
        engine
    };
    let mut whole = set_up(Box::new(sound));
    let mut engine = set_up(Box::new(after_steps(9, lost)));
    let opened = PeftAdapter::open("a", &Source::dir(folder.path()), whole.model()).expect("sound");
    assert_eq!(opened.sites[0].dtypes, [interleaf_contract::Dtype::Bf16; 2]);
    let requests = [request(&whole, Some("widened"), "What is ownership?")];
    let expected = generate(&mut whole, &requests).0.expect("it answers").remove(0).tokens;

    let config = folder.path().join("adapter_config.json");
    let kept = std::fs::read_to_string(&config).expect("reads");
    let alpha: serde_json::Value = serde_json::from_str(&kept).expect("JSON");
    let mut other = alpha.clone();
    other["lora_alpha"] = serde_json::json!(alpha["lora_alpha"].as_f64().expect("a number") * 2.0);
    std::fs::write(&config, other.to_string()).expect("writes");
    let (failed, _) = generate(&mut engine, &requests);
    let Err(EngineError::DeviceFailed { cause, completions }) = failed else { panic!("{failed:?}") };
    assert!(cause.to_string().contains("\"widened\": its files have changed"), "{cause}");
    assert!(!completions[0].tokens.is_empty() && expected.starts_with(&completions[0].tokens));
    // What is in the way can be taken out of it.
    std::fs::write(&config, kept).expect("writes");
    let (answers, _) = generate(&mut engine, &requests);
    assert_eq!((answers.expect("it answers").remove(0).tokens, engine.backend().name), (expected, "cpu"));
}

#[test]
fn a_gpu_asked_for_by_name_fails_by_name_and_the_answers_are_kept() {
    let _alone = alone();
    let expected = answers(&mut engine(BackendChoice::Gpu, sound));
    let reasons = [FinishReason::DeviceLost, FinishReason::OutOfMemory, FinishReason::DeviceFailed];
    for (error, reason) in KINDS.into_iter().zip(reasons) {
        let mut engine = engine(BackendChoice::Gpu, after_steps(12, error));
        let requests = requests(&engine);
        let (failed, texts) = generate(&mut engine, &requests);
        let Err(EngineError::DeviceFailed { cause, completions }) = failed else { panic!("{failed:?}") };
        assert_eq!(cause, error());
        for (found, expected) in told(completions, texts).into_iter().zip(&expected) {
            assert!(!found.2.is_empty() && expected.2.starts_with(&found.2) && found.2 != expected.2);
            assert_eq!(found.0, found.1, "all of the text was told");
            assert!(expected.1.starts_with(&found.1));
            assert_eq!(found.3, reason);
        }
        assert_eq!((engine.backend().name, engine.memory().kv_in_use), ("gpu", 0));
    }
}

/// Fails once, when a step is waited for: the next one is under way then.
fn at_results(number: usize, error: fn() -> BackendError) -> impl FnMut(Call) -> Result<(), BackendError> {
    let mut seen = 0;
    move |call| {
        seen += usize::from(call == Call::Results);
        if call == Call::Results && seen == number { Err(error()) } else { Ok(()) }
    }
}

#[test]
fn a_step_that_fails_takes_along_the_one_started_behind_it() {
    let _alone = alone();
    let expected = answers(&mut engine(BackendChoice::Auto, sound));
    for number in [1, 5, 8, 9, 15] {
        let mut moved = engine(BackendChoice::Auto, at_results(number, lost));
        assert_eq!((answers(&mut moved), moved.backend().name), (expected.clone(), "cpu"), "{number}");
        assert_eq!(moved.memory().kv_in_use, 0);

        let mut forced = engine(BackendChoice::Gpu, at_results(number, lost));
        let requests = requests(&forced);
        let (failed, texts) = generate(&mut forced, &requests);
        let Err(EngineError::DeviceFailed { completions, .. }) = failed else { panic!("{failed:?}") };
        for (found, expected) in told(completions, texts).into_iter().zip(&expected) {
            assert!(found.2.len() < expected.2.len() && expected.2.starts_with(&found.2));
            assert_eq!(found.0, found.1, "all of the text was told");
        }
        assert_eq!(forced.memory().kv_in_use, 0);
        assert_eq!(answers(&mut forced), expected, "it failed once");

        // Of a turn nothing is cached but what has been read.
        let mut forced = engine(BackendChoice::Gpu, at_results(number, lost));
        let request = request(&forced, Some(demo::ADAPTERS[0].0), "What is ownership?");
        let mut conversation = Conversation::default();
        let mut turn = |engine: &mut Engine| {
            engine.converse(&mut conversation, &request, &mut |_| ControlFlow::Continue(()))
        };
        let failed = turn(&mut forced);
        let Err(EngineError::DeviceFailed { completions, .. }) = failed else { panic!("{failed:?}") };
        let again = turn(&mut forced).expect("it failed once");
        let whole = engine(BackendChoice::Gpu, sound)
            .generate(std::slice::from_ref(&request), &mut |_| ControlFlow::Continue(()));
        assert_eq!(again.tokens, whole.expect("it answers")[0].tokens);
        assert!(again.tokens.starts_with(&completions[0].tokens));
        let cached = request.prompt.len() + again.tokens.len() - 1;
        assert_eq!(
            (forced.cached_tokens(&conversation), again.reused_tokens < request.prompt.len()),
            (cached, true)
        );
    }
}

#[test]
fn a_turn_that_a_device_cuts_short_is_kept_too() {
    let _alone = alone();
    let reasons = [FinishReason::DeviceLost, FinishReason::OutOfMemory, FinishReason::DeviceFailed];
    for (error, reason) in KINDS.into_iter().zip(reasons) {
        // One step fails, the others run: who had no room once may have it again.
        let mut steps = 0;
        let mut engine = engine(BackendChoice::Gpu, move |call| {
            steps += usize::from(call == Call::Step);
            if call == Call::Step && steps == 9 { Err(error()) } else { Ok(()) }
        });
        let request = request(&engine, Some(demo::ADAPTERS[0].0), "What is ownership?");
        let mut conversation = Conversation::default();
        let mut finished = Vec::new();
        let failed = engine.converse(&mut conversation, &request, &mut |event| {
            if let Event::Finished { reason, .. } = event {
                finished.push(reason);
            }
            ControlFlow::Continue(())
        });
        let Err(EngineError::DeviceFailed { cause, completions }) = failed else { panic!("{failed:?}") };
        let [cut] = &completions[..] else { panic!("{completions:?}") };
        assert_eq!((cause, cut.reason, &finished[..]), (error(), reason, &[reason][..]));
        assert!(!cut.tokens.is_empty() && !cut.text.is_empty());
        assert_eq!(engine.cached_tokens(&conversation), cut.prompt_tokens + cut.tokens.len() - 1);
        let again = engine.converse(&mut conversation, &request, &mut |_| ControlFlow::Continue(()));
        let again = again.expect("it answers");
        assert_eq!(again.reused_tokens, request.prompt.len() - 1);
        assert!(again.tokens.starts_with(&cut.tokens));
    }
}

#[test]
fn nothing_is_given_to_a_suspended_gpu() {
    let _alone = alone();
    for choice in [BackendChoice::Auto, BackendChoice::Gpu] {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&calls);
        let mut engine = engine(choice, move |call| {
            seen.lock().expect("whole").push(call);
            Ok(())
        });
        let (name, files) = demo::ADAPTERS[2];
        let source = Source::Embedded { name, files };
        let sequence = engine.open_sequence(None, &[]).expect("the base");
        let feed = Feed { sequence, tokens: &[3, 4], kind: RowKind::Prompt, want: Want::Nothing };
        engine.feed(std::slice::from_ref(&feed)).expect("it runs");
        engine.suspend_gpu().expect("it drains");
        calls.lock().expect("whole").clear();

        let opened = PeftAdapter::open(name, &source, engine.model()).expect("sound");
        let refused = [
            engine.register_adapter(name, &source).err(),
            // Not even files are looked at.
            engine.register_adapter("none", &Source::dir("no such folder")).err(),
            engine.register_opened(opened).err(),
            engine.reserve_kv(1, 64).err(),
            engine.reserve_kv(64, 4096).err(),
            engine.read_kv(sequence, 0).err(),
            engine.feed(std::slice::from_ref(&feed)).err(),
        ];
        for refused in refused {
            assert!(matches!(refused, Some(EngineError::GpuSuspended)), "{refused:?}");
        }
        assert_eq!(*calls.lock().expect("whole"), []);
        assert_eq!((engine.adapters().count(), engine.backend().name), (2, "gpu"));
        engine.resume_gpu();
        assert_eq!(engine.read_kv(sequence, 0).expect("still open").0.len() % 2, 0);
        engine.register_adapter(name, &source).expect("it loads");
        engine.reserve_kv(3, 128).expect("a small pool");
    }
}
