//! Means, bases and maps of an adapter's differences, from the second moments of what was captured.
//!
//! Per layer, with X = [base's K before the rotary embedding, its V, 1] and d the difference of K or of V, T tokens in all:
//! the mean difference μ; the strongest eigenvectors of (d − μ)ᵀ(d − μ); W = (XᵀX + R)⁻¹Xᵀd, where R is diagonal with
//! 10⁻⁵ · T · max(variance of the input, 10⁻⁶) and 0 for the constant; and the strongest eigenvectors of
//! (d − XW)ᵀ(d − XW). What is fitted over all layers at once is in `joint`.
//!
//! Maps are rounded to f16, as a file has them, before what they leave is looked at.

mod joint;
mod linear;

use std::ops::Range;

use faer::{Mat, MatRef};
use interleaf_model::{HalfCalibration, JointCalibration, LayerCalibration, Model, ModelConfig};

use crate::moments::Moments;
use crate::turns::Turns;
use crate::{CalibrateError, Kv};
use joint::Joint;
pub use joint::{COMPARED, MOST_COLUMNS};
use linear::{SHARE, block, directions, left, narrow, rounded, row_major, solve};

/// The most directions in the basis of a layer's keys or values.
const RANK: usize = 64;

/// A channel's part of its layer's largest at least: one that was silent may speak later, and is then clipped.
const LEAST_OF_PROFILE: f32 = 1.0 / 256.0;

/// What has been captured so far.
#[derive(Debug)]
pub struct Fit {
    width: usize,
    layers: Vec<Moments>,
    profiles: Vec<Vec<f32>>,
    joint: Option<Joint>,
}

/// Everything that was fitted.
#[derive(Debug)]
pub struct Fitted {
    pub layers: Vec<LayerCalibration>,
    pub joint: Option<JointCalibration>,
    /// The same of fewer windows: every [`COMPARED`]-th was left out.
    pub joint_of_others: Option<JointCalibration>,
}

impl Fit {
    /// Of nothing yet.
    ///
    /// # Errors
    /// If the model's embedding cannot be read.
    pub fn new(model: &Model) -> Result<Self, CalibrateError> {
        let config = model.config();
        let width = width(config);
        Ok(Self {
            width,
            layers: (0..config.layers).map(|_| Moments::new(4 * width + 1)).collect(),
            profiles: vec![vec![0.0; width]; config.layers],
            joint: Joint::new(model)?,
        })
    }

    /// Adds a window's tokens and their caches under the base and under the adapter.
    pub fn add(&mut self, tokens: &[u32], base: &Kv, own: &Kv, turns: &Turns) {
        let width = self.width;
        let unturned = |kv: &Kv| -> Vec<[Vec<f32>; 2]> {
            let mut layers = kv.layers.clone();
            layers.iter_mut().enumerate().for_each(|(layer, [k, _])| turns.back(layer, k, width));
            layers
        };
        for (profile, [keys, _]) in self.profiles.iter_mut().zip(&base.layers) {
            for token in keys.chunks_exact(width) {
                profile.iter_mut().zip(token).for_each(|(most, k)| *most = most.max(k.abs()));
            }
        }
        let (base, own) = (unturned(base), unturned(own));
        for ((moments, base), own) in self.layers.iter_mut().zip(&base).zip(&own) {
            let mut rows = Vec::with_capacity(tokens.len() * (4 * width + 1));
            for token in 0..tokens.len() {
                let at = token * width..(token + 1) * width;
                base.iter().for_each(|half| push(&mut rows, &half[at.clone()]));
                rows.push(1.0);
                base.iter().zip(own).for_each(|(b, o)| push_difference(&mut rows, b, o, &at));
            }
            moments.add(&rows);
        }
        if let Some(joint) = &mut self.joint {
            joint.add(tokens, &base, &own, width);
        }
    }

    /// Fits everything.
    ///
    /// # Errors
    /// If the numbers are such that nothing can be fitted to them, as where a cache is not finite.
    pub fn finish(self) -> Result<Fitted, CalibrateError> {
        let width = self.width;
        let layers = self.layers.into_iter().zip(self.profiles).enumerate().map(|(i, (moments, profile))| {
            let (tokens, sum) = (moments.rows, moments.finish());
            let half = |name: &str, first: usize| {
                fit_half(&format!("{name} of layer {i}"), &sum, tokens, width, first..first + width)
            };
            let (k, v) = (half("K", 2 * width + 1)?, half("V", 3 * width + 1)?);
            let least = profile.iter().copied().fold(0.0, f32::max) * LEAST_OF_PROFILE;
            let profile = profile.into_iter().map(|most| most.max(least)).collect();
            Ok(LayerCalibration { profile, k, v })
        });
        let layers = layers.collect::<Result<_, CalibrateError>>()?;
        let joint = self.joint.map(|joint| joint.finish(width)).transpose()?;
        let [joint, joint_of_others] = joint.unwrap_or_default();
        Ok(Fitted { layers, joint, joint_of_others })
    }
}

/// Channels of K, or of V, in a layer.
pub const fn width(config: &ModelConfig) -> usize {
    config.kv_heads * config.head_dim
}

fn push(rows: &mut Vec<f64>, values: &[f32]) {
    rows.extend(values.iter().map(|v| f64::from(*v)));
}

fn push_difference(rows: &mut Vec<f64>, base: &[f32], own: &[f32], at: &Range<usize>) {
    let values = own[at.clone()].iter().zip(&base[at.clone()]);
    rows.extend(values.map(|(own, base)| f64::from(*own) - f64::from(*base)));
}

/// `sum`'s columns are 2 · width + 1 inputs, the last of them the constant, then the differences; `d` are those looked at.
fn fit_half(
    what: &str,
    sum: &Mat<f64>,
    tokens: usize,
    width: usize,
    d: Range<usize>,
) -> Result<HalfCalibration, CalibrateError> {
    let x = 0..2 * width + 1;
    let one = 2 * width;
    let mean: Vec<f32> = d.clone().map(|column| (sum[(one, column)] / tokens as f64) as f32).collect();
    let squares = block(sum, &d, &d);
    let about_mean = Mat::from_fn(width, width, |i, j| {
        let (i_mean, j_mean) = (f64::from(mean[i]), f64::from(mean[j]));
        let crossed = i_mean * sum[(one, d.start + j)] + j_mean * sum[(one, d.start + i)];
        squares[(i, j)] - crossed + tokens as f64 * i_mean * j_mean
    });
    let basis = directions(what, &about_mean, tokens, RANK.min(width))?;
    let (inputs, crossed) = (block(sum, &x, &x), block(sum, &x, &d));
    let prediction = row_major(solve(what, &inputs, &crossed, tokens, SHARE)?.as_ref());
    let prediction = rounded(what, &prediction)?;
    let map = MatRef::from_row_major_slice(&prediction, x.len(), width);
    let residual = directions(what, &left(&inputs, &crossed, &squares, map), tokens, RANK.min(width))?;
    Ok(HalfCalibration { mean, basis, prediction: narrow(&prediction), residual })
}
