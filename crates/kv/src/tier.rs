//! One tier of memory: blocks, in a stripe for each layer or in one for all, and the lists of pieces that chunks hold of
//! them. Knows nothing of what is in them.

use std::ops::Range;

use crate::blocks::{Blocks, Piece, Place};
use crate::form::Layers;
use crate::node::NONE;

/// How a tier is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierConfig {
    /// Whether each layer has blocks of its own, of one layer's K and V each, as kernels need that bind one layer's
    /// pages, and as a file wants from which one layer of many chunks is read at once; else a block is of all layers, and a
    /// chunk is one piece.
    pub striped: bool,
    /// Chunks of full precision that fit; no more than 2²³ − 1 are used.
    pub chunks: u32,
}

/// A tier.
#[derive(Debug)]
pub struct Tier {
    stripes: Vec<Blocks>,
    striped: bool,
    /// Lists of as many pieces as there are stripes, one after the other.
    lists: Vec<Piece>,
    free: Vec<u32>,
    /// Lists that were given back, if anybody wants to know.
    given_back: Option<Vec<u32>>,
}

impl Tier {
    pub fn new(config: TierConfig, layers: usize, page_bytes: u64) -> Self {
        let (stripes, block) = match config.striped {
            true => (layers, page_bytes),
            false => (1, page_bytes * layers as u64),
        };
        let stripes = vec![Blocks::new(config.chunks, block); stripes];
        let (lists, free) = (Vec::new(), Vec::new());
        Self { stripes, striped: config.striped, lists, free, given_back: None }
    }

    pub const fn is_striped(&self) -> bool {
        self.striped
    }

    /// Bytes held, rounding included.
    pub fn held_bytes(&self) -> u64 {
        self.stripes.iter().map(Blocks::held_bytes).sum()
    }

    /// Bytes that may be held.
    pub fn budget_bytes(&self) -> u64 {
        self.stripes.iter().map(Blocks::budget_bytes).sum()
    }

    /// Bytes held beyond the budget, after that was cut.
    pub fn excess_bytes(&self) -> u64 {
        self.stripes.iter().map(Blocks::excess_bytes).sum()
    }

    /// Divides `bytes` evenly among the stripes.
    pub fn set_budget(&mut self, bytes: u64) {
        let each = bytes / self.stripes.len().max(1) as u64;
        self.stripes.iter_mut().for_each(|stripe| stripe.set_budget(each));
    }

    /// Chunks of full precision that still fit.
    pub fn free_chunks(&self) -> usize {
        self.stripes.iter().map(free_blocks).min().unwrap_or(0)
    }

    /// Nothing of any stripe is in use, to begin with.
    pub fn nothing_used(&self) -> Used {
        Used(vec![0; self.stripes.len()])
    }

    /// Bytes of the pieces that some layers of a chunk take.
    pub fn chunk_bytes(&self, layers: Range<usize>, stored: &Layers) -> u64 {
        let piece = |bytes| match self.stripes.first() {
            Some(stripe) if bytes > 0 => stripe.piece_bytes(bytes).unwrap_or(bytes),
            _ => 0,
        };
        match (self.striped, stored) {
            (true, Layers::Alike(bytes)) => layers.len() as u64 * piece(*bytes),
            (true, _) => layers.map(|layer| piece(stored.bytes(layer))).sum(),
            (false, _) => piece(stored.sum(layers)),
        }
    }

    /// Takes room for some layers of a chunk: all of it, or `None`.
    pub fn take(&mut self, layers: Range<usize>, stored: &Layers) -> Option<u32> {
        let all = stored.sum(layers.clone());
        let stripes = self.stripes_of(layers);
        let list = self.new_list();
        let start = self.start(list);
        for stripe in stripes {
            let bytes = if self.striped { stored.bytes(stripe) } else { all };
            if bytes == 0 {
                continue;
            }
            match self.stripes[stripe].take(bytes) {
                Some(piece) => self.lists[start + stripe] = piece,
                None => {
                    self.free_list(list);
                    return None;
                }
            }
        }
        Some(list)
    }

    /// Takes room for some layers of a chunk where it was before, each stripe's piece in its place ([`Tier::places`]): all of
    /// it, or `None`.
    pub fn take_again(&mut self, layers: Range<usize>, stored: &Layers, places: &[Place]) -> Option<u32> {
        let all = stored.sum(layers.clone());
        let mut places = places.iter();
        let list = self.new_list();
        let start = self.start(list);
        for stripe in self.stripes_of(layers) {
            let bytes = if self.striped { stored.bytes(stripe) } else { all };
            if bytes == 0 {
                continue;
            }
            match places.next().and_then(|place| self.stripes[stripe].take_again(*place, bytes)) {
                Some(piece) => self.lists[start + stripe] = piece,
                None => {
                    self.free_list(list);
                    return None;
                }
            }
        }
        Some(list)
    }

    /// Where the pieces of a list lie, stripe by stripe.
    pub fn places(&self, list: u32) -> Vec<Place> {
        let pieces = &self.lists[self.start(list)..][..self.stripes.len()];
        let taken = pieces.iter().zip(&self.stripes).filter(|(piece, _)| **piece != Piece::NONE);
        taken.map(|(piece, stripe)| stripe.place(*piece)).collect()
    }

    /// Gives a list back with all it has.
    pub fn give_back(&mut self, list: u32) {
        self.free_list(list);
        if let Some(given_back) = &mut self.given_back {
            given_back.push(list);
        }
    }

    fn free_list(&mut self, list: u32) {
        self.give_back_stripes(list, 0..self.stripes.len());
        self.free.push(list);
    }

    /// Remembers from now on which lists are given back.
    pub fn remember_given_back(&mut self) {
        self.given_back.get_or_insert_default();
    }

    /// Those given back since this was last asked.
    pub fn take_given_back(&mut self) -> Vec<u32> {
        self.given_back.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Gives back what a list has of some layers of a striped tier.
    pub fn give_back_layers(&mut self, list: u32, layers: Range<usize>) {
        if self.striped {
            self.give_back_stripes(list, layers);
        }
    }

    fn give_back_stripes(&mut self, list: u32, stripes: Range<usize>) {
        let start = self.start(list);
        for stripe in stripes {
            let piece = std::mem::replace(&mut self.lists[start + stripe], Piece::NONE);
            if piece != Piece::NONE {
                self.stripes[stripe].give_back(piece);
            }
        }
    }

    /// Moves what a list has of some layers of a striped tier to another list that has nothing of them.
    pub fn hand_over(&mut self, from: u32, to: u32, layers: Range<usize>) {
        let (from, to) = (self.start(from), self.start(to));
        for stripe in layers.filter(|_| self.striped) {
            self.lists[to + stripe] = std::mem::replace(&mut self.lists[from + stripe], Piece::NONE);
        }
    }

    /// A list without pieces.
    pub fn new_list(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            let list = self.lists.len() / self.stripes.len();
            self.lists.resize(self.lists.len() + self.stripes.len(), Piece::NONE);
            u32::try_from(list).unwrap_or(NONE)
        })
    }

    /// What a list has of a layer.
    pub fn piece(&self, list: u32, layer: usize) -> Option<Piece> {
        let stripe = if self.striped { layer } else { 0 };
        self.lists.get(self.start(list) + stripe).copied().filter(|piece| *piece != Piece::NONE)
    }

    /// Where a piece begins, in bytes from the beginning of its layer's stripe.
    pub fn offset(&self, piece: Piece, layer: usize) -> u64 {
        self.stripes[if self.striped { layer } else { 0 }].offset(piece)
    }

    /// Bytes of a piece, rounding included.
    pub fn piece_bytes(&self, piece: Piece, layer: usize) -> u64 {
        self.stripes[if self.striped { layer } else { 0 }].size(piece)
    }

    /// Bytes that may be held for one piece.
    pub fn slab_bytes(&self) -> u64 {
        self.stripes.first().map_or(1, Blocks::slab_bytes)
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> u64 {
        self.stripes.first().map_or(1, Blocks::block_bytes)
    }

    /// Takes room for an adapter, rank row by rank row, as many whole rows of a layer in a block as fit: all of it, or
    /// `None`.
    pub fn take_ranks(&mut self, layers: &[RankRows]) -> Option<Vec<(u16, Piece)>> {
        let whole = layers.iter().map(|rows| rows.whole_blocks(self.block_bytes()));
        let least = whole.fold(0, u64::saturating_add);
        // Whoever makes room asks again and again, and nothing is taken before there can be enough.
        if least.saturating_mul(self.block_bytes()) > self.stripes.iter().map(free_bytes).sum() {
            return None;
        }
        let mut taken = Vec::with_capacity(least as usize + 1);
        for (layer, rows) in layers.iter().enumerate() {
            let stripe = if self.striped { layer } else { 0 };
            for bytes in rows.pieces(self.stripes[stripe].block_bytes()) {
                match self.stripes[stripe].take(bytes) {
                    Some(piece) => taken.push((stripe as u16, piece)),
                    None => {
                        self.give_back_ranks(taken);
                        return None;
                    }
                }
            }
        }
        Some(taken)
    }

    /// Blocks of each stripe that an adapter surely has for itself.
    pub fn whole_blocks(&self, layers: &[RankRows]) -> Vec<usize> {
        let mut blocks = vec![0_usize; self.stripes.len()];
        for (layer, rows) in layers.iter().enumerate() {
            let whole = usize::try_from(rows.whole_blocks(self.block_bytes())).unwrap_or(usize::MAX);
            let blocks = &mut blocks[if self.striped { layer } else { 0 }];
            *blocks = blocks.saturating_add(whole);
        }
        blocks
    }

    /// Gives back what an adapter has.
    pub fn give_back_ranks(&mut self, pieces: Vec<(u16, Piece)>) {
        for (stripe, piece) in pieces {
            self.stripes[usize::from(stripe)].give_back(piece);
        }
    }

    /// Bytes of the pieces that an adapter takes.
    pub fn ranks_bytes(&self, layers: &[RankRows]) -> u64 {
        let Some(stripe) = self.stripes.first() else { return 0 };
        let block = stripe.block_bytes();
        let piece = |bytes| if bytes == 0 { 0 } else { stripe.piece_bytes(bytes).unwrap_or(block) };
        // What does not fit may be of any size, and is not listed.
        layers.iter().fold(0, |sum, rows| sum.saturating_add(rows.bytes(block, piece)))
    }

    /// Bytes of some pieces, for checks.
    pub fn pieces_bytes(&self, pieces: &[(u16, Piece)]) -> u64 {
        pieces.iter().map(|(stripe, piece)| self.stripes[usize::from(*stripe)].size(*piece)).sum()
    }

    /// Bytes of the pieces in a list.
    pub fn list_bytes(&self, list: u32) -> u64 {
        self.bytes_by_stripe(list).sum()
    }

    /// Bytes that a list has of each stripe.
    fn bytes_by_stripe(&self, list: u32) -> impl Iterator<Item = u64> {
        let pieces = &self.lists[self.start(list)..][..self.stripes.len()];
        self.stripes.iter().zip(pieces).map(|(stripe, piece)| match *piece {
            Piece::NONE => 0,
            piece => stripe.size(piece),
        })
    }

    /// Pieces taken in all, for checks.
    pub fn pieces(&self) -> usize {
        self.stripes.iter().map(Blocks::pieces).sum()
    }

    /// Pieces in a list, for checks.
    pub fn pieces_of(&self, list: u32) -> usize {
        let pieces = &self.lists[self.start(list)..][..self.stripes.len()];
        pieces.iter().filter(|piece| **piece != Piece::NONE).count()
    }

    /// Lists that are not free, for checks.
    pub fn lists(&self) -> usize {
        self.lists.len() / self.stripes.len().max(1) - self.free.len()
    }

    fn start(&self, list: u32) -> usize {
        list as usize * self.stripes.len()
    }

    /// The stripes that some layers are in.
    pub fn stripes_of(&self, layers: Range<usize>) -> Range<usize> {
        match self.striped {
            true => layers,
            false => 0..usize::from(!layers.is_empty()),
        }
    }
}

/// Bytes of each stripe that are in use, as those say who use them: where there are several, each counts a part.
#[derive(Debug)]
pub struct Used(Vec<u128>);

impl Used {
    /// Parts are counted in so small fractions of a byte that all of them together are whole again.
    const FRACTIONS: u32 = 20;

    /// What some layers of a chunk take is in use by so many, one of whom counts it.
    pub fn add_layers(&mut self, tier: &Tier, layers: Range<usize>, stored: &Layers, among: u16) {
        let part = |layers: Range<usize>| {
            // Of the largest page, 4 GiB, and the most layers, 255, that is less than 2⁶⁰.
            let all = tier.chunk_bytes(layers, stored) << Self::FRACTIONS;
            u128::from(if among <= 1 { all } else { all / u64::from(among) })
        };
        match (tier.striped, stored) {
            (true, Layers::Alike(_)) => {
                let part = part(0..1);
                self.0[layers].iter_mut().for_each(|used| *used += part);
            }
            (true, _) => layers.for_each(|layer| self.0[layer] += part(layer..layer + 1)),
            (false, _) => self.0[tier.stripes_of(layers.clone())]
                .iter_mut()
                .for_each(|used| *used += part(layers.clone())),
        }
    }

    /// All that a list has is in use.
    pub fn add_list(&mut self, tier: &Tier, list: u32) {
        for (used, bytes) in self.0.iter_mut().zip(tier.bytes_by_stripe(list)) {
            *used += u128::from(bytes) << Self::FRACTIONS;
        }
    }

    /// Some pieces are in use.
    pub fn add_pieces(&mut self, tier: &Tier, pieces: &[(u16, Piece)]) {
        for (stripe, piece) in pieces {
            let bytes = tier.stripes[usize::from(*stripe)].size(*piece);
            self.0[usize::from(*stripe)] += u128::from(bytes) << Self::FRACTIONS;
        }
    }

    /// Blocks of each stripe's budget, at most, beside what is in use.
    pub fn blocks_beside(&self, tier: &Tier) -> Vec<usize> {
        let whole = |used: u128| (used + (1 << (Self::FRACTIONS - 1))) >> Self::FRACTIONS;
        let blocks = |(stripe, used): (&Blocks, &u128)| {
            let each = u128::from(stripe.block_bytes());
            (u128::from(stripe.budget_bytes()) / each).saturating_sub(whole(*used) / each) as usize
        };
        tier.stripes.iter().zip(&self.0).map(blocks).collect()
    }
}

/// Blocks that a stripe may still hold.
fn free_blocks(stripe: &Blocks) -> usize {
    (stripe.budget_bytes().saturating_sub(stripe.held_bytes()) / stripe.block_bytes().max(1)) as usize
}

/// Bytes of whole blocks that may still be taken.
fn free_bytes(stripe: &Blocks) -> u64 {
    stripe.budget_bytes().saturating_sub(stripe.held_bytes())
}

/// What an adapter has of one layer: rows of its factors' rank, each the k-th column of every B and row of every A.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RankRows {
    /// The largest rank of the layer's modules.
    pub rank: u32,
    /// Bytes of one row, of all modules that have that many.
    pub row_bytes: u64,
}

impl RankRows {
    /// How many of the pieces that hold them surely need a block for themselves, being more than half of one: all but the
    /// last, or of rows that are larger than a block each row's last.
    fn whole_blocks(self, block: u64) -> u64 {
        match self.row_bytes {
            0 => 0,
            bytes if bytes > block => u64::from(self.rank).saturating_mul((bytes - 1) / block),
            bytes => u64::from(self.rank) / (block / bytes),
        }
    }

    /// Bytes of the pieces that hold them in blocks of so many bytes, a piece of some bytes taking so many.
    fn bytes(self, block: u64, piece: impl Fn(u64) -> u64) -> u64 {
        let rows = u64::from(self.rank);
        match self.row_bytes {
            0 => 0,
            bytes if bytes > block => {
                let whole = (bytes - 1) / block * block;
                rows.saturating_mul(whole.saturating_add(piece(bytes - whole)))
            }
            bytes => {
                let each = block / bytes;
                rows / each * piece(each * bytes) + piece(rows % each * bytes)
            }
        }
    }

    /// The sizes of the pieces that hold them in blocks of so many bytes: a row that is larger than a block takes several,
    /// rows that are smaller share one, the last block's rest goes to others (ELORA splits along the rank, S-LoRA too).
    fn pieces(self, block: u64) -> impl Iterator<Item = u64> {
        let block = block.max(1);
        let (rows, each) = match self.row_bytes {
            0 => (0, 1),
            bytes => (u64::from(self.rank), (block / bytes).max(1)),
        };
        let groups = (0..rows.div_ceil(each)).map(move |i| (rows - i * each).min(each) * self.row_bytes);
        groups.flat_map(move |bytes| {
            let whole = bytes.saturating_sub(1) / block;
            (0..=whole).map(move |i| if i < whole { block } else { bytes - whole * block })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_rows_fill_blocks_and_are_never_cut_unless_larger_than_one() {
        let pieces = |rank, row_bytes| RankRows { rank, row_bytes }.pieces(1000).collect::<Vec<_>>();
        assert_eq!(pieces(5, 400), [800, 800, 400]);
        assert_eq!(pieces(2, 2300), [1000, 1000, 300, 1000, 1000, 300]);
        assert_eq!((pieces(0, 400), pieces(3, 0), pieces(1, 1000)), (vec![], vec![], vec![1000]));
        let piece = |bytes: u64| bytes.next_multiple_of(100);
        for (rank, row_bytes) in [(5, 400), (2, 2300), (0, 400), (3, 0), (1, 1000), (7, 501), (9, 500)] {
            let least = RankRows { rank, row_bytes }.whole_blocks(1000) as usize;
            let whole = pieces(rank, row_bytes).into_iter().filter(|bytes| *bytes > 500).count();
            assert!(least <= whole && whole <= least + 1, "{rank} rows of {row_bytes} bytes");
            let bytes = RankRows { rank, row_bytes }.bytes(1000, piece);
            assert_eq!(bytes, pieces(rank, row_bytes).into_iter().map(piece).sum::<u64>());
        }
        let endless = RankRows { rank: u32::MAX, row_bytes: u64::MAX };
        assert_eq!(endless.bytes(1000, piece), u64::MAX);
    }

    #[test]
    fn a_chunk_has_all_its_layers_or_none() {
        let mut tier = Tier::new(TierConfig { striped: true, chunks: 2 }, 3, 512);
        let pages = Layers::Alike(512);
        let low = tier.take(0..1, &pages).unwrap();
        let all = tier.take(0..3, &pages).unwrap();
        assert!(tier.take(0..3, &pages).is_none());
        assert_eq!(
            (tier.free_chunks(), tier.held_bytes(), tier.chunk_bytes(0..3, &pages)),
            (0, 4 * 512, 3 * 512)
        );
        let high = tier.take(1..3, &pages).unwrap();
        tier.give_back_layers(all, 1..3);
        assert_eq!((tier.piece(all, 1), tier.pieces_of(all), tier.list_bytes(high)), (None, 1, 1024));
        tier.hand_over(high, all, 1..3);
        assert_eq!((tier.pieces_of(high), tier.pieces_of(all)), (0, 3));
        [low, all, high].into_iter().for_each(|list| tier.give_back(list));
        assert_eq!((tier.held_bytes(), tier.pieces(), tier.lists()), (0, 0, 0));
    }

    #[test]
    fn adapters_take_blocks_that_chunks_then_do_not_have() {
        let mut tier = Tier::new(TierConfig { striped: true, chunks: 4 }, 2, 1024);
        let rows = |rank| RankRows { rank, row_bytes: 512 };
        let adapter = tier.take_ranks(&[rows(4), rows(3)]).unwrap();
        assert_eq!(tier.pieces_bytes(&adapter), tier.ranks_bytes(&[rows(4), rows(3)]));
        assert_eq!((tier.pieces_bytes(&adapter), tier.free_chunks()), (3 * 1024 + 512, 2));
        assert!(tier.take_ranks(&[rows(4), rows(6)]).is_none());
        assert_eq!(tier.held_bytes(), 4 * 1024, "what did not fit has left nothing behind");
        tier.give_back_ranks(adapter);
        assert_eq!(tier.held_bytes(), 0);
    }
}
