//! The last scores, by caller and tokens, so that a context that is routed with every call is scored once. Nobody finds what
//! another caller's tokens scored.

use std::collections::VecDeque;

use crate::cache::Caller;

/// The most that are kept: their tokens are a few hundred bytes each.
const MOST: usize = 64;

#[derive(Debug)]
struct Scored {
    caller: Caller,
    tokens: Vec<u32>,
    probabilities: Vec<f32>,
}

/// The last scores, the oldest first.
#[derive(Debug, Default)]
pub struct Memo(VecDeque<Scored>);

impl Memo {
    /// What these tokens of a caller's scored.
    pub fn find(&self, caller: Caller, tokens: &[u32]) -> Option<&[f32]> {
        let found = self.0.iter().find(|scored| scored.caller == caller && scored.tokens == tokens);
        found.map(|scored| scored.probabilities.as_slice())
    }

    /// Keeps a score, and lets go of the oldest.
    pub fn keep(&mut self, caller: Caller, tokens: &[u32], probabilities: &[f32]) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        let (tokens, probabilities) = (tokens.to_vec(), probabilities.to_vec());
        self.0.push_back(Scored { caller, tokens, probabilities });
    }

    /// Forgets what a text of a caller's began with, or all of a caller's.
    pub fn forget(&mut self, caller: Caller, text: Option<&[u32]>) {
        let is_of = |scored: &Scored| text.is_none_or(|text| text.starts_with(&scored.tokens));
        self.0.retain(|scored| scored.caller != caller || !is_of(scored));
    }
}

#[cfg(test)]
mod tests {
    use interleaf_contract::{PageElement, PoolGeometry};
    use interleaf_kv::Salt;

    use super::*;
    use crate::cache::{Cache, Kinds};

    #[test]
    fn scores_are_their_callers_and_the_oldest_go() {
        let geometry =
            PoolGeometry { layers: 1, kv_heads: 1, head_dim: 16, slots: 4, element: PageElement::F32 };
        let kinds = Kinds { encodes: false, narrows: None, below: None };
        let mut cache = Cache::new(&geometry, 64, true, 0, kinds).unwrap();
        let callers = ["a", "b", "c", "d"].map(|name| cache.open_app(name, None).unwrap());
        let caller = |app: usize| callers[app];
        let mut memo = Memo::default();
        memo.keep(caller(1), &[1, 2], &[0.5]);
        memo.keep(caller(1), &[3], &[0.25]);
        memo.keep(caller(2), &[1, 2], &[0.75]);
        assert_eq!(memo.find(caller(1), &[1, 2]), Some(&[0.5][..]));
        assert_eq!(memo.find(caller(2), &[3]), None);
        let salted = Caller { salt: Some(Salt([3; 16])), ..caller(1) };
        assert_eq!(memo.find(salted, &[3]), None);
        memo.forget(caller(1), Some(&[1, 2, 9]));
        assert_eq!((memo.find(caller(1), &[1, 2]), memo.find(caller(1), &[3])), (None, Some(&[0.25][..])));
        memo.forget(caller(2), None);
        assert_eq!(memo.find(caller(2), &[1, 2]), None);
        (0..MOST).for_each(|at| memo.keep(caller(3), &[at as u32], &[0.0]));
        assert_eq!((memo.0.len(), memo.find(caller(1), &[3])), (MOST, None));
    }
}
