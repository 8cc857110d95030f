//! How much a chunk is attended to: sums of what steps measure, and their mean. Plain numbers; what follows from them is
//! `tolerance`'s.

use interleaf_contract::CHUNK_TOKENS;

/// How much a chunk was attended to by those that can see it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Attention {
    /// The weight that its tokens got.
    mass: f64,
    /// Pairs of one of its tokens and a row that sees it.
    seen: f64,
}

impl Attention {
    /// Takes in the weight that `rows` rows from position `first` on gave the tokens of a context's chunk, where each row sees the
    /// last `window` tokens up to itself, or all.
    pub fn add(&mut self, mass: f32, chunk: usize, first: usize, rows: usize, window: Option<usize>) {
        let seen = seen(chunk, first, rows, window);
        // What no row sees has nothing to get.
        if seen > 0 && mass.is_finite() {
            self.mass += f64::from(mass.max(0.0));
            self.seen += seen as f64;
        }
    }

    /// Takes in what others gave.
    pub fn join(&mut self, other: Self) {
        self.mass += other.mass;
        self.seen += other.seen;
    }

    /// The mean weight that a token gets from one that can see it.
    pub fn density(self) -> Option<f64> {
        (self.seen > 0.0).then(|| self.mass / self.seen)
    }
}

/// Pairs of a token of a chunk and a row that sees it.
fn seen(chunk: usize, first: usize, rows: usize, window: Option<usize>) -> usize {
    let (start, end) = (chunk * CHUNK_TOKENS, (chunk + 1) * CHUNK_TOKENS);
    let sees = |row: usize| {
        let oldest = window.map_or(0, |window| (row + 1).saturating_sub(window));
        (row + 1).min(end).saturating_sub(oldest.max(start))
    };
    // Between the rows that see it in part all see all of it.
    let last = first + rows;
    let all = window.map_or(last, |window| (start + window).min(last));
    let (from, to) = (first.clamp(end, all.max(end)), all.max(end));
    let some = (first.max(start)..last.min(end))
        .chain(to.max(first)..last.min(end + window.unwrap_or(0)).max(to.max(first)));
    (to - from) * CHUNK_TOKENS + some.map(sees).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_counted_as_one_by_one() {
        for window in [None, Some(1), Some(7), Some(16), Some(24), Some(100)] {
            for first in 0..80 {
                for rows in [0, 1, 5, 16, 40] {
                    for chunk in 0..6 {
                        let tokens = chunk * CHUNK_TOKENS..(chunk + 1) * CHUNK_TOKENS;
                        let sees = |row: usize, token: usize| {
                            token <= row && window.is_none_or(|window| row - token < window)
                        };
                        let of_row = |row: usize| tokens.clone().filter(|token| sees(row, *token)).count();
                        let expected: usize = (first..first + rows).map(of_row).sum();
                        assert_eq!(
                            seen(chunk, first, rows, window),
                            expected,
                            "{chunk} {first} {rows} {window:?}"
                        );
                    }
                }
            }
        }
    }
}
