//! Conversations: what was computed before is reused where it is the same, and nowhere else.

use std::ops::ControlFlow;

use interleaf_runtime::{
    BackendChoice, Completion, Conversation, Engine, EngineError, EngineOptions, Feed, Request, RowKind,
    SamplingOptions, Source, Want,
};
use interleaf_tests::tolerance::assert_bits;

use crate::support::{data, demo, options, prompts};

fn request(prompt: Vec<u32>, adapter: Option<&str>) -> Request {
    Request {
        prompt,
        adapter: adapter.map(str::to_owned),
        max_tokens: 9,
        sampling: SamplingOptions::default(),
        stop: Vec::new(),
        end_tokens: Vec::new(),
        drift: 0.0,
    }
}

fn turn(engine: &mut Engine, conversation: &mut Conversation, request: &Request) -> Completion {
    engine.converse(conversation, request, &mut |_| ControlFlow::Continue(())).expect("it answers")
}

/// The same engine with a cache and without.
fn both(open: impl Fn(&EngineOptions) -> Engine, options: &EngineOptions) -> [Engine; 2] {
    let mut engines =
        [true, false].map(|prefix_cache| open(&EngineOptions { prefix_cache, ..options.clone() }));
    let tokens = if options.context == 0 { 256 } else { options.context };
    engines.iter_mut().for_each(|engine| engine.reserve_kv(3, tokens).expect("a small pool"));
    engines
}

/// Answers a turn in a conversation and from nothing, and compares text and cache bit for bit.
fn as_from_nothing(
    [engine, cold]: &mut [Engine; 2],
    conversation: &mut Conversation,
    request: &Request,
) -> Completion {
    let found = turn(engine, conversation, request);
    let alone = cold.generate(std::slice::from_ref(request), &mut |_| ControlFlow::Continue(()));
    let alone = alone.expect("it answers").remove(0);
    assert_eq!((&found.tokens, &found.text, found.reason), (&alone.tokens, &alone.text, alone.reason));
    assert_eq!((alone.reused_tokens, alone.adapter_from), (0, found.adapter_from));

    let answered = [request.prompt.clone(), found.tokens.clone()].concat();
    let tokens = conversation.tokens();
    assert_eq!((tokens, engine.cached_tokens(conversation)), (&answered[..tokens.len()], tokens.len()));
    let adapter = request.adapter.as_deref();
    let (past, cached) = engine.resume_sequence(adapter, tokens, 0.0).expect("it is there");
    assert_eq!(cached, tokens.len() - 1, "all but the one whose logits are wanted");
    let anew = cold.open_sequence(adapter, &request.prompt).expect("registered");
    let feed = Feed { sequence: anew, tokens: &tokens[..cached], kind: RowKind::Prompt, want: Want::Nothing };
    cold.feed(&[feed]).expect("it runs");
    for layer in 0..engine.config().layers {
        let (k, v) = engine.read_kv(past, layer).expect("it reads");
        let (expected_k, expected_v) = cold.read_kv(anew, layer).expect("it reads");
        assert_bits("K", &expected_k, &k);
        assert_bits("V", &expected_v, &v);
    }
    engine.close_sequence(past).expect("open");
    cold.close_sequence(anew).expect("open");
    assert_eq!((engine.memory().kv_in_use, cold.memory().kv_in_use, cold.memory().kv_cached), (0, 0, 0));
    found
}

#[test]
fn turns_go_on_from_what_is_cached() {
    let mut engines = both(demo, &options(BackendChoice::Cpu));
    let [first, more] = [prompts(&engines[0])[1].clone(), vec![50, 60, 70, 80, 90]];
    for adapter in [None, Some("rust-code")] {
        let mut conversation = Conversation::default();
        let one = as_from_nothing(&mut engines, &mut conversation, &request(first.clone(), adapter));
        assert_eq!((one.reused_tokens, one.prompt_tokens), (0, first.len()));
        // The last token of an answer was chosen and never fed.
        assert_eq!(conversation.tokens().len(), first.len() + 8);

        let second = [first.clone(), one.tokens.clone(), more.clone()].concat();
        let two = as_from_nothing(&mut engines, &mut conversation, &request(second.clone(), adapter));
        assert_eq!(two.reused_tokens, first.len() + 8);

        // The same prompt again: only its last token is computed.
        let again = as_from_nothing(&mut engines, &mut conversation, &request(second.clone(), adapter));
        assert_eq!((again.reused_tokens, &again.tokens), (second.len() - 1, &two.tokens));

        // Another answer in the past: reuse ends where it begins.
        let mut other = second.clone();
        other[first.len() + 3] ^= 1;
        let changed = as_from_nothing(&mut engines, &mut conversation, &request(other, adapter));
        assert_eq!(changed.reused_tokens, first.len() + 3);
        let held = engines[0].memory().kv_cached;
        engines[0].end_conversation(&mut conversation).expect("nothing can go wrong");
        let left = engines[0].memory().kv_cached;
        assert!(left < held, "{left} of {held} bytes");
        assert_eq!(engines[0].cached_tokens(&conversation), 0);
    }
}

#[test]
fn another_engine_has_nothing_of_it() {
    let [mut one, mut other] = [(); 2].map(|()| both(demo, &options(BackendChoice::Cpu)));
    let prompt = prompts(&one[0])[0].clone();
    let mut conversation = Conversation::default();
    as_from_nothing(&mut one, &mut conversation, &request(prompt.clone(), Some("rust-code")));
    let (foreign, _) = one[0].resume_sequence(None, &prompt, 0.0).expect("the base");
    let (own, found) = other[0].resume_sequence(None, &prompt, 0.0).expect("the base");
    assert_eq!((found, other[0].cached_tokens(&conversation)), (0, 0));
    assert!(matches!(other[0].close_sequence(foreign), Err(EngineError::Kv(_))));
    other[0].close_sequence(own).expect("still its own");
    one[0].close_sequence(foreign).expect("still its own");
    let anew = as_from_nothing(&mut other, &mut conversation, &request(prompt, Some("rust-code")));
    assert_eq!(anew.reused_tokens, 0);
}

#[test]
fn another_adapter_reuses_nothing() {
    let mut engines = both(demo, &options(BackendChoice::Cpu));
    let prompt = prompts(&engines[0])[0].clone();
    let mut conversation = Conversation::default();
    for adapter in [None, Some("rust-code"), Some("api-docs")] {
        let completion = as_from_nothing(&mut engines, &mut conversation, &request(prompt.clone(), adapter));
        assert_eq!(completion.reused_tokens, 0, "{adapter:?}");
    }
    // Each finds its own again.
    for adapter in [None, Some("rust-code"), Some("api-docs")] {
        let completion = as_from_nothing(&mut engines, &mut conversation, &request(prompt.clone(), adapter));
        assert_eq!(completion.reused_tokens, prompt.len() - 1, "{adapter:?}");
    }
}

/// The invocation moves with the prompt: what was computed under an earlier one is not what the base
/// computes.
#[test]
fn activated_adapters_share_what_comes_before_their_invocation() {
    let open = |options: &EngineOptions| {
        let source = Source::dir(data("families/llama-rope3"));
        let mut engine = Engine::open(source, options, &mut |_| ()).expect("it loads");
        let adapter = Source::dir(data("families/llama-rope3-alora/adapter"));
        engine.register_adapter("alora", &adapter).expect("it loads");
        engine
    };
    let mut engines = both(open, &options(BackendChoice::Cpu));
    let text: Vec<u32> = (0..21).map(|i| 100 + i * 13 % 150).collect();
    let asked = [text.clone(), vec![41, 300, 7, 12, 13]].concat();
    let twice = [asked.clone(), vec![90, 41, 300, 7, 14]].concat();
    let mut conversation = Conversation::default();
    let mut reused = |prompt: &[u32], adapter| {
        as_from_nothing(&mut engines, &mut conversation, &request(prompt.to_vec(), adapter)).reused_tokens
    };
    assert_eq!(reused(&text, Some("alora")), 0);
    assert_eq!(reused(&asked, None), 21, "no invocation yet: those were the base's");
    assert_eq!(reused(&asked, Some("alora")), 21, "up to the invocation");
    assert_eq!(reused(&asked, Some("alora")), asked.len() - 1, "the same start");
    let before = "all that the base has computed, not what the first invocation changed";
    assert_eq!(reused(&twice, Some("alora")), asked.len(), "{before}");
    assert_eq!(reused(&twice, None), 27, "the second began later");
}

#[test]
fn a_failed_or_cut_turn_keeps_a_sound_past() {
    let mut options = options(BackendChoice::Cpu);
    options.context = 100;
    let mut engines = both(demo, &options);
    let prompt = prompts(&engines[0])[2][..40].to_vec();
    let mut conversation = Conversation::default();
    let broken = engines[0]
        .converse(&mut conversation, &request(prompt.clone(), None), &mut |_| ControlFlow::Break(()))
        .expect("breaking off is no error");
    assert!(broken.tokens.is_empty());
    let one = as_from_nothing(&mut engines, &mut conversation, &request(prompt.clone(), None));
    assert_eq!(one.reused_tokens, 39);

    let long = request(vec![5; 101], None);
    let refused = engines[0].converse(&mut conversation, &long, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(EngineError::ContextFull { needed: 101, limit: 100 })));
    let unknown = request([prompt.clone(), vec![4096]].concat(), None);
    let refused = engines[0].converse(&mut conversation, &unknown, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(EngineError::UnknownToken { token: 4096, .. })));
    let after = as_from_nothing(&mut engines, &mut conversation, &request(prompt.clone(), None));
    assert_eq!((after.reused_tokens, &after.tokens), (39, &one.tokens));

    // A new pool has nothing of the past, and an old name means nobody new.
    let (old, _) = engines[0].resume_sequence(None, &prompt, 0.0).expect("the base");
    engines[0].reserve_kv(3, 100).expect("a small pool");
    assert_eq!(engines[0].cached_tokens(&conversation), 0);
    assert!(matches!(engines[0].close_sequence(old), Err(EngineError::Kv(_))));
    let anew = as_from_nothing(&mut engines, &mut conversation, &request(prompt, None));
    assert_eq!((anew.reused_tokens, anew.tokens), (0, one.tokens));
}
