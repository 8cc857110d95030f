//! Second moments of many rows, added up window by window: all that means, bases and linear maps follow from, so that no
//! more than a window's rows is ever held.

use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::{Accum, Mat, MatRef, get_global_parallelism};

/// `Σ rowᵀ·row` in f64.
#[derive(Debug)]
pub struct Moments {
    /// Rows added.
    pub rows: usize,
    /// Columns × columns; the part above the diagonal is empty until [`Moments::finish`].
    sum: Mat<f64>,
}

impl Moments {
    /// Of no rows yet.
    pub fn new(columns: usize) -> Self {
        Self { rows: 0, sum: Mat::zeros(columns, columns) }
    }

    /// Adds rows, stored one after the other.
    pub fn add(&mut self, rows: &[f64]) {
        let columns = self.sum.ncols();
        let count = rows.len().checked_div(columns).unwrap_or(0);
        let rows = MatRef::from_row_major_slice(rows, count, columns);
        matmul(
            &mut self.sum,
            BlockStructure::TriangularLower,
            Accum::Add,
            rows.transpose(),
            BlockStructure::Rectangular,
            rows,
            BlockStructure::Rectangular,
            1.0,
            get_global_parallelism(),
        );
        self.rows += count;
    }

    /// The whole symmetric matrix.
    pub fn finish(mut self) -> Mat<f64> {
        let columns = self.sum.ncols();
        for column in 0..columns {
            for row in 0..column {
                self.sum[(row, column)] = self.sum[(column, row)];
            }
        }
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_add_up() {
        let mut moments = Moments::new(2);
        moments.add(&[1.0, 2.0]);
        moments.add(&[3.0, -1.0, 0.0, 1.0]);
        assert_eq!(moments.rows, 3);
        let sum = moments.finish();
        let all = [sum[(0, 0)], sum[(0, 1)], sum[(1, 0)], sum[(1, 1)]];
        assert_eq!(all, [10.0, -1.0, -1.0, 6.0]);
    }
}
