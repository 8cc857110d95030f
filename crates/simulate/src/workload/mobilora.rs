//! MobiLoRA (Li et al., ACL 2025, long 1140): apps of a phone in turn, each with its adapter and what it says before every
//! prompt. The paper's trace is drawn from app usage; its recipe is that of two re-implementations.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use serde::Deserialize;

use crate::draw::{Draws, Weighted};
use crate::event::{AppState, Event, Request, What};
use crate::text::{Segment, Writer, length};
use crate::values::{Between, NonNegative, Positive, Probability};

/// Apps in use.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// How many apps there are. App i always asks adapter i modulo their number, and has task i modulo theirs.
    apps: NonZeroU32,
    /// Zipf's exponent over apps.
    exponent: NonNegative,
    /// Times that an app is opened in a sitting with the phone.
    visits: Between,
    /// Requests while an app is open.
    calls: Between,
    /// Seconds between two requests while an app is open, on average; exponential, as the next two.
    call_gap: Positive,
    /// Seconds from the last request of an app to the first of the next, on average.
    visit_gap: Positive,
    /// Seconds from the last request of a sitting to the first of the next, on average.
    sitting_gap: Positive,
    /// Seconds without a request after which the app that is open is killed.
    kill_gap: Positive,
    /// Whether a request goes on with its app's last context, if there is one from this sitting.
    reuse: Probability,
    /// Tokens that every prompt of every app begins with.
    system_prefix: u32,
    /// Tokens that come next, in every prompt of an app.
    app_prefix: u32,
    /// What apps do, dealt out in turn.
    tasks: Vec<Task>,
}

/// What an app does.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Task {
    #[expect(dead_code, reason = "for the reader of the file")]
    name: String,
    /// Tokens of what is asked, which is the end of a prompt.
    prompt: Between,
    /// Tokens of the answer.
    answer: Between,
}

impl Settings {
    pub fn fault(&self, all: &super::Settings) -> Option<(&'static str, String)> {
        let turns = self.tasks.iter().map(|task| u64::from(task.prompt.max()) + u64::from(task.answer.max()));
        let Some(longest) = turns.max() else {
            return Some(("requests.tasks", "an empty list, expected at least one".to_owned()));
        };
        let longest = longest + u64::from(self.system_prefix) + u64::from(self.app_prefix);
        all.no_adapters().or_else(|| all.too_long("requests.tasks", longest))
    }

    pub fn generator(&self, all: &super::Settings, seed: u64) -> Phone {
        Phone {
            limit: u64::from(all.context_limit.get()),
            adapters: all.adapter_count().unwrap_or(1),
            zipf: Weighted::zipf(self.apps.get(), self.exponent.get()),
            groups: (0..self.apps.get()).map(|_| None).collect(),
            settings: self.clone(),
            open: None,
            visits_left: 0,
            calls_left: 0,
            contexts: Vec::new(),
            next_context: 0,
            writer: Writer::new(),
            now: 0.0,
            draws: Draws::new(seed),
        }
    }
}

/// A context that may be gone on with.
struct Context {
    number: u32,
    text: Vec<Segment>,
}

pub(super) struct Phone {
    settings: Settings,
    limit: u64,
    adapters: u32,
    zipf: Weighted,
    /// The app that is open.
    open: Option<u32>,
    /// Visits and requests that the sitting and the visit still have.
    visits_left: u32,
    calls_left: u32,
    /// Each app's last context of this sitting.
    groups: Vec<Option<Context>>,
    /// All contexts of this sitting.
    contexts: Vec<u32>,
    next_context: u32,
    writer: Writer,
    now: f64,
    draws: Draws,
}

impl Phone {
    /// Goes on to the next request's time. Returns its app, and whether it is a sitting's first.
    fn go_on(&mut self) -> (u32, bool) {
        if let Some(app) = self.open
            && self.calls_left > 0
        {
            self.calls_left -= 1;
            self.now += self.draws.times.exponential(self.settings.call_gap.get());
            return (app, false);
        }
        let new_sitting = self.visits_left == 0;
        let gap = match new_sitting {
            true => self.settings.sitting_gap,
            false => self.settings.visit_gap,
        };
        self.now += self.draws.times.exponential(gap.get());
        if new_sitting {
            self.visits_left = self.draws.choices.between(self.settings.visits);
        }
        self.visits_left -= 1;
        self.calls_left = self.draws.choices.between(self.settings.calls) - 1;
        (self.zipf.pick(&mut self.draws.choices) as u32, new_sitting)
    }

    /// What becomes of the app that was open, and that the next one is now.
    fn switch(&mut self, app: u32, last: f64, events: &mut VecDeque<Event>) {
        let mut tell = |at, app, state| events.push_back(Event { at, what: What::AppState { app, state } });
        let killed_at = last + self.settings.kill_gap.get();
        match self.open {
            Some(open) if self.now >= killed_at => tell(killed_at, open, AppState::Killed),
            Some(open) if open == app => return,
            Some(open) => tell(self.now, open, AppState::Background),
            None => {}
        }
        tell(self.now, app, AppState::Foreground);
        self.open = Some(app);
    }

    /// The context that a request goes on with, if it does and `more` tokens fit into it.
    fn reused(&mut self, app: u32, more: u64) -> Option<Context> {
        // Drawn always, so that what comes after does not depend on what there was.
        let reuse = self.draws.choices.chance(self.settings.reuse.get());
        let last = self.groups[app as usize].take()?;
        (reuse && length(&last.text) + more <= self.limit).then_some(last)
    }

    fn new_context(&mut self, app: u32) -> Context {
        let number = self.next_context;
        self.next_context += 1;
        self.contexts.push(number);
        let system = Segment { source: 0, tokens: self.settings.system_prefix };
        let own = Segment { source: 1 + u64::from(app), tokens: self.settings.app_prefix };
        Context { number, text: [system, own].into_iter().filter(|segment| segment.tokens > 0).collect() }
    }
}

impl super::Generator for Phone {
    fn step(&mut self, events: &mut VecDeque<Event>) {
        let last = self.now;
        let (app, new_sitting) = self.go_on();
        self.switch(app, last, events);
        if new_sitting {
            self.groups.iter_mut().for_each(|group| *group = None);
            let over = self.contexts.drain(..).map(|context| What::Forget { context });
            events.extend(over.map(|what| Event { at: self.now, what }));
        }
        let task = &self.settings.tasks[app as usize % self.settings.tasks.len()];
        let [asked, answered] = [task.prompt, task.answer].map(|range| self.draws.lengths.between(range));
        let more = u64::from(asked) + u64::from(answered);
        let mut context = self.reused(app, more).unwrap_or_else(|| self.new_context(app));
        context.text.push(self.writer.write(asked));
        let prompt = context.text.clone();
        let answer = self.writer.write(answered);
        context.text.push(answer);
        let adapter = Some(app % self.adapters);
        let request = Request { app, context: context.number, adapter, prompt, answer };
        self.groups[app as usize] = Some(context);
        events.push_back(Event { at: self.now, what: What::Request(request) });
    }
}
