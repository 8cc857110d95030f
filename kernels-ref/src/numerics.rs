//! `act=q8_0`: how activations become Q8_0 blocks before they meet quantised weights.

use half::f16;
use interleaf_contract::{BlockQ8_0, QUANT_BLOCK};

/// Quantises one row of activations; `x.len()` is a multiple of 32.
///
/// Per block: `d = max|x| / 127`, `q = round(x / d)` with halves away from zero, computed with the
/// reciprocal of the unrounded d; d is stored as f16 (GGUF's reference quantiser for Q8_0). Every step is
/// a single f32 operation, so that integer kernels reproduce the codes bit for bit.
#[must_use]
pub fn quantise_q8_0(x: &[f32]) -> Vec<BlockQ8_0> {
    x.chunks_exact(QUANT_BLOCK)
        .map(|block| {
            // A NaN stays: a block that has one must not pass for zeros.
            let larger = |m: f32, v: &f32| if v.abs() > m || v.is_nan() { v.abs() } else { m };
            let largest = block.iter().fold(0.0f32, larger);
            let d = largest / 127.0;
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            let mut qs = [0; QUANT_BLOCK];
            for (q, v) in qs.iter_mut().zip(block) {
                *q = (v * inverse).round() as i8;
            }
            BlockQ8_0 { d: f16::from_f32(d).to_bits(), qs }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_magnitude_becomes_127() {
        let mut x = [0.0; 32];
        x[3] = -2.54;
        x[4] = 1.27;
        let block = quantise_q8_0(&x)[0];
        assert_eq!(block.qs[3], -127);
        assert_eq!(block.qs[4], 64, "63.5 rounds away from zero");
        assert_eq!(quantise_q8_0(&[0.0; 32])[0], BlockQ8_0 { d: 0, qs: [0; 32] });
    }

    #[test]
    fn a_nan_anywhere_is_the_scale() {
        for at in 0..32 {
            let mut x = [1.0; 32];
            x[at] = f32::NAN;
            assert!(f16::from_bits(quantise_q8_0(&x)[0].d).is_nan(), "at {at}");
        }
    }
}
