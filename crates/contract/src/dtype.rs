//! Element types of weight matrices and the two quantised block layouts.

use bytemuck::{Pod, Zeroable};

/// Elements in one quantised block, along a row (GGUF: `QK8_0` and `QK4_0`).
pub const QUANT_BLOCK: usize = 32;

/// How the elements of a [`Matrix`](crate::Matrix) are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    Bf16,
    /// GGUF's Q8_0: blocks of 32 signed bytes with one f16 scale ([`BlockQ8_0`]).
    Q8_0,
    /// GGUF's Q4_0: blocks of 32 nibbles with one f16 scale ([`BlockQ4_0`]).
    Q4_0,
}

impl Dtype {
    /// Elements that are stored together: 1, or [`QUANT_BLOCK`] for the quantised types.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q8_0 | Self::Q4_0 => QUANT_BLOCK,
        }
    }

    /// Bytes of one such block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8_0 => size_of::<BlockQ8_0>(),
            Self::Q4_0 => size_of::<BlockQ4_0>(),
        }
    }

    /// Bytes of a row of `cols` elements, or `None` where `cols` does not fill whole blocks or the
    /// bytes cannot be counted.
    #[must_use]
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Alignment in bytes that lets a kernel view the stored bytes as elements or blocks.
    #[must_use]
    pub const fn alignment(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 | Self::Q8_0 | Self::Q4_0 => 2,
        }
    }

    /// Whether kernels may quantise activations to multiply with this type (see
    /// [`Numerics`](crate::Numerics)).
    #[must_use]
    pub const fn is_quantised(self) -> bool {
        matches!(self, Self::Q8_0 | Self::Q4_0)
    }

    /// The name used in reports and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// 32 weights as signed bytes: `w[j] = d · qs[j]`. 34 bytes, bit-compatible with GGUF's `block_q8_0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// The scale, as the bits of an f16.
    pub d: u16,
    /// The codes.
    pub qs: [i8; QUANT_BLOCK],
}

/// 32 weights as nibbles: element `j < 16` is the low nibble of `qs[j]`, element `j + 16` its high
/// nibble, and `w = d · (nibble − 8)`. 18 bytes, bit-compatible with GGUF's `block_q4_0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// The scale, as the bits of an f16. May be negative: the largest magnitude maps to −8.
    pub d: u16,
    /// The codes.
    pub qs: [u8; QUANT_BLOCK / 2],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_sizes_of_gguf() {
        assert_eq!(size_of::<BlockQ8_0>(), 34);
        assert_eq!(size_of::<BlockQ4_0>(), 18);
        assert_eq!(Dtype::Q8_0.row_bytes(64), Some(68));
        assert_eq!(Dtype::Q4_0.row_bytes(33), None);
        assert_eq!(Dtype::F16.row_bytes(7), Some(14));
    }
}
