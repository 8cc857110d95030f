//! `swiglu` by itself: records an operation. What the kernel does is in `shaders/swiglu.wgsl`; where gate and up
//! have just been computed, `lora_matmul` does it.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{Activation, BackendError, Tensor};

use crate::command::{Place, Recorder, word};
use crate::cost::Loads;
use crate::decide::{WORKGROUP, activation_name};
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::step::Plan;

/// The one kernel of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    activation: Activation,
    /// Whether results go to the buffer of the gate.
    in_place: bool,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    quads: u32,
    row_groups: u32,
    gate_at: u32,
    gate_stride: u32,
    up_at: u32,
    up_stride: u32,
    out_at: u32,
    out_stride: u32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        let constants = vec![
            ("WORKGROUP", WORKGROUP.to_string()),
            ("ACTIVATION", activation_name(self.activation).to_owned()),
            ("TARGET", if self.in_place { "x" } else { "own" }.to_owned()),
        ];
        let bindings: &[Access] = match self.in_place {
            true => &[Access::Write, Access::Read],
            false => &[Access::Write, Access::Read, Access::Write],
        };
        Template { name: "swiglu", constants, bindings, params: size_of::<Params>(), needs: Needs::Nothing }
    }

    /// Every variant, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let variants = |activation| [false, true].map(|in_place| Self { activation, in_place });
        [Activation::Silu, Activation::GeluTanh].into_iter().flat_map(variants).collect()
    }
}

/// Records one operation.
pub(crate) fn record(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    activation: Activation,
    [gate, up, out]: [Tensor; 3],
) -> Result<(), BackendError> {
    let gate = plan.tensors.place(recorder, gate)?;
    let up = plan.tensors.place(recorder, up)?;
    let out = plan.tensors.place(recorder, out)?;
    let variant = Variant { activation, in_place: out.buffer == gate.buffer };
    let row_groups = gate.quads().div_ceil(WORKGROUP);
    let params = Params {
        rows: word(gate.rows),
        quads: gate.quads(),
        row_groups,
        gate_at: gate.quad_at(),
        gate_stride: gate.quad_stride(),
        up_at: up.quad_at(),
        up_stride: up.quad_stride(),
        out_at: out.quad_at(),
        out_stride: out.quad_stride(),
    };
    let mut places = vec![Place::Buffer(gate.buffer), Place::Buffer(up.buffer)];
    if !variant.in_place {
        places.push(Place::Buffer(out.buffer));
    }
    let workgroups = u64::from(params.rows) * u64::from(row_groups);
    let activations = u64::from(params.rows) * u64::from(params.quads) * 32;
    let loads = Loads { activations, ..Loads::default() };
    recorder.dispatch(Kernel::SwiGlu(variant), &params, places, workgroups, loads)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<Params>(), offset_of!(Params, out_stride)), (36, 32));
    }
}
