//! Loops for machines that no other file here knows: what the compiler makes of plain arrays.

use std::hint::black_box;

use super::{Kernels, Loop};

/// Values that are worked on at once.
const LANES: usize = 64;

pub(super) const KERNELS: Kernels = Kernels {
    name: "portable",
    sum,
    f32: Loop { run: f32s, multiply_adds: LANES as u64 },
    int8: Loop { run: int8s, multiply_adds: LANES as u64 },
};

fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    let chunks = words.chunks_exact(sums.len());
    let rest: u64 = chunks.remainder().iter().sum();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
    }
    sums.into_iter().fold(rest, u64::wrapping_add)
}

fn f32s(iterations: u64) -> f64 {
    let (factor, addend) = (black_box(0.5f32), black_box(0.25f32));
    let mut values: [f32; LANES] = black_box(std::array::from_fn(|i| i as f32));
    for _ in 0..iterations {
        // Not fused: where the machine has no instruction for that, it would be a call.
        values.iter_mut().for_each(|value| *value = *value * factor + addend);
    }
    values.iter().map(|value| f64::from(*value)).sum()
}

fn int8s(iterations: u64) -> f64 {
    let mut codes: [i8; LANES] = black_box(std::array::from_fn(|i| i as i8));
    let factor = i32::from(black_box(3i8));
    let mut sums = [0i32; LANES];
    for _ in 0..iterations {
        for (sum, code) in sums.iter_mut().zip(&mut codes) {
            *sum = sum.wrapping_add(i32::from(*code) * factor);
            // Else the products would be the same in every iteration, and computed once.
            *code = code.wrapping_add(1);
        }
    }
    sums.iter().map(|sum| f64::from(*sum)).sum()
}
