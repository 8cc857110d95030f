//! Memory in blocks of one size, which pages of any codec and the rank-slabs of adapters share. A block is one piece, or
//! it is in a *slab*: a few blocks in a row that are divided into pieces of one size, and return whole when the last piece
//! does. Knows nothing of what is in a piece.
//!
//! The blocks of ELORA (arXiv 2505.03756, §4.1), with sizes below them: a low-rank page of some hundred bytes does not hold
//! a block of 16 KiB. Sizes are not powers of two, since with its scales a page of 8 bits is a little more than half of one
//! in f16 and would take all of its block; and a slab is several blocks where that many hold more: 15 such pages in 8.
//!
//! A block costs four bytes and a bit, and a piece's name four more. A slab has a record of 48 bytes besides, for all its
//! pieces. Records are used again, so it allocates only while there are more slabs than ever were at once.

mod again;
mod free;

pub use again::Place;
use free::FreeBlocks;

/// Pieces of a slab at most, and sizes that there are.
const MOST_PIECES: u32 = 256;

/// Blocks of a slab at most, as a power of two.
const LONGEST_SLAB: u8 = 3;

/// And the part of all blocks that a slab is at most: it may hold a single piece.
const LARGEST_PART: u32 = 64;

/// Pieces begin at multiples of so many bytes, so that kernels can load from them.
const ALIGNMENT: u64 = 16;

/// A slab is no longer than it must be to waste less than this part of itself, if any length does.
const LEAST_WASTE: u64 = 16;

/// Bits of a piece's name that say which of its slab it is, or that it is a whole block.
const NUMBER_BITS: u32 = MOST_PIECES.ilog2() + 1;

/// Blocks that there are at most, so that all other bits name one, and all of them set name none.
const MOST_BLOCKS: u32 = u32::MAX >> NUMBER_BITS;

/// No record of a slab: a number behind the last.
const NONE: u32 = MOST_BLOCKS;

/// A piece of a slab, or a whole block. Above `NUMBER_BITS` the block, or the slab's first one; in them 0 for a whole
/// block, else the piece's number in the slab, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Piece(u32);

impl Piece {
    /// None.
    pub(crate) const NONE: Self = Self(u32::MAX);

    const fn whole(block: u32) -> Self {
        Self(block << NUMBER_BITS)
    }

    const fn part(block: u32, index: u32) -> Self {
        Self(block << NUMBER_BITS | (1 + index))
    }

    const fn block(self) -> u32 {
        self.0 >> NUMBER_BITS
    }

    /// Which of its slab it is; `None` for a whole block.
    const fn index(self) -> Option<u32> {
        (self.0 & ((1 << NUMBER_BITS) - 1)).checked_sub(1)
    }
}

/// What a block is: free; taken whole; the first of a slab, and then where its record is; or another one of a slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State(u32);

impl State {
    const FREE: Self = Self(u32::MAX);
    const WHOLE: Self = Self(u32::MAX - 1);
    const WITHIN: Self = Self(u32::MAX - 2);

    /// Numbers of records are smaller than those of blocks.
    const fn slab(record: u32) -> Self {
        Self(record)
    }

    /// The record of the slab that begins here.
    fn record(self) -> Option<u32> {
        (self.0 < NONE).then_some(self.0)
    }
}

/// The record of a slab.
#[derive(Debug, Clone, Copy)]
struct Slab {
    /// Which pieces are taken, a bit each.
    taken: [u64; (MOST_PIECES / 64) as usize],
    block: u32,
    /// Neighbours in the list of the slabs of its size that have a free piece. Of records that are not in use, the next.
    before: u32,
    after: u32,
    pieces: u16,
    /// Units of a piece.
    units: u8,
    /// Blocks, as a power of two.
    length: u8,
}

impl Slab {
    fn new(block: u32, units: u8, length: u8, pieces: u32) -> Self {
        // Bits behind the last piece count as taken.
        let mut taken = [u64::MAX; (MOST_PIECES / 64) as usize];
        for (word, first) in taken.iter_mut().zip((0..pieces).step_by(64)) {
            *word = u64::MAX.checked_shl(pieces - first).unwrap_or(0);
        }
        Self { taken, block, before: NONE, after: NONE, pieces: 0, units, length }
    }

    fn is_full(&self) -> bool {
        self.taken.iter().all(|word| *word == u64::MAX)
    }

    /// Takes the first free piece.
    fn take(&mut self) -> Option<Piece> {
        let (at, word) = self.taken.iter_mut().enumerate().find(|(_, word)| **word != u64::MAX)?;
        let bit = word.trailing_ones();
        *word |= 1 << bit;
        self.pieces += 1;
        Some(Piece::part(self.block, at as u32 * 64 + bit))
    }

    /// Gives a piece back that is one of `pieces`, and says whether it was taken.
    fn give_back(&mut self, index: u32, pieces: u32) -> bool {
        let (at, mask) = (index / 64, 1_u64 << (index % 64));
        let word = self.taken.get_mut(at as usize).filter(|word| index < pieces && **word & mask != 0);
        let Some(word) = word else { return false };
        *word &= !mask;
        self.pieces -= 1;
        true
    }
}

/// Blocks of one tier, or of one layer's part of it.
#[derive(Debug, Clone)]
pub struct Blocks {
    block_bytes: u64,
    /// Sizes are multiples of it.
    unit: u64,
    /// Blocks that may be in use.
    budget: u32,
    used: u32,
    blocks: Vec<State>,
    free: FreeBlocks,
    slabs: Vec<Slab>,
    /// The first record that is not in use.
    spare: u32,
    /// By size, the first slab that has a free piece.
    open: [u32; MOST_PIECES as usize],
}

impl Blocks {
    /// So many blocks, or as many as pieces can name, all free.
    #[must_use]
    pub fn new(count: u32, block_bytes: u64) -> Self {
        let count = count.min(MOST_BLOCKS);
        let block_bytes = block_bytes.max(1);
        let unit = block_bytes.div_ceil(u64::from(MOST_PIECES)).next_multiple_of(ALIGNMENT);
        Self {
            block_bytes,
            unit: unit.min(block_bytes),
            budget: count,
            used: 0,
            blocks: vec![State::FREE; count as usize],
            free: FreeBlocks::new(count),
            slabs: Vec::new(),
            spare: NONE,
            open: [NONE; MOST_PIECES as usize],
        }
    }

    /// Bytes of a block: the most that one piece can have.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// Bytes of the longest slab: so many may be held for one piece.
    #[must_use]
    pub fn slab_bytes(&self) -> u64 {
        self.block_bytes << LONGEST_SLAB
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

    /// Bytes that a piece of `bytes` takes; `None` for more than a block.
    #[must_use]
    pub fn piece_bytes(&self, bytes: u64) -> Option<u64> {
        let units = self.units_of(bytes);
        (bytes <= self.block_bytes)
            .then(|| units.map_or(self.block_bytes, |units| u64::from(units) * self.unit))
    }

    /// Units of a piece of so many bytes; `None` where it takes a block of its own.
    fn units_of(&self, bytes: u64) -> Option<u8> {
        let units = bytes.div_ceil(self.unit).max(1);
        // Of what is left of a block beside it another piece must have room, at least in the longest slab.
        let fits = (self.block_bytes << LONGEST_SLAB) / (units * self.unit) > 1 << LONGEST_SLAB;
        u8::try_from(units).ok().filter(|_| fits)
    }

    /// Takes a piece of at least so many bytes: of a slab of its size that has one, so that few blocks are held.
    /// `None` if that would hold more than the budget, or for more bytes than a block has.
    pub fn take(&mut self, bytes: u64) -> Option<Piece> {
        match self.units_of(bytes) {
            _ if bytes > self.block_bytes => None,
            None => self.take_block(0, State::WHOLE).map(Piece::whole),
            Some(units) => self.take_part(units),
        }
    }

    /// Gives a piece back that was taken from here and not given back since; any other changes nothing. One that was
    /// given back, and whose place and size were taken again, is the one that was taken. Returns whether its blocks are
    /// free now.
    pub fn give_back(&mut self, piece: Piece) -> bool {
        let block = piece.block();
        match (self.blocks.get(block as usize), piece.index()) {
            (Some(&State::WHOLE), None) => {
                self.give_back_blocks(block, 0);
                true
            }
            (Some(state), Some(index)) => {
                state.record().is_some_and(|record| self.give_back_part(record, index))
            }
            _ => false,
        }
    }

    /// Where a piece begins, in bytes from the first block's beginning.
    #[must_use]
    pub fn offset(&self, piece: Piece) -> u64 {
        let index = u64::from(piece.index().unwrap_or(0));
        u64::from(piece.block()) * self.block_bytes + index * self.size(piece)
    }

    /// Bytes of a piece; 0 of one that is in no slab.
    #[must_use]
    pub fn size(&self, piece: Piece) -> u64 {
        match piece.index() {
            None => self.block_bytes,
            Some(_) => self.slab_of(piece).map_or(0, |slab| u64::from(slab.units) * self.unit),
        }
    }

    fn slab_of(&self, piece: Piece) -> Option<&Slab> {
        let state = self.blocks.get(piece.block() as usize)?;
        self.slabs.get(state.record()? as usize)
    }

    /// Pieces that are taken.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.blocks.iter().map(|state| self.pieces_of(*state) as usize).sum()
    }

    /// Pieces that are taken of the slab that a piece is in.
    #[cfg(test)]
    fn neighbours(&self, piece: Piece) -> u32 {
        self.blocks.get(piece.block() as usize).map_or(0, |state| self.pieces_of(*state))
    }

    fn pieces_of(&self, state: State) -> u32 {
        match state.record() {
            Some(record) => u32::from(self.slabs[record as usize].pieces),
            None => u32::from(state == State::WHOLE),
        }
    }

    /// Takes free blocks in a row, 2ˡᵉⁿᵍᵗʰ of them, and says what the first is from now on.
    fn take_block(&mut self, length: u8, state: State) -> Option<u32> {
        if self.budget.saturating_sub(self.used) < 1 << length {
            return None;
        }
        let block = self.free.take(length)?;
        let blocks = &mut self.blocks[block as usize..][..1 << length];
        blocks.fill(State::WITHIN);
        blocks[0] = state;
        self.used += 1 << length;
        Some(block)
    }

    fn give_back_blocks(&mut self, block: u32, length: u8) {
        self.blocks[block as usize..][..1 << length].fill(State::FREE);
        self.free.give_back(block, length);
        self.used -= 1 << length;
    }

    fn take_part(&mut self, units: u8) -> Option<Piece> {
        let record = match self.open[usize::from(units)] {
            NONE => self.new_slab(units)?,
            open => open,
        };
        let slab = &mut self.slabs[record as usize];
        let piece = slab.take()?;
        if slab.is_full() {
            self.unlink(record);
        }
        Some(piece)
    }

    fn give_back_part(&mut self, record: u32, index: u32) -> bool {
        let Slab { units, length, .. } = self.slabs[record as usize];
        let pieces = self.pieces_in(units, length);
        let slab = &mut self.slabs[record as usize];
        let was_full = slab.is_full();
        if !slab.give_back(index, pieces) {
            return false;
        }
        let (is_free, block) = (slab.pieces == 0, slab.block);
        // A full one is in no list.
        match (was_full, is_free) {
            (true, false) => self.link(record),
            (false, true) => self.unlink(record),
            _ => {}
        }
        if is_free {
            self.slabs[record as usize].after = std::mem::replace(&mut self.spare, record);
            self.give_back_blocks(block, length);
        }
        is_free
    }

    /// Pieces of a slab.
    fn pieces_in(&self, units: u8, length: u8) -> u32 {
        let pieces = (self.block_bytes << length) / (u64::from(units) * self.unit);
        (pieces as u32).min(MOST_PIECES)
    }

    /// Lengths of slabs for a size, the best first: the shortest that wastes little, then shorter ones.
    fn lengths(&self, units: u8) -> impl Iterator<Item = u8> + use<> {
        let waste = |length: u8| {
            let all = self.block_bytes << length;
            // Parts of 2¹⁶, so that slabs of different lengths compare.
            let rest = all - u64::from(self.pieces_in(units, length)) * u64::from(units) * self.unit;
            (rest << 16) / all
        };
        let longest = (self.blocks.len() as u32 / LARGEST_PART).checked_ilog2().unwrap_or(0);
        let mut best = 0;
        for length in 1..=LONGEST_SLAB.min(longest as u8) {
            if waste(best) > (1 << 16) / LEAST_WASTE && waste(length) < waste(best) {
                best = length;
            }
        }
        (0..=best).rev()
    }

    /// Divides free blocks into pieces of a size.
    fn new_slab(&mut self, units: u8) -> Option<u32> {
        let record = self.next_record();
        let mut lengths = self.lengths(units);
        let (block, length) =
            lengths.find_map(|length| Some((self.take_block(length, State::slab(record))?, length)))?;
        self.put_slab(record, Slab::new(block, units, length, self.pieces_in(units, length)));
        Some(record)
    }

    /// The record that the next slab gets: as many as blocks at most, so their numbers are as small.
    fn next_record(&self) -> u32 {
        if self.spare == NONE { self.slabs.len() as u32 } else { self.spare }
    }

    fn put_slab(&mut self, record: u32, slab: Slab) {
        match self.slabs.get_mut(record as usize) {
            Some(spare) => self.spare = std::mem::replace(spare, slab).after,
            None => self.slabs.push(slab),
        }
        self.link(record);
    }

    /// Makes a record the first of its size.
    fn link(&mut self, record: u32) {
        let slab = &mut self.slabs[record as usize];
        let first = std::mem::replace(&mut self.open[usize::from(slab.units)], record);
        (slab.before, slab.after) = (NONE, first);
        if let Some(first) = self.slabs.get_mut(first as usize) {
            first.before = record;
        }
    }

    fn unlink(&mut self, record: u32) {
        let Slab { before, after, units, .. } = self.slabs[record as usize];
        match self.slabs.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => self.open[usize::from(units)] = after,
        }
        if let Some(after) = self.slabs.get_mut(after as usize) {
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
        assert_eq!((blocks.piece_bytes(160), blocks.piece_bytes(0)), (Some(192), Some(64)));
        assert_eq!((blocks.piece_bytes(BLOCK), blocks.piece_bytes(BLOCK + 1)), (Some(BLOCK), None));
        let pieces: Vec<_> = (0..85).map(|_| blocks.take(160).unwrap()).collect();
        assert_eq!((blocks.held_bytes(), blocks.neighbours(pieces[5])), (BLOCK, 85));
        assert!(blocks.take(160).is_some() && blocks.held_bytes() == 2 * BLOCK);
        assert!(blocks.take(BLOCK).is_none(), "neither block is whole");
        let freed: Vec<_> = pieces.iter().map(|piece| blocks.give_back(*piece)).collect();
        assert_eq!(freed.iter().position(|freed| *freed), Some(84), "with its last piece");
        assert!(blocks.take(BLOCK).is_some());
    }

    /// A page in 8 bits with its scales is a little more than half of one in f16.
    #[test]
    fn pieces_of_more_than_half_a_block_share_several() {
        let bytes = BLOCK / 2 + BLOCK / 32;
        let mut blocks = Blocks { budget: 20, ..Blocks::new(8 * LARGEST_PART, BLOCK) };
        let pieces: Vec<_> = (0..15).map(|_| blocks.take(bytes).unwrap()).collect();
        assert_eq!((blocks.held_bytes(), blocks.neighbours(pieces[0])), (8 * BLOCK, 15));
        blocks.take(bytes).unwrap();
        assert_eq!(blocks.held_bytes(), 16 * BLOCK);
        // Where there are not as many blocks, fewer in a row do.
        let other = Blocks { budget: 18, ..blocks.clone() }.take(bytes - BLOCK / 256).unwrap();
        let mut left = Blocks { budget: 17, ..blocks.clone() };
        let last = left.take(bytes - BLOCK / 256).unwrap();
        assert_eq!((other, left.held_bytes(), left.neighbours(last)), (last, 17 * BLOCK, 1));
        assert!(left.take(bytes - BLOCK / 256).is_none());
        // Of so much that no two are in fewer blocks than each has for itself, none shares.
        assert_eq!(blocks.piece_bytes(BLOCK - BLOCK / 64), Some(BLOCK));
        pieces.into_iter().for_each(|piece| _ = blocks.give_back(piece));
        assert_eq!(blocks.held_bytes(), 8 * BLOCK);
        // One piece is not to hold a large part of all there are.
        let mut few = Blocks::new(20, BLOCK);
        few.take(bytes).unwrap();
        assert_eq!(few.held_bytes(), BLOCK);
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
        assert!(!blocks.give_back(other) && !blocks.give_back(Piece::part(7, 0)));
        assert!(
            !blocks.give_back(Piece::part(0, 1))
                && !blocks.give_back(Piece::part(0, 2))
                && blocks.held_bytes() == BLOCK
        );
        assert!(blocks.give_back(piece) && !blocks.give_back(piece));
        assert!(blocks.take(BLOCK).is_some() && !blocks.give_back(piece), "now it is whole");
        assert!(Blocks::new(0, BLOCK).take(1).is_none());
    }

    #[test]
    fn a_whole_block_costs_four_bytes_and_a_bit_and_records_are_used_again() {
        let mut blocks = Blocks::new(3, BLOCK);
        let whole = [(); 3].map(|()| blocks.take(BLOCK).unwrap());
        assert_eq!((size_of_val(&*blocks.blocks), blocks.slabs.capacity()), (3 * 4, 0));
        assert_eq!(size_of::<Slab>(), 48);
        whole.into_iter().for_each(|piece| assert!(blocks.give_back(piece)));
        for bytes in [BLOCK / 2, BLOCK / 4, BLOCK / 256] {
            let [first, second] = [(); 2].map(|()| blocks.take(bytes).unwrap());
            assert!(!blocks.give_back(second) && blocks.give_back(first));
        }
        assert_eq!(blocks.slabs.len(), 1);
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
        assert_ne!(Piece::part(MOST_BLOCKS - 1, MOST_PIECES - 1), Piece::NONE);
    }

    /// Enough for long slabs.
    const COUNT: u32 = 8 * LARGEST_PART;

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
        let name = prop_oneof![0_u32..64 << NUMBER_BITS, any::<u32>()];
        prop_oneof![
            // Small pieces as often as large ones.
            8 => (0..=BLOCK + 99).prop_map(|bytes| Event::Take(bytes >> (bytes % 9))),
            4 => any::<prop::sample::Index>().prop_map(Event::GiveBack),
            2 => any::<prop::sample::Index>().prop_map(Event::Again),
            1 => name.prop_map(|name| Event::Forged(Piece(name))),
            1 => (0..=COUNT).prop_map(|blocks| Event::Budget(u64::from(blocks >> (blocks % 7)) * BLOCK + 9)),
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

        /// Blocks that are held: those of every slab that a piece is in.
        fn held(&self, blocks: &Blocks) -> u64 {
            let mut firsts: Vec<Piece> = self.taken.iter().map(|(piece, _)| *piece).collect();
            firsts.sort_unstable_by_key(|piece| piece.block());
            firsts.dedup_by_key(|piece| piece.block());
            firsts.into_iter().map(|piece| 1 << blocks.slab_of(piece).map_or(0, |slab| slab.length)).sum()
        }

        /// Whether a slab is held that has room for another piece of `size` bytes.
        fn has_room(&self, blocks: &Blocks, size: u64) -> bool {
            let mut pieces = self.taken.iter().map(|(piece, _)| *piece);
            pieces.any(|p| {
                let slab = blocks.slab_of(p).filter(|_| blocks.size(p) == size);
                slab.is_some_and(|slab| {
                    (self.neighbours(p) as u64) < ((BLOCK << slab.length) / size).min(MOST_PIECES.into())
                })
            })
        }

        fn take(&mut self, blocks: &mut Blocks, bytes: u64) -> Result<(), TestCaseError> {
            let room = blocks.piece_bytes(bytes).map(|size| self.has_room(blocks, size));
            let before = self.held(blocks);
            let fits = room.is_some_and(|room| room || before < self.budget);
            let piece = blocks.take(bytes);
            prop_assert_eq!(piece.is_some(), fits);
            self.taken.extend(piece.map(|piece| (piece, bytes)));
            // More blocks only where no slab had room, and within the budget.
            let held = self.held(blocks);
            prop_assert_eq!(held > before, fits && room == Some(false));
            prop_assert!(held == before || held <= self.budget);
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
            prop_assert!(ranges.last().is_none_or(|(_, end)| *end <= u64::from(COUNT) * BLOCK));
            prop_assert!(
                self.taken.iter().all(|(p, bytes)| blocks.piece_bytes(*bytes) == Some(blocks.size(*p)))
            );
            prop_assert!(
                self.taken.iter().all(|(p, _)| blocks.neighbours(*p) as usize == self.neighbours(*p))
            );
            prop_assert_eq!(blocks.pieces(), self.taken.len());
            prop_assert_eq!(blocks.held_bytes(), self.held(blocks) * BLOCK);
            prop_assert_eq!(blocks.budget_bytes(), self.budget * BLOCK);
            prop_assert_eq!(blocks.excess_bytes(), self.held(blocks).saturating_sub(self.budget) * BLOCK);
            Ok(())
        }
    }

    proptest! {
        /// Against a list of what is taken, whatever is given back twice or was never taken and however the budget
        /// changes; all of it comes back.
        #[test]
        fn pieces_never_overlap_and_none_is_lost(events in prop::collection::vec(event(), 1..300)) {
            let mut blocks = Blocks::new(COUNT, BLOCK);
            let mut model = Model { budget: COUNT.into(), ..Model::default() };
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
                        model.budget = (bytes / BLOCK).min(COUNT.into());
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
            prop_assert!((0..COUNT).all(|_| blocks.take(BLOCK).is_some()) && blocks.take(1).is_none());
            prop_assert!(blocks.slabs.len() <= COUNT as usize);
        }
    }
}
