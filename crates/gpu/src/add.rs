//! `add`: records an operation. What the kernel does is in `shaders/add.wgsl`; the residual that a norm takes in is
//! `rms_norm`'s.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{BackendError, Tensor};

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
    cols: u32,
    row_groups: u32,
    x_at: u32,
    x_stride: u32,
    added_at: u32,
    added_stride: u32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        let constants = vec![("WORKGROUP", WORKGROUP.to_string())];
        let bindings = &[Access::Write, Access::Read];
        Template { name: "add", constants, bindings, params: size_of::<Params>(), needs: Needs::Nothing }
    }

    /// Every variant, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        vec![Self]
    }
}

/// Records one operation: columns of `from`, from `at` on, are added to `x`.
pub(crate) fn record(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    x: Tensor,
    from: Tensor,
    at: u32,
) -> Result<(), BackendError> {
    let x = plan.tensors.place(recorder, x)?;
    let from = plan.tensors.place(recorder, from)?;
    let cols = x.tensor.cols;
    let params = Params {
        rows: word(x.rows),
        cols,
        row_groups: cols.div_ceil(WORKGROUP),
        x_at: word(x.at),
        x_stride: word(x.stride),
        added_at: word(from.at) + at,
        added_stride: word(from.stride),
    };
    let places = vec![Place::Buffer(x.buffer), Place::Buffer(from.buffer)];
    let workgroups = u64::from(params.rows) * u64::from(params.row_groups);
    let activations = u64::from(params.rows) * u64::from(cols) * 8;
    let loads = Loads { activations, ..Loads::default() };
    recorder.dispatch(Kernel::Add(Variant), &params, places, workgroups, loads)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<Params>(), offset_of!(Params, added_stride)), (28, 24));
    }
}
