//! Requests of many apps for a long time, with everything that may happen to a service drawn at random between them: whatever it is,
//! no more is held than may be, answers are those of a model that does nothing else, and at the end nothing is left.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use interleaf_runtime::{
    AppState, Completion, Context, ContextId, Engine, EngineOptions, FinishReason, Generation, Prompt,
    Service, ServiceError, TrimLevel,
};
use interleaf_tests::data::Random;

use super::rig::{Alone, adapter, call, count, end, engine, held, start, swapping, tokens};

const APPS: usize = 5;
const CONTEXTS: usize = 4;
/// Calls that are under way at once.
const UNDER_WAY: usize = 8;
/// The longest context; one that is nearly so long is deleted.
const LONGEST: usize = 256;
/// Requests from one service to the next over the same engine, and from one engine to the next over the same store.
const SERVICE: usize = 500;
const RUN: usize = 2500;

/// What the pool may have, in parts of itself.
const SHARES: [u64; 3] = [1, 1, 2];

/// A call that has been taken.
struct Asked {
    context: Context,
    generation: Generation,
    before: Vec<u32>,
    prompt: Vec<u32>,
    adapter: Option<&'static str>,
    most: usize,
}

/// What was seen and done in all.
#[derive(Debug, Default)]
struct Seen {
    requests: usize,
    answered: u64,
    cancelled: u64,
    failed: u64,
    refused: usize,
    compared: usize,
    samples: usize,
    peak: u64,
    kills: usize,
    trims: usize,
    budgets: usize,
    deleted: usize,
    services: usize,
    runs: usize,
    reused_tokens: u64,
    prompt_tokens: u64,
    loads: u64,
    unloads: u64,
    written: u64,
    read: u64,
    recomputed: u64,
    damaged: u64,
    restored: u64,
}

struct Soak<'a> {
    store: &'a Path,
    service: Service,
    whole: u64,
    budget: u64,
    asked: Vec<Asked>,
    /// Contexts whose last call was dropped.
    dropped: HashSet<ContextId>,
    prefixes: Vec<Vec<u32>>,
    alone: Alone,
    random: Random,
    seen: Seen,
}

fn open(store: &Path) -> Engine {
    engine(&EngineOptions { context: LONGEST, ..swapping(store) }, 6, LONGEST)
}

impl<'a> Soak<'a> {
    fn new(store: &'a Path) -> Self {
        let service = start(open(store));
        let whole = service.memory().expect("it serves").backend.kv;
        let mut random = Random::new(17);
        let prefixes = (0..6).map(|place| tokens(&mut random, 32 + 8 * place)).collect();
        Self {
            store,
            service,
            whole,
            budget: whole,
            asked: Vec::new(),
            dropped: HashSet::new(),
            prefixes,
            alone: Alone::new(),
            random,
            seen: Seen { runs: 1, services: 1, ..Seen::default() },
        }
    }

    fn one_of(&mut self, most: usize) -> bool {
        self.random.below(most) == 0
    }

    /// A context that nobody calls, of any app; one that is nearly full makes way for a new one.
    fn context(&mut self) -> Option<Context> {
        let name = format!("app {}", self.random.below(APPS));
        let app = self.service.app(&name, None).expect("there is a place");
        let own = app.contexts();
        let place = self.random.below(CONTEXTS);
        let context = match own.into_iter().nth(place) {
            Some(context) => context,
            None => app.new_context().expect("it begins"),
        };
        if self.asked.iter().any(|asked| asked.context.id() == context.id()) {
            return None;
        }
        // Until its dropped call has ended nobody can tell what it has; then what does not fit is refused for that.
        let much = Prompt::Tokens(vec![16; 2 * LONGEST]);
        while self.dropped.contains(&context.id()) {
            match context.call(&much, &call(None, 1)) {
                Err(ServiceError::ContextFull { .. }) => _ = self.dropped.remove(&context.id()),
                Err(ServiceError::ContextBusy(_) | ServiceError::Overloaded { .. }) => {
                    std::thread::yield_now()
                }
                other => panic!("{other:?}"),
            }
        }
        if context.tokens().expect("it is there").len() > LONGEST - 60 || self.one_of(60) {
            context.delete().expect("it is there");
            self.seen.deleted += 1;
            return None;
        }
        Some(context)
    }

    fn ask(&mut self) {
        let Some(context) = self.context() else { return };
        let before = context.tokens().expect("it is there");
        let own = 1 + self.random.below(12);
        let own = tokens(&mut self.random, own);
        let prompt = match before.is_empty() {
            true => [&self.prefixes[self.random.below(self.prefixes.len())][..], &own].concat(),
            false => own,
        };
        let (adapter, most) = (adapter(&mut self.random), 1 + self.random.below(4));
        match context.call(&Prompt::Tokens(prompt.clone()), &call(adapter, most)) {
            Ok(generation) => {
                self.asked.push(Asked { context, generation, before, prompt, adapter, most });
                self.seen.requests += 1;
            }
            Err(ServiceError::Overloaded { .. }) => self.seen.refused += 1,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for one of those under way, or leaves it.
    fn end_one(&mut self) {
        let place = self.random.below(self.asked.len());
        let Asked { context, generation, before, prompt, adapter, most } = self.asked.swap_remove(place);
        if self.one_of(40) {
            drop(generation);
            self.dropped.insert(context.id());
            return;
        }
        if self.one_of(40) {
            generation.cancel();
        }
        let answer = end(generation).expect("half of the pool has room for any call");
        let Completion { tokens: said, reason, .. } = answer.completion;
        let text = [&before[..], &prompt].concat();
        match reason {
            FinishReason::Length => assert_eq!(said.len(), most),
            FinishReason::Cancelled => assert!(said.len() <= most),
            reason => panic!("{reason:?}"),
        }
        // Of one that never began the context has nothing.
        let has = context.tokens().expect("it is there");
        assert!(has == before && said.is_empty() || has == [&text[..], &said].concat(), "{context:?}");
        assert!(answer.is_durable || has == before, "there is room on the disk");
        if self.one_of(50) && !said.is_empty() {
            let expected = self.alone.says(&text, adapter, most);
            assert_eq!(said, expected[..said.len()], "{adapter:?}: {text:?}");
            self.seen.compared += 1;
        }
    }

    fn drain(&mut self) {
        while !self.asked.is_empty() {
            self.end_one();
        }
    }

    /// Nobody's call is under way, dropped ones included.
    fn settle(&mut self) {
        self.drain();
        loop {
            let stats = self.service.stats().expect("it serves");
            if stats.waiting + stats.under_way == 0 {
                break;
            }
            std::thread::yield_now();
        }
        self.dropped.clear();
    }

    fn look(&mut self) {
        let memory = self.service.memory().expect("it serves");
        let held = held(&memory);
        self.seen.samples += 1;
        self.seen.peak = self.seen.peak.max(held);
        assert!(held <= self.budget, "{held} bytes are held, {} may be: {memory:?}", self.budget);
    }

    fn disturb(&mut self) {
        match self.random.below(5) {
            0 => {
                let app = format!("app {}", self.random.below(APPS));
                let app = self.service.app(&app, None).expect("there is a place");
                app.set_state(AppState::Killed).expect("it serves");
                self.seen.kills += 1;
            }
            1 => {
                let app = format!("app {}", self.random.below(APPS));
                let app = self.service.app(&app, None).expect("there is a place");
                let state = [AppState::Cached, AppState::Background, AppState::Visible];
                app.set_state(state[self.random.below(3)]).expect("it serves");
            }
            2 | 3 => {
                let level = [TrimLevel::UiHidden, TrimLevel::Background, TrimLevel::Warning];
                self.service.trim_memory(level[self.random.below(3)]).expect("it serves");
                self.seen.trims += 1;
            }
            _ => {
                let budget = self.whole / SHARES[self.random.below(SHARES.len())];
                self.budget = budget;
                self.service.set_budget(budget).expect("it serves");
                self.seen.budgets += 1;
                self.look();
            }
        }
    }

    /// The texts of all contexts.
    fn texts(&self) -> Vec<(String, ContextId, Vec<u32>)> {
        let apps = (0..APPS).map(|app| format!("app {app}"));
        let texts = apps.flat_map(|name| {
            let app = self.service.app(&name, None).expect("there is a place");
            let contexts = app.contexts().into_iter();
            contexts
                .map(move |at| (name.clone(), at.id(), at.tokens().expect("it is there")))
                .collect::<Vec<_>>()
        });
        texts.collect()
    }

    /// The next service, over the same engine or over the same store alone.
    fn change(mut self, is_next_run: bool) -> Self {
        self.settle();
        let texts = self.texts();
        let stats = self.service.stats().expect("it serves");
        self.seen.answered += stats.answered;
        self.seen.cancelled += stats.cancelled;
        self.seen.failed += stats.failed;
        self.seen.reused_tokens += stats.reused_tokens;
        self.seen.prompt_tokens += stats.prompt_tokens;
        let Self { store, service, whole, asked, prefixes, alone, random, mut seen, .. } = self;
        let mut engine = service.stop().expect("nothing has panicked");
        engine.check_pages().expect("everything fits together");
        if is_next_run {
            Self::count(&mut engine, &mut seen);
            drop(engine);
            engine = open(store);
            seen.runs += 1;
        }
        let service = start(engine);
        service.set_budget(whole).expect("it serves");
        seen.services += 1;
        let dropped = HashSet::new();
        let next =
            Self { store, service, whole, budget: whole, asked, dropped, prefixes, alone, random, seen };
        assert!(next.texts() == texts, "every context is there with its text");
        next
    }

    fn count(engine: &mut Engine, seen: &mut Seen) {
        engine.flush_swap().expect("nothing fails");
        let (swap, adapters) = (engine.swap_stats().expect("it swaps"), engine.adapter_stats());
        assert_eq!(swap.unwritten, 0, "{swap:?}");
        seen.loads += adapters.loads;
        seen.unloads += adapters.unloads;
        seen.written += swap.written;
        seen.read += swap.read;
        seen.recomputed += swap.recomputed;
        seen.damaged += swap.damaged;
        seen.restored += swap.restored;
    }
}

#[test]
fn whatever_happens_for_a_long_time_nothing_is_wrong_and_nothing_is_left() {
    let requests = count("INTERLEAF_SOAK", 500);
    let begun = Instant::now();
    let store = tempfile::tempdir().expect("a folder");
    let mut soak = Soak::new(store.path());
    let mut changed = 0;
    while soak.seen.requests < requests {
        soak.ask();
        if soak.asked.len() >= UNDER_WAY {
            soak.end_one();
        }
        if soak.one_of(4) {
            soak.look();
        }
        if soak.one_of(25) {
            soak.disturb();
        }
        if soak.one_of(250) {
            soak.service.check_pages().expect("it serves").expect("everything fits together");
        }
        let least = if requests < RUN { requests / 5 } else { SERVICE };
        if soak.seen.requests / least.max(1) > changed {
            changed += 1;
            let is_next_run = changed % (RUN / SERVICE) == 0;
            soak = soak.change(is_next_run);
            if changed % 20 == 0 {
                println!("{} requests in {:?}", soak.seen.requests, begun.elapsed());
            }
        }
    }
    soak = soak.change(false);
    for app in 0..APPS {
        let app = soak.service.app(&format!("app {app}"), None).expect("there is a place");
        app.contexts().iter().for_each(|context| context.delete().expect("it is there"));
    }
    let Soak { service, mut seen, whole, .. } = soak;
    let mut engine = service.stop().expect("nothing has panicked");
    engine.trim_memory(TrimLevel::Warning).expect("nothing fails");
    let memory = engine.memory();
    assert_eq!((memory.kv_in_use, memory.kv_cached, memory.kv_adapters), (0, 0, 0), "{memory:?}");
    assert_eq!(engine.adapter_stats().loaded, 0);
    engine.check_pages().expect("everything fits together");
    Soak::count(&mut engine, &mut seen);
    println!("{seen:#?}\nof a pool of {whole} bytes, in {:?}", begun.elapsed());
    assert_eq!((seen.damaged, seen.failed, seen.answered), (0, 0, seen.requests as u64));
    assert!(seen.compared > 0 && seen.peak <= whole);
    let left = std::fs::read_dir(store.path().join("contexts")).expect("it is there").count();
    assert_eq!(left, 0, "no file of a context is left");
}
