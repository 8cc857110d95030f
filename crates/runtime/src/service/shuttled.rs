//! What callers' threads and the service's share, in many orders in which these may run: nobody waits for ever, every call ends once,
//! and contexts have whole calls. What answers here has no engine; what it shares is the service's own.

use std::sync::{Arc, Weak};
use std::time::Duration;

use interleaf_kv::policy::AppState;
use shuttle::rand::{Rng, thread_rng};
use shuttle::{future, thread};

use super::generation::{Channel, Progress};
use super::scribe::{Ended, Scribe};
use super::shared::{AppEntry, Call, Facts, Shared};
use super::worker::Alive;
use super::{
    App, CallId, CallOptions, Context, Generation, Prompt, ServiceError, ServiceOptions, WhenFull, generation,
};
use crate::sync::orders;
use crate::{Completion, FinishReason};

/// What every answer has, unless it is broken off.
const ANSWER: [u32; 2] = [7, 8];

fn check(test: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(test, orders());
    shuttle::check_pct(test, orders(), 3);
}

fn shared() -> Arc<Shared> {
    let options = ServiceOptions { most_waiting: 4, most_waiting_of_app: 4, ..ServiceOptions::default() };
    let facts = Facts {
        tokenizer: None,
        template: None,
        no_tokenizer: None,
        end_tokens: Vec::new(),
        context: 64,
        gate: None,
        options,
    };
    let shared = Shared::new(facts, None, Vec::new());
    shared.lock().apps.push(AppEntry {
        state: AppState::Foreground,
        was_started: true,
        ..AppEntry::new("mail")
    });
    Arc::new(shared)
}

fn app(shared: &Arc<Shared>) -> App {
    App { key: 0, name: "mail".into(), shared: Arc::clone(shared) }
}

/// Answers calls a token at a time until it is stopped. What else it is asked to do it leaves undone.
fn serve(shared: &Arc<Shared>) {
    let _alive = Alive(Arc::clone(shared));
    let scribe = Scribe::start(shared).expect("there is a thread");
    let mut under_way: Vec<(Call, Vec<u32>)> = Vec::new();
    loop {
        let mut state = shared.wait((!under_way.is_empty()).then_some(Duration::ZERO));
        let jobs = std::mem::take(&mut state.jobs);
        while let Some(call) = state.queue.take(|_| 0, |_| 0) {
            under_way.push((call, Vec::new()));
        }
        let is_stopping = state.is_stopping;
        drop(state);
        if is_stopping {
            return;
        }
        drop(jobs);
        for (call, mut tokens) in std::mem::take(&mut under_way) {
            let is_unwanted = call.channel.is_unwanted();
            if !is_unwanted {
                tokens.push(ANSWER[tokens.len()]);
                call.channel.send(Progress::Text { text: String::new(), tokens: tokens.len() });
            }
            if is_unwanted || tokens.len() == ANSWER.len() {
                let reason = if is_unwanted { FinishReason::Cancelled } else { FinishReason::Length };
                let completion =
                    Completion { tokens, reason, ..Completion::cancelled(call.request.prompt.len()) };
                scribe.take(Ended { call, completion });
            } else {
                under_way.push((call, tokens));
            }
        }
        thread::yield_now();
    }
}

/// Two calls of a context, each of which may be cancelled.
fn talk(context: &Context) {
    let mut text = Vec::new();
    for number in 0..2 {
        let prompt = Prompt::Tokens(vec![number]);
        let generation = match context.call(&prompt, &CallOptions::default()) {
            Ok(generation) => generation,
            Err(ServiceError::Stopped) => return,
            Err(error) => panic!("{error}"),
        };
        if thread_rng().r#gen::<bool>() {
            let _ = generation.next();
            generation.cancel();
        }
        match generation.wait() {
            Ok(answer) => {
                let said = answer.completion.tokens;
                assert!(ANSWER.starts_with(&said));
                let whole = [&text[..], &[number], &said].concat();
                let has = context.tokens().expect("it is there");
                assert!(has == whole || has == text && said.is_empty(), "{has:?}, {whole:?}");
                text = has;
            }
            Err(ServiceError::Stopped) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn every_call_ends_whoever_cancels_and_whenever_the_service_stops() {
    check(|| {
        let shared = shared();
        let service = thread::spawn({
            let shared = Arc::clone(&shared);
            move || serve(&shared)
        });
        let contexts: Vec<Context> = (0..2).map(|_| app(&shared).new_context().expect("it begins")).collect();
        let callers: Vec<_> =
            contexts.iter().cloned().map(|context| thread::spawn(move || talk(&context))).collect();
        let asks = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let asked = shared.ask(|_| ());
                assert!(matches!(asked, Err(ServiceError::Stopped)), "nobody does it");
            }
        });
        if thread_rng().r#gen::<bool>() {
            asks.join().expect("no panic");
            callers.into_iter().for_each(|caller| caller.join().expect("no panic"));
            stop(&shared);
        } else {
            stop(&shared);
            asks.join().expect("no panic");
            callers.into_iter().for_each(|caller| caller.join().expect("no panic"));
        }
        service.join().expect("no panic");
        let state = shared.lock();
        assert_eq!(state.queue.len(), 0);
        drop(state);
        let refused = contexts[0].call(&Prompt::Tokens(vec![1]), &CallOptions::default());
        assert!(matches!(refused, Err(ServiceError::Stopped)));
    });
}

fn stop(shared: &Shared) {
    let mut state = shared.lock();
    state.is_stopping = true;
    shared.tell(state);
}

#[test]
fn a_context_that_is_deleted_under_its_call_is_gone_and_the_call_ends() {
    check(|| {
        let shared = shared();
        let service = thread::spawn({
            let shared = Arc::clone(&shared);
            move || serve(&shared)
        });
        let context = app(&shared).new_context().expect("it begins");
        let options = CallOptions { when_full: WhenFull::Refuse, ..CallOptions::default() };
        let generation = context.call(&Prompt::Tokens(vec![1]), &options).expect("it is taken");
        let deletes = thread::spawn({
            let context = context.clone();
            // That what is cached goes is left undone here.
            move || assert!(matches!(context.delete(), Err(ServiceError::Stopped)))
        });
        let answer = generation.wait().expect("what it had");
        assert!(ANSWER.starts_with(&answer.completion.tokens));
        deletes.join().expect("no panic");
        assert!(matches!(context.tokens(), Err(ServiceError::UnknownContext(_))));
        stop(&shared);
        service.join().expect("no panic");
    });
}

#[test]
fn events_come_in_order_to_threads_and_executors_and_the_end_to_everybody() {
    check(|| {
        let channel = Arc::new(Channel::default());
        let to = |channel: &Arc<Channel>| Generation {
            call: CallId(1),
            channel: Arc::clone(channel),
            service: Weak::new(),
        };
        let (waits, polls) = (to(&channel), to(&channel));
        let polls = thread::spawn(move || future::block_on(polls.completed()));
        let seen = thread::spawn(move || {
            let mut seen = Vec::new();
            while let Some(Progress::Prefill { done, .. }) = waits.next() {
                seen.push(done);
            }
            assert!(waits.end().is_some());
            seen
        });
        (0..3).for_each(|done| channel.send(Progress::Prefill { done, total: 3 }));
        channel.end(Ok(generation::Answer {
            completion: Completion { tokens: vec![9], ..Completion::cancelled(3) },
            is_durable: false,
        }));
        channel.end(Err(ServiceError::Stopped));
        assert_eq!(seen.join().expect("no panic"), [0, 1, 2]);
        let end = polls.join().expect("no panic").expect("the first end counts");
        assert_eq!(end.completion.tokens, [9]);
    });
}
