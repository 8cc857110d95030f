//! What kernels load, from the same numbers that they are dispatched with. Each function mirrors the loops of one
//! shader: what is read again counts again. Parameters, tables and rotary factors, which are the same for all
//! threads of a workgroup, are not counted.

use std::ops::AddAssign;

use interleaf_contract::Dtype;

use crate::attention_mass::BLOCK_CHUNKS;
use crate::decide::{
    AttentionTile, LanesTile, Products, ROW_TILE, RegisterTile, WORKGROUP, span, unit_quads,
};
use crate::quantise::BLOCK_LOADS;
use crate::rms_norm::Residual;

/// Bytes of a vec4, and of a unit of weights.
const QUAD: u64 = 16;

/// Bytes of an f32 or a u32.
const WORD: u64 = 4;

/// Bytes that a dispatch loads, by what they are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Loads {
    /// Matrices and vectors of the base.
    pub weights: u64,
    /// A and B of adapters.
    pub factors: u64,
    /// K and V.
    pub pages: u64,
    /// Everything that a step computes and reads again.
    pub activations: u64,
}

impl Loads {
    pub(crate) const fn total(self) -> u64 {
        self.weights + self.factors + self.pages + self.activations
    }
}

impl AddAssign for Loads {
    fn add_assign(&mut self, other: Self) {
        self.weights += other.weights;
        self.factors += other.factors;
        self.pages += other.pages;
        self.activations += other.activations;
    }
}

/// The expand of a row's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expand {
    /// The adapter, as the batch numbers it.
    pub slot: usize,
    pub rank: u32,
    pub b_f16: bool,
}

impl Expand {
    /// Bytes of a row of z.
    fn z(self) -> u64 {
        u64::from(self.rank) * WORD
    }

    /// Bytes of a row of B.
    fn b(self) -> u64 {
        u64::from(if self.b_f16 { self.rank.div_ceil(2) } else { self.rank }) * WORD
    }
}

/// The expand of `stored` outputs in `lora_matmul_decode`, whose workgroups stage the z of each row once.
pub(crate) fn expand_decode(rows: &[Option<Expand>], tiles: u32, stored: u32) -> Loads {
    let mut loads = Loads::default();
    for expand in rows.iter().flatten() {
        loads.activations += u64::from(tiles) * expand.z();
        loads.factors += u64::from(stored) * expand.b();
    }
    loads
}

/// The expand of `tiles` tiles of `own` outputs in `lora_matmul_prefill`. The rows of a thread share what they load of B
/// where they have the first one's adapter; a tile that is not full repeats its last row.
pub(crate) fn expand_prefill(tile: RegisterTile, rows: &[Option<Expand>], tiles: u32, own: u32) -> Loads {
    let mut loads = Loads::default();
    let row_threads = (tile.rows / tile.thread_rows) as usize;
    for of_tile in rows.chunks(tile.rows as usize) {
        let row = |i: usize| of_tile[i.min(of_tile.len() - 1)];
        let z = |i: usize| row(i).map_or(0, Expand::z);
        loads.activations += u64::from(tiles) * (0..tile.rows as usize).map(z).sum::<u64>();
        for thread in 0..row_threads {
            let first = row(thread);
            let others = (1..tile.thread_rows as usize).map(|r| row(thread + r * row_threads));
            let others = others.filter(|other| other.map(|o| o.slot) != first.map(|f| f.slot));
            let b: u64 = std::iter::once(first).chain(others).flatten().map(Expand::b).sum();
            loads.factors += u64::from(tiles) * u64::from(own) * b;
        }
    }
    loads
}

/// Bytes that a lane group of [`LanesTile`] loads of one row of weights.
fn lanes_row(dtype: Dtype, row_units: u32) -> u64 {
    let spans = u64::from(row_units.div_ceil(span(dtype)));
    let scales = if dtype.is_quantised() { spans * WORD } else { 0 };
    spans * u64::from(span(dtype)) * QUAD + scales
}

/// Rows that are staged for `rows` rows in tiles: a lone row alone, else whole tiles.
fn staged_rows(rows: u32) -> u64 {
    let (tiles, rest) = (rows / ROW_TILE, rows % ROW_TILE);
    let last = match rest {
        0 => 0,
        1 => 1,
        _ => ROW_TILE,
    };
    u64::from(tiles * ROW_TILE + last)
}

/// `lora_matmul_decode` without its epilogue, for `tiles` output tiles.
pub(crate) fn decode(
    tile: LanesTile,
    dtype: Dtype,
    rows: u32,
    tiles: u32,
    row_units: u32,
    x_quads: u32,
) -> Loads {
    let (tiles, row_tiles) = (u64::from(tiles), u64::from(rows.div_ceil(ROW_TILE)));
    Loads {
        weights: tiles * row_tiles * u64::from(tile.out_tile()) * lanes_row(dtype, row_units),
        activations: tiles * staged_rows(rows) * u64::from(x_quads) * QUAD,
        ..Loads::default()
    }
}

/// `lora_matmul_prefill` without its epilogue.
pub(crate) fn prefill(tile: RegisterTile, dtype: Dtype, rows: u32, tiles: u32, x_quads: u32) -> Loads {
    let workgroups = u64::from(tiles) * u64::from(rows.div_ceil(tile.rows));
    let units = u64::from(x_quads.div_ceil(tile.k_quads) * (tile.k_quads / unit_quads(dtype)));
    let quads = u64::from(x_quads);
    let (scales, row) = match (tile.products, dtype.is_quantised()) {
        // A scale is loaded once for the units of its block, and x in codes.
        (Products::Integer, _) => (units * u64::from(unit_quads(dtype)) / 8, quads / 8 * BLOCK_LOADS),
        (_, true) => (units, quads * QUAD),
        (_, false) => (0, quads * QUAD),
    };
    Loads {
        weights: workgroups * u64::from(tile.outs) * (units * QUAD + scales * WORD),
        activations: workgroups * u64::from(tile.rows) * row,
        ..Loads::default()
    }
}

/// What one row's norm loads: twice, for its squares and for its values.
pub(crate) fn norm(residual: Residual, x_quads: u32) -> Loads {
    let mut loads = norm_values(residual, x_quads);
    loads += norm_squares(residual, x_quads);
    loads
}

fn norm_squares(residual: Residual, x_quads: u32) -> Loads {
    let quads = u64::from(x_quads) * QUAD;
    let (activations, weights) = match residual {
        Residual::None => (quads, 0),
        Residual::Plain => (2 * quads, 0),
        Residual::Normed => (3 * quads, quads),
    };
    Loads { activations, weights, ..Loads::default() }
}

fn norm_values(residual: Residual, x_quads: u32) -> Loads {
    let quads = u64::from(x_quads) * QUAD;
    let (activations, weights) = match residual {
        Residual::None => (quads, quads),
        Residual::Plain => (2 * quads, quads),
        Residual::Normed => (2 * quads, 2 * quads),
    };
    Loads { activations, weights, ..Loads::default() }
}

/// One workgroup of `lora_matmul_shrink`: `rows` rows of one adapter.
pub(crate) fn shrink(
    tile: LanesTile,
    dtype: Dtype,
    rows: u32,
    row_units: u32,
    x_quads: u32,
    norm: Option<Residual>,
) -> Loads {
    let factors = u64::from(tile.out_tile()) * lanes_row(dtype, row_units);
    let mut loads = Loads { factors, ..Loads::default() };
    for _ in 0..staged_rows(rows) {
        match norm {
            None => loads.activations += u64::from(x_quads) * QUAD,
            Some(residual) => loads += norm_values(residual, x_quads),
        }
    }
    if let Some(residual) = norm {
        for _ in 0..rows {
            loads += norm_squares(residual, x_quads);
        }
    }
    loads
}

/// What attention loads of the pages of one KV head's vectors for tokens from `skipped` to below `count` of a
/// block. Values are read by whole chunks from the first.
pub(crate) fn block(tile: AttentionTile, element_bytes: u64, chunk: u32, skipped: u32, count: u32) -> u64 {
    let keys = count - skipped;
    let values = count - skipped / chunk * chunk;
    u64::from(keys + values) * u64::from(tile.quads()) * 4 * element_bytes
}

/// What a workgroup of attention loads of queries.
pub(crate) fn queries(tile: AttentionTile) -> u64 {
    u64::from(tile.queries()) * u64::from(tile.quads()) * 4 * WORD
}

/// `paged_attention_merge`: one head of one row.
pub(crate) fn merge(tile: AttentionTile, states: u32) -> u64 {
    u64::from(states) * u64::from(WORKGROUP) * u64::from(2 + tile.owned()) * WORD
}

/// What a merge loads again of its states for the chunks of their blocks: one head of one row.
pub(crate) fn masses(states: u32) -> u64 {
    u64::from(states) * u64::from(BLOCK_CHUNKS) * 2 * WORD
}

#[cfg(test)]
mod tests {
    //! Every cost against a shader that counts: layers of small and awkward shapes, on whatever device there is.

    use std::collections::BTreeMap;
    use std::sync::Arc;

    use interleaf_contract::{
        Activation, Adapter, AttentionShape, Backend, Batch, Bits, Bytes, ChunkEntry, Coefficients,
        ConstantRows, ConstantsId, LoraSite, MassSample, Matrix, Numerics, Op, Output, PageCodec,
        PageConstants, PageElement, PageEntry, PageHalf, PagePlace, PageTable, PoolGeometry, Projection,
        ProjectionId, Row, RowKind, RowSet, Sequence, Step, Width,
    };

    use super::*;
    use crate::{GpuBackend, GpuOptions, GpuVariant};

    /// What a layer is made of.
    struct Layer {
        dtype: Dtype,
        hidden: usize,
        heads: u32,
        kv_heads: u32,
        head_dim: u32,
        mlp: usize,
        rank: usize,
        element: PageElement,
        head_norms: bool,
        four_norms: bool,
        window: Option<u32>,
        /// One KV head of so many, if any.
        measured: Option<u32>,
    }

    fn matrix(dtype: Dtype, rows: usize, cols: usize) -> Matrix {
        let bytes = dtype.row_bytes(cols).unwrap() * rows;
        // Zeros: what is counted does not depend on values.
        Matrix::new("w", dtype, rows, cols, Bytes::from(vec![0; bytes])).unwrap()
    }

    fn projections(
        gpu: &mut GpuBackend,
        dtype: Dtype,
        shapes: &[(usize, usize)],
        bias: bool,
    ) -> Vec<ProjectionId> {
        let matrices = shapes.iter().map(|&(outs, ins)| matrix(dtype, outs, ins)).collect();
        let ids = gpu.create_matrices(matrices).unwrap();
        let project = |(matrix, &(outs, _)): (_, &(usize, usize))| {
            let bias = bias.then(|| gpu.create_vector("bias", &vec![0.0; outs]).unwrap());
            gpu.create_projection(Projection { name: "p".into(), matrix, bias }).unwrap()
        };
        ids.into_iter().zip(shapes).map(project).collect()
    }

    /// Rows of a kind from a position on, under an adapter or none, over their own pages or, in layer 0, those of the
    /// first sequence.
    fn batch(rows: &[(RowKind, u32, u32, i32)], pool: &PoolGeometry, shared: bool) -> Batch {
        let mut batch = Batch::default();
        let mut slots = 0;
        for (sequence, &(kind, first, count, adapter)) in (0_u32..).zip(rows) {
            for position in first..first + count {
                batch.rows.push(Row { token: position % 7, position, sequence, adapter, kind });
            }
            let chunks = (first + count).div_ceil(16);
            let mut pages = PageTable::default();
            for chunk in 0..chunks {
                let start = |layer| if shared && layer == 0 { 0 } else { slots };
                pages.push(2, |layer| pool.slot(start(layer) + chunk));
            }
            batch.sequences.push(Sequence { pages });
            slots += chunks;
        }
        batch.outputs = vec![Output { row: 0, sampler: None }];
        batch
    }

    fn step(gpu: &mut GpuBackend, layer: &Layer, batch: Batch) -> Step {
        let &Layer { dtype, hidden, heads, kv_heads, head_dim, mlp, rank, .. } = layer;
        let (q_cols, kv_cols) = ((heads * head_dim) as usize, (kv_heads * head_dim) as usize);
        let qkv = projections(gpu, dtype, &[(q_cols, hidden), (kv_cols, hidden), (kv_cols, hidden)], true);
        let o = projections(gpu, dtype, &[(hidden, q_cols)], false);
        let gate_up = projections(gpu, dtype, &[(mlp, hidden), (mlp, hidden)], false);
        let down = projections(gpu, dtype, &[(hidden, mlp)], false);
        let site = |projection, (outs, ins), dtype, rank| LoraSite {
            projection,
            scale: 1.0,
            a: matrix(dtype, rank, ins),
            b: matrix(dtype, outs, rank),
        };
        let shapes = [(q_cols, hidden), (kv_cols, hidden), (kv_cols, hidden)];
        let mut batch = batch;
        for (i, dtype) in [Dtype::F16, Dtype::F16, Dtype::F32].into_iter().enumerate() {
            let rank = rank + i;
            let mut sites: Vec<LoraSite> =
                qkv.iter().zip(shapes).map(|(p, shape)| site(*p, shape, dtype, rank)).collect();
            sites.push(site(o[0], (hidden, q_cols), dtype, rank));
            sites.extend(gate_up.iter().map(|p| site(*p, (mlp, hidden), dtype, rank)));
            sites.push(site(down[0], (hidden, mlp), dtype, rank));
            batch.adapters.push(gpu.create_adapter(Adapter { name: "a".into(), sites }).unwrap());
        }
        let slots = batch.sequences.iter().map(|s| s.pages.chunks()).sum();
        let (kv, dim) = (kv_heads as usize, head_dim as usize);
        let geometry = PoolGeometry { layers: 2, kv_heads: kv, head_dim: dim, slots, element: layer.element };
        gpu.create_pool(geometry).unwrap();
        let positions = batch.rows.iter().map(|row| row.position as usize + 1).max().unwrap();
        let angles = vec![0.0; positions * dim / 2];
        let table =
            interleaf_contract::RopeTable { rotary_dim: dim, positions, cos: angles.clone(), sin: angles };
        let rope = gpu.create_rope(table).unwrap();
        let mut weight = |n: usize| gpu.create_vector("norm", &vec![1.0; n]).unwrap();
        let (on_hidden, on_head) = (weight(hidden), weight(dim));
        let embedding = gpu.create_matrix(matrix(dtype, 9, hidden)).unwrap();

        let mut step = Step::new(batch).unwrap();
        let cols = |n: usize| u32::try_from(n).unwrap();
        let mut all = |n: usize| step.tensor(RowSet::All, cols(n));
        let [x, normed, delta] = [hidden, hidden, hidden].map(&mut all);
        let [q, k, v, mixed] = [q_cols, kv_cols, kv_cols, q_cols].map(&mut all);
        let [gate, up] = [mlp, mlp].map(&mut all);
        let wide = all(2 * kv_cols + 5);
        let last = step.tensor(RowSet::Outputs, cols(hidden));
        let norm = |x, add, weight, heads, out| Op::RmsNorm { x, add, weight, epsilon: 1e-5, heads, out };
        let matmul = |x, ps: &[ProjectionId], ys: &[_]| Op::LoraMatmul {
            x,
            projections: ps.iter().copied().zip(ys.iter().copied()).collect(),
        };
        let scale = 0.125;
        let shape = AttentionShape { heads, kv_heads, head_dim, scale, softcap: None, window: layer.window };
        step.push(Op::Embed { table: embedding, scale: 1.0, out: x });
        step.push(norm(x, None, on_hidden, 1, normed));
        step.push(matmul(normed, &qkv, &[q, k, v]));
        if layer.head_norms {
            step.push(norm(q, None, on_head, heads, q));
            step.push(norm(k, None, on_head, kv_heads, k));
        }
        for x in [q, k] {
            step.push(Op::Rope { x, head_dim, table: rope });
        }
        step.push(Op::KvAppend { layer: 0, k, v });
        step.push(Op::PagedAttention { layer: 0, shape, q, out: mixed });
        step.push(matmul(mixed, &o, &[delta]));
        if layer.four_norms {
            step.push(norm(delta, None, on_hidden, 1, delta));
        }
        step.push(norm(x, Some(delta), on_hidden, 1, normed));
        step.push(matmul(normed, &gate_up, &[gate, up]));
        step.push(Op::SwiGlu { activation: Activation::Silu, gate, up, out: gate });
        step.push(matmul(gate, &down, &[delta]));
        step.push(norm(x, Some(delta), on_hidden, 1, last));
        // What is fused above, by itself.
        step.push(Op::Load { out: gate, data: Arc::from(vec![0.0; step.batch().rows.len() * mlp]) });
        step.push(Op::Load { out: up, data: Arc::from(vec![0.0; step.batch().rows.len() * mlp]) });
        step.push(Op::SwiGlu { activation: Activation::GeluTanh, gate, up, out: gate });
        step.push(norm(q, None, on_head, heads, q));
        step.push(Op::Rope { x: q, head_dim, table: rope });
        step.push(Op::KvAppend { layer: 1, k, v });
        step.push(Op::PagedAttention { layer: 1, shape, q, out: mixed });
        step.push(Op::KvRead { layer: 1, rope: Some(rope), out: wide, at: 3 });
        step.push(Op::Add { x: v, from: wide, at: 5 });
        step.probe(last);
        step.probe(q);
        if let Some(every) = layer.measured {
            step.measure_mass(MassSample { layers: [0, 1].into(), every });
        }
        step
    }

    #[test]
    fn costs_are_what_shaders_load() {
        let options = |variant| GpuOptions { variant, numerics: Numerics::ActQ8_0, ..GpuOptions::default() };
        for variant in [None, Some(GpuVariant::Dot)] {
            let Some(mut gpu) = device(options(variant)) else { return };
            check_costs(&mut gpu);
        }
    }

    fn check_costs(gpu: &mut GpuBackend) {
        use RowKind::{Generated, Prompt};
        let layers = [
            (Dtype::F16, 72, PageElement::F16, false, None),
            (Dtype::Q8_0, 96, PageElement::F32, true, Some(40)),
            (Dtype::Q4_0, 64, PageElement::F16, true, None),
            (Dtype::F32, 33, PageElement::F16, false, Some(300)),
        ];
        let batches = [
            (vec![(Generated, 3, 1, 0)], false),
            (
                vec![
                    (Generated, 20, 1, -1),
                    (Generated, 300, 1, 1),
                    (Generated, 300, 1, 2),
                    (Generated, 5, 1, 1),
                ],
                false,
            ),
            (
                vec![
                    (Generated, 20, 1, -1),
                    (Generated, 300, 1, 1),
                    (Generated, 290, 1, 1),
                    (Generated, 5, 1, 1),
                ],
                true,
            ),
            (vec![(Prompt, 0, 37, 1), (Prompt, 250, 9, -1), (Generated, 16, 1, 0)], false),
        ];
        for (i, (dtype, hidden, element, norms, window)) in layers.into_iter().enumerate() {
            for (rows, shared) in &batches {
                let layer = Layer {
                    dtype,
                    hidden,
                    heads: [4, 2, 6, 1][i],
                    kv_heads: [2, 2, 2, 1][i],
                    head_dim: [16, 64, 32, 32][i],
                    mlp: [80, 64, 192, 100][i],
                    rank: [3, 16, 33, 1][i],
                    element,
                    head_norms: norms,
                    four_norms: norms,
                    window,
                    measured: [None, Some(1), Some(2), Some(1)][i],
                };
                let (kv_heads, head_dim) = (layer.kv_heads as usize, layer.head_dim as usize);
                // As large as any: only places are asked of it.
                let pool = PoolGeometry { layers: 2, kv_heads, head_dim, slots: 0, element };
                let step = step(gpu, &layer, batch(rows, &pool, *shared));
                let (expected, counted) = count(gpu, step);
                for (kernel, expected) in expected {
                    let found = crate::instrument::loads(kernel, &counted);
                    assert_eq!(found, expected, "{kernel}, layer {i}, rows {rows:?}");
                }
            }
        }
    }

    /// Codecs of a half: those that stand alone, and those over an anchor.
    fn codecs(half: PageHalf) -> [Vec<PageCodec>; 2] {
        let bits = [Bits::Two, Bits::Four, Bits::Eight];
        let alone = bits
            .into_iter()
            .flat_map(|b| [PageCodec::Quantised(b), PageCodec::Grouped(b), PageCodec::Profiled(b)]);
        let low_rank =
            |rank, coefficients, keeps_first| PageCodec::LowRank { rank, coefficients, keeps_first };
        let over = bits.map(PageCodec::Delta).into_iter().chain([
            PageCodec::Steps(Width::One),
            PageCodec::Steps(Width::Two),
            low_rank(8, Coefficients::Codes(Bits::Four), true),
            low_rank(6, Coefficients::F16, false),
            low_rank(36, Coefficients::Codes(Bits::Eight), false),
        ]);
        [alone.filter(|codec| codec.is_sound(half)).collect(), over.collect()]
    }

    /// Pages of a chunk of a sequence in every codec in turn, over anchors that all sequences share. Where they are is
    /// theirs alone; what is there is not counted.
    fn coded(pool: &PoolGeometry, sequence: u32, chunk: u32, constants: [ConstantsId; 2]) -> ChunkEntry {
        let place = |number: u32| number * pool.element.bytes(pool.page_elements()) as u32 / 16;
        let entry = |half: PageHalf| {
            let number = 2 * chunk + u32::from(half == PageHalf::V);
            let id = constants[usize::from(half == PageHalf::V)];
            let with = |codec: PageCodec| Some(id).filter(|_| codec.constant_rows() > 0);
            let [alone, over] = codecs(half);
            let turn = |codecs: &[PageCodec], i: u32| codecs[i as usize % codecs.len()];
            let anchor = if chunk.is_multiple_of(3) { pool.element.into() } else { turn(&alone, number / 3) };
            let anchor = PagePlace { codec: anchor, at: place(number), constants: with(anchor) };
            match (chunk + sequence) % 5 {
                0 => anchor.into(),
                1 => {
                    let codec = turn(&alone, number + sequence);
                    let at = place(number + 100 * (1 + sequence));
                    PageEntry { codec, at, constants: with(codec), anchor: None }
                }
                _ => {
                    // The first two have the same page at times.
                    let owner = if chunk.is_multiple_of(4) { sequence.max(1) } else { sequence };
                    let codec = turn(&over, number + owner);
                    let at = place(number + 100 * (1 + owner));
                    PageEntry { codec, at, constants: with(codec), anchor: Some(anchor) }
                }
            }
        };
        ChunkEntry { k: entry(PageHalf::K), v: entry(PageHalf::V) }
    }

    #[test]
    fn costs_of_coded_pages_are_what_shaders_load() {
        let Some(mut gpu) = device(GpuOptions::default()) else { return };
        for (i, (heads, kv_heads, head_dim, window)) in
            [(4, 1, 32, None), (12, 3, 66, Some(20))].into_iter().enumerate()
        {
            let element = if i % 2 == 0 { PageElement::F16 } else { PageElement::F32 };
            let (kv, dim) = (kv_heads as usize, head_dim as usize);
            let pool = PoolGeometry { layers: 1, kv_heads: kv, head_dim: dim, slots: 400, element };
            gpu.create_pool(pool).unwrap();
            let half = dim / 4;
            let angles = vec![0.0; 512 * half];
            let rope = interleaf_contract::RopeTable {
                rotary_dim: 2 * half,
                positions: 512,
                cos: angles.clone(),
                sin: angles,
            };
            let rope = gpu.create_rope(rope).unwrap();
            let constants = [Some(rope), None].map(|rope| {
                let rows = ConstantRows::nearest(&vec![1.0; 41 * kv * dim], kv, dim).unwrap();
                gpu.create_constants(PageConstants { name: "c".into(), rows, rope }).unwrap()
            });
            let mut batch = Batch::default();
            use RowKind::{Generated, Prompt};
            let rows = [(Generated, 50, 1), (Generated, 66, 1), (Generated, 20, 1), (Prompt, 40, 9)];
            for (sequence, (kind, first, count)) in (0_u32..).zip(rows) {
                for position in first..first + count {
                    batch.rows.push(Row { token: 0, position, sequence, adapter: -1, kind });
                }
                let mut pages = PageTable::default();
                for chunk in 0..(first + count).div_ceil(16) {
                    // Rows are appended to numbers.
                    let own = pool.slot(350 + 10 * sequence + chunk % 10);
                    let entry =
                        if chunk < first / 16 { coded(&pool, sequence, chunk, constants) } else { own };
                    pages.push(1, |_| entry);
                }
                batch.sequences.push(Sequence { pages });
            }
            let rows = batch.rows.len();
            let mut step = Step::new(batch).unwrap();
            let cols = heads * head_dim;
            let [q, out] = [(); 2].map(|()| step.tensor(RowSet::All, cols));
            let shape = AttentionShape { heads, kv_heads, head_dim, scale: 0.125, softcap: None, window };
            step.push(Op::Load { out: q, data: Arc::from(vec![0.0; rows * cols as usize]) });
            step.push(Op::PagedAttention { layer: 0, shape, q, out });
            let (expected, counted) = count(&mut gpu, step);
            for (kernel, expected) in expected {
                let found = crate::instrument::loads(kernel, &counted);
                assert_eq!(found, expected, "{kernel}, {heads} heads, {kv_heads} of {head_dim}");
            }
        }
    }

    fn device(options: GpuOptions) -> Option<GpuBackend> {
        match GpuBackend::counting(options) {
            Ok(gpu) => Some(gpu),
            Err(reason) => {
                assert!(std::env::var_os("INTERLEAF_REQUIRE_GPU").is_none(), "no GPU: {reason}");
                println!("SKIPPED: {reason}");
                None
            }
        }
    }

    /// Runs a step; what each kernel should load, and the counters.
    fn count(gpu: &mut GpuBackend, step: Step) -> (BTreeMap<&'static str, Loads>, Vec<u32>) {
        let (work, counters) = gpu.run_counting(step);
        let mut expected: BTreeMap<&'static str, Loads> = BTreeMap::new();
        for (kernel, loads) in work.dispatches() {
            *expected.entry(kernel).or_default() += *loads;
        }
        (expected, counters)
    }
}
