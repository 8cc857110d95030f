//! What the cache is told of a machine, and what its moves take there.

use std::num::NonZeroU32;

use interleaf_contract::{CHUNK_TOKENS, PageElement};
use interleaf_kv::{Config, LinearCost, Op, OpKind, RankRows, SwitchCosts, TierConfig};

use crate::adapters::AdapterShape;
use crate::machine::{Calibration, ModelShape};
use crate::policies::NamedPolicy;

/// Bytes of a chunk in all layers, with what rounding to whole pages adds.
pub(crate) fn chunk_bytes(model: &ModelShape) -> u64 {
    page_bytes(model) * u64::from(model.layers.get())
}

fn page_bytes(model: &ModelShape) -> u64 {
    (CHUNK_TOKENS as u64 * model.kv_token_bytes()).div_ceil(u64::from(model.layers.get()))
}

/// A cache of two tiers, memory and flash, or of memory alone where flash does not hold a chunk.
pub(super) fn config(
    calibration: &Calibration,
    policy: &NamedPolicy,
    bytes: u64,
    flash_bytes: u64,
    longest_context: u32,
) -> Config {
    let model = &calibration.model;
    let chunks = |bytes: u64| u32::try_from(bytes / chunk_bytes(model)).unwrap_or(u32::MAX);
    let tier = |bytes| TierConfig { striped: false, chunks: chunks(bytes) };
    let flash = Some(tier(flash_bytes)).filter(|flash| flash.chunks > 0);
    Config {
        layers: model.layers.get() as usize,
        page_bytes: page_bytes(model),
        // Nothing is stored: it only says that all chunks are of one width.
        element: PageElement::F16,
        tiers: [Some(tier(bytes)), flash].into_iter().flatten().collect(),
        policy: policy.policy,
        costs: SwitchCosts {
            recompute: LinearCost {
                fixed: calibration.prefill.fixed.get(),
                each: chunk_seconds(calibration, longest_context),
            },
            read: LinearCost { fixed: calibration.read.fixed.get(), each: calibration.read.per_byte.get() },
            // In simulated time everything takes what it is said to.
            least_saved: 0.0,
        },
        can_recompute: policy.can_recompute,
        // Everything is exact here: policies are compared at equal drift.
        forms: Vec::new(),
        // ELORA's, which this manager's constructor for memory alone has as well.
        idle_below: 0.70,
        busy_above: 0.95,
        longest_context,
    }
}

/// Seconds of a chunk's prefill among others, in the middle of the longest context.
fn chunk_seconds(calibration: &Calibration, longest_context: u32) -> f64 {
    let attended = f64::from(longest_context) / 2.0 / 1000.0;
    let prefill = &calibration.prefill;
    CHUNK_TOKENS as f64 * (prefill.per_token.get() + attended * prefill.per_token_and_1k_context.get())
}

/// An adapter's bytes as rows of its rank. Where a block is of all layers, rows of all layers lie side by side, so that
/// what rounding adds is less than a row for each block.
pub(super) fn rank_rows(adapter: &AdapterShape, layers: NonZeroU32) -> Vec<RankRows> {
    let rank = adapter.rank * layers.get();
    let mut rows = vec![RankRows::default(); layers.get() as usize];
    rows[0] = RankRows { rank, row_bytes: adapter.bytes.div_ceil(u64::from(rank.max(1))) };
    rows
}

/// Moves, by what they are.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Work {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub loads: u32,
    pub loaded_bytes: u64,
    pub read: u32,
    pub recomputed: u32,
}

impl Work {
    /// Of moves. A copy within memory is thousands of times faster than all else, and counts for nothing.
    pub fn of(moves: &[Op]) -> Self {
        let mut work = Self::default();
        for op in moves {
            match op.kind {
                // Nothing is translated or encoded here, since no form but the exact one is known.
                OpKind::Copy | OpKind::Translate | OpKind::Encode { .. } | OpKind::Materialise { .. } => {}
                OpKind::Write { .. } => work.written_bytes += op.bytes,
                OpKind::Read { .. } => {
                    work.read += 1;
                    work.read_bytes += op.bytes;
                }
                OpKind::Recompute => work.recomputed += 1,
                OpKind::Load => {
                    work.loads += 1;
                    work.loaded_bytes += op.bytes;
                }
            }
        }
        work
    }

    /// Bytes from and to storage.
    pub fn bytes(&self) -> u64 {
        self.read_bytes + self.written_bytes + self.loaded_bytes
    }

    /// Chunks that were not in memory.
    pub fn missing(&self) -> u32 {
        self.read + self.recomputed
    }

    /// Seconds of the storage to read, as one transfer.
    pub fn read_seconds(&self, calibration: &Calibration) -> f64 {
        calibration.read.seconds(self.read_bytes)
    }

    /// Seconds of the storage to load adapters, each a transfer.
    pub fn load_seconds(&self, calibration: &Calibration) -> f64 {
        let line = &calibration.adapter_load;
        f64::from(self.loads) * line.fixed.get() + self.loaded_bytes as f64 * line.per_byte.get()
    }

    /// Seconds of the storage for all of it.
    pub fn storage_seconds(&self, calibration: &Calibration) -> f64 {
        let written = calibration.write.seconds(self.written_bytes);
        self.read_seconds(calibration) + self.load_seconds(calibration) + written
    }

    /// Seconds of the device to recompute, as one prefill of chunks that lie evenly over a context of so many tokens.
    pub fn recompute_seconds(&self, calibration: &Calibration, context: usize) -> f64 {
        let tokens = self.recomputed * CHUNK_TOKENS as u32;
        // The tokens attend to half of the context on average, of which a prefill counts half of themselves.
        let before = (context as u32).saturating_sub(tokens) / 2;
        calibration.prefill.seconds(tokens, before)
    }
}
