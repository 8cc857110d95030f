//! What is done to features before they are fitted to: it is found on the examples alone that are fitted to.

use std::fmt;

/// How features are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Not at all.
    AsIs,
    /// Each to mean 0 and deviation 1.
    Standard,
    /// Each by the logarithm of how few examples have it, and then the example to length 1 (tf-idf, with the smoothed
    /// idf(t) = ln((1 + n)/(1 + df(t))) + 1 of scikit-learn).
    Rareness,
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsIs => "as they are",
            Self::Standard => "standardised",
            Self::Rareness => "by rareness, to length 1",
        })
    }
}

/// A scale that was found on examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaler {
    /// By feature: what is taken off, and what is multiplied by then.
    pub shift: Vec<f64>,
    pub factor: Vec<f64>,
    /// Whether an example then has length 1.
    is_unit: bool,
}

impl Scaler {
    /// Finds it on some examples.
    pub fn new(scale: Scale, rows: &[&[f32]]) -> Self {
        let features = rows.first().map_or(0, |row| row.len());
        let count = rows.len() as f64;
        let column = |at: usize| rows.iter().map(move |row| f64::from(row[at]));
        let (shift, factor) = (0..features)
            .map(|at| match scale {
                Scale::AsIs => (0.0, 1.0),
                Scale::Standard => {
                    let mean = column(at).sum::<f64>() / count;
                    let variance = column(at).map(|x| (x - mean).powi(2)).sum::<f64>() / count;
                    // What never changes says nothing.
                    (mean, if variance > 1e-12 { 1.0 / variance.sqrt() } else { 0.0 })
                }
                Scale::Rareness => {
                    let have = column(at).filter(|x| *x != 0.0).count() as f64;
                    (0.0, ((1.0 + count) / (1.0 + have)).ln() + 1.0)
                }
            })
            .unzip();
        Self { shift, factor, is_unit: scale == Scale::Rareness }
    }

    /// An example's features, scaled.
    pub fn apply(&self, row: &[f32]) -> Vec<f64> {
        let scaled = row.iter().zip(&self.shift).zip(&self.factor);
        let mut scaled: Vec<f64> = scaled.map(|((x, shift), by)| (f64::from(*x) - shift) * by).collect();
        let length = scaled.iter().map(|x| x * x).sum::<f64>().sqrt();
        if self.is_unit && length > 0.0 {
            scaled.iter_mut().for_each(|x| *x /= length);
        }
        scaled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scale_is_found_on_examples() {
        let rows: [&[f32]; 3] = [&[1.0, 5.0, 0.0], &[3.0, 5.0, 2.0], &[5.0, 5.0, 0.0]];
        let standard = Scaler::new(Scale::Standard, &rows);
        assert_eq!(standard.shift, [3.0, 5.0, 2.0 / 3.0]);
        let scaled = standard.apply(rows[2]);
        assert!((scaled[0] - 1.5_f64.sqrt()).abs() < 1e-12 && scaled[1] == 0.0);
        assert_eq!(Scaler::new(Scale::AsIs, &rows).apply(rows[1]), [3.0, 5.0, 2.0]);
        let rare = Scaler::new(Scale::Rareness, &rows).apply(&[0.0, 1.0, 1.0]);
        assert!((rare.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((rare[2] / rare[1] - (2.0_f64.ln() + 1.0)).abs() < 1e-12);
    }
}
