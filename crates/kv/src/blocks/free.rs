//! Which blocks are free: a bit each, and one for each word of them that is not 0. The first free ones are taken, so that
//! those behind stay together.

/// Free blocks.
#[derive(Debug, Clone)]
pub struct FreeBlocks {
    words: Vec<u64>,
    /// Which words have a free block.
    some: Vec<u64>,
    /// No word of `some` before this one has a bit.
    first: usize,
}

impl FreeBlocks {
    /// So many, all free.
    pub fn new(count: u32) -> Self {
        let mut free = Self { words: bits(count as usize), some: Vec::new(), first: 0 };
        free.some = bits(free.words.len());
        free
    }

    /// Takes the first 2ˡᵉⁿᵍᵗʰ free blocks that begin at a multiple of their number; up to 64.
    pub fn take(&mut self, length: u8) -> Option<u32> {
        while self.some.get(self.first) == Some(&0) {
            self.first += 1;
        }
        let (at, word) = self.words_with_some().find_map(|at| {
            let starts = starts(self.words[at], length);
            (starts != 0).then_some((at, starts.trailing_zeros()))
        })?;
        self.words[at] &= !(run(length) << word);
        if self.words[at] == 0 {
            self.some[at / 64] &= !(1 << (at % 64));
        }
        Some(at as u32 * 64 + word)
    }

    /// Takes 2ˡᵉⁿᵍᵗʰ blocks from a multiple of their number on, if all of them are free.
    pub fn take_at(&mut self, first: u32, length: u8) -> bool {
        let Some(word) = self.words.get_mut(first as usize / 64) else { return false };
        let wanted = run(length) << (first % 64);
        if !first.is_multiple_of(1 << length) || *word & wanted != wanted {
            return false;
        }
        *word &= !wanted;
        if *word == 0 {
            self.some[first as usize / 64 / 64] &= !(1 << (first / 64 % 64));
        }
        true
    }

    /// Gives blocks back that were taken together.
    pub fn give_back(&mut self, first: u32, length: u8) {
        let at = first as usize / 64;
        self.words[at] |= run(length) << (first % 64);
        self.some[at / 64] |= 1 << (at % 64);
        self.first = self.first.min(at / 64);
    }

    fn words_with_some(&self) -> impl Iterator<Item = usize> {
        let ones = |word: u64| {
            let next = |left: &u64| Some(left & (left - 1)).filter(|left| *left != 0);
            std::iter::successors(Some(word).filter(|word| *word != 0), next).map(u64::trailing_zeros)
        };
        let some = self.some.iter().enumerate().skip(self.first);
        some.flat_map(move |(at, word)| ones(*word).map(move |bit| at * 64 + bit as usize))
    }
}

/// So many bits, all set.
fn bits(count: usize) -> Vec<u64> {
    let word = |first: usize| match count - first {
        0..64 => (1 << (count - first)) - 1,
        _ => u64::MAX,
    };
    (0..count).step_by(64).map(word).collect()
}

/// 2ˡᵉⁿᵍᵗʰ bits.
const fn run(length: u8) -> u64 {
    u64::MAX >> (64 - (1 << length))
}

/// The bits at multiples of 2ˡᵉⁿᵍᵗʰ from which on so many are set.
fn starts(word: u64, length: u8) -> u64 {
    let mut starts = word;
    for doubled in 0..length {
        starts &= starts >> (1 << doubled);
    }
    // Every 2ˡᵉⁿᵍᵗʰ-th bit: all ones divided by one run of them.
    starts & (u64::MAX / run(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_aligned_run_is_taken() {
        let mut free = FreeBlocks::new(70);
        assert_eq!([0, 3, 0, 1, 2].map(|length| free.take(length)), [0, 8, 1, 2, 4].map(Some));
        assert_eq!(free.take(3), Some(16));
        free.give_back(8, 3);
        assert_eq!([3, 3].map(|length| free.take(length)), [Some(8), Some(24)]);
        // Of the last word 6 blocks are there.
        let rest: Vec<u32> = std::iter::from_fn(|| free.take(2)).collect();
        assert_eq!((rest.len(), rest.last()), (9, Some(&64)));
        assert_eq!([1, 0, 0].map(|length| free.take(length)), [Some(68), None, None]);
        free.give_back(69, 0);
        assert_eq!([free.take(1), free.take(0)], [None, Some(69)]);
    }

    #[test]
    fn there_may_be_none() {
        assert_eq!(FreeBlocks::new(0).take(0), None);
        assert_eq!(FreeBlocks::new(128).words, [u64::MAX; 2]);
    }
}
