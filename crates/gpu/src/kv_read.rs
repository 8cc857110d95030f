//! `kv_read`: records an operation. What the kernel does is in `shaders/kv_read.wgsl`.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{BackendError, CHUNK_TOKENS, PageElement, RopeId, RowSet, Tensor};

use crate::command::{Place, Recorder, word};
use crate::cost::Loads;
use crate::decide::WORKGROUP;
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::pages::row_words;
use crate::step::Plan;

/// The kernels of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    element: PageElement,
    /// Even, as the heads of every pool on a device.
    head_dim: u32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    records_at: u32,
    directory_at: u32,
    pairs: u32,
    row_groups: u32,
    half: u32,
    sines_at: u32,
    out_at: u32,
    out_stride: u32,
    first: u32,
    cols: u32,
    padding: u32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        let constants = vec![
            ("WORKGROUP", WORKGROUP.to_string()),
            ("CODEC", self.element.name().to_owned()),
            ("HEAD_PAIRS", (self.head_dim / 2).to_string()),
            ("ROW_WORDS", row_words(self.element, self.head_dim).to_string()),
            ("CHUNK", CHUNK_TOKENS.to_string()),
        ];
        let bindings = &[Access::Write, Access::Read, Access::Read, Access::Read];
        Template { name: "kv_read", constants, bindings, params: size_of::<Params>(), needs: Needs::Nothing }
    }

    /// Variants of every element, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let of = |element| [6, 64].map(|head_dim| Self { element, head_dim });
        [PageElement::F16, PageElement::F32].into_iter().flat_map(of).collect()
    }
}

/// Records one operation: columns of `out`, from `at` on, get keys and values.
pub(crate) fn record(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    layer: u32,
    rope: Option<RopeId>,
    out: Tensor,
    at: u32,
) -> Result<(), BackendError> {
    let out = plan.tensors.place(recorder, out)?;
    if out.rows == 0 {
        return Ok(());
    }
    let pool = plan.pool()?;
    let geometry = pool.geometry;
    let rope = rope.map(|rope| plan.weights.rope(rope)).transpose()?;
    let half = rope.map_or(0, |rope| word(rope.rotary_dim / 2));
    let directory_at = plan.directory(recorder, pool, layer);
    let records_at = plan.rows.records(plan.step, RowSet::All, &mut recorder.recording.tables);
    let head_dim = word(geometry.head_dim);
    let pairs = word(geometry.kv_heads) * (head_dim / 2);
    let cols = out.tensor.cols;
    let params = Params {
        rows: word(out.rows),
        records_at,
        directory_at,
        pairs,
        row_groups: pairs.div_ceil(WORKGROUP),
        half,
        sines_at: rope.map_or(0, |rope| word(rope.positions)) * half,
        out_at: word(out.at),
        out_stride: word(out.stride),
        first: at,
        cols,
        padding: word(out.columns()) - cols,
    };
    let places = vec![
        Place::Buffer(out.buffer),
        Place::Tables,
        rope.map_or(Place::Tables, |rope| Place::Buffer(rope.buffer.clone())),
        Place::Buffer(pool.stripe(layer)?.clone()),
    ];
    let kernel = Kernel::KvRead(Variant { element: geometry.element, head_dim });
    let workgroups = u64::from(params.rows) * u64::from(params.row_groups);
    // A word for each element, also where a word holds two.
    let pages = u64::from(params.rows) * u64::from(pairs) * 16;
    recorder.dispatch(kernel, &params, places, workgroups, Loads { pages, ..Loads::default() })
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<Params>(), offset_of!(Params, padding)), (48, 44));
    }
}
