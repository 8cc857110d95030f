//! Coefficients over all layers of a token at once: how many bytes they take, and what they are called. No kernel reads
//! them; what the numbers mean is defined by `joint_low_rank` of the reference.

use crate::{Bits, CHUNK_TOKENS, GROUP_CHANNELS};

/// What names begin with.
const JOINT: &str = "joint+";

/// What a map over all layers leaves of a chunk, in a basis over all layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JointCodec {
    /// Coefficients of a token.
    pub rank: u16,
    /// Of a coefficient.
    pub bits: Bits,
}

impl JointCodec {
    /// Bytes of a token's codes, behind which its scales are.
    #[must_use]
    pub const fn code_bytes(self) -> usize {
        (self.rank as usize * self.bits.count()).div_ceil(8)
    }

    /// Bytes of a token: its codes, and an f16 scale for each [`GROUP_CHANNELS`] of them.
    #[must_use]
    pub const fn token_bytes(self) -> usize {
        self.code_bytes() + 2 * (self.rank as usize).div_ceil(GROUP_CHANNELS)
    }

    /// Bytes of a chunk.
    #[must_use]
    pub const fn chunk_bytes(self) -> usize {
        CHUNK_TOKENS * self.token_bytes()
    }

    /// The codec of a name; `None` where there is none.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let (rank, bits) = name.strip_prefix(JOINT)?.split_once("-int")?;
        let bits =
            [Bits::Two, Bits::Four, Bits::Eight].into_iter().find(|b| b.count().to_string() == bits)?;
        rank.parse().ok().filter(|rank| *rank > 0).map(|rank| Self { rank, bits })
    }
}

impl std::fmt::Display for JointCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{JOINT}{}-int{}", self.rank, self.bits.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_bytes_counted() {
        let codec = JointCodec { rank: 128, bits: Bits::Four };
        assert_eq!((codec.token_bytes(), codec.chunk_bytes()), (72, 16 * 72));
        assert_eq!(JointCodec::named(&codec.to_string()), Some(codec));
        assert_eq!(JointCodec { rank: 33, bits: Bits::Two }.token_bytes(), 9 + 4);
        for name in ["", "joint-64", "joint+-int4", "joint+0-int4", "joint+64-int3", "joint+70000-int4"] {
            assert_eq!(JointCodec::named(name), None, "{name}");
        }
    }
}
