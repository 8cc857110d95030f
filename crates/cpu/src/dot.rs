//! The one order in which this backend adds a dot product.

/// Interleaved partial sums: two SSE or NEON registers, one AVX register.
const LANES: usize = 8;

/// Dot products of `x` with N rows at once, so that each part of `x` is loaded once for all of them.
/// Every product adds in the same order whatever N is: lane `k % 8` takes element k, a tail after the
/// last whole eight goes to lanes `0..`, and lanes are then added as a balanced tree.
#[inline]
pub fn dot_rows<const N: usize>(x: &[f32], rows: [&[f32]; N]) -> [f32; N] {
    let whole = x.len() / LANES * LANES;
    let mut sums = [[0.0f32; LANES]; N];
    for k in (0..whole).step_by(LANES) {
        let x: &[f32; LANES] = lanes(x, k);
        for (sum, row) in sums.iter_mut().zip(rows) {
            let row: &[f32; LANES] = lanes(row, k);
            for lane in 0..LANES {
                sum[lane] += x[lane] * row[lane];
            }
        }
    }
    for (sum, row) in sums.iter_mut().zip(rows) {
        for (lane, (x, w)) in x[whole..].iter().zip(&row[whole..]).enumerate() {
            sum[lane] += x * w;
        }
    }
    sums.map(|s| ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7])))
}

/// One dot product, in the order of [`dot_rows`].
#[inline]
pub fn dot(x: &[f32], row: &[f32]) -> f32 {
    dot_rows(x, [row])[0]
}

#[inline]
fn lanes(values: &[f32], k: usize) -> &[f32; LANES] {
    values[k..k + LANES].first_chunk().unwrap_or(&[0.0; LANES])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_and_four_rows_agree_to_the_bit() {
        for n in [0, 1, 7, 8, 9, 63, 64, 100] {
            let row = |seed: usize| -> Vec<f32> {
                (0..n).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 33.0 - 1.5).collect()
            };
            let (x, w) = (row(0), [row(1), row(2), row(3), row(4)]);
            let four = dot_rows(&x, [&w[0], &w[1], &w[2], &w[3]]);
            for (one, w) in four.iter().zip(&w) {
                assert_eq!(one.to_bits(), dot(&x, w).to_bits());
                let exact: f64 = x.iter().zip(w).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                assert!((f64::from(*one) - exact).abs() < 1e-4);
            }
        }
    }
}
