//! Weight matrices as the tiers read them: panels of as many outputs as a vector has lanes, inputs one after
//! another.
//!
//! A panel of float weights holds, for each input, one element of every output. A panel of quantised weights
//! holds, for each block of 32 inputs, the codes in the tier's [`Interleave`] and apart from them the scales.
//! The last panel is filled up with zeros. [`Panels::row`] gives the stored bits of a row back.

use std::collections::HashMap;
use std::sync::Arc;

use bytemuck::{cast_slice, cast_slice_mut};
use half::f16;
use interleaf_contract::host::HostMatrix;
use interleaf_contract::{BackendError, BlockQ4_0, BlockQ8_0, Bytes, Dtype, Matrix, QUANT_BLOCK};
use rayon::prelude::*;

use crate::isa::{Interleave, QuantisedPanel};
use crate::lines::{Lines, Section, whole_lines};

/// A matrix in panels.
#[derive(Debug)]
pub struct Panels {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    interleave: Interleave,
    /// Elements, or codes.
    elements: Section,
    /// Bits of f16, for each panel and block one for every lane; empty for float weights.
    scales: Section,
}

/// A matrix as the CPU backend keeps it.
#[derive(Debug)]
pub enum Packed {
    /// Repacked for the tier.
    Panels(Panels),
    /// As it is stored: the factor A of an adapter, whose rows are multiplied one by one so that no rank is
    /// filled up to a whole panel.
    Rows(Matrix),
}

impl HostMatrix for Packed {
    fn shape(&self) -> (usize, usize) {
        match self {
            Self::Panels(p) => (p.rows, p.cols),
            Self::Rows(m) => (m.rows(), m.cols()),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Panels(p) => whole_lines(p.elements.bytes().len()) + whole_lines(p.scales.bytes().len()),
            Self::Rows(m) => whole_lines(m.data().len()),
        }
    }

    fn address(&self) -> usize {
        match self {
            Self::Panels(p) => p.elements.bytes().as_ptr() as usize,
            Self::Rows(m) => m.address(),
        }
    }
}

impl Packed {
    /// Repacks a weight matrix for a tier.
    ///
    /// # Errors
    /// If there is no room.
    pub fn weights(matrix: &Matrix, interleave: Interleave) -> Result<Self, BackendError> {
        let layout = Layout::new(matrix, interleave);
        let mut memory = room(layout.bytes(), matrix.name())?;
        layout.fill(matrix, interleave, memory.bytes_mut());
        Ok(Self::Panels(layout.panels(matrix, interleave, &Arc::new(memory), 0)))
    }

    /// Takes the factors A and B of an adapter's sites in, all into one memory in the order of the sites: a batch of
    /// many adapters reads a little of each in turn, and would find the translation of every small page gone. An A that
    /// sites have in common, as the parts of a fused module do, is kept once.
    ///
    /// # Errors
    /// If there is no room.
    pub fn factors(sites: &[[Matrix; 2]], interleave: Interleave) -> Result<Vec<[Self; 2]>, BackendError> {
        let layouts: Vec<Layout> = sites.iter().map(|[_, b]| Layout::new(b, interleave)).collect();
        let mut bytes = 0;
        let mut known: HashMap<(*const u8, usize), usize> = HashMap::new();
        let mut places = Vec::with_capacity(sites.len());
        for ([a, _], layout) in sites.iter().zip(&layouts) {
            let rows = *known.entry((a.data().as_ptr(), a.data().len())).or_insert(bytes);
            bytes = bytes.max(rows + whole_lines(a.data().len()));
            places.push((rows, bytes));
            bytes += layout.bytes();
        }
        let mut memory = room(bytes, "an adapter's factors")?;
        for (([a, b], layout), &(rows, panels)) in sites.iter().zip(&layouts).zip(&places) {
            if known.remove(&(a.data().as_ptr(), a.data().len())).is_some() {
                memory.bytes_mut()[rows..rows + a.data().len()].copy_from_slice(a.data());
            }
            layout.fill(b, interleave, &mut memory.bytes_mut()[panels..panels + layout.bytes()]);
        }
        let memory = Arc::new(memory);
        let packed = sites.iter().zip(&layouts).zip(&places).map(|(([a, b], layout), &(rows, panels))| {
            let rows = Bytes::from_owner(Section::new(&memory, rows..rows + a.data().len()));
            let rows = Matrix::new(a.name(), a.dtype(), a.rows(), a.cols(), rows)?;
            Ok([Self::Rows(rows), Self::Panels(layout.panels(b, interleave, &memory, panels))])
        });
        packed.collect()
    }
}

fn room(bytes: usize, what: &str) -> Result<Lines, BackendError> {
    Lines::zeroed(bytes).ok_or_else(|| BackendError::OutOfMemory {
        backend: "cpu",
        what: what.into(),
        bytes: bytes as u64,
        reason: "the allocator refused".into(),
    })
}

/// Where the parts of a matrix in panels stand in their memory: elements or codes, then scales, each from a cache
/// line on.
struct Layout {
    elements: usize,
    scales: usize,
    panel_elements: usize,
    panel_scales: usize,
}

impl Layout {
    fn new(matrix: &Matrix, interleave: Interleave) -> Self {
        let dtype = matrix.dtype();
        let panels = matrix.rows().div_ceil(interleave.lanes);
        let blocks = matrix.cols() / dtype.block_len();
        let scale_bytes = if dtype.is_quantised() { size_of::<u16>() } else { 0 };
        let panel_elements = interleave.lanes * blocks * (dtype.block_bytes() - scale_bytes);
        let panel_scales = interleave.lanes * blocks * scale_bytes;
        Self {
            elements: panels * panel_elements,
            scales: panels * panel_scales,
            panel_elements,
            panel_scales,
        }
    }

    fn bytes(&self) -> usize {
        whole_lines(self.elements) + whole_lines(self.scales)
    }

    /// Writes a matrix's panels into so many zeros.
    fn fill(&self, matrix: &Matrix, interleave: Interleave, memory: &mut [u8]) {
        let (elements, scales) = memory.split_at_mut(whole_lines(self.elements));
        let elements = &mut elements[..self.elements];
        let rows_of = |panel: usize| {
            let first = panel * interleave.lanes;
            (first..matrix.rows().min(first + interleave.lanes)).map(|r| matrix.row(r)).collect::<Vec<_>>()
        };
        if self.panel_elements == 0 {
            return;
        }
        let panels = elements.par_chunks_exact_mut(self.panel_elements);
        if self.panel_scales > 0 {
            let scales: &mut [u16] = cast_slice_mut(&mut scales[..self.scales]);
            let scales = scales.par_chunks_exact_mut(self.panel_scales / size_of::<u16>());
            panels.zip(scales).enumerate().for_each(|(panel, (codes, scales))| {
                pack_quantised(matrix.dtype(), interleave, &rows_of(panel), codes, scales);
            });
        } else {
            panels.enumerate().for_each(|(panel, elements)| {
                pack_float(matrix.dtype(), interleave.lanes, &rows_of(panel), elements);
            });
        }
    }

    /// The panels that [`Self::fill`] wrote from a place of the memory on.
    fn panels(&self, matrix: &Matrix, interleave: Interleave, memory: &Arc<Lines>, at: usize) -> Panels {
        let scales = at + whole_lines(self.elements);
        Panels {
            dtype: matrix.dtype(),
            rows: matrix.rows(),
            cols: matrix.cols(),
            interleave,
            elements: Section::new(memory, at..at + self.elements),
            scales: Section::new(memory, scales..scales + self.scales),
        }
    }
}

impl Panels {
    /// How its elements are stored.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How many panels there are.
    #[must_use]
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(self.interleave.lanes)
    }

    /// The elements of panels of float weights, from this one on.
    pub fn float_panel(&self, panel: usize) -> &[u8] {
        &self.elements.bytes()[panel * self.panel_bytes()..]
    }

    /// A panel of quantised weights.
    pub fn quantised_panel(&self, panel: usize) -> QuantisedPanel {
        let blocks = self.cols / QUANT_BLOCK;
        let codes = &self.elements.bytes()[panel * self.panel_bytes()..];
        let scales = &self.scales.bytes()[panel * blocks * self.interleave.lanes * 2..];
        QuantisedPanel { codes: codes.as_ptr(), scales: cast_slice::<u8, u16>(scales).as_ptr(), blocks }
    }

    /// A quantised panel as numbers, `[input][lane]`.
    pub fn decode_panel(&self, panel: usize, out: &mut [f32]) {
        let (lanes, step) = (self.interleave.lanes, self.interleave.step);
        let blocks = self.cols / QUANT_BLOCK;
        let code_bytes = self.dtype.block_bytes() - 2;
        let codes = &self.elements.bytes()[panel * self.panel_bytes()..][..self.panel_bytes()];
        let scales: &[u16] = &cast_slice(self.scales.bytes())[panel * blocks * lanes..][..blocks * lanes];
        let flip = flip(self.dtype, self.interleave.signed);
        for (i, byte) in codes.iter().enumerate() {
            let (block, inside) = (i / (code_bytes * lanes), i % (code_bytes * lanes));
            let (group, lane, part) = (inside / (step * lanes), inside / step % lanes, inside % step);
            let d = f16::from_bits(scales[block * lanes + lane]).to_f32();
            let byte = byte ^ flip;
            let mut put = |k: usize, value: f32| out[(block * QUANT_BLOCK + k) * lanes + lane] = d * value;
            let k = group * step + part;
            if self.dtype == Dtype::Q4_0 {
                put(k, f32::from(byte & 0x0F) - 8.0);
                put(k + QUANT_BLOCK / 2, f32::from(byte >> 4) - 8.0);
            } else {
                put(k, f32::from(byte as i8));
            }
        }
    }

    /// Bytes of one panel's elements or codes.
    pub fn panel_bytes(&self) -> usize {
        self.elements.bytes().len().checked_div(self.panels()).unwrap_or(0)
    }

    /// A row's stored bits, as [`Matrix::row`] had them.
    pub fn row(&self, row: usize) -> Vec<u8> {
        let (panel, lane) = (row / self.interleave.lanes, row % self.interleave.lanes);
        let elements = &self.float_panel(panel)[..self.panel_bytes()];
        if !self.dtype.is_quantised() {
            let size = self.dtype.block_bytes();
            let element = |k: usize| &elements[(k * self.interleave.lanes + lane) * size..][..size];
            return (0..self.cols).flat_map(|k| element(k).iter().copied()).collect();
        }
        let blocks = self.cols / QUANT_BLOCK;
        let scales: &[u16] = cast_slice(self.scales.bytes());
        let code_bytes = self.dtype.block_bytes() - 2;
        let flip = flip(self.dtype, self.interleave.signed);
        let step = self.interleave.step;
        let mut bits = Vec::with_capacity(blocks * self.dtype.block_bytes());
        for block in 0..blocks {
            let scale = scales[(panel * blocks + block) * self.interleave.lanes + lane];
            bits.extend_from_slice(&scale.to_ne_bytes());
            let codes = &elements[block * code_bytes * self.interleave.lanes..];
            for group in 0..code_bytes / step {
                let at = (group * self.interleave.lanes + lane) * step;
                bits.extend(codes[at..at + step].iter().map(|byte| byte ^ flip));
            }
        }
        bits
    }
}

/// What turns a stored code into one of the tier's: a signed byte into one with an offset, or a nibble with
/// an offset into a signed one.
fn flip(dtype: Dtype, signed: bool) -> u8 {
    match (dtype, signed) {
        (Dtype::Q8_0, false) => 0x80,
        (Dtype::Q4_0, true) => 0x88,
        _ => 0,
    }
}

fn pack_float(dtype: Dtype, lanes: usize, rows: &[&[u8]], elements: &mut [u8]) {
    let size = dtype.block_bytes();
    for (k, group) in elements.chunks_exact_mut(lanes * size).enumerate() {
        for (element, row) in group.chunks_exact_mut(size).zip(rows) {
            element.copy_from_slice(&row[k * size..(k + 1) * size]);
        }
    }
}

fn pack_quantised(dtype: Dtype, to: Interleave, rows: &[&[u8]], codes: &mut [u8], scales: &mut [u16]) {
    let flip = flip(dtype, to.signed);
    let code_bytes = dtype.block_bytes() - 2;
    let blocks = codes.chunks_exact_mut(to.lanes * code_bytes).zip(scales.chunks_exact_mut(to.lanes));
    for (block, (codes, scales)) in blocks.enumerate() {
        // A code of zero is not all zeros where there is an offset; a scale of zero is enough.
        for (lane, row) in rows.iter().enumerate() {
            let (d, qs) = stored_block(dtype, row, block);
            scales[lane] = d;
            for (group, qs) in qs.chunks_exact(to.step).enumerate() {
                let at = (group * to.lanes + lane) * to.step;
                for (code, q) in codes[at..at + to.step].iter_mut().zip(qs) {
                    *code = q ^ flip;
                }
            }
        }
    }
}

/// Scale and code bytes of a row's block.
fn stored_block(dtype: Dtype, row: &[u8], block: usize) -> (u16, &[u8]) {
    if dtype == Dtype::Q4_0 {
        let block = &cast_slice::<u8, BlockQ4_0>(row)[block];
        (block.d, &block.qs)
    } else {
        let block = &cast_slice::<u8, BlockQ8_0>(row)[block];
        (block.d, cast_slice(&block.qs))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lines::LINE;

    fn matrix(dtype: Dtype, rows: usize, blocks: usize, seed: u64) -> Matrix {
        let cols = blocks * dtype.block_len();
        let mut state = seed;
        let bytes = (0..rows * blocks * dtype.block_bytes()).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        let bytes: Vec<u8> = bytes.collect();
        let mut lines = Lines::zeroed(bytes.len()).unwrap();
        lines.bytes_mut().copy_from_slice(&bytes);
        let bytes = Bytes::from_owner(Section::new(&Arc::new(lines), 0..bytes.len()));
        Matrix::new("m", dtype, rows, cols, bytes).unwrap()
    }

    proptest! {
        #[test]
        fn unpacking_gives_back_every_stored_bit(
            dtype in prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8_0, Dtype::Q4_0]),
            lanes in prop::sample::select(vec![4usize, 8, 16]),
            step in prop::sample::select(vec![4usize, 8]),
            signed in any::<bool>(),
            rows in 0usize..40,
            blocks in 0usize..5,
            seed in any::<u64>(),
        ) {
            let matrix = matrix(dtype, rows, blocks, seed);
            let packed = Packed::weights(&matrix, Interleave { lanes, step, signed }).unwrap();
            let Packed::Panels(packed) = packed else { unreachable!() };
            prop_assert_eq!((packed.rows(), packed.cols()), (rows, matrix.cols()));
            for row in 0..rows {
                prop_assert_eq!(packed.row(row), matrix.row(row));
            }
        }
    }

    #[test]
    fn factors_of_an_adapter_stand_one_after_another() {
        let interleave = Interleave { lanes: 8, step: 4, signed: false };
        let sites: Vec<[Matrix; 2]> = (0..5)
            .map(|i| [matrix(Dtype::F16, i, 40 + i, i as u64), matrix(Dtype::F32, 20 + i, i, 7 + i as u64)])
            .collect();
        let packed = Packed::factors(&sites, interleave).unwrap();
        let mut end = None;
        for ([a, b], found) in sites.iter().zip(&packed) {
            let [Packed::Rows(rows), Packed::Panels(panels)] = found else { panic!("rows and panels") };
            assert_eq!(rows.data(), a.data());
            for row in 0..b.rows() {
                assert_eq!(panels.row(row), b.row(row));
            }
            let first = rows.data().as_ptr() as usize;
            assert!(first.is_multiple_of(LINE) && end.is_none_or(|end| end == first));
            end = Some(first + found[0].bytes() + found[1].bytes());
        }
        assert!(Packed::factors(&[], interleave).unwrap().is_empty());
    }

    #[test]
    fn a_factor_that_sites_have_in_common_is_kept_once() {
        let interleave = Interleave { lanes: 4, step: 4, signed: false };
        let a = matrix(Dtype::F16, 3, 50, 1);
        let b = |seed| matrix(Dtype::F16, 9, 3, seed);
        let part = Matrix::new("part", Dtype::F16, 1, 50, a.data().slice(..100)).unwrap();
        let sites = [[a.clone(), b(2)], [part.clone(), matrix(Dtype::F16, 9, 1, 4)], [a.clone(), b(3)]];
        let packed = Packed::factors(&sites, interleave).unwrap();
        let addresses: Vec<usize> = packed.iter().map(|[a, _]| a.address()).collect();
        assert!(addresses[0] == addresses[2] && addresses[0] != addresses[1]);
        for ([a, b], [rows, panels]) in sites.iter().zip(&packed) {
            let (Packed::Rows(rows), Packed::Panels(panels)) = (rows, panels) else {
                panic!("rows and panels")
            };
            assert_eq!(rows.data(), a.data());
            (0..b.rows()).for_each(|row| assert_eq!(panels.row(row), b.row(row)));
        }
    }
}
