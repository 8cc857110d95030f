//! Callers who leave at whatever moment: they drop an answer, cancel it, delete its context, or their app is killed. What the others
//! have is whole, and nothing stays behind.

use std::sync::atomic::{AtomicUsize, Ordering};

use interleaf_runtime::{
    App, AppState, Completion, Context, EngineOptions, FinishReason, Prompt, Service, ServiceError, TrimLevel,
};
use interleaf_tests::data::Random;

use super::rig::{Alone, adapter, call, count, end, engine, options, start, tokens};

/// Threads that call at once.
const CALLERS: usize = 4;

/// What becomes of calls.
#[derive(Debug, Default)]
struct Calls {
    taken: AtomicUsize,
    refused: AtomicUsize,
    left: AtomicUsize,
    /// Answers that were held against those of a model alone.
    compared: AtomicUsize,
}

fn one_more(count: &AtomicUsize) -> usize {
    count.fetch_add(1, Ordering::Relaxed)
}

/// The context with what was said of it: nothing, or what it had with a prompt and a part of what follows behind it.
fn holds(context: &Context, before: &[u32], prompt: &[u32], whole: usize) {
    match context.tokens() {
        Ok(has) => {
            assert!(has.starts_with(before), "{has:?} does not begin with {before:?}");
            let added = &has[before.len()..];
            assert!(
                added.is_empty() || added.starts_with(prompt),
                "{added:?} does not begin with {prompt:?}"
            );
            assert!(added.len() <= prompt.len() + whole);
        }
        Err(ServiceError::UnknownContext(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// An app, in the foreground again if it was killed.
fn living(service: &Service, name: &str) -> App {
    service.app(name, None).expect("there is a place")
}

fn caller(service: &Service, number: usize, most: usize, calls: &Calls) {
    let random = &mut Random::new(1000 + number as u64);
    let name = format!("app {}", number % 2);
    let mut alone = Alone::new();
    let mut context = living(service, &name).new_context().expect("it begins");
    while calls.left.load(Ordering::Relaxed) < most {
        let Ok(before) = context.tokens() else {
            context = match living(service, &name).new_context() {
                Ok(context) => context,
                // Killed by the other thread of the app meanwhile.
                Err(ServiceError::AppKilled(_)) => continue,
                Err(error) => panic!("{error}"),
            };
            continue;
        };
        let own = 1 + random.below(40);
        let prompt = tokens(random, own);
        let (adapter, length) = (adapter(random), 1 + random.below(30));
        let generation = match context.call(&Prompt::Tokens(prompt.clone()), &call(adapter, length)) {
            Ok(generation) => generation,
            Err(ServiceError::AppKilled(_)) => {
                living(service, &name);
                continue;
            }
            Err(
                ServiceError::ContextBusy(_)
                | ServiceError::Overloaded { .. }
                | ServiceError::UnknownContext(_),
            ) => {
                one_more(&calls.refused);
                std::thread::yield_now();
                continue;
            }
            Err(ServiceError::ContextFull { .. }) => {
                context.delete().expect("it is there");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        one_more(&calls.taken);
        for _ in 0..random.below(12) {
            if generation.next().is_none() {
                break;
            }
        }
        match random.below(6) {
            0 => {
                drop(generation);
                one_more(&calls.left);
                // Its end is not told to anybody; once it has come, what does not fit is refused for that.
                let much = Prompt::Tokens(vec![16; 200]);
                while matches!(context.call(&much, &call(None, 1)), Err(ServiceError::ContextBusy(_))) {
                    std::thread::yield_now();
                }
                holds(&context, &before, &prompt, length);
            }
            1 | 2 => {
                generation.cancel();
                one_more(&calls.left);
                let Completion { tokens: said, .. } = end(generation).expect("what it had").completion;
                holds(&context, &before, &prompt, said.len());
            }
            3 if random.below(4) == 0 => {
                context.delete().expect("it is there");
                one_more(&calls.left);
                end(generation).expect("what it had");
                assert!(context.tokens().is_err());
            }
            4 if random.below(4) == 0 => {
                living(service, &name).set_state(AppState::Killed).expect("it serves");
                one_more(&calls.left);
                let said = end(generation).expect("what it had").completion.tokens;
                holds(&context, &before, &prompt, said.len());
                living(service, &name);
            }
            _ => {
                let answer = end(generation).expect("it is answered");
                let text = [&before[..], &prompt].concat();
                let said = &answer.completion.tokens;
                // The other thread of the app may have killed it.
                if random.below(8) == 0 && !said.is_empty() {
                    assert_eq!(*said, alone.says(&text, adapter, said.len()));
                    one_more(&calls.compared);
                }
                let has = context.tokens().expect("it is there");
                // Of one that was killed before it began the context has nothing.
                let never_began = answer.completion.reason == FinishReason::Cancelled && said.is_empty();
                assert!(never_began && has == before || has == [&text[..], said].concat(), "{has:?}");
            }
        }
    }
}

#[test]
fn whoever_leaves_leaves_nothing_behind() {
    let most = count("INTERLEAF_CANCELS", 1000);
    for pool_adapters in [false, true] {
        let engine = engine(&EngineOptions { pool_adapters, context: 192, ..options() }, 4, 512);
        let service = start(engine);
        let calls = Calls::default();
        std::thread::scope(|scope| {
            for number in 0..CALLERS {
                let (service, calls) = (&service, &calls);
                scope.spawn(move || caller(service, number, most / 2, calls));
            }
        });
        // Every call that was taken has ended, and is counted once.
        let stats = service.stats().expect("it serves");
        assert_eq!((stats.waiting, stats.under_way), (0, 0), "{calls:?}, {stats:?}");
        assert_eq!(stats.answered + stats.failed, calls.taken.into_inner() as u64, "{stats:?}");
        assert!(stats.cancelled > 0 && stats.cancelled <= stats.answered, "{stats:?}");
        assert_eq!(stats.failed, 0, "{stats:?}");
        assert!(calls.compared.into_inner() > 0);
        service.trim_memory(TrimLevel::Warning).expect("it serves");
        let memory = service.memory().expect("it serves");
        assert_eq!((memory.kv_in_use, memory.kv_cached, memory.kv_adapters), (0, 0, 0), "{memory:?}");
        service.check_pages().expect("it serves").expect("everything fits together");
        let engine = service.stop().expect("its thread ends, and has not panicked");
        assert_eq!(engine.memory().kv_in_use, 0);
        assert!(!pool_adapters || engine.adapter_stats().loaded == 0, "{:?}", engine.adapter_stats());
        println!("{stats:?}");
    }
}
