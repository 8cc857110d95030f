//! What counts as equal, and the numbers a failure prints.

/// The error of a result against the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Error {
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Σ(difference²) / Σ(reference²), the summary that ggml's operator tests use.
    pub nmse: f64,
}

pub fn error(reference: &[f32], found: &[f32]) -> Error {
    assert_eq!(reference.len(), found.len(), "results differ in length");
    let differences = reference.iter().zip(found).map(|(&r, &f)| f64::from(f) - f64::from(r));
    let (mut max_abs, mut squared) = (0.0f64, 0.0f64);
    for d in differences {
        assert!(d.is_finite(), "a result is not finite");
        max_abs = max_abs.max(d.abs());
        squared += d * d;
    }
    let power: f64 = reference.iter().map(|&r| f64::from(r) * f64::from(r)).sum();
    Error { max_abs, nmse: if power > 0.0 { squared / power } else { squared } }
}

/// ε times what a result may be off by, as a share of the magnitudes added: every product, sum, scale and
/// store of a linear layer rounds by at most ε/2, and the longest chain that a kernel adds one after another
/// is all of K and then the rank (Higham, Accuracy and Stability of Numerical Algorithms, §4.2).
pub fn roundings(k: usize, rank: usize) -> f64 {
    (k + rank) as f64 / 2.0 + 16.0
}

/// Checks every element against its own derived bound: `magnitude · ε · roundings`, `magnitude` being the
/// reference's result over absolute values.
pub fn assert_within(label: &str, reference: &[f32], found: &[f32], magnitude: &[f32], roundings: f64) {
    let e = error(reference, found);
    for (i, ((&r, &f), &m)) in reference.iter().zip(found).zip(magnitude).enumerate() {
        let bound = f64::from(m) * f64::from(f32::EPSILON) * roundings;
        let difference = (f64::from(f) - f64::from(r)).abs();
        assert!(
            difference <= bound,
            "{label}: element {i} is {f}, reference {r}: off by {difference:.3e}, bound {bound:.3e}; {e:?}"
        );
    }
}

/// Flash-attention's rule: at most twice the error of a naive implementation in the same precision. The
/// floor covers results that the naive version happens to hit exactly.
pub fn assert_twice_naive(label: &str, reference: &[f32], naive: &[f32], found: &[f32]) {
    let (found, naive) = (error(reference, found), error(reference, naive));
    let floor = 4.0 * f64::from(f32::EPSILON);
    assert!(
        found.max_abs <= 2.0 * naive.max_abs + floor,
        "{label}: {found:?} is more than twice the naive {naive:?}"
    );
}

pub fn assert_bits(label: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{label}: lengths");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "{label}: element {i} is {a} and {b}");
    }
}
