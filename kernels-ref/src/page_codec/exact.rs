//! Elements as plain numbers, any part of a page.

use half::f16;
use interleaf_contract::PageElement;

/// Stores `values` from element `first` of a page on.
pub fn encode(codec: PageElement, page: &mut [u8], first: usize, values: &[f32]) {
    match codec {
        PageElement::F16 => {
            let page: &mut [u16] = bytemuck::cast_slice_mut(page);
            for (p, v) in page[first..].iter_mut().zip(values) {
                *p = f16::from_f32(*v).to_bits();
            }
        }
        PageElement::F32 => {
            let page: &mut [f32] = bytemuck::cast_slice_mut(page);
            page[first..first + values.len()].copy_from_slice(values);
        }
    }
}

/// Reads `out.len()` values from element `first` of a page on.
pub fn decode(codec: PageElement, page: &[u8], first: usize, out: &mut [f32]) {
    match codec {
        PageElement::F16 => {
            let page: &[u16] = bytemuck::cast_slice(page);
            for (o, bits) in out.iter_mut().zip(&page[first..]) {
                *o = f16::from_bits(*bits).to_f32();
            }
        }
        PageElement::F32 => {
            let page: &[f32] = bytemuck::cast_slice(page);
            out.copy_from_slice(&page[first..first + out.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f32_is_exact_and_f16_rounds_to_nearest_even() {
        let values = [1.0, -0.1, 65504.0, 1.0 + 1.0 / 2048.0];
        let mut words = [0u32; 4];
        let page: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        let mut out = [0.0; 4];
        encode(PageElement::F32, page, 0, &values);
        decode(PageElement::F32, page, 0, &mut out);
        assert_eq!(out, values);
        encode(PageElement::F16, page, 4, &values);
        decode(PageElement::F16, page, 4, &mut out);
        assert_eq!(out, [1.0, -0.099_975_586, 65504.0, 1.0]);
    }
}
