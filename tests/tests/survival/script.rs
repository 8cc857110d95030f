//! What some contexts are asked in turn, and what they say to it when nobody disturbs them.

use interleaf_tests::data::Random;

use super::rig::{Alone, adapter, tokens};

/// The apps that have the contexts, two each.
pub const APPS: [&str; 2] = ["mail", "notes"];
pub const CONTEXTS: usize = 2 * APPS.len();

/// Calls of each context.
pub const CALLS: usize = 12;

pub struct Call {
    pub prompt: Vec<u32>,
    pub adapter: Option<&'static str>,
    pub max_tokens: usize,
}

/// The calls of each context, the same for the same seed.
pub fn script(seed: u64) -> Vec<Vec<Call>> {
    let random = &mut Random::new(seed);
    // All begin alike, so that they share what is in the cache.
    let common = tokens(random, 40);
    let call = |random: &mut Random, place: usize| {
        let own = 2 + random.below(34);
        let prompt = [&common[..if place == 0 { 40 } else { 0 }], &tokens(random, own)].concat();
        Call { prompt, adapter: adapter(random), max_tokens: 1 + random.below(8) }
    };
    (0..CONTEXTS).map(|_| (0..CALLS).map(|place| call(random, place)).collect()).collect()
}

/// Tokens of a context once so many of its calls have ended.
pub fn length(calls: &[Call]) -> usize {
    calls.iter().map(|call| call.prompt.len() + call.max_tokens).sum()
}

/// The whole text of each context.
pub fn texts(alone: &mut Alone, script: &[Vec<Call>]) -> Vec<Vec<u32>> {
    let text = |calls: &Vec<Call>| {
        calls.iter().fold(Vec::new(), |mut text, call| {
            text.extend(&call.prompt);
            let said = alone.says(&text, call.adapter, call.max_tokens);
            text.extend(said);
            text
        })
    };
    script.iter().map(text).collect()
}
