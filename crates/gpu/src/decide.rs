//! Every tile size and strategy, in one place: plain `Copy` values from pure functions of the device's
//! caps and of shapes. Dispatch code never derives a tile again; templates get their constants from here.
//!
//! Nothing depends on how many rows a batch has: a row's kernel is chosen by its kind, so that its bits do
//! not depend on its neighbours.

use interleaf_contract::{ATTENTION_SPLIT, Activation, CHUNK_TOKENS, Dtype, Numerics, RowKind};

use crate::limits::Caps;
use crate::options::GpuVariant;

/// Invocations of a workgroup in kernels that need not say better, always in one dimension: near-square workgroups gave
/// wrong tiles on an Adreno. 64 is one or two subgroups on Adreno and a few on Mali, and leaves each thread many registers.
pub(crate) const WORKGROUP: u32 = 64;

/// Workgroups that are few and large: those that norm rows, or choose a token. Sums go through two levels of `root`
/// terms each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RowThreads {
    pub workgroup: u32,
    pub root: u32,
}

/// The most that the lowest tier has.
pub(crate) const LARGE: RowThreads = RowThreads { workgroup: 256, root: 16 };

/// As many as there are vec4 in a row of 256, which small models have.
pub(crate) const SMALL: RowThreads = RowThreads { workgroup: 64, root: 8 };

/// For a row of so many columns: a thread takes two vec4 or more.
pub(crate) const fn row_threads(cols: u32) -> RowThreads {
    if cols <= 1024 { SMALL } else { LARGE }
}

/// Rows that share one read of a weight in decode and shrink: what four vec4 of x, sixteen sums and the
/// codes of a weight leave of the 64 registers that Arm gives a thread. Held in a vec4 in WGSL.
pub(crate) const ROW_TILE: u32 = 4;

/// vec4 of z that a matmul stages at a time for each row: a rank of 32.
pub(crate) const Z_QUADS: u32 = 8;

/// Dtypes of base weights.
#[cfg(test)]
pub(crate) const BASE_DTYPES: [Dtype; 5] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8_0, Dtype::Q4_0];

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

/// How a half becomes an f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Half {
    /// By integers: exact everywhere, for a dozen instructions.
    Integer,
    /// By the device's conversion, where it is trusted to keep subnormals: where halves are a type of its own.
    Native,
}

impl Half {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 2] = [Self::Integer, Self::Native];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Native => "native",
        }
    }
}

/// How lanes that share a dot product add their sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LanesBy {
    /// Through workgroup memory.
    Memory,
    /// Through registers of a subgroup, which must hold all of them.
    Subgroup,
}

impl LanesBy {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Subgroup => "subgroup",
        }
    }
}

/// What weights of the prefill kernel are staged as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    F32,
    F16,
}

impl Stage {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }
}

/// How products of x and W are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Products {
    /// One after another in f32.
    Float,
    /// By `act=q8_0` where W is quantised: four bytes at a time, a block to an integer.
    Integer,
    /// By 8 × 8 matrices of a subgroup, for prompt rows.
    Matrix,
}

impl Products {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Integer => "integer",
            Self::Matrix => "matrix",
        }
    }
}

/// Which variants of the kernels a device runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Decisions {
    pub half: Half,
    pub stage: Stage,
    pub products: Products,
    /// The smallest subgroup there may be; 0 where subgroups are not used.
    pub subgroup: u32,
    /// Outputs to a lane of the decode kernel, for each dtype of weights.
    pub decode_outs: DecodeOuts,
}

/// Outputs to a lane of the decode kernel. A workgroup loads x once for 32 times as many outputs: the more, the
/// less is loaded besides weights; the fewer, the more workgroups there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct DecodeOuts {
    pub float: u32,
    pub q8_0: u32,
    pub q4_0: u32,
}

impl Decisions {
    /// A variant's kernels, or what of the device is missing for them.
    pub(crate) const fn forced(caps: Caps, variant: GpuVariant) -> Result<Self, &'static str> {
        let lowest = Caps { subgroup: 0, f16: false, dot: false, matrix: false, ..caps };
        let baseline = Self::of(lowest, Numerics::ActF32);
        match variant {
            GpuVariant::Baseline => Ok(baseline),
            GpuVariant::Subgroup if caps.subgroup < 8 => Err("subgroups of 8 or more"),
            GpuVariant::Subgroup => Ok(Self { subgroup: caps.subgroup, ..baseline }),
            GpuVariant::Half | GpuVariant::StagedHalf if !caps.f16 => Err("f16"),
            GpuVariant::Half => Ok(Self { half: Half::Native, ..baseline }),
            GpuVariant::StagedHalf => Ok(Self { stage: Stage::F16, ..baseline }),
            // Core WGSL: right everywhere, if not fast.
            GpuVariant::Dot => Ok(Self { products: Products::Integer, ..baseline }),
            GpuVariant::Matrix if !caps.matrix => Err("8 × 8 f32 matrices of subgroups of 32"),
            GpuVariant::Matrix => Ok(Self { products: Products::Matrix, ..baseline }),
        }
    }

    /// What to run where a driver refuses these kernels: the same without subgroups, then without anything beyond the
    /// lowest tier; `None` if that is what was refused.
    pub(crate) const fn next(self) -> Option<Self> {
        if self.subgroup > 0 {
            return Some(Self { subgroup: 0, ..self });
        }
        let least = Self { half: Half::Integer, stage: Stage::F32, products: Products::Float, ..self };
        match (self.half, self.stage, self.products) {
            (Half::Integer, Stage::F32, Products::Float) => None,
            _ => Some(least),
        }
    }

    /// What quantised weights meet.
    pub(crate) const fn numerics(self) -> Numerics {
        match self.products {
            Products::Integer => Numerics::ActQ8_0,
            Products::Float | Products::Matrix => Numerics::ActF32,
        }
    }

    /// What the kernels use beyond the lowest tier, in a word.
    pub(crate) const fn name(self) -> &'static str {
        match (self.subgroup >= 8, self.half, self.stage, self.products) {
            (_, _, _, Products::Matrix) => "matrix",
            (_, _, Stage::F16, _) => "staged-half",
            (false, Half::Integer, _, Products::Float) => "baseline",
            (true, Half::Integer, _, Products::Float) => "subgroup",
            (false, Half::Native, _, Products::Float) => "half",
            (true, Half::Native, _, Products::Float) => "subgroup+half",
            (false, Half::Integer, _, Products::Integer) => "dot",
            (true, Half::Integer, _, Products::Integer) => "subgroup+dot",
            (false, Half::Native, _, Products::Integer) => "half+dot",
            (true, Half::Native, _, Products::Integer) => "subgroup+half+dot",
        }
    }

    /// What suits a device, where activations may be quantised or may not.
    pub(crate) const fn of(caps: Caps, numerics: Numerics) -> Self {
        Self {
            half: if caps.f16 { Half::Native } else { Half::Integer },
            // Halved workgroup memory is not worth the digits of quantised weights unless it is asked for.
            stage: Stage::F32,
            // Matrices are still an experiment of wgpu: only by name.
            products: match numerics {
                Numerics::ActQ8_0 if caps.dot => Products::Integer,
                Numerics::ActQ8_0 | Numerics::ActF32 => Products::Float,
            },
            subgroup: caps.subgroup,
            // x is at most a sixteenth of what a workgroup loads: 4·K bytes against 2·K, 1.06·K and
            // 0.56·K for each output.
            decode_outs: DecodeOuts { float: 2, q8_0: 2, q4_0: 4 },
        }
    }

    /// Every combination, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for f16 in [false, true] {
            for subgroup in [0, 4, 8, 32] {
                let caps = Caps { f16, subgroup, dot: true, ..Caps::lowest() };
                let decisions = Self::of(caps, Numerics::ActF32);
                all.push(decisions);
                all.push(Self::of(caps, Numerics::ActQ8_0));
                all.push(Self { products: Products::Matrix, ..decisions });
                if f16 {
                    all.push(Self { stage: Stage::F16, ..decisions });
                }
            }
        }
        all
    }

    /// `lora_matmul` for generated rows. Eight lanes read 128 or more neighbouring bytes of a row of W, four lanes 128.
    pub(crate) const fn matmul_decode(self, dtype: Dtype) -> LanesTile {
        let products = self.decode_products(dtype);
        let (lanes, outs) = match (products, dtype) {
            // Codes of x take the room that the sums of more outputs would: fewer lanes have them instead.
            (Products::Integer, Dtype::Q4_0) => (4, 2),
            (Products::Integer, _) => (8, 2),
            (_, Dtype::F32 | Dtype::F16 | Dtype::Bf16) => (8, self.decode_outs.float),
            (_, Dtype::Q8_0) => (8, self.decode_outs.q8_0),
            (_, Dtype::Q4_0) => (8, self.decode_outs.q4_0),
        };
        self.lanes(LanesTile { workgroup: 256, lanes, outs, by: LanesBy::Memory, products })
    }

    /// A generated row has no use for matrices.
    const fn decode_products(self, dtype: Dtype) -> Products {
        match self.products {
            Products::Integer if dtype.is_quantised() => Products::Integer,
            _ => Products::Float,
        }
    }

    /// The shrink of an x of so many columns. There are few ranks, so that more lanes share a K. A site of rank 16 is
    /// one workgroup, which loads, and where it must norms, x once.
    pub(crate) const fn shrink(self, cols: u32) -> LanesTile {
        let RowThreads { workgroup, .. } = row_threads(cols);
        self.lanes(LanesTile {
            workgroup,
            lanes: workgroup / 8,
            outs: 2,
            by: LanesBy::Memory,
            products: Products::Float,
        })
    }

    /// Ranks that a workgroup of the shrink takes, whatever the columns.
    pub(crate) const SHRINK_RANKS: u32 = 16;

    const fn lanes(self, tile: LanesTile) -> LanesTile {
        let by = if self.subgroup >= tile.lanes { LanesBy::Subgroup } else { LanesBy::Memory };
        LanesTile { by, ..tile }
    }

    /// 32 × 32 outputs: 8 × 8 threads with 16 sums each, which with five operands of four stay within 64
    /// registers. 32 of K is one quantised block; both tiles together take 9 KiB, in bytes for 128 of K as much.
    pub(crate) const fn matmul_prefill(self, dtype: Dtype) -> RegisterTile {
        let (products, k_quads) = match self.products {
            Products::Integer if dtype.is_quantised() => (Products::Integer, 32),
            Products::Integer | Products::Float => (Products::Float, 8),
            Products::Matrix => (Products::Matrix, 8),
        };
        RegisterTile { rows: 32, outs: 32, thread_rows: 4, thread_outs: 4, k_quads, products }
    }
}

/// Dot products whose K is shared by lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LanesTile {
    pub workgroup: u32,
    /// Threads that share the K of an output.
    pub lanes: u32,
    /// Outputs of a thread: what a value of x is loaded for.
    pub outs: u32,
    pub by: LanesBy,
    pub products: Products,
}

impl LanesTile {
    /// Outputs of a workgroup.
    pub(crate) const fn out_tile(self) -> u32 {
        self.workgroup / self.lanes * self.outs
    }

    /// The same threads as those of a norm.
    pub(crate) const fn row_threads(self) -> RowThreads {
        if self.workgroup == SMALL.workgroup { SMALL } else { LARGE }
    }

    /// vec4 of x that are staged at a time, for all rows of a tile: 8 KiB, or one turn of all lanes if that is more;
    /// as codes, half a block to a thread.
    pub(crate) const fn x_quads(self, dtype: Dtype) -> u32 {
        if matches!(self.products, Products::Integer) {
            return 4 * self.workgroup;
        }
        let turn = self.lanes * span(dtype) * unit_quads(dtype) * ROW_TILE;
        if turn > 512 { turn } else { 512 / turn * turn }
    }

    /// vec4 of workgroup memory: x, where it is not staged as codes, then the sums of all lanes.
    pub(crate) const fn staged(self, dtype: Dtype) -> u32 {
        let sums = self.outs * self.workgroup;
        let x = if matches!(self.products, Products::Integer) { 0 } else { self.x_quads(dtype) };
        if x > sums { x } else { sums }
    }
}

/// A tile of outputs in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RegisterTile {
    pub rows: u32,
    pub outs: u32,
    /// Of a thread.
    pub thread_rows: u32,
    pub thread_outs: u32,
    /// vec4 of K that are staged at a time.
    pub k_quads: u32,
    pub products: Products,
}

impl RegisterTile {
    pub(crate) const fn workgroup(self) -> u32 {
        (self.rows / self.thread_rows) * (self.outs / self.thread_outs)
    }
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

/// Units that one word of scales covers: two blocks of 32.
pub(crate) const fn span(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => 1,
        Dtype::Q8_0 => 4,
        Dtype::Q4_0 => 2,
    }
}

/// Constants of every template that unpacks weights.
pub(crate) fn weight_constants(dtype: Dtype, half: Half) -> Vec<(&'static str, String)> {
    vec![
        ("DTYPE", dtype.name().to_owned()),
        ("HALF", half.name().to_owned()),
        ("UNIT_QUADS", unit_quads(dtype).to_string()),
        ("SPAN", span(dtype).to_string()),
        // Of quantised weights: units to a block of 32, halves of blocks to a unit.
        ("BLOCK_UNITS", (8 / unit_quads(dtype)).to_string()),
        ("UNIT_HALVES", (unit_quads(dtype) / 4).to_string()),
    ]
}

/// What an activation is called in the names of shader files.
pub(crate) const fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_tanh",
    }
}

/// The largest head that attention has room for.
pub(crate) const LARGEST_HEAD: usize = 256;

/// Quads of a token's values, side by side, that a thread takes of coded pages: what they have in common is loaded once.
/// Eight codes of 4 bits are a word. Sums take as many times the registers.
pub(crate) const CODED_SPAN: u32 = 2;

/// Neighbouring tokens whose coded keys a thread multiplies at once: their words lie side by side, and what a channel's
/// codes are multiplied with is loaded once for all. Sums take as many times the registers.
pub(crate) const CODED_KEYS: u32 = 4;

/// Attention over one block of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AttentionTile {
    pub head_dim: u32,
    /// Queries to a vector: 1, 2 or 4.
    pub abreast: u32,
    /// Vectors of queries.
    pub vectors: u32,
}

impl AttentionTile {
    /// vec4 in a head, the last perhaps not full.
    pub(crate) const fn quads(self) -> u32 {
        self.head_dim.div_ceil(4)
    }

    /// Threads that share a token's values where each takes `span` quads.
    pub(crate) const fn lanes(self, span: u32) -> u32 {
        self.quads().div_ceil(span)
    }

    /// Groups of so many threads that take turns over the values of a chunk's tokens.
    pub(crate) const fn groups(self, span: u32) -> u32 {
        let groups = WORKGROUP / self.lanes(span);
        if groups < CHUNK_TOKENS as u32 { groups } else { CHUNK_TOKENS as u32 }
    }

    /// Elements of a result that a thread owns.
    pub(crate) const fn owned(self) -> u32 {
        self.head_dim.div_ceil(WORKGROUP)
    }

    /// Queries of a workgroup.
    pub(crate) const fn queries(self) -> u32 {
        self.abreast * self.vectors
    }

    /// Bytes of workgroup memory: queries, scores, and a share of each thread.
    pub(crate) const fn workgroup_bytes(self) -> u32 {
        self.queries() * (4 * self.quads() + ATTENTION_SPLIT as u32 + WORKGROUP) * size_of::<f32>() as u32
    }
}

/// For generated rows: the heads that read one KV head, side by side, at most four. More than four (or
/// three) take several workgroups.
pub(crate) const fn attention_decode(head_dim: u32, heads_per_kv: u32) -> AttentionTile {
    let abreast = match heads_per_kv {
        0 | 1 => 1,
        2 => 2,
        _ => 4,
    };
    AttentionTile { head_dim, abreast, vectors: 1 }
}

/// For generated rows that share pages: as many rows as workgroup memory has room for, at most four.
pub(crate) const fn attention_shared(caps: Caps, head_dim: u32, heads_per_kv: u32) -> AttentionTile {
    let alone = attention_decode(head_dim, heads_per_kv);
    let mut vectors = 4;
    while vectors > 1 && (AttentionTile { vectors, ..alone }).workgroup_bytes() > caps.workgroup_bytes {
        vectors -= 1;
    }
    AttentionTile { vectors, ..alone }
}

/// For prompt rows: eight rows of one head where workgroup memory allows, else four.
pub(crate) const fn attention_prefill(caps: Caps, head_dim: u32) -> AttentionTile {
    let eight = AttentionTile { head_dim, abreast: 4, vectors: 2 };
    if eight.workgroup_bytes() <= caps.workgroup_bytes {
        return eight;
    }
    AttentionTile { head_dim, abreast: 4, vectors: 1 }
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

    fn lowest() -> Decisions {
        Decisions::of(Caps::lowest(), Numerics::ActF32)
    }

    #[test]
    fn lanes_divide_a_workgroup_and_fill_a_vec4_at_most() {
        for decisions in Decisions::all() {
            let decode = BASE_DTYPES.map(|dtype| (decisions.matmul_decode(dtype), dtype));
            let shrink = |cols| [Dtype::F32, Dtype::F16].map(|dtype| (decisions.shrink(cols), dtype));
            let shrinks = [1, 2048].into_iter().flat_map(shrink);
            for (tile, _) in shrinks.clone() {
                assert_eq!(tile.out_tile(), Decisions::SHRINK_RANKS);
            }
            for (tile, dtype) in decode.into_iter().chain(shrinks) {
                assert_eq!(tile.workgroup % tile.lanes, 0);
                // Even, so that a gate and its up can share a lane.
                assert!(tile.outs <= 4 && tile.outs % 2 == 0);
                let turn = tile.lanes * span(dtype) * unit_quads(dtype) * ROW_TILE;
                assert_eq!(tile.x_quads(dtype) % turn, 0, "{dtype}");
                assert!(tile.staged(dtype) * 16 <= 16 << 10, "{dtype}");
                assert!(tile.by == LanesBy::Memory || decisions.subgroup >= tile.lanes);
            }
        }
        let dot = Decisions::forced(Caps::lowest(), GpuVariant::Dot).unwrap();
        for decisions in [lowest(), dot] {
            assert_eq!(decisions.matmul_decode(Dtype::Q4_0).out_tile(), 128);
        }
    }

    #[test]
    fn sums_go_through_two_whole_levels() {
        for threads in [1, 1024, 1025, 1 << 20].map(row_threads) {
            assert_eq!(threads.root * threads.root, threads.workgroup);
        }
    }

    #[test]
    fn what_a_device_lacks_is_never_chosen() {
        let lowest = lowest();
        assert_eq!((lowest.half, lowest.stage, lowest.subgroup), (Half::Integer, Stage::F32, 0));
        assert_eq!(Decisions::of(Caps::lowest(), Numerics::ActQ8_0), lowest);
        let small = Decisions::of(Caps { subgroup: 4, ..Caps::lowest() }, Numerics::ActF32);
        assert_eq!(small.matmul_decode(Dtype::F16).by, LanesBy::Memory);
        let rich = Caps { subgroup: 32, f16: true, dot: true, matrix: true, ..Caps::lowest() };
        let large = Decisions::of(rich, Numerics::ActF32);
        assert_eq!(large.matmul_decode(Dtype::F16).by, LanesBy::Subgroup);
        assert_eq!((large.half, large.products), (Half::Native, Products::Float));
        let integer = Decisions::of(rich, Numerics::ActQ8_0);
        assert_eq!(integer.numerics(), Numerics::ActQ8_0);
        for (dtype, products) in [(Dtype::F16, Products::Float), (Dtype::Q4_0, Products::Integer)] {
            assert_eq!(integer.matmul_decode(dtype).products, products);
            assert_eq!(integer.matmul_prefill(dtype).products, products);
        }
    }

    #[test]
    fn what_is_refused_leads_to_less_until_nothing_is_left() {
        for decisions in Decisions::all() {
            let tried: Vec<_> = std::iter::successors(Some(decisions), |d| d.next()).collect();
            assert!(tried.len() <= 3);
            assert_eq!(tried.last().unwrap().name(), "baseline");
        }
    }

    #[test]
    fn every_variant_is_had_by_name_or_says_what_it_lacks() {
        let rich = Caps { subgroup: 32, f16: true, matrix: true, ..Caps::lowest() };
        for variant in GpuVariant::ALL {
            assert_eq!(Decisions::forced(rich, variant).unwrap().name(), variant.name());
            assert_eq!(GpuVariant::named(variant.name()), Ok(variant));
            let poor = Decisions::forced(Caps::lowest(), variant);
            let core = [GpuVariant::Baseline, GpuVariant::Dot].contains(&variant);
            assert_eq!(poor.is_ok(), core, "{variant:?}");
        }
        assert_eq!(Decisions::of(rich, Numerics::ActF32).name(), "subgroup+half");
        let dot = Caps { dot: true, ..rich };
        assert_eq!(Decisions::of(dot, Numerics::ActQ8_0).name(), "subgroup+half+dot");
        assert_eq!(
            Decisions::of(Caps { subgroup: 4, ..Caps::lowest() }, Numerics::ActF32).name(),
            "baseline"
        );
        assert!(GpuVariant::named("fastest").unwrap_err().to_string().contains("staged-half"));
    }

    #[test]
    fn rows_that_share_pages_fit_the_lowest_tier() {
        let caps = Caps::lowest();
        assert_eq!(attention_shared(caps, 64, 1).vectors, 4);
        assert_eq!(attention_shared(caps, 64, 4).queries(), 8);
        assert_eq!(attention_shared(caps, 256, 4).vectors, 1);
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
            for heads in [1, 2, 3, 4, 7] {
                assert!(attention_decode(head_dim, heads).workgroup_bytes() <= caps.workgroup_bytes);
                assert!(attention_shared(caps, head_dim, heads).workgroup_bytes() <= caps.workgroup_bytes);
            }
            let tile = attention_prefill(caps, head_dim);
            assert!(tile.workgroup_bytes() <= caps.workgroup_bytes, "{head_dim}");
            for span in [1, CODED_SPAN] {
                let (groups, lanes) = (tile.groups(span), tile.lanes(span));
                assert!(groups >= 1 && groups * lanes <= WORKGROUP, "{head_dim}");
            }
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
