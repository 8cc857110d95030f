//! `rope` by itself: records an operation. What the kernel does is in `shaders/rope.wgsl`; where keys are appended
//! next, `kv_append` does it.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{BackendError, RopeId, RowSet, Tensor};

use crate::command::{Place, Recorder, word};
use crate::cost::Loads;
use crate::decide::WORKGROUP;
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::step::Plan;

/// The one kernel of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Variant;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    records_at: u32,
    heads: u32,
    head_dim: u32,
    half: u32,
    sines_at: u32,
    x_at: u32,
    x_stride: u32,
    row_groups: u32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        let constants = vec![("WORKGROUP", WORKGROUP.to_string())];
        let bindings = &[Access::Write, Access::Read, Access::Read];
        Template { name: "rope", constants, bindings, params: size_of::<Params>(), needs: Needs::Nothing }
    }

    /// Every variant, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        vec![Self]
    }
}

/// Records one operation.
pub(crate) fn record(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    x: Tensor,
    head_dim: u32,
    table: RopeId,
) -> Result<(), BackendError> {
    let rows: RowSet = x.rows;
    let x = plan.tensors.place(recorder, x)?;
    let rope = plan.weights.rope(table)?;
    let half = word(rope.rotary_dim / 2);
    if half == 0 {
        return Ok(());
    }
    let records_at = plan.rows.records(plan.step, rows, &mut recorder.recording.tables);
    let heads = x.tensor.cols / head_dim;
    let params = Params {
        rows: word(x.rows),
        records_at,
        heads,
        head_dim,
        half,
        sines_at: word(rope.positions) * half,
        x_at: word(x.at),
        x_stride: word(x.stride),
        row_groups: (heads * half).div_ceil(WORKGROUP),
    };
    let places = vec![Place::Buffer(x.buffer), Place::Tables, Place::Buffer(rope.buffer.clone())];
    let workgroups = u64::from(params.rows) * u64::from(params.row_groups);
    let activations = u64::from(params.rows) * u64::from(heads * half) * 8;
    let loads = Loads { activations, ..Loads::default() };
    recorder.dispatch(Kernel::Rope(Variant), &params, places, workgroups, loads)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<Params>(), offset_of!(Params, row_groups)), (36, 32));
    }
}
