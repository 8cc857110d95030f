//! The engine as a service: what apps ask for at once is answered as each would be alone, contexts go on from call to call and from
//! run to run, and nobody gets at what is another's.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use interleaf_demo_model as demo_model;
use interleaf_kv::MOST_APPS;
use interleaf_runtime::{
    Answer, App, AppState, BackendChoice, CallOptions, ChatMessage, Context, Engine, EngineError,
    EngineOptions, FinishReason, Progress, Prompt, Request, SamplingOptions, Service, ServiceError,
    ServiceOptions, TierUse, TrimLevel, WhenFull, Whose,
};

use super::support::{demo, models, options, prompts};

/// Long enough to be under way when something else happens.
const LONG: usize = 400;

fn engine(sequences: usize, tokens: usize, store: Option<&Path>) -> Engine {
    let store = store.map(Path::to_path_buf);
    let mut engine = demo(&EngineOptions { store, ..options(BackendChoice::Cpu) });
    engine.reserve_kv(sequences, tokens).expect("a small pool");
    engine
}

fn start(engine: Engine, options: ServiceOptions) -> Service {
    Service::start(engine, options).expect("it starts")
}

fn serve() -> Service {
    start(engine(8, 512, None), ServiceOptions::default())
}

fn call(adapter: Option<&str>, max_tokens: usize) -> CallOptions {
    CallOptions {
        adapter: adapter.into(),
        max_tokens,
        end_tokens: Some(Vec::new()),
        ..CallOptions::default()
    }
}

fn app(service: &Service, name: &str) -> App {
    service.app(name, None).expect("there is a place")
}

fn context(service: &Service, name: &str) -> Context {
    app(service, name).new_context().expect("it begins")
}

fn say(context: &Context, tokens: &[u32], options: &CallOptions) -> Answer {
    let generation = context.call(&Prompt::Tokens(tokens.to_vec()), options).expect("it is taken");
    generation.wait().expect("it is answered")
}

/// What the model says alone, with nothing in the cache.
fn alone(engine: &mut Engine, prompt: &[u32], adapter: Option<&str>, max_tokens: usize) -> Vec<u32> {
    let request = Request {
        prompt: prompt.to_vec(),
        adapter: adapter.map(str::to_owned),
        max_tokens,
        sampling: SamplingOptions::default(),
        stop: Vec::new(),
        end_tokens: Vec::new(),
        drift: 0.0,
    };
    let mut completions =
        engine.generate(&[request], &mut |_| std::ops::ControlFlow::Continue(())).expect("an answer");
    completions.remove(0).tokens
}

fn first_text(generation: &interleaf_runtime::Generation) {
    while !matches!(generation.next().expect("it is under way"), Progress::Text { .. }) {}
}

#[test]
fn mixed_calls_of_many_apps_are_answered_as_each_alone() {
    let mut single = engine(1, 512, None);
    let prompts = prompts(&single);
    let service = serve();
    std::thread::scope(|scope| {
        let threads: Vec<_> = models()
            .into_iter()
            .zip(prompts.iter().cycle())
            .enumerate()
            .map(|(place, (adapter, prompt))| {
                let service = &service;
                scope.spawn(move || {
                    let context = context(service, &format!("app {}", place % 3));
                    say(&context, prompt, &call(adapter, 24)).completion.tokens
                })
            })
            .collect();
        for (thread, (adapter, prompt)) in
            threads.into_iter().zip(models().into_iter().zip(prompts.iter().cycle()))
        {
            let answer = thread.join().expect("no panic");
            assert_eq!(answer, alone(&mut single, prompt, adapter, 24), "{adapter:?}");
        }
    });
    let stats = service.stats().expect("it serves");
    assert_eq!((stats.answered, stats.failed, stats.waiting, stats.under_way), (7, 0, 0, 0));
    assert_eq!((stats.first_token.count(), stats.per_token.count(), stats.overloaded), (7, 7, 0));
    let [half, most] = [0.5, 0.99].map(|share| stats.first_token.quantile(share).expect("seven"));
    assert!(Duration::ZERO < half && half <= most && most < stats.first_token.sum() * 2, "{stats:?}");
    assert_eq!(stats.computed_tokens() + stats.reused_tokens, stats.prompt_tokens);
    assert_eq!((stats.adapters.registered, stats.adapters.loaded, stats.swap), (6, 6, None));
    let memory = service.memory().expect("it serves");
    assert_eq!(memory.kv_memory.held, memory.kv_in_use + memory.kv_cached);
    assert!(memory.kv_memory.budget <= memory.backend.kv && memory.kv_flash == TierUse::default());
}

#[test]
fn a_context_goes_on_from_call_to_call_under_any_adapter() {
    let mut single = engine(1, 512, None);
    let prompts = prompts(&single);
    let service = serve();
    let context = context(&service, "mail");
    let mut text = Vec::new();
    for (turn, adapter) in [None, None, Some("rust-code"), None].into_iter().enumerate() {
        text.extend(&prompts[turn]);
        let answer = say(&context, &prompts[turn], &call(adapter, 12)).completion;
        assert_eq!(answer.tokens, alone(&mut single, &text, adapter, 12), "turn {turn}");
        assert_eq!(answer.reused_tokens > 0, turn == 1 || turn == 3, "turn {turn}");
        text.extend(&answer.tokens);
        assert_eq!(context.tokens().expect("it is there"), text);
    }
    context.delete().expect("it is there");
    assert!(matches!(context.tokens(), Err(ServiceError::UnknownContext(_))));
    assert!(matches!(context.delete(), Err(ServiceError::UnknownContext(_))));
    let refused = context.call(&Prompt::Tokens(vec![1]), &call(None, 1));
    assert!(matches!(refused, Err(ServiceError::UnknownContext(_))));
    assert_eq!(service.memory().expect("it serves").kv_cached, 0);
}

#[test]
fn a_call_is_cancelled_and_the_context_keeps_what_was_said() {
    let service = serve();
    let prompt = &prompts(&engine(1, 512, None))[0];
    let [one, other] = ["a", "b"].map(|name| context(&service, name));
    let generation = one.call(&Prompt::Tokens(prompt.clone()), &call(None, LONG)).expect("it is taken");
    let beside =
        other.call(&Prompt::Tokens(prompt.clone()), &call(Some("api-docs"), 40)).expect("it is taken");
    first_text(&generation);
    generation.cancel();
    let answer = generation.wait().expect("what it had").completion;
    assert_eq!(answer.reason, FinishReason::Cancelled);
    assert!((1..LONG).contains(&answer.tokens.len()));
    assert_eq!(one.tokens().expect("it is there"), [&prompt[..], &answer.tokens].concat());
    assert_eq!(beside.wait().expect("it goes on").completion.tokens.len(), 40);
    // It can be called again at once, and who lets go of an answer cancels it.
    drop(one.call(&Prompt::Tokens(vec![5]), &call(None, LONG)).expect("it is taken"));
    let again = loop {
        match one.call(&Prompt::Tokens(vec![6]), &call(None, 2)) {
            Err(ServiceError::ContextBusy(_)) => std::thread::yield_now(),
            taken => break taken,
        }
    };
    assert_eq!(again.expect("it is taken").wait().expect("an answer").completion.tokens.len(), 2);
    assert_eq!(service.stats().expect("it serves").cancelled, 2);
}

#[test]
fn more_than_may_wait_is_refused_by_name() {
    let options = ServiceOptions {
        most_under_way: 1,
        most_waiting: 2,
        most_waiting_of_app: 1,
        ..ServiceOptions::default()
    };
    let service = start(engine(8, 512, None), options);
    let ask = |name: &str| context(&service, name).call(&Prompt::Tokens(vec![1, 2]), &call(None, LONG));
    let under_way = ask("a").expect("there is a place");
    first_text(&under_way);
    let waiting = [ask("a").expect("it waits"), ask("b").expect("it waits")];
    let own = ask("a").expect_err("one of its waits");
    let all = ask("c").expect_err("two wait");
    assert!(matches!(own, ServiceError::Overloaded { whose: Whose::ThisApp, waiting: 1, most: 1 }), "{own}");
    assert!(matches!(all, ServiceError::Overloaded { whose: Whose::AllApps, waiting: 2, most: 2 }), "{all}");
    assert_eq!(service.stats().expect("it serves").overloaded, 2);
    // Who waits can be cancelled, and makes room.
    let [first, second] = waiting;
    second.cancel();
    let left = second.wait().expect("nothing").completion;
    assert_eq!((left.reason, left.tokens.len()), (FinishReason::Cancelled, 0));
    let third = ask("c").expect("there is room");
    under_way.cancel();
    for generation in [first, third] {
        first_text(&generation);
        generation.cancel();
        generation.wait().expect("what it had");
    }
}

#[test]
fn an_app_gets_at_nothing_of_anothers() {
    let service = serve();
    let prompt = &prompts(&engine(1, 512, None))[0];
    let [mail, notes] = ["mail", "notes"].map(|name| app(&service, name));
    let context = mail.new_context().expect("it begins");
    say(&context, prompt, &call(None, 4));
    assert!(matches!(notes.context(context.id()), Err(ServiceError::UnknownContext(_))));
    assert!(notes.contexts().is_empty());
    assert_eq!(mail.contexts().iter().map(Context::id).collect::<Vec<_>>(), [context.id()]);
    let same = mail.context(context.id()).expect("its own");
    assert_eq!(same.tokens().expect("it is there"), context.tokens().expect("it is there"));
    // Of tokens that both come with what is in the cache answers for both, unless a secret keeps them apart.
    let open = say(&notes.new_context().expect("it begins"), prompt, &call(None, 4));
    assert!(open.completion.reused_tokens > 0);
    let bank = service.app("bank", Some([7; 16])).expect("there is a place");
    let secret = say(&bank.new_context().expect("it begins"), prompt, &call(None, 4));
    assert_eq!((secret.completion.reused_tokens, &secret.completion.tokens), (0, &open.completion.tokens));
    let again = say(&bank.new_context().expect("it begins"), prompt, &call(None, 4));
    assert!(again.completion.reused_tokens > 0);
    assert!(matches!(service.app("bank", None), Err(ServiceError::InvalidOption { option: "salt", .. })));
}

#[test]
fn contexts_are_there_again_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Some(folder.path());
    let mut single = engine(1, 512, None);
    let prompts = prompts(&single);
    let service = start(engine(4, 512, store), ServiceOptions::default());
    let (kept, gone) = (context(&service, "mail"), context(&service, "mail"));
    let answer = say(&kept, &prompts[0], &call(None, 8));
    assert!(answer.is_durable);
    say(&gone, &prompts[1], &call(None, 8));
    gone.delete().expect("it is there");
    let (id, tokens) = (kept.id(), kept.tokens().expect("it is there"));
    // Two that wrote the same files would each take the other's records for damage.
    let second = Service::start(engine(4, 512, store), ServiceOptions::default());
    let Err(ServiceError::Journal { file, error }) = second else { panic!("{second:?}") };
    assert_eq!((file, error.kind()), (folder.path().join("contexts.lock"), ErrorKind::WouldBlock));
    drop(service);
    assert!(matches!(kept.call(&Prompt::Tokens(vec![1]), &call(None, 1)), Err(ServiceError::Stopped)));

    let service = start(engine(4, 512, store), ServiceOptions::default());
    assert_eq!((service.restored().contexts, service.restored().cut.len()), (1, 0));
    let mail = app(&service, "mail");
    let kept = mail.context(id).expect("it was kept");
    assert_eq!(kept.tokens().expect("it is there"), tokens);
    let answer = say(&kept, &prompts[2], &call(Some("rust-code"), 8)).completion;
    let text = [&tokens[..], &prompts[2]].concat();
    assert_eq!(answer.tokens, alone(&mut single, &text, Some("rust-code"), 8));
    // No number is given twice.
    assert!(mail.new_context().expect("it begins").id() > id);
    assert!(app(&service, "notes").contexts().is_empty());
}

#[test]
fn a_kill_ends_all_that_was_asked_before_it_and_nothing_after() {
    let service = serve();
    let prompt = Prompt::Tokens(prompts(&engine(1, 512, None))[0].clone());
    // Steps are under way all the time: some calls have a place by the time of the kill, and some do not.
    let other = context(&service, "notes");
    let running = other.call(&prompt, &call(None, LONG)).expect("it is taken");
    first_text(&running);
    let mail = app(&service, "mail");
    for round in 0..12 {
        let before = mail.new_context().expect("it begins");
        let asked = before.call(&prompt, &call(None, LONG)).expect("it is taken");
        if round % 3 == 2 {
            first_text(&asked);
        }
        mail.set_state(AppState::Killed).expect("it serves");
        let mail = app(&service, "mail");
        let after =
            mail.new_context().expect("it begins").call(&prompt, &call(None, 1)).expect("it is taken");
        assert_eq!(asked.wait().expect("what it had").completion.reason, FinishReason::Cancelled, "{round}");
        assert_eq!(after.wait().expect("an answer").completion.reason, FinishReason::Length, "{round}");
    }
    running.cancel();
}

#[test]
fn a_long_prompt_has_its_turn_among_short_ones() {
    let service = start(engine(1, 512, None), ServiceOptions::default());
    let prompt = prompts(&engine(1, 512, None))[0].clone();
    let is_over = AtomicBool::new(false);
    let short_since = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for place in 0..4 {
            let (service, prompt, is_over, short_since) = (&service, &prompt, &is_over, &short_since);
            scope.spawn(move || {
                let mail = app(service, &format!("app {place}"));
                while !is_over.load(Ordering::SeqCst) {
                    let context = mail.new_context().expect("it begins");
                    say(&context, &prompt[place..], &call(None, 40));
                    context.delete().expect("it is there");
                    // Else nobody ever hears of it.
                    assert!(short_since.fetch_add(1, Ordering::SeqCst) < 4000, "the long one starves");
                }
            });
        }
        // Others have most of the room at any time.
        let long: Vec<u32> = (0..400).map(|token| 16 + token).collect();
        let context = context(&service, "notes");
        let begun = Instant::now();
        while short_since.load(Ordering::SeqCst) < 8 {
            assert!(begun.elapsed() < Duration::from_secs(60), "nobody is answered");
            std::thread::yield_now();
        }
        let before = short_since.load(Ordering::SeqCst);
        assert_eq!(say(&context, &long, &call(None, 4)).completion.tokens.len(), 4);
        let meanwhile = short_since.load(Ordering::SeqCst) - before;
        is_over.store(true, Ordering::SeqCst);
        assert!(meanwhile < 200, "{meanwhile} short ones were answered meanwhile");
    });
}

#[test]
fn calls_that_are_to_say_nothing_leave_nothing_open() {
    let service = serve();
    // An app that has something open cannot make way for another one.
    for number in 0..2 * MOST_APPS {
        let name = format!("app {number}");
        assert!(say(&context(&service, &name), &[1], &call(None, 0)).completion.tokens.is_empty(), "{name}");
        app(&service, &name).set_state(AppState::Killed).expect("it serves");
    }
}

#[test]
fn an_engine_serves_the_same_apps_again_and_again() {
    let mut engine = engine(4, 512, None);
    let prompt = prompts(&engine)[0].clone();
    for round in 0..=MOST_APPS {
        let service = start(engine, ServiceOptions::default());
        let answer = say(&context(&service, "mail"), &prompt, &call(None, 1)).completion;
        assert_eq!(answer.reused_tokens > 0, round > 0, "what was computed for it before is its own");
        let other = format!("app {round}");
        say(&context(&service, &other), &prompt, &call(None, 1));
        engine = service.stop().expect("nothing has panicked");
    }
}

#[test]
fn who_made_way_goes_on_when_others_are_cancelled() {
    let service = start(engine(2, 512, None), ServiceOptions::default());
    let prompt = Prompt::Tokens(prompts(&engine(1, 512, None))[0].clone());
    let whole = service.memory().expect("it serves").backend.kv;
    let ask = |name: &str| context(&service, name).call(&prompt, &call(None, LONG)).expect("it is taken");
    let (one, other) = (ask("a"), ask("b"));
    [&one, &other].into_iter().for_each(first_text);
    // There is room for one of them.
    service.set_budget(whole / 2).expect("it serves");
    // Somebody is always under way, and none of them comes to an end of its own.
    let mut under_way = vec![one, ask("c")];
    let begun = Instant::now();
    while !matches!(other.next_within(Duration::ZERO), Poll::Ready(None)) {
        let next = ask("c");
        first_text(&next);
        under_way.push(next);
        under_way.remove(0).cancel();
        while !matches!(other.next_within(Duration::ZERO), Poll::Pending | Poll::Ready(None)) {}
        assert!(begun.elapsed() < Duration::from_secs(100), "it is never called back");
    }
    assert_eq!(other.wait().expect("an answer").completion.reason, FinishReason::Length);
}

#[test]
fn what_an_earlier_service_or_run_left_of_an_app_goes_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = start(engine(4, 512, Some(folder.path())), ServiceOptions::default());
    let prompt = &prompts(&engine(1, 512, None))[0];
    say(&context(&service, "mail"), prompt, &call(None, 4));
    let engine = service.stop().expect("nothing has panicked");
    assert!(engine.memory().kv_cached > 0);
    let service = start(engine, ServiceOptions::default());
    // Nobody has called this service.
    app(&service, "mail").set_state(AppState::Killed).expect("it serves");
    assert_eq!(service.memory().expect("it serves").kv_cached, 0);
    say(&app(&service, "mail").contexts()[0], &[16], &call(None, 4));
    let service = start(service.stop().expect("nothing has panicked"), ServiceOptions::default());
    assert!(service.memory().expect("it serves").kv_cached > 0);
    app(&service, "mail").contexts()[0].delete().expect("it is there");
    assert_eq!(service.memory().expect("it serves").kv_cached, 0);
}

#[test]
fn a_killed_app_leaves_memory_and_comes_back() {
    let service = serve();
    let prompt = &prompts(&engine(1, 512, None))[0];
    let mail = app(&service, "mail");
    let context = mail.new_context().expect("it begins");
    let generation = context.call(&Prompt::Tokens(prompt.clone()), &call(None, LONG)).expect("it is taken");
    first_text(&generation);
    mail.set_state(AppState::Killed).expect("it serves");
    assert_eq!(generation.wait().expect("what it had").completion.reason, FinishReason::Cancelled);
    let memory = service.memory().expect("it serves");
    assert_eq!((memory.kv_in_use, memory.kv_cached), (0, 0));
    let refused = context.call(&Prompt::Tokens(vec![1]), &call(None, 1));
    assert!(matches!(refused, Err(ServiceError::AppKilled(name)) if name == "mail"));
    let tokens = context.tokens().expect("it stays");
    assert!(tokens.len() > prompt.len());
    assert_eq!(app(&service, "mail").state(), AppState::Foreground);
    assert_eq!(say(&context, &[1], &call(None, 2)).completion.tokens.len(), 2);
}

#[test]
fn who_finds_no_room_makes_way_and_says_the_same() {
    let mut single = engine(1, 256, None);
    let prompts = prompts(&single);
    // Each fits alone; all together do not.
    let service = start(engine(1, 256, None), ServiceOptions::default());
    let waiting: Vec<_> = prompts
        .iter()
        .take(4)
        .map(|prompt| {
            let options = call(Some("book-prose"), 90);
            context(&service, "mail").call(&Prompt::Tokens(prompt.clone()), &options).expect("it is taken")
        })
        .collect();
    for (generation, prompt) in waiting.into_iter().zip(&prompts) {
        let answer = generation.wait().expect("an answer").completion;
        assert_eq!(answer.reason, FinishReason::Length);
        assert_eq!(answer.tokens, alone(&mut single, prompt, Some("book-prose"), 90));
    }
    // What has no room even alone ends for want of it, and leaves others theirs.
    let long = vec![5; 250];
    let full = say(&context(&service, "mail"), &long, &call(None, 100)).completion;
    assert_eq!(full.reason, FinishReason::ContextFull);
    assert_eq!(say(&context(&service, "mail"), &prompts[0], &call(None, 3)).completion.tokens.len(), 3);
}

#[test]
fn what_one_call_fails_with_does_not_touch_others() {
    let service = serve();
    let prompt = Prompt::Tokens(prompts(&engine(1, 512, None))[0].clone());
    let [one, other] = ["a", "b"].map(|name| context(&service, name));
    let going = other.call(&prompt, &call(None, 30)).expect("it is taken");
    let failed = one.call(&prompt, &call(Some("nobody"), 30)).expect("it is taken").wait();
    let Err(ServiceError::Engine(error)) = failed else { panic!("{failed:?}") };
    assert!(matches!(&*error, EngineError::UnknownAdapter { name, .. } if name == "nobody"));
    let unknown = one.call(&Prompt::Tokens(vec![1 << 30]), &call(None, 3)).expect("it is taken").wait();
    assert!(matches!(unknown, Err(ServiceError::Engine(_))));
    let banned = SamplingOptions {
        logit_bias: (0..service_vocabulary()).map(|token| (token, f32::NEG_INFINITY)).collect(),
        ..SamplingOptions::default()
    };
    let nothing =
        one.call(&prompt, &CallOptions { sampling: banned, ..call(None, 3) }).expect("it is taken").wait();
    assert_eq!(nothing.expect("an end").completion.reason, FinishReason::NotANumber);
    assert_eq!(going.wait().expect("it goes on").completion.tokens.len(), 30);
    let empty = context(&service, "a").call(&Prompt::Tokens(Vec::new()), &call(None, 3));
    assert!(matches!(empty, Err(ServiceError::Engine(_))));
    let drift = one.call(&prompt, &CallOptions { drift: f32::NAN, ..call(None, 3) });
    assert!(matches!(drift, Err(ServiceError::Engine(_))));
}

fn service_vocabulary() -> u32 {
    engine(1, 16, None).config().vocab_size as u32
}

#[test]
fn a_full_context_is_refused_or_keeps_its_beginning_and_what_is_recent() {
    let mut small = demo(&EngineOptions { context: 256, ..options(BackendChoice::Cpu) });
    small.reserve_kv(4, 256).expect("a small pool");
    let service = start(small, ServiceOptions::default());
    let prompt = prompts(&engine(1, 512, None))[0].clone();
    let context = context(&service, "mail");
    let keep = CallOptions { when_full: WhenFull::KeepFirstAndRecent { first: 32 }, ..call(None, 30) };
    let mut forgotten = 0;
    for _ in 0..12 {
        let generation = context.call(&Prompt::Tokens(prompt[..20].to_vec()), &keep).expect("it is taken");
        while let Some(progress) = generation.next() {
            if let Progress::Forgotten { tokens } = progress {
                forgotten += tokens;
            }
        }
        assert_eq!(generation.wait().expect("an answer").completion.tokens.len(), 30);
        let tokens = context.tokens().expect("it is there");
        assert!(tokens.len() <= 256 && tokens[..20] == prompt[..20]);
    }
    assert!(forgotten > 0);
    let long = Prompt::Tokens(vec![3; 300]);
    for options in [keep, call(None, 30)] {
        assert!(matches!(context.call(&long, &options), Err(ServiceError::ContextFull { .. })));
    }
    // A call that was refused leaves the context free.
    assert!(
        context
            .call(
                &Prompt::Tokens(vec![1]),
                &CallOptions { when_full: WhenFull::KeepFirstAndRecent { first: 0 }, ..call(None, 1) }
            )
            .is_ok()
    );
}

#[test]
fn a_conversation_reads_on_where_it_is_the_same() {
    let service = start(engine(4, 1024, None), ServiceOptions::default());
    let context = context(&service, "mail");
    let mut messages = vec![
        ChatMessage::new("system", demo_model::SYSTEM),
        ChatMessage::new("user", demo_model::QUESTIONS[0].1),
    ];
    let options = CallOptions { max_tokens: 20, ..CallOptions::default() };
    let first = context
        .call(&Prompt::Chat(messages.clone()), &options)
        .expect("it is taken")
        .wait()
        .expect("an answer");
    messages.push(ChatMessage::new("assistant", &*first.completion.text));
    messages.push(ChatMessage::new("user", demo_model::QUESTIONS[1].1));
    let generation = context.call(&Prompt::Chat(messages), &options).expect("it is taken");
    let second = pollster::block_on(generation.completed()).expect("an answer").completion;
    assert!(second.reused_tokens >= first.completion.prompt_tokens, "{second:?}");
    assert!(!second.text.is_empty());
}

#[test]
fn memory_is_given_back_and_budgets_hold() {
    let service = serve();
    let prompt = prompts(&engine(1, 512, None))[0].clone();
    let context = context(&service, "mail");
    say(&context, &prompt, &call(None, 4));
    assert!(service.memory().expect("it serves").kv_cached > 0);
    service.trim_memory(TrimLevel::Warning).expect("it serves");
    assert_eq!(service.memory().expect("it serves").kv_cached, 0);
    let whole = service.memory().expect("it serves").backend.kv;
    service.set_budget(whole / 32).expect("it serves");
    let full = say(&context, &[1; 200], &call(None, 4)).completion;
    assert_eq!(full.reason, FinishReason::ContextFull);
    let memory = service.memory().expect("it serves");
    assert!(memory.kv_in_use + memory.kv_cached <= whole / 32);
    service.set_budget(whole).expect("it serves");
    assert_eq!(say(&context, &[1], &call(None, 4)).completion.tokens.len(), 4);
}
