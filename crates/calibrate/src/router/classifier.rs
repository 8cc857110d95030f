//! One logistic regression for each label, over features that are scaled, and how its options are chosen: by parting the
//! examples that it is trained on, never by others.

use faer::{Mat, MatRef};
use interleaf_model::Digest;

use super::fit::{Fitted, cross_entropy, fit};
use super::scale::{Scale, Scaler};
use crate::CalibrateError;

/// Into how many parts examples are parted, each of which is predicted by what was fitted to the others.
pub const PARTS: usize = 5;

/// Penalties that are tried, as shares of an example's mean square, from much to little: |w|² is then penalised by as much
/// whatever features there are.
pub const PENALTIES: [f64; 7] = [0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4];

/// What an example's mean square counts as at least, where features say nothing.
const LEAST_SQUARE: f64 = 1e-12;

/// What decides how examples are parted.
const SEED: &str = "parts of a router's examples";

/// Examples: what each looks like, and what is true of it.
#[derive(Debug, Clone, Copy)]
pub struct Examples<'a> {
    /// Examples × features.
    pub rows: &'a [Vec<f32>],
    /// Examples × labels that are true of each.
    pub truth: &'a [Vec<usize>],
    /// How many labels there are.
    pub labels: usize,
}

/// A logistic regression for each label.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    scaler: Scaler,
    /// Features × labels, over scaled features.
    weights: Mat<f64>,
    /// By label.
    bias: Vec<f64>,
}

/// A choice of options, and how good it was where it had not looked.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    pub scale: Scale,
    /// Of [`PENALTIES`].
    pub penalty: f64,
    /// Mean cross-entropy over examples and labels, in nats.
    pub loss: f64,
    /// How often the likeliest label is true.
    pub top1: f64,
    /// Examples × labels: each by what was fitted to other parts.
    pub logits: Vec<Vec<f64>>,
}

impl Choice {
    /// Whether it is the better one: right more often, which is what is asked of it, and of those that are as often right the one
    /// that is less surprised.
    pub fn is_better_than(&self, other: &Self) -> bool {
        self.top1.total_cmp(&other.top1).then(other.loss.total_cmp(&self.loss)).is_gt()
    }
}

impl Classifier {
    /// Fits it.
    ///
    /// # Errors
    /// If the features are not numbers.
    pub fn fit(what: &str, examples: Examples<'_>, choice: &Choice) -> Result<Self, CalibrateError> {
        let all: Vec<usize> = (0..examples.rows.len()).collect();
        let mut found = None;
        path(what, examples, &all, choice.scale, &[choice.penalty], &mut |_, classifier| {
            found = Some(classifier);
        })?;
        found
            .ok_or_else(|| CalibrateError::Fit { what: what.into(), reason: "there are no penalties".into() })
    }

    /// The logits of what looks like this.
    pub fn logits(&self, row: &[f32]) -> Vec<f64> {
        let scaled = self.scaler.apply(row);
        let product = MatRef::from_row_major_slice(&scaled, 1, scaled.len()) * &self.weights;
        self.bias.iter().enumerate().map(|(label, bias)| bias + product[(0, label)]).collect()
    }

    /// Labels × features and biases, over features that are not scaled, by a scale that is none of lengths.
    pub fn folded(&self) -> (Vec<f32>, Vec<f32>) {
        let Scaler { shift, factor, .. } = &self.scaler;
        let labels = 0..self.bias.len();
        let weight = |label: usize| (0..shift.len()).map(move |at| self.weights[(at, label)] * factor[at]);
        let bias = labels.clone().map(|label| {
            let shifted: f64 = weight(label).zip(shift).map(|(weight, shift)| weight * shift).sum();
            (self.bias[label] - shifted) as f32
        });
        (labels.clone().flat_map(|label| weight(label).map(|weight| weight as f32)).collect(), bias.collect())
    }
}

/// Fits classifiers to some of the examples, one for each penalty, from much to little, each from where the last one ended.
fn path(
    what: &str,
    examples: Examples<'_>,
    places: &[usize],
    scale: Scale,
    penalties: &[f64],
    take: &mut dyn FnMut(usize, Classifier),
) -> Result<(), CalibrateError> {
    let rows: Vec<&[f32]> = places.iter().map(|at| examples.rows[*at].as_slice()).collect();
    let scaler = Scaler::new(scale, &rows);
    let scaled: Vec<f64> = rows.iter().flat_map(|row| scaler.apply(row)).collect();
    let features = scaler.shift.len();
    let matrix = MatRef::from_row_major_slice(&scaled, rows.len(), features);
    let gram = matrix * matrix.transpose();
    let mean = (0..rows.len()).map(|at| gram[(at, at)]).sum::<f64>() / rows.len().max(1) as f64;
    let truth: Vec<Vec<bool>> = (0..examples.labels)
        .map(|label| places.iter().map(|at| examples.truth[*at].contains(&label)).collect())
        .collect();
    let mut fitted = vec![Fitted::nothing(rows.len()); examples.labels];
    for (place, share) in penalties.iter().enumerate() {
        for (fitted, truth) in fitted.iter_mut().zip(&truth) {
            let penalty = share * mean.max(LEAST_SQUARE);
            *fitted = fit(what, &gram, truth, penalty, fitted.clone())?;
        }
        let alpha = Mat::from_fn(rows.len(), examples.labels, |row, label| fitted[label].alpha[row]);
        let weights = matrix.transpose() * alpha;
        let bias = fitted.iter().map(|fitted| fitted.bias).collect();
        take(place, Classifier { scaler: scaler.clone(), weights, bias });
    }
    Ok(())
}

/// Chooses the penalty by how well parts of the examples are predicted that were not fitted to: the least cross-entropy.
///
/// # Errors
/// If there are fewer examples than parts, or features are not numbers.
pub fn choose(what: &str, examples: Examples<'_>, scale: Scale) -> Result<Choice, CalibrateError> {
    let parts = parts(examples)?;
    let mut logits = vec![vec![Vec::new(); examples.rows.len()]; PENALTIES.len()];
    for part in 0..PARTS {
        let fitted_to: Vec<usize> = (0..parts.len()).filter(|at| parts[*at] != part).collect();
        path(what, examples, &fitted_to, scale, &PENALTIES, &mut |place, classifier| {
            for at in (0..parts.len()).filter(|at| parts[*at] == part) {
                logits[place][at] = classifier.logits(&examples.rows[at]);
            }
        })?;
    }
    let choices = PENALTIES.into_iter().zip(logits).map(|(penalty, logits)| Choice {
        scale,
        penalty,
        loss: mean_loss(&logits, examples.truth, 1.0),
        top1: top(&logits, examples.truth, 1),
        logits,
    });
    let best = choices.min_by(|a, b| a.loss.total_cmp(&b.loss));
    best.ok_or_else(|| CalibrateError::Fit { what: what.into(), reason: "there are no penalties".into() })
}

/// The part that each example is in: those of a label are spread evenly, in an order drawn at random.
fn parts(examples: Examples<'_>) -> Result<Vec<usize>, CalibrateError> {
    let count = examples.rows.len();
    if count < PARTS {
        return Err(CalibrateError::Fit {
            what: "a router".into(),
            reason: format!("there are {count} prompts to train on, and at least {PARTS} are needed"),
        });
    }
    let mut order: Vec<usize> = (0..count).collect();
    let drawn = |at: &usize| *Digest::of_bytes(format!("{SEED}, {at}").as_bytes()).as_bytes();
    order.sort_by_cached_key(|at| (examples.truth[*at].clone(), drawn(at)));
    let mut parts = vec![0; count];
    order.into_iter().enumerate().for_each(|(place, at)| parts[at] = place % PARTS);
    Ok(parts)
}

/// Mean cross-entropy over examples and labels, in nats, of logits that are divided by a temperature.
pub fn mean_loss(logits: &[Vec<f64>], truth: &[Vec<usize>], temperature: f64) -> f64 {
    let of = |(logits, truth): (&Vec<f64>, &Vec<usize>)| {
        let losses = logits.iter().enumerate();
        losses.map(|(label, logit)| cross_entropy(logit / temperature, truth.contains(&label))).sum::<f64>()
    };
    let count: usize = logits.iter().map(Vec::len).sum();
    logits.iter().zip(truth).map(of).sum::<f64>() / count.max(1) as f64
}

/// How often one of the `k` likeliest labels is true.
pub fn top(scores: &[Vec<f64>], truth: &[Vec<usize>], k: usize) -> f64 {
    let hits = scores
        .iter()
        .zip(truth)
        .filter(|(scores, truth)| ranked(scores).into_iter().take(k).any(|label| truth.contains(&label)));
    hits.count() as f64 / scores.len().max(1) as f64
}

/// Labels from the likeliest to the least likely; of equals the first goes first.
pub fn ranked(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order
}

/// The temperature under which logits have the least cross-entropy: between e⁻³ and e³, by golden section over its logarithm,
/// in which the loss has one minimum (Guo et al., On Calibration of Modern Neural Networks, 2017, section 4.2).
pub fn temperature(logits: &[Vec<f64>], truth: &[Vec<usize>]) -> f64 {
    const STEPS: usize = 60;
    let loss = |log: f64| mean_loss(logits, truth, log.exp());
    let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (-3.0, 3.0);
    for _ in 0..STEPS {
        let width = golden * (high - low);
        if loss(high - width) < loss(low + width) { high = low + width } else { low = high - width }
    }
    ((low + high) / 2.0_f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three clouds, a label each, and a feature that says nothing.
    fn clouds() -> (Vec<Vec<f32>>, Vec<Vec<usize>>) {
        let row = |i: usize| {
            let (x, y) = [(2.0, 0.0), (-1.0, 2.0), (-1.0, -2.0)][i % 3];
            let noise = |by: f32| (i as f32 * by).sin();
            vec![x + noise(0.7), y + noise(1.9), 100.0 * noise(2.3)]
        };
        ((0..60).map(row).collect(), (0..60).map(|i| vec![i % 3]).collect())
    }

    #[test]
    fn clouds_are_told_apart_and_the_same_each_time() {
        let (rows, truth) = clouds();
        let examples = Examples { rows: &rows, truth: &truth, labels: 3 };
        let choice = choose("clouds", examples, Scale::Standard).unwrap();
        assert!(choice.top1 > 0.95 && choice.loss < 0.2, "{} {}", choice.top1, choice.loss);
        assert_eq!(choose("clouds", examples, Scale::Standard).unwrap(), choice);
        let classifier = Classifier::fit("clouds", examples, &choice).unwrap();
        assert_eq!(Classifier::fit("clouds", examples, &choice).unwrap(), classifier);
        let logits: Vec<Vec<f64>> = rows.iter().map(|row| classifier.logits(row)).collect();
        assert!(top(&logits, &truth, 1) > 0.95);
        // The same without the scale.
        let (weight, bias) = classifier.folded();
        for (row, logits) in rows.iter().zip(&logits) {
            for (label, logit) in logits.iter().enumerate() {
                let product: f32 = weight[3 * label..][..3].iter().zip(row).map(|(w, x)| w * x).sum();
                assert!((f64::from(product + bias[label]) - logit).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn parts_are_even_in_every_label() {
        let (rows, truth) = clouds();
        let parts = parts(Examples { rows: &rows, truth: &truth, labels: 3 }).unwrap();
        for label in 0..3 {
            for part in 0..PARTS {
                let count = (0..60).filter(|at| at % 3 == label && parts[*at] == part).count();
                assert_eq!(count, 4);
            }
        }
        let few = Examples { rows: &rows[..4], truth: &truth[..4], labels: 3 };
        assert!(choose("few", few, Scale::AsIs).unwrap_err().to_string().contains("at least 5"));
    }

    #[test]
    fn a_temperature_makes_up_for_what_is_too_sure() {
        // Three in four are right, whatever is said.
        let truth: Vec<Vec<usize>> = (0..40).map(|i| if i % 4 == 0 { vec![] } else { vec![0] }).collect();
        let found = temperature(&vec![vec![6.0]; 40], &truth);
        assert!((found - 6.0 / 3.0_f64.ln()).abs() < 1e-6, "{found}");
    }

    #[test]
    fn one_true_label_among_the_likeliest_is_enough() {
        let scores = [vec![0.1, 0.9, 0.5], vec![0.3, 0.3, 0.2], vec![0.0, 0.0, 1.0]];
        let truth = [vec![2], vec![0, 2], vec![]];
        let tops: Vec<f64> = (1..=3).map(|k| top(&scores, &truth, k)).collect();
        assert_eq!(tops, [1.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0]);
    }
}
