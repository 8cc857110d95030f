//! Soft capping: a value keeps its sign and stays below a cap (Gemma 2 technical report, §2).

/// `x = cap · tanh(x / cap)`, element by element.
pub fn softcap(x: &mut [f32], cap: f32) {
    for v in x {
        *v = capped(f64::from(*v), f64::from(cap)) as f32;
    }
}

/// One value.
pub(crate) fn capped(x: f64, cap: f64) -> f64 {
    cap * (x / cap).tanh()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_values_stay_and_large_ones_meet_the_cap() {
        let mut x = [0.01, -3.0, 1e9, -1e9];
        softcap(&mut x, 3.0);
        assert!((x[0] - 0.01).abs() < 1e-6 && (x[1] + 2.284_782_5).abs() < 1e-6);
        assert_eq!((x[2], x[3]), (3.0, -3.0));
    }
}
