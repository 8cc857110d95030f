//! `kv_append`: records an operation. What the kernel does is in `shaders/kv_append.wgsl`.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{BackendError, CHUNK_TOKENS, PageCodec, Tensor};

use crate::command::{Place, Recorder, word};
use crate::decide::WORKGROUP;
use crate::kernel::{Access, Kernel, Template};
use crate::pages::row_words;
use crate::step::Plan;

/// The one kernel of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    codec: PageCodec,
    head_dim: u32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    records_at: u32,
    directory_at: u32,
    stride: u32,
    token_words: u32,
    token_groups: u32,
    page_words: u32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        let constants = vec![
            ("WORKGROUP", WORKGROUP.to_string()),
            ("CODEC", self.codec.name().to_owned()),
            ("ROW_WORDS", row_words(self.codec, self.head_dim).to_string()),
            ("CHUNK", CHUNK_TOKENS.to_string()),
        ];
        let bindings = &[Access::Read, Access::Read, Access::Read, Access::Write];
        Template { name: "kv_append", constants, bindings, params: size_of::<Params>() }
    }

    /// Variants of every codec, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        [PageCodec::F16, PageCodec::F32].map(|codec| Self { codec, head_dim: 64 }).into()
    }
}

/// Records one operation.
pub(crate) fn record(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    layer: u32,
    k: Tensor,
    v: Tensor,
) -> Result<(), BackendError> {
    let placed_k = plan.tensors.place(recorder, k)?;
    let placed_v = plan.tensors.place(recorder, v)?;
    if placed_k.rows == 0 {
        return Ok(());
    }
    let pool = plan.pool()?;
    let geometry = pool.geometry;
    let directory_at = plan.directory(recorder, pool, layer);
    let records_at = plan.rows.records(plan.step, &mut recorder.recording.tables);
    let head_dim = word(geometry.head_dim);
    let token_words = word(geometry.kv_heads) * row_words(geometry.codec, head_dim);
    let params = Params {
        rows: word(placed_k.rows),
        records_at,
        directory_at,
        stride: word(placed_k.stride),
        token_words,
        token_groups: token_words.div_ceil(WORKGROUP),
        page_words: pool.page_words(),
    };
    let places = vec![
        Place::Buffer(placed_k.buffer),
        Place::Buffer(placed_v.buffer),
        Place::Tables,
        Place::Buffer(pool.stripe(layer)?.clone()),
    ];
    let kernel = Kernel::KvAppend(Variant { codec: geometry.codec, head_dim });
    let workgroups = u64::from(params.rows) * u64::from(params.token_groups);
    recorder.dispatch(kernel, &params, places, workgroups)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<Params>(), offset_of!(Params, page_words)), (28, 24));
    }
}
