//! Elements as plain numbers, any part of a page.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use bytemuck::{cast_slice, cast_slice_mut};
use half::f16;
use half::slice::HalfFloatSliceExt;
use interleaf_contract::PageElement;

use super::Upcoming;
use crate::isa::Isa;
use crate::lines::LINE;
use crate::math::f16_to_f32;

/// Stores `values` from element `first` of a page on.
pub fn encode(element: PageElement, page: &mut [u8], first: usize, values: &[f32]) {
    let place = first..first + values.len();
    match element {
        PageElement::F16 => cast_slice_mut::<u8, f16>(page)[place].convert_from_f32_slice(values),
        PageElement::F32 => cast_slice_mut::<u8, f32>(page)[place].copy_from_slice(values),
    }
}

/// Elements of a line, as many as are read for each that is fetched meanwhile.
const PART: usize = LINE / size_of::<f16>();

/// Reads `out.len()` values from element `first` of a page on.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn decode<I: Isa>(
    element: PageElement,
    page: &[u8],
    first: usize,
    out: &mut [f32],
    upcoming: &mut Upcoming,
) {
    let place = first..first + out.len();
    match element {
        PageElement::F16 => {
            let values = &cast_slice::<u8, u16>(page)[place];
            for (values, out) in values.chunks(PART).zip(out.chunks_mut(PART)) {
                halves::<I>(values, out);
                upcoming.step::<I>();
            }
        }
        PageElement::F32 => out.copy_from_slice(&cast_slice::<u8, f32>(page)[place]),
    }
}

/// IEEE binary16 to f32, as many as there are.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn halves<I: Isa>(values: &[u16], out: &mut [f32]) {
    assert_eq!(values.len(), out.len(), "as many");
    let whole = out.len() / I::LANES * I::LANES;
    for i in (0..whole).step_by(I::LANES) {
        I::store(out.as_mut_ptr().add(i), I::load_f16(values.as_ptr().add(i)));
    }
    for (o, v) in out[whole..].iter_mut().zip(&values[whole..]) {
        *o = f16_to_f32(*v);
    }
}
