//! Stored weights as numbers: one row of a matrix at a time.

use half::{bf16, f16};
use interleaf_contract::{BlockQ4_0, BlockQ8_0, Dtype, Matrix, QUANT_BLOCK};

/// Writes row `row` of `matrix` to `out`, `matrix.cols()` values. Exact for every dtype but the
/// quantised ones, where it is the product of code and scale rounded to f32.
pub fn decode_row(matrix: &Matrix, row: usize, out: &mut [f32]) {
    let bytes = matrix.row(row);
    match matrix.dtype() {
        Dtype::F32 => out.copy_from_slice(bytemuck::cast_slice(bytes)),
        Dtype::F16 => {
            for (o, bits) in out.iter_mut().zip(bytemuck::cast_slice(bytes)) {
                *o = f16::from_bits(*bits).to_f32();
            }
        }
        Dtype::Bf16 => {
            for (o, bits) in out.iter_mut().zip(bytemuck::cast_slice(bytes)) {
                *o = bf16::from_bits(*bits).to_f32();
            }
        }
        Dtype::Q8_0 => {
            for (o, block) in
                out.chunks_exact_mut(QUANT_BLOCK).zip(bytemuck::cast_slice::<u8, BlockQ8_0>(bytes))
            {
                let d = f16::from_bits(block.d).to_f32();
                for (o, code) in o.iter_mut().zip(codes_q8_0(block)) {
                    *o = d * f32::from(code);
                }
            }
        }
        Dtype::Q4_0 => {
            for (o, block) in
                out.chunks_exact_mut(QUANT_BLOCK).zip(bytemuck::cast_slice::<u8, BlockQ4_0>(bytes))
            {
                let d = f16::from_bits(block.d).to_f32();
                for (o, code) in o.iter_mut().zip(codes_q4_0(block)) {
                    *o = d * f32::from(code);
                }
            }
        }
    }
}

/// The 32 signed codes of a Q8_0 block, in element order.
#[must_use]
pub fn codes_q8_0(block: &BlockQ8_0) -> [i8; QUANT_BLOCK] {
    block.qs
}

/// The 32 signed codes of a Q4_0 block, in element order: nibble − 8.
#[must_use]
pub fn codes_q4_0(block: &BlockQ4_0) -> [i8; QUANT_BLOCK] {
    std::array::from_fn(|j| {
        let byte = block.qs[j % (QUANT_BLOCK / 2)];
        let nibble = if j < QUANT_BLOCK / 2 { byte & 0x0F } else { byte >> 4 };
        nibble as i8 - 8
    })
}
