//! A prefix's pages in each width, and which chunk gets which.

use interleaf_contract::{Bits, CHUNK_TOKENS, PageCodec, PageHalf};
use interleaf_kv::{Graded, KvError, Tolerance, Width, choose_widths};
use interleaf_runtime::{Engine, EngineError, MassSampling, WIDTH_ERRORS};

use super::{Assigned, Sums, WidthPlan};
use crate::pages::{Form, through};
use crate::{CalibrateError, Kv, fit};

/// A prefix's pages in each width.
pub struct Coded {
    /// By width, what they are read as.
    read: [Kv; 3],
    /// Bytes of a chunk's keys and of its values, by width.
    bytes: [[usize; 2]; 3],
    width: usize,
}

impl Coded {
    pub fn new(engine: &Engine, own: &Kv) -> Self {
        let config = engine.config();
        let width = fit::width(config);
        let chunks = own.tokens / CHUNK_TOKENS;
        let mut bytes = [[0; 2]; 3];
        let read = [Bits::Eight, Bits::Four, Bits::Two].map(|bits| {
            let form = Form::plain(PageCodec::Quantised(bits));
            let place =
                [Bits::Eight, Bits::Four, Bits::Two].iter().position(|other| *other == bits).unwrap_or(0);
            let layers = own.layers.iter().map(|layer| {
                [PageHalf::K, PageHalf::V].map(|half| {
                    let values = &layer[half as usize];
                    let (read, stored) = through(&form, half, config.kv_heads, width, values, values);
                    bytes[place][half as usize] += stored / chunks;
                    read
                })
            });
            Kv { tokens: own.tokens, layers: layers.collect() }
        });
        Self { read, bytes, width }
    }

    /// The widths of the chunks that are counted.
    pub fn assign(
        &self,
        plan: &WidthPlan,
        sums: &Sums,
        densities: &[(MassSampling, Vec<f64>)],
        seed: usize,
    ) -> Result<Vec<Width>, CalibrateError> {
        let counted = densities[0].1.len() - plan.newest;
        let all = |width| Ok(vec![width; counted]);
        let Some(ratio) = sums.ratio else {
            return match sums.assigned {
                Assigned::All(width) | Assigned::Half(_, width) => all(width),
                _ => all(Width::Eight),
            };
        };
        let bytes = self.bytes.map(|halves| halves.iter().sum::<usize>() as u64);
        let by_density = |densities: &[f64]| {
            let graded = densities[..counted].iter().map(|&density| Graded { density, bytes });
            let tolerance = Tolerance { errors: WIDTH_ERRORS, ratio, newest: 0 };
            let chosen = choose_widths(&graded.collect::<Vec<_>>(), &tolerance);
            Ok(chosen
                .map_err(|error| EngineError::from(KvError::from(error)))?
                .widths
                .into_iter()
                .flatten()
                .collect())
        };
        let mut widths: Vec<Width> = match sums.assigned {
            Assigned::ByDensity(sampling) => {
                let of = densities.iter().find(|(other, _)| *other == sampling).unwrap_or(&densities[0]);
                return by_density(&of.1);
            }
            _ => by_density(&densities[0].1)?,
        };
        widths.sort_unstable();
        match sums.assigned {
            Assigned::Newest => widths.reverse(),
            Assigned::Random => shuffle(&mut widths, seed as u64),
            _ => {}
        }
        Ok(widths)
    }

    /// A cache whose first chunks have some widths, in keys, in values or in both; and the bytes of these chunks.
    pub fn mixed(&self, own: &Kv, widths: &[Width], halves: &[PageHalf]) -> (Kv, [usize; 2]) {
        let mut kv = own.clone();
        let mut taken = [0; 2];
        for (chunk, width) in widths.iter().enumerate() {
            let at = chunk * CHUNK_TOKENS * self.width..(chunk + 1) * CHUNK_TOKENS * self.width;
            for (to, of) in kv.layers.iter_mut().zip(&self.read[*width as usize].layers) {
                for &half in halves {
                    to[half as usize][at.clone()].copy_from_slice(&of[half as usize][at.clone()]);
                }
            }
            for &half in halves {
                taken[0] += self.bytes[*width as usize][half as usize];
                taken[1] += self.bytes[Width::Eight as usize][half as usize];
            }
        }
        (kv, taken)
    }

    /// The squared relative error of keys or of values of the first chunks in a width, over all layers.
    pub fn error(&self, own: &Kv, half: PageHalf, width: Width, chunks: usize) -> f64 {
        let upto = chunks * CHUNK_TOKENS * self.width;
        let (mut error, mut square) = (0.0, 0.0);
        for (read, own) in self.read[width as usize].layers.iter().zip(&own.layers) {
            let own = &own[half as usize][..upto];
            error += crate::measure::distance(&read[half as usize][..upto], own);
            square += own.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        }
        error / square.max(f64::MIN_POSITIVE)
    }
}

/// Puts widths into an order that a seed stands for (Fisher and Yates; numbers by SplitMix64, Steele et al., 2014).
fn shuffle(widths: &mut [Width], seed: u64) {
    let mut state = seed;
    for i in (1..widths.len()).rev() {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        widths.swap(i, ((z ^ (z >> 31)) % (i as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_permutations_and_differ_by_seed() {
        let widths = [Width::Eight, Width::Four, Width::Four, Width::Two, Width::Two, Width::Two];
        let of = |seed| {
            let mut widths = widths;
            shuffle(&mut widths, seed);
            widths
        };
        let orders: Vec<_> = (0..10).map(of).collect();
        assert!(orders.windows(2).any(|pair| pair[0] != pair[1]));
        for mut order in orders {
            order.sort_unstable();
            assert_eq!(order, widths);
        }
    }
}
