//! The program that is killed: it goes on with a script where its store says that it was, and writes a line for whatever is there and
//! whatever has been done.

use std::io::Write;
use std::path::Path;

use interleaf_runtime::{
    App, Context, Engine, EngineError, EngineOptions, Prompt, Service, SwapStats, TrimLevel,
};

use super::rig::{call, end, open, start, swapping};
use super::script::{APPS, CALLS, CONTEXTS, Call, length, script};

/// What the pool has room for.
const SEQUENCES: usize = 2;
const TOKENS: usize = 512;

/// Calls of each context between two looks at what was swapped.
const ROUND: usize = 3;

/// One line, at once.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).expect("somebody listens");
}

fn words(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

/// Goes on with the script of a seed, until it is over or the program is killed.
pub fn run(store: &Path, seed: u64) {
    let script = script(seed);
    // The harness has begun a line.
    say("");
    let mut engine = loaded(store);
    let mut is_first = true;
    loop {
        let service = start(engine);
        let contexts = contexts(&service, is_first);
        is_first = false;
        let is_over = round(&service, &contexts, &script);
        engine = service.stop().expect("nothing has panicked");
        engine.flush_swap().expect("nothing fails");
        engine.check_pages().expect("everything fits together");
        let SwapStats { written, read, recomputed, damaged, restored, .. } =
            engine.swap_stats().expect("it swaps");
        say(&format!("swap {written} {read} {recomputed} {damaged} {restored}"));
        if is_over {
            break;
        }
    }
    say("over");
}

/// The model, which an app loads once more after its load was cut short, and says so.
fn loaded(store: &Path) -> Engine {
    let options = swapping(store);
    match open(&options, SEQUENCES, TOKENS) {
        Err(EngineError::LastLoadFailed { .. }) => {
            say("again");
            let options = EngineOptions { retry_load: true, ..options };
            open(&options, SEQUENCES, TOKENS).expect("it loads when asked once more")
        }
        opened => opened.expect("the model loads"),
    }
}

/// The contexts of both apps, in the order in which they began.
fn contexts(service: &Service, is_first: bool) -> Vec<Context> {
    if is_first {
        let restored = service.restored();
        assert_eq!((restored.unreadable.len(), restored.of_other_models), (0, 0), "{restored:?}");
        restored.cut.iter().for_each(|(id, bytes)| say(&format!("cut {} {bytes}", id.0)));
    }
    let apps: Vec<App> = APPS.iter().map(|name| service.app(name, None).expect("there is a place")).collect();
    let mut all = Vec::new();
    for (place, app) in apps.iter().enumerate() {
        let own = app.contexts();
        for (at, context) in own.iter().enumerate().filter(|_| is_first) {
            let tokens = context.tokens().expect("it is there");
            say(&format!("context {} {}", 2 * place + at, words(&tokens)));
        }
        all.push(own);
    }
    if is_first {
        say("restored");
    }
    for (own, app) in all.iter_mut().zip(&apps) {
        while own.len() < 2 {
            own.push(app.new_context().expect("it begins"));
        }
    }
    all.concat()
}

/// A few calls of each context, all contexts at once. Says whether all calls have been made.
fn round(service: &Service, contexts: &[Context], script: &[Vec<Call>]) -> bool {
    std::thread::scope(|scope| {
        for place in 0..CONTEXTS {
            let (context, calls) = (&contexts[place], &script[place]);
            scope.spawn(move || {
                let has = context.tokens().expect("it is there").len();
                let done = (0..=CALLS).find(|done| length(&calls[..*done]) == has);
                let done = done.expect("a context has whole calls");
                for (number, one) in calls.iter().enumerate().skip(done).take(ROUND) {
                    let prompt = Prompt::Tokens(one.prompt.clone());
                    let asked = context.call(&prompt, &call(one.adapter, one.max_tokens));
                    let answer = end(asked.expect("it is taken")).expect("it is answered");
                    let durable = u8::from(answer.is_durable);
                    say(&format!("said {place} {number} {durable} {}", words(&answer.completion.tokens)));
                    if (place + number) % 4 == 0 {
                        service.trim_memory(TrimLevel::Warning).expect("it serves");
                    }
                }
            });
        }
    });
    contexts
        .iter()
        .zip(script)
        .all(|(context, calls)| context.tokens().expect("it is there").len() == length(calls))
}
