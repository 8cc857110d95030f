//! Weight matrices as the tiers read them: panels of as many outputs as a vector has lanes, inputs one after
//! another.
//!
//! A panel of float weights holds, for each input, one element of every output. A panel of quantised weights
//! holds, for each block of 32 inputs, the codes in the tier's [`Interleave`] and apart from them the scales.
//! The last panel is filled up with zeros. [`Panels::row`] gives the stored bits of a row back.

use bytemuck::{cast_slice, cast_slice_mut};
use half::f16;
use interleaf_contract::host::HostMatrix;
use interleaf_contract::{BackendError, BlockQ4_0, BlockQ8_0, Dtype, Matrix, QUANT_BLOCK};
use rayon::prelude::*;

use crate::isa::{Interleave, QuantisedPanel};
use crate::lines::Lines;

/// A matrix in panels.
#[derive(Debug)]
pub struct Panels {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    interleave: Interleave,
    /// Elements, or codes.
    elements: Lines,
    /// Bits of f16, for each panel and block one for every lane; empty for float weights.
    scales: Lines,
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
            Self::Panels(p) => p.elements.bytes().len() + p.scales.bytes().len(),
            Self::Rows(m) => m.data().len(),
        }
    }
}

impl Panels {
    /// Repacks a matrix for a tier.
    ///
    /// # Errors
    /// If there is no room.
    pub fn pack(matrix: &Matrix, interleave: Interleave) -> Result<Self, BackendError> {
        let (dtype, rows, cols) = (matrix.dtype(), matrix.rows(), matrix.cols());
        let panels = rows.div_ceil(interleave.lanes);
        let blocks = cols / dtype.block_len();
        let code_bytes = dtype.block_bytes() - if dtype.is_quantised() { 2 } else { 0 };
        let no_room = |bytes| BackendError::OutOfMemory {
            backend: "cpu",
            what: matrix.name().into(),
            bytes: bytes as u64,
            reason: "the allocator refused".into(),
        };
        let lines = |bytes: usize| Lines::zeroed(bytes).ok_or_else(|| no_room(bytes));
        let panel_bytes = interleave.lanes * blocks * code_bytes;
        let mut elements = lines(panels * panel_bytes)?;
        let panel_scales = if dtype.is_quantised() { interleave.lanes * blocks } else { 0 };
        let mut scales = lines(panels * panel_scales * 2)?;
        if panel_bytes > 0 {
            let rows_of = |panel: usize| {
                let first = panel * interleave.lanes;
                (first..rows.min(first + interleave.lanes)).map(|r| matrix.row(r)).collect::<Vec<_>>()
            };
            if panel_scales > 0 {
                let scales: &mut [u16] = cast_slice_mut(scales.bytes_mut());
                let panels = elements.bytes_mut().par_chunks_exact_mut(panel_bytes);
                panels.zip(scales.par_chunks_exact_mut(panel_scales)).enumerate().for_each(
                    |(panel, (codes, scales))| {
                        pack_quantised(dtype, interleave, &rows_of(panel), codes, scales);
                    },
                );
            } else {
                let panels = elements.bytes_mut().par_chunks_exact_mut(panel_bytes);
                panels.enumerate().for_each(|(panel, elements)| {
                    pack_float(dtype, interleave.lanes, &rows_of(panel), elements);
                });
            }
        }
        Ok(Self { dtype, rows, cols, interleave, elements, scales })
    }

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
    use interleaf_contract::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// Bytes in words, so that they are aligned for every dtype.
    fn matrix(dtype: Dtype, rows: usize, blocks: usize, seed: u64) -> Matrix {
        let cols = blocks * dtype.block_len();
        let mut state = seed;
        let bytes = (0..rows * blocks * dtype.block_bytes()).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        Matrix::new("m", dtype, rows, cols, Bytes::from(bytes.collect::<Vec<u8>>())).unwrap()
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
            let packed = Panels::pack(&matrix, Interleave { lanes, step, signed }).unwrap();
            prop_assert_eq!((packed.rows(), packed.cols()), (rows, matrix.cols()));
            for row in 0..rows {
                prop_assert_eq!(packed.row(row), matrix.row(row));
            }
        }
    }
}
