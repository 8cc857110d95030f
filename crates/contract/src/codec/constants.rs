//! Constants of pages: what is resident of them, and how its words lie.

use std::ops::Range;

use half::f16;

use crate::{ContractError, RopeId};

/// Names constants of pages on a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConstantsId(pub u32);

/// What pages of some codecs are decoded with besides their bytes: the same for all pages of K, or of V, of one adapter or
/// model in one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct PageConstants {
    /// For messages.
    pub name: String,
    /// The profile of [`PageCodec::Profiled`](crate::PageCodec), or the mean and the directions of
    /// [`PageCodec::LowRank`](crate::PageCodec).
    pub rows: ConstantRows,
    /// The embedding that expanded keys are turned by; none for V.
    pub rope: Option<RopeId>,
}

/// Channels of a word of codes: what a head's channels are rounded up to.
const QUAD: usize = 4;

/// What code 0 stands for, in steps of a direction's scale.
const LOWEST: f32 = -128.0;

/// Rows of a value for each channel, small enough to lie beside the pages: the first in f16, every further one, a
/// *direction*, in codes of 8 bits under a scale of its own. Directions are of length 1, and what their codes are off by is
/// far below the steps of coefficients.
///
/// In little-endian words: two halves each of the first row, `(kv_head, head_dim)`; then of each direction the scale as f32,
/// and four codes each, likewise. A head begins with a word of codes, and four channels never lie in two: behind its last
/// one are zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConstantRows {
    rows: usize,
    kv_heads: usize,
    head_dim: usize,
    words: Vec<u32>,
}

impl ConstantRows {
    /// The nearest to some values, rows × (kv_heads · head_dim).
    ///
    /// # Errors
    /// If they are not whole rows, or a value is not finite or, of the first row, outside the range of f16.
    pub fn nearest(values: &[f32], kv_heads: usize, head_dim: usize) -> Result<Self, ContractError> {
        let op = "page_codec";
        let channels = kv_heads * head_dim;
        let odd = values.len().checked_rem(channels).unwrap_or(values.len());
        if odd != 0 {
            let what = "values of constants past whole rows";
            return Err(ContractError::Shape { op, what, expected: 0, found: odd });
        }
        let first = values.get(..channels).unwrap_or_default();
        let unfit = values.iter().find(|v| !v.is_finite());
        if let Some(value) = unfit.or_else(|| first.iter().find(|v| f16::from_f32(**v).is_infinite())) {
            let (what, expected) = ("a value of constants", "finite, of the first row in f16");
            return Err(ContractError::Value { op, what, expected, found: f64::from(*value) });
        }
        let mut found = Self { rows: 0, kv_heads, head_dim, words: Vec::new() };
        for row in values.chunks_exact(channels.max(1)) {
            if found.rows == 0 {
                found.push_first(row);
            } else {
                found.push_direction(row);
            }
            found.rows += 1;
        }
        Ok(found)
    }

    fn push_first(&mut self, row: &[f32]) {
        for head in row.chunks_exact(self.head_dim) {
            let half = |channel| u32::from(f16::from_f32(channel_of(head, channel)).to_bits());
            let words = (0..self.head_quads() * QUAD).step_by(2);
            self.words.extend(words.map(|channel| half(channel) | half(channel + 1) << 16));
        }
    }

    fn push_direction(&mut self, row: &[f32]) {
        let scale = row.iter().fold(0.0, |largest: f32, v| largest.max(v.abs())) / -(LOWEST + 1.0);
        self.words.push(scale.to_bits());
        for head in row.chunks_exact(self.head_dim) {
            let code = |channel| {
                let steps = if scale == 0.0 { 0.0 } else { (channel_of(head, channel) / scale).round() };
                (steps - LOWEST) as u8
            };
            let quads = (0..self.head_quads() * QUAD).step_by(QUAD);
            self.words.extend(quads.map(|q| u32::from_le_bytes(std::array::from_fn(|e| code(q + e)))));
        }
    }

    /// How many rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// KV heads of a row.
    #[must_use]
    pub const fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Channels of a head.
    #[must_use]
    pub const fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// All of them.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Bytes of so many rows.
    #[must_use]
    pub const fn bytes_of(rows: usize, kv_heads: usize, head_dim: usize) -> usize {
        let quads = kv_heads * head_dim.div_ceil(QUAD);
        match rows {
            0 => 0,
            _ => size_of::<u32>() * (2 * quads + (rows - 1) * (1 + quads)),
        }
    }

    /// Bytes held.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        Self::bytes_of(self.rows, self.kv_heads, self.head_dim)
    }

    const fn head_quads(&self) -> usize {
        self.head_dim.div_ceil(QUAD)
    }

    /// The bytes of a head's part of the first row: f16, little-endian.
    #[must_use]
    pub const fn first_at(&self, kv_head: usize) -> Range<usize> {
        let first = kv_head * self.head_quads() * 2 * size_of::<u32>();
        first..first + self.head_dim * size_of::<u16>()
    }

    /// The bytes of a direction's scale, and those of a head's codes.
    #[must_use]
    pub const fn direction_at(&self, direction: usize, kv_head: usize) -> (usize, Range<usize>) {
        let quads = self.kv_heads * self.head_quads();
        let scale = size_of::<u32>() * (2 * quads + direction * (1 + quads));
        let codes = scale + size_of::<u32>() * (1 + kv_head * self.head_quads());
        (scale, codes..codes + self.head_dim)
    }

    /// The values that they stand for, rows × (kv_heads · head_dim): a direction's is its code less 128, times the scale.
    #[must_use]
    pub fn values(&self) -> Vec<f32> {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words);
        let mut values = Vec::with_capacity(self.rows * self.kv_heads * self.head_dim);
        for row in 0..self.rows {
            for kv_head in 0..self.kv_heads {
                let Some(direction) = row.checked_sub(1) else {
                    let halves = bytes[self.first_at(kv_head)].chunks_exact(2);
                    values.extend(halves.map(|half| f16::from_le_bytes([half[0], half[1]]).to_f32()));
                    continue;
                };
                let (scale_at, codes) = self.direction_at(direction, kv_head);
                let scale = f32::from_bits(self.words[scale_at / size_of::<u32>()]);
                values.extend(bytes[codes].iter().map(|code| (f32::from(*code) + LOWEST) * scale));
            }
        }
        values
    }
}

/// A channel of a head, and zeros behind the last.
fn channel_of(head: &[f32], channel: usize) -> f32 {
    head.get(channel).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_are_near_to_what_they_were_made_of(
            (kv_heads, head_dim, values) in (1usize..4, 1usize..4, 0usize..6).prop_flat_map(|(heads, pairs, rows)| {
                let values = prop::collection::vec(-9.0f32..9.0, rows * heads * 2 * pairs);
                (Just(heads), Just(2 * pairs), values)
            })
        ) {
            let stored = ConstantRows::nearest(&values, kv_heads, head_dim).unwrap();
            let channels = kv_heads * head_dim;
            prop_assert_eq!(stored.rows(), values.len() / channels);
            prop_assert_eq!(stored.bytes(), size_of_val(stored.words()));
            let found = stored.values();
            prop_assert_eq!(found.len(), values.len());
            for (i, (row, found)) in values.chunks(channels).zip(found.chunks(channels)).enumerate() {
                let largest = row.iter().fold(0.0f32, |most, v| most.max(v.abs()));
                for (v, f) in row.iter().zip(found) {
                    let most = if i == 0 { v.abs() / 2048.0 + 6e-8 } else { largest / 253.9 };
                    prop_assert!((v - f).abs() <= most, "{} for {}, row {}", f, v, i);
                }
            }
            // What has been stored once stays as it is.
            prop_assert_eq!(ConstantRows::nearest(&found, kv_heads, head_dim).unwrap().values(), found);
        }
    }

    #[test]
    fn parts_lie_where_they_are_said_to() {
        let values: Vec<f32> = (0..3 * 12).map(|i| i as f32 - 20.0).collect();
        let rows = ConstantRows::nearest(&values, 2, 6).unwrap();
        assert_eq!(rows.bytes(), 4 * (8 + 2 * 5));
        let bytes: &[u8] = bytemuck::cast_slice(rows.words());
        assert_eq!(f16::from_le_bytes(bytes[rows.first_at(1)][..2].try_into().unwrap()).to_f32(), -14.0);
        let (scale, codes) = rows.direction_at(1, 1);
        let scale = f32::from_le_bytes(bytes[scale..scale + 4].try_into().unwrap());
        assert_eq!(scale, 15.0 / 127.0);
        let found = bytes[codes].iter().map(|code| (f32::from(*code) - 128.0) * scale);
        assert!(
            found.zip([10.0, 11.0, 12.0, 13.0, 14.0, 15.0]).all(|(f, v): (f32, f32)| (f - v).abs() < 0.06)
        );
    }

    #[test]
    fn what_is_no_row_is_refused() {
        let stored = |values: &[f32]| ConstantRows::nearest(values, 1, 2);
        assert!(matches!(stored(&[0.0; 3]), Err(ContractError::Shape { found: 1, .. })));
        assert!(matches!(ConstantRows::nearest(&[0.0; 3], 0, 2), Err(ContractError::Shape { found: 3, .. })));
        assert!(matches!(stored(&[0.0, f32::NAN]), Err(ContractError::Value { .. })));
        assert!(matches!(stored(&[0.0, 7e4]), Err(ContractError::Value { .. })));
        assert!(matches!(stored(&[0.0, 1.0, f32::INFINITY, 0.0]), Err(ContractError::Value { .. })));
        assert_eq!(stored(&[]).unwrap().rows(), 0);
        assert_eq!(stored(&[1.0, 2.0, 0.0, 0.0]).unwrap().values(), [1.0, 2.0, 0.0, 0.0]);
    }
}
