//! Memory in blocks of one size, which pages of any codec and the rank-slabs of adapters share. A block is one piece, or
//! split into pieces of one size class; a class's block returns whole when its last piece does. Knows nothing of what is
//! in a piece.
//!
//! The blocks of ELORA (arXiv 2505.03756, §4.1), with classes below them: a low-rank page of some hundred bytes does not
//! hold a block of 16 KiB.
//!
//! A block costs four bytes, and a piece's name four more. A block that is split has a record of 48 bytes besides, for all
//! its pieces. Records are used again, so it allocates only while more blocks are split than ever were at once.

/// Pieces that a block is split into at most.
const MOST_PIECES: u32 = 256;

/// The last size class: a block of class c has 2ᶜ pieces.
const LAST_CLASS: usize = MOST_PIECES.ilog2() as usize;

/// Bits of a piece's name that say which of its block it is: there are pieces of every class, one fewer than
/// `2 · MOST_PIECES`.
const NUMBER_BITS: u32 = MOST_PIECES.ilog2() + 1;

/// Blocks that there are at most, so that all other bits name one, and all of them set name none.
const MOST_BLOCKS: u32 = u32::MAX >> NUMBER_BITS;

/// No block, and no record of a split one: a number behind the last.
const NONE: u32 = MOST_BLOCKS;

/// A piece of a block, or a whole one. Above `NUMBER_BITS` the block; in them 0 for all of it, 1 and 2 for its halves, 3
/// to 6 for its quarters, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Piece(u32);

impl Piece {
    /// None.
    pub(crate) const NONE: Self = Self(u32::MAX);

    const fn whole(block: u32) -> Self {
        Self(block << NUMBER_BITS)
    }

    const fn part(block: u32, class: u8, index: u32) -> Self {
        Self(block << NUMBER_BITS | ((1 << class) - 1 + index))
    }

    const fn block(self) -> u32 {
        self.0 >> NUMBER_BITS
    }

    /// Its number among the pieces of all classes, counted from 1 as in a heap.
    const fn place(self) -> u32 {
        (self.0 & ((1 << NUMBER_BITS) - 1)) + 1
    }

    const fn class(self) -> u8 {
        self.place().ilog2() as u8
    }

    const fn index(self) -> u32 {
        self.place() - (1 << self.class())
    }
}

/// What a block is: free, and then which is the next free one; taken whole; or split, and then where its record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State(u32);

impl State {
    const WHOLE: Self = Self(u32::MAX);
    /// Set for blocks that are taken. Numbers of blocks and of records are smaller.
    const TAKEN: u32 = 1 << 31;

    const fn free(next: u32) -> Self {
        Self(next)
    }

    const fn split(record: u32) -> Self {
        Self(Self::TAKEN | record)
    }

    /// The record of a split block.
    fn record(self) -> Option<u32> {
        (self.0 & Self::TAKEN != 0 && self != Self::WHOLE).then_some(self.0 & !Self::TAKEN)
    }
}

/// The record of a split block.
#[derive(Debug, Clone, Copy)]
struct Split {
    /// Which pieces are taken, a bit each.
    taken: [u64; (MOST_PIECES / 64) as usize],
    block: u32,
    /// Neighbours in the list of its class's records that have a free piece. Of records that are not in use, the next.
    before: u32,
    after: u32,
    pieces: u16,
    class: u8,
}

impl Split {
    fn new(block: u32, class: u8) -> Self {
        // Bits behind the last piece count as taken.
        let mut taken = [u64::MAX; (MOST_PIECES / 64) as usize];
        for (word, first) in taken.iter_mut().zip((0..1_u32 << class).step_by(64)) {
            *word = u64::MAX.checked_shl((1 << class) - first).unwrap_or(0);
        }
        Self { taken, block, before: NONE, after: NONE, pieces: 0, class }
    }

    const fn is_full(&self) -> bool {
        self.pieces == 1 << self.class
    }

    /// Takes the first free piece.
    fn take(&mut self) -> Option<Piece> {
        let (at, word) = self.taken.iter_mut().enumerate().find(|(_, word)| **word != u64::MAX)?;
        let bit = word.trailing_ones();
        *word |= 1 << bit;
        self.pieces += 1;
        Some(Piece::part(self.block, self.class, at as u32 * 64 + bit))
    }

    /// Gives a piece back, and says whether it was taken.
    fn give_back(&mut self, piece: Piece) -> bool {
        // A number within the class, so that none is behind its last piece.
        if piece.class() != self.class {
            return false;
        }
        let (at, mask) = (piece.index() / 64, 1_u64 << (piece.index() % 64));
        let Some(word) = self.taken.get_mut(at as usize).filter(|word| **word & mask != 0) else {
            return false;
        };
        *word &= !mask;
        self.pieces -= 1;
        true
    }
}

/// Blocks of one tier, or of one layer's part of it.
#[derive(Debug, Clone)]
pub struct Blocks {
    block_bytes: u64,
    /// Blocks that may be in use.
    budget: u32,
    used: u32,
    blocks: Vec<State>,
    /// The first free block. The list ends with a number that no block has.
    free: u32,
    splits: Vec<Split>,
    /// The first record that is not in use.
    spare: u32,
    /// The first record of each class that has a free piece; none of whole blocks.
    open: [u32; LAST_CLASS + 1],
}

impl Blocks {
    /// So many blocks, or as many as pieces can name, all free. Bytes of a block are rounded up so that the smallest piece
    /// is whole.
    #[must_use]
    pub fn new(count: u32, block_bytes: u64) -> Self {
        let count = count.min(MOST_BLOCKS);
        Self {
            block_bytes: block_bytes.next_multiple_of(u64::from(MOST_PIECES)).max(u64::from(MOST_PIECES)),
            budget: count,
            used: 0,
            blocks: (1..=count).map(State::free).collect(),
            free: 0,
            splits: Vec::new(),
            spare: NONE,
            open: [NONE; LAST_CLASS + 1],
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
        self.budget = blocks.min(self.blocks.len() as u32);
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
        match self.class_of(bytes)? {
            0 => self.take_block(State::WHOLE).map(Piece::whole),
            class => self.take_part(class),
        }
    }

    /// Gives a piece back that was taken from here and not given back since; any other changes nothing. One that was
    /// given back, and whose place and size were taken again, is the one that was taken. Returns whether its block is free
    /// now.
    pub fn give_back(&mut self, piece: Piece) -> bool {
        let block = piece.block();
        match self.blocks.get(block as usize) {
            Some(&State::WHOLE) if piece == Piece::whole(block) => {
                self.give_back_block(block);
                true
            }
            Some(state) => state.record().is_some_and(|record| self.give_back_part(record, piece)),
            None => false,
        }
    }

    /// Where a piece begins, in bytes from the first block's beginning.
    #[must_use]
    pub fn offset(&self, piece: Piece) -> u64 {
        u64::from(piece.block()) * self.block_bytes + u64::from(piece.index()) * self.size(piece)
    }

    /// Bytes of a piece.
    #[must_use]
    pub fn size(&self, piece: Piece) -> u64 {
        self.block_bytes >> piece.class()
    }

    /// Pieces that are taken.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.blocks.iter().map(|state| self.pieces_of(*state) as usize).sum()
    }

    /// Pieces that are taken of the block that a piece is in.
    #[cfg(test)]
    fn neighbours(&self, piece: Piece) -> u32 {
        self.blocks.get(piece.block() as usize).map_or(0, |state| self.pieces_of(*state))
    }

    fn pieces_of(&self, state: State) -> u32 {
        match state.record() {
            Some(record) => u32::from(self.splits[record as usize].pieces),
            None => u32::from(state == State::WHOLE),
        }
    }

    /// Takes a free block and says what it is from now on.
    fn take_block(&mut self, state: State) -> Option<u32> {
        if self.used >= self.budget {
            return None;
        }
        let block = self.free;
        let State(next) = std::mem::replace(self.blocks.get_mut(block as usize)?, state);
        self.free = next;
        self.used += 1;
        Some(block)
    }

    fn give_back_block(&mut self, block: u32) {
        self.blocks[block as usize] = State::free(self.free);
        self.free = block;
        self.used -= 1;
    }

    fn take_part(&mut self, class: u8) -> Option<Piece> {
        let record = match self.open[usize::from(class)] {
            NONE => self.split_block(class)?,
            open => open,
        };
        let split = &mut self.splits[record as usize];
        let piece = split.take()?;
        if split.is_full() {
            self.unlink(record);
        }
        Some(piece)
    }

    fn give_back_part(&mut self, record: u32, piece: Piece) -> bool {
        let split = &mut self.splits[record as usize];
        let was_full = split.is_full();
        if !split.give_back(piece) {
            return false;
        }
        // A full one has two pieces at least, and is in no list.
        if was_full {
            self.link(record);
            return false;
        }
        let is_free = split.pieces == 0;
        if is_free {
            self.unlink(record);
            self.splits[record as usize].after = std::mem::replace(&mut self.spare, record);
            self.give_back_block(piece.block());
        }
        is_free
    }

    /// Splits a free block into a class's pieces.
    fn split_block(&mut self, class: u8) -> Option<u32> {
        // As many records as blocks at most, so their numbers are as small.
        let record = if self.spare == NONE { self.splits.len() as u32 } else { self.spare };
        let split = Split::new(self.take_block(State::split(record))?, class);
        match self.splits.get_mut(record as usize) {
            Some(spare) => self.spare = std::mem::replace(spare, split).after,
            None => self.splits.push(split),
        }
        self.link(record);
        Some(record)
    }

    /// Makes a record the first of its class.
    fn link(&mut self, record: u32) {
        let split = &mut self.splits[record as usize];
        let first = std::mem::replace(&mut self.open[usize::from(split.class)], record);
        (split.before, split.after) = (NONE, first);
        if let Some(first) = self.splits.get_mut(first as usize) {
            first.before = record;
        }
    }

    fn unlink(&mut self, record: u32) {
        let Split { before, after, class, .. } = self.splits[record as usize];
        match self.splits.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => self.open[usize::from(class)] = after,
        }
        if let Some(after) = self.splits.get_mut(after as usize) {
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
        assert!(!blocks.give_back(other) && !blocks.give_back(Piece::part(7, 1, 0)));
        assert!(!blocks.give_back(Piece::part(0, 1, 1)) && blocks.held_bytes() == BLOCK);
        assert!(blocks.give_back(piece) && !blocks.give_back(piece));
        assert!(blocks.take(BLOCK).is_some() && !blocks.give_back(piece), "now it is whole");
        assert!(Blocks::new(0, BLOCK).take(1).is_none());
    }

    #[test]
    fn a_block_that_is_not_split_costs_four_bytes_and_records_are_used_again() {
        let mut blocks = Blocks::new(3, BLOCK);
        let whole = [(); 3].map(|()| blocks.take(BLOCK).unwrap());
        assert_eq!((size_of_val(&*blocks.blocks), blocks.splits.capacity()), (3 * 4, 0));
        assert_eq!(size_of::<Split>(), 48);
        whole.into_iter().for_each(|piece| assert!(blocks.give_back(piece)));
        for bytes in [BLOCK / 2, BLOCK / 4, BLOCK / 256] {
            let [first, second] = [(); 2].map(|()| blocks.take(bytes).unwrap());
            assert!(!blocks.give_back(second) && blocks.give_back(first));
        }
        assert_eq!(blocks.splits.len(), 1);
    }

    #[test]
    fn there_are_no_more_blocks_than_pieces_can_name() {
        let mut blocks = Blocks::new(u32::MAX, 1);
        let bytes = blocks.block_bytes();
        assert_eq!(blocks.budget_bytes(), u64::from(MOST_BLOCKS) * bytes);
        let last = std::iter::from_fn(|| blocks.take(bytes)).last().unwrap();
        assert_eq!(blocks.offset(last), blocks.budget_bytes() - bytes);
        assert_eq!(blocks.held_bytes(), blocks.budget_bytes());
        assert!(!blocks.give_back(Piece::NONE) && blocks.give_back(last));
        // The last name that there is.
        assert_ne!(Piece::part(MOST_BLOCKS - 1, LAST_CLASS as u8, MOST_PIECES - 1), Piece::NONE);
    }

    /// What happens to blocks.
    #[derive(Debug, Clone)]
    enum Event {
        Take(u64),
        /// One of those that are taken.
        GiveBack(prop::sample::Index),
        /// One of those that were ever taken.
        Again(prop::sample::Index),
        Forged(Piece),
        Budget(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        // Of blocks that there are and of all that can be named.
        let name = prop_oneof![0_u32..8 << NUMBER_BITS, any::<u32>()];
        prop_oneof![
            // Small pieces as often as large ones.
            8 => (0..=BLOCK + 99).prop_map(|bytes| Event::Take(bytes >> (bytes % 9))),
            4 => any::<prop::sample::Index>().prop_map(Event::GiveBack),
            2 => any::<prop::sample::Index>().prop_map(Event::Again),
            1 => name.prop_map(|name| Event::Forged(Piece(name))),
            1 => (0..8 * BLOCK).prop_map(Event::Budget),
        ]
    }

    /// A list of what is taken, all that is needed to say how blocks answer.
    #[derive(Default)]
    struct Model {
        taken: Vec<(Piece, u64)>,
        budget: u64,
    }

    impl Model {
        fn neighbours(&self, piece: Piece) -> usize {
            self.taken.iter().filter(|(other, _)| other.block() == piece.block()).count()
        }

        fn held(&self) -> u64 {
            let mut held: Vec<u32> = self.taken.iter().map(|(piece, _)| piece.block()).collect();
            held.sort_unstable();
            held.dedup();
            held.len() as u64
        }

        /// Whether a block is held that has room for another piece of `size` bytes.
        fn has_room(&self, blocks: &Blocks, size: u64) -> bool {
            let mut pieces = self.taken.iter().map(|(piece, _)| *piece);
            pieces.any(|p| blocks.size(p) == size && (self.neighbours(p) as u64) < BLOCK / size)
        }

        fn take(&mut self, blocks: &mut Blocks, bytes: u64) -> Result<(), TestCaseError> {
            let room = blocks.piece_bytes(bytes).map(|size| self.has_room(blocks, size));
            let fits = room.is_some_and(|room| room || self.held() < self.budget);
            let held = self.held() + u64::from(fits && room == Some(false));
            let piece = blocks.take(bytes);
            prop_assert_eq!(piece.is_some(), fits);
            self.taken.extend(piece.map(|piece| (piece, bytes)));
            prop_assert_eq!(self.held(), held);
            Ok(())
        }

        fn give_back(&mut self, blocks: &mut Blocks, piece: Piece) -> Result<(), TestCaseError> {
            let taken = self.taken.iter().position(|(other, _)| *other == piece);
            let alone = taken.is_some() && self.neighbours(piece) == 1;
            taken.map(|taken| self.taken.swap_remove(taken));
            prop_assert_eq!(blocks.give_back(piece), alone);
            Ok(())
        }

        /// No two pieces overlap; whole blocks are held and no more.
        fn check(&self, blocks: &Blocks) -> Result<(), TestCaseError> {
            let range = |&(piece, bytes)| (blocks.offset(piece), blocks.offset(piece) + bytes);
            let mut ranges: Vec<_> = self.taken.iter().map(range).collect();
            ranges.sort_unstable();
            prop_assert!(ranges.windows(2).all(|w| w[0].1 <= w[1].0));
            prop_assert!(ranges.last().is_none_or(|(_, end)| *end <= 6 * BLOCK));
            prop_assert!(
                self.taken.iter().all(|(p, bytes)| blocks.piece_bytes(*bytes) == Some(blocks.size(*p)))
            );
            prop_assert!(
                self.taken.iter().all(|(p, _)| blocks.neighbours(*p) as usize == self.neighbours(*p))
            );
            prop_assert_eq!(blocks.pieces(), self.taken.len());
            prop_assert_eq!(blocks.held_bytes(), self.held() * BLOCK);
            prop_assert_eq!(blocks.budget_bytes(), self.budget * BLOCK);
            prop_assert_eq!(blocks.excess_bytes(), self.held().saturating_sub(self.budget) * BLOCK);
            Ok(())
        }
    }

    proptest! {
        /// Against a list of what is taken, whatever is given back twice or was never taken and however the budget
        /// changes; all of it comes back.
        #[test]
        fn pieces_never_overlap_and_none_is_lost(events in prop::collection::vec(event(), 1..300)) {
            let mut blocks = Blocks::new(6, BLOCK);
            let mut model = Model { budget: 6, ..Model::default() };
            let mut ever = Vec::new();
            for event in events {
                match event {
                    Event::Take(bytes) => {
                        model.take(&mut blocks, bytes)?;
                        ever.extend(model.taken.last().map(|(piece, _)| *piece));
                    }
                    Event::GiveBack(which) if !model.taken.is_empty() => {
                        let (piece, _) = *which.get(&model.taken);
                        model.give_back(&mut blocks, piece)?;
                    }
                    Event::Again(which) if !ever.is_empty() => {
                        model.give_back(&mut blocks, *which.get(&ever))?;
                    }
                    Event::GiveBack(_) | Event::Again(_) => {}
                    Event::Forged(piece) => {
                        let _ = (blocks.offset(piece), blocks.size(piece), blocks.neighbours(piece));
                        model.give_back(&mut blocks, piece)?;
                    }
                    Event::Budget(bytes) => {
                        model.budget = (bytes / BLOCK).min(6);
                        blocks.set_budget(bytes);
                    }
                }
                model.check(&blocks)?;
            }
            for (piece, _) in std::mem::take(&mut model.taken) {
                blocks.give_back(piece);
            }
            model.check(&blocks)?;
            blocks.set_budget(u64::MAX);
            prop_assert!((0..6).all(|_| blocks.take(BLOCK).is_some()) && blocks.take(1).is_none());
            prop_assert!(blocks.splits.len() <= 6);
        }
    }
}
