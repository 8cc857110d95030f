//! LLMS's queue (Yin et al., arXiv 2403.11805, §3.4): one queue for each width, the widest first, each by recency. The
//! same bytes in fewer and heavier chunks are recomputed sooner.

use super::{Candidate, Worth};

pub(super) fn worth(candidate: &Candidate) -> Worth {
    Worth(-f64::from(candidate.bits), -candidate.idle_seconds)
}
