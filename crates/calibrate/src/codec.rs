//! The codecs that are compared, by name. What each does to a cache is in `prefix`.

use std::fmt;
use std::str::FromStr;

use interleaf_contract::{Bits, Coefficients, PageCodec, PageElement};
use interleaf_model::{Calibration, HalfCalibration};

use crate::CalibrateError;

/// A way of storing an adapter's K and V of a prefix, the base's being there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Page by page: on its own, over the base's pages, or in the calibrated basis of its layer over them. Where keys alone
    /// have a profile, values are [`PageCodec::Quantised`]; where first tokens are kept, only the sequence's is.
    Page(PageCodec),
    /// Nothing: the base's stands for it.
    Base,
    /// Page by page in MobiLoRA's steps, each of the smallest width that does.
    MobiLora,
    /// The adapter's own low-rank products over the base's pages ([`Products`](crate::Products)).
    OwnProducts,
    /// The linear prediction from the base's keys and values of the same layer; nothing is stored.
    Predicted,
    /// What that leaves in its calibrated basis.
    PredictedAnd {
        /// Directions.
        rank: u8,
        /// Of a coefficient.
        bits: Bits,
    },
    /// The prediction of all layers from all layers and the token; nothing is stored.
    Joint {
        /// The map's rank.
        rank: usize,
    },
    /// What that leaves, at its full rank, in the one basis over all layers.
    JointAnd {
        /// Directions.
        rank: usize,
        /// Of a coefficient.
        bits: Bits,
    },
}

/// Codecs that differ only in how much they store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// A cache of the adapter's own.
    Own,
    /// The base's cache.
    Base,
    /// Differences without calibration.
    Delta,
    /// MobiLoRA's.
    MobiLora,
    /// The adapter's own products.
    OwnProducts,
    /// A basis for each layer.
    LowRank,
    /// A prediction for each layer, and what it leaves.
    Predicted,
    /// A prediction of all layers, and what it leaves.
    Joint,
}

impl Family {
    /// Every one, in the order of legends.
    pub const ALL: [Self; 8] = [
        Self::Own,
        Self::Base,
        Self::Delta,
        Self::MobiLora,
        Self::OwnProducts,
        Self::LowRank,
        Self::Predicted,
        Self::Joint,
    ];

    /// What it is, in a few words.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Own => "own cache, nothing shared",
            Self::Base => "the base's cache, nothing added",
            Self::Delta => "base + difference in groups of 32",
            Self::MobiLora => "base + MobiLoRA's difference",
            Self::OwnProducts => "base + the adapter's own products",
            Self::LowRank => "base + calibrated basis of each layer",
            Self::Predicted => "prediction of each layer + residual",
            Self::Joint => "joint prediction of all layers + residual",
        }
    }
}

impl Codec {
    /// Every codec that is compared.
    pub const ALL: [Self; 28] = [
        Self::Page(PageCodec::Exact(PageElement::F16)),
        Self::Page(PageCodec::Grouped(Bits::Eight)),
        Self::Page(PageCodec::Grouped(Bits::Four)),
        Self::Page(PageCodec::Grouped(Bits::Two)),
        Self::Page(PageCodec::Quantised(Bits::Eight)),
        Self::Page(PageCodec::Quantised(Bits::Four)),
        Self::Page(PageCodec::Quantised(Bits::Two)),
        Self::Page(PageCodec::Profiled(Bits::Four)),
        Self::Base,
        Self::Page(PageCodec::Delta(Bits::Eight)),
        Self::Page(PageCodec::Delta(Bits::Four)),
        Self::Page(PageCodec::Delta(Bits::Two)),
        Self::MobiLora,
        Self::OwnProducts,
        low_rank(8, Bits::Four, false),
        low_rank(16, Bits::Eight, false),
        low_rank(16, Bits::Four, false),
        low_rank(16, Bits::Four, true),
        low_rank(32, Bits::Eight, false),
        low_rank(32, Bits::Four, false),
        Self::Predicted,
        Self::PredictedAnd { rank: 16, bits: Bits::Four },
        Self::PredictedAnd { rank: 32, bits: Bits::Four },
        Self::Joint { rank: 64 },
        Self::Joint { rank: 128 },
        Self::JointAnd { rank: 32, bits: Bits::Four },
        Self::JointAnd { rank: 64, bits: Bits::Four },
        Self::JointAnd { rank: 128, bits: Bits::Four },
    ];

    /// Which others it is of one kind with.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::Page(PageCodec::Delta(_)) => Family::Delta,
            Self::Page(PageCodec::Steps(_)) | Self::MobiLora => Family::MobiLora,
            Self::Page(PageCodec::LowRank { .. }) => Family::LowRank,
            Self::Page(_) => Family::Own,
            Self::Base => Family::Base,
            Self::OwnProducts => Family::OwnProducts,
            Self::Predicted | Self::PredictedAnd { .. } => Family::Predicted,
            Self::Joint { .. } | Self::JointAnd { .. } => Family::Joint,
        }
    }

    /// Whether the base's cache is read with it.
    #[must_use]
    pub const fn is_over_base(self) -> bool {
        match self {
            Self::Page(codec) => !codec.stands_alone(),
            _ => true,
        }
    }

    /// Whether it needs a calibration.
    #[must_use]
    pub const fn is_calibrated(self) -> bool {
        match self {
            Self::Page(codec) => codec.constant_rows() > 0,
            Self::Base | Self::MobiLora | Self::OwnProducts => false,
            Self::Predicted | Self::PredictedAnd { .. } | Self::Joint { .. } | Self::JointAnd { .. } => true,
        }
    }

    /// Whether a calibration has what it needs.
    #[must_use]
    pub fn is_in(self, calibration: &Calibration) -> bool {
        let joint = calibration.joint.as_ref();
        let least = |of: fn(&HalfCalibration) -> usize| {
            let halves = calibration.layers.iter().flat_map(|layer| [&layer.k, &layer.v]);
            halves.map(of).min().unwrap_or(0)
        };
        match self {
            Self::Page(PageCodec::LowRank { rank, .. }) => {
                usize::from(rank) <= least(|half| half.basis.rank())
            }
            Self::PredictedAnd { rank, .. } => usize::from(rank) <= least(|half| half.residual.rank()),
            Self::Joint { rank } => joint.is_some_and(|joint| rank <= joint.rank()),
            Self::JointAnd { rank, .. } => joint.is_some_and(|joint| rank <= joint.residual.rank()),
            Self::Page(_) | Self::Base | Self::MobiLora | Self::Predicted => true,
            // These are the adapter's files'.
            Self::OwnProducts => false,
        }
    }
}

const fn low_rank(rank: u8, bits: Bits, keeps_first: bool) -> Codec {
    Codec::Page(PageCodec::LowRank { rank, coefficients: Coefficients::Codes(bits), keeps_first })
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page(codec) => codec.fmt(f),
            Self::Base => f.write_str("base"),
            Self::MobiLora => f.write_str("mobilora"),
            Self::OwnProducts => f.write_str("own-products"),
            Self::Predicted => f.write_str("predicted"),
            Self::PredictedAnd { rank, bits } => write!(f, "predicted+{rank}-int{}", bits.count()),
            Self::Joint { rank } => write!(f, "joint-{rank}"),
            Self::JointAnd { rank, bits } => write!(f, "joint+{rank}-int{}", bits.count()),
        }
    }
}

impl FromStr for Codec {
    type Err = CalibrateError;

    fn from_str(name: &str) -> Result<Self, CalibrateError> {
        Self::ALL.into_iter().find(|codec| codec.to_string() == name).ok_or_else(|| {
            let known: Vec<String> = Self::ALL.iter().map(ToString::to_string).collect();
            CalibrateError::UnknownCodec { name: name.into(), known: known.join(", ") }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for codec in Codec::ALL {
            assert_eq!(codec.to_string().parse::<Codec>().unwrap(), codec);
        }
        let error = "int3".parse::<Codec>().unwrap_err().to_string();
        assert!(error.contains("low-rank-16-int4"), "{error}");
    }
}
