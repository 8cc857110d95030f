//! What bringing chunks back takes, where nobody has measured it.

use interleaf_kv::{LinearCost, SwitchCosts};

use super::FlashProfile;
use crate::WeightBytes;

/// Bytes a second that a phone's memory gives at least: what a step's weights are read with.
const MEMORY: f64 = 10e9;

/// Bytes a second that flash storage gives at least, and seconds until it begins.
const FLASH: (f64, f64) = (1e9, 1e-4);

/// What recomputing must save to be done: each line is of one thing done alone, and both at the same time share cores and memory. On
/// two cores a chunk that was to save two per cent cost as much time again as all the reading (`benches/record/switch.md`).
pub const LEAST_SAVED: f64 = 0.2;

/// Reading takes what the profile says, or what slow flash storage does; computing a chunk takes no less than reading all weights.
pub fn unmeasured(profile: Option<FlashProfile>, weights: &WeightBytes) -> SwitchCosts {
    let (speed, latency) = profile.map_or(FLASH, |profile| (profile.read, profile.latency.as_secs_f64()));
    SwitchCosts {
        recompute: LinearCost { fixed: 0.0, each: weights.layers as f64 / MEMORY },
        read: LinearCost { fixed: latency, each: 1.0 / speed },
        least_saved: LEAST_SAVED,
    }
}
