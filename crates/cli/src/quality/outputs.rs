//! How far outputs are from those over an exact cache, as every row of `interleaf quality` tells it and every table shows it.

use interleaf_calibrate::Divergence;
use serde::Serialize;

use crate::table::Align;

/// Columns of [`Means::cells`].
pub const COLUMNS: [(&str, Align); 5] = [
    ("KL, nats", Align::Right),
    ("p99", Align::Right),
    ("worst adapter", Align::Right),
    ("same top", Align::Right),
    ("perplexity", Align::Right),
];

/// One row's.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Outputs {
    /// Nats.
    pub kl_mean: f64,
    pub kl_p99: f64,
    /// Share of positions with the same most likely token.
    pub top1: f64,
    pub ppl_ratio: f64,
}

impl Outputs {
    pub fn new(divergence: &Divergence) -> Self {
        Self {
            kl_mean: divergence.mean(),
            kl_p99: divergence.quantile(0.99),
            top1: divergence.same_top,
            ppl_ratio: divergence.perplexity_ratio(),
        }
    }
}

/// Means over rows.
#[derive(Debug)]
pub struct Means {
    pub all: Outputs,
    /// The mean divergence of the adapter that has the largest.
    pub worst: f64,
}

impl Means {
    /// Of rows, each with its adapter's name; at least one.
    pub fn new<'a>(rows: impl Iterator<Item = (&'a str, Outputs)>) -> Self {
        let rows: Vec<(&str, Outputs)> = rows.collect();
        let of_adapter = |adapter: &str| {
            let own = rows.iter().filter(|(of, _)| *of == adapter);
            mean(own.map(|(_, outputs)| outputs.kl_mean))
        };
        let all = |of: fn(&Outputs) -> f64| mean(rows.iter().map(|(_, outputs)| of(outputs)));
        Self {
            all: Outputs {
                kl_mean: all(|outputs| outputs.kl_mean),
                kl_p99: all(|outputs| outputs.kl_p99),
                top1: all(|outputs| outputs.top1),
                ppl_ratio: all(|outputs| outputs.ppl_ratio),
            },
            worst: rows.iter().map(|(adapter, _)| of_adapter(adapter)).fold(0.0, f64::max),
        }
    }

    /// As [`COLUMNS`] names them.
    pub fn cells(&self) -> [String; 5] {
        [
            format!("{:.2e}", self.all.kl_mean),
            format!("{:.1e}", self.all.kl_p99),
            format!("{:.2e}", self.worst),
            format!("{:.2} %", 100.0 * self.all.top1),
            format!("× {:.4}", self.all.ppl_ratio),
        ]
    }
}

/// 0 of none.
pub fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0_f64), |(sum, count), value| (sum + value, count + 1.0));
    sum / count.max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_adapter_is_the_one_of_the_largest_mean() {
        let outputs = |kl_mean| Outputs { kl_mean, kl_p99: 3.0, top1: 1.0, ppl_ratio: 1.0 };
        let rows = [("a", outputs(1.0)), ("b", outputs(5.0)), ("b", outputs(0.0)), ("a", outputs(2.0))];
        let means = Means::new(rows.into_iter());
        assert_eq!((means.all.kl_mean, means.worst, means.all.kl_p99), (2.0, 2.5, 3.0));
    }
}
