//! `paged_attention`: records the kernels of an operation, for generated and for prompt rows. What
//! the kernels do is in `shaders/paged_attention_*.wgsl`.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{
    ATTENTION_SPLIT, AttentionShape, BackendError, CHUNK_TOKENS, PageElement, RowSet, Tensor,
};

use crate::command::{Place, Recorder, word};
use crate::cost::{self, Loads};
use crate::decide::{self, AttentionTile, Half, WORKGROUP};
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::pages::row_words;
use crate::rows::AttentionTiles;
use crate::step::Plan;

/// The kernels of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    /// One block of a generated row, or of a few.
    Decode(PageElement, AttentionTile, Half),
    /// The blocks of a generated row, joined.
    Merge(AttentionTile),
    /// All blocks of a tile of prompt rows.
    Prefill(PageElement, AttentionTile, Half),
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DecodeParams {
    items: u32,
    items_at: u32,
    records_at: u32,
    directory_at: u32,
    heads: u32,
    kv_heads: u32,
    vectors: u32,
    q_at: u32,
    q_stride: u32,
    window: u32,
    scale: f32,
    softcap: f32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MergeParams {
    rows: u32,
    rows_at: u32,
    heads: u32,
    out_at: u32,
    out_stride: u32,
    out_columns: u32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PrefillParams {
    tiles: u32,
    tiles_at: u32,
    records_at: u32,
    directory_at: u32,
    heads: u32,
    kv_heads: u32,
    q_at: u32,
    q_stride: u32,
    out_at: u32,
    out_stride: u32,
    out_columns: u32,
    window: u32,
    scale: f32,
    softcap: f32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        use Access::{Read, Write};
        let half = match self {
            Self::Decode(PageElement::F16, _, half) | Self::Prefill(PageElement::F16, _, half) => half,
            Self::Decode(..) | Self::Merge(_) | Self::Prefill(..) => Half::Integer,
        };
        let (name, tile, element, bindings, params): (_, _, _, &[Access], _) = match self {
            Self::Decode(element, tile, _) => {
                let bindings = &[Read, Read, Read, Write];
                ("paged_attention_decode", tile, Some(element), bindings, size_of::<DecodeParams>())
            }
            Self::Merge(tile) => {
                let bindings = &[Read, Read, Write];
                ("paged_attention_merge", tile, None, bindings, size_of::<MergeParams>())
            }
            Self::Prefill(element, tile, _) => {
                let bindings = &[Read, Read, Read, Write];
                ("paged_attention_prefill", tile, Some(element), bindings, size_of::<PrefillParams>())
            }
        };
        let numbers = [
            ("WORKGROUP", WORKGROUP),
            ("HEAD_DIM", tile.head_dim),
            ("ABREAST", tile.abreast),
            ("VECTORS", tile.vectors),
            ("QUERY_ROWS", tile.queries()),
            ("QUADS", tile.quads()),
            ("GROUPS", tile.groups()),
            ("OWNED", tile.owned()),
            ("SPLIT", ATTENTION_SPLIT as u32),
            ("CHUNK", CHUNK_TOKENS as u32),
        ];
        let mut constants: Vec<(&str, String)> = numbers.map(|(n, v)| (n, v.to_string())).into();
        if let Some(element) = element {
            let narrow = if tile.head_dim.is_multiple_of(4) { "" } else { "_narrow" };
            constants.push(("CODEC", format!("{element}{narrow}")));
            constants.push(("HALF", half.name().to_owned()));
            constants.push(("ROW_WORDS", row_words(element, tile.head_dim).to_string()));
        }
        Template { name, constants, bindings, params, needs: Needs::Nothing }
    }

    /// Variants of every element, number of heads and shape of head, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let caps = crate::limits::Caps::lowest();
        let mut all = Vec::new();
        for head_dim in [2, 6, 16, 64, 66, 80, 96, 128, 192, 256] {
            all.push(Self::Merge(decide::attention_decode(head_dim, 1)));
            for (element, half) in [
                (PageElement::F16, Half::Integer),
                (PageElement::F16, Half::Native),
                (PageElement::F32, Half::Integer),
            ] {
                for heads in [1, 2, 4] {
                    all.push(Self::Decode(element, decide::attention_decode(head_dim, heads), half));
                    all.push(Self::Decode(element, decide::attention_shared(caps, head_dim, heads), half));
                }
                all.push(Self::Prefill(element, decide::attention_prefill(caps, head_dim), half));
            }
        }
        all
    }
}

/// Records one operation.
pub(crate) fn record(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    layer: u32,
    shape: &AttentionShape,
    q: Tensor,
    out: Tensor,
) -> Result<(), BackendError> {
    let q = plan.tensors.place(recorder, q)?;
    let out = plan.tensors.place(recorder, out)?;
    if q.rows == 0 {
        return Ok(());
    }
    let pool = plan.pool()?;
    let stripe = pool.stripe(layer)?;
    let element = pool.geometry.element;
    let (caps, half) = (recorder.gpu.caps, recorder.gpu.decisions.half);
    let heads_per_kv = shape.heads / shape.kv_heads;
    let alone = decide::attention_decode(shape.head_dim, heads_per_kv);
    let shared = decide::attention_shared(caps, shape.head_dim, heads_per_kv);
    let prefill = decide::attention_prefill(caps, shape.head_dim);
    let (band, directory_at) = (plan.band(layer), plan.directory(recorder, pool, layer));
    let tables = &mut recorder.recording.tables;
    let records_at = plan.rows.records(plan.step, RowSet::All, tables);
    let tiles = AttentionTiles { shared: shared.vectors, prefill: prefill.queries(), window: shape.window };
    let rows = plan.rows.attention(plan.step, band, tiles, tables).clone();
    let window = shape.window.unwrap_or(u32::MAX);
    let softcap = shape.softcap.unwrap_or(0.0);
    let places = |target: &wgpu::Buffer| {
        vec![
            Place::Buffer(q.buffer.clone()),
            Place::Buffer(stripe.clone()),
            Place::Tables,
            Place::Buffer(target.clone()),
        ]
    };

    if rows.merges.count > 0 {
        let state = 2 + u64::from(shape.head_dim);
        let states = u64::from(rows.states) * u64::from(shape.heads);
        let partials = recorder.scratch.take(recorder.gpu, states * state * size_of::<f32>() as u64)?;
        for (items, blocks, tile) in
            [(rows.alone, &rows.alone_blocks, alone), (rows.shared, &rows.shared_blocks, shared)]
        {
            let params = DecodeParams {
                items: items.count,
                items_at: items.at,
                records_at,
                directory_at,
                heads: shape.heads,
                kv_heads: shape.kv_heads,
                vectors: heads_per_kv.div_ceil(tile.abreast),
                q_at: word(q.at),
                q_stride: word(q.stride),
                window,
                scale: shape.scale,
                softcap,
            };
            let vectors = u64::from(params.kv_heads) * u64::from(params.vectors);
            let kernel = Kernel::PagedAttention(Variant::Decode(element, tile, half));
            let mut loads = Loads::default();
            for block in blocks {
                loads.pages += vectors * block.pages(tile, element);
                loads.activations += vectors * cost::queries(tile);
            }
            recorder.dispatch(kernel, &params, places(&partials), u64::from(items.count) * vectors, loads)?;
        }

        let params = MergeParams {
            rows: rows.merges.count,
            rows_at: rows.merges.at,
            heads: shape.heads,
            out_at: word(out.at),
            out_stride: word(out.stride),
            out_columns: word(out.columns()),
        };
        let merge = Kernel::PagedAttention(Variant::Merge(decide::attention_decode(shape.head_dim, 1)));
        let merge_places =
            vec![Place::Buffer(partials.clone()), Place::Tables, Place::Buffer(out.buffer.clone())];
        let workgroups = u64::from(rows.merges.count) * u64::from(shape.heads);
        let tile = decide::attention_decode(shape.head_dim, 1);
        let activations = u64::from(shape.heads) * cost::merge(tile, rows.states);
        let loads = Loads { activations, ..Loads::default() };
        recorder.dispatch(merge, &params, merge_places, workgroups, loads)?;
        recorder.scratch.give(&partials);
    }

    let params = PrefillParams {
        tiles: rows.tiles.count,
        tiles_at: rows.tiles.at,
        records_at,
        directory_at,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        q_at: word(q.at),
        q_stride: word(q.stride),
        out_at: word(out.at),
        out_stride: word(out.stride),
        out_columns: word(out.columns()),
        window,
        scale: shape.scale,
        softcap,
    };
    let kernel = Kernel::PagedAttention(Variant::Prefill(element, prefill, half));
    let workgroups = u64::from(rows.tiles.count) * u64::from(shape.heads);
    let mut loads = Loads::default();
    for tile in &rows.tile_blocks {
        loads.activations += u64::from(shape.heads) * cost::queries(prefill);
        for block in tile {
            loads.pages += u64::from(shape.heads) * block.pages(prefill, element);
        }
    }
    recorder.dispatch(kernel, &params, places(&out.buffer), workgroups, loads)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<DecodeParams>(), offset_of!(DecodeParams, softcap)), (52, 48));
        assert_eq!((size_of::<MergeParams>(), offset_of!(MergeParams, out_columns)), (24, 20));
        assert_eq!((size_of::<PrefillParams>(), offset_of!(PrefillParams, softcap)), (60, 56));
    }
}
