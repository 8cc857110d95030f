//! Root-mean-square norm (Zhang and Sennrich 2019), over whole rows or over each head of a row.

/// Adds `delta` to `x`, both rows × cols: the residual that a norm may take in first.
pub fn add(x: &mut [f32], delta: &[f32]) {
    for (x, d) in x.iter_mut().zip(delta) {
        *x += d;
    }
}

/// `out = x / √(mean(x²) + epsilon) · weight` over each group of `weight.len()` values. `x` and `out`
/// are any number of such groups: rows, or the heads of rows.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let n = weight.len();
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let factor = 1.0 / (squares / n as f64 + f64::from(epsilon)).sqrt();
        for ((o, &v), &w) in out.iter_mut().zip(x).zip(weight) {
            *o = (f64::from(v) * factor * f64::from(w)) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_normed_apart() {
        let mut out = [0.0; 4];
        rms_norm(&[3.0, 4.0, 0.0, 2.0], &[1.0, 2.0], 0.0, &mut out);
        let root = 12.5f32.sqrt();
        let expected = [3.0 / root, 8.0 / root, 0.0, 2.0 * 2.0f32.sqrt()];
        for (o, e) in out.iter().zip(expected) {
            assert!((o - e).abs() < 1e-6, "{out:?}");
        }
    }
}
