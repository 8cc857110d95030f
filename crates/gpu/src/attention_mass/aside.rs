//! Where a layer's prompt rows leave what they pay until it is summed up, next to their results. Not how it is summed up.

use interleaf_contract::{ATTENTION_SPLIT, BackendError, RowKind, Step};

use super::{BLOCK_CHUNKS, Left, Measured, most_blocks};
use crate::command::{Place, Recorder, word};
use crate::cost;
use crate::rows::List;
use crate::step::stretches;
use crate::tensors::Placed;

/// Room for what prompt rows leave of a layer, beyond that of a single tile of them.
const MOST_BYTES: u64 = 16 << 20;

/// Where tiles of prompt rows leave their results and, behind these, what they pay, since coded pages leave no binding for
/// another buffer. The results are copied to their place.
#[derive(Debug)]
pub(crate) struct Aside {
    pub buffer: wgpu::Buffer,
    pub measured: Measured,
    /// Of what they pay: `(row of a tile, measured head, stride)` f32, chunks and then blocks.
    pub mass_at: u32,
    pub stride: u32,
    pub chunks: u32,
    /// Rows of a tile, and tiles that there is room for.
    tile: u32,
    tiles: u32,
}

/// Some tiles of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub list: List,
    first: u32,
    all: u32,
}

impl Part {
    /// Tiles from number `first` on, of so many.
    pub(crate) const fn new(list: List, first: u32, all: u32) -> Self {
        Self { list, first, all }
    }

    /// Its share of what all tiles load, so that those of all parts add up.
    pub(crate) fn of(self, bytes: u64) -> u64 {
        let before = |tiles: u32| bytes * u64::from(tiles) / u64::from(self.all);
        before(self.first + self.list.count) - before(self.first)
    }
}

impl Aside {
    /// Room for the prompt rows of a step, of which there is at least one.
    pub(crate) fn new(
        step: &Step,
        recorder: &mut Recorder<'_>,
        out: &Placed,
        measured: Measured,
        tile: u32,
    ) -> Result<Self, BackendError> {
        let blocks = most_blocks(step, RowKind::Prompt);
        let (chunks, stride) = (blocks * BLOCK_CHUNKS, blocks * (BLOCK_CHUNKS + 1));
        let size = size_of::<f32>() as u64;
        let results = (out.rows * out.columns()) as u64 * size;
        let of_tile = u64::from(tile) * u64::from(measured.heads) * u64::from(stride) * size;
        let room = recorder.gpu.caps.binding_bytes.saturating_sub(results).min(MOST_BYTES);
        let prompt_rows = step.batch().rows.iter().filter(|row| row.kind == RowKind::Prompt).count();
        // A sequence's last tile may have one row.
        let tiles = word((room / of_tile).clamp(1, prompt_rows as u64));
        let buffer = recorder.scratch.take(recorder.gpu, results + u64::from(tiles) * of_tile)?;
        Ok(Self { buffer, measured, mass_at: word(results / size), stride, chunks, tile, tiles })
    }

    /// The tiles of a list, as many at a time as there is room for.
    pub(crate) fn parts(&self, list: List) -> impl Iterator<Item = Part> {
        let tiles = self.tiles;
        (0..list.count).step_by(tiles as usize).map(move |first| {
            let count = tiles.min(list.count - first);
            Part::new(List { at: list.at + TILE_WORDS * first, count }, first, list.count)
        })
    }

    /// What some tiles have left.
    pub(crate) const fn left(&self, list: List) -> Left<'_> {
        let Self { buffer, mass_at, stride, tile, .. } = self;
        Left { buffer, at: *mass_at, stride: *stride, list, words: TILE_WORDS, tile: *tile }
    }

    /// Bytes that tiles load of it to scale what they pay.
    pub(crate) fn loads(&self, step: &Step, tables: &[u32], tiles: List) -> u64 {
        let split = ATTENTION_SPLIT as u32;
        let of_tile = |[first, rows]: &[u32; 2]| {
            let position = |row: u32| step.batch().rows[row as usize].position;
            let from = self.measured.window.map_or(0, |w| (position(*first) + 1).saturating_sub(w));
            let blocks = position(first + rows - 1) / split + 1 - from / split;
            u64::from(*rows) * cost::masses(blocks)
        };
        u64::from(self.measured.heads) * listed(tables, tiles).iter().map(of_tile).sum::<u64>()
    }

    /// Copies the results of tiles to their place.
    pub(crate) fn copy_results(&self, recorder: &mut Recorder<'_>, out: &Placed, tiles: List) {
        let recording = &mut recorder.recording;
        let tiles = listed(&recording.tables, tiles).to_vec();
        for run in tiles.chunk_by(|[a, rows], [b, _]| a + rows == *b) {
            let (first, rows) = (run[0][0] as usize, run.iter().map(|[_, rows]| *rows as usize).sum());
            let placed = Placed { rows, at: out.at + first * out.stride, ..out.clone() };
            let from = (first * out.columns() * size_of::<f32>()) as u64;
            for (at, bytes) in stretches(&placed) {
                let from = (Place::Buffer(self.buffer.clone()), from + at.packed);
                recording.copy(from, (Place::Buffer(out.buffer.clone()), at.place), bytes);
            }
        }
    }
}

/// Words of a tile of prompt rows: the first row, and rows.
const TILE_WORDS: u32 = 2;

fn listed(tables: &[u32], tiles: List) -> &[[u32; TILE_WORDS as usize]] {
    let (tiles, _) = tables[tiles.at as usize..].as_chunks().0.split_at(tiles.count as usize);
    tiles
}
