//! Products with matrices of few columns, in f32 on the host: what chunks at rest are predicted with. No kernel, since nothing
//! of it is part of a step; no weights, which are the backend's.

/// Columns of a panel, and rows that are multiplied with it at once: as many sums as registers hold everywhere.
const COLUMNS: usize = 8;
const ROWS: usize = 4;

/// A matrix, `inputs × outputs`, in panels of [`COLUMNS`] columns one behind the other, the last one filled up with zeros.
#[derive(Debug)]
pub struct Panels {
    inputs: usize,
    outputs: usize,
    values: Vec<f32>,
}

impl Panels {
    /// Of a matrix as `at(input, output)` has it.
    pub fn new(inputs: usize, outputs: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        let mut values = vec![0.0; inputs * outputs.next_multiple_of(COLUMNS)];
        for (panel, values) in values.chunks_exact_mut((inputs * COLUMNS).max(1)).enumerate() {
            for (input, row) in values.chunks_exact_mut(COLUMNS).enumerate() {
                let columns = panel * COLUMNS..outputs.min((panel + 1) * COLUMNS);
                columns.zip(row).for_each(|(output, value)| *value = at(input, output));
            }
        }
        Self { inputs, outputs, values }
    }

    /// Columns.
    pub const fn outputs(&self) -> usize {
        self.outputs
    }

    /// The product of `x`, rows of `width` values each, at most as many as the matrix has inputs, with as many of its first
    /// rows. Each sum is taken in one order, whatever the number of rows.
    pub fn times(&self, x: &[f32], width: usize) -> Vec<f32> {
        let rows = x.len().checked_div(width).unwrap_or(0);
        let used = width.min(self.inputs);
        let mut out = vec![0.0; rows * self.outputs];
        for (panel, values) in self.values.chunks_exact((self.inputs * COLUMNS).max(1)).enumerate() {
            let columns = panel * COLUMNS..self.outputs.min((panel + 1) * COLUMNS);
            for first in (0..rows).step_by(ROWS) {
                // Rows that are not there are the last one once more.
                let of = std::array::from_fn(|row| {
                    let row = (first + row).min(rows - 1);
                    &x[row * width..row * width + used]
                });
                let sums = product(of, values);
                for (row, sums) in (first..rows).zip(&sums) {
                    let out = &mut out[row * self.outputs..][columns.clone()];
                    out.copy_from_slice(&sums[..columns.len()]);
                }
            }
        }
        out
    }
}

fn product(x: [&[f32]; ROWS], panel: &[f32]) -> [[f32; COLUMNS]; ROWS] {
    let mut sums = [[0.0; COLUMNS]; ROWS];
    for (input, weights) in panel.chunks_exact(COLUMNS).enumerate().take(x[0].len()) {
        for (sums, x) in sums.iter_mut().zip(x) {
            let value = x[input];
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += value * weight;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_rows_and_columns() {
        let value = |i: usize, j: usize| (i * 31 + j * 17) as f32 % 7.0 - 3.0;
        for (rows, inputs, used, outputs) in [(1, 1, 1, 1), (4, 8, 8, 8), (5, 11, 11, 9), (7, 20, 6, 17)] {
            let panels = Panels::new(inputs, outputs, value);
            let x: Vec<f32> = (0..rows * used).map(|i| (i % 5) as f32 - 2.0).collect();
            let out = panels.times(&x, used);
            assert_eq!((out.len(), panels.outputs()), (rows * outputs, outputs));
            for row in 0..rows {
                for output in 0..outputs {
                    let sum: f32 = (0..used).map(|i| x[row * used + i] * value(i, output)).sum();
                    assert_eq!(out[row * outputs + output], sum, "{rows} {inputs} {used} {outputs}");
                }
            }
        }
        assert!(Panels::new(3, 2, value).times(&[], 3).is_empty());
    }
}
