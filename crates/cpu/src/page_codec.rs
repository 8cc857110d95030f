//! Pages as numbers: encode and decode of each codec, in whole slices.

use bytemuck::{cast_slice, cast_slice_mut};
use half::f16;
use half::slice::HalfFloatSliceExt;
use interleaf_contract::PageCodec;

/// Stores `values` from element `first` of a page on.
pub fn encode(codec: PageCodec, page: &mut [u8], first: usize, values: &[f32]) {
    let place = first..first + values.len();
    match codec {
        PageCodec::F16 => cast_slice_mut::<u8, f16>(page)[place].convert_from_f32_slice(values),
        PageCodec::F32 => cast_slice_mut::<u8, f32>(page)[place].copy_from_slice(values),
    }
}

/// Reads `out.len()` values from element `first` of a page on.
pub fn decode(codec: PageCodec, page: &[u8], first: usize, out: &mut [f32]) {
    let place = first..first + out.len();
    match codec {
        PageCodec::F16 => cast_slice::<u8, f16>(page)[place].convert_to_f32_slice(out),
        PageCodec::F32 => out.copy_from_slice(&cast_slice::<u8, f32>(page)[place]),
    }
}
