//! Constants of pages.

use crate::RopeId;

/// Names constants of pages on a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConstantsId(pub u32);

/// What pages of some codecs are decoded with besides their bytes: the same for all pages of K, or of V, of one adapter or
/// model in one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct PageConstants {
    /// For messages.
    pub name: String,
    /// Rows × channels, all KV heads of a token side by side: the profile of [`PageCodec::Profiled`](crate::PageCodec), or
    /// the mean and the directions of [`PageCodec::LowRank`](crate::PageCodec).
    pub values: Vec<f32>,
    /// Values of a row.
    pub channels: usize,
    /// The embedding that expanded keys are turned by; none for V.
    pub rope: Option<RopeId>,
}
