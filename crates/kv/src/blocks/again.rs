//! Pieces taken again where they were: for what lies in a file that outlives the blocks' bookkeeping.

use super::{Blocks, Piece, Slab, State};

/// A piece's place, for whoever writes it down: what [`Blocks::take_again`] needs to take the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place(pub u64);

impl Place {
    const fn new(piece: Piece, length: u8) -> Self {
        Self((length as u64) << 32 | piece.0 as u64)
    }

    const fn piece(self) -> Piece {
        Piece(self.0 as u32)
    }

    const fn length(self) -> u64 {
        self.0 >> 32
    }
}

impl Blocks {
    /// Where a piece that is taken lies.
    pub fn place(&self, piece: Piece) -> Place {
        Place::new(piece, self.slab_of(piece).map_or(0, |slab| slab.length))
    }

    /// Takes a piece of so many bytes where one was before; `None` if something else lies there now, there is no such place
    /// for so many, or more than the budget would be held.
    pub fn take_again(&mut self, place: Place, bytes: u64) -> Option<Piece> {
        if bytes > self.block_bytes {
            return None;
        }
        let (piece, length) = (place.piece(), u8::try_from(place.length()).ok()?);
        let block = piece.block();
        match (self.units_of(bytes), piece.index()) {
            (None, None) if length == 0 => {
                self.take_blocks_at(block, 0, State::WHOLE)?;
                Some(piece)
            }
            (Some(units), Some(index)) => {
                // One that no size would have been divided into was never taken.
                let is_possible = self.lengths(units).any(|own| own == length);
                if !is_possible || index >= self.pieces_in(units, length) {
                    return None;
                }
                let record = match self.blocks.get(block as usize)?.record() {
                    Some(record) => record,
                    None => self.new_slab_at(block, units, length)?,
                };
                let slab = self.slabs.get(record as usize)?;
                let is_same = (slab.units, slab.length) == (units, length);
                (is_same && self.take_part_at(record, index)).then_some(piece)
            }
            _ => None,
        }
    }

    fn take_blocks_at(&mut self, block: u32, length: u8, state: State) -> Option<()> {
        if self.budget.saturating_sub(self.used) < 1 << length {
            return None;
        }
        let blocks = self.blocks.get_mut(block as usize..(block as usize).checked_add(1 << length)?)?;
        if blocks.iter().any(|block| *block != State::FREE) || !self.free.take_at(block, length) {
            return None;
        }
        blocks.fill(State::WITHIN);
        blocks[0] = state;
        self.used += 1 << length;
        Some(())
    }

    fn new_slab_at(&mut self, block: u32, units: u8, length: u8) -> Option<u32> {
        let record = self.next_record();
        self.take_blocks_at(block, length, State::slab(record))?;
        self.put_slab(record, Slab::new(block, units, length, self.pieces_in(units, length)));
        Some(record)
    }

    /// Takes a piece of a slab that has so many, if it is free.
    fn take_part_at(&mut self, record: u32, index: u32) -> bool {
        let slab = &mut self.slabs[record as usize];
        let mask = 1_u64 << (index % 64);
        let word = &mut slab.taken[index as usize / 64];
        if *word & mask != 0 {
            return false;
        }
        *word |= mask;
        slab.pieces += 1;
        if slab.is_full() {
            self.unlink(record);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: u64 = 16 << 10;
    const COUNT: u32 = 600;

    #[test]
    fn what_lies_there_is_not_taken_over() {
        let mut blocks = Blocks::new(4, BLOCK);
        let [whole, part] = [BLOCK, BLOCK / 8].map(|bytes| blocks.take(bytes).unwrap());
        let [at_whole, at_part] = [whole, part].map(|piece| blocks.place(piece));
        let before = blocks.held_bytes();
        assert_eq!(blocks.take_again(at_whole, BLOCK), None);
        assert_eq!(blocks.take_again(at_part, BLOCK / 8), None);
        blocks.give_back(part);
        // In other sizes than they had.
        assert_eq!(blocks.take_again(at_whole, 16), None);
        assert_eq!(blocks.take_again(at_part, BLOCK), None);
        let whole_again = blocks.take_again(at_part, BLOCK / 8);
        assert_eq!((whole_again, blocks.held_bytes()), (Some(part), before));
        blocks.set_budget(before);
        let mut other = Blocks::new(4, BLOCK);
        other.set_budget(0);
        assert_eq!(other.take_again(at_whole, BLOCK), None, "beyond the budget");
    }

    #[test]
    fn no_place_that_was_written_down_wrong_does_harm() {
        for place in [0, 1, 2, 255, 256, 511, 512, u64::MAX, 1 << 32, 3 << 32 | 1, 200 << 32 | 1] {
            for bytes in [0, 16, BLOCK / 2 + 9, BLOCK, BLOCK + 1, u64::MAX] {
                let mut blocks = Blocks::new(2, BLOCK);
                let held = blocks.take_again(Place(place), bytes).map(|piece| {
                    assert!(blocks.offset(piece) + bytes <= 2 * BLOCK, "{place} {bytes}");
                    blocks.give_back(piece)
                });
                assert_eq!((held.unwrap_or(true), blocks.held_bytes()), (true, 0), "{place} {bytes}");
            }
        }
    }

    proptest! {
        #[test]
        fn all_that_was_taken_is_taken_again_where_it_was(
            sizes in prop::collection::vec((0..=BLOCK, any::<bool>(), any::<u32>()), 1..200),
        ) {
            let mut blocks = Blocks::new(COUNT, BLOCK);
            let mut taken: Vec<(u32, Piece, u64)> = Vec::new();
            for (bytes, goes, order) in sizes {
                let bytes = bytes >> (bytes % 9);
                taken.extend(blocks.take(bytes).map(|piece| (order, piece, bytes)));
                if goes {
                    let (_, piece, _) = taken.remove(order as usize % taken.len());
                    blocks.give_back(piece);
                }
            }
            taken.sort_unstable_by_key(|(order, ..)| *order);
            let mut again = Blocks::new(COUNT, BLOCK);
            for &(_, piece, bytes) in &taken {
                prop_assert_eq!(again.take_again(blocks.place(piece), bytes), Some(piece));
                prop_assert_eq!((again.offset(piece), again.size(piece)), (blocks.offset(piece), blocks.size(piece)));
            }
            prop_assert_eq!((again.held_bytes(), again.pieces()), (blocks.held_bytes(), blocks.pieces()));
            taken.iter().for_each(|(_, piece, _)| _ = again.give_back(*piece));
            prop_assert_eq!(again.held_bytes(), 0);
            prop_assert!((0..COUNT).all(|_| again.take(BLOCK).is_some()));
        }
    }
}
