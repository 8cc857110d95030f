//! A tensor's elements: bytes that are somewhere, or numbers that are drawn when they are asked for.
//!
//! Knows neither shapes nor element types.

use std::ops::Range;

use half::bf16;
use interleaf_contract::Bytes;

use crate::generated::Drawn;

/// Elements of an open tensor.
#[derive(Debug, Clone)]
pub(crate) enum TensorData {
    /// A view of a file, aligned or not.
    Stored(Bytes),
    /// Nothing yet: what bfloat16 holds of numbers to be drawn.
    Drawn(Drawn),
}

impl TensorData {
    /// The number of bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Stored(bytes) => bytes.len(),
            Self::Drawn(drawn) => drawn.len() * size_of::<bf16>(),
        }
    }

    /// The elements at a range of bytes, which starts and ends with one.
    pub fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::Stored(bytes) => Self::Stored(bytes.slice(range)),
            Self::Drawn(drawn) => {
                let element = |byte: usize| byte / size_of::<bf16>();
                Self::Drawn(drawn.slice(element(range.start)..element(range.end)))
            }
        }
    }

    /// The bytes: a view where there is one to be had, else all of them, drawn.
    pub fn bytes(&self) -> Bytes {
        match self {
            Self::Stored(bytes) => bytes.clone(),
            Self::Drawn(drawn) => drawn.bytes(),
        }
    }
}
