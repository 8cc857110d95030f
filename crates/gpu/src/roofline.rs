//! Kernels that do nothing but read, multiply or be dispatched, and what each must answer: none can be left out, or be
//! cut short by a compiler, unseen. When they run and how long they take is in `peaks`.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::BackendError;

use crate::command::{Place, Recorder};
use crate::cost::Loads;
use crate::decide::{LARGE, RowThreads};
use crate::kernel::{Access, Kernel, Needs, Template};

/// Threads of a workgroup: the most that the lowest tier has, so that a core is full of few workgroups.
const THREADS: RowThreads = LARGE;

/// vec4 that a thread has under way at once.
const LOADS: u32 = 8;

/// Times that it reads so many.
const READ_ROUNDS: u32 = 4;

/// Bytes that a workgroup of `roofline_read` reads.
pub(crate) const CHUNK: u64 = 16 * (THREADS.workgroup * LOADS * READ_ROUNDS) as u64;

/// Chains of vec4 in a thread: twelve independent multiply-adds hide any device's latency, and with what else there is
/// take 20 registers, which no device spills.
const CHAINS: u32 = 3;

/// Steps of a round, so that counting rounds is a hundredth of the work.
const STEPS: u32 = 16;

/// Rounds of a thread.
const FMA_ROUNDS: u32 = 64;

/// Workgroups of `roofline_fma`: a million threads, some times what the largest devices run at once.
const FMA_WORKGROUPS: u32 = 4096;

/// Operations of a dispatch of `roofline_fma`: a multiply-add is two.
pub(crate) const FMA_OPERATIONS: u64 =
    2 * 4 * (CHAINS * STEPS * FMA_ROUNDS) as u64 * (FMA_WORKGROUPS * THREADS.workgroup) as u64;

/// Bytes of its answers.
pub(crate) const FMA_BYTES: u64 = 4 * (FMA_WORKGROUPS * THREADS.workgroup) as u64;

/// What x is multiplied by. It comes near to what it tends to, −1, only after all steps, so that each of them counts.
const FACTOR: f32 = 1.0 - 1.0 / 1024.0;
const ADDEND: f32 = -1.0 / 1024.0;

/// The kernels of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    Read,
    Fma,
    Count,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ReadParams {
    rounds: u32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FmaParams {
    rounds: u32,
    factor: f32,
    addend: f32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CountParams {
    by: u32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        use Access::{Read, Write};
        let mut constants = vec![("WORKGROUP", THREADS.workgroup.to_string())];
        let (name, bindings, params): (_, &[Access], _) = match self {
            Self::Read => {
                constants.extend([("ROOT", THREADS.root.to_string()), ("LOADS", LOADS.to_string())]);
                ("roofline_read", &[Read, Write], size_of::<ReadParams>())
            }
            Self::Fma => {
                let apart = format!("{:?}", apart());
                constants.extend([
                    ("CHAINS", CHAINS.to_string()),
                    ("STEPS", STEPS.to_string()),
                    ("APART", apart),
                ]);
                ("roofline_fma", &[Write], size_of::<FmaParams>())
            }
            Self::Count => ("roofline_count", &[Write], size_of::<CountParams>()),
        };
        Template { name, constants, bindings, params, needs: Needs::Nothing }
    }

    /// Every variant, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        vec![Self::Read, Self::Fma, Self::Count]
    }
}

/// Between the first values of neighbouring threads: all of a workgroup are less than 1 apart.
fn apart() -> f32 {
    1.0 / THREADS.workgroup as f32
}

/// A word of what is read, by its place: no two chunks have the same, and no two halves of one.
pub(crate) fn word(at: u64) -> u32 {
    // Cut off on purpose: places beyond 2³² words have the words of earlier ones.
    let spread = (at as u32).wrapping_mul(0x9e37_79b9);
    spread ^ (spread >> 15)
}

/// Records a read of all `chunks` of a buffer, whose sums are added to `sums`.
pub(crate) fn read(
    recorder: &mut Recorder<'_>,
    data: &wgpu::Buffer,
    chunks: u64,
    sums: &wgpu::Buffer,
) -> Result<(), BackendError> {
    let params = ReadParams { rounds: READ_ROUNDS };
    dispatch(recorder, Variant::Read, &params, &[data, sums], chunks)
}

/// Records multiply-adds, whose answers replace those before.
pub(crate) fn fma(recorder: &mut Recorder<'_>, answers: &wgpu::Buffer) -> Result<(), BackendError> {
    let params = FmaParams { rounds: FMA_ROUNDS, factor: FACTOR, addend: ADDEND };
    dispatch(recorder, Variant::Fma, &params, &[answers], FMA_WORKGROUPS.into())
}

/// Records an addition of 1 to the first word of `count`.
pub(crate) fn count(recorder: &mut Recorder<'_>, count: &wgpu::Buffer) -> Result<(), BackendError> {
    dispatch(recorder, Variant::Count, &CountParams { by: 1 }, &[count], 1)
}

fn dispatch(
    recorder: &mut Recorder<'_>,
    variant: Variant,
    params: &impl Pod,
    buffers: &[&wgpu::Buffer],
    workgroups: u64,
) -> Result<(), BackendError> {
    let places = buffers.iter().map(|buffer| Place::Buffer((*buffer).clone())).collect();
    recorder.dispatch(Kernel::Roofline(variant), params, places, workgroups, Loads::default())
}

/// Whether a thread of `roofline_fma` answered what its chains come to. Rounding, of whatever kind and fused or not,
/// stays far within a thousandth, and a round left out is far beyond.
pub(crate) fn is_fma_answer(index: usize, found: f32) -> bool {
    let expected = fma_answer(index, FMA_ROUNDS);
    (f64::from(found) - expected).abs() < 1e-3 * expected.abs()
}

/// The same recurrence on the host.
fn fma_answer(index: usize, rounds: u32) -> f64 {
    let first = (index % THREADS.workgroup as usize) as f64 * f64::from(apart());
    let chain = |i| {
        let start = first + f64::from(i);
        (0..rounds * STEPS).fold(start, |x, _| x * f64::from(FACTOR) + f64::from(ADDEND))
    };
    (0..4 * CHAINS).map(chain).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_left_out_is_seen() {
        for index in [0, 7, 255, 256] {
            assert!(is_fma_answer(index, fma_answer(index, FMA_ROUNDS) as f32));
            for rounds in [0, FMA_ROUNDS / 2, FMA_ROUNDS - 1, FMA_ROUNDS + 1] {
                assert!(!is_fma_answer(index, fma_answer(index, rounds) as f32), "{rounds}");
            }
        }
        assert!(!is_fma_answer(0, f32::NAN));
    }

    #[test]
    fn chunks_have_sums_of_their_own() {
        let words = CHUNK / 4;
        let sum = |range: std::ops::Range<u64>| range.map(word).fold(0, u32::wrapping_add);
        let sums: std::collections::HashSet<u32> =
            (0..64).map(|half| sum(half * words / 2..(half + 1) * words / 2)).collect();
        assert_eq!(sums.len(), 64);
    }
}
