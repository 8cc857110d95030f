//! `rms_norm`: records a norm of rows or of heads. What the kernels do is in `shaders/rms_norm*.wgsl`; a norm whose
//! result is shrunk at once is recorded by `lora_matmul`.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{BackendError, RowSet};

use crate::command::{Place, Recorder, word};
use crate::cost::{self, Loads};
use crate::decide::{self, RowThreads, WORKGROUP};
use crate::fuse::Norm;
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::step::Plan;
use crate::tensors::Placed;

/// The kernels of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    /// Whole rows.
    Rows {
        residual: Residual,
        /// Whether results go to the buffer of x.
        in_place: bool,
        threads: RowThreads,
    },
    /// Each head of a row; whether x is another buffer than the result's.
    Heads { apart: bool },
}

/// What is added to x first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Residual {
    None,
    /// A tensor.
    Plain,
    /// A tensor after a norm of its own.
    Normed,
}

impl Residual {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 3] = [Self::None, Self::Plain, Self::Normed];

    /// What a norm adds.
    pub(crate) const fn of(norm: &Norm) -> Self {
        match (norm.add, norm.after) {
            (None, _) => Self::None,
            (Some(_), None) => Self::Plain,
            (Some(_), Some(_)) => Self::Normed,
        }
    }

    /// Constants of templates that norm.
    pub(crate) fn constants(self, threads: RowThreads) -> [(&'static str, String); 3] {
        let name = match self {
            Self::None => "none",
            Self::Plain => "plain",
            Self::Normed => "normed",
        };
        let added = u32::from(self != Self::None);
        [
            ("RESIDUAL", name.to_owned()),
            ("RESIDUALS", added.to_string()),
            ("NORM_ROOT", threads.root.to_string()),
        ]
    }
}

/// The parameters of a norm of whole rows, in every kernel that norms them.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct NormParams {
    pub rows: u32,
    pub rows_at: u32,
    pub cols: u32,
    pub weight_at: u32,
    pub normed_at: u32,
    pub normed_stride: u32,
    pub add_at: u32,
    pub add_stride: u32,
    pub sum_at: u32,
    pub sum_stride: u32,
    pub after_at: u32,
    pub epsilon: f32,
    pub after_epsilon: f32,
    /// A struct within uniform parameters is whole vec4.
    pub padding: [u32; 3],
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RowsParams {
    x_at: u32,
    x_stride: u32,
    x_quads: u32,
    summed: u32,
    packed: u32,
    padding: [u32; 3],
    norm: NormParams,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct HeadsParams {
    rows: u32,
    heads: u32,
    head_dim: u32,
    weight_at: u32,
    x_at: u32,
    x_stride: u32,
    out_at: u32,
    out_stride: u32,
    out_columns: u32,
    add_at: u32,
    add_stride: u32,
    added: u32,
    epsilon: f32,
    packed: u32,
    rows_at: u32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        use Access::{Read, Write};
        match self {
            Self::Rows { residual, in_place, threads } => {
                let mut constants = vec![
                    ("WORKGROUP", threads.workgroup.to_string()),
                    ("TARGET", if in_place { "x" } else { "own" }.to_owned()),
                    ("RESIDUAL_BINDING", if in_place { "4" } else { "5" }.to_owned()),
                ];
                constants.extend(residual.constants(threads));
                let bindings: &[Access] = match (in_place, residual) {
                    (true, Residual::None) => &[Write, Read, Read],
                    (true, _) => &[Write, Read, Read, Read],
                    (false, Residual::None) => &[Write, Read, Read, Write],
                    (false, _) => &[Write, Read, Read, Write, Read],
                };
                let params = size_of::<RowsParams>();
                Template { name: "rms_norm", constants, bindings, params, needs: Needs::Nothing }
            }
            Self::Heads { apart } => {
                let constants = vec![
                    ("WORKGROUP", WORKGROUP.to_string()),
                    ("APART", u32::from(apart).to_string()),
                    ("X", if apart { "x" } else { "out" }.to_owned()),
                ];
                let bindings: &[Access] =
                    if apart { &[Write, Read, Read, Read, Write] } else { &[Write, Read, Read, Read] };
                let params = size_of::<HeadsParams>();
                Template { name: "rms_norm_heads", constants, bindings, params, needs: Needs::Nothing }
            }
        }
    }

    /// Every variant, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let rows = |residual| {
            [(false, decide::SMALL), (true, decide::SMALL), (false, decide::LARGE), (true, decide::LARGE)]
                .map(|(in_place, threads)| Self::Rows { residual, in_place, threads })
        };
        let heads = [false, true].map(|apart| Self::Heads { apart });
        Residual::ALL.into_iter().flat_map(rows).chain(heads).collect()
    }
}

/// Records a norm.
pub(crate) fn record(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    norm: &Norm,
) -> Result<(), BackendError> {
    let dispatch = if norm.heads == 1 { rows } else { heads };
    if norm.keeps_sum && norm.x.rows != norm.out.rows {
        // Every row of x is summed, and only some are normed: the sums come first.
        let add = norm.add.map(|add| plan.tensors.place(recorder, add)).transpose()?;
        let x = plan.tensors.place(recorder, norm.x)?;
        let bytes = (x.rows * x.columns() * size_of::<f32>()) as u64;
        let scratch = recorder.scratch.take(recorder.gpu, bytes)?;
        let out = Placed { buffer: scratch.clone(), at: 0, stride: x.columns(), ..x.clone() };
        dispatch(plan, recorder, norm, &Tensors { x: &x, add: add.as_ref(), out: &out })?;
        recorder.scratch.give(&scratch);
        return record(plan, recorder, &Norm { add: None, after: None, keeps_sum: false, ..*norm });
    }
    let add = norm.add.map(|add| plan.tensors.place(recorder, add)).transpose()?;
    let x = plan.tensors.place(recorder, norm.x)?;
    let out = plan.tensors.place(recorder, norm.out)?;
    dispatch(plan, recorder, norm, &Tensors { x: &x, add: add.as_ref(), out: &out })
}

/// The parameters of a norm whose tensors have been placed. `rows` are stored.
pub(crate) fn params(
    plan: &Plan<'_>,
    norm: &Norm,
    rows: usize,
    add: Option<&Placed>,
    out: &Placed,
) -> Result<NormParams, BackendError> {
    let vectors = &plan.weights.vectors;
    let (after_at, after_epsilon) = match norm.after {
        Some((weight, epsilon)) => (vectors.at(weight)? / 4, epsilon),
        None => (0, 0.0),
    };
    Ok(NormParams {
        rows: word(rows),
        cols: norm.x.cols,
        weight_at: vectors.at(norm.weight)? / 4,
        normed_at: out.quad_at(),
        normed_stride: out.quad_stride(),
        add_at: add.map_or(0, Placed::quad_at),
        add_stride: add.map_or(0, Placed::quad_stride),
        after_at,
        epsilon: norm.epsilon,
        after_epsilon,
        ..NormParams::default()
    })
}

/// A norm's tensors where they have been placed.
struct Tensors<'a> {
    x: &'a Placed,
    add: Option<&'a Placed>,
    out: &'a Placed,
}

impl Tensors<'_> {
    /// The list of the rows that are normed, where only those of outputs are.
    fn packed_at(&self, plan: &mut Plan<'_>, recorder: &mut Recorder<'_>) -> Option<u32> {
        let packed = self.x.tensor.rows == RowSet::All && self.out.tensor.rows == RowSet::Outputs;
        packed.then(|| plan.rows.outputs(plan.step, &mut recorder.recording.tables))
    }
}

fn rows(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    norm: &Norm,
    tensors: &Tensors<'_>,
) -> Result<(), BackendError> {
    let &Tensors { x, add, out } = tensors;
    let packed_at = tensors.packed_at(plan, recorder);
    let norm_params =
        NormParams { rows_at: packed_at.unwrap_or_default(), ..params(plan, norm, out.rows, add, out)? };
    let params = RowsParams {
        x_at: x.quad_at(),
        x_stride: x.quad_stride(),
        x_quads: x.quads(),
        summed: u32::from(norm.keeps_sum),
        packed: u32::from(packed_at.is_some()),
        padding: [0; 3],
        norm: norm_params,
    };
    let threads = decide::row_threads(norm.x.cols);
    let variant = Variant::Rows { residual: Residual::of(norm), in_place: out.buffer == x.buffer, threads };
    let mut places = vec![Place::Buffer(x.buffer.clone()), plan.vectors(), Place::Tables];
    if out.buffer != x.buffer {
        places.push(Place::Buffer(out.buffer.clone()));
    }
    places.extend(add.map(|add| Place::Buffer(add.buffer.clone())));
    let mut loads = Loads::default();
    (0..out.rows).for_each(|_| loads += cost::norm(Residual::of(norm), x.quads()));
    recorder.dispatch(Kernel::RmsNorm(variant), &params, places, out.rows as u64, loads)
}

fn heads(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    norm: &Norm,
    tensors: &Tensors<'_>,
) -> Result<(), BackendError> {
    let &Tensors { x, add, out } = tensors;
    let packed_at = tensors.packed_at(plan, recorder);
    let params = HeadsParams {
        rows: word(out.rows),
        heads: norm.heads,
        head_dim: norm.x.cols / norm.heads,
        weight_at: plan.weights.vectors.at(norm.weight)?,
        x_at: word(x.at),
        x_stride: word(x.stride),
        out_at: word(out.at),
        out_stride: word(out.stride),
        out_columns: word(out.columns()),
        add_at: add.map_or(0, |add| word(add.at)),
        add_stride: add.map_or(0, |add| word(add.stride)),
        added: u32::from(add.is_some()),
        epsilon: norm.epsilon,
        packed: u32::from(packed_at.is_some()),
        rows_at: packed_at.unwrap_or_default(),
    };
    let apart = x.buffer != out.buffer;
    let elements = 4 * out.rows as u64 * u64::from(norm.x.cols);
    let activations = if add.is_some() { 3 * elements } else { 2 * elements };
    let loads = Loads { activations, weights: elements, ..Loads::default() };
    let add = add.map_or(Place::Tables, |add| Place::Buffer(add.buffer.clone()));
    let mut places = vec![Place::Buffer(out.buffer.clone()), plan.vectors(), add, Place::Tables];
    if apart {
        places.push(Place::Buffer(x.buffer.clone()));
    }
    let workgroups = out.rows as u64 * u64::from(norm.heads);
    recorder.dispatch(Kernel::RmsNorm(Variant::Heads { apart }), &params, places, workgroups, loads)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<NormParams>(), offset_of!(NormParams, after_epsilon)), (64, 48));
        assert_eq!((size_of::<RowsParams>(), offset_of!(RowsParams, norm)), (96, 32));
        assert_eq!((size_of::<HeadsParams>(), offset_of!(HeadsParams, rows_at)), (60, 56));
    }
}
