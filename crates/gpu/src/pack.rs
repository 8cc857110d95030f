//! Weights as kernels read them: rows in whole 16-byte units, and the scales of quantised blocks in a
//! plane of their own behind the codes. Host bytes to device bytes; no device here.
//!
//! A file's 34-byte and 18-byte blocks would never meet a 16-byte load; codes alone always do. Padding is
//! zeros, and activations are zeros there too.

use std::borrow::Cow;

use interleaf_contract::{Dtype, Matrix, QUANT_BLOCK};

/// Bytes that a kernel loads at once: a `vec4<u32>`.
pub(crate) const UNIT_BYTES: usize = 16;

/// Bytes of a block's f16 scale, at its front.
const SCALE_BYTES: usize = 2;

/// Sizes of one row on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowLayout {
    /// Units of codes, or of elements.
    pub units: usize,
    /// u32 of scales.
    pub scale_words: usize,
}

impl RowLayout {
    pub(crate) const fn of(dtype: Dtype, cols: usize) -> Self {
        let blocks = cols.div_ceil(QUANT_BLOCK);
        let (bytes, scale_words) = match dtype {
            Dtype::F32 => (4 * cols, 0),
            Dtype::F16 | Dtype::Bf16 => (2 * cols, 0),
            Dtype::Q8_0 => (QUANT_BLOCK * blocks, blocks.div_ceil(2)),
            Dtype::Q4_0 => (QUANT_BLOCK / 2 * blocks, blocks.div_ceil(2)),
        };
        Self { units: bytes.div_ceil(UNIT_BYTES), scale_words }
    }

    pub(crate) const fn code_bytes(self) -> usize {
        self.units * UNIT_BYTES
    }

    pub(crate) const fn scale_bytes(self) -> usize {
        self.scale_words * size_of::<u32>()
    }

    pub(crate) const fn bytes(self) -> usize {
        self.code_bytes() + self.scale_bytes()
    }
}

/// The codes, or elements, of `rows` stored rows of a matrix.
pub(crate) fn codes<'a>(matrix: &Matrix, rows: &'a [u8]) -> Cow<'a, [u8]> {
    let layout = RowLayout::of(matrix.dtype(), matrix.cols());
    if !matrix.dtype().is_quantised() {
        return widen_rows(rows, matrix.row_bytes(), layout.code_bytes());
    }
    // Rows are whole blocks and blocks are whole units, so that no row needs padding.
    let mut out = Vec::with_capacity(rows.len());
    for block in rows.chunks_exact(matrix.dtype().block_bytes()) {
        out.extend_from_slice(&block[SCALE_BYTES..]);
    }
    Cow::Owned(out)
}

/// The scales of `rows` stored rows of a quantised matrix, each row from a word on.
pub(crate) fn scales(matrix: &Matrix, rows: &[u8]) -> Vec<u8> {
    let layout = RowLayout::of(matrix.dtype(), matrix.cols());
    let mut out = Vec::with_capacity(rows.len() / matrix.row_bytes().max(1) * layout.scale_bytes());
    for row in rows.chunks_exact(matrix.row_bytes().max(1)) {
        for block in row.chunks_exact(matrix.dtype().block_bytes()) {
            out.extend_from_slice(&block[..SCALE_BYTES]);
        }
        out.resize(out.len().next_multiple_of(size_of::<u32>()), 0);
    }
    out
}

/// Rows of `from` bytes as rows of `to` bytes, zeros behind; the same bytes where nothing changes.
pub(crate) fn widen_rows(rows: &[u8], from: usize, to: usize) -> Cow<'_, [u8]> {
    if from == to || from == 0 {
        return Cow::Borrowed(rows);
    }
    let mut out = vec![0; rows.len() / from * to];
    for (wide, row) in out.chunks_exact_mut(to).zip(rows.chunks_exact(from)) {
        wide[..from].copy_from_slice(row);
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use interleaf_contract::Bytes;

    use super::*;

    #[test]
    fn float_rows_are_padded_to_units() {
        assert_eq!(RowLayout::of(Dtype::F32, 5), RowLayout { units: 2, scale_words: 0 });
        assert_eq!(RowLayout::of(Dtype::F16, 9), RowLayout { units: 2, scale_words: 0 });
        let bytes = Bytes::from(vec![1_u8; 2 * 9 * 2]);
        let matrix = Matrix::new("m", Dtype::F16, 2, 9, bytes).unwrap();
        let packed = codes(&matrix, matrix.data());
        assert_eq!(packed.len(), 64);
        assert!(packed[..18].iter().all(|b| *b == 1) && packed[18..32].iter().all(|b| *b == 0));
        assert_eq!(packed[..32], packed[32..]);
    }

    #[test]
    fn whole_rows_are_not_copied() {
        let matrix = Matrix::new("m", Dtype::F16, 2, 8, Bytes::from(vec![1_u8; 32])).unwrap();
        assert!(matches!(codes(&matrix, matrix.data()), Cow::Borrowed(_)));
    }

    #[test]
    fn blocks_are_split_into_codes_and_scales() {
        // Three blocks to a row: an odd number of scales.
        let mut bytes = Vec::new();
        for block in 0..6_u8 {
            bytes.extend([0xa0 + block, 0xb0 + block]);
            bytes.extend([block; 16]);
        }
        let matrix = Matrix::new("m", Dtype::Q4_0, 2, 96, Bytes::from(bytes)).unwrap();
        assert_eq!(RowLayout::of(Dtype::Q4_0, 96), RowLayout { units: 3, scale_words: 2 });
        let codes = codes(&matrix, matrix.data());
        assert_eq!(codes.len(), 2 * 3 * 16);
        assert!(codes.chunks(16).zip(0_u8..).all(|(unit, block)| unit.iter().all(|b| *b == block)));
        let expected =
            [[0xa0, 0xb0, 0xa1, 0xb1, 0xa2, 0xb2, 0, 0], [0xa3, 0xb3, 0xa4, 0xb4, 0xa5, 0xb5, 0, 0]];
        assert_eq!(scales(&matrix, matrix.data()), expected.concat());
    }
}
