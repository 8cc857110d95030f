//! Memory in blocks of one size, which pages of any codec and the rank-slabs of adapters share. A block is one piece, or
//! split into pieces of one size class; a class's block returns whole when its last piece does. Knows nothing of what is
//! in a piece, and allocates nothing once it is made.
//!
//! The blocks of ELORA (arXiv 2505.03756, §4.1), with classes below them: a low-rank page of some hundred bytes does not
//! hold a block of 16 KiB.

/// Pieces that a block is split into at most.
const MOST_PIECES: u32 = 256;

/// No block.
const NONE: u32 = u32::MAX;

/// A piece of a block, or a whole one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Piece {
    block: u32,
    index: u16,
    /// A block of class c has 2ᶜ pieces.
    class: u8,
}

impl Piece {
    /// None.
    pub(crate) const NONE: Self = Self { block: NONE, index: 0, class: 0 };
}

/// One block.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// Which pieces are taken, a bit each.
    taken: [u64; (MOST_PIECES / 64) as usize],
    pieces: u16,
    class: u8,
    /// Neighbours in the list of its class's blocks that have a free piece, or in the list of free blocks.
    before: u32,
    after: u32,
}

/// Blocks of one tier, or of one layer's part of it.
#[derive(Debug, Clone)]
pub struct Blocks {
    block_bytes: u64,
    /// Blocks that may be in use.
    budget: u32,
    used: u32,
    blocks: Vec<Block>,
    free: u32,
    /// The first block of each class that has a free piece.
    open: [u32; MOST_PIECES.ilog2() as usize + 1],
}

impl Blocks {
    /// So many blocks, all free. Bytes of a block are rounded up so that the smallest piece is whole.
    #[must_use]
    pub fn new(count: u32, block_bytes: u64) -> Self {
        let count = count.min(NONE - 1);
        let block = |i: u32| Block {
            taken: [0; (MOST_PIECES / 64) as usize],
            pieces: 0,
            class: 0,
            before: i.checked_sub(1).unwrap_or(NONE),
            after: if i + 1 < count { i + 1 } else { NONE },
        };
        Self {
            block_bytes: block_bytes.next_multiple_of(u64::from(MOST_PIECES)).max(u64::from(MOST_PIECES)),
            budget: count,
            used: 0,
            blocks: (0..count).map(block).collect(),
            free: if count > 0 { 0 } else { NONE },
            open: [NONE; MOST_PIECES.ilog2() as usize + 1],
        }
    }

    /// Bytes of a block: the most that one piece can have.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// Bytes held: whole blocks, however much of them is taken.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        u64::from(self.used) * self.block_bytes
    }

    /// Bytes that may be held.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        u64::from(self.budget) * self.block_bytes
    }

    /// Bytes held beyond the budget: after it was cut, until enough has been given back.
    #[must_use]
    pub fn excess_bytes(&self) -> u64 {
        u64::from(self.used.saturating_sub(self.budget)) * self.block_bytes
    }

    /// Changes the budget to whole blocks below `bytes`, or to all there are. What is held stays; nothing new is held
    /// beyond it.
    pub fn set_budget(&mut self, bytes: u64) {
        let blocks = u32::try_from(bytes / self.block_bytes).unwrap_or(u32::MAX);
        self.budget = blocks.min(u32::try_from(self.blocks.len()).unwrap_or(u32::MAX));
    }

    /// Bytes that a piece of `bytes` takes of its block; `None` for more than a block.
    #[must_use]
    pub fn piece_bytes(&self, bytes: u64) -> Option<u64> {
        Some(self.block_bytes >> self.class_of(bytes)?)
    }

    /// The smallest class's number whose pieces have so many bytes.
    fn class_of(&self, bytes: u64) -> Option<u8> {
        let mut class = 0;
        while 1 << (class + 1) <= MOST_PIECES && self.block_bytes >> (class + 1) >= bytes {
            class += 1;
        }
        (bytes <= self.block_bytes).then_some(class)
    }

    /// Takes a piece of at least so many bytes: of a block of its class that has one, so that few blocks are held.
    /// `None` if that would hold more than the budget, or for more bytes than a block has.
    pub fn take(&mut self, bytes: u64) -> Option<Piece> {
        let class = self.class_of(bytes)?;
        let index = match self.open[usize::from(class)] {
            NONE => self.open_block(class)?,
            open => open,
        };
        let block = &mut self.blocks[index as usize];
        let word = block.taken.iter().position(|word| *word != u64::MAX)?;
        let bit = block.taken[word].trailing_ones();
        block.taken[word] |= 1 << bit;
        block.pieces += 1;
        if u32::from(block.pieces) == 1 << class {
            self.unlink(index, Some(class));
        }
        Some(Piece { block: index, index: word as u16 * 64 + bit as u16, class })
    }

    /// Gives a piece back that was taken from here and not given back since; any other changes nothing. Returns whether
    /// its block is free now.
    pub fn give_back(&mut self, piece: Piece) -> bool {
        let Piece { block: index, index: bit, class } = piece;
        let Some(block) = self.blocks.get_mut(index as usize) else { return false };
        let (word, mask) = (usize::from(bit / 64), 1_u64 << (bit % 64));
        if block.class != class || block.pieces == 0 || block.taken.get(word).is_none_or(|w| w & mask == 0) {
            return false;
        }
        block.taken[word] &= !mask;
        block.pieces -= 1;
        let (pieces, was_full) = (block.pieces, u32::from(block.pieces) + 1 == 1 << class);
        if pieces > 0 {
            if was_full {
                self.link(index, Some(class));
            }
            return false;
        }
        // A whole block was full, and in no list.
        if !was_full {
            self.unlink(index, Some(class));
        }
        self.used -= 1;
        self.link(index, None);
        true
    }

    /// Where a piece begins, in bytes from the first block's beginning.
    #[must_use]
    pub fn offset(&self, piece: Piece) -> u64 {
        u64::from(piece.block) * self.block_bytes + u64::from(piece.index) * (self.block_bytes >> piece.class)
    }

    /// Bytes of a piece.
    #[must_use]
    pub fn size(&self, piece: Piece) -> u64 {
        self.block_bytes >> piece.class
    }

    /// Pieces that are taken.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.blocks.iter().map(|block| usize::from(block.pieces)).sum()
    }

    /// Pieces that are taken of the block that a piece is in: what must go for the block to be free.
    #[must_use]
    pub fn neighbours(&self, piece: Piece) -> u32 {
        self.blocks.get(piece.block as usize).map_or(0, |block| u32::from(block.pieces))
    }

    /// Gives a free block to a class.
    fn open_block(&mut self, class: u8) -> Option<u32> {
        let index = self.free;
        if index == NONE || self.used >= self.budget {
            return None;
        }
        self.unlink(index, None);
        self.used += 1;
        let block = &mut self.blocks[index as usize];
        block.class = class;
        // Bits behind the last piece count as taken.
        let pieces = 1_u32 << class;
        for (word, first) in block.taken.iter_mut().zip((0..).step_by(64)) {
            *word = match pieces.saturating_sub(first) {
                0 => u64::MAX,
                64.. => 0,
                free => u64::MAX << free,
            };
        }
        self.link(index, Some(class));
        Some(index)
    }

    /// The list of a class's open blocks, or that of free ones.
    fn head(&mut self, class: Option<u8>) -> &mut u32 {
        match class {
            Some(class) => &mut self.open[usize::from(class)],
            None => &mut self.free,
        }
    }

    fn link(&mut self, index: u32, class: Option<u8>) {
        let first = std::mem::replace(self.head(class), index);
        let block = &mut self.blocks[index as usize];
        (block.before, block.after) = (NONE, first);
        if let Some(first) = self.blocks.get_mut(first as usize) {
            first.before = index;
        }
    }

    fn unlink(&mut self, index: u32, class: Option<u8>) {
        let Block { before, after, .. } = self.blocks[index as usize];
        match self.blocks.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => *self.head(class) = after,
        }
        if let Some(after) = self.blocks.get_mut(after as usize) {
            after.before = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: u64 = 16 << 10;

    #[test]
    fn a_small_piece_holds_one_block_with_others_of_its_class() {
        let mut blocks = Blocks::new(2, BLOCK);
        assert_eq!((blocks.piece_bytes(160), blocks.piece_bytes(0)), (Some(256), Some(64)));
        assert_eq!((blocks.piece_bytes(BLOCK), blocks.piece_bytes(BLOCK + 1)), (Some(BLOCK), None));
        let pieces: Vec<_> = (0..64).map(|_| blocks.take(160).unwrap()).collect();
        assert_eq!((blocks.held_bytes(), blocks.neighbours(pieces[5])), (BLOCK, 64));
        assert!(blocks.take(160).is_some() && blocks.held_bytes() == 2 * BLOCK);
        assert!(blocks.take(BLOCK).is_none(), "neither block is whole");
        let freed: Vec<_> = pieces.iter().map(|piece| blocks.give_back(*piece)).collect();
        assert_eq!(freed.iter().position(|freed| *freed), Some(63), "with its last piece");
        assert!(blocks.take(BLOCK).is_some());
    }

    #[test]
    fn a_smaller_budget_takes_nothing_away_and_gives_nothing_out() {
        let mut blocks = Blocks::new(4, BLOCK);
        let taken: Vec<_> = (0..3).map(|_| blocks.take(BLOCK).unwrap()).collect();
        blocks.set_budget(2 * BLOCK - 1);
        assert_eq!((blocks.budget_bytes(), blocks.excess_bytes()), (BLOCK, 2 * BLOCK));
        assert!(blocks.take(1).is_none());
        taken[..2].iter().for_each(|piece| assert!(blocks.give_back(*piece)));
        assert!(blocks.excess_bytes() == 0 && blocks.take(1).is_none());
        assert!(blocks.give_back(taken[2]) && blocks.take(1).is_some());
        blocks.set_budget(u64::MAX);
        assert_eq!(blocks.budget_bytes(), 4 * BLOCK);
    }

    #[test]
    fn what_was_not_taken_here_changes_nothing() {
        let mut blocks = Blocks::new(1, BLOCK);
        let piece = blocks.take(BLOCK / 2).unwrap();
        let other = Blocks::new(9, BLOCK).take(BLOCK).unwrap();
        assert!(!blocks.give_back(other) && !blocks.give_back(Piece { block: 7, ..piece }));
        assert!(!blocks.give_back(Piece { index: 1, ..piece }) && blocks.held_bytes() == BLOCK);
        assert!(blocks.give_back(piece) && !blocks.give_back(piece));
        assert!(Blocks::new(0, BLOCK).take(1).is_none());
    }

    proptest! {
        /// Against a list of what is taken: no two pieces overlap, whole blocks are held and no more, and all of it
        /// comes back.
        #[test]
        fn pieces_never_overlap_and_none_is_lost(
            events in prop::collection::vec((any::<bool>(), 0_u64..=BLOCK, any::<prop::sample::Index>()), 1..300),
        ) {
            let mut blocks = Blocks::new(6, BLOCK);
            let mut taken: Vec<(Piece, u64)> = Vec::new();
            for (take, bytes, which) in events {
                // Small pieces as often as large ones.
                let bytes = bytes >> (bytes % 9);
                if take || taken.is_empty() {
                    if let Some(piece) = blocks.take(bytes) {
                        taken.push((piece, bytes));
                    }
                } else {
                    let (piece, _) = taken.swap_remove(which.index(taken.len()));
                    let alone = taken.iter().all(|(other, _)| other.block != piece.block);
                    prop_assert_eq!(blocks.give_back(piece), alone);
                }
                let mut ranges: Vec<_> =
                    taken.iter().map(|(p, bytes)| (blocks.offset(*p), blocks.offset(*p) + bytes)).collect();
                ranges.sort_unstable();
                prop_assert!(ranges.windows(2).all(|w| w[0].1 <= w[1].0));
                let mut held: Vec<u32> = taken.iter().map(|(p, _)| p.block).collect();
                held.sort_unstable();
                held.dedup();
                prop_assert_eq!(blocks.held_bytes(), held.len() as u64 * BLOCK);
                prop_assert!(taken.iter().all(|(p, _)| blocks.offset(*p) < 6 * BLOCK));
            }
            for (piece, _) in taken {
                blocks.give_back(piece);
            }
            prop_assert_eq!(blocks.held_bytes(), 0);
            prop_assert!((0..6).all(|_| blocks.take(BLOCK).is_some()) && blocks.take(1).is_none());
        }
    }
}
