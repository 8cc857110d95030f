//! Adapters that share the pool with pages: loaded when they are needed, let go when others are, and nobody's answer tells.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use interleaf_demo_model as demo_model;
use interleaf_runtime::{
    AdapterStats, BackendChoice, Completion, Engine, EngineError, EngineOptions, FlashProfile, Request,
    SamplingOptions, Source, SwapOptions, TrimLevel,
};

use super::support::{demo, embedded, models, options, prompts};

fn pooled(sequences: usize, tokens: usize) -> Engine {
    let mut engine = demo(&EngineOptions { pool_adapters: true, ..options(BackendChoice::Cpu) });
    engine.reserve_kv(sequences, tokens).expect("a small pool");
    engine
}

/// The base without adapters, and without a pool.
fn base(pool_adapters: bool) -> Engine {
    let options = EngineOptions { pool_adapters, ..options(BackendChoice::Cpu) };
    let base = embedded(demo_model::NAME, demo_model::BASE);
    Engine::open(base, &options, &mut |_| ()).expect("the model loads")
}

fn request(prompt: &[u32], adapter: Option<&str>) -> Request {
    Request {
        prompt: prompt.to_vec(),
        adapter: adapter.map(str::to_owned),
        max_tokens: 12,
        sampling: SamplingOptions::default(),
        stop: Vec::new(),
        end_tokens: Vec::new(),
        drift: 0.0,
    }
}

fn answer(engine: &mut Engine, requests: &[Request]) -> Result<Vec<Completion>, EngineError> {
    engine.generate(requests, &mut |_| ControlFlow::Continue(()))
}

fn tokens(completions: Vec<Completion>) -> Vec<Vec<u32>> {
    completions.into_iter().map(|completion| completion.tokens).collect()
}

/// What each of the demo's models says, all of them resident.
fn expected() -> (Vec<Request>, Vec<Vec<u32>>) {
    let mut engine = demo(&options(BackendChoice::Cpu));
    engine.reserve_kv(7, 512).expect("a pool");
    let prompts = prompts(&engine);
    let requests: Vec<Request> = models()
        .into_iter()
        .zip(prompts.iter().cycle())
        .map(|(adapter, prompt)| request(prompt, adapter))
        .collect();
    let answers = tokens(answer(&mut engine, &requests).expect("answers"));
    (requests, answers)
}

/// An adapter of the demo's in files of its own.
fn files(folder: &Path, adapter: usize) -> PathBuf {
    let (name, files) = demo_model::ADAPTERS[adapter];
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    for (file, bytes) in files {
        std::fs::write(folder.join(file), bytes).expect("a file");
    }
    folder
}

#[test]
fn answers_are_the_same_however_few_adapters_fit() {
    let (requests, answers) = expected();
    let mut loads = Vec::new();
    for sequences in [7, 2, 1] {
        let mut engine = pooled(sequences, 512);
        assert_eq!(engine.adapter_stats().loaded, 0, "nobody has called");
        for _ in 0..2 {
            assert_eq!(tokens(answer(&mut engine, &requests).expect("answers")), answers);
        }
        let stats = engine.adapter_stats();
        assert_eq!(stats.loads, stats.unloads + stats.loaded as u64, "{stats:?}");
        loads.push(stats.loads);
        for request in &requests {
            let alone = answer(&mut engine, std::slice::from_ref(request)).expect("an answer");
            assert_eq!(
                alone[0].tokens,
                answers[requests.iter().position(|r| r == request).expect("it is one")]
            );
        }
    }
    assert!(loads[0] == 6 && loads[2] > 6, "{loads:?}");
}

#[test]
fn what_is_not_used_goes_and_the_budget_holds() {
    let (requests, answers) = expected();
    let mut engine = pooled(1, 320);
    for (request, answer_before) in requests.iter().zip(&answers) {
        let completions = answer(&mut engine, std::slice::from_ref(request)).expect("an answer");
        assert_eq!(&completions[0].tokens, answer_before);
        let memory = engine.memory();
        let pool = memory.backend.kv;
        assert!(memory.kv_in_use + memory.kv_cached + memory.kv_adapters <= pool, "{memory:?}");
    }
    let AdapterStats { registered, loaded, unloads, .. } = engine.adapter_stats();
    assert!(registered == 6 && loaded < 6 && unloads > 0, "{:?}", engine.adapter_stats());
    engine.trim_memory(TrimLevel::Warning).expect("nothing fails");
    assert_eq!(
        (engine.adapter_stats().loaded, engine.memory().kv_adapters),
        (0, 0),
        "not even on the backend"
    );
}

#[test]
fn files_that_are_gone_or_changed_cost_their_own_calls_alone() {
    let (requests, answers) = expected();
    let folder = tempfile::tempdir().expect("a folder");
    let mut engine = base(true);
    engine.reserve_kv(7, 512).expect("a pool");
    let folders: Vec<PathBuf> = (0..6).map(|adapter| files(folder.path(), adapter)).collect();
    for (place, (name, _)) in demo_model::ADAPTERS.iter().enumerate() {
        engine.register_adapter(name, &Source::Dir(folders[place].clone())).expect("it loads");
    }
    // The first is gone, the second is the third by now, the fourth is cut off.
    std::fs::remove_dir_all(&folders[0]).expect("it goes");
    let tensors = |place: usize| folders[place].join("adapter_model.safetensors");
    std::fs::copy(tensors(2), tensors(1)).expect("it is copied");
    let whole = std::fs::read(tensors(3)).expect("it is read");
    std::fs::write(tensors(3), &whole[..whole.len() / 2]).expect("it is cut");
    for (place, request) in requests.iter().enumerate() {
        let said = answer(&mut engine, std::slice::from_ref(request));
        match (place, said) {
            (1 | 2 | 4, Err(EngineError::AdapterNotLoaded { name, reason })) => {
                assert_eq!(name, demo_model::ADAPTERS[place - 1].0);
                assert!(reason.to_string().contains(name.as_str()), "{reason}");
            }
            (1 | 2 | 4, said) => panic!("{place}: {said:?}"),
            (_, said) => assert_eq!(said.expect("an answer")[0].tokens, answers[place], "{place}"),
        }
    }
    // What is put back is there again.
    files(folder.path(), 0);
    std::fs::write(tensors(3), &whole).expect("it is written");
    for place in [1, 4] {
        let said = answer(&mut engine, std::slice::from_ref(&requests[place])).expect("an answer");
        assert_eq!(said[0].tokens, answers[place]);
    }
    // Once loaded, it does not matter what becomes of the files.
    std::fs::write(tensors(4), b"").expect("it is cut");
    let said = answer(&mut engine, std::slice::from_ref(&requests[5])).expect("an answer");
    assert_eq!(said[0].tokens, answers[5]);
}

#[test]
fn sequences_of_the_engine_wait_for_their_adapter() {
    let mut always = demo(&options(BackendChoice::Cpu));
    always.reserve_kv(2, 256).expect("a pool");
    let mut engine = pooled(2, 256);
    let prompt = prompts(&engine)[0].clone();
    let logits = |engine: &mut Engine, adapter| {
        let sequence = engine.open_sequence(adapter, &prompt).expect("it opens");
        let feed = interleaf_runtime::Feed {
            sequence,
            tokens: &prompt,
            kind: interleaf_runtime::RowKind::Prompt,
            want: interleaf_runtime::Want::Logits,
        };
        let fed = engine.feed(&[feed]).expect("it runs").remove(0).logits;
        engine.close_sequence(sequence).expect("it closes");
        fed
    };
    for adapter in models() {
        assert_eq!(logits(&mut engine, adapter), logits(&mut always, adapter), "{adapter:?}");
    }
}

#[test]
fn who_has_begun_keeps_the_adapter_that_was_there() {
    let (requests, answers) = expected();
    let folder = tempfile::tempdir().expect("a folder");
    for pool_adapters in [false, true] {
        let mut engine = base(pool_adapters);
        engine.reserve_kv(4, 512).expect("a pool");
        let sources: Vec<Source> = (0..3).map(|adapter| Source::Dir(files(folder.path(), adapter))).collect();
        engine.register_adapter("one", &sources[0]).expect("it loads");
        let ask = |engine: &mut Engine, place: usize| {
            let request = Request { adapter: Some("one".into()), ..requests[place].clone() };
            answer(engine, &[request]).expect("an answer").remove(0)
        };
        assert_eq!(ask(&mut engine, 1).tokens, answers[1]);
        // A sequence is under the first one while two others come.
        let sequence = engine.open_sequence(Some("one"), &requests[1].prompt).expect("it opens");
        let feed = |sequence| interleaf_runtime::Feed {
            sequence,
            tokens: &requests[1].prompt,
            kind: interleaf_runtime::RowKind::Prompt,
            want: interleaf_runtime::Want::Logits,
        };
        let same = engine.replace_adapter("one", &sources[0]).expect("it is the same");
        let before = engine.adapter_stats();
        let next = engine.replace_adapter("one", &sources[1]).expect("it loads");
        assert_ne!(same.digest, next.digest);
        assert_eq!(ask(&mut engine, 2).tokens, answers[2], "the next one answers");
        let fed = engine.feed(&[feed(sequence)]).expect("it runs").remove(0);
        let vocabulary = engine.config().vocab_size;
        let last = &fed.logits[fed.logits.len() - vocabulary..];
        let best = (0..vocabulary).max_by(|a, b| last[*a].total_cmp(&last[*b])).expect("there are tokens");
        assert_eq!(best as u32, answers[1][0], "under the one it was opened under");
        engine.close_sequence(sequence).expect("it closes");
        assert_eq!(engine.replace_adapter("one", &sources[2]).expect("it loads").name, "one");
        assert_eq!(ask(&mut engine, 3).tokens, answers[3]);
        let after = engine.adapter_stats();
        assert_eq!((before.registered, after.registered, after.loaded), (1, 1, 1), "{after:?}");
        let unknown = engine.replace_adapter("two", &sources[0]);
        assert!(matches!(unknown, Err(EngineError::UnknownAdapter { .. })));
        let refused = engine.replace_adapter("one", &Source::Dir(folder.path().join("nowhere")));
        assert!(refused.is_err());
        assert_eq!(ask(&mut engine, 3).tokens, answers[3], "what is refused changes nothing");
    }
}

/// One whose pages are swapped besides, to storage of some speed.
fn swapping(store: &Path, sequences: usize, tokens: usize, read: f64, write: f64) -> Engine {
    let profile = Some(FlashProfile { read, write, latency: Duration::ZERO });
    let mut engine = demo(&EngineOptions {
        pool_adapters: true,
        store: Some(store.into()),
        swap: Some(SwapOptions { profile, ..SwapOptions::new(64 << 20) }),
        ..options(BackendChoice::Cpu)
    });
    engine.reserve_kv(sequences, tokens).expect("a small pool");
    engine
}

#[test]
fn what_is_loaded_in_idle_time_is_there_when_a_call_comes() {
    let (requests, answers) = expected();
    let store = tempfile::tempdir().expect("a folder");
    let mut engine = swapping(store.path(), 7, 512, 4e9, 4e9);
    answer(&mut engine, &requests).expect("answers");
    engine.trim_memory(TrimLevel::Warning).expect("nothing fails");
    // What was given back stays so until somebody calls.
    engine.tend(128).expect("nothing fails");
    answer(&mut engine, &requests[..1]).expect("the base answers");
    assert_eq!(engine.adapter_stats().loaded, 0);
    let start = Instant::now();
    while engine.adapter_stats().loaded == 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "nothing is loaded in idle time");
        std::thread::sleep(Duration::from_millis(20));
        engine.tend(128).expect("nothing fails");
    }
    for (request, expected) in requests.iter().zip(&answers) {
        let said = answer(&mut engine, std::slice::from_ref(request)).expect("an answer");
        assert_eq!(&said[0].tokens, expected);
    }
}

#[test]
fn weights_wait_until_what_is_in_their_way_is_written() {
    let store = tempfile::tempdir().expect("a folder");
    let mut engine = swapping(store.path(), 1, 448, 4e9, 4e6);
    let text: Vec<u32> = (0..430).map(|token| 16 + token).collect();
    // There is room for what it computes, and not for its weights.
    let short = request(&text[..4], Some(demo_model::ADAPTERS[0].0));
    let mut always = demo(&options(BackendChoice::Cpu));
    always.reserve_kv(1, 448).expect("a pool");
    let expected = answer(&mut always, std::slice::from_ref(&short)).expect("an answer");
    answer(&mut engine, &[Request { max_tokens: 2, ..request(&text, None) }]).expect("an answer");
    // Half a second of writing is under way.
    let said = answer(&mut engine, &[short]).expect("there is room once it is written");
    assert_eq!(said[0].tokens, expected[0].tokens);
}

#[test]
fn what_cannot_be_read_back_is_computed_under_weights_that_are_waited_for() {
    let (requests, answers) = expected();
    let store = tempfile::tempdir().expect("a folder");
    // So fast that nothing is sooner computed.
    let open = || swapping(store.path(), 2, 512, 1e15, 1e15);
    let mut first = open();
    answer(&mut first, &requests[1..2]).expect("an answer");
    drop(first);
    let pages = store.path().join("swap/pages");
    let bytes: Vec<u8> = std::fs::read(&pages).expect("it is there").iter().map(|byte| !byte).collect();
    std::fs::write(&pages, bytes).expect("it is written");
    let mut next = open();
    let said = answer(&mut next, &requests[1..2]).expect("an answer");
    assert_eq!(said[0].tokens, answers[1]);
    let stats = next.swap_stats().expect("it swaps");
    assert!(stats.damaged > 0 && stats.recomputed > 0, "{stats:?}");
}

#[test]
fn an_adapter_whose_name_another_had_for_a_while_is_still_itself() {
    let (requests, answers) = expected();
    let folder = tempfile::tempdir().expect("a folder");
    let mut engine = base(true);
    engine.reserve_kv(4, 512).expect("a pool");
    let sources: Vec<Source> = (0..2).map(|adapter| Source::Dir(files(folder.path(), adapter))).collect();
    engine.register_adapter("one", &sources[0]).expect("it loads");
    let sequence = engine.open_sequence(Some("one"), &requests[1].prompt).expect("it opens");
    for _ in 0..2 {
        engine.replace_adapter("one", &sources[1]).expect("it loads");
        engine.replace_adapter("one", &sources[0]).expect("it is there");
    }
    engine.close_sequence(sequence).expect("it closes");
    let request = Request { adapter: Some("one".into()), ..requests[1].clone() };
    assert_eq!(answer(&mut engine, &[request]).expect("an answer")[0].tokens, answers[1]);
    assert_eq!((engine.adapter_stats().registered, engine.adapter_stats().loaded), (1, 1));
}

#[test]
fn what_was_being_opened_for_one_pool_is_nobodys_in_the_next() {
    let (requests, answers) = expected();
    let mut engine = pooled(7, 512);
    for round in 0..8 {
        // Broken off while its adapter is on its way: the base's rows come first.
        let under_way = [requests[0].clone(), requests[1 + round % 6].clone()];
        engine.generate(&under_way, &mut |_| ControlFlow::Break(())).expect("it is broken off");
        engine.reserve_kv(7, 512).expect("a pool");
        let (request, expected) = (&requests[1 + (round + 1) % 6], &answers[1 + (round + 1) % 6]);
        let said = answer(&mut engine, std::slice::from_ref(request)).expect("an answer");
        assert_eq!(&said[0].tokens, expected, "{round}");
    }
}
