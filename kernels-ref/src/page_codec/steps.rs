//! MobiLoRA's delta: integers of one step over the anchor. Kept as the baseline that other codecs are measured against.
//!
//! `q = floor((x − anchor)/Δ + ½)`, `Δ = 2·ln(1+ε)`: an element is off by ln(1+ε) at most. ε follows from how alike the two
//! pages are; the paper's own schedule could not be read, and the one here is a re-implementation's.

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

/// The smallest width that all integers of a page over an anchor fit into.
#[must_use]
pub fn width(values: &[f32], anchor: &[f32]) -> Width {
    let step = step(values, anchor);
    let most = values.iter().zip(anchor).map(|(v, a)| integer(v - a, step).abs()).fold(0.0, f64::max);
    Width::reaching(most as f32)
}

fn integer(difference: f32, step: f32) -> f64 {
    (f64::from(difference) / f64::from(step) + 0.5).floor()
}

/// Encodes values over an anchor; integers beyond the width's reach are its last.
pub fn encode(width: Width, values: &[f32], anchor: &[f32], page: &mut [u8]) {
    let step = step(values, anchor);
    page.fill(0);
    page[..4].copy_from_slice(&step.to_le_bytes());
    let codes = page[PAGE_UNIT..].chunks_exact_mut(width as usize);
    for (code, (v, a)) in codes.zip(values.iter().zip(anchor)) {
        let q = integer(v - a, step);
        // Conversions saturate.
        match width {
            Width::One => code.copy_from_slice(&(q as i8).to_le_bytes()),
            Width::Two => code.copy_from_slice(&(q as i16).to_le_bytes()),
            Width::Four => code.copy_from_slice(&(q as i32).to_le_bytes()),
        }
    }
}

/// Decodes differences from the anchor.
pub fn decode(width: Width, page: &[u8], values: &mut [f32]) {
    let step = f32::from_le_bytes([page[0], page[1], page[2], page[3]]);
    let codes = page[PAGE_UNIT..].chunks_exact(width as usize);
    for (value, code) in values.iter_mut().zip(codes) {
        let q = match *code {
            [a] => i32::from(i8::from_le_bytes([a])),
            [a, b] => i32::from(i16::from_le_bytes([a, b])),
            [a, b, c, d] => i32::from_le_bytes([a, b, c, d]),
            _ => 0,
        };
        *value = q as f32 * step;
    }
}
