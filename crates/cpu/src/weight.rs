//! Stored rows as f32 or as integer codes, decoded into a worker's own scratch.

use bytemuck::cast_slice;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use interleaf_contract::{BlockQ4_0, BlockQ8_0, Dtype, Matrix, QUANT_BLOCK};

/// Rows `first ..` as f32, back to back: in place where they are stored so, else decoded into `scratch`,
/// whose length says how many values are wanted.
pub fn rows_f32<'a>(matrix: &'a Matrix, first: usize, scratch: &'a mut [f32]) -> &'a [f32] {
    let start = first * matrix.row_bytes();
    // Rows fill whole blocks, so that a run of rows is a run of blocks.
    let blocks = scratch.len() / matrix.dtype().block_len();
    let bytes = &matrix.data()[start..start + blocks * matrix.dtype().block_bytes()];
    match matrix.dtype() {
        Dtype::F32 => return cast_slice(bytes),
        Dtype::F16 => cast_slice::<u8, f16>(bytes).convert_to_f32_slice(scratch),
        Dtype::Bf16 => cast_slice::<u8, bf16>(bytes).convert_to_f32_slice(scratch),
        Dtype::Q8_0 => {
            for (out, block) in scratch.chunks_exact_mut(QUANT_BLOCK).zip(cast_slice::<u8, BlockQ8_0>(bytes))
            {
                let d = f16::from_bits(block.d).to_f32();
                for (o, &q) in out.iter_mut().zip(&block.qs) {
                    *o = d * f32::from(q);
                }
            }
        }
        Dtype::Q4_0 => {
            for (out, block) in scratch.chunks_exact_mut(QUANT_BLOCK).zip(cast_slice::<u8, BlockQ4_0>(bytes))
            {
                let d = f16::from_bits(block.d).to_f32();
                let (low, high) = out.split_at_mut(QUANT_BLOCK / 2);
                for ((low, high), byte) in low.iter_mut().zip(high).zip(block.qs) {
                    *low = d * (f32::from(byte & 0x0F) - 8.0);
                    *high = d * (f32::from(byte >> 4) - 8.0);
                }
            }
        }
    }
    scratch
}

/// The signed codes and f32 scales of a quantised row: `cols` codes, one scale for every 32.
pub fn row_codes(matrix: &Matrix, row: usize, codes: &mut [i8], scales: &mut [f32]) {
    let bytes = matrix.row(row);
    let blocks = codes.chunks_exact_mut(QUANT_BLOCK).zip(scales);
    match matrix.dtype() {
        Dtype::Q8_0 => {
            for ((codes, scale), block) in blocks.zip(cast_slice::<u8, BlockQ8_0>(bytes)) {
                codes.copy_from_slice(&block.qs);
                *scale = f16::from_bits(block.d).to_f32();
            }
        }
        Dtype::Q4_0 => {
            for ((codes, scale), block) in blocks.zip(cast_slice::<u8, BlockQ4_0>(bytes)) {
                let (low, high) = codes.split_at_mut(QUANT_BLOCK / 2);
                for ((low, high), byte) in low.iter_mut().zip(high).zip(block.qs) {
                    *low = (byte & 0x0F) as i8 - 8;
                    *high = (byte >> 4) as i8 - 8;
                }
                *scale = f16::from_bits(block.d).to_f32();
            }
        }
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => {}
    }
}
