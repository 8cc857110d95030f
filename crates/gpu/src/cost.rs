//! What kernels load, from the same numbers that they are dispatched with. Each function mirrors the loops of one
//! shader: what is read again counts again. Parameters, tables and rotary factors, which are the same for all
//! threads of a workgroup, are not counted.

use std::ops::AddAssign;

use interleaf_contract::Dtype;

use crate::decide::{AttentionTile, LanesTile, ROW_TILE, RegisterTile, WORKGROUP, span, unit_quads};
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
pub(crate) fn expand_prefill(
    tile: RegisterTile,
    rows: &[Option<Expand>],
    tiles: u32,
    own: u32,
) -> Loads {
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
    let unit = if dtype.is_quantised() { QUAD + WORD } else { QUAD };
    Loads {
        weights: workgroups * u64::from(tile.outs) * units * unit,
        activations: workgroups * u64::from(tile.rows) * u64::from(x_quads) * QUAD,
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
