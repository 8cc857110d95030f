//! `kv_append`: records an append, with the norms and the rotation before it where they are fused. What the kernels
//! do is in `shaders/kv_append*.wgsl`.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{BackendError, CHUNK_TOKENS, PageElement, RowSet, Tensor};

use crate::command::{Place, Recorder, word};
use crate::cost::Loads;
use crate::decide::WORKGROUP;
use crate::fuse::Roped;
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::pages::row_words;
use crate::step::Plan;

/// The kernels of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    element: PageElement,
    head_dim: u32,
    /// With the norms and the rotation of the heads.
    roped: bool,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    records_at: u32,
    directory_at: u32,
    k_at: u32,
    k_stride: u32,
    v_at: u32,
    v_stride: u32,
    token_words: u32,
    token_groups: u32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RopedParams {
    rows: u32,
    records_at: u32,
    directory_at: u32,
    heads: u32,
    kv_heads: u32,
    q_at: u32,
    k_at: u32,
    v_at: u32,
    stride: u32,
    half: u32,
    sines_at: u32,
    normed: u32,
    q_weight_at: u32,
    k_weight_at: u32,
    q_epsilon: f32,
    k_epsilon: f32,
    head_dim: f32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        use Access::{Read, Write};
        let constants = vec![
            ("WORKGROUP", WORKGROUP.to_string()),
            ("CODEC", self.element.name().to_owned()),
            ("HEAD_DIM", self.head_dim.to_string()),
            ("ROW_WORDS", row_words(self.element, self.head_dim).to_string()),
            ("CHUNK", CHUNK_TOKENS.to_string()),
        ];
        let (name, bindings, params): (_, &[Access], _) = match self.roped {
            false => ("kv_append", &[Read, Read, Read, Write], size_of::<Params>()),
            true => ("kv_append_roped", &[Write, Read, Read, Read, Write], size_of::<RopedParams>()),
        };
        Template { name, constants, bindings, params, needs: Needs::Nothing }
    }

    /// Variants of every element, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let of = |element| [false, true].map(|roped| Self { element, head_dim: 64, roped });
        [PageElement::F16, PageElement::F32].into_iter().flat_map(of).collect()
    }
}

/// Records an append by itself.
pub(crate) fn record(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    layer: u32,
    k: Tensor,
    v: Tensor,
) -> Result<(), BackendError> {
    let k = plan.tensors.place(recorder, k)?;
    let v = plan.tensors.place(recorder, v)?;
    if k.rows == 0 {
        return Ok(());
    }
    let pool = plan.pool()?;
    let geometry = pool.geometry;
    let directory_at = plan.directory(recorder, pool, layer);
    let records_at = plan.rows.records(plan.step, RowSet::All, &mut recorder.recording.tables);
    let head_dim = word(geometry.head_dim);
    let token_words = word(geometry.kv_heads) * row_words(geometry.element, head_dim);
    let params = Params {
        rows: word(k.rows),
        records_at,
        directory_at,
        k_at: word(k.at),
        k_stride: word(k.stride),
        v_at: word(v.at),
        v_stride: word(v.stride),
        token_words,
        token_groups: token_words.div_ceil(WORKGROUP),
    };
    let places = vec![
        Place::Buffer(k.buffer),
        Place::Buffer(v.buffer),
        Place::Tables,
        Place::Buffer(pool.stripe(layer)?.clone()),
    ];
    let kernel = Kernel::KvAppend(Variant { element: geometry.element, head_dim, roped: false });
    let workgroups = u64::from(params.rows) * u64::from(params.token_groups);
    let activations = u64::from(params.rows) * u64::from(token_words) * 16;
    let loads = Loads { activations, ..Loads::default() };
    recorder.dispatch(kernel, &params, places, workgroups, loads)
}

/// Records an append with what comes before it, and returns whether it could: queries, keys and values must share
/// their rows.
pub(crate) fn record_roped(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    layer: u32,
    [k, v]: [Tensor; 2],
    roped: &Roped,
) -> Result<bool, BackendError> {
    let q = plan.tensors.place(recorder, roped.q)?;
    let k = plan.tensors.place(recorder, k)?;
    let v = plan.tensors.place(recorder, v)?;
    if [&k, &v].iter().any(|t| t.buffer != q.buffer || t.stride != q.stride || t.rows != q.rows) {
        return Ok(false);
    }
    let pool = plan.pool()?;
    let geometry = pool.geometry;
    let head_dim = word(geometry.head_dim);
    let rope = roped.rope.map(|rope| plan.weights.rope(rope)).transpose()?;
    let half = rope.map_or(0, |rope| word(rope.rotary_dim / 2));
    let [q_norm, k_norm] = match roped.norms {
        None => [(0, 0.0); 2],
        Some([(q, q_epsilon), (k, k_epsilon)]) => {
            let vectors = &plan.weights.vectors;
            [(vectors.at(q)?, q_epsilon), (vectors.at(k)?, k_epsilon)]
        }
    };
    let rope_place = rope.map_or(Place::Tables, |rope| Place::Buffer(rope.buffer.clone()));
    let sines_at = rope.map_or(0, |rope| word(rope.positions)) * half;
    let directory_at = plan.directory(recorder, pool, layer);
    let records_at = plan.rows.records(plan.step, RowSet::All, &mut recorder.recording.tables);
    let params = RopedParams {
        rows: word(q.rows),
        records_at,
        directory_at,
        heads: q.tensor.cols / head_dim,
        kv_heads: word(geometry.kv_heads),
        q_at: word(q.at),
        k_at: word(k.at),
        v_at: word(v.at),
        stride: word(q.stride),
        half,
        sines_at,
        normed: u32::from(roped.norms.is_some()),
        q_weight_at: q_norm.0,
        k_weight_at: k_norm.0,
        q_epsilon: q_norm.1,
        k_epsilon: k_norm.1,
        head_dim: head_dim as f32,
    };
    let places = vec![
        Place::Buffer(q.buffer),
        Place::Tables,
        rope_place,
        plan.vectors(),
        Place::Buffer(pool.stripe(layer)?.clone()),
    ];
    let kernel = Kernel::KvAppend(Variant { element: geometry.element, head_dim, roped: true });
    let heads = u64::from(params.heads) + 2 * u64::from(params.kv_heads);
    let head_bytes = 4 * u64::from(head_dim);
    let normed = if roped.norms.is_some() { heads - u64::from(params.kv_heads) } else { 0 };
    let loads = Loads {
        activations: q.rows as u64 * heads * head_bytes,
        weights: q.rows as u64 * normed * head_bytes,
        ..Loads::default()
    };
    recorder.dispatch(kernel, &params, places, q.rows as u64 * heads, loads)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<Params>(), offset_of!(Params, token_groups)), (36, 32));
        assert_eq!((size_of::<RopedParams>(), offset_of!(RopedParams, head_dim)), (68, 64));
    }
}
