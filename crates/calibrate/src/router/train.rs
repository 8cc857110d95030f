//! Training: what a head looks at and how strongly it is held back is chosen by parting the prompts that are trained on, and
//! then it is fitted to all of them. Prompts to test with are never looked at.

use std::fmt;

use interleaf_model::{Looks, Pooling, RouterHead, RouterLabel, RouterOrigin};
use interleaf_runtime::Engine;

use super::classifier::{Choice, Classifier, Examples, choose, temperature};
use super::data::{Labelled, Prompts};
use super::features::{Bags, Count, States};
use super::scale::Scale;
use crate::CalibrateError;

/// How many tokens of a prompt a router looks at, unless it is told: more than any of the demo model's prompts has, and what an
/// engine reads in one step.
pub const SCORED: usize = 128;

/// Tells of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Training {
    /// So many prompts have been run, of so many.
    Run(usize, usize),
    /// So many choices of what to look at have been tried, of so many.
    Tried(usize, usize),
}

/// A classifier beside the options that were chosen for it, in words.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// What it looks at, and how that is scaled.
    pub options: String,
    /// The penalty, as a share of an example's mean square.
    pub penalty: f64,
    /// Mean cross-entropy over prompts and labels, in nats, of prompts that were trained on, each by what was fitted to others.
    pub loss: f64,
    /// How often the likeliest label was right of these.
    pub top1: f64,
    /// What logits are divided by.
    pub temperature: f64,
    pub(super) classifier: Classifier,
}

/// A router's head, how it came about, and every other choice that was tried.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedRouter {
    /// The head, for [`write_router`](interleaf_runtime::write_router).
    pub head: RouterHead,
    /// How it came about.
    pub chosen: Trained,
    /// What was tried: options, loss and share of right ones as of [`Trained`], in the order in which it was.
    pub tried: Vec<(String, f64, f64)>,
}

/// A prompt's tokens, as they are given to the model.
///
/// # Errors
/// If the model has no tokenizer, or its chat template refuses the prompt.
pub fn tokens(engine: &Engine, prompts: &[Labelled], is_chat: bool) -> Result<Vec<Vec<u32>>, CalibrateError> {
    let tokenizer = engine.tokenizer("prompts")?;
    let template = engine.chat_template().filter(|_| is_chat);
    let encode = |labelled: &Labelled| {
        Ok(match template {
            Some(template) => {
                let message = interleaf_model::ChatMessage::new("user", &labelled.prompt);
                // The template writes the special tokens itself.
                tokenizer.encode(&template.render(&[message], true)?, false)?
            }
            None => tokenizer.encode(&labelled.prompt, true)?,
        })
    };
    prompts.iter().map(encode).collect()
}

/// Which adapters prompts belong to.
pub(super) fn truth(prompts: &[Labelled]) -> Vec<Vec<usize>> {
    prompts.iter().map(|prompt| prompt.labels.clone()).collect()
}

/// What a head may look at in a model of so many layers: the first and the last state, quarters between them, and these
/// together.
fn looks(layers: usize, tokens: usize) -> Vec<Looks> {
    let mut quarters: Vec<usize> = (0..=4).map(|quarter| (quarter * layers + 2) / 4).collect();
    quarters.dedup();
    let mut sets: Vec<Vec<usize>> = quarters.iter().map(|layer| vec![*layer]).collect();
    sets.extend([vec![0, layers], vec![0, layers / 2, layers], quarters]);
    sets.iter_mut().for_each(Vec::dedup);
    let of = |layers: Vec<usize>| {
        Pooling::ALL.map(|pooling| Looks { layers: layers.clone(), pooling, tokens }).into_iter()
    };
    sets.into_iter().flat_map(of).collect()
}

struct Words<'a>(&'a Looks);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers: Vec<String> = self.0.layers.iter().map(ToString::to_string).collect();
        write!(f, "states {}, {}", layers.join("+"), self.0.pooling.name())
    }
}

/// Trains a head on prompts, of whose tokens it looks at the first `scored`. Adapters that are registered under a label's name are
/// the ones that it is then for, whatever they are called. The engine must have room for a sequence of so many tokens.
///
/// # Errors
/// If there are too few prompts, one has no tokens, or the engine fails.
pub fn train_router(
    engine: &mut Engine,
    prompts: &Prompts,
    is_chat: bool,
    scored: usize,
    progress: &mut dyn FnMut(Training),
) -> Result<TrainedRouter, CalibrateError> {
    let train = tokens(engine, &prompts.train, is_chat)?;
    let states = States::run(engine, &train, scored, &mut |done| progress(Training::Run(done, train.len())))?;
    let truth = truth(&prompts.train);
    let looks = looks(engine.config().layers, scored);
    let mut tried = Vec::with_capacity(looks.len());
    let mut best: Option<(&Looks, Choice)> = None;
    for (done, looks_at) in looks.iter().enumerate() {
        let rows = states.seen(looks_at);
        let examples = Examples { rows: &rows, truth: &truth, labels: prompts.labels.len() };
        let choice = choose("a router", examples, Scale::Standard)?;
        tried.push((Words(looks_at).to_string(), choice.loss, choice.top1));
        if best.as_ref().is_none_or(|(_, best)| choice.is_better_than(best)) {
            best = Some((looks_at, choice));
        }
        progress(Training::Tried(done + 1, looks.len()));
    }
    let none = || CalibrateError::Fit { what: "a router".into(), reason: "nothing was tried".into() };
    let (looks, choice) = best.ok_or_else(none)?;
    let rows = states.seen(looks);
    let examples = Examples { rows: &rows, truth: &truth, labels: prompts.labels.len() };
    let chosen = trained(Words(looks).to_string(), examples, &choice)?;
    let (weight, bias) = chosen.classifier.folded();
    let known =
        |name: &String| engine.adapters().find(|adapter| adapter.name == *name).map(|adapter| adapter.digest);
    let head = RouterHead {
        model: engine.model_digest(),
        origin: RouterOrigin {
            data: prompts.data.clone(),
            data_digest: prompts.digest,
            prompts: prompts.train.len(),
            is_chat: is_chat && engine.chat_template().is_some(),
        },
        looks: looks.clone(),
        temperature: chosen.temperature as f32,
        labels: prompts
            .labels
            .iter()
            .map(|name| RouterLabel { name: name.clone(), adapter: known(name) })
            .collect(),
        weight,
        bias,
    };
    Ok(TrainedRouter { head, chosen, tried })
}

/// The same of how often tokens occur, with the same care: the baseline. `others` are prompts that it will be asked of; what it
/// learns comes from `train` alone.
///
/// # Errors
/// If there are too few prompts.
pub(super) fn train_bags(
    train: &[Vec<u32>],
    others: &[Vec<u32>],
    truth: &[Vec<usize>],
    labels: usize,
) -> Result<(Trained, Vec<Vec<f32>>), CalibrateError> {
    let bags = Bags::new(train, others);
    let mut best: Option<(Count, Choice)> = None;
    for count in Count::ALL {
        let rows = bags.seen(count);
        for scale in [Scale::AsIs, Scale::Standard, Scale::Rareness] {
            let examples = Examples { rows: &rows[..train.len()], truth, labels };
            let choice = choose("a bag of tokens", examples, scale)?;
            if best.as_ref().is_none_or(|(_, best)| choice.is_better_than(best)) {
                best = Some((count, choice));
            }
        }
    }
    let none = || CalibrateError::Fit { what: "a bag of tokens".into(), reason: "nothing was tried".into() };
    let (count, choice) = best.ok_or_else(none)?;
    let mut rows = bags.seen(count);
    let examples = Examples { rows: &rows[..train.len()], truth, labels };
    let chosen = trained(count.to_string(), examples, &choice)?;
    Ok((chosen, rows.split_off(train.len())))
}

/// Fits to all examples what was chosen.
fn trained(looks: String, examples: Examples<'_>, choice: &Choice) -> Result<Trained, CalibrateError> {
    Ok(Trained {
        classifier: Classifier::fit(&looks, examples, choice)?,
        options: format!("{looks}, {}", choice.scale),
        penalty: choice.penalty,
        loss: choice.loss,
        top1: choice.top1,
        temperature: temperature(&choice.logits, examples.truth),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_at_is_lawful_in_models_of_any_depth() {
        for layers in [1, 2, 3, 6, 28] {
            for looks in looks(layers, 9) {
                let is_ascending = looks.layers.windows(2).all(|pair| pair[0] < pair[1]);
                assert!(is_ascending && looks.layers.last().is_some_and(|last| *last <= layers), "{looks:?}");
            }
        }
        let words: Vec<String> = looks(6, 9).iter().map(|looks| Words(looks).to_string()).collect();
        assert_eq!(
            (words.len(), &*words[0], &*words[23]),
            (24, "states 0, mean", "states 0+2+3+5+6, mean+last")
        );
    }
}
