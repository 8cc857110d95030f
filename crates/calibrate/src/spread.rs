//! Means, quantiles, and how much figures differ from window to window: what bounds for other windows are made of.

/// The deviation where one window tells of none: as the most that was seen of two models.
const UNKNOWN_DEVIATION: f64 = 0.8;

/// Their mean; 0 of none.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / (values.len() as f64).max(1.0)
}

/// What a share of ascending values is at or below; 0 of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let at = (share * values.len() as f64).ceil() as usize;
    values.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// The standard deviation of logarithms from window to window, those of each way about their own mean.
pub fn spread(ways: impl Iterator<Item = Vec<f64>>) -> f64 {
    let (mut squares, mut freedom) = (0.0, 0);
    for logarithms in ways {
        let mean = mean(&logarithms);
        squares += logarithms.iter().map(|log| (log - mean).powi(2)).sum::<f64>();
        freedom += logarithms.len().saturating_sub(1);
    }
    if freedom > 0 { (squares / freedom as f64).sqrt() } else { UNKNOWN_DEVIATION }
}

/// How many deviations a table has for so many windows; of fewer than it begins with no fewer than of any other number.
pub fn deviations(table: &[(usize, f64)], windows: usize) -> f64 {
    let known = table.iter().rfind(|(seen, _)| *seen <= windows);
    known.or(table.first()).map_or(f64::INFINITY, |(_, deviations)| *deviations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_that_within_ways() {
        let of = |scale: f64| vec![scale.ln(), scale.ln() + 1.0, scale.ln() + 2.0];
        let found = spread([of(1.0), of(1e-4)].into_iter());
        assert!((found - 1.0).abs() < 1e-12, "{found}");
        assert_eq!(spread([vec![1.0]].into_iter()), UNKNOWN_DEVIATION);
    }

    #[test]
    fn quantiles_are_of_what_is_there() {
        let values = [1.0, 2.0, 3.0, 4.0];
        assert_eq!([0.0, 0.25, 0.5, 0.99].map(|share| quantile(&values, share)), [1.0, 1.0, 2.0, 4.0]);
        assert_eq!((quantile(&[], 0.5), mean(&[]), mean(&values)), (0.0, 0.0, 2.5));
    }
}
