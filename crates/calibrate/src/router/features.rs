//! What prompts look like: the base model's hidden states, pooled, or how often each token occurs.

use std::collections::BTreeMap;
use std::fmt;

use interleaf_model::{Looks, Pooling};
use interleaf_runtime::{Engine, SequenceHandle};

use crate::CalibrateError;

/// Hidden states of prompts, pooled in every way and layer.
#[derive(Debug, Clone, PartialEq)]
pub struct States {
    hidden: usize,
    /// Layers of the model; there is one state more.
    layers: usize,
    /// By prompt, every layer's states by [`Pooling::MeanAndLast`], one behind the other.
    rows: Vec<Vec<f32>>,
}

impl States {
    /// Runs prompts, each from nothing, and pools the states of at most `most` tokens of each. `progress` is told how many are
    /// done. The engine must have room for a sequence of so many tokens.
    ///
    /// # Errors
    /// If the engine fails, or a prompt has no tokens.
    pub fn run(
        engine: &mut Engine,
        prompts: &[Vec<u32>],
        most: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self, CalibrateError> {
        let (hidden, layers) = (engine.config().hidden_size, engine.config().layers);
        let all: Vec<usize> = (0..=layers).collect();
        let mut rows = Vec::with_capacity(prompts.len());
        for (done, prompt) in prompts.iter().enumerate() {
            let tokens = &prompt[..prompt.len().min(most)];
            let sequence: SequenceHandle = engine.open_sequence(None, tokens)?;
            let states = engine.hidden_states(sequence, tokens, &all);
            engine.close_sequence(sequence)?;
            let mut row = Vec::with_capacity(all.len() * 2 * hidden);
            states?.iter().for_each(|layer| Pooling::MeanAndLast.pool(layer, hidden, &mut row));
            rows.push(row);
            progress(done + 1);
        }
        Ok(Self { hidden, layers, rows })
    }

    /// What a head that looks so is given: prompts × features.
    pub fn seen(&self, looks: &Looks) -> Vec<Vec<f32>> {
        let parts: &[usize] = match looks.pooling {
            Pooling::Mean => &[0],
            Pooling::Last => &[1],
            Pooling::MeanAndLast => &[0, 1],
        };
        let of = |row: &Vec<f32>| {
            let layers = looks.layers.iter().filter(|layer| **layer <= self.layers);
            let starts = layers.flat_map(|layer| parts.iter().map(move |part| 2 * layer + part));
            starts.flat_map(|start| row[start * self.hidden..][..self.hidden].iter().copied()).collect()
        };
        self.rows.iter().map(of).collect()
    }
}

/// How often tokens occur in prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct Bags {
    /// By prompt and token.
    counts: Vec<BTreeMap<u32, u32>>,
    /// The place of each token that occurs in some prompt to train on.
    places: BTreeMap<u32, usize>,
}

/// What a token's count becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Itself.
    Plain,
    /// ln(1 + count).
    Log,
    /// Whether it occurs.
    Occurs,
}

impl Count {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Log, Self::Occurs];
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "counts",
            Self::Log => "log counts",
            Self::Occurs => "occurrence",
        })
    }
}

impl Bags {
    /// Counts the tokens of prompts that are trained on and of others, whose own tokens nobody would know.
    pub fn new(train: &[Vec<u32>], test: &[Vec<u32>]) -> Self {
        let bag = |prompt: &Vec<u32>| {
            let mut bag = BTreeMap::new();
            prompt.iter().for_each(|token| *bag.entry(*token).or_insert(0) += 1);
            bag
        };
        let mut places: BTreeMap<u32, usize> = train.iter().flatten().map(|token| (*token, 0)).collect();
        places.values_mut().enumerate().for_each(|(place, at)| *at = place);
        Self { counts: train.iter().chain(test).map(bag).collect(), places }
    }

    /// Prompts × tokens.
    pub fn seen(&self, count: Count) -> Vec<Vec<f32>> {
        let of = |bag: &BTreeMap<u32, u32>| {
            let mut row = vec![0.0; self.places.len()];
            for (token, occurs) in bag {
                if let Some(place) = self.places.get(token) {
                    row[*place] = match count {
                        Count::Plain => *occurs as f32,
                        Count::Log => (*occurs as f32).ln_1p(),
                        Count::Occurs => 1.0,
                    };
                }
            }
            row
        };
        self.counts.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_those_of_the_layers_that_are_looked_at() {
        // Three layers of two elements, means before last ones.
        let row: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let states = States { hidden: 2, layers: 3, rows: vec![row] };
        let seen = |layers: &[usize], pooling| {
            states.seen(&Looks { layers: layers.to_vec(), pooling, tokens: 9 }).remove(0)
        };
        assert_eq!(seen(&[1], Pooling::Mean), [4.0, 5.0]);
        assert_eq!(seen(&[0, 3], Pooling::Last), [2.0, 3.0, 14.0, 15.0]);
        assert_eq!(seen(&[2], Pooling::MeanAndLast), [8.0, 9.0, 10.0, 11.0]);
    }

    #[test]
    fn tokens_are_counted_that_were_trained_on() {
        let bags = Bags::new(&[vec![7, 3, 7]], &[vec![7, 9, 9]]);
        assert_eq!(bags.seen(Count::Plain), [[1.0, 2.0], [0.0, 1.0]]);
        assert_eq!(bags.seen(Count::Occurs), [[1.0, 1.0], [0.0, 1.0]]);
        assert_eq!(bags.seen(Count::Log)[0][1], 3.0_f32.ln());
    }
}
