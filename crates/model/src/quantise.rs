//! GGUF's reference quantisers of a row: Q8_0 and Q4_0, equal to ggml's `quantize_row_q8_0_ref` and
//! `quantize_row_q4_0_ref` to the bit.
//!
//! Dequantising is the kernels' business.

use bytemuck::Zeroable;
use half::f16;
use interleaf_contract::{BlockQ4_0, BlockQ8_0, Bytes, Dtype, Matrix, QUANT_BLOCK};

/// The largest code of Q8_0.
const Q8_MAX: f32 = 127.0;

/// Quantises a row of finite values to blocks of `d = max|x| / 127`, codes rounded to nearest, ties
/// away from zero. False if a scale does not fit an f16.
pub(crate) fn q8_0(row: &[f32], blocks: &mut [BlockQ8_0]) -> bool {
    let mut fits = true;
    for (x, block) in row.chunks_exact(QUANT_BLOCK).zip(blocks) {
        let d = x.iter().fold(0.0f32, |largest, v| largest.max(v.abs())) / Q8_MAX;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let stored = f16::from_f32(d);
        fits &= stored.is_finite();
        block.d = stored.to_bits();
        for (code, v) in block.qs.iter_mut().zip(x) {
            // The cast saturates, which only a subnormal `d` comes to; its f16 is zero.
            *code = (v * inverse).round() as i8;
        }
    }
    fits
}

/// A matrix in Q8_0 from finite values, row-major. `None` if its rows are not whole blocks, or a scale does not fit an f16.
#[must_use]
pub fn q8_0_matrix(name: String, rows: usize, cols: usize, values: &[f32]) -> Option<Matrix> {
    let mut blocks = vec![BlockQ8_0::zeroed(); values.len() / QUANT_BLOCK];
    if !cols.is_multiple_of(QUANT_BLOCK) || !q8_0(values, &mut blocks) {
        return None;
    }
    let data = Bytes::copy_from_slice(bytemuck::cast_slice(&blocks));
    Matrix::new(name, Dtype::Q8_0, rows, cols, data).ok()
}

/// Quantises a row of finite values to blocks of `d = m / -8`, where `m` is the first value of largest
/// magnitude, so that `m` itself is kept exactly but for the rounding of `d`. False if a scale does
/// not fit an f16.
pub(crate) fn q4_0(row: &[f32], blocks: &mut [BlockQ4_0]) -> bool {
    let mut fits = true;
    for (x, block) in row.chunks_exact(QUANT_BLOCK).zip(blocks) {
        let extreme = x.iter().fold(0.0f32, |kept, v| if v.abs() > kept.abs() { *v } else { kept });
        let d = extreme / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let stored = f16::from_f32(d);
        fits &= stored.is_finite();
        block.d = stored.to_bits();
        // Truncation of `v + 8.5` rounds to nearest; +8 has no code and becomes 15.
        let code = |v: f32| ((v * inverse + 8.5) as u8).min(15);
        let (low, high) = x.split_at(QUANT_BLOCK / 2);
        for ((pair, l), h) in block.qs.iter_mut().zip(low).zip(high) {
            *pair = code(*l) | code(*h) << 4;
        }
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_matrix_is_its_rows_in_whole_blocks() {
        let values: Vec<f32> = (0..128).map(|i| i as f32 - 64.0).collect();
        let matrix = q8_0_matrix("m".into(), 2, 64, &values).unwrap();
        assert_eq!((matrix.rows(), matrix.cols(), matrix.dtype()), (2, 64, Dtype::Q8_0));
        let mut blocks = [BlockQ8_0::zeroed(); 4];
        assert!(q8_0(&values, &mut blocks));
        assert_eq!(&matrix.data()[..], bytemuck::cast_slice::<_, u8>(&blocks));
        assert!(q8_0_matrix("m".into(), 4, 48, &values).is_none());
        assert!(q8_0_matrix("m".into(), 1, 32, &[1e9; 32]).is_none());
    }

    fn one_q8(x: &[f32; 32]) -> BlockQ8_0 {
        let mut block = [BlockQ8_0::zeroed()];
        assert!(q8_0(x, &mut block));
        block[0]
    }

    fn one_q4(x: &[f32; 32]) -> BlockQ4_0 {
        let mut block = [BlockQ4_0::zeroed()];
        assert!(q4_0(x, &mut block));
        block[0]
    }

    #[test]
    fn q8_0_of_a_block_by_hand() {
        let mut x = [0.0f32; 32];
        // d = 127 / 127 = 1: codes are the values rounded, halves away from zero.
        x[..6].copy_from_slice(&[127.0, -127.0, 0.5, -0.5, 2.4, -3.6]);
        let block = one_q8(&x);
        assert_eq!(block.d, 0x3c00);
        assert_eq!(block.qs[..7], [127, -127, 1, -1, 2, -4, 0]);
        // d = 2 / 127 = 0.0157480…, as an f16 0x2408; 1 is code 63.5, which rounds to 64.
        let mut x = [0.0f32; 32];
        x[30..].copy_from_slice(&[-2.0, 1.0]);
        let block = one_q8(&x);
        assert_eq!(block.d, 0x2408);
        assert_eq!(block.qs[30..], [-127, 64]);
    }

    #[test]
    fn q4_0_of_a_block_by_hand() {
        let mut x = [0.0f32; 32];
        // The extreme is -8, so d = 1: codes are value + 8, rounded; 8 itself saturates to 15.
        x[0] = -8.0;
        x[1] = 8.0;
        x[2] = 3.0;
        x[16] = -1.0;
        x[17] = 0.6;
        x[31] = -7.6;
        let block = one_q4(&x);
        assert_eq!(block.d, 0x3c00);
        assert_eq!(block.qs[0], 0x70);
        assert_eq!(block.qs[1], 0x9f);
        assert_eq!(block.qs[2], 0x8b);
        assert_eq!(block.qs[15], 0x08);
        // A positive extreme gives a negative d: 4 maps to code 0, -4 to 15 (16 does not exist).
        let mut x = [0.0f32; 32];
        x[0] = 4.0;
        x[16] = -4.0;
        let block = one_q4(&x);
        assert_eq!(f16::from_bits(block.d).to_f32(), -0.5);
        assert_eq!(block.qs[0], 0xf0);
    }

    #[test]
    fn zeros_have_scale_zero() {
        assert_eq!(one_q8(&[0.0; 32]), BlockQ8_0 { d: 0, qs: [0; 32] });
        let block = one_q4(&[0.0; 32]);
        // As in GGUF: 0 / -8 is the negative zero.
        assert_eq!((block.d, block.qs), (0x8000, [0x88; 16]));
    }

    #[test]
    fn scales_that_no_f16_holds_are_reported() {
        assert!(!q8_0(&[1e9; 32], &mut [BlockQ8_0::zeroed()]));
        assert!(!q4_0(&[1e9; 32], &mut [BlockQ4_0::zeroed()]));
        // Too small is not an error: it is zero within any tolerance.
        assert!(q8_0(&[1e-44; 32], &mut [BlockQ8_0::zeroed()]));
    }

    /// What rounding the scale to an f16 may change it by: half a unit in the last place, or half the
    /// smallest subnormal.
    fn scale_error(d: f32) -> f32 {
        (d.abs() / 2048.0).max(2.0f32.powi(-25))
    }

    proptest! {
        #[test]
        fn q8_0_is_within_half_a_step(x in prop::array::uniform32(-1000.0f32..1000.0)) {
            let block = one_q8(&x);
            let d = f16::from_bits(block.d).to_f32();
            for (v, q) in x.iter().zip(block.qs) {
                let bound = 0.5 * d + 127.5 * scale_error(d);
                prop_assert!((v - d * f32::from(q)).abs() <= bound, "{v} as {q} of {d}");
            }
        }

        #[test]
        fn q4_0_is_within_half_a_step_or_the_step_that_has_no_code(
            x in prop::array::uniform32(-1000.0f32..1000.0)
        ) {
            let block = one_q4(&x);
            let d = f16::from_bits(block.d).to_f32();
            for (j, v) in x.iter().enumerate() {
                let nibble = if j < 16 { block.qs[j] & 15 } else { block.qs[j - 16] >> 4 };
                let w = d * (f32::from(nibble) - 8.0);
                // Code 15 also stands for values up to 8 steps, a whole step away.
                let step = if nibble == 15 { d.abs() } else { 0.5 * d.abs() };
                let bound = step * (1.0 + 1e-5) + 8.5 * scale_error(d);
                prop_assert!((v - w).abs() <= bound, "{v} as {w}, d {d}");
            }
        }
    }
}
