//! Every tile size and strategy, in one place: plain `Copy` values from pure functions of the device's
//! caps and of shapes. Dispatch code never derives a tile again; templates get their constants from here.
//!
//! Nothing depends on how many rows a batch has: a row's kernel is chosen by its kind, so that its bits do
//! not depend on its neighbours.

use interleaf_contract::{ATTENTION_SPLIT, CHUNK_TOKENS, Dtype, RowKind};

use crate::limits::Caps;

/// Invocations of every workgroup, always in one dimension: near-square workgroups gave wrong tiles on an
/// Adreno. 64 is one or two subgroups on Adreno and a few on Mali, and leaves each thread many registers.
pub(crate) const WORKGROUP: u32 = 64;

/// Rows that share one read of a weight in decode and shrink: what four vec4 of x, eight sums and the
/// codes of two weights leave of the 64 registers that Arm gives a thread. Held in a vec4 in WGSL.
pub(crate) const ROW_TILE: u32 = 4;

/// How a row is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Strategy {
    /// Weights are read once for a few rows; K is shared by lanes.
    Decode,
    /// Weights are read once for many rows; tiles in registers.
    Prefill,
}

impl Strategy {
    pub(crate) const fn of(kind: RowKind) -> Self {
        match kind {
            RowKind::Generated => Self::Decode,
            RowKind::Prompt => Self::Prefill,
        }
    }
}

/// Dot products whose K is shared by lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LanesTile {
    /// Threads that share the K of an output.
    pub lanes: u32,
    /// Outputs of a thread: what a value of x is loaded for.
    pub outs: u32,
}

impl LanesTile {
    /// Outputs of a workgroup.
    pub(crate) const fn out_tile(self) -> u32 {
        WORKGROUP / self.lanes * self.outs
    }
}

/// `lora_matmul` for generated rows. Eight lanes read 128 neighbouring bytes of a row of W; 16 outputs to
/// a workgroup give 128 workgroups for a hidden size of 2048.
pub(crate) const fn matmul_decode() -> LanesTile {
    LanesTile { lanes: 8, outs: 2 }
}

/// The shrink. There are few ranks, so that more lanes share a K to occupy a device: at rank 16 and three
/// projections 12 workgroups instead of 3.
pub(crate) const fn shrink() -> LanesTile {
    LanesTile { lanes: 32, outs: 2 }
}

/// `lora_matmul` for prompt rows: a tile of outputs, 4 × 4 to a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RegisterTile {
    pub rows: u32,
    pub outs: u32,
    /// vec4 of K that are staged at a time.
    pub k_quads: u32,
}

/// 32 × 32 outputs: 8 × 8 threads with 16 sums each, which with five operands of four stay within 64
/// registers. 32 of K is one quantised block; both tiles together take 9 KiB.
pub(crate) const fn matmul_prefill() -> RegisterTile {
    RegisterTile { rows: 32, outs: 32, k_quads: 8 }
}

/// vec4 in the unit, 16 bytes, that weights are read by.
pub(crate) const fn unit_quads(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F32 => 1,
        Dtype::F16 | Dtype::Bf16 => 2,
        Dtype::Q8_0 => 4,
        Dtype::Q4_0 => 8,
    }
}

/// The largest head that attention has room for.
pub(crate) const LARGEST_HEAD: usize = 256;

/// Attention over one block of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AttentionTile {
    pub head_dim: u32,
    /// Queries to a vector: 1, 2 or 4.
    pub lanes: u32,
    /// Vectors of queries.
    pub vectors: u32,
}

impl AttentionTile {
    /// vec4 in a head, the last perhaps not full.
    pub(crate) const fn quads(self) -> u32 {
        self.head_dim.div_ceil(4)
    }

    /// Groups of threads that take turns over the values of a chunk's tokens.
    pub(crate) const fn groups(self) -> u32 {
        let groups = WORKGROUP / self.quads();
        if groups < CHUNK_TOKENS as u32 { groups } else { CHUNK_TOKENS as u32 }
    }

    /// Elements of a result that a thread owns.
    pub(crate) const fn owned(self) -> u32 {
        self.head_dim.div_ceil(WORKGROUP)
    }

    /// Queries of a workgroup.
    pub(crate) const fn queries(self) -> u32 {
        self.lanes * self.vectors
    }

    /// Bytes of workgroup memory: queries, scores, and a share of each thread.
    pub(crate) const fn workgroup_bytes(self) -> u32 {
        self.queries() * (4 * self.quads() + ATTENTION_SPLIT as u32 + WORKGROUP) * size_of::<f32>() as u32
    }
}

/// For generated rows: the heads that read one KV head, side by side, at most four. More than four (or
/// three) take several workgroups.
pub(crate) const fn attention_decode(head_dim: u32, heads_per_kv: u32) -> AttentionTile {
    let lanes = match heads_per_kv {
        0 | 1 => 1,
        2 => 2,
        _ => 4,
    };
    AttentionTile { head_dim, lanes, vectors: 1 }
}

/// For prompt rows: eight rows of one head where workgroup memory allows, else four.
pub(crate) const fn attention_prefill(caps: Caps, head_dim: u32) -> AttentionTile {
    let eight = AttentionTile { head_dim, lanes: 4, vectors: 2 };
    if eight.workgroup_bytes() <= caps.workgroup_bytes {
        return eight;
    }
    AttentionTile { head_dim, lanes: 4, vectors: 1 }
}

/// Folds a count of workgroups over x and y; `None` where even that cannot hold them. Up to one row of
/// them may be too many: kernels compare their index with what they were asked for.
pub(crate) fn grid(caps: Caps, workgroups: u64) -> Option<(u32, u32)> {
    let y = workgroups.div_ceil(u64::from(caps.workgroups)).max(1);
    let x = workgroups.div_ceil(y);
    (y <= u64::from(caps.workgroups)).then_some((u32::try_from(x).ok()?, u32::try_from(y).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_divide_a_workgroup_and_fill_a_vec4_at_most() {
        for tile in [matmul_decode(), shrink()] {
            assert_eq!(WORKGROUP % tile.lanes, 0);
            assert!(tile.outs <= 4);
        }
        assert_eq!(matmul_decode().out_tile(), 16);
        assert_eq!(shrink().out_tile(), 4);
    }

    #[test]
    fn units_are_sixteen_bytes() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            assert_eq!(unit_quads(dtype) as usize * 4 * dtype.block_bytes(), 16, "{dtype}");
        }
        // Codes only: scales have a plane of their own.
        assert_eq!(unit_quads(Dtype::Q8_0) * 4, 16);
        assert_eq!(unit_quads(Dtype::Q4_0) * 4 / 2, 16);
    }

    #[test]
    fn every_head_has_a_tile_within_the_lowest_tier() {
        let caps = Caps::lowest();
        for head_dim in (2..=LARGEST_HEAD as u32).step_by(2) {
            for tile in [1, 2, 3, 4, 7].map(|heads| attention_decode(head_dim, heads)) {
                assert!(tile.workgroup_bytes() <= caps.workgroup_bytes);
            }
            let tile = attention_prefill(caps, head_dim);
            assert!(tile.workgroup_bytes() <= caps.workgroup_bytes, "{head_dim}");
            assert!(tile.groups() >= 1 && tile.groups() * tile.quads() <= WORKGROUP, "{head_dim}");
            assert!(tile.owned() * WORKGROUP >= head_dim);
        }
        assert_eq!(attention_prefill(caps, 128).queries(), 8);
        assert_eq!(attention_prefill(caps, 256).queries(), 4);
    }

    #[test]
    fn grids_fold_and_never_fall_short() {
        let caps = Caps::lowest();
        for count in [1_u64, 7, 65_535, 65_536, 1_000_003, 65_535 * 65_535] {
            let (x, y) = grid(caps, count).unwrap();
            assert!(x <= caps.workgroups && y <= caps.workgroups);
            assert!((count..count + u64::from(y)).contains(&(u64::from(x) * u64::from(y))), "{count}");
        }
        assert_eq!(grid(caps, 65_535), Some((65_535, 1)));
        assert_eq!(grid(caps, 65_535 * 65_535 + 1), None);
    }
}
