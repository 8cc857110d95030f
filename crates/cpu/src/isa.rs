//! What a tier is made of: a vector of f32 and the integer product of one panel. Every kernel is written
//! once over this trait.
//!
//! A kernel enters a tier through [`Isa::enter`], whose body is compiled with the tier's instructions;
//! everything it calls is inlined into it, so the methods here carry no instruction set of their own.

use interleaf_contract::QUANT_BLOCK;

/// An array of so many, each from its place; `zero` is any value of its type. As `array::from_fn`, but a plain loop: a
/// closure that the compiler leaves a function of its own has none of a tier's instructions, and costs a call for each.
macro_rules! each_of {
    ($count:expr, $zero:expr, |$i:ident| $value:expr) => {{
        let mut all = [$zero; $count];
        for ($i, one) in all.iter_mut().enumerate() {
            *one = $value;
        }
        all
    }};
}

pub(crate) use each_of;

/// A kernel: its arguments, and its body over any tier.
///
/// `run` must be `#[inline(always)]`, and so must all that it calls with `I`.
pub trait Kernel {
    /// What it returns.
    type Output;

    /// The body.
    ///
    /// # Safety
    /// The machine has the instructions of `I`, and the kernel's own conditions hold.
    unsafe fn run<I: Isa>(self) -> Self::Output;
}

/// Quantised rows of one tile as the integer products read them: for each block of 32 inputs, M rows of
/// 32 codes, M scales and M sums of codes.
#[derive(Debug, Clone, Copy)]
pub struct QuantisedTile {
    /// Codes, blocks × M × 32, within a block as [`code_place`] says.
    pub codes: *const i8,
    /// Scales, blocks × M.
    pub scales: *const f32,
    /// Eight times the sums of a block's codes, blocks × M: what weight codes that are stored with an offset of 8 add
    /// too much, and a sixteenth of what an offset of 128 does.
    pub sums8: *const i32,
}

/// One panel of quantised weights: for each block of 32 inputs, the codes of [`Isa::LANES`] outputs in the
/// tier's interleave, and their scales as the bits of f16.
#[derive(Debug, Clone, Copy)]
pub struct QuantisedPanel {
    /// Codes.
    pub codes: *const u8,
    /// Scales, blocks × lanes.
    pub scales: *const u16,
    /// Blocks.
    pub blocks: usize,
}

/// How the codes of a panel lie: `step` consecutive inputs of one output stand together, then those of the
/// next output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interleave {
    /// Outputs in a panel, [`Isa::LANES`].
    pub lanes: usize,
    /// Inputs of one output that one integer product takes: 4, or 8 where it is a matrix product.
    pub step: usize,
    /// Whether codes are signed. Else they are stored with an offset (8, or 128), for instructions that
    /// multiply unsigned with signed bytes.
    pub signed: bool,
}

/// Where code `k` of a row stands in a block of a tile of `rows` rows: row by row, or of each pair of rows
/// [`Interleave::step`] codes of the first, then of the second.
#[inline(always)]
pub fn code_place<I: Isa>(rows: usize, row: usize, k: usize) -> usize {
    let step = I::INTERLEAVE.step;
    if I::ROW_PAIRS && rows > 1 {
        return row / 2 * 2 * QUANT_BLOCK + (k / step * 2 + row % 2) * step + k % step;
    }
    row * QUANT_BLOCK + k
}

/// Bytes of weights that are fetched ahead of the products: the hardware's own prefetch ends at each page, and a
/// row of products takes long enough for memory to answer only from about here on.
pub const AHEAD: usize = 4096;

/// The instructions of a tier.
///
/// # Safety
/// Every method may only be called where the machine has the tier's instructions. Loads and stores touch
/// [`Isa::LANES`] elements from the pointer on, which must be readable or writable and need not be aligned.
#[allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]
pub unsafe trait Isa: Copy + 'static {
    /// f32 in a vector, and outputs in a panel.
    const LANES: usize;
    /// How its integer products want the codes.
    const INTERLEAVE: Interleave;
    /// Whether they multiply two rows at once, whose codes then stand together: see [`code_place`].
    const ROW_PAIRS: bool = false;
    /// Most rows of a tile of integer products, a power of two: what fits in registers beside the weights.
    const INTEGER_ROWS: usize;
    /// Most rows of a tile of float products, likewise.
    const FLOAT_ROWS: usize;
    /// Factors of a row that one load brings to [`Isa::rank_update`]: a vector of them where a product takes one lane of
    /// a register for all lanes, and 1 else.
    const FACTORS: usize = 1;
    /// Whether sixteen sums and what is added to them fit into registers.
    const MANY_REGISTERS: bool = false;
    /// Whether scores are added in two chains: where a page's tokens fill one vector, the few queries of a generated row make
    /// too few chains to keep two multipliers busy.
    const TWO_CHAINS: bool = false;
    /// LANES of f32.
    type V: Copy;
    /// A vector of words of codes.
    type Words: Copy;
    /// Sixteen f32 in as many vectors as they fill.
    type Sixteen: Copy + AsRef<[Self::V]> + AsMut<[Self::V]>;

    /// Runs a kernel with the tier's instructions.
    ///
    /// # Safety
    /// The machine has them, and the kernel's conditions hold.
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output;

    /// Asks for the cache line at an address, which need not be readable.
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}

    /// Asks for the cache line at an address that is read much later: not into the first-level cache, whose contents are
    /// needed sooner.
    #[inline(always)]
    unsafe fn prefetch_far(_p: *const u8) {}
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// IEEE binary16 bits to f32.
    unsafe fn load_f16(p: *const u16) -> Self::V;
    /// bfloat16 bits to f32.
    unsafe fn load_bf16(p: *const u16) -> Self::V;
    /// Sixteen packed codes of 8 bits as the steps that they stand for, −128 to 127.
    unsafe fn steps_8(p: *const u8) -> Self::Sixteen;
    /// The same of 4 bits, the lower ones of a byte first: −8 to 7.
    unsafe fn steps_4(p: *const u8) -> Self::Sixteen;
    /// The same of 2 bits: −1.5 to 1.5.
    unsafe fn steps_2(p: *const u8) -> Self::Sixteen;
    /// LANES words of codes.
    unsafe fn words(p: *const u32) -> Self::Words;
    /// Of each the `nth` code of 2, 4 or 8 bits, from the lowest on, as the steps that it stands for.
    unsafe fn steps_of_words<const BITS: usize>(words: Self::Words, nth: usize) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`, rounded once where the machine can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; NaN where `b` is.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; NaN where `b` is.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, halves to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `2ⁿ` for integral n in −126 ..= 127.
    unsafe fn exp2i(n: Self::V) -> Self::V;
    /// All lanes added as a balanced tree.
    unsafe fn sum(v: Self::V) -> f32;
    /// The largest lane.
    unsafe fn largest(v: Self::V) -> f32;

    /// The even lanes of two vectors, then the odd ones.
    unsafe fn unzip(a: Self::V, b: Self::V) -> [Self::V; 2];

    /// LANES × LANES elements, rows `from_stride` apart, to columns of rows `to_stride` apart.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for row in 0..Self::LANES {
            for col in 0..Self::LANES {
                *to.add(col * to_stride + row) = *from.add(row * from_stride + col);
            }
        }
    }

    /// `acc[m][p] += x[m] · w[p]`, the values of x one after another.
    #[inline(always)]
    unsafe fn rank_1_update<const M: usize, const P: usize>(
        x: *const f32,
        w: [Self::V; P],
        acc: &mut [[Self::V; P]; M],
    ) {
        for (m, acc) in acc.iter_mut().enumerate() {
            let x = Self::splat(*x.add(m));
            for (acc, w) in acc.iter_mut().zip(w) {
                *acc = Self::fma(x, w, *acc);
            }
        }
    }

    /// `acc[m][p] += Σ x[m][k] · w[k][p]` over FACTORS of k in ascending order, where P vectors of w stand one after
    /// another and those of the next k `stride` elements on.
    #[inline(always)]
    unsafe fn rank_update<const M: usize, const P: usize>(
        x: [*const f32; M],
        w: *const f32,
        stride: usize,
        acc: &mut [[Self::V; P]; M],
    ) {
        for k in 0..Self::FACTORS {
            let mut vectors = [Self::splat(0.0); P];
            for (p, vector) in vectors.iter_mut().enumerate() {
                *vector = Self::load(w.add(k * stride + p * Self::LANES));
            }
            for (acc, x) in acc.iter_mut().zip(x) {
                let x = Self::splat(*x.add(k));
                for (acc, w) in acc.iter_mut().zip(vectors) {
                    *acc = Self::fma(x, w, *acc);
                }
            }
        }
    }

    /// `acc[i] += Σ over blocks of (exact integer sum) · (row scale · weight scale)`, blocks ascending.
    unsafe fn q4_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [Self::V; M]);
    /// The same for 8-bit codes.
    unsafe fn q8_0<const M: usize>(w: QuantisedPanel, x: QuantisedTile, acc: &mut [Self::V; M]);
}
