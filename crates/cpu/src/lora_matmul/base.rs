//! The base product of one tile of outputs with every row of the batch.

use half::f16;
use interleaf_contract::{Matrix, Numerics, QUANT_BLOCK};
use rayon::prelude::*;

use crate::dot::{dot, dot_rows};
use crate::weight::{row_codes, rows_f32};

/// Outputs that are multiplied with a row at once, so that each load of x serves four products.
const WIDE: usize = 4;

/// The input rows, and their Q8_0 form where a job will multiply integers.
pub struct Activations<'a> {
    x: &'a [f32],
    rows: usize,
    codes: Vec<i8>,
    scales: Vec<f32>,
}

impl<'a> Activations<'a> {
    /// `x` is rows × in. With `integer`, rows are quantised too (`act=q8_0`, as in `kernels-ref`).
    pub fn new(x: &'a [f32], rows: usize, integer: bool) -> Self {
        let mut activations = Self { x, rows, codes: Vec::new(), scales: Vec::new() };
        if integer {
            activations.codes = vec![0; x.len()];
            activations.scales = vec![0.0; x.len() / QUANT_BLOCK];
            let codes = activations.codes.par_chunks_exact_mut(QUANT_BLOCK);
            let scales = activations.scales.par_iter_mut();
            codes.zip(scales).zip(x.par_chunks_exact(QUANT_BLOCK)).for_each(|((codes, scale), x)| {
                *scale = quantise(x, codes);
            });
        }
        activations
    }

    fn row(&self, row: usize, cols: usize) -> &[f32] {
        &self.x[row * cols..(row + 1) * cols]
    }
}

/// One block of 32; returns the scale as it is after its rounding to f16.
fn quantise(x: &[f32], codes: &mut [i8]) -> f32 {
    // A NaN stays: a block that has one must not pass for zeros.
    let largest = x.iter().fold(0.0f32, |m, v| if v.abs() <= m { m } else { v.abs() });
    let d = largest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    for (code, v) in codes.iter_mut().zip(x) {
        *code = (v * inverse).round() as i8;
    }
    f16::from_f32(d).to_f32()
}

/// A worker's decoded weight rows.
pub struct Scratch {
    weights: Vec<f32>,
    codes: Vec<i8>,
    scales: Vec<f32>,
}

impl Scratch {
    /// Scratch for the rows of `w`.
    pub fn new(w: &Matrix) -> Self {
        let quantised = if w.dtype().is_quantised() { w.cols() } else { 0 };
        Self {
            weights: vec![0.0; WIDE * w.cols()],
            codes: vec![0; quantised],
            scales: vec![0.0; quantised / QUANT_BLOCK],
        }
    }
}

/// `y[n][row] = x[row]·W[first + n]`; `y` is the tile's outputs × rows.
pub fn tile(
    activations: &Activations<'_>,
    w: &Matrix,
    numerics: Numerics,
    first: usize,
    y: &mut [f32],
    scratch: &mut Scratch,
) {
    if numerics == Numerics::ActQ8_0 && w.dtype().is_quantised() {
        integer(activations, w, first, y, scratch);
    } else {
        float(activations, w, first, y, scratch);
    }
}

fn float(activations: &Activations<'_>, w: &Matrix, first: usize, y: &mut [f32], scratch: &mut Scratch) {
    let (rows, cols) = (activations.rows, w.cols());
    for (group, y) in y.chunks_mut(WIDE * rows).enumerate() {
        let outputs = y.len() / rows;
        let weights = rows_f32(w, first + group * WIDE, &mut scratch.weights[..outputs * cols]);
        let weight = |i: usize| &weights[i * cols..(i + 1) * cols];
        if outputs == WIDE {
            let weights: [&[f32]; WIDE] = std::array::from_fn(weight);
            for row in 0..rows {
                let products = dot_rows(activations.row(row, cols), weights);
                for (i, product) in products.into_iter().enumerate() {
                    y[i * rows + row] = product;
                }
            }
        } else {
            for (i, y) in y.chunks_exact_mut(rows).enumerate() {
                for (row, y) in y.iter_mut().enumerate() {
                    *y = dot(activations.row(row, cols), weight(i));
                }
            }
        }
    }
}

fn integer(activations: &Activations<'_>, w: &Matrix, first: usize, y: &mut [f32], scratch: &mut Scratch) {
    let blocks = w.cols() / QUANT_BLOCK;
    for (i, y) in y.chunks_exact_mut(activations.rows).enumerate() {
        row_codes(w, first + i, &mut scratch.codes, &mut scratch.scales);
        for (row, y) in y.iter_mut().enumerate() {
            let codes = &activations.codes[row * w.cols()..(row + 1) * w.cols()];
            let scales = &activations.scales[row * blocks..(row + 1) * blocks];
            *y = integer_dot(codes, scales, &scratch.codes, &scratch.scales);
        }
    }
}

/// The exact integer sum of each block times both scales, blocks added in ascending order.
fn integer_dot(x: &[i8], x_scales: &[f32], w: &[i8], w_scales: &[f32]) -> f32 {
    let blocks = x.chunks_exact(QUANT_BLOCK).zip(w.chunks_exact(QUANT_BLOCK));
    let mut sum = 0.0;
    for ((x, w), (dx, dw)) in blocks.zip(x_scales.iter().zip(w_scales)) {
        let products: i32 = x.iter().zip(w).map(|(&x, &w)| i32::from(x) * i32::from(w)).sum();
        sum += products as f32 * (dx * dw);
    }
    sum
}
