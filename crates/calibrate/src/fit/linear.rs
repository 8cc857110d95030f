//! Linear maps and strongest directions, from matrices of moments. Knows no layers.

use std::ops::Range;

use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef, Side};
use half::f16;
use interleaf_model::Directions;

use crate::CalibrateError;

/// What of its variance is added to each input's square, where there are many times as many tokens as inputs.
pub const SHARE: f64 = 1e-5;

/// A block of a symmetric matrix of moments.
pub fn block(sum: &Mat<f64>, rows: &Range<usize>, columns: &Range<usize>) -> Mat<f64> {
    sum.as_ref().submatrix(rows.start, columns.start, rows.len(), columns.len()).to_owned()
}

/// W = (XᵀX + R)⁻¹Xᵀd, R a share of each input's variance. The last input is the constant, which has none.
pub fn solve(
    what: &str,
    inputs: &Mat<f64>,
    crossed: &Mat<f64>,
    tokens: usize,
    share: f64,
) -> Result<Mat<f64>, CalibrateError> {
    const LEAST_VARIANCE: f64 = 1e-6;
    let (one, count) = (inputs.ncols() - 1, tokens as f64);
    let mut regular = inputs.clone();
    for i in 0..one {
        let sum = inputs[(i, one)];
        let variance = (inputs[(i, i)] - sum * sum / count) / (count - 1.0).max(1.0);
        regular[(i, i)] += share * count * variance.max(LEAST_VARIANCE);
    }
    let factor = regular.llt(Side::Lower).map_err(|e| unfit(what, format!("{e:?}")))?;
    Ok(factor.solve(crossed))
}

/// (d − XM)ᵀ(d − XM), from XᵀX, Xᵀd and dᵀd.
pub fn left(inputs: &Mat<f64>, crossed: &Mat<f64>, squares: &Mat<f64>, map: MatRef<'_, f64>) -> Mat<f64> {
    let explained = map.transpose() * crossed;
    squares - &explained - explained.transpose() + map.transpose() * inputs * map
}

/// The strongest eigenvectors of `dᵀd` over so many tokens.
pub fn directions(
    what: &str,
    squares: &Mat<f64>,
    tokens: usize,
    rank: usize,
) -> Result<Directions, CalibrateError> {
    let width = squares.ncols();
    let eigen = squares.self_adjoint_eigen(Side::Lower).map_err(|e| unfit(what, format!("{e:?}")))?;
    let (values, vectors) = (eigen.S().column_vector(), eigen.U());
    let mut found = Directions { rows: Vec::with_capacity(rank * width), deviations: Vec::new() };
    // They come in ascending order.
    for i in (width - rank..width).rev() {
        let column: Vec<f64> = (0..width).map(|row| vectors[(row, i)]).collect();
        let largest = column.iter().fold(0.0f64, |kept, v| if v.abs() > kept.abs() { *v } else { kept });
        let sign = largest.signum();
        found.rows.extend(narrow(&rounded(what, &column)?).into_iter().map(|v| v * sign as f32));
        // Rounding leaves some of what is nothing a little below it.
        found.deviations.push((values[i].max(0.0) / tokens as f64).sqrt() as f32);
    }
    Ok(found)
}

/// The values as f16 has them.
pub fn rounded(what: &str, values: &[f64]) -> Result<Vec<f64>, CalibrateError> {
    let rounded = values.iter().map(|v| f16::from_f64(*v).to_f64());
    let rounded: Vec<f64> = rounded.collect();
    match values.iter().zip(&rounded).find(|(_, rounded)| !rounded.is_finite()) {
        Some((value, _)) => Err(unfit(what, format!("it would hold {value}, and f16 does not"))),
        None => Ok(rounded),
    }
}

pub fn row_major(matrix: MatRef<'_, f64>) -> Vec<f64> {
    (0..matrix.nrows()).flat_map(|i| (0..matrix.ncols()).map(move |j| matrix[(i, j)])).collect()
}

pub fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|v| *v as f32).collect()
}

pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn unfit(what: &str, reason: String) -> CalibrateError {
    CalibrateError::Fit { what: what.into(), reason }
}
