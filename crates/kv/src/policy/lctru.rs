//! LLMS's queue (Yin et al., arXiv 2403.11805, §3.4): one queue for each width, the widest first, each by recency. The
//! same bytes in fewer and heavier chunks are recomputed sooner.

use super::{Candidate, Situation, Worth};

/// Seconds that a bit of width counts: more than any clock shows, and few enough that a second's thousandths are kept
/// beside the widest's (2⁻¹² s beside 32 bits).
const BIT: f64 = (1_u64 << 36) as f64;

pub(super) fn worth(candidate: &Candidate, situation: &Situation) -> Worth {
    Worth(candidate.last_use(situation) - BIT * f64::from(candidate.bits), 0.0)
}
