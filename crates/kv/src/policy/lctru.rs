//! LLMS's queue (Yin et al., arXiv 2403.11805, §3.4): one queue for each width, the widest first, each by recency. The
//! same bytes in fewer and heavier chunks are recomputed sooner.

use super::{Candidate, Situation, Worth};

pub(super) fn worth(candidate: &Candidate, situation: &Situation) -> Worth {
    Worth(-f64::from(candidate.bits), candidate.last_use(situation))
}
