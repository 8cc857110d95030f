//! The longest unused first: what S-LoRA and vLLM do, and what every other policy is compared with.

use super::{Candidate, Situation, Worth};

pub(super) fn worth(candidate: &Candidate, situation: &Situation) -> Worth {
    Worth(candidate.last_use(situation), 0.0)
}
