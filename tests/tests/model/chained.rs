//! Steps that are started before the tokens of the last one have been read: answers, what is told of them and what is
//! cached are those of one step at a time, to the bit, and the next step is under way indeed.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use interleaf_contract::Numerics;
use interleaf_demo_model as demo;
use interleaf_runtime::{
    BackendChoice, Completion, Conversation, Engine, EngineError, EngineOptions, Event, FinishReason,
    Request, SamplingOptions,
};
use interleaf_tests::backends::{self, Boxed};
use interleaf_tests::tolerance::assert_bits;
use interleaf_tests::watched::{Counts, Watched};

use crate::support::{embedded, models, options, prompts};

/// How each backend is opened that steps are chained on.
fn backends() -> Vec<fn() -> Option<Boxed>> {
    vec![
        || Some(backends::cpu(2, Numerics::ActQ8_0)),
        || Some(backends::reference(Numerics::ActF32)),
        backends::gpu,
    ]
}

/// The demo model, with room for so many answers of so many tokens.
fn engine(backend: Boxed, chains: bool, room: (usize, usize)) -> (Engine, Arc<Counts>) {
    let (backend, counts) = Watched::boxed(backend, chains);
    let options = EngineOptions { prefill_rows: 300, ..options(BackendChoice::Gpu) };
    let mut engine = Engine::open_on(backend, embedded(demo::NAME, demo::BASE), &options, &mut |_| ())
        .expect("the model loads");
    for &(name, files) in demo::ADAPTERS {
        engine.register_adapter(name, &embedded(name, files)).expect("its adapters load");
    }
    engine.reserve_kv(room.0, room.1).expect("a small pool");
    (engine, counts)
}

/// Requests of all lengths under all adapters, half of which draw.
fn requests(engine: &Engine) -> Vec<Request> {
    let request = |(i, (adapter, prompt)): (usize, (Option<&str>, Vec<u32>))| {
        let drawn = SamplingOptions { temperature: 0.9, top_k: 40, seed: i as u64, ..Default::default() };
        Request {
            prompt: prompt[..20 + 5 * i].to_vec(),
            adapter: adapter.map(str::to_owned),
            max_tokens: 8 + 3 * i,
            sampling: if i % 2 == 0 { drawn } else { SamplingOptions::default() },
            stop: Vec::new(),
            end_tokens: Vec::new(),
            drift: 0.0,
        }
    };
    models().into_iter().zip(prompts(engine)).enumerate().map(request).collect()
}

/// What an answer is, its times aside.
type Told = (Vec<u32>, String, FinishReason);

fn told(completion: Completion) -> Told {
    (completion.tokens, completion.text, completion.reason)
}

fn generate(engine: &mut Engine, requests: &[Request]) -> (Vec<Told>, Vec<Event>) {
    let mut events = Vec::new();
    let answers = engine.generate(requests, &mut |event| {
        events.push(event);
        ControlFlow::Continue(())
    });
    assert_eq!(engine.memory().kv_in_use, 0, "every page is free again");
    (answers.expect("it answers").into_iter().map(told).collect(), events)
}

#[test]
fn answers_and_events_are_those_of_one_step_at_a_time() {
    for open in backends() {
        let Some([one, other]) = open().zip(open()).map(<[Boxed; 2]>::from) else { continue };
        let (mut plain, steps) = engine(one, false, (7, 128));
        let (mut chained, ahead) = engine(other, true, (7, 128));
        let mut requests = requests(&plain);
        let (free, _) = generate(&mut plain, &requests);
        // Ends in the middle that nobody foresees: by a token, by a stop string, by the first token.
        requests[1].end_tokens = vec![free[1].0[4]];
        requests[2].end_tokens = vec![free[2].0[6], free[2].0[9]];
        let at = free[4].1.char_indices().nth(9).expect("a long answer").0;
        requests[4].stop = vec![free[4].1[at..].chars().take(4).collect()];
        requests[5].end_tokens = vec![free[5].0[0]];
        let expected = generate(&mut plain, &requests);
        let ends = expected.0.iter().filter(|(_, _, reason)| *reason == FinishReason::EndToken).count();
        assert!(ends >= 3 && expected.0[4].2 == FinishReason::Stop, "{:?}", expected.0);
        assert_eq!(generate(&mut chained, &requests), expected);
        assert_eq!(steps.most.load(SeqCst), 1);
        assert_eq!(ahead.most.load(SeqCst), 2, "the next step is under way");
        assert!(ahead.chained.load(SeqCst) > 50);
        assert_eq!(ahead.submitted.load(SeqCst), ahead.redeemed.load(SeqCst), "nothing is left behind");
        // One after another, and alone.
        for request in &requests {
            let request = std::slice::from_ref(request);
            assert_eq!(generate(&mut chained, request), generate(&mut plain, request));
        }
    }
}

#[test]
fn every_step_but_the_first_of_an_answer_is_chained() {
    for open in backends() {
        let Some(backend) = open() else { continue };
        let (mut engine, counts) = engine(backend, true, (1, 128));
        let mut request = requests(&engine).remove(0);
        request.max_tokens = 20;
        engine.take_work();
        generate(&mut engine, std::slice::from_ref(&request));
        assert_eq!((counts.submitted.load(SeqCst), counts.chained.load(SeqCst)), (20, 19));
        if let Some(work) = engine.take_work() {
            assert_eq!(work.submits, 20);
        }
        // Who looks at the tokens so far waits for them.
        request.sampling.repeat_penalty = 1.2;
        generate(&mut engine, &[request]);
        assert_eq!((counts.submitted.load(SeqCst), counts.chained.load(SeqCst)), (40, 19));
    }
}

#[test]
fn a_pool_or_a_context_that_is_full_ends_the_same_answers() {
    for open in backends() {
        let Some([one, other]) = open().zip(open()).map(<[Boxed; 2]>::from) else { continue };
        // Room for some of them at a time, and for none to its end.
        let ((mut plain, _), (mut chained, counts)) =
            (engine(one, false, (2, 64)), engine(other, true, (2, 64)));
        let mut requests = requests(&plain);
        requests.iter_mut().for_each(|request| request.max_tokens = 100);
        let expected = generate(&mut plain, &requests);
        assert!(expected.0.iter().any(|(_, _, reason)| *reason == FinishReason::ContextFull));
        assert_eq!(generate(&mut chained, &requests), expected);
        assert_eq!(counts.most.load(SeqCst), 2);
    }
}

#[test]
fn a_conversation_has_cached_what_it_has_said() {
    for open in backends() {
        let Some([one, other]) = open().zip(open()).map(<[Boxed; 2]>::from) else { continue };
        let mut engines = [(one, false), (other, true)].map(|(b, chains)| engine(b, chains, (2, 256)).0);
        let mut request = requests(&engines[0]).remove(3);
        request.max_tokens = 30;
        let [free, _] = engines.each_mut().map(|e| generate(e, std::slice::from_ref(&request)).0.remove(0).0);
        // The turn ends at the border of a chunk as well as inside of one.
        for at in [3, 12, 13] {
            request.end_tokens = vec![free[at]];
            let [expected, found] = engines.each_mut().map(|engine| {
                let mut conversation = Conversation::default();
                let mut turn = |request: &Request| {
                    let turn =
                        engine.converse(&mut conversation, request, &mut |_| ControlFlow::Continue(()));
                    let turn = turn.expect("it answers");
                    let (adapter, tokens) = (request.adapter.as_deref(), conversation.tokens());
                    let cached = (engine.cached_tokens(&conversation), tokens.len());
                    let (sequence, _) = engine.resume_sequence(adapter, tokens, 0.0).expect("it is there");
                    let kv: Vec<_> = (0..engine.config().layers)
                        .map(|layer| engine.read_kv(sequence, layer).expect("it reads"))
                        .collect();
                    engine.close_sequence(sequence).expect("it is open");
                    (turn.reused_tokens, told(turn), cached, kv)
                };
                let first = turn(&request);
                let prompt = [&request.prompt[..], &first.1.0, &[50, 60, 70]].concat();
                let second = turn(&Request { prompt, end_tokens: Vec::new(), ..request.clone() });
                engine.end_conversation(&mut conversation).expect("it was open");
                assert_eq!(engine.memory().kv_in_use, 0);
                [first, second]
            });
            assert_eq!(expected[0].1.2, FinishReason::EndToken);
            for (expected, found) in expected.iter().zip(&found) {
                assert_eq!((expected.0, &expected.1, expected.2), (found.0, &found.1, found.2));
                for ((k, v), (found_k, found_v)) in expected.3.iter().zip(&found.3) {
                    assert_bits("K", k, found_k);
                    assert_bits("V", v, found_v);
                }
            }
        }
    }
}

#[test]
fn whoever_breaks_off_gets_no_token_more() {
    for open in backends() {
        let Some([one, other]) = open().zip(open()).map(<[Boxed; 2]>::from) else { continue };
        let mut engines = [(one, false), (other, true)].map(|(b, chains)| engine(b, chains, (7, 128)).0);
        for after in [1, 9, 30] {
            let [expected, found] = engines.each_mut().map(|engine| {
                let requests = requests(engine);
                let mut texts = 0;
                let answers = engine.generate(&requests, &mut |event| {
                    texts += usize::from(matches!(event, Event::Text { .. }));
                    if texts >= after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                assert_eq!(engine.memory().kv_in_use, 0);
                answers.expect("breaking off is no error").into_iter().map(told).collect::<Vec<_>>()
            });
            assert_eq!(expected, found, "{after}");
        }
    }
}

#[test]
fn where_no_token_can_be_chosen_the_error_is_that_of_one_step_at_a_time() {
    for open in backends() {
        let Some(backend) = open() else { continue };
        let (mut engine, counts) = engine(backend, true, (7, 128));
        let sound = requests(&engine);
        let (expected, _) = generate(&mut engine, &sound);
        let mut requests = sound.clone();
        let all = 0..u32::try_from(engine.config().vocab_size).expect("tokens are u32");
        requests[2].sampling.logit_bias = all.map(|token| (token, f32::NEG_INFINITY)).collect();
        let chained = counts.chained.load(SeqCst);
        let refused = engine.generate(&requests, &mut |event| {
            assert!(!matches!(event, Event::Text { .. }), "nobody hears of the step");
            ControlFlow::Continue(())
        });
        assert!(matches!(refused, Err(EngineError::NotANumber)), "{refused:?}");
        assert_eq!(counts.chained.load(SeqCst), chained + 7, "the next step was under way");
        assert_eq!(generate(&mut engine, &sound).0, expected, "and the engine goes on");
    }
}

#[test]
fn suspending_waits_for_the_step_under_way_and_keeps_what_it_found() {
    for open in backends() {
        let Some([one, other]) = open().zip(open()).map(<[Boxed; 2]>::from) else { continue };
        let (mut plain, _) = engine(one, false, (7, 128));
        let (mut chained, counts) = engine(other, true, (7, 128));
        let requests = requests(&plain);
        let (answers, mut events) = generate(&mut plain, &requests);
        // By the thread that is told of a token in the middle of a step, while the next one is under way.
        let gate = chained.gpu_gate().expect("it says that it is a GPU");
        let mut told_of = Vec::new();
        let mut given = 0;
        let found = chained.generate(&requests, &mut |event| {
            told_of.push(event.clone());
            match event {
                Event::Text { request: 1, tokens: 3, .. } => {
                    assert!(counts.submitted.load(SeqCst) > counts.redeemed.load(SeqCst), "one is under way");
                    gate.suspend();
                    assert_eq!(counts.waiters.load(SeqCst), 1);
                    given = counts.submitted.load(SeqCst);
                }
                Event::Suspended => {
                    assert_eq!(counts.submitted.load(SeqCst), given, "nothing was given to it since");
                    gate.resume();
                }
                _ => {}
            }
            ControlFlow::Continue(())
        });
        let found: Vec<Told> = found.expect("it goes on").into_iter().map(told).collect();
        assert_eq!(found, answers);
        let at = told_of.iter().position(|event| *event == Event::Suspended).expect("it was told of");
        events.insert(at, Event::Suspended);
        assert_eq!(told_of, events);
    }
}

#[test]
fn another_thread_may_suspend_at_any_time() {
    let Some(backend) = backends::gpu() else { return };
    let (mut engine, counts) = engine(backend, true, (7, 128));
    let mut requests = requests(&engine);
    requests.iter_mut().for_each(|request| request.max_tokens = 40);
    let expected = generate(&mut engine, &requests).0;
    let gate = engine.gpu_gate().expect("it is a GPU");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut given = 0;
            while !done.load(SeqCst) {
                gate.suspend();
                let before = counts.submitted.load(SeqCst);
                std::thread::sleep(Duration::from_millis(3));
                given += counts.submitted.load(SeqCst) - before;
                gate.resume();
                std::thread::sleep(Duration::from_millis(7));
            }
            given
        });
        let mut suspended = 0;
        let answers = engine.generate(&requests, &mut |event| {
            suspended += usize::from(event == Event::Suspended);
            ControlFlow::Continue(())
        });
        done.store(true, SeqCst);
        assert_eq!(other.join().expect("it ends"), 0, "nothing is given to a suspended GPU");
        let answers: Vec<Told> = answers.expect("it goes on").into_iter().map(told).collect();
        assert_eq!(answers, expected);
        assert!(suspended > 0);
    });
}
