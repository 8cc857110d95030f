//! `paged_attention`: records the kernels of an operation, for generated and for prompt rows. What
//! the kernels do is in `shaders/paged_attention_*.wgsl`.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{
    ATTENTION_SPLIT, AttentionShape, BackendError, CHUNK_TOKENS, GROUP_CHANNELS, PageElement, RowKind,
    RowSet, Tensor,
};

use crate::attention_mass::{self, Aside, BLOCK_CHUNKS, Left, Measured};
use crate::command::{Place, Recorder, word};
use crate::cost::{self, Loads};
use crate::decide::{self, AttentionTile, Half, WORKGROUP};
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::pages::row_words;
use crate::parts::Kinds;
use crate::rows::{AttentionTiles, BlockRead, List};
use crate::step::Plan;

/// The kernels of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    /// One block of a generated row, or of a few.
    Decode(PageElement, AttentionTile, Half, Pages, Mass),
    /// The blocks of a generated row, joined.
    Merge(AttentionTile, Mass),
    /// All blocks of a tile of prompt rows.
    Prefill(PageElement, AttentionTile, Half, Pages, Mass),
}

/// Whether a kernel sums its weights up by chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mass {
    Ignored,
    Measured,
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

/// Of a merge that leaves what rows pay to chunks.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MeasuredMergeParams {
    merge: MergeParams,
    records_at: u32,
    kv_heads: u32,
    every: u32,
    mass_heads: u32,
    mass_stride: u32,
}

/// Of a prefill that does.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MeasuredPrefillParams {
    prefill: PrefillParams,
    every: u32,
    mass_heads: u32,
    mass_at: u32,
    mass_stride: u32,
    mass_chunks: u32,
}

impl Variant {
    const fn mass(self) -> Mass {
        match self {
            Self::Decode(.., mass) | Self::Merge(_, mass) | Self::Prefill(.., mass) => mass,
        }
    }

    pub(crate) fn template(self) -> Template {
        use Access::{Read, Write};
        // Numbers in f32 have no use for halves; scales of codes have.
        let half =
            match self {
                Self::Decode(PageElement::F16, _, half, ..)
                | Self::Prefill(PageElement::F16, _, half, ..) => half,
                Self::Decode(_, _, half, Pages::Coded(_), _)
                | Self::Prefill(_, _, half, Pages::Coded(_), _) => half,
                Self::Decode(..) | Self::Merge(..) | Self::Prefill(..) => Half::Integer,
            };
        let bindings = |pages: Pages| -> &'static [Access] {
            match pages {
                Pages::Exact => &[Read, Read, Read, Write],
                Pages::Coded(_) => &[Read, Read, Read, Write, Read, Read, Read, Read],
            }
        };
        let (name, tile, pages, bindings, params): (_, _, _, &[Access], _) = match self {
            Self::Decode(element, tile, _, pages, _) => {
                let read = Some((element, pages));
                ("paged_attention_decode", tile, read, bindings(pages), size_of::<DecodeParams>())
            }
            Self::Merge(tile, mass) => {
                let (bindings, params): (&[Access], _) = match mass {
                    Mass::Ignored => (&[Read, Read, Write], size_of::<MergeParams>()),
                    Mass::Measured => (&[Read, Read, Write, Write], size_of::<MeasuredMergeParams>()),
                };
                ("paged_attention_merge", tile, None, bindings, params)
            }
            Self::Prefill(element, tile, _, pages, mass) => {
                let params = match mass {
                    Mass::Ignored => size_of::<PrefillParams>(),
                    Mass::Measured => size_of::<MeasuredPrefillParams>(),
                };
                ("paged_attention_prefill", tile, Some((element, pages)), bindings(pages), params)
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
        let (measures, state) = match self.mass() {
            Mass::Ignored => (0, format!("2u + {}u", tile.head_dim)),
            Mass::Measured => (1, format!("2u + {}u + {BLOCK_CHUNKS}u", tile.head_dim)),
        };
        constants.extend([("MASS", measures.to_string()), ("STATE", state)]);
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
            // Sums by chunk do not look at heads, whose sizes are few among those that are measured.
            let masses: &[Mass] = match head_dim {
                6 | 64 | 256 => &[Mass::Ignored, Mass::Measured],
                _ => &[Mass::Ignored],
            };
            all.extend(masses.iter().map(|&mass| Self::Merge(decide::attention_decode(head_dim, 1), mass)));
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
                        for &mass in masses {
                            let decode = |tile| Self::Decode(element, tile, half, pages, mass);
                            all.extend([alone, shared].map(decode));
                        }
                    }
                    let prefill = decide::attention_prefill(caps, head_dim);
                    all.extend(masses.iter().map(|&mass| Self::Prefill(element, prefill, half, pages, mass)));
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
    let measured = Measured::new(plan.step.mass(), layer, shape);
    let mass = if measured.is_some() { Mass::Measured } else { Mass::Ignored };
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
        let sums = if measured.is_some() { BLOCK_CHUNKS } else { 0 };
        let state = u64::from(2 + shape.head_dim + sums);
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
            let kernel = Kernel::PagedAttention(Variant::Decode(element, tile, half, pages, mass));
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
        let tile = decide::attention_decode(shape.head_dim, 1);
        let merge = Kernel::PagedAttention(Variant::Merge(tile, mass));
        let mut merge_places =
            vec![Place::Buffer(partials.clone()), Place::Tables, Place::Buffer(out.buffer.clone())];
        let workgroups = u64::from(rows.merges.count) * u64::from(shape.heads);
        let activations = u64::from(shape.heads) * cost::merge(tile, rows.states);
        let mut loads = Loads { activations, ..Loads::default() };
        match &measured {
            None => recorder.dispatch(merge, &params, merge_places, workgroups, loads)?,
            Some(measured) => {
                let stride = attention_mass::most_blocks(plan.step, RowKind::Generated) * BLOCK_CHUNKS;
                let values = u64::from(rows.merges.count) * u64::from(measured.heads * stride);
                let buffer = recorder.scratch.take(recorder.gpu, values * size_of::<f32>() as u64)?;
                merge_places.push(Place::Buffer(buffer.clone()));
                let params = MeasuredMergeParams {
                    merge: params,
                    records_at,
                    kv_heads: shape.kv_heads,
                    every: measured.every,
                    mass_heads: measured.heads,
                    mass_stride: stride,
                };
                loads.activations += u64::from(measured.heads) * cost::masses(rows.states);
                recorder.dispatch(merge, &params, merge_places, workgroups, loads)?;
                let left = Left { buffer: &buffer, at: 0, stride, list: rows.merges, words: 3, tile: 1 };
                plan.paid.add(plan.step, recorder, records_at, measured, &left)?;
                recorder.scratch.give(&buffer);
            }
        }
        recorder.scratch.give(&partials);
    }

    let blocks = rows.tile_blocks.iter().flatten();
    let numbers = blocks.map(|block| block.pages(prefill, element)).sum::<u64>() * u64::from(shape.heads);
    let codes = rows.coded.tile_pages * u64::from(heads_per_kv);
    let aside = match measured {
        Some(measured) if rows.tiles.count + rows.coded.tiles.count > 0 => {
            Some(Aside::new(plan.step, recorder, &out, measured, prefill.queries())?)
        }
        _ => None,
    };
    for (tiles, pages, bytes) in [(rows.tiles, Pages::Exact, numbers), (rows.coded.tiles, coded_pages, codes)]
    {
        let params_of = |tiles: List, out_at: usize, out_stride: usize| PrefillParams {
            tiles: tiles.count,
            tiles_at: tiles.at,
            records_at,
            directory_at: directory_of(pages),
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            q_at: word(q.at),
            q_stride: word(q.stride),
            out_at: word(out_at),
            out_stride: word(out_stride),
            out_columns: word(out.columns()),
            window,
            scale: shape.scale,
            softcap,
        };
        let kernel = Kernel::PagedAttention(Variant::Prefill(element, prefill, half, pages, mass));
        let workgroups = |tiles: List| u64::from(tiles.count) * u64::from(shape.heads);
        let Some(aside) = &aside else {
            let params = params_of(tiles, out.at, out.stride);
            let activations = workgroups(tiles) * cost::queries(prefill);
            let loads = Loads { pages: bytes, activations, ..Loads::default() };
            recorder.dispatch(kernel, &params, places(&out.buffer, pages), workgroups(tiles), loads)?;
            continue;
        };
        for part in aside.parts(tiles) {
            let params = MeasuredPrefillParams {
                prefill: params_of(part.list, 0, out.columns()),
                every: aside.measured.every,
                mass_heads: aside.measured.heads,
                mass_at: aside.mass_at,
                mass_stride: aside.stride,
                mass_chunks: aside.chunks,
            };
            let activations = workgroups(part.list) * cost::queries(prefill)
                + aside.loads(plan.step, &recorder.recording.tables, part.list);
            let loads = Loads { pages: part.of(bytes), activations, ..Loads::default() };
            let places = places(&aside.buffer, pages);
            recorder.dispatch(kernel, &params, places, workgroups(part.list), loads)?;
            plan.paid.add(plan.step, recorder, records_at, &aside.measured, &aside.left(part.list))?;
        }
        aside.copy_results(recorder, &out, tiles);
    }
    if let Some(aside) = aside {
        recorder.scratch.give(&aside.buffer);
    }
    if measured.is_some() {
        plan.paid.end_layer();
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
        let offset = offset_of!(MeasuredMergeParams, mass_stride);
        assert_eq!((size_of::<MeasuredMergeParams>(), offset), (44, 40));
        let offset = offset_of!(MeasuredPrefillParams, mass_chunks);
        assert_eq!((size_of::<MeasuredPrefillParams>(), offset), (76, 72));
    }
}
