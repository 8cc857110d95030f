//! The tokens of open sequences, kept while the device that has their pages may be given up: from them the pages are
//! computed again on another. Four bytes a token, of which a page takes thousands.

use std::collections::HashMap;

use interleaf_kv::SequenceId;

/// One sequence.
#[derive(Debug, Default)]
struct History {
    tokens: Vec<u32>,
    /// How many of them the pages hold.
    paged: usize,
}

/// What sequences are made of. It has every token of a sequence that it knows; sequences that were opened where nothing
/// can be given up it does not know, and their pages are never lost.
#[derive(Debug, Default)]
pub struct Histories {
    by_sequence: HashMap<SequenceId, History>,
}

impl Histories {
    /// A sequence has grown, its pages too.
    pub fn grow(&mut self, id: SequenceId, tokens: &[u32]) {
        let history = self.by_sequence.entry(id).or_default();
        history.tokens.extend_from_slice(tokens);
        history.paged = history.tokens.len();
    }

    /// A sequence has been cut back.
    pub fn truncate(&mut self, id: SequenceId, tokens: usize) {
        if let Some(history) = self.by_sequence.get_mut(&id) {
            history.tokens.truncate(tokens);
            history.paged = history.paged.min(tokens);
        }
    }

    /// A sequence has been closed.
    pub fn forget(&mut self, id: SequenceId) {
        self.by_sequence.remove(&id);
    }

    /// All have been closed.
    pub fn clear(&mut self) {
        self.by_sequence.clear();
    }

    /// No page is left of any.
    pub fn lose_pages(&mut self) {
        self.by_sequence.values_mut().for_each(|history| history.paged = 0);
    }

    /// How many tokens a sequence has, those included whose pages are lost.
    pub fn tokens(&self, id: SequenceId) -> usize {
        self.by_sequence.get(&id).map_or(0, |history| history.tokens.len())
    }

    /// Whether a sequence has lost pages that have not been computed again.
    pub fn is_lost(&self, id: SequenceId) -> bool {
        self.by_sequence.get(&id).is_some_and(|history| history.paged < history.tokens.len())
    }

    /// The next tokens to compute again, at most `rows`, and where they begin; `None` once the pages have all.
    pub fn lost(&self, id: SequenceId, rows: usize) -> Option<(usize, &[u32])> {
        let History { tokens, paged } = self.by_sequence.get(&id)?;
        let lost = tokens.get(*paged..).filter(|lost| !lost.is_empty())?;
        Some((*paged, &lost[..rows.min(lost.len())]))
    }

    /// The pages have `rows` more tokens again. Returns how many they have now, and how many there are.
    pub fn regain(&mut self, id: SequenceId, rows: usize) -> (usize, usize) {
        self.by_sequence.get_mut(&id).map_or((0, 0), |history| {
            history.paged = (history.paged + rows).min(history.tokens.len());
            (history.paged, history.tokens.len())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_comes_back_in_pieces_and_once() {
        let (mut histories, [one, other]) = (Histories::default(), [1, 2].map(SequenceId));
        histories.grow(one, &[10, 11, 12]);
        histories.grow(one, &[13, 14]);
        histories.grow(other, &[20]);
        assert!(!histories.is_lost(one));
        histories.truncate(one, 4);
        histories.lose_pages();
        assert_eq!(histories.lost(one, 3), Some((0, &[10, 11, 12][..])));
        assert_eq!(histories.regain(one, 3), (3, 4));
        assert_eq!(histories.lost(one, 3), Some((3, &[13][..])));
        assert_eq!(histories.regain(one, 1), (4, 4));
        assert_eq!((histories.lost(one, 3), histories.is_lost(one)), (None, false));
        // What is cut away or closed need not come back.
        histories.truncate(other, 0);
        assert!(!histories.is_lost(other));
        histories.lose_pages();
        histories.forget(one);
        assert!(!histories.is_lost(one));
    }
}
