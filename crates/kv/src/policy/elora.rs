//! ELORA's cost model (FASTLIBRA, arXiv 2505.03756, Eqs. 3 to 6), compared by its logarithm: its recency falls to nothing
//! within seconds, and a product of what is nearly nothing would no longer tell anything apart.
//!
//! - `Low = Σ [1 − (1 − p_i)^BS]`: adapters that a batch of BS is expected to need, of those asked for with probability p_i
//! - `LoRA_Eval_i = max(1, Low / Now_i)`, Now_i being the adapters in memory once i has gone
//! - `Retain_Eval_i = cost_i · visit_i · (1 − sigmoid(t_i))`, cost_i the seconds that bringing i back takes
//! - `Eval_i = LoRA_Eval_i · Retain_Eval_i`
//!
//! The paper leaves the unit of t open; here it is a setting.

use super::{Candidate, Situation, Worth};

/// The terms, each of which can be switched off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Elora {
    /// `LoRA_Eval`.
    pub adapters: bool,
    /// `cost`.
    pub cost: bool,
    /// `visit`.
    pub visits: bool,
    /// `1 − sigmoid(t)`.
    pub recency: bool,
    /// Seconds that t counts in: about what passes between two uses.
    pub unit_seconds: f64,
}

impl Default for Elora {
    /// Every term; t in half minutes, which is between a turn of a chat and the next app.
    fn default() -> Self {
        Self { adapters: true, cost: true, visits: true, recency: true, unit_seconds: 30.0 }
    }
}

/// `Low`: distinct adapters in a batch of `batch` requests that each ask for adapter i with probability `p[i]`.
#[must_use]
pub fn expected_adapters(probabilities: impl IntoIterator<Item = f64>, batch: u32) -> f64 {
    let batch = i32::try_from(batch).unwrap_or(i32::MAX);
    probabilities.into_iter().map(|p| 1.0 - (1.0 - p.clamp(0.0, 1.0)).powi(batch)).sum()
}

/// 1 + e⁻ᵗ: 1 − sigmoid(t) = e⁻ᵗ / (1 + e⁻ᵗ).
fn one_and_decay(t: f64) -> f64 {
    // From here on that is 1 to the last bit, and e⁻ᵗ would become a number that is slow to compute.
    if t > 40.0 { 1.0 } else { 1.0 + (-t).exp() }
}

impl Elora {
    /// ln (Eval · `factor`), bringing it back taking `cost` seconds, and on top the time that it is now: Eval halves and
    /// halves again for all alike, so that this leaves their order and makes evals of different moments comparable.
    pub(super) fn log_eval(
        &self,
        candidate: &Candidate,
        situation: &Situation,
        cost: f64,
        factor: f64,
    ) -> f64 {
        // One logarithm of the product, and not one for each.
        let mut product = factor;
        if self.adapters {
            let now = situation.adapters.saturating_sub(u32::from(candidate.is_adapter)).max(1);
            if situation.expected_adapters > f64::from(now) {
                product *= situation.expected_adapters / f64::from(now);
            }
        }
        if self.cost {
            product *= cost;
        }
        if self.visits {
            product *= candidate.visits;
        }
        if !self.recency {
            return product.ln();
        }
        // ln e⁻ᵗ and the time that it is now are together the time of the last use.
        let decay = one_and_decay(candidate.idle_seconds / self.unit_seconds);
        (product / decay).ln() + candidate.last_use(situation) / self.unit_seconds
    }

    pub(super) fn worth(&self, candidate: &Candidate, situation: &Situation) -> Worth {
        let log = self.log_eval(candidate, situation, candidate.read_seconds, 1.0);
        Worth(log, candidate.last_use(situation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{page, situation};

    #[test]
    fn the_eval_is_the_papers() {
        let adapter = Candidate { is_adapter: true, idle_seconds: 60.0, ..page() };
        let scarce = Situation { now: 0.0, expected_adapters: 6.0, ..situation() };
        let Worth(log, _) = Elora::default().worth(&adapter, &scarce);
        let sigmoid = |t: f64| 1.0 / (1.0 + (-t).exp());
        let expected = (6.0 / 3.0) * 1e-4 * 3.0 * (1.0 - sigmoid(2.0));
        assert!((log.exp() / expected - 1.0).abs() < 1e-12, "{}, expected {expected}", log.exp());
    }

    #[test]
    fn what_was_used_days_ago_is_still_told_apart() {
        let idle = |seconds| Candidate { idle_seconds: seconds, ..page() };
        let worth = |seconds| Elora::default().worth(&idle(seconds), &situation());
        assert!(worth(200_000.0) > worth(200_001.0));
        assert!(worth(200_000.0).0.is_finite());
    }

    #[test]
    fn each_term_can_be_switched_off() {
        let of = |elora: Elora, c: Candidate| elora.worth(&c, &situation()).0;
        let all = Elora::default();
        let scarce = Situation { expected_adapters: 9.0, ..situation() };
        let adapter = Candidate { is_adapter: true, ..page() };
        assert_ne!(all.worth(&page(), &scarce).0, all.worth(&adapter, &scarce).0);
        let without = Elora { adapters: false, ..all };
        assert_eq!(without.worth(&page(), &scarce).0, without.worth(&adapter, &scarce).0);
        for (without, other) in [
            (Elora { cost: false, ..all }, Candidate { read_seconds: 1.0, ..page() }),
            (Elora { visits: false, ..all }, Candidate { visits: 9.0, ..page() }),
            (Elora { recency: false, ..all }, Candidate { idle_seconds: 99.0, ..page() }),
        ] {
            assert_ne!(of(all, page()), of(all, other));
            assert_eq!(of(without, page()), of(without, other));
        }
    }

    #[test]
    fn a_batch_needs_no_more_adapters_than_there_are_or_than_it_has_requests() {
        assert_eq!(expected_adapters([1.0, 1.0, 0.0], 5), 2.0);
        let even = expected_adapters([0.25; 4], 1);
        assert!((even - 1.0).abs() < 1e-12);
        assert!(expected_adapters([0.25; 4], 8) > 3.5);
    }
}
