//! What this machine's processor reads from memory and multiplies at best, by the number of threads.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use serde::Serialize;

use crate::{CliError, table};

/// Words of the buffer that is read: 1 GiB, many times any cache.
const WORDS: usize = (1 << 30) / size_of::<u64>();

/// Times that the buffer is read in one look.
const PASSES: usize = 3;

/// Seconds that each kind of multiplication is tried in one look.
const SECONDS: f64 = 0.05;

/// Iterations between two looks at the clock.
const BURST: u64 = 20_000;

/// Loops that come near to what a machine can do.
#[derive(Clone, Copy)]
struct Kernels {
    /// The instructions that they use.
    name: &'static str,
    /// Adds up words.
    sum: fn(&[u64]) -> u64,
    /// Multiplies and adds so many times.
    f32: Loop,
    /// Likewise.
    int8: Loop,
}

/// A loop that multiplies and adds in registers.
#[derive(Clone, Copy)]
struct Loop {
    /// Runs so many iterations; what it returns depends on all of them.
    run: fn(u64) -> f64,
    /// Multiply-adds of an iteration.
    multiply_adds: u64,
}

/// The best that was seen of so many threads.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Peaks {
    /// At once.
    pub threads: usize,
    /// The instructions that were tried.
    pub instructions: &'static str,
    /// From memory.
    pub read_bytes_per_second: f64,
    /// Multiplications and additions, each counted.
    pub f32_operations_per_second: f64,
    /// Likewise.
    pub int8_operations_per_second: f64,
}

impl Peaks {
    /// Before anything was seen.
    fn none(threads: usize, instructions: &'static str) -> Self {
        Self {
            threads,
            instructions,
            read_bytes_per_second: 0.0,
            f32_operations_per_second: 0.0,
            int8_operations_per_second: 0.0,
        }
    }

    /// The better of each.
    fn or(&self, other: &Self) -> Self {
        Self {
            read_bytes_per_second: self.read_bytes_per_second.max(other.read_bytes_per_second),
            f32_operations_per_second: self.f32_operations_per_second.max(other.f32_operations_per_second),
            int8_operations_per_second: self.int8_operations_per_second.max(other.int8_operations_per_second),
            ..*self
        }
    }

    /// One line.
    pub fn line(&self) -> String {
        format!(
            "roofline of {} ({}): reads {:.1} GB/s, f32 {:.1} GFLOP/s, int8 {:.1} GOP/s",
            table::threads(self.threads),
            self.instructions,
            self.read_bytes_per_second / 1e9,
            self.f32_operations_per_second / 1e9,
            self.int8_operations_per_second / 1e9
        )
    }
}

/// The probe, and what it has seen.
pub struct Probe {
    buffer: Vec<u64>,
    kernels: Kernels,
    best: BTreeMap<usize, Peaks>,
}

impl Probe {
    /// Takes the memory that is read.
    pub fn new() -> Result<Self, CliError> {
        let mut buffer = Vec::new();
        let refused = |_| CliError::Usage("--roofline needs 1 GiB of memory, which there is not".into());
        buffer.try_reserve_exact(WORDS).map_err(refused)?;
        // Written, so that every page is there; pages of zeros might all be the same one.
        buffer.resize(WORDS, 1);
        Ok(Self { buffer, kernels: kernels(), best: BTreeMap::new() })
    }

    /// Looks once at what so many threads can do.
    pub fn sample(&mut self, threads: usize) {
        let reads = (0..PASSES).map(|_| self.read(threads)).fold(0.0, f64::max);
        let (f32s, int8s) = (multiply(self.kernels.f32, threads), multiply(self.kernels.int8, threads));
        let instructions = self.kernels.name;
        let seen = Peaks {
            threads,
            instructions,
            read_bytes_per_second: reads,
            f32_operations_per_second: f32s,
            int8_operations_per_second: int8s,
        };
        let best = self.best.entry(threads).or_insert(Peaks::none(threads, instructions));
        *best = best.or(&seen);
    }

    /// The best of every number of threads that was looked at, ascending. More threads can do at least what
    /// fewer can, if they were ever left alone.
    pub fn peaks(&self) -> Vec<Peaks> {
        let mut most = Peaks::none(0, self.kernels.name);
        let raise = |best: &Peaks| {
            most = Peaks { threads: best.threads, ..best.or(&most) };
            most
        };
        self.best.values().map(raise).collect()
    }

    /// Bytes per second of reading the whole buffer once.
    fn read(&self, threads: usize) -> f64 {
        let barrier = Barrier::new(threads);
        let part = WORDS.div_ceil(threads);
        let work = |words: &[u64]| {
            barrier.wait();
            let start = Instant::now();
            black_box((self.kernels.sum)(black_box(words)));
            (start, Instant::now())
        };
        let spans = thread::scope(|scope| {
            let parts = self.buffer.chunks(part);
            let running: Vec<_> = parts.map(|words| scope.spawn(|| work(words))).collect();
            running.into_iter().filter_map(|thread| thread.join().ok()).collect::<Vec<_>>()
        });
        let (first, last) = (spans.iter().map(|s| s.0).min(), spans.iter().map(|s| s.1).max());
        match first.zip(last) {
            Some((first, last)) => size_of_val(&*self.buffer) as f64 / (last - first).as_secs_f64(),
            None => 0.0,
        }
    }
}

/// Operations per second of a loop, in so many threads at once.
fn multiply(kernel: Loop, threads: usize) -> f64 {
    let barrier = Barrier::new(threads);
    let work = || {
        barrier.wait();
        let (start, mut iterations) = (Instant::now(), 0);
        while start.elapsed().as_secs_f64() < SECONDS {
            black_box((kernel.run)(BURST));
            iterations += BURST;
        }
        (iterations * kernel.multiply_adds * 2) as f64 / start.elapsed().as_secs_f64()
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).sum()
    })
}

/// The best that this machine has.
fn kernels() -> Kernels {
    all_kernels().pop().unwrap_or(portable::KERNELS)
}

/// Those that this machine has, the best last.
fn all_kernels() -> Vec<Kernels> {
    #[cfg(target_arch = "x86_64")]
    let mut special = x86_64::kernels();
    #[cfg(target_arch = "aarch64")]
    let mut special = aarch64::kernels();
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let mut special = Vec::new();
    special.insert(0, portable::KERNELS);
    special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_of_every_word() {
        let words: Vec<u64> = (0..1003).collect();
        for kernels in all_kernels() {
            for len in [0, 1, 63, 64, 65, 1003] {
                let expected: u64 = words[..len].iter().sum();
                assert_eq!((kernels.sum)(&words[..len]), expected, "{} of {len}", kernels.name);
            }
        }
    }

    #[test]
    fn loops_take_longer_for_more_iterations() {
        for kernels in all_kernels() {
            for kernel in [kernels.f32, kernels.int8] {
                assert!((kernel.run)(3).is_finite());
                let rate = multiply(kernel, 1);
                // Nothing multiplies a billion times a billion: the loop was not optimised away.
                assert!(rate > 1e6 && rate < 1e14, "{}: {rate}", kernels.name);
            }
        }
    }

    #[test]
    fn more_threads_do_at_least_what_fewer_do() {
        let peaks = |threads, rate| Peaks {
            threads,
            instructions: "x",
            read_bytes_per_second: rate,
            f32_operations_per_second: 1.0,
            int8_operations_per_second: 0.0,
        };
        let best = BTreeMap::from([(1, peaks(1, 3.0)), (2, peaks(2, 2.0)), (4, peaks(4, 9.0))]);
        let probe = Probe { buffer: Vec::new(), kernels: portable::KERNELS, best };
        let reads: Vec<_> = probe.peaks().iter().map(|p| (p.threads, p.read_bytes_per_second)).collect();
        assert_eq!(reads, [(1, 3.0), (2, 3.0), (4, 9.0)]);
    }
}
