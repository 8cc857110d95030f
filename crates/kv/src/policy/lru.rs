//! The longest unused first: what S-LoRA and vLLM do, and what every other policy is compared with.

use super::{Candidate, Worth};

pub(super) fn worth(candidate: &Candidate) -> Worth {
    Worth(-candidate.idle_seconds, 0.0)
}
