//! How much a chunk is attended to: sums of what steps measure, and their mean. Plain numbers; what follows from them is
//! `tolerance`'s.

use interleaf_contract::CHUNK_TOKENS;

/// How much a chunk was attended to by those that can see it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Attention {
    /// The weight that its tokens got.
    mass: f32,
    /// Pairs of one of its tokens and a row that sees it.
    seen: f32,
}

impl Attention {
    /// Takes in the weight that `rows` rows from position `first` on gave the tokens of a context's chunk, where each row sees the
    /// last `window` tokens up to itself, or all.
    pub fn add(&mut self, mass: f32, chunk: usize, first: usize, rows: usize, window: Option<usize>) {
        let start = chunk * CHUNK_TOKENS;
        let seen = |row: usize| {
            let oldest = window.map_or(0, |window| (row + 1).saturating_sub(window));
            (row + 1).min(start + CHUNK_TOKENS).saturating_sub(oldest.max(start))
        };
        let seen: usize = (first..first + rows).map(seen).sum();
        // What no row sees has nothing to get.
        if seen > 0 && mass.is_finite() {
            self.mass += mass.max(0.0);
            self.seen += seen as f32;
        }
    }

    /// Takes in what others gave.
    pub fn join(&mut self, other: Self) {
        self.mass += other.mass;
        self.seen += other.seen;
    }

    /// The mean weight that a token gets from one that can see it.
    pub fn density(self) -> Option<f64> {
        (self.seen > 0.0).then(|| f64::from(self.mass) / f64::from(self.seen))
    }
}
