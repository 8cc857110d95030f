//! One map from the base's K and V of all layers, and the token's embedding, to the differences of all layers.
//!
//! Each matrix of differences is divided by its size, the root of its mean square, so that no layer counts for more than
//! another. There are hardly more tokens than a few times the inputs, so that how much is added to the inputs' variances
//! matters: it is the one of [`SHARES`] whose map, fitted to the other windows, leaves least of every fourth one. Of the map
//! that is then fitted to all windows the strongest directions of its outputs are kept, and of what these leave the strongest
//! directions are the residual's basis. The map that was fitted to the others alone is kept for the measuring of what such a
//! map costs texts that it has not seen.

use faer::{Mat, MatRef};
use interleaf_contract::Matrix;
use interleaf_kernels_ref::weight;
use interleaf_model::{JointCalibration, Model, WeightFormat};

use super::linear::{block, directions, left, narrow, rounded, row_major, solve, widen};
use super::{push, push_difference, width};
use crate::CalibrateError;
use crate::moments::Moments;

/// The most columns of the map, and directions in its residual's basis.
const RANK: usize = 128;

/// The most inputs and outputs together of a map over all layers: more take minutes, and gigabytes, to fit.
pub const MOST_COLUMNS: usize = 6144;

/// Shares of the inputs' variances that are tried.
const SHARES: [f64; 5] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1];

/// Every so-manieth window is what shares are compared on.
pub const COMPARED: usize = 4;

/// For messages.
const WHAT: &str = "the joint map";

/// What has been captured so far.
#[derive(Debug)]
pub struct Joint {
    embedding: Matrix,
    outputs: usize,
    windows: usize,
    /// Their columns are the inputs, the last of them the constant, then the outputs.
    fitted: Moments,
    compared: Moments,
}

/// Moments of inputs and of scaled outputs.
struct Blocks {
    tokens: usize,
    inputs: Mat<f64>,
    crossed: Mat<f64>,
    squares: Mat<f64>,
}

impl Joint {
    /// Of nothing yet; `None` of a model that is too wide.
    pub fn new(model: &Model) -> Result<Option<Self>, CalibrateError> {
        let config = model.config();
        let outputs = 2 * config.layers * width(config);
        let columns = 2 * outputs + config.hidden_size + 1;
        if columns > MOST_COLUMNS {
            return Ok(None);
        }
        Ok(Some(Self {
            embedding: model.embedding(WeightFormat::Stored)?,
            outputs,
            windows: 0,
            fitted: Moments::new(columns),
            compared: Moments::new(columns),
        }))
    }

    /// Adds a window's tokens and their caches, keys turned back.
    pub fn add(&mut self, tokens: &[u32], base: &[[Vec<f32>; 2]], own: &[[Vec<f32>; 2]], width: usize) {
        let mut embedded = vec![0.0; self.embedding.cols()];
        let mut rows = Vec::new();
        for (token, id) in tokens.iter().enumerate() {
            let at = token * width..(token + 1) * width;
            base.iter().flatten().for_each(|half| push(&mut rows, &half[at.clone()]));
            weight::decode_row(&self.embedding, *id as usize, &mut embedded);
            push(&mut rows, &embedded);
            rows.push(1.0);
            let halves = base.iter().flatten().zip(own.iter().flatten());
            halves.for_each(|(base, own)| push_difference(&mut rows, base, own, &at));
        }
        self.windows += 1;
        let is_compared = self.windows.is_multiple_of(COMPARED);
        if is_compared { self.compared.add(&rows) } else { self.fitted.add(&rows) }
    }

    /// Fits the map and its residual's basis: to all windows, and to those that shares were not compared on, if there are any
    /// others.
    pub fn finish(self, width: usize) -> Result<[Option<JointCalibration>; 2], CalibrateError> {
        let counts = [self.fitted.rows, self.compared.rows];
        let (fitted, compared) = (self.fitted.finish(), self.compared.finish());
        let (outputs, tokens) = (self.outputs, counts[0] + counts[1]);
        let first = fitted.ncols() - outputs;
        let scale = |matrix: usize| {
            let columns = first + matrix * width..first + (matrix + 1) * width;
            let energy: f64 = columns.map(|i| fitted[(i, i)] + compared[(i, i)]).sum();
            (energy / (tokens * width) as f64).sqrt() as f32
        };
        let scales: Vec<f32> = (0..outputs / width).map(scale).collect();
        let [fitted, compared] = [(fitted, counts[0]), (compared, counts[1])]
            .map(|(sum, rows)| Blocks::new(&sum, rows, &scales, width));
        let share = best_share(&fitted, &compared)?;
        let all = fitted.and(&compared).map(&scales, share)?;
        let is_parted = fitted.tokens > 0 && compared.tokens > 0;
        let part = if is_parted { Some(fitted.map(&scales, share)?) } else { None };
        Ok([Some(all), part])
    }
}

/// The share whose map leaves least of what it was not fitted to; the least of all where there is nothing to compare on.
fn best_share(fitted: &Blocks, compared: &Blocks) -> Result<f64, CalibrateError> {
    let (mut best, mut least) = (SHARES[0], f64::INFINITY);
    if fitted.tokens == 0 || compared.tokens == 0 {
        return Ok(best);
    }
    for share in SHARES {
        let map = solve(WHAT, &fitted.inputs, &fitted.crossed, fitted.tokens, share)?;
        let left = compared.left_of(&map);
        if left < least {
            (best, least) = (share, left);
        }
    }
    Ok(best)
}

impl Blocks {
    fn new(sum: &Mat<f64>, tokens: usize, scales: &[f32], width: usize) -> Self {
        let outputs = scales.len() * width;
        let first = sum.ncols() - outputs;
        let inverse = |output: usize| {
            let scale = f64::from(scales[output / width]);
            if scale > 0.0 { 1.0 / scale } else { 0.0 }
        };
        Self {
            tokens,
            inputs: block(sum, &(0..first), &(0..first)),
            crossed: Mat::from_fn(first, outputs, |i, j| sum[(i, first + j)] * inverse(j)),
            squares: Mat::from_fn(outputs, outputs, |i, j| {
                sum[(first + i, first + j)] * inverse(i) * inverse(j)
            }),
        }
    }

    fn and(&self, other: &Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            inputs: &self.inputs + &other.inputs,
            crossed: &self.crossed + &other.crossed,
            squares: &self.squares + &other.squares,
        }
    }

    /// The strongest columns of the map that is fitted to these, and where what it leaves lies.
    fn map(&self, scales: &[f32], share: f64) -> Result<JointCalibration, CalibrateError> {
        let (first, outputs) = (self.inputs.ncols(), self.squares.ncols());
        let full = solve(WHAT, &self.inputs, &self.crossed, self.tokens, share)?;
        let predicted = full.transpose() * &self.inputs * &full;
        let rank = RANK.min(outputs);
        let kept = directions(WHAT, &predicted, self.tokens, rank)?;
        let up = widen(&kept.rows);
        let up_matrix = MatRef::from_row_major_slice(&up, rank, outputs);
        let down = rounded(WHAT, &row_major((&full * up_matrix.transpose()).as_ref()))?;
        let map = MatRef::from_row_major_slice(&down, first, rank) * up_matrix;
        let left = left(&self.inputs, &self.crossed, &self.squares, map.as_ref());
        let residual = directions(WHAT, &left, self.tokens, rank)?;
        Ok(JointCalibration { down: narrow(&down), up: kept.rows, scales: scales.to_vec(), residual })
    }

    /// The squares that a map leaves, of all outputs together.
    fn left_of(&self, map: &Mat<f64>) -> f64 {
        let through = &self.inputs * map;
        let columns = 0..map.ncols();
        let product =
            |a: &Mat<f64>, b: &Mat<f64>, j: usize| (0..a.nrows()).map(|i| a[(i, j)] * b[(i, j)]).sum::<f64>();
        columns
            .map(|j| self.squares[(j, j)] - 2.0 * product(map, &self.crossed, j) + product(map, &through, j))
            .sum()
    }
}
