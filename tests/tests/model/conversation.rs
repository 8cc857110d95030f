//! Conversations: what was computed before is reused where it is the same, and nowhere else.

use std::ops::ControlFlow;

use interleaf_runtime::{
    BackendChoice, Completion, Conversation, Engine, EngineError, Feed, Request, RowKind, SamplingOptions,
    Source, Want,
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
    }
}

fn turn(engine: &mut Engine, conversation: &mut Conversation, request: &Request) -> Completion {
    engine.converse(conversation, request, &mut |_| ControlFlow::Continue(())).expect("it answers")
}

/// Answers a turn in a conversation and from nothing, and compares text and cache bit for bit.
fn as_from_nothing(engine: &mut Engine, conversation: &mut Conversation, request: &Request) -> Completion {
    let found = turn(engine, conversation, request);
    let alone = engine.generate(std::slice::from_ref(request), &mut |_| ControlFlow::Continue(()));
    let alone = alone.expect("it answers").remove(0);
    assert_eq!((&found.tokens, &found.text, found.reason), (&alone.tokens, &alone.text, alone.reason));
    assert_eq!((alone.reused_tokens, alone.adapter_from), (0, found.adapter_from));

    let past = conversation.sequence().expect("a turn was answered");
    let mut tokens = [request.prompt.clone(), found.tokens.clone()].concat();
    tokens.truncate(conversation.cached_tokens());
    let anew = engine.open_sequence(request.adapter.as_deref(), &request.prompt).expect("registered");
    let feed = Feed { sequence: anew, tokens: &tokens, kind: RowKind::Prompt, want: Want::Nothing };
    engine.feed(&[feed]).expect("it runs");
    for layer in 0..engine.config().layers {
        let (k, v) = engine.read_kv(past, layer).expect("it reads");
        let (expected_k, expected_v) = engine.read_kv(anew, layer).expect("it reads");
        assert_bits("K", &expected_k, &k);
        assert_bits("V", &expected_v, &v);
    }
    engine.close_sequence(anew).expect("open");
    found
}

#[test]
fn turns_go_on_from_what_is_cached() {
    let mut engine = demo(&options(BackendChoice::Cpu));
    engine.reserve_kv(3, 256).expect("a small pool");
    let [first, more] = [prompts(&engine)[1].clone(), vec![50, 60, 70, 80, 90]];
    for adapter in [None, Some("rust-code")] {
        let mut conversation = Conversation::default();
        let one = as_from_nothing(&mut engine, &mut conversation, &request(first.clone(), adapter));
        assert_eq!((one.reused_tokens, one.prompt_tokens), (0, first.len()));
        // The last token of an answer was chosen and never fed.
        assert_eq!(conversation.cached_tokens(), first.len() + 8);

        let second = [first.clone(), one.tokens.clone(), more.clone()].concat();
        let two = as_from_nothing(&mut engine, &mut conversation, &request(second.clone(), adapter));
        assert_eq!(two.reused_tokens, first.len() + 8);

        // The same prompt again: only its last token is computed.
        let again = as_from_nothing(&mut engine, &mut conversation, &request(second.clone(), adapter));
        assert_eq!((again.reused_tokens, &again.tokens), (second.len() - 1, &two.tokens));

        // Another answer in the past: reuse ends where it begins.
        let mut other = second.clone();
        other[first.len() + 3] ^= 1;
        let changed = as_from_nothing(&mut engine, &mut conversation, &request(other, adapter));
        assert_eq!(changed.reused_tokens, first.len() + 3);
        engine.end_conversation(&mut conversation).expect("open");
        assert_eq!((conversation.cached_tokens(), engine.memory().kv_in_use), (0, 0));
    }
}

#[test]
fn another_engine_has_nothing_of_it() {
    let mut engines = [(); 2].map(|()| demo(&options(BackendChoice::Cpu)));
    let prompt = prompts(&engines[0])[0].clone();
    engines.iter_mut().for_each(|engine| engine.reserve_kv(3, 256).expect("a small pool"));
    let mut conversation = Conversation::default();
    as_from_nothing(&mut engines[0], &mut conversation, &request(prompt.clone(), None));
    let foreign = conversation.sequence().expect("a turn was answered");
    let own = engines[1].open_sequence(None, &prompt).expect("the base");
    assert!(matches!(engines[1].close_sequence(foreign), Err(EngineError::Kv(_))));
    let anew = as_from_nothing(&mut engines[1], &mut conversation, &request(prompt, None));
    assert_eq!(anew.reused_tokens, 0);
    engines[1].close_sequence(own).expect("still its own");
}

#[test]
fn another_adapter_reuses_nothing() {
    let mut engine = demo(&options(BackendChoice::Cpu));
    engine.reserve_kv(3, 256).expect("a small pool");
    let prompt = prompts(&engine)[0].clone();
    let mut conversation = Conversation::default();
    for adapter in [None, Some("rust-code"), Some("api-docs"), None] {
        let completion = as_from_nothing(&mut engine, &mut conversation, &request(prompt.clone(), adapter));
        assert_eq!(completion.reused_tokens, 0, "{adapter:?}");
    }
}

/// The invocation moves with the prompt: what was computed under an earlier one is not what the base
/// computes.
#[test]
fn activated_adapters_share_what_comes_before_their_invocation() {
    let source = Source::dir(data("families/llama-rope3"));
    let mut engine = Engine::open(source, &options(BackendChoice::Cpu), &mut |_| ()).expect("it loads");
    let adapter = Source::dir(data("families/llama-rope3-alora/adapter"));
    engine.register_adapter("alora", &adapter).expect("it loads");
    engine.reserve_kv(3, 256).expect("a small pool");
    let text: Vec<u32> = (0..21).map(|i| 100 + i * 13 % 150).collect();
    let asked = [text.clone(), vec![41, 300, 7, 12, 13]].concat();
    let twice = [asked.clone(), vec![90, 41, 300, 7, 14]].concat();
    let mut conversation = Conversation::default();
    let mut reused = |prompt: &[u32], adapter| {
        as_from_nothing(&mut engine, &mut conversation, &request(prompt.to_vec(), adapter)).reused_tokens
    };
    assert_eq!(reused(&text, Some("alora")), 0);
    assert_eq!(reused(&asked, None), 21, "no invocation yet: those were the base's");
    assert_eq!(reused(&asked, Some("alora")), 21, "up to the invocation");
    assert_eq!(reused(&asked, Some("alora")), asked.len() - 1, "the same start");
    assert_eq!(reused(&twice, Some("alora")), 21, "what the first invocation changed is not the base's");
    assert_eq!(reused(&twice, None), 27, "the second began later");
}

#[test]
fn a_failed_or_cut_turn_keeps_a_sound_past() {
    let mut options = options(BackendChoice::Cpu);
    options.context = 100;
    let mut engine = demo(&options);
    engine.reserve_kv(3, 100).expect("a small pool");
    let prompt = prompts(&engine)[2][..40].to_vec();
    let mut conversation = Conversation::default();
    let broken = engine
        .converse(&mut conversation, &request(prompt.clone(), None), &mut |_| ControlFlow::Break(()))
        .expect("breaking off is no error");
    assert!(broken.tokens.is_empty());
    let one = as_from_nothing(&mut engine, &mut conversation, &request(prompt.clone(), None));
    assert_eq!(one.reused_tokens, 39);

    let long = request(vec![5; 101], None);
    let refused = engine.converse(&mut conversation, &long, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(EngineError::ContextFull { needed: 101, limit: 100 })));
    let unknown = request([prompt.clone(), vec![4096]].concat(), None);
    let refused = engine.converse(&mut conversation, &unknown, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(EngineError::UnknownToken { token: 4096, .. })));
    let after = as_from_nothing(&mut engine, &mut conversation, &request(prompt.clone(), None));
    assert_eq!((after.reused_tokens, &after.tokens), (39, &one.tokens));

    // A new pool has nothing of the past, and an old name means nobody new.
    engine.reserve_kv(3, 100).expect("a small pool");
    let other = engine.open_sequence(None, &prompt).expect("the base");
    let anew = as_from_nothing(&mut engine, &mut conversation, &request(prompt, None));
    assert_eq!((anew.reused_tokens, anew.tokens), (0, one.tokens));
    engine.close_sequence(other).expect("still open");
}
