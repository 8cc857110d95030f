//! What translating costs an adapter at most, by the length of the prefix and the tokens that it computes: measured on windows
//! that are as long, joined from those that the map has not seen.

use interleaf_model::MeasuredTouch;
use interleaf_runtime::Engine;

use super::{Touch, Toucher, measure_touches};
use crate::spread::{deviations, mean, spread};
use crate::{CalibrateError, Windows};

/// Lengths of prefixes.
pub const PREFIXES: [usize; 4] = [128, 256, 512, 1024];

/// Tokens after a prefix, of which all but the first are scored: the first of them, where the error is largest, among so many that
/// windows differ by their text and not by single tokens.
pub const CONTINUATION: usize = 128;

/// Last tokens of a prefix that the adapter computes.
const COMPUTED: [usize; 4] = [0, 16, 64, 128];

/// How many standard deviations of logarithms the bound for another window is above the mean of so many windows seen, so that
/// one in twenty others like them exceeds it: Student's t at 0.95 times the root of 1 + 1/n. Of a number between two the one of
/// the smaller.
const DEVIATIONS: [(usize, f64); 7] =
    [(2, 7.73), (3, 3.37), (4, 2.63), (5, 2.34), (6, 2.18), (8, 2.01), (12, 1.87)];

/// Windows that each length is measured on.
const WINDOWS: usize = 12;

/// Measures an adapter's translations of prefixes that the engine has room for, with [`CONTINUATION`] tokens behind them.
///
/// # Errors
/// If the engine fails.
pub fn bounds(
    engine: &mut Engine,
    toucher: Toucher<'_>,
    windows: &Windows,
    prefixes: &[usize],
    done: &mut dyn FnMut(usize, usize),
) -> Result<Vec<MeasuredTouch>, CalibrateError> {
    let (mut count, total) = (0, prefixes.len() * COMPUTED.len() * WINDOWS);
    let mut all: Vec<(usize, usize, Vec<f64>)> = Vec::new();
    for &prefix in prefixes {
        // What is computed to its last token is exact.
        let computed: Vec<usize> = COMPUTED.into_iter().filter(|computed| *computed < prefix).collect();
        let touches: Vec<Touch> = computed.iter().map(|&computed| Touch::Translated { computed }).collect();
        let windows = joined(windows, prefix, CONTINUATION);
        let touched = measure_touches(engine, toucher, &windows, prefix, &touches, &mut || {
            count += 1;
            done(count, total);
        })?;
        all.extend(
            computed.into_iter().zip(touched).map(|(computed, touched)| (prefix, computed, touched.windows)),
        );
    }
    let spread = spread(all.iter().map(|(.., kl)| logarithms(kl)));
    let touch = |(prefix, computed, kl): (usize, usize, Vec<f64>)| {
        let logarithms = logarithms(&kl);
        let bound = (mean(&logarithms) + deviations(&DEVIATIONS, logarithms.len()) * spread).exp();
        MeasuredTouch { prefix, computed, kl: mean(&kl) as f32, bound: bound as f32 }
    };
    let touches = all.into_iter().map(touch);
    // What seems to cost nothing was not measured.
    Ok(touches.filter(|touch| touch.kl > 0.0 && touch.bound > 0.0 && touch.bound.is_finite()).collect())
}

/// Windows of a prefix and a continuation, half of them read as they are and half with another text behind the prefix, as who comes
/// from one text to another reads. Windows that are too short are followed by the next.
fn joined(windows: &Windows, prefix: usize, continuation: usize) -> Windows {
    let rows = &windows.rows;
    let from =
        |row: usize, tokens: usize| rows[row..].iter().chain(rows).flatten().copied().cycle().take(tokens);
    let step = rows.len().div_ceil(WINDOWS / 2).max(1);
    let starts = || (0..rows.len()).rev().step_by(step);
    let read = starts().map(|row| from(row, prefix + continuation).collect());
    let crossed = starts().map(|row| {
        let other = &rows[(row + rows.len() / 2) % rows.len()];
        let end = other.iter().skip(other.len().saturating_sub(continuation)).copied();
        from(row, prefix).chain(end.cycle().take(continuation)).collect()
    });
    let rows = read.chain(crossed).collect();
    Windows { text: windows.text.clone(), digest: windows.digest, rows }
}

fn logarithms(kl: &[f64]) -> Vec<f64> {
    kl.iter().filter(|kl| **kl > 0.0).map(|kl| kl.ln()).collect()
}

#[cfg(test)]
mod tests {
    use interleaf_model::Digest;

    use super::*;

    #[test]
    fn windows_are_joined_and_crossed() {
        let rows = (0..4u32).map(|row| (0..5).map(|token| 10 * row + token).collect()).collect();
        let windows = Windows { text: "t".into(), digest: Digest::of_bytes(b"t"), rows };
        let found = joined(&windows, 8, 2).rows;
        assert_eq!(found.len(), 8);
        assert_eq!(found[0], [30, 31, 32, 33, 34, 0, 1, 2, 3, 4]);
        assert_eq!(found[3], [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]);
        assert_eq!(found[4], [30, 31, 32, 33, 34, 0, 1, 2, 13, 14]);
        assert!(found.iter().all(|row| row.len() == 10));
    }
}
