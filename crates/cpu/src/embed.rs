//! Rows of the embedding, decoded from whichever layout it is kept in.

use half::{bf16, f16};
use interleaf_contract::{Dtype, QUANT_BLOCK};

use crate::packed::Panels;

/// `out = scale · row`.
pub fn embed(table: &Panels, token: u32, scale: f32, out: &mut [f32]) {
    let bits = table.row(token as usize);
    let half = |pair: &[u8]| u16::from_ne_bytes([pair[0], pair[1]]);
    match table.dtype() {
        Dtype::F32 => {
            for (o, b) in out.iter_mut().zip(bits.chunks_exact(4)) {
                *o = scale * f32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        Dtype::F16 => {
            for (o, b) in out.iter_mut().zip(bits.chunks_exact(2)) {
                *o = scale * f16::from_bits(half(b)).to_f32();
            }
        }
        Dtype::Bf16 => {
            for (o, b) in out.iter_mut().zip(bits.chunks_exact(2)) {
                *o = scale * bf16::from_bits(half(b)).to_f32();
            }
        }
        Dtype::Q8_0 => {
            for (out, block) in out.chunks_exact_mut(QUANT_BLOCK).zip(bits.chunks_exact(2 + QUANT_BLOCK)) {
                let d = f16::from_bits(half(block)).to_f32();
                for (o, q) in out.iter_mut().zip(&block[2..]) {
                    *o = scale * (d * f32::from(*q as i8));
                }
            }
        }
        Dtype::Q4_0 => {
            for (out, block) in out.chunks_exact_mut(QUANT_BLOCK).zip(bits.chunks_exact(2 + QUANT_BLOCK / 2))
            {
                let d = f16::from_bits(half(block)).to_f32();
                let (low, high) = out.split_at_mut(QUANT_BLOCK / 2);
                for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[2..]) {
                    *low = scale * (d * (f32::from(byte & 0x0F) - 8.0));
                    *high = scale * (d * (f32::from(byte >> 4) - 8.0));
                }
            }
        }
    }
}
