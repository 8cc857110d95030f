//! EdgeLoRA (Shen et al., MobiSys 2025, arXiv 2507.01438), whose load is S-LoRA's (arXiv 2311.03285,
//! `benchmarks/trace.py`): single questions to many adapters, none of which goes on. Arrivals wait for nobody.

use std::collections::VecDeque;

use serde::Deserialize;

use crate::draw::{Draws, Weighted};
use crate::event::{Event, Request, What};
use crate::text::{Segment, Writer};
use crate::values::{Between, Positive};

/// Single questions.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// R: requests in a second.
    rate: Positive,
    /// Coefficient of variation of the time between two.
    cv: Positive,
    /// Zipf's exponent over adapters; in `compat` α of the power law.
    exponent: Positive,
    /// Tokens of the question.
    prompt: Between,
    /// Tokens of the answer.
    answer: Between,
    /// Tokens of a system prompt that each adapter has, before the question.
    prefix: u32,
    /// As the artifact does it: adapter ⌊n·u^(1/α)⌋, which is even for α = 1 and favours low ids for less, and prompts that
    /// are one word over and over, so that each is the beginning of every longer one.
    compat: bool,
}

impl Settings {
    pub fn fault(&self, all: &super::Settings) -> Option<(&'static str, String)> {
        if self.compat && self.prefix > 0 {
            let reason = format!("{}, expected 0 with compat: the artifact has none", self.prefix);
            return Some(("requests.prefix", reason));
        }
        let longest = [self.prefix, self.prompt.max(), self.answer.max()].map(u64::from).iter().sum();
        all.no_adapters().or_else(|| all.too_long("requests", longest))
    }

    pub fn generator(&self, all: &super::Settings, seed: u64) -> Questions {
        let count = all.adapter_count().unwrap_or(1);
        Questions {
            settings: self.clone(),
            count,
            zipf: Weighted::zipf(count, self.exponent.get()),
            next_context: 0,
            writer: Writer::new(),
            now: 0.0,
            draws: Draws::new(seed),
        }
    }
}

pub(super) struct Questions {
    settings: Settings,
    count: u32,
    zipf: Weighted,
    next_context: u32,
    writer: Writer,
    now: f64,
    draws: Draws,
}

impl Questions {
    fn adapter(&mut self) -> u32 {
        if !self.settings.compat {
            return self.zipf.pick(&mut self.draws.choices) as u32;
        }
        let u = self.draws.choices.unit();
        let place = f64::from(self.count) * libm::pow(u, 1.0 / self.settings.exponent.get());
        (place as u32).min(self.count - 1)
    }

    fn prompt(&mut self, adapter: u32) -> Vec<Segment> {
        let tokens = self.draws.lengths.between(self.settings.prompt);
        if self.settings.compat {
            return vec![Segment { source: 0, tokens }];
        }
        let question = self.writer.write(tokens);
        match self.settings.prefix {
            0 => vec![question],
            prefix => vec![Segment { source: u64::from(adapter), tokens: prefix }, question],
        }
    }
}

impl super::Generator for Questions {
    fn step(&mut self, events: &mut VecDeque<Event>) {
        self.now += self.draws.times.gap(self.settings.rate.get(), self.settings.cv.get());
        let adapter = self.adapter();
        let prompt = self.prompt(adapter);
        let answer = self.draws.lengths.between(self.settings.answer);
        let request = Request {
            app: adapter,
            context: self.next_context,
            adapter: Some(adapter),
            prompt,
            answer: self.writer.write(answer),
        };
        self.next_context += 1;
        events.push_back(Event { at: self.now, what: What::Request(request) });
    }
}
