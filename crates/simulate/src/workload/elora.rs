//! ELORA (the later version of FASTLIBRA, arXiv 2505.03756): dialogues of several turns with many adapters, of which some
//! are asked for far more often than others, and several at a time.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

use serde::Deserialize;

use crate::draw::{Draws, Weighted};
use crate::event::{Event, Request, What};
use crate::text::{Segment, Writer, length};
use crate::values::{Between, NonNegative, Positive, Probability};

/// Dialogues.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// Dialogues that begin in a second.
    rate: Positive,
    /// Coefficient of variation of the time between two beginnings.
    cv: Positive,
    /// Zipf's exponent over adapters.
    exponent: NonNegative,
    /// Whether a dialogue goes on after a turn, which makes 1/(1 − more) turns on average. It ends, too, when the longest
    /// turn would no longer fit into its context.
    more: Probability,
    /// Seconds from one turn of a dialogue to its next, on average; exponential.
    think: Positive,
    /// Tokens of the instructions that each adapter has, before a dialogue.
    prefix: u32,
    /// Tokens of what is said in a turn.
    prompt: Between,
    /// Tokens of the answer to it.
    answer: Between,
}

impl Settings {
    pub fn fault(&self, all: &super::Settings) -> Option<(&'static str, String)> {
        if self.more.get() == 1.0 {
            let reason = "1, expected less: a dialogue has an end".to_owned();
            return Some(("requests.more", reason));
        }
        let longest = u64::from(self.prefix) + self.longest_turn();
        all.no_adapters().or_else(|| all.too_long("requests", longest))
    }

    fn longest_turn(&self) -> u64 {
        u64::from(self.prompt.max()) + u64::from(self.answer.max())
    }

    pub fn generator(&self, all: &super::Settings, seed: u64) -> Dialogues {
        let count = all.adapter_count().unwrap_or(1);
        let mut draws = Draws::new(seed);
        Dialogues {
            next_beginning: draws.times.gap(self.rate.get(), self.cv.get()),
            settings: self.clone(),
            limit: u64::from(all.context_limit.get()),
            zipf: Weighted::zipf(count, self.exponent.get()),
            open: BinaryHeap::new(),
            next_context: 0,
            writer: Writer::new(),
            draws,
        }
    }
}

/// A dialogue that goes on.
struct Dialogue {
    /// When its next turn is.
    at: f64,
    context: u32,
    adapter: u32,
    text: Vec<Segment>,
}

impl PartialEq for Dialogue {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Dialogue {}

impl PartialOrd for Dialogue {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Dialogue {
    /// The soonest is the greatest, as a heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.context.cmp(&self.context))
    }
}

pub(super) struct Dialogues {
    settings: Settings,
    limit: u64,
    zipf: Weighted,
    /// When the next dialogue begins, in seconds.
    next_beginning: f64,
    open: BinaryHeap<Dialogue>,
    next_context: u32,
    writer: Writer,
    draws: Draws,
}

impl Dialogues {
    /// The dialogue whose turn is next: one that is open, or else a new one.
    fn next_turn(&mut self) -> Dialogue {
        if self.open.peek().is_some_and(|open| open.at <= self.next_beginning)
            && let Some(open) = self.open.pop()
        {
            return open;
        }
        let at = self.next_beginning;
        self.next_beginning += self.draws.times.gap(self.settings.rate.get(), self.settings.cv.get());
        let adapter = self.zipf.pick(&mut self.draws.choices) as u32;
        let context = self.next_context;
        self.next_context += 1;
        let text = match self.settings.prefix {
            0 => Vec::new(),
            tokens => vec![Segment { source: u64::from(adapter), tokens }],
        };
        Dialogue { at, context, adapter, text }
    }
}

impl super::Generator for Dialogues {
    fn step(&mut self, events: &mut VecDeque<Event>) {
        let mut dialogue = self.next_turn();
        dialogue.text.push(self.writer.write(self.draws.lengths.between(self.settings.prompt)));
        let prompt = dialogue.text.clone();
        let answer = self.writer.write(self.draws.lengths.between(self.settings.answer));
        dialogue.text.push(answer);
        let request = Request {
            app: dialogue.adapter,
            context: dialogue.context,
            adapter: Some(dialogue.adapter),
            prompt,
            answer,
        };
        events.push_back(Event { at: dialogue.at, what: What::Request(request) });
        let fits = length(&dialogue.text) + self.settings.longest_turn() <= self.limit;
        if self.draws.choices.chance(self.settings.more.get()) && fits {
            dialogue.at += self.draws.times.exponential(self.settings.think.get());
            self.open.push(dialogue);
        }
    }
}
