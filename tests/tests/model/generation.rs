//! Answers: mixed equals single, cancelling, stopping, filling the context, sampling.

use std::ops::ControlFlow;

use interleaf_runtime::{
    BackendChoice, Completion, Engine, EngineError, Event, FinishReason, Request, SamplingOptions,
};

use crate::support::{demo, models, options, prompts};

fn requests(engine: &Engine, max_tokens: usize) -> Vec<Request> {
    let prompts = prompts(engine);
    let request = |(adapter, prompt): (Option<&str>, Vec<u32>)| Request {
        prompt,
        adapter: adapter.map(str::to_owned),
        max_tokens,
        sampling: SamplingOptions::default(),
        stop: Vec::new(),
        end_tokens: vec![1],
        drift: 0.0,
    };
    models().into_iter().zip(prompts).map(request).collect()
}

fn answer(engine: &mut Engine, requests: &[Request]) -> Vec<Completion> {
    engine.generate(requests, &mut |_| ControlFlow::Continue(())).expect("it answers")
}

#[test]
fn a_mixed_batch_answers_as_single_requests_do() {
    let mut engine = demo(&options(BackendChoice::Cpu));
    engine.reserve_kv(7, 200).expect("a small pool");
    let mut requests = requests(&engine, 24);
    for (i, r) in requests.iter_mut().enumerate() {
        // Half of them draw: draws must not depend on the batch either.
        if i % 2 == 0 {
            let (temperature, top_k, seed) = (0.9, 40, i as u64);
            r.sampling = SamplingOptions { temperature, top_k, seed, ..SamplingOptions::default() };
        }
    }
    let mixed = answer(&mut engine, &requests);
    for (request, mixed) in requests.iter().zip(&mixed) {
        let single = answer(&mut engine, std::slice::from_ref(request)).remove(0);
        assert_eq!(single.tokens, mixed.tokens, "{:?}", request.adapter);
        assert_eq!((&single.text, single.reason), (&mixed.text, mixed.reason));
        assert!(!single.tokens.is_empty() && single.first_token.is_some());
    }
    assert_eq!(engine.memory().kv_in_use, 0, "every page is free again");
}

#[test]
fn events_tell_the_text_in_order() {
    let mut engine = demo(&options(BackendChoice::Cpu));
    engine.reserve_kv(7, 200).expect("a small pool");
    let requests = requests(&engine, 16);
    let mut texts = vec![String::new(); requests.len()];
    let mut prefilled = vec![0; requests.len()];
    let mut finished = vec![0; requests.len()];
    let answers = engine.generate(&requests, &mut |event| {
        match event {
            Event::Prefill { request, done, total } => {
                assert!(done > prefilled[request] && done <= total);
                prefilled[request] = done;
            }
            Event::Text { request, text, .. } => {
                assert_eq!(prefilled[request], requests[request].prompt.len());
                assert_eq!(finished[request], 0);
                texts[request].push_str(&text);
            }
            Event::Suspended => panic!("the host is never suspended"),
            Event::Finished { request, .. } => finished[request] += 1,
        }
        ControlFlow::Continue(())
    });
    let answers = answers.expect("it answers");
    assert!(finished.iter().all(|n| *n == 1));
    for (answer, text) in answers.iter().zip(&texts) {
        assert_eq!(&answer.text, text);
    }
}

#[test]
fn breaking_off_ends_within_one_token_and_frees_everything() {
    let mut engine = demo(&options(BackendChoice::Cpu));
    engine.reserve_kv(7, 300).expect("a small pool");
    let requests = requests(&engine, 150);
    for after in [0, 1, 5, 30] {
        let mut seen = 0;
        let answers = engine.generate(&requests, &mut |event| {
            if let Event::Text { .. } = event {
                seen += 1;
            }
            if seen >= after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let answers = answers.expect("breaking off is no error");
        let tokens: usize = answers.iter().map(|a| a.tokens.len()).sum();
        assert!(tokens <= after + 1, "{tokens} tokens after breaking off at {after}");
        assert!(answers.iter().any(|a| a.reason == FinishReason::Cancelled));
        assert_eq!(engine.memory().kv_in_use, 0);
    }
    // And the engine answers as before.
    let again = answer(&mut engine, &requests[..1]);
    assert_eq!(
        again,
        answer(&mut engine, &requests[..1]).into_iter().zip(&again).map(timeless).collect::<Vec<_>>()
    );
}

/// The same answer with another's times.
fn timeless((a, times): (Completion, &Completion)) -> Completion {
    Completion { first_token: times.first_token, decode: times.decode, ..a }
}

#[test]
fn a_stop_string_ends_the_answer_before_it() {
    let mut engine = demo(&options(BackendChoice::Cpu));
    engine.reserve_kv(1, 300).expect("a small pool");
    let mut request = requests(&engine, 40).remove(3);
    let free = answer(&mut engine, std::slice::from_ref(&request)).remove(0);
    // A piece from the middle, so that it crosses token borders.
    let at = free.text.char_indices().nth(21).expect("a long answer").0;
    let stop: String = free.text[at..].chars().take(5).collect();
    request.stop = vec![stop.clone()];
    let stopped = answer(&mut engine, &[request]).remove(0);
    assert_eq!(stopped.reason, FinishReason::Stop);
    assert_eq!(stopped.text, free.text[..free.text.find(&stop).expect("it is there")]);
}

#[test]
fn a_pool_too_small_for_all_serves_them_in_turn() {
    let mut engine = demo(&options(BackendChoice::Cpu));
    engine.reserve_kv(7, 200).expect("a pool for all");
    let requests = requests(&engine, 12);
    let expected = answer(&mut engine, &requests);
    engine.reserve_kv(2, 200).expect("a pool for two");
    let found = answer(&mut engine, &requests);
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!((&expected.tokens, expected.reason), (&found.tokens, found.reason));
    }
    engine.reserve_kv(1, 64).expect("a pool for none");
    assert!(answer(&mut engine, &requests).iter().all(|a| a.reason == FinishReason::ContextFull));
}

#[test]
fn what_cannot_be_answered_is_refused() {
    let mut options = options(BackendChoice::Cpu);
    options.context = 100;
    let mut engine = demo(&options);
    engine.reserve_kv(1, 100).expect("a small pool");
    let request = requests(&engine, 200).remove(0);
    let mut refuse = |request: Request| engine.generate(&[request], &mut |_| ControlFlow::Continue(()));
    let short = Request {
        prompt: request.prompt.iter().cycle().take(90).copied().collect(),
        end_tokens: Vec::new(),
        ..request.clone()
    };
    let full = refuse(short.clone()).expect("it answers what fits").remove(0);
    assert_eq!((full.reason, full.tokens.len()), (FinishReason::ContextFull, 11));
    let empty = refuse(Request { prompt: Vec::new(), ..request.clone() });
    assert!(matches!(empty, Err(EngineError::EmptyPrompt { request: 0 })));
    let long = refuse(Request { prompt: vec![5; 101], ..request.clone() });
    assert!(matches!(long, Err(EngineError::ContextFull { needed: 101, limit: 100 })));
    let unknown = refuse(Request { prompt: vec![4096], ..request.clone() });
    assert!(matches!(unknown, Err(EngineError::UnknownToken { token: 4096, vocabulary: 4096 })));
    let nobody = refuse(Request { adapter: Some("nobody".into()), ..request.clone() });
    assert!(matches!(nobody, Err(EngineError::UnknownAdapter { .. })));
    let sampling = SamplingOptions { temperature: f32::NAN, ..SamplingOptions::default() };
    let hot = refuse(Request { sampling, ..request.clone() });
    assert!(matches!(hot, Err(EngineError::InvalidOption { option: "temperature", .. })));
    assert_eq!(refuse(short).expect("and goes on").remove(0).tokens.len(), 11);
}

#[test]
fn a_bias_bans_and_favours_tokens() {
    let mut engine = demo(&options(BackendChoice::Cpu));
    engine.reserve_kv(1, 200).expect("a small pool");
    let mut request = requests(&engine, 12).remove(0);
    let free = answer(&mut engine, std::slice::from_ref(&request)).remove(0).tokens;
    request.sampling.logit_bias = vec![(free[2], f32::NEG_INFINITY)];
    let without = answer(&mut engine, std::slice::from_ref(&request)).remove(0).tokens;
    assert!(!without.contains(&free[2]));
    assert_eq!(without[..2], free[..2], "what came before it did not need it");
    request.sampling.logit_bias = vec![(77, 50.0), (77, 50.0)];
    assert_eq!(answer(&mut engine, std::slice::from_ref(&request)).remove(0).tokens, [77; 12]);

    let mut refuse = |bias: (u32, f32)| {
        request.sampling.logit_bias = vec![bias];
        engine.generate(std::slice::from_ref(&request), &mut |_| ControlFlow::Continue(()))
    };
    assert!(matches!(refuse((4096, 1.0)), Err(EngineError::UnknownToken { token: 4096, .. })));
    for bias in [f32::NAN, f32::INFINITY] {
        assert!(matches!(refuse((1, bias)), Err(EngineError::InvalidOption { option: "logit-bias", .. })));
    }
}

#[test]
fn seeds_reproduce_and_differ() {
    let mut engine = demo(&options(BackendChoice::Cpu));
    engine.reserve_kv(1, 200).expect("a small pool");
    let mut request = requests(&engine, 24).remove(1);
    request.sampling = SamplingOptions { temperature: 1.0, seed: 3, ..SamplingOptions::default() };
    let first = answer(&mut engine, std::slice::from_ref(&request)).remove(0);
    let again = answer(&mut engine, std::slice::from_ref(&request)).remove(0);
    assert_eq!(first.tokens, again.tokens);
    request.sampling.seed = 4;
    assert_ne!(first.tokens, answer(&mut engine, &[request]).remove(0).tokens);
}
