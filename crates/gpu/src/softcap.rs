//! `softcap`: records an operation. What the kernel does is in `shaders/softcap.wgsl`.

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
    quads: u32,
    row_groups: u32,
    x_at: u32,
    x_stride: u32,
    cap: f32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        let constants = vec![("WORKGROUP", WORKGROUP.to_string())];
        let bindings = &[Access::Write];
        Template { name: "softcap", constants, bindings, params: size_of::<Params>(), needs: Needs::Nothing }
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
    cap: f32,
) -> Result<(), BackendError> {
    let x = plan.tensors.place(recorder, x)?;
    let row_groups = x.quads().div_ceil(WORKGROUP);
    let params = Params {
        rows: word(x.rows),
        quads: x.quads(),
        row_groups,
        x_at: x.quad_at(),
        x_stride: x.quad_stride(),
        cap,
    };
    let workgroups = u64::from(params.rows) * u64::from(row_groups);
    let activations = u64::from(params.rows) * u64::from(params.quads) * 16;
    let loads = Loads { activations, ..Loads::default() };
    recorder.dispatch(Kernel::Softcap(Variant), &params, vec![Place::Buffer(x.buffer)], workgroups, loads)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<Params>(), offset_of!(Params, cap)), (24, 20));
    }
}
