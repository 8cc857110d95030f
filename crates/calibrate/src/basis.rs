//! What a codec is decoded with besides its pages, once for each adapter, in bytes: of codecs of pages as backends hold it,
//! else as a calibration's file has it, bases and maps as f16 numbers and scales as f32 ones. An adapter's own products need
//! none but the adapter.

use interleaf_contract::{ConstantRows, PageCodec, PageElement};
use interleaf_model::{Calibration, HalfCalibration};

use crate::Codec;

impl Codec {
    /// Bytes of it over all layers.
    #[must_use]
    pub fn basis_bytes(self, calibration: &Calibration) -> usize {
        let half = |values: usize| PageElement::F16.bytes(values);
        let single = |values: usize| PageElement::F32.bytes(values);
        let all = |of: &dyn Fn(&HalfCalibration) -> usize| -> usize {
            calibration.layers.iter().flat_map(|layer| [&layer.k, &layer.v]).map(of).sum()
        };
        let width = |half: &HalfCalibration| half.mean.len();
        // Heads are of whole words of codes.
        let resident = |rows, width| ConstantRows::bytes_of(rows, 1, width);
        let joint = |map: usize, residual: usize| {
            calibration.joint.as_ref().map_or(0, |joint| {
                let (rank, outputs) = (joint.rank().max(1), joint.up.len() / joint.rank().max(1));
                let inputs = joint.down.len() / rank;
                half(map.min(rank) * (inputs + outputs) + residual * outputs) + single(joint.scales.len())
            })
        };
        match self {
            Self::Page(PageCodec::Profiled(_)) => {
                calibration.layers.iter().map(|layer| resident(1, layer.profile.len())).sum()
            }
            Self::Page(PageCodec::LowRank { rank, .. }) => {
                all(&|k_or_v| resident(1 + usize::from(rank), width(k_or_v)))
            }
            Self::Page(_) | Self::Base | Self::MobiLora | Self::OwnProducts => 0,
            Self::Predicted => all(&|k_or_v| half(k_or_v.prediction.len())),
            Self::PredictedAnd { rank, .. } => {
                all(&|k_or_v| half(k_or_v.prediction.len() + usize::from(rank) * width(k_or_v)))
            }
            Self::Joint { rank } => joint(rank, 0),
            Self::JointAnd { rank, .. } => joint(usize::MAX, rank),
        }
    }
}
