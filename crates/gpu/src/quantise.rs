//! `quantise`: records how rows of x become blocks of `act=q8_0` ahead of the matmul of prompt rows. Generated rows
//! are quantised by their matmul itself. What the kernel does is in `shaders/quantise.wgsl`.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{BackendError, QUANT_BLOCK};

use crate::command::{Place, Recorder};
use crate::cost::Loads;
use crate::decide::{Half, WORKGROUP};
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::rows::List;
use crate::tensors::Placed;

/// The one kernel of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    half: Half,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    rows_at: u32,
    blocks: u32,
    row_groups: u32,
    x_at: u32,
    x_stride: u32,
    out_stride: u32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        let constants = vec![("WORKGROUP", WORKGROUP.to_string()), ("HALF", self.half.name().to_owned())];
        let bindings = &[Access::Read, Access::Read, Access::Write];
        let params = size_of::<Params>();
        Template { name: "quantise", constants, bindings, params, needs: Needs::Nothing }
    }

    /// Every variant, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        Half::ALL.map(|half| Self { half }).into()
    }
}

/// Rows of x as codes and scales; a row that is in no list is left as it was.
#[derive(Debug, Clone)]
pub(crate) struct Quantised {
    pub buffer: wgpu::Buffer,
    /// vec4 from a row to the next.
    pub quad_stride: u32,
}

/// vec4 of a row: two of codes for each block, then the scales.
const fn row_quads(blocks: u32) -> u32 {
    2 * blocks + blocks.div_ceil(4)
}

/// Records the listed rows of x, whose columns are whole blocks. The buffer is the caller's to give back.
pub(crate) fn record(recorder: &mut Recorder<'_>, x: &Placed, list: List) -> Result<Quantised, BackendError> {
    let blocks = x.tensor.cols / QUANT_BLOCK as u32;
    let quad_stride = row_quads(blocks);
    let bytes = x.rows as u64 * u64::from(quad_stride) * 16;
    let buffer = recorder.scratch.take(recorder.gpu, bytes)?;
    let row_groups = blocks.div_ceil(WORKGROUP);
    let params = Params {
        rows: list.count,
        rows_at: list.at,
        blocks,
        row_groups,
        x_at: x.quad_at(),
        x_stride: x.quad_stride(),
        out_stride: 4 * quad_stride,
    };
    let variant = Variant { half: recorder.gpu.decisions.half };
    let places = vec![Place::Buffer(x.buffer.clone()), Place::Tables, Place::Buffer(buffer.clone())];
    let workgroups = u64::from(list.count) * u64::from(row_groups);
    let values = u64::from(list.count) * u64::from(blocks) * QUANT_BLOCK as u64;
    let loads = Loads { activations: values * size_of::<f32>() as u64, ..Loads::default() };
    recorder.dispatch(Kernel::Quantise(variant), &params, places, workgroups, loads)?;
    Ok(Quantised { buffer, quad_stride })
}

/// Bytes that a matmul loads of a block: codes and scale.
pub(crate) const BLOCK_LOADS: u64 = QUANT_BLOCK as u64 + size_of::<f32>() as u64;

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<Params>(), offset_of!(Params, out_stride)), (28, 24));
    }

    #[test]
    fn a_row_has_room_for_its_scales() {
        assert_eq!([0, 1, 4, 5].map(row_quads), [0, 3, 9, 12]);
    }
}
