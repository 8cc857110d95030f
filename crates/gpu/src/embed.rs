//! `embed`: records an operation. What the kernel does is in `shaders/embed.wgsl`.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{BackendError, Dtype, MatrixId, Tensor};

use crate::command::{Place, Recorder, word};
use crate::cost::Loads;
use crate::decide::{self, Half, WORKGROUP};
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::step::Plan;

/// The one kernel of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    dtype: Dtype,
    half: Half,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    tokens_at: u32,
    first: u32,
    tokens: u32,
    codes_at: u32,
    scales_at: u32,
    row_units: u32,
    scale_words: u32,
    row_groups: u32,
    out_at: u32,
    out_stride: u32,
    out_quads: u32,
    scale: f32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        let mut constants = decide::weight_constants(self.dtype, self.half);
        constants.push(("WORKGROUP", WORKGROUP.to_string()));
        let bindings = &[Access::Read, Access::Read, Access::Write];
        Template { name: "embed", constants, bindings, params: size_of::<Params>(), needs: Needs::Nothing }
    }

    /// Every variant, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let variants = |half| decide::BASE_DTYPES.map(|dtype| Self { dtype, half });
        Half::ALL.into_iter().flat_map(variants).collect()
    }
}

/// Records one operation: a dispatch for each part of the table.
pub(crate) fn record(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    table: MatrixId,
    scale: f32,
    out: Tensor,
) -> Result<(), BackendError> {
    let placed = plan.tensors.place(recorder, out)?;
    let matrix = plan.weights.matrix(table)?;
    let tokens_at = plan.tokens(recorder)?;
    let unit_quads = decide::unit_quads(matrix.dtype);
    let row_groups = placed.quads().div_ceil(unit_quads).div_ceil(WORKGROUP);
    let variant = Variant { dtype: matrix.dtype, half: recorder.gpu.decisions.half };
    for part in &matrix.parts {
        let params = Params {
            rows: word(placed.rows),
            tokens_at,
            first: word(part.first),
            tokens: word(part.rows),
            codes_at: part.codes_at,
            scales_at: part.scales_at,
            row_units: word(matrix.layout.units),
            scale_words: word(matrix.layout.scale_words),
            row_groups,
            out_at: placed.quad_at(),
            out_stride: placed.quad_stride(),
            out_quads: placed.quads(),
            scale,
        };
        let places =
            vec![Place::Buffer(part.buffer.clone()), Place::Tables, Place::Buffer(placed.buffer.clone())];
        let workgroups = u64::from(params.rows) * u64::from(row_groups);
        let in_part = |token: u32| (part.first..part.first + part.rows).contains(&(token as usize));
        let rows = plan.step.batch().rows.iter().filter(|row| in_part(row.token)).count() as u64;
        let scale = if matrix.dtype.is_quantised() { 4 } else { 0 };
        let weights = rows * u64::from(placed.quads().div_ceil(unit_quads)) * (16 + scale);
        let loads = Loads { weights, ..Loads::default() };
        recorder.dispatch(Kernel::Embed(variant), &params, places, workgroups, loads)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<Params>(), offset_of!(Params, scale)), (52, 48));
    }
}
