//! Logistic regression by Newton's method, in the space of the examples: their inner products are all that is looked at, so
//! that it takes as long for ten features as for ten thousand. Knows no prompts.

use faer::linalg::solvers::Solve;
use faer::{Mat, Side};

use crate::CalibrateError;

/// The square of the gradient, over the number of examples, at which a fit is done.
const TOLERANCE: f64 = 1e-14;

/// More steps than any fit takes.
const MOST_STEPS: usize = 100;

/// The least weight of an example in a step, for those that the fit is sure of.
const LEAST_WEIGHT: f64 = 1e-9;

/// A fitted label: its logit is Σ_j `alpha`_j (x_j · x) + `bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// By example.
    pub alpha: Vec<f64>,
    pub bias: f64,
}

impl Fitted {
    /// One that is sure of nothing.
    pub fn nothing(examples: usize) -> Self {
        Self { alpha: vec![0.0; examples], bias: 0.0 }
    }

    /// The logits of the examples that it was fitted to.
    fn logits(&self, gram: &Mat<f64>) -> Vec<f64> {
        (0..gram.nrows()).map(|row| self.logit((0..gram.ncols()).map(|column| gram[(row, column)]))).collect()
    }

    /// The logit of what has these products with the examples.
    pub fn logit(&self, products: impl Iterator<Item = f64>) -> f64 {
        self.bias + self.alpha.iter().zip(products).map(|(alpha, product)| alpha * product).sum::<f64>()
    }
}

pub fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

/// The logit of a probability, within what f64 can tell from certainty.
pub fn logit(probability: f64) -> f64 {
    let inner = probability.clamp(f64::MIN_POSITIVE, 1.0 - f64::EPSILON);
    (inner / (1.0 - inner)).ln()
}

/// What being told the truth costs, in nats: −ln of the probability that it was given.
pub fn cross_entropy(logit: f64, is_true: bool) -> f64 {
    let against = if is_true { -logit } else { logit };
    against.max(0.0) + (-against.abs()).exp().ln_1p()
}

/// Minimises Σ cross-entropy + `penalty`/2 · |w|² over w and an unpenalised bias, from `start` on. `gram` has the inner products
/// of the examples; w = Σ alpha_j x_j.
///
/// Each step solves the weighted least squares that the loss is locally (iteratively reweighted least squares: Bishop, Pattern
/// Recognition and Machine Learning, 4.3.3; for products of examples Rasmussen and Williams, Gaussian Processes for Machine
/// Learning, algorithm 3.1), through a matrix whose eigenvalues are at least 1, and is halved until it lowers the loss.
///
/// # Errors
/// If the products are not numbers.
pub fn fit(
    what: &str,
    gram: &Mat<f64>,
    truth: &[bool],
    penalty: f64,
    start: Fitted,
) -> Result<Fitted, CalibrateError> {
    let unfit = |reason: String| CalibrateError::Fit { what: what.into(), reason };
    // With the same truth everywhere the best bias is infinite: it is as sure as one example more of either kind leaves it.
    let count = truth.iter().filter(|is_true| **is_true).count();
    if count == 0 || count == truth.len() {
        let bias = ((count + 1) as f64 / (truth.len() - count + 1) as f64).ln();
        return Ok(Fitted { bias, ..Fitted::nothing(truth.len()) });
    }
    let mut at = start;
    let mut logits = at.logits(gram);
    let mut loss = objective(&at, &logits, truth, penalty);
    for _ in 0..MOST_STEPS {
        if gradient(gram, &at, &logits, truth, penalty) <= TOLERANCE * truth.len() as f64 {
            return Ok(at);
        }
        let aim = step(what, gram, &logits, truth, penalty)?;
        let mut share = 1.0;
        loop {
            let blend = |from: f64, to: f64| from + share * (to - from);
            let alpha = at.alpha.iter().zip(&aim.alpha).map(|(from, to)| blend(*from, *to)).collect();
            let next = Fitted { alpha, bias: blend(at.bias, aim.bias) };
            let next_logits = next.logits(gram);
            let next_loss = objective(&next, &next_logits, truth, penalty);
            if next_loss < loss {
                (at, logits, loss) = (next, next_logits, next_loss);
                break;
            }
            share *= 0.5;
            if !loss.is_finite() {
                return Err(unfit("the features are not numbers".into()));
            }
            // As low as rounding lets it be seen.
            if share < 1e-6 {
                return Ok(at);
            }
        }
    }
    Err(unfit(format!("not done after {MOST_STEPS} steps")))
}

/// Σ cross-entropy + penalty/2 · |w|², of which |w|² = αᵀ·G·α.
fn objective(at: &Fitted, logits: &[f64], truth: &[bool], penalty: f64) -> f64 {
    let losses = logits.iter().zip(truth).map(|(logit, is_true)| cross_entropy(*logit, *is_true));
    let squared: f64 = at.alpha.iter().zip(logits).map(|(alpha, logit)| alpha * (logit - at.bias)).sum();
    losses.sum::<f64>() + 0.5 * penalty * squared
}

/// The square of the objective's gradient by w and the bias: by w it is Σ_j r_j x_j with r = p − t + penalty · α.
fn gradient(gram: &Mat<f64>, at: &Fitted, logits: &[f64], truth: &[bool], penalty: f64) -> f64 {
    let surprise: Vec<f64> =
        logits.iter().zip(truth).map(|(logit, is_true)| sigmoid(*logit) - f64::from(*is_true)).collect();
    let left: Vec<f64> = surprise.iter().zip(&at.alpha).map(|(s, alpha)| s + penalty * alpha).collect();
    let column = Mat::from_fn(left.len(), 1, |row, _| left[row]);
    let by_weights = (column.transpose() * gram * &column)[(0, 0)];
    by_weights.max(0.0) + surprise.iter().sum::<f64>().powi(2)
}

/// Where the local least squares have their minimum: with weights W = p(1 − p) and targets z = f + W⁻¹(t − p),
/// α = M(z − b·1) and b = 1ᵀMz / 1ᵀM1, M = W^½ (penalty + W^½ G W^½)⁻¹ W^½.
fn step(
    what: &str,
    gram: &Mat<f64>,
    logits: &[f64],
    truth: &[bool],
    penalty: f64,
) -> Result<Fitted, CalibrateError> {
    let count = truth.len();
    let weight = |logit: &f64| (sigmoid(*logit) * (1.0 - sigmoid(*logit))).max(LEAST_WEIGHT);
    let roots: Vec<f64> = logits.iter().map(|logit| weight(logit).sqrt()).collect();
    let scaled = Mat::from_fn(count, count, |i, j| {
        let diagonal = if i == j { 1.0 } else { 0.0 };
        diagonal + roots[i] * gram[(i, j)] * roots[j] / penalty
    });
    let factor = scaled.llt(Side::Lower).map_err(|e| CalibrateError::Fit {
        what: what.into(),
        reason: format!("the features are not numbers, or too large: {e:?}"),
    })?;
    // W^½ z and W^½ 1.
    let target = |row: usize| {
        let surprise = f64::from(truth[row]) - sigmoid(logits[row]);
        roots[row] * logits[row] + surprise / roots[row]
    };
    let sides = Mat::from_fn(count, 2, |row, column| if column == 0 { target(row) } else { roots[row] });
    let solved = factor.solve(&sides);
    let mapped = |row: usize, column: usize| roots[row] * solved[(row, column)] / penalty;
    let total = |column: usize| (0..count).map(|row| mapped(row, column)).sum::<f64>();
    let bias = total(0) / total(1);
    Ok(Fitted { alpha: (0..count).map(|row| mapped(row, 0) - bias * mapped(row, 1)).collect(), bias })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two clouds of points that a line parts, but for two of them.
    fn examples() -> (Vec<[f64; 2]>, Vec<bool>) {
        let point = |i: usize| {
            let (x, y) = ((i as f64 * 0.7).sin(), (i as f64 * 1.3).cos());
            let side = if i.is_multiple_of(2) { 1.5 } else { -1.5 };
            [x + side, y]
        };
        let truth = (0..40).map(|i: usize| i.is_multiple_of(2) != (i == 6 || i == 9)).collect();
        ((0..40).map(point).collect(), truth)
    }

    fn gram(points: &[[f64; 2]]) -> Mat<f64> {
        Mat::from_fn(points.len(), points.len(), |i, j| {
            points[i][0] * points[j][0] + points[i][1] * points[j][1]
        })
    }

    /// The gradient by w and the bias, from the features themselves.
    fn gradient(points: &[[f64; 2]], truth: &[bool], penalty: f64, found: &Fitted) -> [f64; 3] {
        let w = |at: usize| points.iter().zip(&found.alpha).map(|(x, alpha)| alpha * x[at]).sum::<f64>();
        let w = [w(0), w(1)];
        let mut gradient = [penalty * w[0], penalty * w[1], 0.0];
        for (x, is_true) in points.iter().zip(truth) {
            let surprise = sigmoid(w[0] * x[0] + w[1] * x[1] + found.bias) - f64::from(*is_true);
            for (sum, factor) in gradient.iter_mut().zip([x[0], x[1], 1.0]) {
                *sum += surprise * factor;
            }
        }
        gradient
    }

    #[test]
    fn nothing_pulls_at_the_minimum() {
        let (points, truth) = examples();
        let gram = gram(&points);
        for penalty in [1e-4, 0.1, 10.0] {
            let found = fit("a test", &gram, &truth, penalty, Fitted::nothing(40)).unwrap();
            let gradient = gradient(&points, &truth, penalty, &found);
            assert!(gradient.iter().all(|part| part.abs() < 1e-6), "{penalty}: {gradient:?}");
        }
    }

    #[test]
    fn it_is_the_same_from_wherever_it_starts_and_each_time() {
        let (points, truth) = examples();
        let gram = gram(&points);
        let from = |start: Fitted| fit("a test", &gram, &truth, 0.3, start).unwrap();
        let (one, again) = (from(Fitted::nothing(40)), from(Fitted::nothing(40)));
        assert_eq!(one, again);
        let other = from(Fitted { alpha: vec![0.2; 40], bias: -1.0 });
        assert!((one.bias - other.bias).abs() < 1e-6);
        let [one, other] = [one, other].map(|fitted| fitted.logits(&gram));
        assert!(one.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn what_can_be_parted_is() {
        let (points, _) = examples();
        let truth: Vec<bool> = (0..40_usize).map(|i| i.is_multiple_of(2)).collect();
        let gram = gram(&points);
        let found = fit("a test", &gram, &truth, 1e-3, Fitted::nothing(40)).unwrap();
        let logits = found.logits(&gram);
        assert!(logits.iter().zip(&truth).all(|(logit, is_true)| (*logit > 0.0) == *is_true));
        let one_kind = fit("a test", &gram, &[true; 40], 1.0, Fitted::nothing(40)).unwrap();
        assert!((sigmoid(one_kind.bias) - 41.0 / 42.0).abs() < 1e-12 && one_kind.alpha == [0.0; 40]);
    }

    #[test]
    fn features_that_are_no_numbers_are_refused() {
        let (points, truth) = examples();
        let mut gram = gram(&points);
        gram[(3, 4)] = f64::NAN;
        let error = fit("a label", &gram, &truth, 1.0, Fitted::nothing(40)).unwrap_err().to_string();
        assert!(error.contains("a label cannot be fitted"), "{error}");
    }

    #[test]
    fn surprise_is_counted_without_overflow() {
        assert!((cross_entropy(0.0, true) - 2.0_f64.ln()).abs() < 1e-12);
        assert_eq!((cross_entropy(800.0, true), cross_entropy(800.0, false)), (0.0, 800.0));
        assert!((cross_entropy(2.0, false) + (1.0 - sigmoid(2.0)).ln()).abs() < 1e-12);
    }
}
