//! `attention_mass`: what rows pay to chunks, once attention has left it for every measured head, is summed over heads and
//! layers row by row, and at the end of the step over each sequence's rows. What the kernels do is in
//! `shaders/attention_mass_*.wgsl`; sums of weights are taken in `paged_attention`.
//!
//! A row's sums depend on no other row, so that it makes no difference what is in a batch or how it is dispatched.

mod aside;

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{
    ATTENTION_SPLIT, AttentionShape, BackendError, CHUNK_TOKENS, MassSample, RowKind, RowSet, Step,
};

pub(crate) use self::aside::Aside;
use crate::command::{Place, Recorder, word};
use crate::cost::Loads;
use crate::decide::WORKGROUP;
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::rows::{List, RowTables};

/// Chunks of a block of attention.
pub(crate) const BLOCK_CHUNKS: u32 = (ATTENTION_SPLIT / CHUNK_TOKENS) as u32;

/// The kernels of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    /// Over heads, and onto the layers before.
    Heads,
    /// Over the rows of a sequence.
    Rows,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct HeadsParams {
    entries: u32,
    list_at: u32,
    list_words: u32,
    tile: u32,
    records_at: u32,
    masses_at: u32,
    heads: u32,
    stride: u32,
    groups: u32,
    chunks: u32,
    window: u32,
    adds: u32,
    share: f32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RowsParams {
    groups: u32,
    groups_at: u32,
    records_at: u32,
    chunks: u32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        use Access::{Read, Write};
        let (name, params) = match self {
            Self::Heads => ("attention_mass_heads", size_of::<HeadsParams>()),
            Self::Rows => ("attention_mass_rows", size_of::<RowsParams>()),
        };
        let constants = vec![("WORKGROUP", WORKGROUP.to_string()), ("CHUNK", CHUNK_TOKENS.to_string())];
        Template { name, constants, bindings: &[Read, Read, Write], params, needs: Needs::Nothing }
    }

    /// Every variant, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        vec![Self::Heads, Self::Rows]
    }
}

/// A layer that is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// One key/value head of so many is measured, from the first on.
    pub every: u32,
    /// Query heads that are.
    pub heads: u32,
    /// What a weight of 1 of one of them counts.
    share: f32,
    window: Option<u32>,
}

impl Measured {
    /// A layer of a sample; `None` where it is not one.
    pub(crate) fn new(sample: Option<&MassSample>, layer: u32, shape: &AttentionShape) -> Option<Self> {
        let sample = sample.filter(|sample| sample.has_layer(layer))?;
        let heads = sample.heads(shape);
        let share = (1.0 / (f64::from(heads) * sample.layers.len() as f64)) as f32;
        Some(Self { every: sample.every, heads, share, window: shape.window })
    }
}

/// What attention has left: `(entry, measured head, stride)` f32, of which the first are chunks.
#[derive(Debug)]
pub(crate) struct Left<'a> {
    pub buffer: &'a wgpu::Buffer,
    /// Of the first entry, in f32.
    pub at: u32,
    pub stride: u32,
    /// Rows, or tiles of rows.
    pub list: List,
    /// Words from one of them to the next.
    pub words: u32,
    /// Entries of each.
    pub tile: u32,
}

/// What the rows of a step have paid in the layers so far.
#[derive(Debug, Default)]
pub(crate) struct Paid {
    /// `(row, chunks)` f32, from the first measured layer on.
    sums: Option<wgpu::Buffer>,
    /// Whether every row has something there.
    begun: bool,
}

/// Where the mass of each sequence is in what is read back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Masses(Vec<std::ops::Range<usize>>);

impl Masses {
    /// By sequence and chunk, from all that was read back.
    pub(crate) fn values(&self, read_back: &[u8]) -> Vec<Vec<f32>> {
        let of = |range: &std::ops::Range<usize>| {
            let bytes = read_back.get(range.clone()).unwrap_or_default();
            bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        };
        self.0.iter().map(of).collect()
    }
}

/// Blocks that end with the longest row of a kind.
pub(crate) fn most_blocks(step: &Step, kind: RowKind) -> u32 {
    let rows = step.batch().rows.iter().filter(|row| row.kind == kind);
    rows.map(|row| row.position / ATTENTION_SPLIT as u32 + 1).max().unwrap_or(0)
}

/// Chunks that the longest row of a step sees.
fn most_chunks(step: &Step) -> u32 {
    let longest = step.batch().rows.iter().map(|row| row.position).max();
    longest.map_or(0, |position| position / CHUNK_TOKENS as u32 + 1)
}

impl Paid {
    /// Adds what rows have paid in a layer.
    pub(crate) fn add(
        &mut self,
        step: &Step,
        recorder: &mut Recorder<'_>,
        records_at: u32,
        measured: &Measured,
        left: &Left<'_>,
    ) -> Result<(), BackendError> {
        let chunks = most_chunks(step);
        let sums = match &self.sums {
            Some(sums) => sums.clone(),
            None => {
                let values = step.batch().rows.len() as u64 * u64::from(chunks);
                let sums = recorder.scratch.take(recorder.gpu, values * size_of::<f32>() as u64)?;
                self.sums.insert(sums).clone()
            }
        };
        let params = HeadsParams {
            entries: left.list.count * left.tile,
            list_at: left.list.at,
            list_words: left.words,
            tile: left.tile,
            records_at,
            masses_at: left.at,
            heads: measured.heads,
            stride: left.stride,
            groups: chunks.div_ceil(WORKGROUP),
            chunks,
            window: measured.window.unwrap_or(u32::MAX),
            adds: u32::from(self.begun),
            share: measured.share,
        };
        let workgroups = u64::from(params.entries) * u64::from(params.groups);
        let places = vec![Place::Buffer(left.buffer.clone()), Place::Tables, Place::Buffer(sums)];
        let loads = Loads { activations: self.loads(step, recorder, left, measured), ..Loads::default() };
        let kernel = Kernel::AttentionMass(Variant::Heads);
        recorder.dispatch(kernel, &params, places, workgroups, loads)
    }

    /// Bytes that adding loads: of every row what its heads have left for the chunks that it sees, and what it has so far.
    fn loads(&self, step: &Step, recorder: &Recorder<'_>, left: &Left<'_>, measured: &Measured) -> u64 {
        let words = &recorder.recording.tables[left.list.at as usize..];
        let listed = words.chunks(left.words as usize).take(left.list.count as usize);
        let rows = listed.flat_map(|listed| {
            let count = if left.tile > 1 { listed[1] } else { 1 };
            &step.batch().rows[listed[0] as usize..(listed[0] + count) as usize]
        });
        let chunk = CHUNK_TOKENS as u32;
        let of_row = |position: u32| {
            let from = measured.window.map_or(0, |window| (position + 1).saturating_sub(window));
            let (all, seen) = (position / chunk + 1, position / chunk + 1 - from / chunk);
            u64::from(seen * measured.heads) + if self.begun { u64::from(all) } else { 0 }
        };
        rows.map(|row| of_row(row.position)).sum::<u64>() * size_of::<f32>() as u64
    }

    /// Ends a layer: all rows have paid in it.
    pub(crate) const fn end_layer(&mut self) {
        self.begun = true;
    }

    /// Sums up the rows of each sequence, to be read back; `None` where the step measures nothing.
    pub(crate) fn finish(
        self,
        step: &Step,
        rows: &mut RowTables,
        recorder: &mut Recorder<'_>,
    ) -> Result<Option<Masses>, BackendError> {
        let Some(chunks) = step.mass_chunks() else { return Ok(None) };
        let Some(sums) = self.sums else {
            // No row.
            return Ok(Some(Masses(vec![0..0; chunks.len()])));
        };
        let size = size_of::<f32>();
        let records_at = rows.records(step, RowSet::All, &mut recorder.recording.tables);
        let tables = &mut recorder.recording.tables;
        let groups_at = word(tables.len());
        let mut groups = 0;
        let mut activations = 0;
        for (sequence, first_row, count) in step.batch().runs() {
            let out_at: usize = chunks[..sequence].iter().sum();
            for first in (0..chunks[sequence]).step_by(WORKGROUP as usize) {
                tables.extend([first_row, count, first, chunks[sequence], out_at].map(|n: usize| word(n)));
                groups += 1;
            }
            let rows = &step.batch().rows[first_row..first_row + count];
            let seen = |position: u32| position as usize / CHUNK_TOKENS + 1;
            activations += rows.iter().map(|row| seen(row.position) * size).sum::<usize>() as u64;
        }
        let bytes = (chunks.iter().sum::<usize>() * size) as u64;
        let out = recorder.scratch.take(recorder.gpu, bytes)?;
        let params = RowsParams { groups, groups_at, records_at, chunks: most_chunks(step) };
        let places = vec![Place::Buffer(sums), Place::Tables, Place::Buffer(out.clone())];
        let loads = Loads { activations, ..Loads::default() };
        let kernel = Kernel::AttentionMass(Variant::Rows);
        recorder.dispatch(kernel, &params, places, u64::from(groups), loads)?;
        let mut at = recorder.recording.read_back(Place::Buffer(out), 0, bytes) as usize;
        let place = |chunks: usize| {
            let first = at;
            at += chunks * size;
            first..at
        };
        Ok(Some(Masses(chunks.into_iter().map(place).collect())))
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<HeadsParams>(), offset_of!(HeadsParams, share)), (52, 48));
        assert_eq!((size_of::<RowsParams>(), offset_of!(RowsParams, chunks)), (16, 12));
    }

    #[test]
    fn parts_load_in_all_what_the_whole_does() {
        let part = |first, count| aside::Part::new(List { at: 0, count }, first, 7);
        for bytes in [0, 1, 6, 7, 1000, u64::from(u32::MAX)] {
            let parts = [part(0, 3), part(3, 3), part(6, 1)];
            assert_eq!(parts.map(|part| part.of(bytes)).iter().sum::<u64>(), bytes);
        }
    }

    #[test]
    fn masses_are_read_by_sequence() {
        let floats: Vec<f32> = (0_u8..5).map(f32::from).collect();
        let masses = Masses(vec![4..12, 12..12, 12..20]);
        let found = masses.values(bytemuck::cast_slice(&floats));
        assert_eq!(found, [vec![1.0, 2.0], vec![], vec![3.0, 4.0]]);
    }
}
