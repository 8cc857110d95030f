//! What each chunk of a step's sequences gets of attention (`attention_mass`): the totals of all measured layers and heads.
//! What a row pays to a chunk is found where its weights are, in [`crate::paged_attention`].

use std::sync::Arc;

use interleaf_contract::Step;

/// Units of a weight of 1. What is paid is below 1 a row, so that there is room for 2²⁴ rows of a sequence.
const UNITS: f64 = (1_u64 << 40) as f64;

/// What was paid to every chunk, in fixed point: integers add up to the same in any order, so that a total depends neither
/// on which worker had which rows nor on how many workers there are.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Where the chunks of each sequence begin, and behind the last one all of them; empty where nothing is measured.
    starts: Arc<[usize]>,
    units: Vec<u64>,
}

impl Totals {
    /// Nothing yet, for every chunk that a row of the step sees; without chunks where the step measures nothing.
    pub fn new(step: &Step) -> Self {
        let Some(chunks) = step.mass_chunks() else { return Self::default() };
        let mut end = 0;
        let ends = chunks.iter().map(|chunks| {
            end += chunks;
            end
        });
        let starts: Arc<[usize]> = std::iter::once(0).chain(ends).collect();
        Self { units: vec![0; end], starts }
    }

    /// Nothing yet, for the same chunks.
    pub fn zeros(&self) -> Self {
        Self { starts: Arc::clone(&self.starts), units: vec![0; self.units.len()] }
    }

    /// Adds what chunks of a sequence, from `first` on, were paid, times `share`. Behind the last chunk that a row sees there is
    /// nothing to add.
    pub fn add(&mut self, sequence: usize, first: usize, paid: &[f32], share: f64) {
        let chunks = &mut self.units[self.starts[sequence] + first..self.starts[sequence + 1]];
        for (units, paid) in chunks.iter_mut().zip(paid) {
            *units += (f64::from(*paid) * (share * UNITS)).round_ties_even() as u64;
        }
    }

    /// Adds what another worker has.
    pub fn merge(&mut self, other: &Self) {
        self.units.iter_mut().zip(&other.units).for_each(|(units, others)| *units += others);
    }

    /// The totals by sequence and chunk.
    pub fn weights(&self) -> Vec<Vec<f32>> {
        let weight = |units: &u64| (*units as f64 / UNITS) as f32;
        let chunks = self.starts.windows(2).map(|ends| &self.units[ends[0]..ends[1]]);
        chunks.map(|units| units.iter().map(weight).collect()).collect()
    }
}
