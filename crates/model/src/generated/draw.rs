//! Numbers that are a function of a seed and a place: any part of a tensor can be drawn without the rest.

use std::ops::Range;

use half::bf16;
use interleaf_contract::Bytes;
use rayon::prelude::*;

/// Elements that one number of 64 bits gives.
const PER_WORD: usize = 4;

/// Elements that are drawn by one task where all are wanted.
const DRAWN_TOGETHER: usize = 1 << 14;

/// Some elements of a tensor that is not stored anywhere: `centre ± spread`, spread evenly, rounded to
/// bfloat16 as a public model's own weights are.
#[derive(Debug, Clone)]
pub(crate) struct Drawn {
    /// Of the whole tensor.
    seed: u64,
    centre: f32,
    spread: f32,
    /// Which of the tensor's elements.
    elements: Range<usize>,
}

impl Drawn {
    /// The elements of a model's tensor, by its name: weights of such a size that each layer's outputs are
    /// about as large as its inputs, norms around 1, and small biases.
    pub fn weights(seed: u64, name: &str, shape: &[usize]) -> Self {
        let len = shape.iter().product();
        match shape {
            &[_, inputs] => Self::with_variance(seed, name, len, 1.0 / inputs as f64),
            _ if name.ends_with(".bias") => Self::new(seed, name, len, 0.0, 0.1),
            _ => Self::new(seed, name, len, 1.0, 0.25),
        }
    }

    /// Elements around zero of a variance.
    pub fn with_variance(seed: u64, name: &str, len: usize, variance: f64) -> Self {
        // The variance of numbers spread evenly over ±s is s²/3.
        Self::new(seed, name, len, 0.0, (3.0 * variance).sqrt() as f32)
    }

    fn new(seed: u64, name: &str, len: usize, centre: f32, spread: f32) -> Self {
        // FNV-1a, and the seed mixed in: neighbouring seeds and names must not give related numbers.
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let name = name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, hash);
        Self { seed: mix(name ^ mix(seed)), centre, spread, elements: 0..len }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Some of these elements, by their place among them.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let at = |place: usize| (self.elements.start + place).min(self.elements.end);
        Self { elements: at(range.start)..at(range.end), ..self.clone() }
    }

    /// Draws the elements from a place on.
    pub fn fill(&self, place: usize, out: &mut [f32]) {
        let mut at = self.elements.start + place;
        // Up to the border of a word, so that the loop over whole words is plain.
        let head = at.next_multiple_of(PER_WORD).min(at + out.len()) - at;
        let (head, rest) = out.split_at_mut(head);
        for value in head {
            *value = self.values(at)[at % PER_WORD];
            at += 1;
        }
        let mut words = rest.chunks_exact_mut(PER_WORD);
        for word in &mut words {
            word.copy_from_slice(&self.values(at));
            at += PER_WORD;
        }
        let tail = words.into_remainder();
        let count = tail.len();
        if count > 0 {
            tail.copy_from_slice(&self.values(at)[..count]);
        }
    }

    /// All of them, as little-endian bfloat16.
    pub fn bytes(&self) -> Bytes {
        let mut bytes = vec![0; self.len() * size_of::<bf16>()];
        bytes.par_chunks_mut(DRAWN_TOGETHER * size_of::<bf16>()).enumerate().for_each(|(chunk, bytes)| {
            let mut values = vec![0.0; bytes.len() / size_of::<bf16>()];
            self.fill(chunk * DRAWN_TOGETHER, &mut values);
            for (two, value) in bytes.chunks_exact_mut(size_of::<bf16>()).zip(values) {
                two.copy_from_slice(&bf16::from_f32(value).to_le_bytes());
            }
        });
        Bytes::from(bytes)
    }

    /// The word's elements that the element at `at` is one of.
    fn values(&self, at: usize) -> [f32; PER_WORD] {
        let word = (at / PER_WORD) as u64;
        let bits = mix(self.seed.wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let step = self.spread / 32768.0;
        [0, 16, 32, 48].map(|shift| {
            let code = (bits >> shift) as i16;
            bf16::from_f32(self.centre + step * f32::from(code)).to_f32()
        })
    }
}

/// The finaliser of splitmix64 (Steele, Lea and Flood, 2014): each bit in changes each bit out by half.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(drawn: &Drawn) -> Vec<f32> {
        let mut values = vec![0.0; drawn.len()];
        drawn.fill(0, &mut values);
        values
    }

    #[test]
    fn parts_are_what_they_are_in_the_whole() {
        let drawn = Drawn::weights(1, "w.weight", &[5, 9]);
        let whole = all(&drawn);
        for start in 0..whole.len() {
            for end in start..=whole.len() {
                assert_eq!(all(&drawn.slice(start..end)), whole[start..end]);
            }
        }
        assert_eq!(all(&drawn.slice(3..40).slice(5..9)), whole[8..12]);
        let stored: Vec<f32> = (drawn.bytes().chunks_exact(2))
            .map(|two| bf16::from_le_bytes([two[0], two[1]]).to_f32())
            .collect();
        assert_eq!(stored, whole, "rounding again changes nothing");
    }

    #[test]
    fn seeds_and_names_draw_apart() {
        let draw = |seed, name| all(&Drawn::weights(seed, name, &[4, 64]));
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
    }

    #[test]
    fn values_have_the_size_that_keeps_activations_in_bounds() {
        let values = all(&Drawn::weights(7, "w.weight", &[256, 1024]));
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 2e-4 && (square * 1024.0 - 1.0).abs() < 0.02, "{mean} {square}");
        let norm = all(&Drawn::weights(7, "norm.weight", &[1024]));
        assert!(norm.iter().all(|v| (0.75..=1.25).contains(v)));
        let bias = all(&Drawn::weights(7, "q_proj.bias", &[1024]));
        assert!(bias.iter().all(|v| v.abs() <= 0.11) && bias.iter().any(|v| *v < 0.0));
    }
}
