//! MobiLoRA's delta: integers of one step over the anchor. A baseline that other codecs are measured against: plain
//! loops, which the compiler makes vectors of; its statistics are added in f64 one after another, as the reference has
//! them.

use bytemuck::cast_slice;
use interleaf_contract::{PAGE_UNIT, Width};

/// ε by the cosine that a page has with its anchor at least.
const SCHEDULE: [(f64, f64); 3] = [(0.975, 1e-4), (0.85, 1e-3), (f64::NEG_INFINITY, 1e-2)];

/// The step of a page over an anchor.
fn step(values: &[f32], anchor: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (dot(values, values) * dot(anchor, anchor)).sqrt();
    let cosine = if norms > 0.0 { dot(values, anchor) / norms } else { 1.0 };
    let epsilon = SCHEDULE.iter().find(|(least, _)| cosine >= *least).map_or(0.01, |(_, epsilon)| *epsilon);
    (2.0 * epsilon.ln_1p()) as f32
}

/// Encodes all heads' values over an anchor; integers beyond the width's reach are its last.
pub fn encode(width: Width, values: &[f32], anchor: &[f32], page: &mut [u8]) {
    let step = step(values, anchor);
    let integer = |v: &f32, a: &f32| (f64::from(v - a) / f64::from(step) + 0.5).floor();
    page[..4].copy_from_slice(&step.to_le_bytes());
    let codes = page[PAGE_UNIT..].chunks_exact_mut(width as usize);
    for (code, (v, a)) in codes.zip(values.iter().zip(anchor)) {
        let q = integer(v, a);
        // Conversions saturate.
        match width {
            Width::One => code.copy_from_slice(&(q as i8).to_le_bytes()),
            Width::Two => code.copy_from_slice(&(q as i16).to_le_bytes()),
            Width::Four => code.copy_from_slice(&(q as i32).to_le_bytes()),
        }
    }
}

/// Decodes `out.len()` values from element `first` on, over theirs of the anchor.
#[inline(always)]
pub fn decode(width: Width, page: &[u8], first: usize, anchor: &[f32], out: &mut [f32]) {
    let step = cast_slice::<u8, f32>(&page[..4])[0];
    let place = first..first + out.len();
    let codes = &page[PAGE_UNIT..];
    match width {
        Width::One => over(&cast_slice::<u8, i8>(codes)[place], |q| f32::from(q) * step, anchor, out),
        Width::Two => over(&cast_slice::<u8, i16>(codes)[place], |q| f32::from(q) * step, anchor, out),
        Width::Four => over(&cast_slice::<u8, i32>(codes)[place], |q| q as f32 * step, anchor, out),
    }
}

#[inline(always)]
fn over<T: Copy>(codes: &[T], value: impl Fn(T) -> f32, anchor: &[f32], out: &mut [f32]) {
    for ((out, code), anchor) in out.iter_mut().zip(codes).zip(anchor) {
        *out = value(*code) + anchor;
    }
}
