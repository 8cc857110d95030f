//! LLMS (Yin et al., arXiv 2403.11805, section 5): calls of a few persistent contexts, whose texts grow until they are full.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use serde::Deserialize;

use crate::draw::{Draw, Draws, Weighted};
use crate::event::{Event, Request, What};
use crate::text::{Segment, Writer};
use crate::values::{Between, Positive, Probability};

/// Calls of contexts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// Seconds between two calls, on average; exponential, so that calls are a Poisson process.
    mean_gap: Positive,
    /// How many contexts are alive at a time, each of an app of its own.
    contexts: NonZeroU32,
    switching: Switching,
    /// With which ratio contexts are called less the longer ago their last call was (Markov).
    recency: Probability,
    /// What contexts work on, dealt out in turn.
    datasets: Vec<Dataset>,
}

/// Which context is called next.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Switching {
    /// Any, evenly.
    Random,
    /// The k-th last called has a share of `recency` to the k: a chain of first order over the order of last calls.
    Markov,
    /// A share that is normal in how much a context grows by a call, around the mean over all contexts and with their
    /// deviation.
    Gaussian,
}

/// A data set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dataset {
    #[expect(dead_code, reason = "for the reader of the file")]
    name: String,
    /// Tokens that a context grows by in a call, prompt and answer together.
    growth: Between,
    /// The answer's share of these.
    answer_share: Probability,
}

impl Settings {
    pub fn fault(&self, all: &super::Settings) -> Option<(&'static str, String)> {
        let longest = self.datasets.iter().map(|set| u64::from(set.growth.max())).max();
        let Some(longest) = longest else {
            return Some(("requests.datasets", "an empty list, expected at least one".to_owned()));
        };
        if self.datasets.iter().any(|set| set.growth.min() < 2) {
            let reason = "a growth of 1, expected at least 2: a token of the prompt and one of the answer";
            return Some(("requests.datasets", reason.to_owned()));
        }
        all.too_long("requests.datasets", longest)
    }

    pub fn generator(&self, all: &super::Settings, seed: u64) -> Calls {
        let count = self.contexts.get();
        let dataset = |app: u32| &self.datasets[app as usize % self.datasets.len()];
        let app = |app: u32| App { context: app, tokens: 0, text: Vec::new(), dataset: dataset(app).clone() };
        let growths: Vec<f64> = (0..count).map(|app| dataset(app).growth.mean()).collect();
        let chosen = match self.switching {
            Switching::Random => Chosen::ByPlace(Weighted::new(growths.iter().map(|_| 1.0))),
            Switching::Gaussian => Chosen::ByPlace(Weighted::new(normal_weights(&growths))),
            Switching::Markov => {
                let weights = (0..count).map(|rank| libm::pow(self.recency.get(), f64::from(rank)));
                Chosen::ByRecency { weights: Weighted::new(weights), order: (0..count as usize).collect() }
            }
        };
        Calls {
            mean_gap: self.mean_gap.get(),
            limit: all.context_limit.get(),
            adapters: all.adapter_count(),
            chosen,
            apps: (0..count).map(app).collect(),
            next_context: count,
            writer: Writer::new(),
            now: 0.0,
            draws: Draws::new(seed),
        }
    }
}

/// The normal density at each number, around their mean and with their deviation; all the same where they are equal.
fn normal_weights(numbers: &[f64]) -> Vec<f64> {
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    let variance = numbers.iter().map(|n| (n - mean) * (n - mean)).sum::<f64>() / count;
    let weight = |n: &f64| match variance > 0.0 {
        true => libm::exp(-(n - mean) * (n - mean) / (2.0 * variance)),
        false => 1.0,
    };
    numbers.iter().map(weight).collect()
}

enum Chosen {
    ByPlace(Weighted),
    ByRecency {
        weights: Weighted,
        /// The last called first.
        order: Vec<usize>,
    },
}

impl Chosen {
    fn next(&mut self, draw: &mut Draw) -> usize {
        match self {
            Self::ByPlace(weights) => weights.pick(draw),
            Self::ByRecency { weights, order } => {
                let rank = weights.pick(draw);
                order[..=rank].rotate_right(1);
                order[0]
            }
        }
    }
}

/// An app and its context.
struct App {
    context: u32,
    tokens: u32,
    text: Vec<Segment>,
    dataset: Dataset,
}

pub(super) struct Calls {
    mean_gap: f64,
    limit: u32,
    adapters: Option<u32>,
    chosen: Chosen,
    apps: Vec<App>,
    next_context: u32,
    writer: Writer,
    now: f64,
    draws: Draws,
}

impl super::Generator for Calls {
    fn step(&mut self, events: &mut VecDeque<Event>) {
        self.now += self.draws.times.exponential(self.mean_gap);
        let chosen = self.chosen.next(&mut self.draws.choices);
        let app = &mut self.apps[chosen];
        let growth = self.draws.lengths.between(app.dataset.growth);
        let share = f64::from(growth) * app.dataset.answer_share.get();
        let answer = (share.round() as u32).clamp(1, growth - 1);
        if app.tokens + growth > self.limit {
            events.push_back(Event { at: self.now, what: What::Forget { context: app.context } });
            app.context = self.next_context;
            self.next_context += 1;
            app.tokens = 0;
            app.text.clear();
        }
        app.tokens += growth;
        app.text.push(self.writer.write(growth - answer));
        let prompt = app.text.clone();
        let answer = self.writer.write(answer);
        app.text.push(answer);
        let number = chosen as u32;
        let request = Request {
            app: number,
            context: app.context,
            adapter: self.adapters.map(|count| number % count),
            prompt,
            answer,
        };
        events.push_back(Event { at: self.now, what: What::Request(request) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Purpose;

    #[test]
    fn of_equal_growths_none_is_favoured_and_of_different_ones_the_middle() {
        assert_eq!(normal_weights(&[5.0, 5.0]), [1.0, 1.0]);
        let weights = normal_weights(&[1.0, 2.0, 3.0]);
        assert!(weights[1] > weights[0] && (weights[0] - weights[2]).abs() < 1e-12, "{weights:?}");
    }

    #[test]
    fn the_order_of_last_calls_is_kept() {
        let first = Weighted::new([1.0, 0.0, 0.0]);
        let last = Weighted::new([0.0, 0.0, 1.0]);
        let mut draw = Draw::new(1, Purpose::Choices);
        let mut chosen = Chosen::ByRecency { weights: last, order: vec![0, 1, 2] };
        assert_eq!([(); 4].map(|()| chosen.next(&mut draw)), [2, 1, 0, 2]);
        let mut chosen = Chosen::ByRecency { weights: first, order: vec![0, 1, 2] };
        assert_eq!([(); 2].map(|()| chosen.next(&mut draw)), [0, 0]);
    }
}
