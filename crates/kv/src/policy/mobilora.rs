//! MobiLoRA's utility (ACL 2025 long 1140, "Eq. 4"): `U = λ_s·S(state) + λ_t·T(recency) + λ_l·L(length)`.
//!
//! The paper's text could not be had. The form is that of two notes on it; S, T, the λ and the unnormalised L are a
//! re-implementation's, whose length would outweigh all else: here it is a share of the longest context's.

use super::{AppState, Candidate, Situation, Worth};

/// The weights of the terms; a weight of 0 switches its term off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MobiLora {
    /// λ_s, of the app's state.
    pub state: f64,
    /// λ_t, of recency.
    pub recency: f64,
    /// λ_l, of the context's length.
    pub length: f64,
}

impl Default for MobiLora {
    /// The re-implementation's.
    fn default() -> Self {
        Self { state: 0.5, recency: 0.3, length: 0.2 }
    }
}

/// S: the paper has three states. What is seen counts as in use, what is cached as in the background.
pub(super) const fn of_state(app: AppState) -> f64 {
    match app {
        AppState::Foreground | AppState::Visible => 1.0,
        AppState::Background | AppState::Cached => 0.4,
        AppState::Killed => 0.0,
    }
}

impl MobiLora {
    pub(super) fn worth(&self, candidate: &Candidate, situation: &Situation) -> Worth {
        let recency = 1.0 / (1.0 + candidate.idle_requests as f64);
        let [length, longest] =
            [candidate.context_tokens, situation.longest_context.max(1)].map(|n| (1.0 + f64::from(n)).ln());
        let length = length / longest;
        let utility =
            self.state * of_state(candidate.app) + self.recency * recency + self.length * length.min(1.0);
        Worth(utility, candidate.last_use(situation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{page, situation};

    #[test]
    fn the_utility_is_the_papers() {
        let Worth(utility, _) = MobiLora::default().worth(&page(), &situation());
        let expected = 0.5 + 0.3 / 5.0 + 0.2 * 1025_f64.ln() / 4097_f64.ln();
        assert!((utility - expected).abs() < 1e-12, "{utility}, expected {expected}");
    }

    #[test]
    fn length_never_outweighs_the_state() {
        let long = Candidate { app: AppState::Killed, context_tokens: 4096, ..page() };
        let short = Candidate { context_tokens: 0, ..page() };
        let worth = |c: &Candidate| MobiLora::default().worth(c, &situation());
        assert!(worth(&short) > worth(&long));
    }

    #[test]
    fn a_weight_of_zero_switches_its_term_off() {
        let killed = Candidate { app: AppState::Killed, ..page() };
        let without = MobiLora { state: 0.0, ..MobiLora::default() };
        assert_eq!(without.worth(&page(), &situation()), without.worth(&killed, &situation()));
    }
}
