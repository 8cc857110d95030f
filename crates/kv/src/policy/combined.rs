//! Ours: ELORA's Eval, with what no single paper has. What can be recomputed costs the cheaper of reading and recomputing
//! it, what an app that is out of sight holds counts for less, uses count the less the longer ago they were and the more of
//! them there were, and worth is measured by the bytes that it takes. Of equals the wider goes first, as in LLMS.

use super::mobilora::of_state;
use super::{Candidate, Elora, Situation, Worth};

/// The terms, each of which can be switched off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Combined {
    /// ELORA's own.
    pub elora: Elora,
    /// The app's state.
    pub state: bool,
    /// The cheaper of reading and recomputing; else reading.
    pub recompute: bool,
    /// By byte.
    pub per_byte: bool,
    /// Uses count the less the longer ago they were; else all alike.
    pub decay: bool,
    /// Uses count by the logarithm of one more than there were; else each as much as the first. What a dialogue that has
    /// ended was used often does not make it come back, and one that has just begun has few uses.
    pub saturation: bool,
}

impl Default for Combined {
    fn default() -> Self {
        Self {
            elora: Elora::default(),
            state: true,
            recompute: true,
            per_byte: true,
            decay: true,
            saturation: true,
        }
    }
}

/// What counts of a killed app's: nearly nothing, but the order among its things stays.
const KILLED: f64 = 1e-3;

impl Combined {
    pub(super) fn worth(&self, candidate: &Candidate, situation: &Situation) -> Worth {
        let cost = match self.recompute {
            true => candidate.read_seconds.min(candidate.recompute_seconds),
            false => candidate.read_seconds,
        };
        let mut factor = 1.0;
        if self.state {
            factor *= of_state(candidate.app).max(KILLED);
        }
        if self.per_byte {
            factor /= candidate.bytes.max(1) as f64;
        }
        let visits = if self.decay { candidate.lately } else { candidate.visits };
        let visits = if self.saturation { visits.ln_1p() } else { visits };
        let candidate = &Candidate { visits, ..*candidate };
        let log = self.elora.log_eval(candidate, situation, cost, factor);
        Worth(log, -f64::from(candidate.bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::AppState;
    use crate::policy::tests::{page, situation};

    #[test]
    fn each_term_can_be_switched_off() {
        let of = |combined: Combined, c: Candidate| combined.worth(&c, &situation()).0;
        let all = Combined::default();
        for (without, other) in [
            (Combined { state: false, ..all }, Candidate { app: AppState::Background, ..page() }),
            (Combined { recompute: false, ..all }, Candidate { recompute_seconds: 1e-6, ..page() }),
            (Combined { per_byte: false, ..all }, Candidate { bytes: 1, ..page() }),
            (Combined { decay: false, ..all }, Candidate { lately: 1.0, ..page() }),
        ] {
            assert_ne!(of(all, page()), of(all, other));
            assert_eq!(of(without, page()), of(without, other));
        }
    }

    #[test]
    fn further_uses_count_less_than_the_first() {
        let log =
            |combined: Combined, lately| combined.worth(&Candidate { lately, ..page() }, &situation()).0;
        let gain = |combined, uses| log(combined, uses + 1.0) - log(combined, uses);
        let all = Combined::default();
        let without = Combined { saturation: false, ..all };
        assert!((gain(all, 20.0) - (22_f64.ln() / 21_f64.ln()).ln()).abs() < 1e-9);
        assert!((gain(without, 20.0) - (21_f64 / 20.0).ln()).abs() < 1e-9);
    }

    #[test]
    fn what_killed_apps_hold_keeps_its_order() {
        let killed = |lately| Candidate { app: AppState::Killed, lately, ..page() };
        let worth = |c: Candidate| Combined::default().worth(&c, &situation());
        assert!(worth(killed(2.0)) > worth(killed(1.0)));
        assert!(worth(Candidate { lately: 0.1, ..page() }) > worth(killed(2.0)));
    }
}
