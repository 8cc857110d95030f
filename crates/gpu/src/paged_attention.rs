//! `paged_attention`: records the kernels of an operation, for generated and for prompt rows. What
//! the kernels do is in `shaders/paged_attention_*.wgsl`.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{
    ATTENTION_SPLIT, AttentionShape, BackendError, CHUNK_TOKENS, GROUP_CHANNELS, PageElement, RowSet, Tensor,
};

use crate::command::{Place, Recorder, word};
use crate::cost::{self, Loads};
use crate::decide::{self, AttentionTile, Half, WORKGROUP};
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::pages::row_words;
use crate::parts::Kinds;
use crate::rows::{AttentionTiles, BlockRead};
use crate::step::Plan;

/// The kernels of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    /// One block of a generated row, or of a few.
    Decode(PageElement, AttentionTile, Half, Pages),
    /// The blocks of a generated row, joined.
    Merge(AttentionTile),
    /// All blocks of a tile of prompt rows.
    Prefill(PageElement, AttentionTile, Half, Pages),
}

/// Which pages a kernel reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Pages {
    /// The pool's own numbers.
    Exact,
    /// Any, of codes, and of these kinds.
    Coded(Kinds),
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
        // Numbers in f32 have no use for halves; scales of codes have.
        let half = match self {
            Self::Decode(PageElement::F16, _, half, _) | Self::Prefill(PageElement::F16, _, half, _) => half,
            Self::Decode(_, _, half, Pages::Coded(_)) | Self::Prefill(_, _, half, Pages::Coded(_)) => half,
            Self::Decode(..) | Self::Merge(_) | Self::Prefill(..) => Half::Integer,
        };
        let bindings = |pages: Pages| -> &'static [Access] {
            match pages {
                Pages::Exact => &[Read, Read, Read, Write],
                Pages::Coded(_) => &[Read, Read, Read, Write, Read, Read, Read, Read],
            }
        };
        let (name, tile, pages, bindings, params): (_, _, _, &[Access], _) = match self {
            Self::Decode(element, tile, _, pages) => {
                let read = Some((element, pages));
                ("paged_attention_decode", tile, read, bindings(pages), size_of::<DecodeParams>())
            }
            Self::Merge(tile) => {
                let bindings = &[Read, Read, Write];
                ("paged_attention_merge", tile, None, bindings, size_of::<MergeParams>())
            }
            Self::Prefill(element, tile, _, pages) => {
                let read = Some((element, pages));
                ("paged_attention_prefill", tile, read, bindings(pages), size_of::<PrefillParams>())
            }
        };
        let span = match pages {
            Some((_, Pages::Coded(_))) => decide::CODED_SPAN,
            Some((_, Pages::Exact)) | None => 1,
        };
        let (keys, stretch) = match pages {
            Some((_, Pages::Coded(_))) => (decide::CODED_KEYS, GROUP_CHANNELS as u32 / 4),
            Some((_, Pages::Exact)) | None => (1, tile.quads()),
        };
        // Rows of several sequences first read what they share, then the rest: by code of its own, but where that is long.
        let is_long = matches!(pages, Some((_, Pages::Coded(kinds))) if kinds.expands_keys());
        let last_phase = u32::from(matches!(self, Self::Decode(..)) && tile.vectors > 1 && !is_long);
        let numbers = [
            ("WORKGROUP", WORKGROUP),
            ("HEAD_DIM", tile.head_dim),
            ("ABREAST", tile.abreast),
            ("VECTORS", tile.vectors),
            ("QUERY_ROWS", tile.queries()),
            ("QUADS", tile.quads()),
            ("PHASES", last_phase + 1),
            ("LAST_PHASE", last_phase),
            ("TILE", keys),
            ("STRETCH", stretch),
            ("SPAN", span),
            ("LANES", tile.lanes(span)),
            ("GROUPS", tile.groups(span)),
            ("OWNED", tile.owned()),
            ("SPLIT", ATTENTION_SPLIT as u32),
            ("CHUNK", CHUNK_TOKENS as u32),
        ];
        let mut constants: Vec<(&str, String)> = numbers.map(|(n, v)| (n, v.to_string())).into();
        if let Some((element, pages)) = pages {
            let (coded, kinds) = match pages {
                Pages::Exact => (false, Kinds::default()),
                Pages::Coded(kinds) => (true, kinds),
            };
            let narrow = if tile.head_dim.is_multiple_of(4) { "" } else { "_narrow" };
            let codec = if coded { format!("coded_{element}") } else { format!("{element}{narrow}") };
            constants.push(("CODEC", codec));
            constants.push(("NARROW", narrow.to_owned()));
            constants.push(("TOO_CODED", u32::from(coded).to_string()));
            constants.push(("CODED", if coded { "_coded" } else { "" }.to_owned()));
            constants.push(("HALF", half.name().to_owned()));
            constants.push(("ROW_WORDS", row_words(element, tile.head_dim).to_string()));
            constants.push(("GROUP", GROUP_CHANNELS.to_string()));
            constants.extend(kinds.constants());
            constants.extend(
                [("WORDS", "5"), ("CONSTANTS", "6"), ("TABLE", "7"), ("WORD_QUADS", "8")]
                    .map(|(n, v)| (n, v.to_owned())),
            );
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
                (PageElement::F32, Half::Native),
            ] {
                let few = Pages::Coded(Kinds::default());
                let every = Pages::Coded(Kinds::ALL);
                for pages in [Pages::Exact, few, every] {
                    for heads in [1, 2, 4] {
                        let alone = decide::attention_decode(head_dim, heads);
                        let shared = decide::attention_shared(caps, head_dim, heads);
                        all.extend([alone, shared].map(|tile| Self::Decode(element, tile, half, pages)));
                    }
                    let prefill = decide::attention_prefill(caps, head_dim);
                    all.push(Self::Prefill(element, prefill, half, pages));
                }
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
    let coded = plan.coded(recorder, layer)?;
    let constants = plan.constants();
    let coded_pages = Pages::Coded(coded.as_ref().map_or_else(Kinds::default, |coded| coded.parts.kinds));
    let tables = &mut recorder.recording.tables;
    let records_at = plan.rows.records(plan.step, RowSet::All, tables);
    let tiles = AttentionTiles { shared: shared.vectors, prefill: prefill.queries(), window: shape.window };
    let parts = coded.as_ref().map(|coded| (&*coded.parts, pool.geometry));
    let rows = plan.rows.attention(plan.step, band, tiles, parts, tables).clone();
    let window = shape.window.unwrap_or(u32::MAX);
    let softcap = shape.softcap.unwrap_or(0.0);
    let places = |target: &wgpu::Buffer, pages: Pages| {
        let stripe = Place::Buffer(stripe.clone());
        let mut places = vec![
            Place::Buffer(q.buffer.clone()),
            stripe.clone(),
            Place::Tables,
            Place::Buffer(target.clone()),
        ];
        if let (Pages::Coded(_), Some(coded)) = (pages, &coded) {
            places.extend([stripe.clone(), constants.clone(), coded.rope.clone(), stripe]);
        }
        places
    };
    let directory_of = |pages| match (pages, &coded) {
        (Pages::Coded(_), Some(coded)) => coded.directory_at,
        _ => directory_at,
    };

    if rows.merges.count > 0 {
        let state = 2 + u64::from(shape.head_dim);
        let states = u64::from(rows.states) * u64::from(shape.heads);
        let partials = recorder.scratch.take(recorder.gpu, states * state * size_of::<f32>() as u64)?;
        let numbers = |blocks: &[BlockRead], tile| {
            let pages = blocks.iter().map(|block| block.pages(tile, element)).sum::<u64>();
            pages * u64::from(shape.kv_heads)
        };
        for (items, pages, bytes, tile) in [
            (rows.alone, Pages::Exact, numbers(&rows.alone_blocks, alone), alone),
            (rows.shared, Pages::Exact, numbers(&rows.shared_blocks, shared), shared),
            (rows.coded.alone, coded_pages, rows.coded.alone_pages, alone),
            (rows.coded.shared, coded_pages, rows.coded.shared_pages, shared),
        ] {
            let params = DecodeParams {
                items: items.count,
                items_at: items.at,
                records_at,
                directory_at: directory_of(pages),
                heads: shape.heads,
                kv_heads: shape.kv_heads,
                vectors: heads_per_kv.div_ceil(tile.abreast),
                q_at: word(q.at),
                q_stride: word(q.stride),
                window,
                scale: shape.scale,
                softcap,
            };
            let workgroups = u64::from(items.count) * u64::from(params.kv_heads) * u64::from(params.vectors);
            let kernel = Kernel::PagedAttention(Variant::Decode(element, tile, half, pages));
            let loads = Loads {
                pages: bytes * u64::from(params.vectors),
                activations: workgroups * cost::queries(tile),
                ..Loads::default()
            };
            recorder.dispatch(kernel, &params, places(&partials, pages), workgroups, loads)?;
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

    let blocks = rows.tile_blocks.iter().flatten();
    let numbers = blocks.map(|block| block.pages(prefill, element)).sum::<u64>() * u64::from(shape.heads);
    let codes = rows.coded.tile_pages * u64::from(heads_per_kv);
    for (tiles, pages, bytes) in [(rows.tiles, Pages::Exact, numbers), (rows.coded.tiles, coded_pages, codes)]
    {
        let params = PrefillParams {
            tiles: tiles.count,
            tiles_at: tiles.at,
            records_at,
            directory_at: directory_of(pages),
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
        let kernel = Kernel::PagedAttention(Variant::Prefill(element, prefill, half, pages));
        let workgroups = u64::from(tiles.count) * u64::from(shape.heads);
        let activations = workgroups * cost::queries(prefill);
        let loads = Loads { pages: bytes, activations, ..Loads::default() };
        recorder.dispatch(kernel, &params, places(&out.buffer, pages), workgroups, loads)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<DecodeParams>(), offset_of!(DecodeParams, softcap)), (48, 44));
        assert_eq!((size_of::<MergeParams>(), offset_of!(MergeParams, out_columns)), (24, 20));
        assert_eq!((size_of::<PrefillParams>(), offset_of!(PrefillParams, softcap)), (56, 52));
    }
}
